"""Image models over generated scenes that nobody trained on, and over photographs with boundaries:
what ``python -m mhmoe measure`` does with them.

The scenes are always the same (``scenes.classified_scenes``). Quality is asked of ``SCENES`` of
them, probes learn and are asked on the first ``PROBED``, routing is measured on the first
``ROUTED``. This module runs the models; what their routing amounts to is computed in
``mhmoe.analysis``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mhmoe.analysis import complexity, nulls, report, report_pictures
from mhmoe.analysis.attributes import Objects
from mhmoe.layers import TRAINED, WhatIf
from mhmoe.models import images, metrics
from mhmoe.models.config import ModelConfig
from mhmoe.models.transformer import Run, Transformer
from mhmoe.trace import SOFT, TOKEN_CHOICE, LayerTrace
from mhmoe.training import probes, scenes
from mhmoe.training.capacity import capacity_curve, limited, priority_gain
from mhmoe.training.measure import (
    MeasureError,
    Routes,
    Subject,
    affordable,
    facts,
    moments,
    of_routing,
    other_seeds,
    over_time,
    removed,
)

# Multiples of the number of classes, so that every class is there as often.
SCENES = 900  #: for quality, as many as on a model's card
ROUTED = 120  #: of these, for routing
PROBED = 480  #: for probes, which learn from the objects of one half
LIMITED = 240  #: for capacity, which is 25 runs
FEW = 48  #: where a model runs many times
UNTRAINED = range(1000, 1005)  #: seeds, which no recipe has, of models that learned nothing


# ------------------------------------------------------------------------ scenes


@dataclass(frozen=True, eq=False)
class Pictures:
    """N scenes, of which classes go round."""

    scenes: tuple[scenes.Scene, ...]

    @property
    def pixels(self) -> np.ndarray:
        """uint8 [N, side, side, 3]"""
        return np.stack([scene.pixels for scene in self.scenes])

    @property
    def classes(self) -> np.ndarray:
        return np.arange(len(self.scenes)) % len(scenes.CLASSES)

    def part(self, count: int) -> Pictures:
        return Pictures(self.scenes[:count])

    @property
    def group(self) -> np.ndarray:
        """[N] all are one group: a few of each class, drawn again within it, vary too little."""
        return np.zeros(len(self.scenes), int)

    @property
    def draws(self) -> np.ndarray:
        """[draws, N] how often each is drawn in a bootstrap."""
        return nulls.resampled(self.group, report.BOOTSTRAP, report.SEED)

    def objects(self, patch: int) -> Objects:
        owner, items = scenes.patch_items(list(self.scenes), patch)
        middle = scenes.SIDE / 2
        quadrant = [2 * (item.centre[1] >= middle) + (item.centre[0] >= middle) for item in items]
        return Objects(
            owner=owner,
            picture=np.arange(len(self.scenes)).repeat([len(s.items) for s in self.scenes]),
            label={
                "shape": np.array([scenes.SHAPES.index(item.shape) for item in items]),
                "texture": np.array([scenes.TEXTURES.index(item.texture) for item in items]),
                "colour": np.array([scenes.CLASSES.index(item.colour) for item in items]),
                "position": np.array(quadrant, int),
            },
            names={
                "shape": scenes.SHAPES,
                "texture": scenes.TEXTURES,
                "colour": scenes.CLASSES,
                "position": ("upper left", "upper right", "lower left", "lower right"),
            },
        )

    def facts(self, config: ModelConfig) -> dict:
        """``scenes`` for quality; ``tokens`` are the patches of those that are ``routed``, on
        which findings about routing rest."""
        routed = len(self.part(ROUTED).scenes)
        return {
            "scenes": len(self.scenes),
            "probed": len(self.part(PROBED).scenes),
            "routed": routed,
            "tokens": routed * config.context,
            "sha256": hashlib.sha256(self.pixels.tobytes()).hexdigest(),
        }


def drawn(config: ModelConfig) -> Pictures:
    """The scenes for a model. Raises MeasureError for one that sees pictures of another size."""
    check_side(config)
    return _drawn(SCENES)


def check_side(config: ModelConfig) -> None:
    """Raises MeasureError for a model that sees pictures of another size."""
    if (side := config.grid * config.patch) != scenes.SIDE:
        raise MeasureError(
            f"The scenes have {scenes.SIDE} pixels a side, but the model sees {side}; measure "
            f"models of {scenes.SIDE} pixels."
        )


@lru_cache(maxsize=1)
def _drawn(count: int) -> Pictures:
    return Pictures(tuple(scenes.classified_scenes(count)))


# ------------------------------------------------------------------------ photographs


@dataclass(frozen=True, eq=False)
class Photographs:
    """pixels uint8 [N, side, side, 3]; boundary [N, grid * grid] the mean over each patch of how
    many people marked a boundary there, 0..1."""

    pixels: np.ndarray
    boundary: np.ndarray


def photographs(folder: Path, config: ModelConfig) -> Photographs:
    """``PART/NAME.jpg`` with ``PART_boundaries/NAME.png`` in ``folder``, of any PART: the centred
    square of both. Raises MeasureError, ImageProblem."""
    pixels, boundary = [], []
    grid = config.grid
    for path in sorted(folder.glob("*_boundaries/*.png")):
        photo = path.parent.with_name(path.parent.name.removesuffix("_boundaries"))
        try:
            image = images.decode((photo / f"{path.stem}.jpg").read_bytes(), grid * config.patch)
            with Image.open(path) as marked:
                grey = marked.convert("L")
        except OSError as error:
            raise MeasureError(f"{path} and its photograph cannot be read: {error}") from None
        if grey.size != image.size:
            raise MeasureError(
                f"{path} has {grey.size[0]} x {grey.size[1]} pixels, its photograph "
                f"{image.size[0]} x {image.size[1]}; make them equal."
            )
        square = grey.crop(image.crop)
        pixels.append(image.pixels)
        boundary.append(np.asarray(square.resize((grid, grid), Image.Resampling.BOX)).ravel() / 255)
    if not pixels:
        raise MeasureError(
            f"{folder} has no PART_boundaries/NAME.png; give the folder with --boundaries, or "
            "leave it out."
        )
    return Photographs(np.stack(pixels), np.stack(boundary))


# ------------------------------------------------------------------------ one model


def measure(
    subject: Subject,
    pictures: Pictures,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda sentence: None,
    photos: Photographs | None = None,
) -> dict:
    """Everything about one model; ``photos`` for human boundaries."""
    model = subject.model(device=device)
    say(f"{subject.name}: {len(pictures.scenes)} generated scenes")
    entry = {
        "command": subject.command,
        "facts": facts(subject, model),
        "pictures": pictures.facts(model.config),
        "quality": quality(model, pictures),
    }
    probed = pictures.part(PROBED)
    say(f"{subject.name}: what a linear probe finds in {len(probed.scenes)} scenes")
    entry["probes"] = probes.of_pictures(model, subject.facts["seed"] or 0, probed)
    moe = model.config.moe
    if moe is None:
        return entry
    if moe.assignment == TOKEN_CHOICE:
        entry |= of_choices(subject, model, pictures, device, say)
        if photos and moe.heads > 1:
            say(f"{subject.name}: {len(photos.pixels)} photographs with human boundaries")
            entry["photographs"] = of_photographs(model, photos)
            entry["command"] += " --boundaries PHOTOS"
    elif moe.assignment == SOFT:
        entry["slots"] = slots(model, pictures.part(FEW))
    say(f"{subject.name}: every expert removed")
    entry["removal"] = removal(model, pictures)
    return entry


def of_choices(
    subject: Subject,
    model: Transformer,
    pictures: Pictures,
    device: torch.device | str,
    say: Callable[[str], None],
) -> dict:
    """Of a model whose patches choose their experts."""
    part, few = pictures.part(ROUTED), pictures.part(FEW)
    opened = report.opened(routed(model, part.pixels), part.group)
    entry = of_routing(opened) | of_content(opened, part, model.config.patch)
    say(f"{subject.name}: {len(UNTRAINED)} models that have learned nothing")
    entry["untrained"] = [
        report_pictures.in_short(
            of_content(report.opened(routed(one, part.pixels), part.group), part, one.config.patch)
        )
        for one in untrained(model)
    ]
    if subject.snapshots:
        say(f"{subject.name}: {len(subject.snapshots)} snapshots")
        entry["over_time"] = of_snapshots(subject, few, device)
    if subject.seeds:
        say(f"{subject.name}: against {len(subject.seeds)} other seeds")
        entry["other_seeds"] = other_seeds(
            subject, lambda one: routed(one, few.pixels), few.group, device
        )
    if model.config.classes:
        say(f"{subject.name}: capacity by who is served first")
        entry["capacity"] = capacity(model, pictures.part(LIMITED))
    return entry


def of_content(opened: Sequence[report.Routed], part: Pictures, patch: int) -> dict:
    """Routing against what the scenes show."""
    objects = part.objects(patch)
    entry = {"attributes": [report_pictures.of_attributes(r, objects) for r in opened]}
    if opened[0].layer.heads > 1:
        texture = complexity.local_entropy(part.pixels, patch)
        entry["complexity"] = [report_pictures.of_complexity(r, texture) for r in opened]
    return entry


def untrained(model: Transformer) -> Iterator[Transformer]:
    """Models of the same shape at the start of a training: any router answers to what it sees, also
    one that has learned nothing."""
    device = next(model.parameters()).device
    for seed in UNTRAINED:
        yield Transformer(model.config, seed).to(device).eval()


def of_snapshots(subject: Subject, few: Pictures, device: torch.device | str = "cpu") -> dict:
    """``over_time``; of several heads also how the correlation with texture has grown in each layer
    since the first snapshot."""
    layers = moments(subject, lambda one: routed(one, few.pixels), device)
    found = over_time(subject, layers, few.group)
    if subject.config.heads > 1:
        texture = complexity.local_entropy(few.pixels, subject.config.patch)
        found["texture"] = [
            report_pictures.grown(first, r, texture)
            for first, r in zip(layers[0], report.opened(layers[-1], few.group), strict=True)
        ]
    return found


def routed(model: Transformer, pixels: np.ndarray) -> list[LayerTrace]:
    """Of every MoE layer one trace of all whole pictures end to end."""
    routes = Routes(model)
    metrics.whole_pictures(model, pixels, routes)
    return routes.layers()


def quality(model: Transformer, pictures: Pictures) -> dict:
    """Error of hidden patches over that of the mean visible colour, and the share of whole pictures
    that get their class; those of every picture are kept, so that models can be compared picture by
    picture."""
    found = hidden_patches(*metrics.picture_errors(model, pictures.pixels), pictures.draws)
    if model.config.classes:
        correct = metrics.class_guesses(model, pictures.pixels) == pictures.classes
        found |= {
            "accuracy": float(correct.mean()),
            "accuracy_interval": nulls.binomial(int(correct.sum()), len(correct)),
            "chance": 1 / model.config.classes,
            "picture_correct": correct.astype(int).tolist(),
        }
    return found


def hidden_patches(error: np.ndarray, baseline: np.ndarray, draws: np.ndarray) -> dict:
    """Of ``metrics.picture_errors`` [N] and draws [draws, N] of the pictures."""
    return {
        "relative_error": float(error.sum() / baseline.sum()),
        "interval": nulls.interval(draws @ error / (draws @ baseline)),
        "masked_error": float(error.mean()),
        "baseline_error": float(baseline.mean()),
        "picture_error": error.tolist(),
        "picture_baseline": baseline.tolist(),
    }


def of_photographs(model: Transformer, photos: Photographs) -> dict:
    """Experts per patch against human boundaries, and against local entropy as in the scenes."""
    maps = {
        "boundary": photos.boundary,
        "entropy": complexity.local_entropy(photos.pixels, model.config.patch),
    }

    def of(one: Transformer) -> dict[str, list[dict]]:
        opened = report.opened(routed(one, photos.pixels), np.zeros(len(photos.pixels), int))
        return {
            name: [report_pictures.of_complexity(r, values) for r in opened]
            for name, values in maps.items()
        }

    start = [of(one) for one in untrained(model)]
    return {
        "photographs": len(photos.pixels),
        **of(model),
        "untrained": [
            {name: report_pictures.correlation(layers) for name, layers in one.items()}
            for one in start
        ],
    }


def capacity(model: Transformer, pictures: Pictures) -> dict:
    """Accuracy and error with few places, by who is served first."""
    runs, draws = limited(model, pictures.pixels, pictures.classes), pictures.draws
    return {
        "scenes": len(pictures.scenes),
        "rows": capacity_curve(runs, draws),
        "gain": {over: priority_gain(runs, over, draws) for over in ("position", "random")},
    }


def removal(model: Transformer, pictures: Pictures) -> dict:
    """Relative error more, and accuracy less, without each expert of each layer."""
    part = pictures.part(affordable(model, FEW))
    pixels, draws = part.pixels, part.draws

    def run(what_if: WhatIf = TRAINED, block: int | None = None) -> Iterator[np.ndarray]:
        yield from metrics.picture_errors(model, pixels, what_if=what_if, only_block=block)
        if model.config.classes:
            guesses = metrics.class_guesses(model, pixels, what_if=what_if, only_block=block)
            yield (guesses == part.classes).astype(float)

    plain, baseline, *right = run()

    def rise(what_if: WhatIf, block: int) -> dict:
        error, _, *still_right = run(what_if, block)
        more = error - plain
        row = {
            "rise": float(more.sum() / baseline.sum()),
            "interval": nulls.interval(draws @ more / (draws @ baseline)),
        }
        for was, remains in zip(right, still_right, strict=True):
            row["accuracy_lost"] = float((was - remains).mean())
            row["accuracy_interval"] = nulls.mean_interval(was - remains, draws)
        return row

    return {"scenes": len(pixels), "layers": removed(model, rise)}


def slots(model: Transformer, pictures: Pictures) -> list[dict]:
    """Effective patches per slot of every Soft MoE layer, beside untrained models of that shape."""
    mine = _effective(model, pictures.pixels)
    start = [_effective(one, pictures.pixels) for one in untrained(model)]
    return [
        report_pictures.of_slots(
            layer, [one[i].mean() for one in start], model.config.context * model.config.heads
        )
        for i, layer in enumerate(mine)
    ]


def _effective(model: Transformer, pixels: np.ndarray) -> list[np.ndarray]:
    """Per layer [N, E*P] effective patches of each slot in each picture."""
    found: list[list[np.ndarray]] = [[] for _ in model.moe_layers]

    def watch(run: Run) -> None:
        for those, one in zip(found, run.routing, strict=True):
            those.append(report_pictures.effective_patches(one.dispatch.cpu().numpy()))

    metrics.whole_pictures(model, pixels, watch)
    return [np.concatenate(those) for those in found]
