"""Chapter 4, figure by figure (VG-25 .. VG-34): the facts that its pictures show."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import numpy as np
import pytest

from mhmoe.analysis import balance, balancing
from mhmoe.analysis.router import gates, softmax
from mhmoe.figures import balancing_plates as plates
from mhmoe.models import engine, forces
from mhmoe.ui import language
from mhmoe.ui.balancing_panels import CHOICES, SCALES, STRENGTHS

TEXT = "The dog sleeps. 今天"
NAMES = ("text-e8-h4", "text-e8")
#: By hand: two experts near each other, one far below.
CLEAN = np.array([[1.0, 0.9, -3.0], [0.0, 2.0, 1.0]], np.float32)


@pytest.fixture(params=NAMES)
def trace(request, models):
    return engine.trace_text(engine.load(request.param), TEXT, vectors=True)[0]


@pytest.fixture
def layer(trace):
    return trace.layers[1]


def unpacked(packed: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["f4"]), "<f4").reshape(packed["shape"])


# ------------------------------------------------------------------------------- VG-25


def test_vg25_draws_and_formula_agree_with_the_exact_probability(layer):
    std = forces.fixed_std(layer.logits)
    found = forces.redraw(layer.logits, std, 0, layer.top_k, SCALES)
    rest = SCALES.index(1)
    exact = balancing.chosen_probability(layer.logits[0].astype(float), std[0], layer.top_k)
    assert exact.sum() == pytest.approx(layer.top_k, abs=1e-6)
    assert balancing.within_errors(found.share[rest], exact, forces.DRAWS)
    np.testing.assert_allclose(found.closed[rest], exact, atol=0.05)
    np.testing.assert_allclose(found.share.sum(1), layer.top_k, rtol=1e-5)


def test_vg25_without_noise_nothing_changes_and_the_first_choice_is_half_when_two_are_equal():
    still = forces.redraw(CLEAN, forces.first_std(CLEAN), 1, 1, (0, 1))
    assert not still.moved[0].any()
    np.testing.assert_array_equal(still.share[0], [0, 1, 0])
    even = balancing.chosen_probability(np.array([1.0, 1.0]), np.ones(2), 1)
    np.testing.assert_allclose(even, [0.5, 0.5], atol=1e-6)


def test_vg25_c04_the_noise_starts_at_ln_2_and_the_fixed_one_is_one_over_e():
    assert forces.first_std(CLEAN)[0, 0] == pytest.approx(0.693, abs=1e-3)
    assert forces.fixed_std(CLEAN)[0, 0] == pytest.approx(1 / 3)


# ------------------------------------------------------------------------------- VG-26, 27


def test_vg26_c01_every_row_loses_its_own_smallest_scores(layer):
    data = plates.mask(layer, ["x"] * (layer.sub_tokens // layer.heads), 0, 0)
    scores, rank = np.array(data["scores"]), np.array(data["rank"])
    for k in range(1, layer.experts + 1):
        kept = np.where(rank < k, scores, np.inf).min(1)
        masked = np.where(rank >= k, scores, -np.inf).max(1)
        assert ((rank < k).sum(1) == k).all()
        assert (kept >= masked).all()


def test_vg27_survivors_are_divided_by_their_sum_and_the_rest_is_exactly_zero(layer):
    data = plates.mask(layer, ["x"] * (layer.sub_tokens // layer.heads), 0, 0)
    drawn, probs = unpacked(data["gates"]), np.array(data["probs"])
    kept = np.array(data["rank"]) < 2
    by_hand = np.where(kept, probs, 0) / np.where(kept, probs, 0).sum(1, keepdims=True)
    np.testing.assert_allclose(drawn[1], by_hand, atol=1e-3)
    assert (drawn[1][~kept] == 0).all()
    assert balancing.masks_agree(layer.logits)


# ------------------------------------------------------------------------------- VG-28, 29


def test_vg28_vg29_tokens_choose_k_experts_choose_equally_soft_mixes_all(layer):
    S, E = layer.logits.shape
    for k in CHOICES:
        tokens = forces.weights_under("linear", layer.logits, k)
        assert ((tokens > 0).sum(1) == k).all()
        experts = forces.weights_under("expert-choice", layer.logits, k)
        assert set((experts > 0).sum(0)) == {min(S, -(-k * S // E))}
    ours = forces.weights_under("linear", layer.logits, layer.top_k)
    np.testing.assert_array_equal((ours > 0).sum(0), layer.demand)
    soft = forces.weights_under("soft-moe", layer.logits, 1)
    np.testing.assert_allclose(soft, softmax(layer.logits), atol=1e-5)


# ------------------------------------------------------------------------------- VG-30


def test_vg30_c06_importance_totals_the_number_of_sub_tokens(layer):
    given = balancing.gate_sums(layer, "topk-softmax")
    assert given.sum() == pytest.approx(layer.sub_tokens)
    assert given.shape == (layer.sub_tokens // layer.heads, layer.experts)
    ours = balancing.gate_sums(layer, layer.gate_convention).sum(0)
    np.testing.assert_allclose(ours, layer.importance, atol=1e-4)
    chance = balancing.growing_chance(layer, "topk-softmax")
    assert chance[0] > chance[-1] > 0


# ------------------------------------------------------------------------------- VG-31 .. 33


def test_vg31_vg32_vg33_c07_exact_values_of_both_conventions():
    found = [(balancing.variation(v), balancing.variation(v, sample=True)) for v in balancing.GUIDE]
    np.testing.assert_allclose(found, [(1.0048, 1.1234), (0.1884, 0.2107)], atol=1e-4)
    assert [sum(v) for v in balancing.GUIDE] == pytest.approx([1.35, 1.30])
    assert balancing.variation([1, 0, 0, 0, 0]) == pytest.approx(2)  # sqrt(E - 1)


# ------------------------------------------------------------------------------- VG-34


def test_vg34_the_pull_is_minus_the_gradient(layer):
    """Against a finite difference: of importance, with the choices held as they are."""
    found = forces.descend(layer.logits, layer.top_k, layer.gate_convention, "importance", (1.0,))
    step = 1e-3
    chosen = gates(layer.logits, layer.top_k, "softmax-topk") > 0

    def loss(added: np.ndarray) -> float:
        weights = np.where(chosen, softmax(layer.logits.astype(float) + added), 0)
        return float(balance.variation(weights.sum(0)) ** 2)

    for e in range(layer.experts):
        push = np.eye(layer.experts)[e] * step
        slope = (loss(push) - loss(-push)) / (2 * step)
        assert found.pull[0, 0, e] == pytest.approx(-slope, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("loss", STRENGTHS)
def test_vg34_x05_the_way_starts_at_the_layer_and_keeps_every_choice(layer, loss):
    strengths = STRENGTHS[loss]
    found = forces.descend(layer.logits, layer.top_k, layer.gate_convention, loss, strengths)
    np.testing.assert_array_equal(found.load[:, 0], np.tile(layer.demand, (len(strengths), 1)))
    np.testing.assert_allclose(found.load.sum(-1), layer.sub_tokens * layer.top_k)
    assert not found.added[:, 0].any()


def test_vg34_descent_evens_out_scores_with_a_favourite():
    favour = np.array([1, 0, 0, -1], np.float32)
    scores = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32) + favour
    for loss, strengths in STRENGTHS.items():
        found = forces.descend(scores, 2, "softmax-topk", loss, strengths, steps=60)
        uneven = balance.variation(found.load if loss == "bias" else found.importance)
        assert uneven[1, -1] < 0.5 * uneven[1, 0]


# ------------------------------------------------------------------------------- C-08, X-03


def test_c08_equal_importance_unequal_load():
    made = balancing.equal_gates()
    np.testing.assert_allclose(made.sum(1), 1)
    np.testing.assert_allclose(made.sum(0), 4)
    assert (made > 0).sum(0).tolist() == [5, 5, 11, 11]


def test_x03_rounding_moves_the_probability_and_z_sees_a_shift():
    exact, coarse = forces.rounded_softmax(np.array([128.0] * 10 + [128.5]))
    assert (exact, coarse) == pytest.approx((0.142, 0.091), abs=1e-3)
    assert forces.z_loss(np.zeros((2, 8))) == pytest.approx(np.log(8) ** 2)
    assert forces.z_loss(CLEAN + 10) > forces.z_loss(CLEAN)


# ------------------------------------------------------------------------------- stored runs


def recipe(**changes) -> dict:
    moe = {"top_k": 2, "score": "softmax", "gate": "softmax-topk", "bias_update": 0.0}
    moe |= changes.pop("moe", {})
    return {"name": "a", "seed": 1, "balance": 0.01, "z": 0.0, "model": {"moe": moe}} | changes


def test_only_runs_that_differ_in_their_balancing_are_compared():
    free = {"score": "sigmoid", "gate": "renormalised", "bias_update": 0.001}
    assert balancing.departs(recipe(name="b", seed=2), recipe()) == ""
    assert balancing.departs(recipe(balance=0.1), recipe()) == "balance"
    assert balancing.departs(recipe(moe={"top_k": 1}), recipe()) == "k"
    assert balancing.departs(recipe(balance=0.0, moe=free), recipe()) == "free"
    assert balancing.departs(recipe(z=0.1), recipe()) is None
    assert balancing.departs(recipe(balance=0.1, moe={"top_k": 1}), recipe()) is None


def test_a_stored_run_has_its_gap_and_its_unevenness():
    demand = np.tile([[3.0, 1.0], [2.0, 2.0]], (100, 1, 1))
    facts = {"recipe": recipe(), "every": 2, "validation": [{"perplexity": np.exp(2.5)}]}
    run = balancing.kept("a-1", "", facts, {"demand": demand, "loss": np.full(100, 2.0)})
    assert run.gap == pytest.approx(0.5)
    assert run.step[-1] == 200
    np.testing.assert_allclose(run.uneven, 0.25)  # the mean of 0.5 and 0
    assert plates.kept_runs([run])["runs"][0]["what"] == "balance"


# ------------------------------------------------------------------------------- the plates


def test_no_plate_is_larger_than_a_tenth_of_a_megabyte(trace, layer):
    many = 128 // (layer.sub_tokens // layer.heads) + 1
    layer = replace(layer, logits=np.tile(layer.logits, (many, 1))[: 128 * layer.heads])
    names = ["token"] * 128
    sums = {key: balancing.gate_sums(layer, key) for key in ("softmax-topk", "topk-softmax")}
    std = forces.fixed_std(layer.logits)
    drawn = forces.redraw(layer.logits, std, 0, layer.top_k, SCALES)
    found = {
        loss: forces.descend(layer.logits, layer.top_k, layer.gate_convention, loss, strengths)
        for loss, strengths in STRENGTHS.items()
    }
    weights = {
        name: [forces.weights_under(name, layer.logits, k) for k in CHOICES]
        for name in ("linear", "expert-choice")
    }
    chance = {key: np.zeros(128) for key in sums}
    data = [
        plates.importance(layer, names, sums, chance),
        plates.noise(layer.logits[0], 2, SCALES, [("fixed", std[0], drawn)] * 3, 128, 1000),
        plates.descent(found, 128, layer.top_k),
        plates.equal(layer, "topk-softmax"),
        plates.choice(replace(layer, demand=layer.demand), names, 3, weights),
    ]
    for plate in data:
        assert len(json.dumps(plate)) < 100_000, plate["plate"]


def test_the_texts_of_the_plates_are_all_there():
    said = language.section("en", "load-balancing.plate")
    for key in ("table", "csv", "svg", "png", "play", "pause", "expert", "chance"):
        assert said[key]
