"""Accuracy against capacity: on a model built by hand, in which the order decides, and others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import CLASSES, IMAGE, TINY

from mhmoe.analysis.nulls import binomial, resampled
from mhmoe.layers import MoEConfig
from mhmoe.models import metrics
from mhmoe.models.config import ModelConfig
from mhmoe.models.transformer import Transformer
from mhmoe.training.capacity import Limited, capacity_curve, limited, priority_gain

# ---------------------------------------------------------------------------- the interval


def test_the_interval_by_hand():
    # 5 of 10 with z = 2: (.5 + .2) / 1.4 -+ 2 sqrt(.025 + .01) / 1.4
    half = 2 * 0.035**0.5 / 1.4
    assert binomial(5, 10, z=2.0) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))
    # none of 4 with z = 2: 0 to 1 / (1 + 1)
    assert binomial(0, 4, z=2.0) == (0.0, pytest.approx(0.5))
    assert binomial(4, 4, z=2.0) == (pytest.approx(0.5), 1.0)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    counts = np.random.default_rng(0).binomial(60, 0.2, 2000)
    held = [low <= 0.2 <= high for low, high in (binomial(int(c), 60) for c in counts)]
    assert 0.93 < np.mean(held) < 0.97
    narrow = [low <= 0.2 <= high for low, high in (binomial(int(c), 60, z=1.0) for c in counts)]
    assert np.mean(narrow) < 0.8


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_a_share_of_nothing(successes, trials):
    with pytest.raises(ValueError, match="is no share"):
        binomial(successes, trials)


# ---------------------------------------------------------------------------- the curve


@pytest.fixture(scope="module")
def finder() -> Transformer:
    """Answers 0 or 1 for a red or a green patch, if that patch reaches expert 0, which all want:
    grey ones with probability .6, coloured ones with .76, so that these are the surest."""
    moe = MoEConfig(d_model=16, d_ff=8, experts=2, top_k=1, activation="relu")
    config = ModelConfig(**IMAGE | {"blocks": 1}, moe=moe, classes=2)
    model = Transformer(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" not in name:
                p.zero_()
        model.embed.weight[0, 0::3] = 1 / 1024  # mean red, mean green, and a constant
        model.embed.weight[1, 1::3] = 1 / 1024
        model.embed.bias[2] = 1
        layer = model.blocks[0].ffn
        layer.router.weight[0, :3] = torch.tensor([2.0, 2.0, 0.1])
        layer.experts.w_in[0, 0, 0] = layer.experts.w_in[0, 1, 1] = 1
        layer.experts.w_out[0, 0, 3] = layer.experts.w_out[0, 1, 4] = 10
        model.classify.weight[0, 3] = model.classify.weight[1, 4] = 1
    return model


@pytest.fixture(scope="module")
def coloured() -> tuple[np.ndarray, np.ndarray]:
    """Grey pictures whose last patch of sixteen is red (class 0) or green (1)."""
    classes = np.arange(40) % 2
    pictures = np.full((40, 128, 128, 3), 115, np.uint8)
    for picture, of in zip(pictures, classes, strict=True):
        picture[96:, 96:] = (255, 0, 115) if of == 0 else (0, 255, 115)
    return pictures, classes


def curve(model: Transformer, pictures: np.ndarray, classes: np.ndarray, **asked) -> list[dict]:
    return capacity_curve(limited(model, pictures, classes, **asked), resampled(classes, 50))


def test_who_is_served_first_decides_what_is_seen(finder, coloured):
    # C = ceil(.25 * 16 / 2) = 2 of 16: the last in line is left out, the surest is not
    rows = {row["order"]: row for row in curve(finder, *coloured, factors=(0.25,))}
    assert rows["position"]["accuracy"] == 0.5  # every answer is 0
    assert rows["priority"]["accuracy"] == 1
    assert rows[None]["accuracy"] == 1
    # at random the coloured patch is served in 2 of 16 cases: half of those repair an answer
    assert 0.5 <= rows["random"]["accuracy"] < 0.7
    for row in rows.values():
        assert row["kept"] == (2 / 16 if row["order"] else 1)
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert (row["low"], row["high"]) == binomial(round(40 * row["accuracy"]), 40)
        assert row["classified"] == 40
        low, high = row["error_interval"]
        assert low <= row["relative_error"] <= high


def test_the_gain_of_serving_the_surest_first(finder, coloured):
    runs = limited(finder, *coloured, factors=(0.25, 2.0))
    draws = resampled(coloured[1], 200)
    gain = priority_gain(runs, "position", draws)["accuracy"]
    # at .25 all answers of class 1 are repaired; at 2 there are places for all
    assert [row["value"] for row in gain["factors"]] == [0.5, 0]
    assert gain["low"] == {"value": 0.5, "interval": (0.5, 0.5)}  # of every draw one half
    over = priority_gain(runs, "random", draws)["accuracy"]["low"]
    assert 0.3 < over["interval"][0] < over["value"] < over["interval"][1] <= 0.5


def test_the_gain_in_error_is_the_difference_of_the_curve():
    """Two pictures with baselines 1 and 3: the first has .4 less error, the second .2."""
    right = np.array([True, False])
    error = {"priority": [0.2, 1.0], "random": [0.6, 1.2]}
    runs = [
        Limited(order, 0.5, 0.5, right, np.array(error[order]), np.array([1.0, 3.0]))
        for order in error
    ]
    draws = np.array([[2, 0], [1, 1], [0, 2]])
    gain = priority_gain(runs, "random", draws)["error"]["low"]
    assert gain["value"] == pytest.approx(0.6 / 4)
    # draws of .8 / 2, .6 / 4 and .4 / 6
    assert gain["interval"] == pytest.approx((1 / 15 + 0.05 / 12, 0.15 + 0.95 * 0.25))


def test_an_order_that_changes_nothing_gains_nothing(coloured):
    """Scores that are all the same leave the surest no surer: priority is the order of position."""
    model = Transformer(CLASSES, seed=3).eval()
    with torch.no_grad():
        for _, layer in model.moe_layers:
            layer.router.weight.zero_()
    runs = limited(model, *coloured, factors=(0.25,))
    gain = priority_gain(runs, "position", resampled(coloured[1], 50))
    for name in ("accuracy", "error"):
        assert gain[name]["low"] == {"value": 0, "interval": (0, 0)}


def test_chance_serves_everybody_some_time(finder, coloured):
    served = [
        curve(finder, *coloured, factors=(0.25,), orders=("random",), seed=seed)[0]
        for seed in range(12)
    ]
    # 240 pictures of class 1, an eighth of them served: 30, standard deviation 5.1
    repaired = sum((row["accuracy"] - 0.5) * 40 for row in served)
    assert abs(repaired - 30) < 4 * 5.1


def test_with_places_for_all_the_order_finds_nothing(coloured):
    model = Transformer(CLASSES, seed=3).eval()
    pictures, classes = coloured
    rows = curve(model, pictures[:6], classes[:6], factors=(2.0,))  # E / K
    assert [(row["order"], row["factor"]) for row in rows] == [
        ("position", 2.0),
        ("priority", 2.0),
        ("random", 2.0),
        (None, None),
    ]
    assert len({(row["accuracy"], row["kept"], row["relative_error"]) for row in rows}) == 1
    assert rows[0]["kept"] == 1
    free = metrics.class_metrics(model, pictures[:6], classes[:6])
    assert rows[-1]["accuracy"] == free["class_accuracy"]
    whole = metrics.image_metrics(model, pictures[:6])
    assert rows[-1]["relative_error"] == whole["relative_error"]


@pytest.mark.parametrize("name", ["image-e8", "image-ffn"])
def test_only_where_tokens_choose_and_pictures_have_classes(name, coloured):
    with pytest.raises(ValueError, match="0 classes and router"):
        limited(Transformer(TINY[name]), *coloured)
