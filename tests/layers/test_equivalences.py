"""Layers that are written differently and must be the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from moe_cases import ALL, SOFT_ONES, TOKENS_CHOOSE, build, config, tokens, without_limit

from mhmoe.layers import DenseFFN, MoELayer, WhatIf, future_leak, leaked_bits, route
from mhmoe.trace import GATES

LIMITED = ("gshard", "switch", "st-moe", "v-moe", "v-moe-priority", "no-token-left-behind")


def copy_of(layer: MoELayer, c, **changes) -> MoELayer:
    other = MoELayer(c)
    other.load_state_dict(layer.state_dict() | changes)
    return other


@pytest.mark.parametrize("key", ALL)
def test_heads_without_square_layers_are_the_method_on_slices(key):
    """MH-MoE is a wrapper around any router: split, route, merge."""
    c = config(key, heads=2, projections=0)
    layer = build(c)
    narrow = copy_of(layer, config(key, d_model=4))
    x = tokens(2, 6, 8)
    assert torch.equal(layer(x), narrow(x.reshape(2, 12, 4)).reshape(2, 6, 8))


@pytest.mark.parametrize("key", ALL)
def test_permuting_experts_permutes_everything(key):
    c = config(key)
    layer, order = build(c), [2, 0, 3, 1]
    state = layer.state_dict()
    for name in state:
        if name in ("router.weight", "router.noise", "router.bias") or name.startswith("experts."):
            state[name] = state[name][order]
    other = MoELayer(c)
    other.load_state_dict(state)
    x = tokens(1, 7, 8)
    y, (old,) = layer(x, trace=True)
    z, (new,) = other(x, trace=True)
    torch.testing.assert_close(y, z)
    for name in ("demand", "load", "importance"):
        np.testing.assert_allclose(getattr(new, name), getattr(old, name)[order], rtol=1e-5)
    assert new.losses == pytest.approx(old.losses, rel=1e-4, abs=1e-6)


def test_all_experts_chosen_is_the_dense_mixture_under_every_convention():
    dense, x = build(config("dense")), tokens(2, 6, 8)
    for gate in GATES:
        other = copy_of(dense, config(top_k=4, gate=gate))
        torch.testing.assert_close(other(x), dense(x))
    # experts that may take every token are the same again
    choice = copy_of(dense, config("expert-choice", capacity_factor=None))
    torch.testing.assert_close(choice(x), dense(x))


def test_convention_a_is_convention_c():
    layer, x = build(config("mixtral")), tokens(2, 6, 8)
    torch.testing.assert_close(
        copy_of(layer, replace(layer.config, gate="renormalised"))(x), layer(x)
    )


@pytest.mark.parametrize("key", [k for k in TOKENS_CHOOSE if k not in ("deepseek-v3",)])
def test_one_expert_is_a_dense_ffn(key):
    c = without_limit(config(key, experts=1, shared=0))
    layer, x = build(c), tokens(2, 6, 8)
    ffn = DenseFFN(8, 12, c.activation)
    ffn.load_state_dict({n: w[0] for n, w in layer.experts.state_dict().items()})
    torch.testing.assert_close(layer(x), ffn(x))


@pytest.mark.parametrize("key", ["dense", "shazeer", "gshard", "mixtral", "st-moe"])
def test_equal_experts_are_one_ffn_where_gates_sum_to_one(key):
    layer, x = build(without_limit(config(key))), tokens(2, 6, 8)
    ffn = DenseFFN(8, 12, layer.config.activation)
    with torch.no_grad():
        for name, weight in layer.experts.named_parameters():
            weight.copy_(weight[:1].expand_as(weight).clone())
            getattr(ffn, name).copy_(weight[0])
    torch.testing.assert_close(layer(x), ffn(x))


@pytest.mark.parametrize("key", LIMITED)
def test_enough_places_never_drop_and_change_nothing(key):
    layer, x = build(config(key)), tokens(2, 9, 8)
    free = layer(x, what_if=WhatIf(capacity_factors=(None,)))
    for factors in ((4.0,), (100.0,)):  # E / K * K: all may go to one
        y, traces = layer(x, what_if=WhatIf(capacity_factors=factors), trace=True)
        assert torch.equal(y, free)
        assert all(t.dropped_share == 0 for t in traces)


def test_re_routing_without_need_is_plain_routing():
    layer, x = build(config("no-token-left-behind", capacity_factor=4.0)), tokens(2, 9, 8)
    assert torch.equal(layer(x), copy_of(layer, config("switch", capacity_factor=4.0))(x))


def test_priority_and_position_agree_where_nothing_is_dropped():
    vanilla, x = build(config("v-moe", capacity_factor=4.0)), tokens(2, 9, 8)
    priority = copy_of(vanilla, config("v-moe-priority", capacity_factor=4.0))
    assert torch.equal(vanilla(x), priority(x))


def test_shared_experts_are_ffns_beside_the_routed():
    layer, x = build(config("deepseek-moe", shared=2)), tokens(2, 6, 8)
    expected = copy_of_without_shared(layer)(x)
    for i in range(2):
        ffn = DenseFFN(8, 12, "swiglu")
        ffn.load_state_dict({n: w[i] for n, w in layer.shared.state_dict().items()})
        expected = expected + ffn(x)
    torch.testing.assert_close(layer(x), expected)
    _, (trace, _) = layer(x, trace=True)
    assert trace.shared == (4, 5)  # beside the four that are routed


def copy_of_without_shared(layer: MoELayer) -> MoELayer:
    plain = MoELayer(replace(layer.config, shared=0))
    state = {n: w for n, w in layer.state_dict().items() if not n.startswith("shared.")}
    plain.load_state_dict(state)
    return plain


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_depth_of_the_square_layers(depth):
    layer, x = build(config(heads=2, projections=depth)), tokens(1, 5, 8)
    inner = MoELayer(replace(layer.config, projections=0))
    inner.load_state_dict(
        {n: w for n, w in layer.state_dict().items() if n.split(".")[0] in ("router", "experts")}
    )

    def mixed(side: str, values: torch.Tensor) -> torch.Tensor:
        names = (
            [f"{side}.weight"] if depth == 1 else [f"{side}.{2 * i}.weight" for i in range(depth)]
        )
        for i, name in enumerate(names):
            values = (values if i == 0 else values.relu()) @ layer.state_dict()[name].T
        return values

    torch.testing.assert_close(layer(x), mixed("merge", inner(mixed("head", x))))


def test_a_matrix_of_the_identity_is_no_matrix():
    layer, x = build(config(heads=2, projections=1)), tokens(2, 6, 8)
    eye = copy_of(
        layer, layer.config, **{"head.weight": torch.eye(8), "merge.weight": torch.eye(8)}
    )
    plain = MoELayer(replace(layer.config, projections=0))
    plain.load_state_dict({n: w for n, w in layer.state_dict().items() if "r." in n or "ts." in n})
    torch.testing.assert_close(eye(x), plain(x))


# ---------------------------------------------------------------------------- experts choose


def test_every_expert_choice_column_is_full():
    layer, x = build(config("expert-choice", experts=3, top_k=2)), tokens(2, 7, 8)
    _, traces = layer(x, trace=True)
    for trace in traces:
        assert trace.capacity == 5  # ceil(2 * 7 / 3)
        assert trace.load.tolist() == [5, 5, 5]
        taken = trace.expert >= 0
        assert taken.sum() == 15
        # what was left behind scores no higher with that expert than what was taken
        for e in range(3):
            mine = (trace.expert == e).any(1)
            assert trace.probs[~mine, e].max() <= trace.probs[mine, e].min()


@pytest.mark.parametrize("key", SOFT_ONES)
def test_rows_and_columns_of_soft_moe(key):
    layer, x = build(config(key, slots=3)), tokens(2, 7, 8)
    routing = layer.run(x)[1]
    torch.testing.assert_close(routing.dispatch.sum(1), torch.ones(2, 12))
    torch.testing.assert_close(routing.combine.sum(2), torch.ones(2, 7))


def test_soft_moe_slot_by_slot():
    """X~_j = sum_i D_ij X_i, Y_i = sum_j C_ij f_{floor(j / P)}(X~_j), one at a time."""
    layer, x = build(config("soft-moe", experts=2, slots=3)), tokens(2, 5, 8)
    routing = layer.run(x)[1]
    networks = []
    for e in range(2):
        networks.append(DenseFFN(8, 12))
        networks[e].load_state_dict({n: w[e] for n, w in layer.experts.state_dict().items()})
    for b in range(2):
        slots = [sum(routing.dispatch[b, i, j] * x[b, i] for i in range(5)) for j in range(6)]
        out = [networks[j // 3](slots[j]) for j in range(6)]
        for i in range(5):
            y = sum(routing.combine[b, i, j] * out[j] for j in range(6))
            torch.testing.assert_close(layer(x)[b, i], y)


def test_normalised_soft_moe_does_not_care_how_long_tokens_are():
    plain, scaled = build(config("soft-moe")), build(config("soft-moe-normalised"))
    x = tokens(1, 5, 8)
    for layer, same in ((plain, False), (scaled, True)):
        one, ten = layer.decide(x).dispatch, layer.decide(10 * x).dispatch
        assert torch.allclose(one, ten, atol=1e-5) == same


def test_an_expert_that_is_off_is_read_by_nobody():
    layer, x = build(config("soft-moe")), tokens(1, 5, 8)
    routing = layer.run(x, what_if=WhatIf(experts_off=(1,)))[1]
    assert not routing.combine[..., 1].any()
    torch.testing.assert_close(routing.combine.sum(-1), torch.ones(1, 5))
    layer = build(config("expert-choice"))
    _, (trace,) = layer(x, what_if=WhatIf(experts_off=(1,)), trace=True)
    assert (trace.expert != 1).all()
    assert trace.load[1] == 0


# ---------------------------------------------------------------------------- the future

CAUSAL = {
    "linear": 0,
    "dense": 0,
    "mixtral": 0,
    "switch": 0,  # one choice in order of position: who comes late displaces nobody
    "deepseek-v3": 0,
    "v-moe": 1,  # first choices of late tokens before second ones of early tokens
    "v-moe-priority": 1,
    "gshard": 1,
    "expert-choice": 1,
    "soft-moe": 1,
}


@pytest.mark.parametrize(("key", "leaks"), CAUSAL.items())
def test_who_lets_the_future_leak(key, leaks):
    """The last of 12 tokens is replaced, in 20 ways: does any earlier token's output move?"""
    tight = {"capacity_factor": 0.75} if config(key).capacity_factor else {}
    layer = build(config(key, capacity_multiple=1, **tight))
    x = tokens(12, 8)
    moved = torch.stack([future_leak(layer, x, last) for last in tokens(20, 8, seed=2)])
    assert moved.shape == (20, 11)
    assert (moved.max().item() > 1e-4) == bool(leaks)


def test_expert_choice_changes_the_experts_of_earlier_tokens():
    # scores by hand: the last token takes expert 0 from token 1, whose place is then empty
    c = config("expert-choice", experts=2, top_k=1, capacity_factor=1.0)
    past = [[9.0, 1.0], [6.0, 4.0], [1.0, 9.0]]
    before = route(torch.tensor([[*past, [1.0, 9.0]]]).log(), c)
    after = route(torch.tensor([[*past, [8.0, 2.0]]]).log(), c)
    assert before.expert[0].tolist() == [[0], [0], [1], [1]]
    assert after.expert[0].tolist() == [[0], [1], [1], [0]]


def test_how_many_bits_can_leak():
    assert leaked_bits(2, 16, layers=9) == pytest.approx(50.5, abs=0.05)
    assert leaked_bits(4, 8) == leaked_bits(8, 8) == 0
