"""``python -m mhmoe logs FAMILY``: the logs of a family's finished runs, as one file for pages."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file

from mhmoe.analysis import runlog
from mhmoe.models import checkpoint
from mhmoe.training import loop, recipe, ship
from mhmoe.training.loop import TrainingError
from mhmoe.training.recipe import Recipe


def collect(family: str, runs: Path) -> dict[str, runlog.Run]:
    """Facts and thinned log of every finished run of the family's members in a folder, by the name
    of the run's own folder. Raises UnknownRecipe, TrainingError."""
    path = recipe.FAMILIES / f"{family}.toml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in recipe.FAMILIES.glob("*.toml")))
        raise recipe.UnknownRecipe(f"Unknown family {family!r}; known are {known}.")
    members = recipe.members(path)
    found = {}
    for folder, trained, state in loop.finished(runs):
        if trained.name not in members:
            continue
        if trained != Recipe.load(trained.name, trained.seed):
            raise TrainingError(
                f"The run in {folder} belongs to another version of the recipe {trained.name}; "
                "move it away."
            )
        found[folder.name] = _log(folder, trained, state)
    if not found:
        raise TrainingError(f"There is no finished run of the family {family} in {runs}.")
    return found


def write(family: str, runs: Path, path: Path | None = None) -> tuple[Path, list[str]]:
    """Collect and save, by default where pages look for it: the file, and the names of the runs.
    Raises UnknownRecipe, TrainingError."""
    found = collect(family, runs)
    path = path or checkpoint.runs() / f"{family}.safetensors"
    try:
        runlog.save(path, found)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path} could not be written ({error}).") from None
    return path, sorted(found)


def _log(folder: Path, trained: Recipe, state: dict) -> runlog.Run:
    try:
        whole = load_file(folder / "last" / "log.safetensors")
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"The log in {folder} cannot be read ({error}).") from None
    every, arrays = runlog.thinned(whole)
    return ship.of_run(trained, state) | {"every": every}, arrays
