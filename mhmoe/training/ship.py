"""From a finished run to the files that are shipped: a checkpoint with its card, or a replay.

A replay (``replay = true`` in the recipe) keeps no weights but what every step routed: one
safetensors file with float16 arrays, and its facts as JSON under ``mhmoe.run`` in the header:

    loss                [steps]             of each step's batch, nats per token
    demand, importance  [steps, layers, E]  shares of the layer's total
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mhmoe.layers import losses
from mhmoe.models import checkpoint, metrics
from mhmoe.models.config import SHIPPED
from mhmoe.models.device import describe
from mhmoe.models.transformer import Run, Transformer
from mhmoe.training.loop import Job, TrainingError
from mhmoe.training.recipe import Recipe
from mhmoe.training.text import LANGUAGES

WINDOWS = 32  #: held-out windows of each language
PICTURES = 96  #: held-out pictures
CLASSIFIED = 900  #: held-out scenes whose class is asked for

DATA = {
    "text": [
        {
            "what": "sentences collected for the Common Voice project, in "
            f"{len(LANGUAGES)} languages ({', '.join(LANGUAGES)})",
            "licence": "CC0 1.0",
        }
    ],
    "image": [
        {"what": "generated scenes", "licence": "CC0 1.0"},
        {"what": "photographs carried by scikit-image", "licence": "CC0 1.0 or public domain"},
    ],
}
LICENCE = "CC0 1.0"


def target(recipe: Recipe) -> Path | None:
    """The file that a finished run of the recipe becomes; None for a shape without a name."""
    if recipe.replay:
        return checkpoint.runs() / f"{recipe.name}.safetensors"
    if SHIPPED.get(recipe.name) == recipe.model:
        return checkpoint.folder() / f"{recipe.name}.safetensors"
    return None


def ship(job: Job) -> Path:
    """Write what the finished run becomes. Raises TrainingError with the reason if it cannot."""
    recipe = job.recipe
    path = target(recipe)
    if path is None:
        raise TrainingError(
            f"The recipe {recipe.name} is no replay, and its shape is not in the "
            f"table of shipped models ({', '.join(SHIPPED)})."
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
    checkpoint.save(job.model, name, facts(job))
    model, _ = checkpoint.load(name)
    checkpoint.save(model, name, facts(job) | evaluate(model, job))


def _save_replay(job: Job, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: values.half().contiguous() for name, values in job.log().items()}
    save_file(arrays, str(path), metadata={"mhmoe.run": json.dumps(facts(job))})


def facts(job: Job) -> dict:
    """What is known of the run without measuring anything."""
    recipe = job.recipe
    tokens = job.step * recipe.batch * recipe.model.context
    named = {"classes": list(job.scenes.CLASSES)} if recipe.model.classes else {}
    return named | {
        "recipe": recipe.to_dict(),
        "seed": recipe.seed,
        "data": DATA[recipe.data],
        "licence": LICENCE,
        "training": {
            "steps": job.step,
            "tokens": tokens,
            "seconds": round(job.seconds, 1),
            "tokens_per_second": round(tokens / job.seconds, 1) if job.seconds else None,
            "device": describe(torch.device(job.device)),
            "torch": torch.__version__,
        },
        "validation": job.validation,
        "reproduce": command(recipe, torch.device(job.device)),
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
    if job.recipe.data == "text":
        numbers = _text(model, job, counter)
    else:
        numbers = metrics.image_metrics(
            model, job.scenes.validation(PICTURES), job.recipe.mask_ratio, watch=counter
        )
        if model.config.classes:
            classified = job.scenes.classified_validation(CLASSIFIED)
            numbers |= metrics.class_metrics(model, *classified, counter)
    return {"metrics": numbers, "load": counter.loads()}


def _text(model: Transformer, job: Job, counter: _Counter) -> dict:
    """Per language, and their sums. The windows begin with those of the validation curve."""
    windows = job.held_out_text.batch(0, 0, WINDOWS * len(LANGUAGES))
    languages = {
        language: metrics.text_metrics(model, windows[i :: len(LANGUAGES)], job.sizes, counter)
        for i, language in enumerate(LANGUAGES)
    }
    tokens = sum(m["tokens"] for m in languages.values())
    size = sum(m["bytes"] for m in languages.values())
    bits = sum(m["bits_per_byte"] * m["bytes"] for m in languages.values())
    return {
        **metrics.per_byte(bits * np.log(2), tokens, size),
        "windows": len(windows),
        "languages": languages,
    }


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
