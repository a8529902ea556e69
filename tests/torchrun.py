"""What ``test_processes.py`` runs in processes of their own, mostly under torchrun.

runs FOLDER TEXT  all of RECIPES, then runs that must stop
whole ARGUMENTS   the command line, where RECIPES are known
step ARGUMENTS    the same; the last process is killed within step BROKEN
save ARGUMENTS    the same; the process is killed while it writes what was reached at step BROKEN
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from safetensors import SafetensorError
from tiny import CLASSES, PAIRS, SPARSE, TINY

from mhmoe import cli
from mhmoe.layers import MoEConfig
from mhmoe.models.config import ModelConfig
from mhmoe.training import loop, tasks
from mhmoe.training.processes import TrainingError, World, joined
from mhmoe.training.recipe import Recipe

BATCH, STEPS, BROKEN = 6, 4, 3


def text(**switches) -> ModelConfig:
    moe = MoEConfig(**dict(d_model=16, d_ff=32, experts=4, activation="relu") | switches)
    return replace(TINY["text-e8"], moe=moe)


def tiny(name: str, model: ModelConfig, **changes) -> Recipe:
    basis = dict(steps=STEPS, batch=BATCH, learning_rate=1e-2, seed=1, warmup=2)
    return Recipe(name=name, model=model, data=model.kind, **basis | changes)


_VISION = replace(SPARSE, noise="fixed", importance_of="probs", load_threshold="kth")
#: Weights of the losses are large, so that a wrong gradient of theirs shows.
RECIPES = {
    recipe.name: recipe
    for recipe in (
        tiny("switch", text(router="switch"), balance=1.0, z=0.1),
        tiny("mhmoe", TINY["text-e8-h4"], balance=1.0),
        tiny("noisy", text(router="shazeer", top_k=2), importance=1.0, smooth_load=1.0),
        tiny("x-moe", text(router="x-moe", top_k=2), balance=1.0),
        tiny("gshard", text(router="gshard"), balance=1.0),
        tiny("loss-free", text(router="deepseek-v3", top_k=2, bias_update=0.01), balance=1.0),
        tiny("dense", TINY["text-ffn"]),
        tiny("encoder", replace(text(), causal=False), balance=1.0, mask_ratio=0.3),
        tiny("pairs", PAIRS, balance=1.0),
        tiny(
            "pictures",
            replace(CLASSES, moe=_VISION),
            importance=1.0,
            smooth_load=1.0,
            snapshots=(2,),
        ),
    )
}


def often() -> None:
    """Save, report and validate a small run as often as it has steps."""
    loop.SAVE_EVERY, loop.REPORT_EVERY, tasks.VALIDATION, tasks.CLASSIFIED = 2, 2, 6, 2


def runs(folder: Path, text_dir: Path) -> None:
    with joined() as world:
        for recipe in RECIPES.values():
            loop.Job(recipe, folder, text_dir=text_dir, world=world).run()
        stopped = {"disagreement": lambda: world.same("their rank", world.rank)}
        for how in (no_number, no_room):
            recipe = replace(RECIPES["mhmoe"], name=how.__name__)
            job = loop.Job(recipe, folder, text_dir=text_dir, world=world)
            stopped[how.__name__] = partial(how, job, world)
        for name, run in stopped.items():
            try:
                run()
            except TrainingError as error:
                said = f"{type(error).__name__}: {error}"
                (folder / f"{name}.{world.rank}").write_text(said)


def no_number(job: loop.Job, world: World) -> None:
    """The model of the last process alone breaks."""
    if world.rank == world.size - 1:
        job.model.norm.weight.data.fill_(float("nan"))
    job.run()


def no_room(job: loop.Job, world: World) -> None:
    """The first process alone cannot write."""

    def full(tensors, path):
        raise SafetensorError("No space left on device")

    if world.rank == 0:
        loop.save_file = full
    job.run()


def die_in_step() -> None:
    real = loop.Job._loss

    def loss(job):
        if job.step == BROKEN and job.world.rank == job.world.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(job)

    loop.Job._loss = loss


def die_in_save() -> None:
    real = loop.save_file

    def save(tensors, path):
        if len(tensors.get("loss", ())) > BROKEN:  # the log, which follows the weights
            os.kill(os.getpid(), signal.SIGKILL)
        real(tensors, path)

    loop.save_file = save


if __name__ == "__main__":
    often()
    what, *arguments = sys.argv[1:]
    if what == "runs":
        runs(*map(Path, arguments))
    else:
        Recipe.load = lambda name, seed: RECIPES[name]
        {"whole": lambda: None, "step": die_in_step, "save": die_in_save}[what]()
        sys.exit(cli.main(arguments))
