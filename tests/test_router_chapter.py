"""Chapter 3, figure by figure (VG-16 .. VG-24): the facts that its pictures show."""

from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from mhmoe.analysis import router, routing
from mhmoe.figures import plates
from mhmoe.layers import METHODS, WhatIf
from mhmoe.models import checkpoint, engine
from mhmoe.trace import GATES, TextInput
from mhmoe.ui import language
from mhmoe.ui.explorer import Pick, Row, payload

TEXT = "The dog sleeps. 今天"
NAMES = ("text-e8-h4", "text-e8")
#: The probabilities printed in VG-16.
GUIDE = np.array([0.45, 0.19, 0.05, 0.31])


class Opened:
    """One layer of a tiny model, traced and laid open."""

    def __init__(self, name: str, index: int = 1):
        self.loaded, self.index = engine.load(name), index
        self.trace = engine.trace_text(self.loaded, TEXT, vectors=True)[0]
        self.layer = self.trace.layers[index]
        self.open = engine.open_layer(self.loaded, self.trace, index)
        self.module = self.loaded.model.moe_layers[index][1]

    @property
    def tokens(self) -> int:
        return self.trace.input.count


@pytest.fixture(params=NAMES)
def here(request, models) -> Opened:
    return Opened(request.param)


def unpacked(packed: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["f4"]), "<f4").reshape(packed["shape"])


# ------------------------------------------------------------------------------- VG-16, 38


def test_vg16_the_bars_sum_to_one_and_the_winner_weighs_45_only_under_convention_b():
    scores = np.log(GUIDE)
    assert GUIDE.sum() == pytest.approx(1)
    np.testing.assert_allclose(router.softmax(scores), GUIDE)
    np.testing.assert_allclose(router.gates(scores, 1, "softmax-topk"), [0.45, 0, 0, 0])
    np.testing.assert_allclose(router.gates(scores, 1, "topk-softmax"), [1, 0, 0, 0])


def test_vg16_two_choices_by_hand():
    scores = np.log(GUIDE)
    kept = [0.45 / 0.76, 0, 0, 0.31 / 0.76]
    np.testing.assert_allclose(router.gates(scores, 2, "topk-softmax"), kept)
    np.testing.assert_allclose(router.gates(scores, 2, "renormalised"), kept)
    np.testing.assert_allclose(router.gates(scores, 2, "softmax-topk"), [0.45, 0, 0, 0.31])


def test_vg16_all_conventions_choose_what_the_model_chose(here):
    layer = here.layer
    for name in GATES:
        weights = router.gates(layer.logits, layer.top_k, name)
        assert ((weights > 0).sum(1) == layer.top_k).all()
        assert (np.take_along_axis(weights, layer.expert, 1) > 0).all()
    ours = router.gates(layer.logits, layer.top_k, layer.gate_convention)
    np.testing.assert_allclose(np.take_along_axis(ours, layer.expert, 1), layer.gate, atol=1e-6)


def test_vg16_the_picture_holds_the_followed_row(here):
    H = here.layer.heads
    data = plates.gates(here.layer, 2, H - 1)
    row = 2 * H + H - 1
    np.testing.assert_allclose(data["scores"], here.layer.logits[row], atol=1e-4)
    assert data["chosen"] == here.layer.expert[row].tolist()
    assert sum(data["gates"]["topk-softmax"]) == pytest.approx(1, abs=1e-3)


def test_an_unknown_convention_is_refused():
    with pytest.raises(ValueError, match="none of topk-softmax"):
        router.gates(np.zeros(3), 1, "loudest")


def test_how_decided_a_router_is(here):
    E = here.layer.experts
    even = replace(here.layer, probs=np.full_like(here.layer.probs, 1 / E))
    assert routing.first_probability(even) == pytest.approx(1 / E)
    sure = replace(here.layer, probs=np.eye(E)[here.layer.expert[:, 0]])
    assert routing.first_probability(sure) == 1
    first = here.layer.probs[np.arange(here.layer.sub_tokens), here.layer.expert[:, 0]]
    assert routing.first_probability(here.layer) == pytest.approx(first.mean())


# ------------------------------------------------------------------------------- VG-17


def test_vg17_the_parts_are_all_weights_of_the_layer(here):
    p, E = here.open.parameters, here.layer.experts
    width = here.open.sub.shape[1] * here.layer.heads
    square = 2 * width**2 if here.layer.heads > 1 else 0
    assert p["router"] == E * here.open.sub.shape[1]
    assert p["router"] + E * p["expert"] + square == p["layer"]
    assert p["layer"] == sum(v.numel() for v in here.module.parameters())
    assert p["model"] == here.loaded.card["params_total"]


def test_vg17_the_neurons_are_those_of_the_first_choice(here):
    s = here.layer.heads  # first sub-token of token 1
    e = int(here.layer.expert[s, 0])
    active = engine.neurons(here.loaded, here.index, e, here.open.sub[s])
    assert active.shape == (here.open.hidden,)
    w_out = here.module.experts.w_out[e].detach().numpy()
    np.testing.assert_allclose(active @ w_out, here.open.expert_out[s, e], atol=1e-5)
    data = plates.zoom(here.layer, 2, here.open, 1, 0, active)
    assert data["firing"] == int((active > 0).sum())
    assert data["chosen"][0] == e


# ------------------------------------------------------------------------------- VG-18


def mixtures(here: Opened) -> np.ndarray:
    return router.mixtures(
        here.layer.logits,
        here.open.expert_out,
        here.layer.gate_convention,
        here.tokens,
        here.open.merge,
    )


def test_vg18_k_equal_to_e_is_the_dense_mixture(here):
    y = mixtures(here)
    dense = (here.layer.probs[..., None] * here.open.expert_out).sum(1)
    whole = router.merged(dense, here.tokens, here.open.merge)
    np.testing.assert_allclose(y[-1], whole, atol=1e-5)
    assert (router.relative_error(y)[-1] == 0).all()


def test_vg18_the_trained_k_gives_the_layers_own_output(here):
    y = mixtures(here)[here.layer.top_k - 1]
    np.testing.assert_allclose(y, here.layer.vectors["out"], atol=1e-5)


def test_vg18_by_hand():
    scores, out = np.log([[0.75, 0.25]]), np.array([[[4.0, 0.0], [0.0, 8.0]]])
    y = router.mixtures(scores, out, "softmax-topk", tokens=1)
    np.testing.assert_allclose(y[:, 0], [[3, 0], [3, 2]])
    np.testing.assert_allclose(router.relative_error(y)[:, 0], [2 / np.sqrt(13), 0])
    renormalised = router.mixtures(scores, out, "renormalised", tokens=1)
    np.testing.assert_allclose(renormalised[:, 0], [[4, 0], [3, 2]])


def test_vg18_every_added_expert_costs_the_same(here):
    c = here.module.config
    steps = np.diff(here.open.macs)
    assert (steps == c.heads * 2 * c.d_head * c.d_ff).all()
    assert here.open.macs[c.top_k - 1] == c.macs_per_token


def test_vg18_the_loss_is_of_the_whole_model_rerun(here):
    bits = engine.bits_by_k(here.loaded, TEXT)
    for k in (1, 2, 4):
        rerun = engine.trace_text(here.loaded, TEXT, WhatIf(top_k=k))[0]
        assert bits[k - 1] == pytest.approx(rerun.bits_per_byte, rel=1e-5)
    assert np.isnan(engine.bits_by_k(here.loaded, "a")).all()


# ------------------------------------------------------------------------------- VG-19, 39


def test_vg19_a_score_is_a_row_times_a_column(here):
    x, w, h = here.open.sub, here.open.router.T, here.layer.logits
    assert x.shape[1] == w.shape[0]  # C-02: shapes that fit
    assert h.shape == (x.shape[0], w.shape[1])
    for s, e in ((0, 0), (3, 2)):
        total = sum(float(x[s, i] * w[i, e]) for i in range(len(w)))
        assert h[s, e] == pytest.approx(total, abs=1e-5)
    assert router.checks_of_product(x, here.open.router, h)
    assert not router.checks_of_product(x, here.open.router + 0.01, h)


def test_vg19_by_hand():
    x, w = np.array([[1.0, 2.0], [0.0, -1.0]]), np.array([[1.0, 0.0, 2.0], [3.0, 1.0, 0.0]])
    assert router.checks_of_product(x, w.T, np.array([[7, 2, 2], [-3, -1, 0]]))


def test_vg19_the_picture_holds_whole_tokens_around_the_followed_one(here):
    H = here.layer.heads
    names = [str(i) for i in range(here.tokens)]
    token = here.tokens - 1
    data = plates.product(here.layer, here.open, names, token, H - 1)
    x, w, h = (unpacked(data[name]) for name in ("x", "w", "h"))
    np.testing.assert_allclose(x @ w, h, atol=1e-5)
    assert len(x) == H * len(data["names"]) <= plates.PRODUCT_ROWS
    assert data["names"][data["row"] // H] == str(token)
    np.testing.assert_allclose(h[data["row"]], here.layer.logits[token * H + H - 1])


# ------------------------------------------------------------------------------- VG-20


def test_vg20_softmax_by_hand():
    found = router.stops(np.array([0.0]), np.array([[0.0, np.log(2.0), np.log(5.0)]]), k=2)
    np.testing.assert_allclose(found.probs[0], [1 / 8, 2 / 8, 5 / 8])
    assert found.margin[0] == pytest.approx(3 / 8)
    assert found.lse[0] == pytest.approx(np.log(8))
    assert found.chosen.tolist() == [[2, 1]]
    even = router.stops(np.array([0.0]), np.zeros((1, 8)), k=1)
    assert even.entropy[0] == pytest.approx(np.log(8))


def test_vg20_a_common_shift_moves_no_probability_but_log_sum_exp(here):
    found = router.by_shift(here.layer.logits[0].astype(float), here.layer.top_k)
    np.testing.assert_allclose(found.probs, np.tile(here.layer.probs[0], (21, 1)), atol=1e-6)
    np.testing.assert_allclose(found.lse - found.values, found.lse[10], atol=1e-9)


def test_vg20_temperature_levels_and_keeps_the_order(here):
    found = router.by_temperature(here.layer.logits[0].astype(float), here.layer.top_k)
    assert (np.diff(found.entropy) >= -1e-9).all()
    assert (found.chosen == here.layer.expert[0]).all()
    at_rest = found.values.tolist().index(1.0)
    np.testing.assert_allclose(found.probs[at_rest], here.layer.probs[0], atol=1e-6)


def test_vg20_pushing_one_score_scales_the_others_by_one_factor(here):
    found = router.by_push(here.layer.logits[0].astype(float), 1, here.layer.top_k)
    others = np.delete(found.probs, 1, axis=1) / np.delete(here.layer.probs[0], 1)
    np.testing.assert_allclose(others, np.tile(others[:, :1], others.shape[1]), rtol=1e-4)
    assert (np.diff(found.probs[:, 1]) > 0).all()


def test_vg20_the_picture_has_every_stop(here):
    data = plates.scrubbed(here.layer, 0, 0)
    assert len(data["push"]) == here.layer.experts
    assert [len(data[m]["values"]) for m in ("temperature", "shift")] == [17, 21]
    assert 1.0 in data["temperature"]["values"]
    assert 0.0 in data["push"][0]["values"]


# ------------------------------------------------------------------------------- VG-21


def test_vg21_the_stack_equals_the_layers_output(here):
    parts = router.contributions(here.layer, here.open.expert_out, here.open.merge)
    np.testing.assert_allclose(parts.sum(0), here.layer.vectors["out"], atol=1e-5)
    for token in range(here.tokens):
        mine = router.touched(here.layer, token)
        rest = [e for e in range(here.layer.experts) if e not in mine]
        assert (parts[rest, token] == 0).all()
        assert mine == sorted(mine, key=lambda e: -router.gate_sums(here.layer, token)[e])


def test_vg21_a_removed_expert_is_gone_from_that_layer_alone(here):
    model, (block, _) = here.loaded.model, here.loaded.model.moe_layers[here.index]
    ids = torch.tensor([engine.encode(here.loaded, TEXT)[0]])
    gone = int(here.layer.expert[0, 0])
    with torch.inference_mode():
        run = model(ids, what_if=WhatIf(experts_off=(gone,)), only_block=block)
    assert not (run.routing[here.index].expert == gone).any()
    before = here.trace.layers[0]
    assert np.array_equal(run.routing[0].expert[0].numpy(), before.expert)  # layer 0 as it was
    probs = engine.next_without(here.loaded, TEXT, here.index, 3, [gone])
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(probs[1], run.output[0, 3].softmax(-1), atol=1e-6)
    assert 0 < router.missed(probs)[0] < 1


def test_vg21_what_is_missed_by_hand():
    probs = np.array([[0.5, 0.3, 0.2, 0.0], [0.1, 0.3, 0.2, 0.4]])
    np.testing.assert_allclose(router.missed(probs), [0.4])
    assert router.likely(probs, 1, count=1).tolist() == [0, 3]


def test_vg21_the_picture_shows_the_largest_coordinates(here):
    parts, out = (
        router.contributions(here.layer, here.open.expert_out, here.open.merge)[:, 1],
        here.layer.vectors["out"],
    )
    experts = router.touched(here.layer, 1)
    data = plates.stack(parts, out[1], experts, np.ones(len(experts)), [], np.zeros(len(experts)))
    largest = np.abs(out[1][data["coordinates"]])
    assert (np.diff(largest) <= 0).all()
    np.testing.assert_allclose(np.sum(data["parts"], 0), data["out"], atol=1e-3)


# ------------------------------------------------------------------------------- VG-22, 23


def test_vg22_the_six_stages_in_numpy_give_the_layers_output(here):
    layer, opened = here.layer, here.open
    scores = opened.sub @ opened.router.T
    weights = router.gates(scores, layer.top_k, layer.gate_convention)
    combined = (weights[..., None] * opened.expert_out).sum(1)
    y = router.merged(combined, here.tokens, opened.merge)
    np.testing.assert_allclose(y, layer.vectors["out"], atol=1e-5)


def test_vg22_the_stage_draws_the_followed_token(here):
    rows = (Row("x", (here.trace,)),)
    stage = payload(rows, ("",), Pick(0, here.index, 2, 0))["stage"]
    H = here.layer.heads
    journey = stage["outcomes"][0]
    np.testing.assert_allclose(journey["gate"], here.layer.gate[2 * H : 3 * H], atol=1e-4)
    assert journey["expert"] == here.layer.expert[2 * H : 3 * H].tolist()


def test_vg23_gather_run_scatter_gives_the_layers_output(here):
    layer, opened = here.layer, here.open
    combined = np.zeros_like(opened.sub)
    for e, line in enumerate(router.queues(layer)):
        for s, k in line:  # the expert's queue, each output back to where it came from
            assert layer.expert[s, k] == e
            combined[s] += layer.gate[s, k] * opened.expert_out[s, e]
    y = router.merged(combined, here.tokens, opened.merge)
    np.testing.assert_allclose(y, layer.vectors["out"], atol=1e-5)
    assert router.scattered_back(layer)


def test_vg23_queues_keep_the_order_of_their_places(here):
    for e, line in enumerate(router.queues(here.layer)):
        assert [here.layer.slot[s, k] for s, k in line] == list(range(here.layer.load[e]))


def test_vg23_dropped_choices_stand_in_no_queue(models):
    loaded = engine.load("text-e8-h4")
    layer = engine.trace_text(loaded, TEXT, WhatIf(capacity_factors=(0.5,)))[0].layers[0]
    assert layer.dropped.sum() > 0
    assert [len(line) for line in router.queues(layer)] == layer.load.tolist()
    assert router.scattered_back(layer)


def test_vg23_a_long_text_is_cut_around_the_followed_token(here):
    assert isinstance(here.trace.input, TextInput)
    names = [str(i) for i in range(here.tokens)]
    data = plates.flow(here.layer, names, here.tokens - 1)
    assert data["names"][data["token"]] == names[-1]
    drawn = sum(len(line) for line in data["queues"])
    assert drawn == len(data["names"]) * here.layer.heads * here.layer.top_k
    assert [plates.window(t, 30, 10) for t in (0, 15, 29)] == [(0, 10), (10, 20), (20, 30)]
    assert plates.window(2, 4, 10) == (0, 4)


# ------------------------------------------------------------------------------- VG-24


def stored(name: str) -> router.Replay:
    from mhmoe.ui.runs import stored_run

    facts, arrays = stored_run.__wrapped__(name)
    return router.replay(name, facts["recipe"]["balance"], arrays["loss"], arrays["demand"])


def test_vg24_by_hand():
    demand = np.zeros((40, 1, 4))
    demand[:20, 0] = 0.25
    demand[20:, 0] = [0.5, 0.5 - 0.04, 0.04, 0.0]
    run = router.replay("x", 0.0, np.arange(40.0), demand, points=2)
    assert run.step.tolist() == [20, 40]
    np.testing.assert_allclose(run.loss, [9.5, 29.5])
    # 0.04 and 0 lie below 0.2 of the fair share 0.25, that is below 0.05
    assert run.dead.tolist() == [[0], [2]]
    np.testing.assert_allclose(run.share[1, 0], [0.5, 0.46, 0.04, 0.0])


def test_vg24_the_free_run_collapses_and_the_balanced_one_does_not():
    free, held = stored("collapse-free"), stored("collapse-balanced")
    assert (free.alpha, held.alpha) == (0.0, 0.01)
    assert free.step[-1] == held.step[-1] == 500
    for run in (free, held):
        np.testing.assert_allclose(run.share.sum(-1), 1, atol=1e-6)
        assert run.loss[-1] < 0.7 * run.loss[0]
    assert free.dead[-1].sum() >= 8  # of 32
    assert held.dead[-1].sum() == 0
    assert free.share[-1].max() > 0.5
    assert held.share[-1].max() < 0.25


def test_vg24_the_picture_holds_both_runs_at_the_same_steps():
    data = plates.collapse([stored("collapse-free"), stored("collapse-balanced")])
    share = unpacked(data["runs"][0]["share"])
    assert share.shape == (len(data["step"]), 4, 8)
    np.testing.assert_allclose(share.sum(-1), 1, atol=1e-5)


def test_vg24_a_damaged_run_is_named(models):
    from mhmoe.ui.runs import stored_run

    with pytest.raises(checkpoint.CheckpointError, match=r"nothing\.safetensors"):
        stored_run.__wrapped__("nothing")
    checkpoint.runs().mkdir()
    save_file({"loss": np.zeros(2, np.float32)}, checkpoint.runs() / "bare.safetensors")
    with pytest.raises(checkpoint.CheckpointError, match="bare"):
        stored_run.__wrapped__("bare")


# ------------------------------------------------------------------------------- all methods


def test_methods_on_the_same_scores(here):
    layer = here.layer
    found = engine.under_methods(layer.logits, layer.top_k)
    assert list(found) == list(METHODS)
    assert found["linear"].load.tolist() == layer.load.tolist()
    S, E = layer.logits.shape
    for key, seen in found.items():
        if seen is None:
            assert key in ("x-moe", "x-moe-code", "soft-moe-normalised")
            continue
        if key != "soft-moe":
            kept = seen.choices * S * (1 - seen.dropped)
            assert seen.load.sum() == pytest.approx(kept, abs=1e-6), key
    # one choice each, the largest score; places for 1.25 times the fair share, first come
    first = layer.logits.argmax(1)
    places = int(np.ceil(1.25 * S / E))
    demand = np.bincount(first, minlength=E)
    assert found["switch"].load.tolist() == np.minimum(demand, places).tolist()
    assert found["no-token-left-behind"].dropped == 0
    assert found["expert-choice"].load.tolist() == [-(-layer.top_k * S // E)] * E
    assert found["mixtral"].gate == pytest.approx(1)
    assert found["dense"].choices == E


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_method_is_told_in_both_languages(lang):
    texts = language.section(lang, "methods")
    assert list(texts) == list(METHODS)
    if lang == "en":
        assert texts == {key: method.sentence for key, method in METHODS.items()}
