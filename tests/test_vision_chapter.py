"""Chapter 6, figure by figure (VG-44 .. VG-53): the facts that its pictures show."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import CLASSES

from mhmoe.analysis import vision
from mhmoe.figures import vision_plates as plates
from mhmoe.layers import MoEConfig, WhatIf
from mhmoe.layers.soft import soft
from mhmoe.models import engine
from mhmoe.models.images import DecodedImage
from mhmoe.models.transformer import Transformer


def picture(side: int = 32) -> DecodedImage:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return DecodedImage(pixels, (0, 0, side, side), (side, side), "PNG")


@pytest.fixture
def loaded():
    return engine.Loaded("tiny", Transformer(CLASSES).eval(), {"sha256": ""})


@pytest.fixture
def image(loaded):
    config = loaded.model.config
    return picture(config.grid * config.patch)


def softened(rows: int = 6, slots: int = 4) -> tuple[np.ndarray, np.ndarray]:
    torch = pytest.importorskip("torch")
    config = MoEConfig(d_model=4, d_ff=8, experts=2, router="soft-moe", slots=slots // 2)
    scores = torch.randn(1, rows, slots, generator=torch.Generator().manual_seed(0))
    found = soft(scores, config, WhatIf(), None)
    return found.dispatch[0].numpy(), found.combine[0].numpy()


def test_vg44_patches_are_side_squared_over_patch_squared(loaded, image):
    found, config = engine.embed_image(loaded, image), loaded.model.config
    assert len(found.patches) == (image.pixels.shape[0] // config.patch) ** 2
    assert found.patches.shape[1] == 3 * config.patch**2


def test_vg45_a_vector_is_the_filters_product_and_a_place_is_like_itself(loaded, image):
    found = engine.embed_image(loaded, image)
    bias = loaded.model.embed.bias.detach().numpy()
    expected = found.patches @ found.filters.T + bias
    np.testing.assert_allclose(found.embedded, expected, atol=1e-4)
    np.testing.assert_allclose(np.diag(vision.similarity(found.position)), 1, atol=1e-5)
    colours, share = vision.main_colours(found.embedded)
    assert colours.shape == (len(found.patches), 3)
    assert 0 < share <= 1


def test_vg46_neighbours_and_their_chance_by_hand():
    alike, chance = vision.neighbours_alike(np.array([0, 0, 1, 1]), (2, 2))
    assert alike == pytest.approx(2 / 4)
    assert chance == pytest.approx(4 / 12)


def test_vg47_vg48_the_guides_matrix_keeps_the_surest_eight():
    scores = np.array([0.1, 0.8, 0.7, 0, 0, 0.9, 0.8, 0.2, 0.1, 0.8, 0.5, 0.7, 0.6, 0.7, 0.3, 0.2])
    rank = vision.priority(scores[:, None])
    assert set(np.flatnonzero(rank <= 8)) == set(np.flatnonzero(scores >= 0.6))


def test_vg48_priority_and_position_serve_as_many_but_not_the_same(loaded, image):
    both = {
        order: engine.read_image(loaded, image, WhatIf(capacity_factors=(0.5,), order=order))[0][0]
        for order in ("position", "priority")
    }
    first, second = (trace.layers[0] for trace in both.values())
    assert first.load.sum() == second.load.sum()
    assert (first.load <= first.capacity).all()
    assert (second.load <= second.capacity).all()


def test_vg48_the_question_has_one_survivor():
    vanilla = np.array([1, 1, 0, 0, 0, 0, 0, 0, 0])
    priority = np.array([0, 0, 0, 0, 1, 0, 0, 0, 0])
    asked = vision.survivor_question(vanilla, priority, 3)
    assert asked["survivor"] == 4
    assert len(set(asked["patches"])) == 4
    assert [p for p in asked["patches"] if priority[p]] == [4]
    assert vision.survivor_question(vanilla, np.ones(9), 3) is None


def test_vg49_the_curve_holds_every_order_at_every_factor():
    row = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "kept": 0.3}
    rows = [
        row | {"order": order, "factor": factor}
        for order in ("position", "priority", "random")
        for factor in (0.1, 1.0)
    ]
    data = plates.curve([*rows, row | {"order": None, "factor": None}], 24, 1 / 12)
    assert data["factors"] == [0.1, 1.0]
    assert [o["name"] for o in data["orders"]] == ["position", "priority", "random"]
    assert all(o["accuracy"] == [0.5, 0.5] for o in data["orders"])


def test_vg50_vg51_one_matrix_two_sums():
    dispatch, combine = softened()
    np.testing.assert_allclose(dispatch.sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(combine.sum(1), 1, atol=1e-5)


def test_vg52_a_slot_is_the_weighted_blend_of_the_patches():
    dispatch, _ = softened()
    rows = np.random.default_rng(1).random((6, 3))
    found = vision.blends(dispatch, rows)
    by_hand = sum(dispatch[i, 2] * rows[i] for i in range(6))
    np.testing.assert_allclose(found[2], by_hand)
    even = np.full((6, 1), 1 / 6)
    assert vision.effective(even, 0) == pytest.approx(6)


def test_vg53_every_patch_reads_every_patch_and_what_it_reads_sums_to_one():
    dispatch, combine = softened()
    read = vision.reads(dispatch, combine)
    np.testing.assert_allclose(read.sum(1), 1, atol=1e-5)
    assert (read > 0).all()


def test_levels_are_steps_of_the_logarithm():
    low, high = vision.SPAN
    found = vision.levels(np.array([low, high, 1e9, 0.0]), 1.0)
    assert found.tolist() == [0, 63, 63, 0]
    assert plates.characters(found) == "A//A"
