"""Generated scenes with captions that say what is to be seen, for the models of image and text.

    paired_batch(seed, step, size)   pictures uint8 [size, 128, 128, 3] and captions [size]
    paired_validation(size)          the same, always the same pairs

A caption names every object of which something is to be seen, from front to back, with its size,
colour, texture, shape and place, and at last the background: "A large red striped star in the
middle. A small blue disc at the top left. Hills." Deterministic in the way of ``scenes``.
"""

from __future__ import annotations

import numpy as np

from mhmoe.training import scenes
from mhmoe.training.scenes import ALL, SIDE, Item, Scene

TRAIN_ROOT, VALIDATION_ROOT = 20_244, 20_245  # those of scenes end at 20_243
SEEN = 24  #: pixels of an object in view, fewer are not spoken of

TEXTURES = {
    "flat": "plain",
    "stripes": "striped",
    "checks": "checked",
    "dots": "dotted",
    "noise": "rough",
    "grain": "wooden",
    "gradient": "shaded",
}
BACKGROUNDS = {
    "flat": "A plain wall.",
    "gradient": "A wall in half light.",
    "glow": "A glow.",
    "noise": "A rough wall.",
    "pattern": "A wall with a pattern.",
    "floor": "A floor under the sky.",
    "hills": "Hills under the sky.",
}
PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)


def paired_batch(
    seed: int, step: int, size: int, rows: slice = ALL
) -> tuple[np.ndarray, list[str]]:
    """Or those ``rows`` of it."""
    return _pairs((TRAIN_ROOT, seed, step), range(size)[rows])


def paired_validation(size: int) -> tuple[np.ndarray, list[str]]:
    return _pairs((VALIDATION_ROOT,), range(size))


def _pairs(root: tuple[int, ...], numbers: range) -> tuple[np.ndarray, list[str]]:
    found = [scenes.labelled_scene(np.random.default_rng((*root, i))) for i in numbers]
    return np.stack([scene.pixels for scene in found]), [caption(scene) for scene in found]


def caption(scene: Scene) -> str:
    in_view = np.bincount(scene.owner[scene.owner >= 0], minlength=len(scene.items))
    named = [
        sentence(item) for item, pixels in zip(scene.items, in_view, strict=True) if pixels >= SEEN
    ]
    return " ".join([*named[::-1], BACKGROUNDS[scene.background]])


def sentence(item: Item) -> str:
    size = "small " if item.radius < 14 else "large " if item.radius > 26 else ""
    column, row = (min(2, max(0, int(3 * at / SIDE))) for at in item.centre)
    first = f"{size}{item.colour} {TEXTURES[item.texture]} {item.shape} {PLACES[row][column]}."
    return f"An {first}" if first[0] in "aeiou" else f"A {first}"
