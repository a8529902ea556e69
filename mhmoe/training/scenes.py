"""Pictures to train and validate the image encoder on: generated scenes, and crops of photographs.

Every picture is uint8 ``[128, 128, 3]`` RGB (``SIDE`` = 128), which the encoder cuts into
16 x 16 patches of 8 x 8 pixels.

    batch(seed, step, size)       uint8 [size, 128, 128, 3]   training, half scenes, half crops
    validation(size)              uint8 [size, 128, 128, 3]   always the same pictures
    scene(rng)                    uint8 [128, 128, 3]         one generated scene
    labelled_scene(rng)           Scene                       the same, with what is in it
    classified_batch(...)         pictures and their classes  training of models with a class
    classified_validation(size)   pictures and their classes  scenes alone, always the same
    photo_crops(rng, count, ...)  uint8 [count, 128, 128, 3]  crops of photographs

**Deterministic.** Picture ``i`` of a batch depends on ``(seed, step, i)`` only, picture ``i`` of
the validation set on ``i`` only; all streams come from different roots of numpy's SeedSequence,
so they share no state. The pictures are the same for one version of numpy and Pillow.

**The class** of a scene is the colour of its subject, the largest object in view, as an index into
``CLASSES`` (twelve, equally often); a photograph has none, -1. The subject lies in front, near the
middle, and is 52 to 92 pixels long. Which patches are its own, amid background, clutter and other
objects of other colours, no single patch tells. (Its shape would be the better question, but after
3,200 scenes a small model was at chance in it, and at 39 % of the colours.)

**Validation shares no photograph's pixel with training.** The photographs marked ``held_out`` are
never trained on. Of each other one, a strip along one side (30%) is kept for validation, and
training crops never reach into it.

**Licences.** Weights trained on these pictures are shipped, so only photographs that
scikit-image carries inside its installed package *and* that its documentation (the docstrings of
``skimage.data``, version 0.26) states to be CC0 or released into the public domain are used:

    file                   licence        by, and where it comes from
    astronaut.png          public domain  NASA, Great Images database
    brick.png              CC0            CC0Textures, Bricks25
    camera.png             CC0            Lav Varshney                        (held out)
    cell.png               CC0            Paul Mueller et al., 10.1364/OE.26.010729
    chelsea.png            CC0            Stefan van der Walt
    clock_motion.png       public domain  Stefan van der Walt
    coffee.png             CC0            Rachel Michetti, Pikolo Espresso Bar
    grass.png              CC0            linolafett, DeviantArt, Grass-01
    gravel.png             CC0            CC0Textures, Gravel04
    hubble_deep_field.jpg  public domain  NASA, HubbleSite release 2012/37
    retina.jpg             CC0            Mikael Haggstrom, Wikimedia Commons
    text.png               public domain  Wikipedia, File:Corner.png

Left out on purpose, though they are carried too: coins, ihc ("no known copyright restrictions",
which is not a dedication), moon, page, motorcycle, lfw_subset, logo (no licence stated), rocket
(stated as public domain, but its source page said CC BY-NC; scikit-image issue 5095), horse
(CC0, but a silhouette), microaneurysms (CC0, smaller than one picture).

**Errors.** :class:`PhotographsMissing` (an ``OSError``) says which file is absent or changed and
what to install; it is raised on the first use of a photograph, never on import, so that
generated scenes work without scikit-image.

numpy and Pillow only; of scikit-image only the picture files are read.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 128  #: pixels, side of a picture
SCALE = 2  #: scenes are painted this many times larger, then reduced
CANVAS = SIDE * SCALE  #: pixels, side of the canvas that is painted on
SMALLEST_CROP = 96  #: pixels of a photograph, side
HELD_OUT_SHARE = 0.3  #: of a photograph's width or height, kept for validation

TRAIN_ROOT, VALIDATION_ROOT = 20_240, 20_241
TRAIN_CLASSES_ROOT, VALIDATION_CLASSES_ROOT = 20_242, 20_243

SUBJECT = (26, 46)  #: pixels, radius of the object that gives a scene its class

ALL = slice(None)  #: rows of a batch

SHAPES = ("disc", "ring", "square", "triangle", "star", "cross", "hexagon", "crescent", "bar")
TEXTURES = ("flat", "stripes", "checks", "dots", "noise", "grain", "gradient")
BACKGROUNDS = ("flat", "gradient", "glow", "noise", "pattern", "floor", "hills")
COLOURS = {
    "red": (200, 48, 44),
    "orange": (228, 128, 36),
    "yellow": (236, 202, 62),
    "green": (70, 148, 66),
    "teal": (42, 142, 138),
    "blue": (50, 92, 180),
    "purple": (122, 72, 158),
    "pink": (222, 126, 160),
    "brown": (124, 82, 50),
    "white": (236, 234, 228),
    "grey": (134, 134, 136),
    "black": (34, 33, 38),
}
CLASSES = tuple(COLOURS)  #: of a scene: the colour of its subject


class PhotographsMissing(OSError):
    """A photograph of scikit-image is absent or not the file that the licence table means."""


@dataclass(frozen=True)
class Item:
    """One object of a scene. ``centre`` (x, y) and ``radius`` are in pixels of the picture."""

    shape: str
    texture: str
    colour: str
    centre: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Scene:
    """A generated picture and what is in it.

    pixels  uint8 [128, 128, 3]
    items   the objects, those further back first
    owner   int8 [128, 128]: the index into ``items`` of what is seen at a pixel, -1 background
    """

    pixels: np.ndarray
    items: tuple[Item, ...]
    owner: np.ndarray
    background: str


@dataclass(frozen=True)
class Photograph:
    """A photograph carried by scikit-image.

    weight    how often it is drawn, relative to the others
    strip     the side of which a strip is kept for validation
    held_out  True: the whole photograph is kept for validation
    """

    file: str
    licence: str
    author: str
    sha256: str
    weight: float = 1.0
    strip: str = "right"
    held_out: bool = False


PHOTOGRAPHS = (
    Photograph(
        "astronaut.png",
        "public domain",
        "NASA",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        3,
        "bottom",
    ),
    Photograph(
        "brick.png",
        "CC0",
        "CC0Textures",
        "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
    ),
    Photograph(
        "camera.png",
        "CC0",
        "Lav Varshney",
        "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
        4,
        held_out=True,
    ),
    Photograph(
        "cell.png",
        "CC0",
        "Paul Mueller et al.",
        "8d23a7fb81f7cc877cd09f330357fc7f595651306e84e17252f6e0a1b3f61515",
        0.5,
    ),
    Photograph(
        "chelsea.png",
        "CC0",
        "Stefan van der Walt",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        3,
        "left",
    ),
    Photograph(
        "clock_motion.png",
        "public domain",
        "Stefan van der Walt",
        "f029226b28b642e80113d86622e9b215ee067a0966feaf5e60604a1e05733955",
        0.5,
    ),
    Photograph(
        "coffee.png",
        "CC0",
        "Rachel Michetti",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        3,
    ),
    Photograph(
        "grass.png",
        "CC0",
        "linolafett",
        "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
    ),
    Photograph(
        "gravel.png",
        "CC0",
        "CC0Textures",
        "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
    ),
    Photograph(
        "hubble_deep_field.jpg",
        "public domain",
        "NASA",
        "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
        1.5,
    ),
    Photograph(
        "retina.jpg",
        "CC0",
        "Mikael Haggstrom",
        "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
        1.5,
    ),
    Photograph(
        "text.png",
        "public domain",
        "Wikipedia",
        "bd84aa3a6e3c9887850d45d606c96b2e59433fbef50338570b63c319e668e6d1",
        0.5,
    ),
)


# ---------------------------------------------------------------------------- the two streams


def batch(
    seed: int, step: int, size: int, photographs: float = 0.5, rows: slice = ALL
) -> np.ndarray:
    """uint8 [size, 128, 128, 3], or those ``rows`` of it. ``photographs``: their share, 0..1,
    spread evenly."""
    return _stack((TRAIN_ROOT, seed, step), size, photographs, held_out=False, rows=rows)


def validation(size: int, photographs: float = 0.5) -> np.ndarray:
    """uint8 [size, 128, 128, 3], the same at every call; a shorter set is the longer one's
    beginning. Crops come from held-out photographs and strips, unflipped, colours unchanged."""
    return _stack((VALIDATION_ROOT,), size, photographs, held_out=True)


def _stack(
    root: tuple[int, ...], size: int, share: float, held_out: bool, rows: slice = ALL
) -> np.ndarray:
    if size < 1 or not 0 <= share <= 1:
        raise ValueError(
            f"size must be at least 1 and the share of photographs in 0..1, not {size} and {share}"
        )
    pictures = []
    for i in range(size)[rows]:
        rng = np.random.default_rng((*root, i))
        # picture i is a photograph whenever i * share passes a whole number
        photograph = int((i + 1) * share) > int(i * share)
        pictures.append(photo_crops(rng, 1, held_out)[0] if photograph else scene(rng))
    return np.stack(pictures)


def classified_batch(
    seed: int, step: int, size: int, rows: slice = ALL
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [size, 128, 128, 3] and classes [size], or those ``rows`` of both: the last picture of
    every four is a photograph (-1), the others are scenes, each of a class drawn at random. (In
    turns, six of nine a step, the training loss fell by foretelling the turns, and nothing else was
    learned.)"""
    pictures, classes = [], []
    for i in range(size)[rows]:
        rng = np.random.default_rng((TRAIN_CLASSES_ROOT, seed, step, i))
        if i % 4 == 3:
            pictures.append(photo_crops(rng)[0])
            classes.append(-1)
        else:
            classes.append(int(rng.integers(len(CLASSES))))
            pictures.append(classified_scene(rng, CLASSES[classes[-1]]).pixels)
    return np.stack(pictures), np.array(classes)


def classified_validation(size: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [size, 128, 128, 3] and classes [size] of scenes, the same at every call: classes go
    round, and a shorter set is the longer one's beginning."""
    found = classified_scenes(size)
    return np.stack([scene.pixels for scene in found]), np.arange(size) % len(CLASSES)


def classified_scenes(size: int) -> list[Scene]:
    """The scenes of :func:`classified_validation`, with what is in them."""
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    rngs = [np.random.default_rng((VALIDATION_CLASSES_ROOT, i)) for i in range(size)]
    return [classified_scene(rng, CLASSES[i % len(CLASSES)]) for i, rng in enumerate(rngs)]


def patch_items(found: list[Scene], patch: int) -> tuple[np.ndarray, list[Item]]:
    """The object that owns most of each patch, int [N, T], patches row by row, and all objects of
    all scenes one after the other, which it indexes; -1 where no object owns more than half."""
    side, items, owners = SIDE // patch, [], []
    for scene in found:
        squares = scene.owner.reshape(side, patch, side, patch).swapaxes(1, 2)
        squares = squares.reshape(side * side, patch * patch)
        share = (squares[..., None] == np.arange(len(scene.items))).mean(1)
        owners.append(np.where(share.max(1) > 0.5, len(items) + share.argmax(1), -1))
        items.extend(scene.items)
    return np.stack(owners), items


# ---------------------------------------------------------------------------- photographs


def photo_crops(rng: np.random.Generator, count: int = 1, held_out: bool = False) -> np.ndarray:
    """uint8 [count, 128, 128, 3]: random square crops, from 96 pixels up to the whole side.

    For training (``held_out=False``) flipped or turned at times, brightness and colours
    changed mildly; for validation from the held-out photographs and strips, left as they are.
    """
    pool = _regions(held_out)
    weights = np.array([weight for _, weight in pool])
    chosen = rng.choice(len(pool), size=count, p=weights / weights.sum())
    crops = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for i, index in enumerate(chosen):
        picture = pool[index][0]
        longest = min(picture.size)
        shortest = min(SMALLEST_CROP, longest)
        side = shortest * (longest / shortest) ** rng.random()  # every scale equally often
        left = rng.uniform(0, picture.width - side)
        top = rng.uniform(0, picture.height - side)
        # reducing_gap: first shrink by whole numbers, which costs less and looks the same
        small = picture.resize(
            (SIDE, SIDE),
            Image.Resampling.BICUBIC,
            (left, top, left + side, top + side),
            reducing_gap=2.0,
        )
        crops[i] = np.asarray(small) if held_out else _jitter(rng, np.asarray(small))
    return crops


def _jitter(rng: np.random.Generator, crop: np.ndarray) -> np.ndarray:
    """Flip or turn; change brightness and colour a little; a grey picture gets a tint."""
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    crop = np.rot90(crop, int(rng.choice(4, p=(0.7, 0.12, 0.06, 0.12))))
    grey = bool((crop[::16, ::16, 0] == crop[::16, ::16, 2]).all())
    gain = rng.uniform(0.85, 1.15) * (1 + rng.uniform(-1, 1, 3) * (0.22 if grey else 0.06))
    offset = rng.uniform(-14, 14)
    crop = crop * gain.astype(np.float32) + np.float32(offset)
    if rng.random() < 0.3:  # paler, down to grey
        crop += (crop.mean(2, keepdims=True) - crop) * np.float32(rng.uniform(0.3, 1))
    return np.clip(crop, 0, 255).astype(np.uint8)


@lru_cache(maxsize=2)
def _regions(held_out: bool) -> tuple[tuple[Image.Image, float], ...]:
    """The parts of the photographs that may be cropped, each with its weight."""
    regions = []
    for photograph in PHOTOGRAPHS:
        if photograph.held_out and not held_out:
            continue
        picture = _load(photograph)
        kept, trained = boxes(photograph, *picture.size)
        regions.append((picture.crop(kept if held_out else trained), photograph.weight))
    return tuple(regions)


def boxes(photograph: Photograph, width: int, height: int) -> tuple[tuple, tuple | None]:
    """The parts (left, top, right, bottom) kept for validation and trained on; pixels."""
    if photograph.held_out:
        return (0, 0, width, height), None
    if photograph.strip == "bottom":
        cut = height - round(height * HELD_OUT_SHARE)
        return (0, cut, width, height), (0, 0, width, cut)
    if photograph.strip == "left":
        cut = round(width * HELD_OUT_SHARE)
        return (0, 0, cut, height), (cut, 0, width, height)
    cut = width - round(width * HELD_OUT_SHARE)
    return (cut, 0, width, height), (0, 0, cut, height)


def _load(photograph: Photograph) -> Image.Image:
    # found without importing scikit-image, which would load scipy for the sake of a path
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise PhotographsMissing(
            "The training photographs come with scikit-image, which is not "
            "installed: pip install scikit-image==0.26.0"
        )
    path = Path(spec.submodule_search_locations[0]) / "data" / photograph.file
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise PhotographsMissing(
            f"scikit-image does not carry {photograph.file} here; install "
            f"scikit-image==0.26.0 ({error.strerror})"
        ) from None
    if hashlib.sha256(raw).hexdigest() != photograph.sha256:
        raise PhotographsMissing(
            f"scikit-image's {photograph.file} is not the file whose licence "
            f"was checked; install scikit-image==0.26.0"
        )
    return Image.open(BytesIO(raw)).convert("RGB")


# ---------------------------------------------------------------------------- scenes
# The canvas is float32 [3, 256, 256] in 0..255: planes, because numpy is several times faster on
# long rows than on triples.


def scene(rng: np.random.Generator) -> np.ndarray:
    """uint8 [128, 128, 3]: a generated picture."""
    return labelled_scene(rng).pixels


def labelled_scene(rng: np.random.Generator, subject: str | None = None) -> Scene:
    """Background, clutter, then one to five objects lit from one side; blurred a little.

    subject  the colour of the last object, which nothing hides: then it is large and near the
             middle; None draws it like the others

    How much happens where differs on purpose: clutter comes in clusters, and some scenes are
    nearly empty, so that patches range from plain to busy.
    """
    light = rng.uniform(0, 2 * np.pi)
    background = str(rng.choice(BACKGROUNDS, p=(0.08, 0.14, 0.14, 0.16, 0.16, 0.16, 0.16)))
    canvas = _background(rng, background)
    _clutter(rng, canvas)
    if rng.random() < 0.35:  # depth of field
        canvas[:] = _blurred(canvas, rng.uniform(1.5, 5))
    owner = np.full((CANVAS, CANVAS), -1, np.int8)
    items = []
    count = int(rng.choice((1, 2, 3, 4, 5), p=(0.24, 0.28, 0.24, 0.14, 0.10)))
    for radius in np.sort(rng.gamma(4.5, 4.6, count)):  # small ones behind large ones
        radius = float(np.clip(radius, 7, 42))
        wanted = subject if len(items) == count - 1 else None
        items.append(_object(rng, canvas, owner, len(items), radius, light, wanted))
    return Scene(
        pixels=_develop(rng, canvas),
        items=tuple(items),
        background=background,
        owner=owner[::SCALE, ::SCALE].copy(),
    )


def classified_scene(rng: np.random.Generator, colour: str) -> Scene:
    """A scene of that class: one after the other is drawn until its subject is the largest in
    view, which it nearly always is."""
    while True:
        found = labelled_scene(rng, colour)
        area = np.bincount(found.owner[found.owner >= 0], minlength=len(found.items))
        if area.argmax() == len(area) - 1:
            return found


def _develop(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Canvas to the picture uint8 [128, 128, 3]: reduce, light, blur, grain."""
    picture = (
        canvas[:, ::2, ::2] + canvas[:, 1::2, ::2] + canvas[:, ::2, 1::2] + canvas[:, 1::2, 1::2]
    ) / 4
    gain = rng.uniform(0.8, 1.1) * (1 + rng.uniform(-0.06, 0.06, 3))
    slope = _ramp(rng, SIDE, SIDE) * np.float32(rng.uniform(0, 0.35))  # one side darker
    picture *= _column(gain) * (1 - slope)
    if rng.random() < 0.6:
        picture = _blurred(picture, rng.uniform(0.3, 0.9))
    if rng.random() < 0.5:
        grain = rng.standard_normal((SIDE, SIDE), dtype=np.float32)
        picture = picture + grain * np.float32(rng.uniform(0.5, 3))
    return _interleaved(picture)


def _blurred(picture: np.ndarray, radius: float) -> np.ndarray:
    image = Image.fromarray(_interleaved(picture)).filter(ImageFilter.GaussianBlur(radius))
    return _planes(image)


def _interleaved(planes: np.ndarray) -> np.ndarray:
    """float32 [3, h, w] to uint8 [h, w, 3]."""
    return np.ascontiguousarray(np.clip(planes, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _planes(image: Image.Image) -> np.ndarray:
    """An RGB image to float32 [3, h, w]."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)).astype(np.float32)


def _column(colour: np.ndarray) -> np.ndarray:
    """[3] to float32 [3, 1, 1], to meet the planes."""
    return np.asarray(colour, np.float32)[:, None, None]


def _colour(
    rng: np.random.Generator, dull: float = 0.0, name: str | None = None
) -> tuple[str, np.ndarray]:
    """A colour of the table, that of the name or any, varied; ``dull`` 0..1 moves it towards
    grey."""
    name = name or str(rng.choice(tuple(COLOURS)))
    value = np.array(COLOURS[name], np.float32) * rng.uniform(0.8, 1.15) + rng.uniform(-16, 16, 3)
    value += (value.mean() - value) * dull
    return name, np.clip(value, 0, 255).astype(np.float32)


def _mix(field: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[h, w] in 0..1 to [3, h, w] between two colours."""
    return field * _column(second - first) + _column(first)


# ---------------------------------------------------------------------------- textures
# Each is a field float32 [h, w] in 0..1 between an object's two colours; lengths are canvas pixels.


def _grid(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates [h, w] turned by a random angle, origin at a random phase."""
    angle = rng.uniform(0, 2 * np.pi)
    x = np.arange(width, dtype=np.float32) - width / 2
    y = np.arange(height, dtype=np.float32)[:, None] - height / 2
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    phase = rng.uniform(0, 64, 2).astype(np.float32)
    return cos * x + sin * y + phase[0], cos * y - sin * x + phase[1]


def _edge(wave: np.ndarray, period: float) -> np.ndarray:
    """A wave in -1..1 to a field in 0..1 with edges about two canvas pixels wide."""
    return np.clip(0.5 + wave * np.float32(period / 8), 0, 1)


def _ramp(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    x, _y = _grid(rng, height, width)
    x = x - x.min()
    return x / x.max()


def _fractal(
    rng: np.random.Generator,
    height: int,
    width: int,
    cell: float,
    roughness: float = 0.5,
    octaves: int = 4,
) -> np.ndarray:
    """Cloudy noise: random grids of ever finer cells (canvas pixels), enlarged and added."""
    total, amplitude = None, 1.0
    for _ in range(octaves):
        shape = (max(2, int(height / cell) + 2), max(2, int(width / cell) + 2))
        small = Image.fromarray(rng.random(shape, dtype=np.float32))
        large = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
        total = large * amplitude if total is None else total + large * np.float32(amplitude)
        amplitude, cell = amplitude * roughness, max(cell / 2, 2.0)
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def _texture(rng: np.random.Generator, name: str, height: int, width: int) -> np.ndarray:
    if name == "flat":
        return np.zeros((height, width), np.float32)
    if name == "gradient":
        return _ramp(rng, height, width)
    if name == "noise":
        return _fractal(rng, height, width, rng.uniform(6, 40), rng.uniform(0.4, 0.8), 3)
    period = float(rng.uniform(8, 36))
    wave = np.float32(2 * np.pi / period)
    x, y = _grid(rng, height, width)
    if name == "stripes":
        return _edge(np.sin(x * wave) + np.float32(rng.uniform(-0.5, 0.5)), period)
    if name == "checks":
        return _edge(np.sin(x * wave) * np.sin(y * wave) * 2, period)
    if name == "dots":
        return _edge(np.cos(x * wave) + np.cos(y * wave) - np.float32(rng.uniform(0, 1)), period)
    if name == "grain":  # wood: bent rings
        bend = _fractal(rng, height, width, 64, 0.4, 2) * np.float32(rng.uniform(4, 14))
        return 0.5 + 0.5 * np.sin(x * wave * np.float32(0.6) + bend)
    raise KeyError(name)


# ---------------------------------------------------------------------------- backgrounds


def _background(rng: np.random.Generator, kind: str) -> np.ndarray:
    """A new canvas."""
    dull = rng.uniform(0.1, 0.8)
    first, second = _colour(rng, dull)[1], _colour(rng, dull)[1]
    size = (CANVAS, CANVAS)
    if kind == "flat":
        return np.broadcast_to(_column(first), (3, *size)).copy()
    if kind == "gradient":
        return _mix(_ramp(rng, *size), first, second)
    if kind == "glow":
        x, y = _grid(rng, *size)
        centre = rng.uniform(-80, 80, 2)
        far = np.hypot(
            x - np.float32(centre[0]),
            (y - np.float32(centre[1])) * np.float32(rng.uniform(0.6, 1.6)),
        )
        return _mix(np.exp(-((far / np.float32(rng.uniform(60, 160))) ** 2)), first, second)
    if kind == "noise":
        rough = rng.uniform(0.35, 0.85)
        return _mix(_fractal(rng, *size, rng.uniform(16, 120), rough), first, second)
    if kind == "pattern":
        name = str(rng.choice(("stripes", "checks", "dots", "grain")))
        near = first + (second - first) * rng.uniform(0.2, 0.7)
        return _mix(_texture(rng, name, *size), first, near.astype(np.float32))
    sky = _mix(
        np.linspace(0, 1, CANVAS, dtype=np.float32)[:, None].repeat(CANVAS, 1),
        _sky(rng),
        np.clip(second * 0.4 + 140, 0, 255).astype(np.float32),
    )
    if rng.random() < 0.6:  # clouds
        field = _fractal(rng, CANVAS, CANVAS, rng.uniform(50, 120), 0.5)
        cloud = np.clip(field * 2.4 - 1.2, 0, 1) * np.float32(rng.uniform(0.3, 0.9))
        sky += cloud * (238 - sky)
    return _hills(rng, sky) if kind == "hills" else _floor(rng, sky, first)


def _sky(rng: np.random.Generator) -> np.ndarray:
    base = np.array(((92, 142, 206), (58, 78, 132), (222, 168, 130), (168, 182, 194)), np.float32)
    return base[rng.integers(len(base))] + rng.uniform(-14, 14, 3).astype(np.float32)


def _floor(rng: np.random.Generator, sky: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """A plane in perspective below a horizon: checked, striped or rough, fading far away."""
    horizon = int(rng.uniform(0.25, 0.7) * CANVAS)
    depth = np.arange(1, CANVAS - horizon + 1, dtype=np.float32)[:, None] / CANVAS
    x = (np.arange(CANVAS, dtype=np.float32) / CANVAS - np.float32(rng.uniform(0.2, 0.8))) / depth
    z = 1 / depth + np.float32(rng.uniform(0, 6))
    other = _colour(rng, rng.uniform(0.2, 0.8))[1]
    kind = rng.integers(3)
    if kind == 2:
        field = _fractal(rng, CANVAS - horizon, CANVAS, rng.uniform(12, 60), 0.7)
    else:
        scale = np.float32(rng.uniform(2, 6))
        wave = np.sin(x * scale) * np.sin(z * scale) if kind else np.sin(x * scale)
        # one period spans depth / scale of the canvas: too fine to draw near the horizon
        clear = np.clip(depth * CANVAS / scale / 6 - 0.4, 0, 1)
        field = 0.5 + (_edge(wave, 24) - 0.5) * clear
    ground = _mix(field, colour, other)
    haze = np.exp(-depth * np.float32(rng.uniform(6, 30)))
    sky[:, horizon:] = ground + haze * (_column(sky[:, horizon - 1].mean(1)) - ground)
    return sky


def _hills(rng: np.random.Generator, sky: np.ndarray) -> np.ndarray:
    """Ridges one before the other, the far ones pale."""
    layers = int(rng.integers(1, 5))
    near = _colour(rng, 0.4)[1] * 0.6
    far = sky[:, CANVAS // 2].mean(1)
    rows = np.arange(CANVAS, dtype=np.float32)[:, None]
    for layer in range(layers):
        nearness = (layer + 1) / layers
        ridge = _fractal(rng, 2, CANVAS, rng.uniform(30, 110), rng.uniform(0.3, 0.6))[0]
        top = CANVAS * (0.25 + 0.5 * layer / layers) + (1 - ridge) * rng.uniform(30, 80)
        inside = np.clip(rows - top.astype(np.float32) + 0.5, 0, 1)
        ground = _column(far + (near - far) * (nearness**1.5))
        if rng.random() < 0.5:
            rough = _fractal(rng, CANVAS, CANVAS, rng.uniform(6, 20), 0.7, 3) - 0.5
            ground = ground + rough * np.float32(60 * nearness)
        sky += inside * (ground - sky)
    return sky


def _clutter(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Small plain things in up to three clusters: dots, sticks, slabs and thin lines."""
    clusters = int(rng.choice((0, 1, 2, 3), p=(0.35, 0.3, 0.2, 0.15)))
    if not clusters:
        return
    image = Image.fromarray(_interleaved(canvas))
    draw = ImageDraw.Draw(image)
    for _ in range(clusters):
        centre = rng.uniform(0, CANVAS, 2)
        spread, size = rng.uniform(12, 70), rng.uniform(3, 14)
        palette = [tuple(int(v) for v in _colour(rng, 0.3)[1]) for _ in range(3)]
        kind = rng.integers(4)
        count = int(rng.integers(5, 45))
        places = centre + rng.normal(0, spread, (count, 2))
        sizes = size * rng.uniform(0.4, 1.6, (count, 2))
        angles = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.5, count)
        for (x, y), (a, b), angle, ink in zip(
            places, sizes, angles, rng.integers(3, size=count), strict=True
        ):
            if kind == 0:
                draw.ellipse((x - a, y - a, x + a, y + a), fill=palette[ink])
            elif kind == 1:
                draw.rectangle((x - a, y - b, x + a, y + b), fill=palette[ink])
            else:
                long = a * (2 if kind == 2 else 5)
                dx, dy = np.cos(angle) * long, np.sin(angle) * long
                draw.line(
                    (x - dx, y - dy, x + dx, y + dy),
                    fill=palette[ink],
                    width=max(2, int(b / 2)) if kind == 2 else 2,
                )
    canvas[:] = _planes(image)


# ---------------------------------------------------------------------------- objects


def _outline(shape: str) -> np.ndarray | None:
    """Corners float [n, 2] of a shape of radius 1, or None where it is not a polygon."""
    regular = {"square": 4, "triangle": 3, "hexagon": 6}
    if shape in regular:
        turn = np.arange(regular[shape]) * 2 * np.pi / regular[shape]
        return np.stack((np.cos(turn), np.sin(turn)), 1)
    if shape == "star":
        turn = np.arange(10) * np.pi / 5
        reach = np.where(np.arange(10) % 2, 0.45, 1.0)
        return np.stack((np.cos(turn), np.sin(turn)), 1) * reach[:, None]
    if shape == "cross":
        a, b = 0.32, 0.95
        return np.array(
            (
                (-a, -b),
                (a, -b),
                (a, -a),
                (b, -a),
                (b, a),
                (a, a),
                (a, b),
                (-a, b),
                (-a, a),
                (-b, a),
                (-b, -a),
                (-a, -a),
            )
        )
    if shape == "bar":
        return np.array(((-1, -0.28), (1, -0.28), (1, 0.28), (-1, 0.28)))
    return None


def _mask(rng: np.random.Generator, shape: str, radius: float) -> np.ndarray:
    """float32 [n, n] in 0..1, ``radius`` in canvas pixels, turned at random."""
    size = 2 * int(np.ceil(radius)) + 3
    image = Image.new("L", (size, size))
    draw = ImageDraw.Draw(image)
    middle, angle = size / 2, rng.uniform(0, 2 * np.pi)

    def circle(x: float, y: float, r: float, ink: int) -> None:
        draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)

    corners = _outline(shape)
    if corners is not None:
        turn = np.array(((np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))))
        draw.polygon([tuple(p) for p in corners * radius @ turn + middle], fill=255)
    else:
        circle(middle, middle, radius, 255)
        if shape == "ring":
            circle(middle, middle, radius * rng.uniform(0.45, 0.7), 0)
        elif shape == "crescent":
            away = radius * 0.5
            circle(middle + np.cos(angle) * away, middle + np.sin(angle) * away, radius * 0.8, 0)
    return np.asarray(image, np.float32) / 255


def _shading(mask: np.ndarray, radius: float, light: float, round_: bool) -> np.ndarray:
    """Brightness [n, n], about 1: a ball for round shapes, otherwise a slope towards the light."""
    n = len(mask)
    axis = ((np.arange(n, dtype=np.float32) + 0.5) - n / 2) / np.float32(radius)
    along = axis * np.float32(np.cos(light)) + axis[:, None] * np.float32(np.sin(light))
    if not round_:
        return 1 + 0.18 * along
    height = np.sqrt(np.clip(1 - axis**2 - axis[:, None] ** 2, 0, 1))
    lit = np.clip(0.75 * along + 0.66 * height, 0, 1)
    return 0.45 + 0.65 * lit + 0.5 * lit**24  # ambient, diffuse, highlight


def _object(
    rng: np.random.Generator,
    canvas: np.ndarray,
    owner: np.ndarray,
    index: int,
    radius: float,
    light: float,
    wanted: str | None,
) -> Item:
    """Paint one object with its shadow; radius in pixels of the picture."""
    shape = str(rng.choice(SHAPES))
    if wanted:
        radius = float(rng.uniform(*SUBJECT))
    texture = str(rng.choice(TEXTURES))
    colour, first = _colour(rng, name=wanted)
    second = _colour(rng)[1] if rng.random() < 0.6 else first * np.float32(rng.uniform(0.35, 0.7))
    mask = _mask(rng, shape, radius * SCALE)
    size = len(mask)
    edge = 0.3 if wanted else 0.05
    x, y = rng.uniform(edge, 1 - edge, 2) * CANVAS
    left, top = int(x - size / 2), int(y - size / 2)
    paint = _mix(_texture(rng, texture, size, size), first, second)
    shade = _shading(mask, radius * SCALE, light, shape == "disc" and rng.random() < 0.7)
    paint = paint * shade
    if rng.random() < 0.2:  # a drawn rim
        rim = (
            np.asarray(
                Image.fromarray((mask * 255).astype(np.uint8)).filter(ImageFilter.MinFilter(5)),
                np.float32,
            )
            / 255
        )
        paint = paint * (0.25 + 0.75 * rim)
    if rng.random() < 0.6:
        _shadow(rng, canvas, mask, left, top, radius, light)
    (rows, columns), source = _overlap(left, top, size)
    behind = canvas[:, rows, columns]  # a view, painted in place
    behind += mask[source] * (paint[:, source[0], source[1]] - behind)
    owner[rows, columns][mask[source] > 0.5] = index
    return Item(shape, texture, colour, (float(x / SCALE), float(y / SCALE)), radius)


def _shadow(
    rng: np.random.Generator,
    canvas: np.ndarray,
    mask: np.ndarray,
    left: int,
    top: int,
    radius: float,
    light: float,
) -> None:
    """A soft shadow on what lies behind, cast away from the light."""
    soft = float(rng.uniform(1.5, 6))
    pad = int(soft * 2) + 1
    image = Image.fromarray((np.pad(mask, pad) * 255).astype(np.uint8))
    cast = np.asarray(image.filter(ImageFilter.BoxBlur(soft)), np.float32)
    away = radius * SCALE * rng.uniform(0.08, 0.3)
    left += int(-np.cos(light) * away) - pad
    top += int(-np.sin(light) * away) - pad
    (rows, columns), source = _overlap(left, top, len(cast))
    canvas[:, rows, columns] *= 1 - cast[source] * np.float32(rng.uniform(0.25, 0.6) / 255)


def _overlap(left: int, top: int, size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a square at (left, top) meets the canvas: slices of the canvas, of the square."""
    x0, x1 = max(left, 0), min(left + size, CANVAS)
    y0, y1 = max(top, 0), min(top + size, CANVAS)
    x1, y1 = max(x1, x0), max(y1, y0)
    return (
        (slice(y0, y1), slice(x0, x1)),
        (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)),
    )


__all__ = [
    "BACKGROUNDS",
    "CLASSES",
    "COLOURS",
    "PHOTOGRAPHS",
    "SHAPES",
    "SIDE",
    "TEXTURES",
    "Item",
    "Photograph",
    "PhotographsMissing",
    "Scene",
    "batch",
    "boxes",
    "classified_batch",
    "classified_scene",
    "classified_scenes",
    "classified_validation",
    "labelled_scene",
    "patch_items",
    "photo_crops",
    "scene",
    "validation",
]
