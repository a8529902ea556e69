"""Chapter 5, figure by figure (VG-35 .. VG-43): the facts that its pictures show."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import SPARSE, TEXT

from mhmoe.analysis import balance, capacity
from mhmoe.analysis.router import softmax
from mhmoe.figures import capacity_plates as plates
from mhmoe.layers import METHODS, WhatIf, losses
from mhmoe.layers.buffers import capacity as places_of
from mhmoe.models import engine
from mhmoe.models.config import ModelConfig
from mhmoe.models.transformer import Transformer
from mhmoe.ui import capacity_panels as panels

FACTORS = panels.FACTORS
SENTENCE = "The dog sleeps. 今天"


def unpacked(packed: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["f4"]), "<f4").reshape(packed["shape"])


def octets(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8)


@pytest.fixture(params=[4, 1], ids=["heads", "plain"])
def loaded(request, models) -> engine.Loaded:
    """A tiny text model with or without heads."""
    config = ModelConfig(**TEXT, moe=SPARSE.matched(request.param))
    return engine.Loaded("tiny", Transformer(config, seed=3).eval(), {"sha256": ""})


@pytest.fixture
def layer(loaded):
    return engine.trace_text(loaded, SENTENCE, vectors=True)[0].layers[1]


def scores(rows: int = 40, experts: int = 6, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, experts)).astype(np.float32)


def demand_of(filled: engine.Filled) -> np.ndarray:
    E = filled.ranked.shape[1]
    return np.bincount(filled.ranked[:, : filled.top_k].ravel(), minlength=E)


# ------------------------------------------------------------------------------- VG-35


def test_vg35_the_guides_six_tokens_by_hand():
    growing = capacity.growing_demand(np.array([[0]] * 5 + [[3]]), heads=1, experts=4)
    assert growing[-1].tolist() == [5, 0, 0, 1]
    assert balance.max_violation(growing[-1]) == pytest.approx((5 - 1.5) / 1.5)
    assert round(float(balance.max_violation(growing[-1])), 2) == 2.33
    assert capacity.gini(np.array([1, 1, 1, 1])) == pytest.approx(0)
    assert capacity.gini(np.array([0, 0, 0, 9])) == pytest.approx(3 / 4)


def test_vg35_the_whole_text_is_the_layers_demand_and_short_texts_look_uneven(layer):
    growing = capacity.growing_demand(layer.expert, layer.heads, layer.experts)
    assert growing[-1].tolist() == layer.demand.tolist()
    assert (growing.sum(1) == np.arange(1, len(growing) + 1) * layer.heads * layer.top_k).all()
    mean, low, high = capacity.growing_chance(layer)
    assert (low <= mean).all()
    assert (mean <= high).all()
    assert mean[0] > mean[-1]


# ------------------------------------------------------------------------------- VG-36, 37


def guide(key: str) -> dict[str, engine.Filled]:
    _, experts, wanted, _ = panels.GUIDE[key]
    logits = panels._scores_for(wanted, experts)
    return {p: engine.fill(logits, p, FACTORS) for p in engine.POLICIES}


def test_vg36_only_asking_on_gives_the_guides_picture():
    filled, stop = guide("vg36"), FACTORS.index(1.5)
    assert filled["drop"].capacity[stop] == 3
    assert filled["drop"].kept[stop, :, 0].tolist() == [True, True, True, False, False, True]
    assert filled["reroute"].expert[stop, :, 0].tolist() == [0, 0, 0, 3, 3, 3]


def test_vg37_the_seventh_token_is_seated_while_a_place_is_free():
    filled, stop = guide("vg37"), FACTORS.index(1.5)
    assert not filled["drop"].kept[stop, 6, 0]
    assert filled["reroute"].kept[stop].all()
    assert filled["reroute"].expert[stop, 6, 0] == 1  # its third choice, which the guide skips


@pytest.mark.parametrize("policy", engine.POLICIES)
def test_vg36_a_policy_places_as_its_paper_does(policy):
    method = METHODS[engine.POLICIES[policy]]
    filled = engine.fill(scores(), policy, FACTORS)
    assert filled.top_k == method.position("top_k")
    load = capacity.loads(filled.expert, filled.kept, 6)
    for n, C in enumerate(filled.capacity):
        if C is None:
            assert filled.kept[n].all()
            continue
        assert load[n].max() <= C
        for e in range(6):  # places are 0, 1, .. without a gap
            mine = filled.kept[n] & (filled.expert[n] == e)
            assert sorted(filled.slot[n][mine].tolist()) == list(range(load[n, e]))
        if policy != "reroute":
            assert load[n].tolist() == np.minimum(demand_of(filled), C).tolist()


def test_vg36_first_come_first_served_is_the_order_of_the_text():
    filled = engine.fill(scores(), "drop", FACTORS)
    C = filled.capacity[FACTORS.index(1.0)]
    kept = filled.kept[FACTORS.index(1.0), :, 0]
    for e in range(6):
        asking = np.flatnonzero(filled.ranked[:, 0] == e)
        assert kept[asking].tolist() == [i < C for i in range(len(asking))]


def test_vg36_priority_serves_the_surest_first_and_drops_as_many():
    two, first = (engine.fill(scores(), p, FACTORS) for p in ("two", "priority"))
    assert (np.diff(first.probs.max(1)[first.order]) <= 0).all()
    assert capacity.dropped(two.kept) == pytest.approx(capacity.dropped(first.kept))
    stop = FACTORS.index(0.5)
    for e in range(6):
        mine = first.ranked[:, 0] == e
        kept, lost = (first.probs[mine & (first.kept[stop, :, 0] == k)].max(1) for k in (1, 0))
        if len(kept) and len(lost):
            assert kept.min() >= lost.max()


def test_vg37_rerouting_leaves_nobody_out_while_a_place_is_free():
    filled = engine.fill(scores(), "reroute", FACTORS)
    chance = capacity.reroute_chance(6, 1, 40, filled.capacity)
    np.testing.assert_allclose(capacity.dropped(filled.kept), chance, atol=1e-9)


def test_two_choices_without_a_limit_are_what_the_layer_did(layer):
    filled = engine.fill(layer.logits, "two", FACTORS)
    assert np.array_equal(filled.expert[-1], layer.expert)
    assert np.array_equal(filled.slot[-1], layer.slot)
    np.testing.assert_allclose(filled.gate[-1], layer.gate, atol=1e-6)


def test_the_loss_of_a_policy_is_that_of_the_whole_model_rerun(loaded):
    factors = (0.5, 1.0, None)
    for policy, what_if in (
        ("two", {"top_k": 2}),
        ("drop", {"top_k": 1}),
        ("priority", {"top_k": 2, "order": "priority"}),
    ):
        bits = engine.bits_by_policy(loaded, SENTENCE, policy, factors)
        runs = engine.trace_text(loaded, SENTENCE, WhatIf(capacity_factors=factors, **what_if))
        np.testing.assert_allclose(bits, [run.bits_per_byte for run in runs], rtol=1e-5)
    moe = replace(loaded.model.config.moe, overflow="reroute")
    other = Transformer(replace(loaded.model.config, moe=moe)).eval()
    other.load_state_dict(loaded.model.state_dict())
    asking = engine.Loaded("asking", other, loaded.card)
    runs = engine.trace_text(asking, SENTENCE, WhatIf(capacity_factors=factors, top_k=1))
    bits = engine.bits_by_policy(loaded, SENTENCE, "reroute", factors)
    np.testing.assert_allclose(bits, [run.bits_per_byte for run in runs], rtol=1e-5)
    assert loaded.model.moe_layers[0][1].config.overflow == "drop"  # the model is as it was
    assert np.isnan(engine.bits_by_policy(loaded, "a", "drop", factors)).all()


def test_vg37_without_a_place_the_layer_adds_nothing_and_the_residual_stays(loaded, layer):
    trace = engine.trace_text(loaded, SENTENCE, vectors=True)[0]
    opened = engine.open_layer(loaded, trace, 1)
    filled = engine.fill(layer.logits, "two", FACTORS)
    T = trace.input.count

    def error(weight: np.ndarray) -> np.ndarray:
        return capacity.output_error(filled.expert, weight, opened.expert_out, T, opened.merge)

    found = error(np.where(filled.kept, filled.gate, 0))
    assert found[-1] == 0
    assert (found >= 0).all()
    nothing = filled.gate.copy()
    nothing[0] = 0
    assert error(nothing)[0] == pytest.approx(1)  # an output of length 0: all of it is missing


def test_the_question_is_about_the_last_one_turned_away():
    first = np.array([0, 1, 0, 0, 1])
    by_position = np.array([True, True, True, False, True])
    order = np.array([3, 0, 4, 1, 2])  # by priority the fourth comes first
    asked = capacity.late_comer(first, by_position, by_position, order)
    assert asked == (3, 0, 3)
    assert capacity.late_comer(first, np.ones(5, bool), by_position, order) is None


def board_of(layer, names: list[str]) -> dict:
    outcomes = [
        plates.Outcome(p, engine.fill(layer.logits, p, FACTORS), None, None, None)
        for p in engine.POLICIES
    ]
    case = plates.board_case("live", names, layer.heads, outcomes)
    return plates.board([case], FACTORS, layer.layer + 1)


def test_vg36_the_picture_holds_every_choice_of_every_policy(layer):
    names = [str(i) for i in range(layer.sub_tokens // layer.heads)]
    case = board_of(layer, names)["cases"][0]
    assert [p["key"] for p in case["policies"]] == list(engine.POLICIES)
    for told in case["policies"]:
        filled = engine.fill(layer.logits, told["key"], FACTORS)
        choice = octets(told["choice"]).reshape(filled.expert.shape)
        seated = choice < plates.AWAY
        assert np.array_equal(seated, filled.kept)
        assert np.array_equal(choice[seated], filled.expert[filled.kept])
        assert told["load"] == capacity.loads(filled.expert, filled.kept, layer.experts).tolist()
        assert told["empty"][-1] is None


def test_the_longest_text_fits_into_a_hundred_kilobytes():
    logits = scores(512, 8)
    outcomes = [
        plates.Outcome(p, engine.fill(logits, p, FACTORS), *[np.zeros(len(FACTORS))] * 3)
        for p in engine.POLICIES
    ]
    case = plates.board_case("live", ["word"] * 128, 4, outcomes, full=["a word"] * 128)
    assert len(json.dumps(plates.board([case], FACTORS, 1))) < 100_000


# ------------------------------------------------------------------------------- VG-40, 41, 42


def test_vg41_six_tokens_three_experts():
    assert places_of(1.0, 1, 6, 3) == 2
    assert places_of(1.5, 1, 6, 3) == 3
    assert places_of(1.0, 2, 6, 3) == 4  # C-11: k choices need k times the places


def test_vg40_the_picture_has_the_formula_for_all_sizes():
    table = np.arange(2 * 1 * 2 * 3 * 4).reshape(2, 1, 2, 3, 4)
    start = dict.fromkeys(("heads", "experts", "choices", "factors", "tokens"), 0)
    data = plates.places((1, 2, 3, 4), (1, 4), (8,), (1, 2), (0.5, 1, 2), table, start, start)
    read = np.frombuffer(base64.b64decode(data["table"]), "<u2").reshape(table.shape)
    assert np.array_equal(read, table)


def test_vg42_one_overflow_at_factor_1_and_three_empty_places_at_1_5():
    filled = guide("vg42")["drop"]
    load = capacity.loads(filled.expert, filled.kept, 3)
    assert demand_of(filled).tolist() == [3, 1, 2]
    one, more = FACTORS.index(1.0), FACTORS.index(1.5)
    assert [filled.capacity[n] for n in (one, more)] == [2, 3]
    assert (~filled.kept[one]).sum() == 1
    assert (~filled.kept[more]).sum() == 0
    spare = capacity.empty(load, filled.capacity)
    assert spare[more] == pytest.approx(3 / 9)
    assert np.isnan(spare[-1])


def test_vg42_more_places_drop_less_in_every_layer(loaded):
    factors = (0.5, 1.0, 2.0, None)
    runs = engine.trace_text(loaded, SENTENCE, WhatIf(capacity_factors=factors))
    layers = [[run.layers[i] for run in runs] for i in range(2)]
    bits = [run.bits_per_byte for run in runs]
    data = plates.sweep(layers, factors, np.zeros(4), bits, chosen=1)
    first = data["layers"][0]  # its input is the same at every factor
    assert (np.diff(first["dropped"]) <= 0).all()
    for row, told in zip(layers, data["layers"], strict=True):
        assert told["dropped"][-1] == 0
        assert told["empty"][-1] is None
        assert told["dropped"] == [round(run.dropped_share, 4) for run in row]


def test_chance_of_a_drop_by_hand():
    capacities = (1, 2, None)
    found = capacity.drop_chance(2, 1, 2, capacities)
    assert found[0] == pytest.approx(0.25, abs=0.06)  # both on one expert half of the time
    assert found[1:].tolist() == [0, 0]


# ------------------------------------------------------------------------------- VG-43


def value_of(probs: np.ndarray, expert: np.ndarray) -> float:
    mean = torch.from_numpy(probs.mean(0))
    counts = losses.demand(torch.from_numpy(expert)[:, None], probs.shape[1])
    return float(losses.balance(mean, counts))


@pytest.mark.parametrize(
    ("key", "value"), [("even", 1.0), ("collapse", 4.0), ("below", 0.934), ("guide", 16 / 15)]
)
def test_vg43_presets(key, value):
    rows, chips = panels.PRESETS[key]
    probs = np.array(rows)
    expert = probs.argmax(1) if chips is None else np.array(chips)
    assert value_of(probs, expert) == pytest.approx(value, abs=1e-3)


def test_vg43_the_guides_bars_do_not_give_its_f():
    rows, chips = panels.PRESETS["guide"]
    assert np.bincount(chips, minlength=3).tolist() == [4, 2, 0]
    assert np.bincount(np.array(rows).argmax(1), minlength=3).tolist() == [3, 1, 2]


def test_vg43_the_slope_comes_through_p_alone():
    logits = scores(20, 5)
    pushes = engine.push_scores(logits, np.array([-1.0, 0.0, 1.0]))
    probs, first = softmax(logits), logits.argmax(1)
    share = np.bincount(first, minlength=5) / 20
    np.testing.assert_allclose(pushes.balance[:, 1], value_of(probs, first), rtol=1e-5)
    slope = 5 * share @ capacity.mean_jacobian(probs)
    np.testing.assert_allclose(pushes.slope[:, 1], np.tile(slope, (5, 1)), atol=1e-5)
    step = 1e-3
    for e in range(5):  # with f held, the loss changes by this slope
        moved = logits.astype(float) + step * (np.arange(5) == e)
        change = 5 * share @ (softmax(moved).mean(0) - probs.mean(0)) / step
        assert change == pytest.approx(slope[e], abs=1e-3)


def test_vg43_a_push_moves_p_and_flips_first_choices():
    logits = scores(20, 5)
    pushes = engine.push_scores(logits, panels.SHIFTS)
    for e in range(5):
        assert (np.diff(pushes.mean[e, :, e]) > 0).all()
        assert (np.diff((pushes.expert[e] == e).sum(1)) >= 0).all()
    probs = softmax(logits)
    case = plates.balance_case("live", ["x"] * 5, 4, probs, pushes, logits.argmax(1))
    assert case["shifts"][case["rest"]] == 0
    assert unpacked(case["pushed"]["mean"]).shape == (5, 33, 5)
    first = octets(case["pushed"]["expert"]).reshape(5, 33, 20)
    assert first[0, case["rest"]].tolist() == case["expert"]
