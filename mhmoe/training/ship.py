"""From a finished run to the files that are shipped: a checkpoint with its card, or a replay.

A replay (``replay = true`` in the recipe) keeps no weights but what every step routed, as
:mod:`mhmoe.analysis.runlog` has it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from mhmoe.analysis import runlog
from mhmoe.layers import losses
from mhmoe.models import checkpoint
from mhmoe.models.device import describe
from mhmoe.models.transformer import Run, Transformer
from mhmoe.training.loop import Job, TrainingError
from mhmoe.training.recipe import Recipe
from mhmoe.training.tasks import TASKS

LICENCE = "CC0 1.0"


def target(recipe: Recipe) -> Path | None:
    """The file that a finished run of the recipe becomes; None for one that is not shipped."""
    if recipe.replay:
        return checkpoint.runs() / f"{recipe.name}.safetensors"
    if recipe.ship:
        return checkpoint.folder() / f"{recipe.name}.safetensors"
    return None


def ship(job: Job) -> Path:
    """Write what the finished run becomes. Raises TrainingError with the reason if it cannot."""
    recipe = job.recipe
    path = target(recipe)
    if path is None:
        raise TrainingError(
            f"The recipe {recipe.name} with seed {recipe.seed} is neither a replay nor shipped; "
            "its log and weights stay with the run."
        )
    if job.step < recipe.steps:
        raise TrainingError(
            f"The run of {recipe.name} stands at step {job.step} of "
            f"{recipe.steps}; only a finished one is shipped."
        )
    try:
        if recipe.replay:
            _save_replay(job, path)
        else:
            _save_model(job)
    except (OSError, SafetensorError) as error:  # a full disk may raise either
        raise TrainingError(
            f"{path.name} could not be written to {path.parent} ({error}); the "
            f"run itself is kept in {job.folder}."
        ) from None
    return path


def _save_model(job: Job) -> None:
    """The card's numbers are those of the float16 file, read back as a visitor reads it."""
    name = job.recipe.name
    snapshots = {step: job.snapshot(step) for step in job.recipe.snapshots}
    checkpoint.save(job.model, name, facts(job), snapshots)
    model, _ = checkpoint.load(name)
    checkpoint.save(model, name, facts(job) | evaluate(model, job), snapshots)


def _save_replay(job: Job, path: Path) -> None:
    arrays = {name: values.numpy() for name, values in job.log().items()}
    runlog.save(path, {"": (facts(job), arrays)})


def facts(job: Job) -> dict:
    """What is known of the run without measuring anything."""
    recipe = job.recipe
    device = torch.device(job.device)
    known = job.task.facts | of_run(recipe, job.state()) | {"reproduce": command(recipe, device)}
    known["training"] |= {"device": describe(device), "torch": torch.__version__}
    return known


def of_run(recipe: Recipe, state: dict) -> dict:
    """What the saved state of a run says of it."""
    tokens, seconds = state["step"] * recipe.batch * recipe.model.length, state["seconds"]
    return {
        "recipe": recipe.to_dict(),
        "seed": recipe.seed,
        "data": list(TASKS[recipe.data].sources),
        "licence": LICENCE,
        "training": {
            "steps": state["step"],
            "tokens": tokens,
            "seconds": round(seconds, 1),
            "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
        },
        "validation": state["validation"],
    }


def command(recipe: Recipe, device: torch.device) -> str:
    """The command that makes the same file again; TEXT stands for the reader's own folder."""
    where = " --text-dir TEXT" if recipe.data == "text" else ""
    return (
        f"python -m mhmoe train {recipe.name} --seed {recipe.seed}{where} "
        f"--device {device.type} --fresh"
    )


# ---------------------------------------------------------------------------- measuring


def evaluate(model: Transformer, job: Job) -> dict:
    """``metrics`` on held-out data, and the ``load`` of each MoE layer in the same passes."""
    counter = _Counter(model)
    numbers = job.task.evaluate(model, counter)
    return {"metrics": numbers, "load": counter.loads()}


class _Counter:
    """Adds up the demand of every expert over the passes of an evaluation."""

    def __init__(self, model: Transformer):
        self.layers = model.moe_layers
        self.totals: list[Tensor | int] = [0] * len(self.layers)

    def __call__(self, run: Run) -> None:
        for i, (routing, (_, layer)) in enumerate(zip(run.routing, self.layers, strict=True)):
            self.totals[i] += losses.sums(routing.as_one(), layer.config).demand[0].cpu()

    def loads(self) -> list[dict]:
        """Per MoE layer: its block, largest and smallest share of demand, CV of demand."""
        rows = []
        for (block, _), total in zip(self.layers, self.totals, strict=True):
            share = np.asarray(total) / int(total.sum())
            rows.append(
                {
                    "layer": block,
                    "max_share": float(share.max()),
                    "min_share": float(share.min()),
                    "cv": float(share.std() / share.mean()),
                }
            )
        return rows
