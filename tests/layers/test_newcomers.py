"""What somebody who had never seen the library stumbled over."""

from __future__ import annotations

import pytest
import torch
from moe_cases import ALL, SOFT_ONES, build, config, hand, seeded, tokens

from mhmoe.layers import ConfigError, DenseFFN, MoELayer, WhatIf, capacity, gates, route
from mhmoe.trace import check_layer


@pytest.mark.parametrize("router", ALL)
def test_autocast_does_not_reach_the_router(router):
    layer, x = build(config(router)), tokens(1, 6, 8)
    mask = torch.tensor([[True] * 5 + [False]])
    plain = layer.run(x, mask=mask, with_places=True)[1]
    with torch.autocast("cpu", torch.bfloat16):
        y, (trace,) = layer(x, mask=mask, what_if=WhatIf(experts_off=(1,)), trace=True)
        routing = layer.run(x, mask=mask, with_places=True)[1]
    check_layer(trace)
    assert y.isfinite().all()
    assert torch.equal(routing.logits, plain.logits)
    assert routing.logits.dtype == torch.float32


def test_scores_in_half_precision_are_routed_as_float32():
    routing = route(tokens(1, 4, 4).bfloat16(), config(), WhatIf(experts_off=(0,)))
    assert routing.probs.dtype == torch.float32
    assert not (routing.expert == 0).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("demand", [[70000, 1, 1, 1], [1001, 1003, 1001, 999]])
def test_a_bias_in_half_precision_moves_the_right_way(dtype, demand):
    layer = MoELayer(config("deepseek-v3", bias_update=0.5), seeded(0)).to(dtype)
    layer.update_bias(torch.tensor(demand))
    mean = sum(demand) / 4
    expected = [0.5 * ((mean > c) - (mean < c)) for c in demand]
    assert layer.router.bias.tolist() == expected


def test_a_bias_sees_the_demand_before_re_routing():
    layer = build(config("no-token-left-behind", capacity_factor=1.0, bias_update=0.5))
    with torch.no_grad():
        layer.router.bias.zero_()
        layer.router.bias[0] = 100  # everybody asks expert 0 first
    routing = layer.run(tokens(1, 8, 8))[1]
    assert (routing.expert != 0).any()
    before = layer.router.bias.clone()
    layer.after_step(routing)
    assert (layer.router.bias - before).tolist() == [-0.5, 0.5, 0.5, 0.5]


def test_gates_that_are_divided_after_drops_are_so_without_a_trace_too():
    layer = build(config("linear", renormalise_after_drop=True))
    x = tokens(1, 6, 8)
    torch.testing.assert_close(layer(x), layer(x, trace=True)[0])


@pytest.mark.parametrize("router", SOFT_ONES)
@pytest.mark.parametrize("shape", [(0, 5, 8), (0, 0, 8), (1, 0, 8)])
def test_soft_moe_of_nothing(router, shape):
    y, traces = build(config(router))(torch.zeros(shape), trace=True)
    assert y.shape == shape
    assert len(traces) == shape[0]
    for trace in traces:
        check_layer(trace)


def test_an_expert_that_is_off_expects_no_visits():
    layer = build(config("shazeer", top_k=2))
    off = WhatIf(experts_off=(0,))
    routing = layer.run(tokens(1, 20, 8), what_if=off, generator=seeded(3))[1]
    assert routing.std is not None
    assert not (routing.expert == 0).any()
    before = layer.losses(routing)["load"].item()
    even = torch.tensor([0.0, 40 / 3, 40 / 3, 40 / 3])
    assert before >= (even.var(unbiased=False) / even.mean() ** 2).item() - 1e-6


def test_a_network_starts_with_numbers():
    ffn = DenseFFN(16, 32, "swiglu", bias=True, generator=seeded(0))
    assert ffn.w_in.std().item() == pytest.approx(16**-0.5, rel=0.15)
    assert ffn.w_out.std().item() == pytest.approx(32**-0.5, rel=0.15)
    assert not ffn.b_in.any()
    with pytest.raises(ConfigError, match="activation 'tanh' is none of relu, gelu, swiglu"):
        DenseFFN(16, 32, "tanh")


def test_words_that_nobody_knows():
    routing = hand([[1.0, 2.0]])
    with pytest.raises(ConfigError, match="gate 'best' is none of"):
        gates(routing.logits, routing.probs, routing.expert, "best")
    with pytest.raises(KeyError, match="up"):
        capacity(1.0, 2, 10, 4, rounding="up")
