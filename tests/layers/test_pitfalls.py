"""Mistakes that other implementations made, each as a test that ours must pass.

The numbers are the issues in which they were reported (transformers, torchtitan, Megatron-LM,
DeepSpeed, vllm, megablocks, marin, pytorch and smaller ones).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from moe_cases import ALL, TOKENS_CHOOSE, build, config, seeded, tokens

from mhmoe.layers import MoELayer, WhatIf, keep_top_k
from mhmoe.layers.routers import LinearRouter

LIMITED = ("gshard", "switch", "st-moe", "v-moe", "v-moe-priority")


def crowded(c) -> MoELayer:
    """Everybody scores the experts alike and wants expert 0 most."""
    layer = build(c)
    with torch.no_grad():
        layer.router.weight.zero_()
    return layer


# ---------------------------------------------------------------------------- losses


@pytest.mark.parametrize("key", [k for k in TOKENS_CHOOSE if "x-moe" not in k])
def test_softmax_is_taken_once(key):
    """transformers#45120: "logits" that were probabilities went through softmax again."""
    layer, x = build(config(key)), tokens(2, 6, 8)
    routing = layer.run(x)[1]
    torch.testing.assert_close(routing.logits, x @ layer.router.weight.T)
    score = torch.sigmoid if layer.config.score == "sigmoid" else lambda h: h.softmax(-1)
    torch.testing.assert_close(routing.probs, score(routing.logits))


@pytest.mark.parametrize("key", ALL)
def test_losses_need_no_flag_and_no_training_mode(key):
    """transformers#44242, #44586: silently off unless router logits were asked for."""
    layer, x = build(config(key)), tokens(2, 6, 8)
    training = layer.train().losses(layer.run(x)[1])
    evaluation = layer.eval().losses(layer.run(x, with_places=True)[1])
    assert training.keys() == evaluation.keys()
    for name in training:
        assert torch.equal(training[name], evaluation[name])


@pytest.mark.parametrize("key", [*LIMITED, "no-token-left-behind"])
def test_losses_count_before_the_capacity_cut(key):
    """Megatron-LM#1513: counted after it, a full expert looks balanced."""
    layer, x = crowded(config(key)), tokens(2, 8, 8)
    tight = layer.losses(layer.run(x, what_if=WhatIf(capacity_factors=(0.3,)))[1])
    free = layer.losses(layer.run(x, what_if=WhatIf(capacity_factors=(None,)))[1])
    assert torch.equal(tight["balance"], free["balance"])
    assert torch.equal(tight["load"], free["load"])


# ---------------------------------------------------------------------------- padding


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("key", ALL)
def test_padding_is_counted_nowhere(key, heads):
    """transformers#28505, #29363; Megatron-LM#2121, #5542; torchtitan#4594: padding in losses,
    capacity and dispatch. What stands in it is loud here, and then not even a number."""
    layer, x = build(config(key, heads=heads)), tokens(1, 6, 8)
    mask = torch.tensor([[True] * 4 + [False] * 2])
    alone, (short,) = layer(x[:, :4], trace=True)
    for padding in (100.0, float("nan")):
        x[:, 4:] = padding
        y, (padded,) = layer(x, mask=mask, trace=True)
        torch.testing.assert_close(y[:, :4], alone)
        assert not y[:, 4:].any()
        assert padded.capacity == short.capacity
        for name in ("demand", "load", "importance"):
            np.testing.assert_allclose(getattr(padded, name), getattr(short, name), rtol=1e-5)
        assert padded.losses == pytest.approx(short.losses, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("key", ALL)
def test_padding_that_is_no_number_reaches_no_gradient(key):
    """transformers#48205, vllm#39391: NaN * 0 is NaN, so masks must not multiply."""
    layer, x = build(config(key)), tokens(2, 4, 8)
    x[1, 2:] = float("nan")
    mask = torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    y, routing, _ = layer.run(x, mask=mask)
    (y.square().sum() + sum(layer.losses(routing).values())).backward()
    for name, parameter in layer.named_parameters():
        if name != "router.noise":  # which acts in training alone
            assert torch.isfinite(parameter.grad).all()


def test_a_mask_is_not_transposed():
    """transformers#33463: shapes fit, tokens went to the wrong experts."""
    layer, x = build(config()), tokens(2, 2, 8)
    mask = torch.tensor([[True, False], [True, True]])
    y, routing, _ = layer.run(x, mask=mask)
    assert (routing.expert[..., 0] >= 0).tolist() == mask.tolist()
    assert y.any(-1).tolist() == mask.tolist()


# ---------------------------------------------------------------------------- capacity


@pytest.mark.parametrize("key", LIMITED)
def test_a_crowd_fills_exactly_the_places(key):
    """transformers#48293: a cumulative sum over the wrong axis dropped nothing."""
    layer = crowded(config(key, capacity_factor=1.0, capacity_multiple=1))
    c = layer.config
    _, (trace,) = layer(tokens(1, 8, 8), trace=True)
    places = 8 * c.top_k // 4
    assert trace.capacity == places
    assert trace.demand.tolist() == [8] * c.top_k + [0] * (4 - c.top_k)
    assert trace.load.tolist() == [places] * c.top_k + [0] * (4 - c.top_k)


@pytest.mark.parametrize("key", LIMITED)
def test_a_dropped_token_is_zero_not_itself(key):
    """transformers#37017: it kept its own hidden state times the probability."""
    layer = crowded(config(key, capacity_factor=0.1, capacity_multiple=1))
    y = layer(tokens(1, 8, 8))[0]
    assert y[0].any()  # one place each, and the first (of equals) takes it
    assert not y[1:].any()


@pytest.mark.parametrize("key", [*LIMITED, "expert-choice", "no-token-left-behind"])
def test_more_places_than_tokens(key):
    """DeepSpeed#8155: crashed."""
    layer, x = build(config(key, capacity_factor=1000.0)), tokens(1, 3, 8)
    y, (trace,) = layer(x, trace=True)
    assert torch.isfinite(y).all()
    assert trace.load.sum() == trace.demand.sum()


@pytest.mark.parametrize("key", LIMITED)
def test_every_way_to_call_keeps_the_limit(key):
    """DeepSpeed#1658: one branch ignored it."""
    layer = crowded(config(key, capacity_factor=0.5, capacity_multiple=1))
    x, mask = tokens(2, 8, 8), torch.ones(2, 8, dtype=torch.bool)
    with torch.no_grad():
        plain = layer(x)
        assert torch.equal(layer(x, trace=True)[0], plain)
        assert torch.equal(layer(x, mask=mask), plain)
        assert torch.equal(layer(x, what_if=WhatIf(capacity_factors=(0.5,))), plain)
        assert torch.equal(layer.train()(x), plain)
    assert not plain[:, -1].any()


# ---------------------------------------------------------------------------- randomness


def test_jitter_does_not_touch_what_experts_read():
    """transformers#33969: it was applied in place."""
    c = config("switch", jitter=0.5, capacity_factor=None)
    layer, x = build(c), tokens(1, 6, 8)
    before = x.clone()
    y, routing, vectors = layer.run(x, generator=seeded(0))
    assert torch.equal(x, before)
    assert torch.equal(vectors["x"], before)
    read = layer.experts(x[0], routing.expert[0])[:, 0] * routing.gate[0]
    torch.testing.assert_close(y[0], read)


@pytest.mark.parametrize("key", ALL)
def test_evaluation_never_draws(key):
    """DeepSpeed#8620, transformers#28077: random second experts and jitter in evaluation. A global
    generator is not touched, with or without one of the caller's."""
    layer, x = build(config(key)).eval(), tokens(1, 6, 8)
    before = torch.random.get_rng_state()
    assert torch.equal(layer(x), layer(x))
    layer(x, generator=seeded(0))
    assert torch.equal(torch.random.get_rng_state(), before)


# ---------------------------------------------------------------------------- choice


@pytest.mark.parametrize("number", [2, 8, 64])
def test_ties_go_to_the_lower_index_for_every_k(number):
    """pytorch#27542, #127196; torchtitan#3336; vllm#52679: topk's order of equals differs by
    device and by k, so that a router of zeros chose differently."""
    for k in range(1, number + 1):
        assert keep_top_k(torch.zeros(3, number), k).tolist() == [list(range(k))] * 3
    layer = crowded(config(experts=number))
    assert (layer.run(tokens(1, 4, 8))[1].expert == torch.tensor([0, 1])).all()
    layer = crowded(config("expert-choice", experts=number, top_k=1))
    chosen = layer.run(tokens(1, number, 8))[1].expert[0]
    assert chosen[0].tolist() == list(range(number))  # the first token of equals, by every expert


def test_the_router_computes_in_float32():
    """megablocks#91, Megatron-LM#2741, vllm#14027: half precision flips choices."""
    router = LinearRouter(config(d_model=64, experts=64)).bfloat16()
    with torch.no_grad():
        router.weight.normal_(0, 0.5 / 8, generator=seeded(0))
        x = tokens(1, 2000, 64).bfloat16()
        exact = router.weight.double() @ x[0].double().T
        assert router(x).dtype == torch.float32
        ours = keep_top_k(router(x)[0], 2)
        half = keep_top_k((x[0] @ router.weight.T).float(), 2)
    best = keep_top_k(exact.T, 2)
    assert (ours != best).any(1).float().mean() < 0.001
    assert (half != best).any(1).float().mean() > 0.005  # what it would be otherwise


@pytest.mark.parametrize("key", [k for k in TOKENS_CHOOSE if not config(k).capacity_factor])
def test_a_token_that_is_no_number_stays_alone(key):
    """vllm#39391, #41249: it got one expert twice and spoilt the others."""
    layer, x = build(config(key)), tokens(1, 6, 8)
    clean = layer(x)
    x[0, 2] = float("nan")
    y, routing, _ = layer.run(x)
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(y[0, others], clean[0, others])
    row = routing.expert[0, 2].tolist()
    assert len(set(row)) == len(row)
    assert torch.isnan(y[0, 2]).any()  # and it is not hidden


@pytest.mark.parametrize("key", ALL)
def test_a_layer_whose_experts_are_all_off_says_nothing(key):
    """A softmax over nothing but -inf is not a number."""
    layer, x = build(config(key, shared=0)), tokens(1, 4, 8)
    y = layer(x, what_if=WhatIf(experts_off=(0, 1, 2, 3)))
    assert torch.isfinite(y).all()
    if layer.config.assignment != "soft":
        assert not y.any()


# ---------------------------------------------------------------------------- weights, numbers


@pytest.mark.parametrize("key", ALL)
def test_the_same_bits_again_forward_and_backward(key):
    """transformers#43360, torchtitan#1974, vllm#53440: index_add in any order."""
    layer, x = build(config(key)), tokens(2, 6, 8)

    def bits() -> list[torch.Tensor]:
        layer.zero_grad()
        y = layer(x)
        y.square().sum().backward()
        return [y.detach(), *(p.grad.clone() for p in layer.parameters() if p.grad is not None)]

    for a, b in zip(bits(), bits(), strict=True):
        assert torch.equal(a, b)


def test_renormalising_or_not_is_not_the_same_layer():
    """torchtitan#1448, TransformerLens#1668: weights ported without the switch."""
    layer, x = build(config()), tokens(1, 6, 8)
    other = MoELayer(replace(layer.config, gate="renormalised"))
    other.load_state_dict(layer.state_dict())
    assert (layer(x) - other(x)).abs().max() > 0.05 * layer(x).abs().max()


def test_weights_that_are_missing_or_swapped_are_noticed():
    """Megatron-LM#5844: converters lost experts; TransformerLens#1668: gate and up swapped."""
    layer, x = build(config("mixtral")), tokens(1, 6, 8)
    state = layer.state_dict()
    swapped = MoELayer(layer.config)
    swapped.load_state_dict(
        state | {"experts.w_in": state["experts.w_gate"], "experts.w_gate": state["experts.w_in"]}
    )
    assert not torch.allclose(swapped(x), layer(x), atol=1e-3)
    for name in state:
        with pytest.raises(RuntimeError, match="Missing key"):
            layer.load_state_dict({n: w for n, w in state.items() if n != name})


def test_a_bias_that_was_loaded_is_used():
    """Loss-free balancing keeps its state in a buffer, which a checkpoint must carry."""
    layer = build(config("deepseek-v3", top_k=1))
    other = MoELayer(layer.config)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(tokens(1, 6, 8)), layer(tokens(1, 6, 8)))
    for _ in range(2000):
        other.update_bias(torch.tensor([9, 1, 1, 1]))  # expert 0 goes down by 2, out of reach
    assert (other.run(tokens(1, 30, 8))[1].expert != 0).all()


@pytest.mark.parametrize("key", ALL)
def test_no_token_at_all_is_no_error(key):
    layer = build(config(key, heads=2))
    assert layer(torch.zeros(2, 0, 8)).shape == (2, 0, 8)
    _, (trace, _) = layer(torch.zeros(2, 0, 8), trace=True)
    assert all(np.isfinite(value) for value in trace.losses.values())
