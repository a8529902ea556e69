"""Autograd against finite differences in float64, through every path that can be differentiated."""

from __future__ import annotations

import pytest
import torch
from moe_cases import ALL, build, config, seeded, tokens
from torch.autograd import gradcheck
from torch.func import functional_call

from mhmoe.layers import MoEConfig

#: Smooth activations: at a corner of ReLU finite differences mean nothing.
TINY = {"d_model": 4, "d_ff": 2, "experts": 3, "activation": "gelu"}


def check(c: MoEConfig, *, random: bool = False, loss: str | None = None) -> None:
    """Gradients of the output, or of a loss, by the input and by every parameter."""
    layer = build(c).double()
    names, parameters = zip(*layer.named_parameters(), strict=True)
    x = tokens(2, 3, c.d_model).double().requires_grad_()

    def run(x, *values):
        generator = seeded(3) if random else None
        state = dict(zip(names, values, strict=True))
        y, routing, _ = functional_call(layer, state, (x,), {"generator": generator})
        return y if loss is None else layer.losses(routing)[loss]

    layer.forward = layer.run
    assert gradcheck(run, (x, *parameters), atol=1e-6, rtol=1e-4, check_undefined_grad=False)


@pytest.mark.parametrize("key", ALL)
def test_every_method(key):
    check(config(key, **TINY))


@pytest.mark.parametrize("key", ["shazeer", "gshard", "switch", "st-moe", "v-moe"])
def test_with_the_random_parts(key):
    check(config(key, **TINY), random=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"heads": 2},
        {"heads": 2, "projections": 0, "inner_residual": True},
        {"projections": 2, "projection_bias": True},
        {"heads": 2, "projections": 3},
        {"activation": "swiglu", "bias": True, "shared": 2},
        {"gate": "topk-softmax"},
        {"gate": "renormalised"},
        {"gate": "renormalised", "capacity_factor": 0.5, "renormalise_after_drop": True},
        {"score": "sigmoid", "gate": "renormalised", "gate_scale": 2.5},
        {"score": "sigmoid", "bias_update": 0.1},
        {"capacity_factor": 0.5, "order": "priority", "group": "batch"},
        {"capacity_factor": 0.75, "overflow": "reroute", "gate": "renormalised"},
        {"capacity_factor": 0.75, "overflow": "reroute", "gate": "topk-softmax"},
        {"cosine": "both", "temperature": 0.5, "score": "sigmoid"},
        {"jitter": 0.2, "jitter_on": "scores"},
        {"noise": "learned"},
    ],
    ids=str,
)
def test_every_switch(changes):
    check(config(**TINY | changes), random="jitter" in changes or "noise" in changes)


@pytest.mark.parametrize("loss", ["balance", "importance", "z"])
@pytest.mark.parametrize("key", ["linear", "gshard", "x-moe", "deepseek-v3", "v-moe"])
def test_every_loss(key, loss):
    check(config(key, **TINY), loss=loss)


@pytest.mark.parametrize("key", ["shazeer", "v-moe"])
def test_the_smooth_load(key):
    check(config(key, **TINY | {"top_k": 2}), random=True, loss="load")


def test_soft_importance():
    check(config("soft-moe-normalised", **TINY), loss="importance")


@pytest.mark.parametrize("key", ["mixtral", "shazeer"])
def test_a_single_choice_under_convention_a_teaches_the_router_exactly_nothing(key):
    layer = build(config(key, top_k=1))
    layer(tokens(2, 6, 8)).square().sum().backward()
    assert torch.equal(layer.router.weight.grad, torch.zeros(4, 8))  # the gate is always 1
    assert layer.experts.w_in.grad.abs().max() > 0


def test_what_a_single_choice_teaches_under_the_other_conventions():
    def gradient(**changes) -> float:
        layer = build(config(top_k=1, **changes))
        layer(tokens(2, 6, 8)).square().sum().backward()
        return layer.router.weight.grad.abs().max().item()

    assert gradient(gate="softmax-topk") > 0.1
    assert gradient(gate="renormalised") < 1e-5  # p / p: nothing but rounding
    assert gradient(gate="softmax-topk", score="sigmoid") > 0.1


def test_the_bias_of_loss_free_balancing_is_no_parameter():
    layer = build(config("deepseek-v3"))
    assert "router.bias" not in dict(layer.named_parameters())
    assert "router.bias" in layer.state_dict()


def test_experts_that_nobody_chose_get_a_gradient_of_zero():
    layer = build(config(experts=8, top_k=1))
    routing = layer.run(tokens(1, 3, 8))[1]
    layer(tokens(1, 3, 8)).sum().backward()
    idle = [e for e in range(8) if e not in routing.expert]
    assert len(idle) >= 5
    assert not layer.experts.w_in.grad[idle].any()
    assert not layer.experts.w_out.grad[idle].any()
