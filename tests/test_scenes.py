"""The training pictures: deterministic, varied, labelled truly, validation kept apart."""

from __future__ import annotations

import hashlib
import time

import numpy as np
import pytest

from mhmoe.training import scenes


def generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def many() -> list[scenes.Scene]:
    return [scenes.labelled_scene(generator(5, i)) for i in range(60)]


# ---------------------------------------------------------------------------- the two streams


def test_a_batch_is_a_function_of_seed_and_step():
    first = scenes.batch(3, 7, 6)
    assert first.shape == (6, 128, 128, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, scenes.batch(3, 7, 6))
    for other in (scenes.batch(4, 7, 6), scenes.batch(3, 8, 6)):
        assert all((a != b).any() for a, b in zip(first, other, strict=True))
    assert np.array_equal(first[:2], scenes.batch(3, 7, 2))


def test_the_global_random_state_plays_no_part():
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    first = scenes.batch(0, 0, 2)
    assert np.array_equal(np.random.get_state()[1], state)
    np.random.seed(99)
    assert np.array_equal(scenes.batch(0, 0, 2), first)


def test_validation_is_fixed_and_begins_alike():
    assert np.array_equal(scenes.validation(6)[:4], scenes.validation(4))
    assert len({picture.tobytes() for picture in scenes.validation(12)}) == 12


def test_validation_and_training_share_no_picture():
    kept = {p.tobytes() for p in scenes.validation(16, photographs=0)}
    for seed in (0, scenes.TRAIN_ROOT, scenes.VALIDATION_ROOT):
        for step in (0, 1):
            seen = scenes.batch(seed, step, 8, photographs=0)
            assert not kept & {p.tobytes() for p in seen}


@pytest.mark.parametrize(("share", "expected"), [(0, 0), (0.25, 2), (0.5, 4), (1, 8)])
def test_the_share_of_photographs(share, expected, monkeypatch):
    black = np.zeros((1, 128, 128, 3), np.uint8)
    monkeypatch.setattr(scenes, "photo_crops", lambda *_: black)
    photographs = [not picture.any() for picture in scenes.batch(0, 0, 8, share)]
    assert sum(photographs) == expected
    if share == 0.5:
        assert photographs[:4] == [False, True, False, True]


@pytest.mark.parametrize(("size", "share"), [(0, 0.5), (4, 1.1), (4, -0.1)])
def test_nonsense_is_refused(size, share):
    with pytest.raises(ValueError, match="size must be at least 1"):
        scenes.batch(0, 0, size, share)


def test_fast_enough_to_train_from():
    scenes.batch(0, 0, 2)
    start = time.thread_time()
    scenes.batch(0, 1, 32)
    speed = 32 / (time.thread_time() - start)
    assert speed >= 60, f"{speed:.0f} pictures a second on one core"


# ---------------------------------------------------------------------------- photographs


@pytest.mark.parametrize("photograph", scenes.PHOTOGRAPHS, ids=lambda p: p.file)
def test_training_never_touches_the_validation_strip(photograph):
    width, height = 400, 300
    kept, trained = scenes.boxes(photograph, width, height)
    if photograph.held_out:
        assert trained is None
        assert kept == (0, 0, width, height)
        return
    cover = np.zeros((height, width), int)
    for left, top, right, bottom in (kept, trained):
        cover[top:bottom, left:right] += 1
    assert (cover == 1).all(), "the two parts overlap, or leave a gap"
    assert 0.25 < (kept[2] - kept[0]) * (kept[3] - kept[1]) / (width * height) < 0.35


def test_crops_come_from_their_own_part(monkeypatch):
    """Paint each photograph's validation part white and its training part black, then crop."""

    def painted(photograph):
        kept, _ = scenes.boxes(photograph, 400, 300)
        image = scenes.Image.new("RGB", (400, 300))
        image.paste((255, 255, 255), kept)
        return image

    monkeypatch.setattr(scenes, "_load", painted)
    scenes._regions.cache_clear()
    try:
        assert scenes.photo_crops(generator(1), 60, held_out=True).min() == 255
        assert scenes.photo_crops(generator(2), 60, held_out=False).max() < 20
    finally:
        scenes._regions.cache_clear()


def test_the_held_out_photograph_is_never_trained_on():
    held = [p for p in scenes.PHOTOGRAPHS if p.held_out]
    assert held
    assert len(scenes._regions(False)) == len(scenes.PHOTOGRAPHS) - len(held)
    assert len(scenes._regions(True)) == len(scenes.PHOTOGRAPHS)


def test_every_photograph_is_free_and_listed():
    for photograph in scenes.PHOTOGRAPHS:
        assert photograph.licence in ("CC0", "public domain")
        row = next(line for line in scenes.__doc__.splitlines() if photograph.file in line)
        assert photograph.licence in row
        assert ("held out" in row) == photograph.held_out


def test_crops_vary_and_validation_crops_are_left_as_they_are():
    crops = scenes.photo_crops(generator(4), 24)
    assert crops.shape == (24, 128, 128, 3)
    assert len({crop.tobytes() for crop in crops}) == 24
    grey = next(i for i, p in enumerate(scenes.PHOTOGRAPHS) if p.file == "gravel.png")
    region = scenes._regions(True)[grey][0]
    assert np.ptp(np.asarray(region)[::9, ::9], axis=2).max() == 0
    kept = scenes.photo_crops(generator(4), 40, held_out=True)
    neutral = sum(int(np.ptp(crop, axis=2).max() == 0) for crop in kept)
    assert neutral >= 5, "grey photographs must stay grey in validation"


def test_training_crops_are_flipped_turned_and_tinted(monkeypatch):
    ramp = np.tile(np.linspace(40, 180, 400).astype(np.uint8)[None, :, None], (300, 1, 3))
    monkeypatch.setattr(scenes, "_load", lambda _: scenes.Image.fromarray(ramp))
    scenes._regions.cache_clear()
    try:
        crops = scenes.photo_crops(generator(6), 60).astype(int)
        plain = scenes.photo_crops(generator(6), 20, held_out=True).astype(int)
    finally:
        scenes._regions.cache_clear()
    across = (crops[:, :, -1] - crops[:, :, 0]).mean((1, 2))
    down = (crops[:, -1] - crops[:, 0]).mean((1, 2))
    for change in (across, down):  # rising, falling and level all occur
        assert (change > 3).any()
        assert (change < -3).any()
        assert (abs(change) < 1).any()
    assert (np.ptp(crops, axis=3).max((1, 2)) > 8).sum() > 20, "tints"
    assert (plain[:, :, -1] > plain[:, :, 0]).all()
    assert np.ptp(plain, axis=3).max() == 0


def test_a_missing_or_changed_photograph_is_named(monkeypatch, tmp_path):
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    photograph = scenes.PHOTOGRAPHS[0]
    monkeypatch.setattr(scenes.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(scenes.PhotographsMissing, match="pip install scikit-image"):
        scenes._load(photograph)
    monkeypatch.setattr(scenes.importlib.util, "find_spec", lambda _: Spec)
    with pytest.raises(scenes.PhotographsMissing, match="does not carry astronaut"):
        scenes._load(photograph)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / photograph.file).write_bytes(b"another picture")
    with pytest.raises(scenes.PhotographsMissing, match="not the file whose licence"):
        scenes._load(photograph)
    assert hashlib.sha256(b"another picture").hexdigest() != photograph.sha256


# ---------------------------------------------------------------------------- scenes


def test_a_scene_is_its_generator_and_nothing_else():
    assert np.array_equal(scenes.scene(generator(9)), scenes.labelled_scene(generator(9)).pixels)
    assert (scenes.scene(generator(9)) != scenes.scene(generator(10))).any()


def test_the_labels_are_of_the_tables(many):
    for scene in many:
        assert scene.pixels.shape == (128, 128, 3)
        assert scene.pixels.dtype == np.uint8
        assert scene.background in scenes.BACKGROUNDS
        assert 1 <= len(scene.items) <= 5
        assert scene.owner.min() >= -1
        assert scene.owner.max() < len(scene.items)
        radii = [item.radius for item in scene.items]
        assert radii == sorted(radii)
        assert radii[0] >= 7
        assert radii[-1] <= 42
    items = [item for scene in many for item in scene.items]
    assert {item.shape for item in items} == set(scenes.SHAPES)
    assert {item.texture for item in items} == set(scenes.TEXTURES)
    assert {item.colour for item in items} == set(scenes.COLOURS)
    assert {scene.background for scene in many} == set(scenes.BACKGROUNDS)


def test_the_owner_map_lies_where_the_objects_are(many):
    rows, columns = np.mgrid[:128, :128]
    for scene in many:
        for index, item in enumerate(scene.items):
            away = np.hypot(columns + 0.5 - item.centre[0], rows + 0.5 - item.centre[1])
            mine = scene.owner == index
            assert (away[mine] <= item.radius + 2).all()
        front = scene.items[-1]  # nothing lies before the last one
        away = np.hypot(columns + 0.5 - front.centre[0], rows + 0.5 - front.centre[1])
        if front.shape == "disc":
            assert (scene.owner[away < front.radius - 2] == len(scene.items) - 1).all()


@pytest.mark.parametrize(
    ("shape", "share"),
    [
        ("disc", np.pi / 4),
        ("square", 0.5),
        ("hexagon", 0.6495),
        ("triangle", 0.3248),
        ("cross", 0.5264),
        ("bar", 0.28),
        ("star", 0.3307),
    ],
)
def test_shapes_have_their_area(shape, share):
    """Share of the square around the circle of radius 40, from the formula of each shape."""
    for seed in range(3):
        area = scenes._mask(generator(seed), shape, 40.0).sum() / 80**2
        assert area == pytest.approx(share, abs=0.03), shape
    ring = scenes._mask(generator(1), "ring", 40.0)
    assert ring[len(ring) // 2, len(ring) // 2] == 0
    assert ring.max() == 1


@pytest.mark.parametrize("name", scenes.TEXTURES)
def test_textures_stay_between_the_two_colours(name):
    for seed in range(4):
        field = scenes._texture(generator(seed), name, 60, 90)
        assert field.shape == (60, 90)
        assert field.min() >= 0
        assert field.max() <= 1
        assert (np.ptp(field) > 0.5) == (name != "flat"), name
    with pytest.raises(KeyError):
        scenes._texture(generator(0), "velvet", 8, 8)


def test_patches_range_from_plain_to_busy(many):
    """Local complexity must vary within pictures: that is what routing can become structured by."""
    pixels = np.stack([scene.pixels for scene in many]).astype(float).mean(-1)
    patches = pixels.reshape(len(many), 16, 8, 16, 8).std(axis=(2, 4))
    assert (patches < 3).mean() > 0.2
    assert (patches > 15).mean() > 0.1
    within = patches.reshape(len(many), -1)
    assert np.median(np.ptp(within, axis=1)) > 25
    assert 60 < pixels.mean() < 170


def test_an_object_beyond_the_edge_is_cut_not_wrapped():
    target, source = scenes._overlap(-5, 250, 20)
    assert target == (slice(250, 256), slice(0, 15))
    assert source == (slice(0, 6), slice(5, 20))
    (rows, columns), _ = scenes._overlap(300, 10, 20)
    assert rows == slice(10, 30)
    assert columns.stop - columns.start == 0


def test_the_object_of_a_patch_is_the_one_that_owns_most_of_it():
    owner = np.full((128, 128), -1, np.int8)
    owner[:64, :64] = 0
    owner[64:, 64:] = 1
    owner[64:, :31] = 0  # less than half of the square of 64
    first, second = (
        scenes.Item(shape, "flat", "red", (64.0, 64.0), 20.0) for shape in ("disc", "bar")
    )
    pixels = np.zeros((128, 128, 3), np.uint8)
    found = [
        scenes.Scene(pixels, (first, second), owner, "flat"),
        scenes.Scene(pixels, (second,), np.zeros((128, 128), np.int8), "flat"),
    ]
    owners, items = scenes.patch_items(found, 64)
    assert owners.tolist() == [[0, -1, -1, 1], [2, 2, 2, 2]]
    assert items == [first, second, second]


def test_the_objects_of_small_patches_are_those_at_their_pixels(many):
    owners, items = scenes.patch_items(many, 1)
    start = 0
    for row, scene in zip(owners, many, strict=True):
        expected = np.where(scene.owner < 0, -1, scene.owner.astype(int) + start)
        np.testing.assert_array_equal(row.reshape(128, 128), expected)
        start += len(scene.items)
    assert len(items) == start
