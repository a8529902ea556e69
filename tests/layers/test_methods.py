"""The table of methods, and the config that reads it."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from moe_cases import ALL, build, config, seeded, tokens

from mhmoe.layers import METHODS, SWITCHES, ConfigError, MoEConfig, MoELayer, WhatIf
from mhmoe.layers.moe import traces
from mhmoe.trace import check_layer

KEYS = (
    "linear dense shazeer gshard switch st-moe x-moe x-moe-code mixtral v-moe v-moe-priority "
    "expert-choice soft-moe soft-moe-normalised deepseek-moe deepseek-v3 no-token-left-behind"
)


def test_every_method_of_the_literature_is_a_row():
    assert list(METHODS) == KEYS.split()
    for key, row in METHODS.items():
        assert row.key == key
        assert "arXiv" in row.paper
        assert row.sentence.endswith(".")
        assert set(row.switches) <= set(SWITCHES)
        assert set(row.loss_weights) <= {"balance", "importance", "load", "z"}


def test_every_switch_is_a_field_that_the_docstring_explains():
    assert set(SWITCHES) <= {f.name for f in fields(MoEConfig)}
    for name in SWITCHES:
        assert name in MoEConfig.__doc__, name


@pytest.mark.parametrize("key", ALL)
def test_a_built_config_is_explicit_and_builds_itself_again(key):
    c = config(key)
    for name, value in (SWITCHES | METHODS[key].switches).items():
        if name not in ("top_k", "embedding"):
            assert getattr(c, name) == value
    assert MoEConfig(**asdict(c)) == c
    assert replace(c) == c


def test_a_switch_that_is_given_wins():
    c = config("switch", capacity_factor=None, top_k=2, gate="renormalised", jitter=0.0)
    assert (c.capacity_factor, c.top_k, c.gate, c.jitter) == (None, 2, "renormalised", 0)
    assert config("switch").capacity_factor == 1.25
    assert config("x-moe", experts=32).embedding == 16  # half of the experts
    assert config("x-moe", embedding=5).embedding == 5
    assert config("dense").top_k == config("soft-moe").top_k == 4
    assert config("deepseek-v3", experts=4).top_k == 4  # eight of four would be none


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("key", ALL)
def test_every_method_runs_and_its_trace_keeps_the_laws(key, heads):
    layer = build(config(key, heads=heads))
    x = tokens(2, 6, 8)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    for generator in (lambda: None, lambda: seeded(5)):
        for real in (None, mask):
            y, traces = layer(x, mask=real, generator=generator(), trace=True)
            assert torch.equal(y, layer(x, mask=real, generator=generator()))
            assert torch.isfinite(y).all()
            for trace in traces:
                check_layer(trace)
                assert trace.router == key
                assert trace.sub_tokens == 6 * heads
                assert set(trace.losses) == {"balance", "importance", "load", "z"}


@pytest.mark.parametrize("key", ALL)
def test_without_a_generator_nothing_is_random_even_in_training(key):
    layer, x = build(config(key)).train(), tokens(2, 6, 8)
    assert torch.equal(layer(x), layer(x))
    assert torch.equal(layer(x), layer.eval()(x))
    assert torch.equal(layer(x, generator=seeded(3)), layer(x, generator=seeded(3)))


@pytest.mark.parametrize("key", ["shazeer", "gshard", "switch", "st-moe", "v-moe"])
def test_with_one_the_random_parts_act(key):
    # of 40 tokens some second expert is near the threshold, whatever the seed
    layer, x = build(config(key)), tokens(1, 40, 8)
    assert not torch.equal(layer(x), layer(x, generator=seeded(3)))
    assert not torch.equal(layer(x, generator=seeded(4)), layer(x, generator=seeded(3)))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("key", ALL)
def test_the_formulas_count_what_is_built(key, bias):
    c = config(key, heads=2, bias=bias, projection_bias=bias, shared=2)
    assert c.parameters == sum(p.numel() for p in MoELayer(c).parameters())


def test_the_names_of_all_parameters():
    def shapes(**changes) -> dict[str, tuple[int, ...]]:
        return {n: tuple(p.shape) for n, p in MoELayer(config(**changes)).state_dict().items()}

    assert shapes(router="mixtral", heads=2) == {
        "router.weight": (4, 4),
        "experts.w_in": (4, 4, 12),
        "experts.w_gate": (4, 4, 12),
        "experts.w_out": (4, 12, 4),
        "head.weight": (8, 8),
        "merge.weight": (8, 8),
    }
    assert {"router.noise": (4, 8)}.items() <= shapes(router="shazeer").items()
    assert {
        "router.weight": (4, 2),
        "router.project": (2, 8),
        "router.temperature": (),
    }.items() <= shapes(router="x-moe").items()
    assert {"router.bias": (4,), "shared.w_in": (1, 8, 12)}.items() <= shapes(
        router="deepseek-v3"
    ).items()
    assert {"router.weight": (12, 8), "router.scale": ()}.items() <= shapes(
        router="soft-moe-normalised", slots=3
    ).items()
    assert {"experts.b_in": (4, 12), "experts.b_out": (4, 8)}.items() <= shapes(bias=True).items()
    deep = shapes(projections=3, projection_bias=True)
    assert {f"head.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")} <= set(deep)


def test_how_the_routers_start():
    layer = MoELayer(config("shazeer", experts=16, d_model=64), seeded(0))
    assert not layer.router.weight.any()  # Shazeer 2017, appendix A: noise alone at first
    assert not layer.router.noise.any()
    switch = MoELayer(config("switch", experts=64, d_model=64), seeded(0))
    assert switch.router.weight.std().item() == pytest.approx(0.1 / 8, rel=0.1)
    for key, norm in (("x-moe", 0.1), ("x-moe-code", 1.5)):
        router = MoELayer(config(key), seeded(0)).router
        torch.testing.assert_close(router.weight.norm(dim=1), torch.full((4,), norm))


WRONG = [
    ({"router": "oracle"}, "router 'oracle' is none of linear, dense"),
    ({"router": "dense", "top_k": 2}, "uses all 4 experts: leave top_k out instead of setting it"),
    ({"second": "maybe"}, "second 'maybe' is none of all, random, threshold"),
    ({"overflow": "queue"}, "overflow 'queue' is none of"),
    ({"capacity_rounding": "up"}, "capacity_rounding 'up' is none of"),
    ({"group": 0}, 'group must be "sequence", "batch" or a number'),
    ({"shared": -1}, "shared must be a whole number of at least 0, not -1"),
    ({"slots": 0}, "slots must be a whole number of at least 1"),
    ({"jitter": -0.1}, "jitter must not be below 0"),
    ({"jitter": 1.5}, "jitter 1.5 would turn the sign"),
    ({"bias": 1}, "bias must be True or False, not 1"),
    ({"projections": 4}, "projections must be 0, 1, 2 or 3"),
    ({"capacity_factor": "much"}, "capacity_factor must be positive or None, not much"),
    ({"expert_groups": 3}, "4 experts cannot be cut into 3 equal"),
    ({"expert_groups": 4, "groups_kept": 1}, "groups_kept 1 of 4 groups of 1 experts cannot hold"),
    ({"expert_groups": 4, "groups_kept": 2}, "needs groups of 2 experts"),
    ({"overflow": "reroute", "second": "random"}, "set one of them back"),
    (
        {"router": "expert-choice", "order": "priority"},
        "expert-choice' has no use for order 'priority'",
    ),
    ({"router": "soft-moe", "noise": "fixed"}, "soft-moe' has no use for noise 'fixed'"),
    ({"embedding": 3}, "embedding 3 needs cosine"),
    ({"temperature": 0.3}, "temperature 0.3 needs cosine"),
    ({"router": "soft-moe", "cosine": "both"}, "has no use for cosine 'both'"),
    ({"normalised": True}, "normalised belongs to Soft MoE"),
    ({"slots": 4}, "slots belongs to Soft MoE"),
    ({"router": "soft-moe", "capacity_factor": 0.5}, "has no use for capacity_factor 0.5"),
    ({"router": "expert-choice", "gate_scale": 3.0}, "has no use for gate_scale 3.0"),
    ({"router": ["switch"]}, r"router \['switch'\] is none of"),
    ({"capacity_factor": float("inf")}, "capacity_factor must be positive or None, not inf"),
    ({"gate_scale": float("nan")}, "gate_scale must not be below 0, it is nan"),
    ({"group": True}, "group must be"),
]
NO_WHAT_IF = [
    ({"top_k": -1}, "top_k must be a whole number of at least 1, not -1"),
    ({"top_k": 9}, "top_k 9 is more than the 4 experts"),
    ({"temperature": 0}, "temperature must be above 0, it is 0"),
    ({"temperature": float("nan")}, "temperature must be above 0, it is nan"),
    ({"experts_off": (-1,)}, "an expert that is off must be a whole number of at least 0, not -1"),
    ({"experts_off": (1, 4)}, "expert 4 cannot be off: there are 4, from 0 on"),
    ({"experts_off": [1]}, "experts_off must be a tuple"),
    ({"capacity_factors": (-1.0,)}, "a capacity factor must be positive or None, not -1.0"),
    ({"capacity_factors": 1.0}, "capacity_factors must be a tuple, not 1.0"),
]


@pytest.mark.parametrize(("changes", "message"), NO_WHAT_IF, ids=[str(c) for c, _ in NO_WHAT_IF])
@pytest.mark.parametrize("router", ["linear", "expert-choice", "soft-moe"])
def test_a_change_that_cannot_be_made_says_why(router, changes, message):
    layer = MoELayer(config(router), seeded(0))
    with pytest.raises(ConfigError, match=message):
        layer(torch.zeros(1, 3, layer.config.d_model), what_if=WhatIf(**changes))


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[str(c) for c, _ in WRONG])
def test_a_layer_that_cannot_be_built_says_why(changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)


@pytest.mark.parametrize("key", ALL)
def test_layers_traced_together_are_each_traced_alone(key):
    """Their weights differ; X-MoE's temperatures and Expert Choice's K do, too."""
    layers = [(3 * seed, build(config(key), seed)) for seed in range(3)]
    for seed, (_, layer) in enumerate(layers):
        with torch.no_grad():
            for p in layer.router.parameters():
                p.mul_(1 + seed)
    runs = [
        layer.run(tokens(2, 5, 8, seed=n), with_places=True) for n, (_, layer) in enumerate(layers)
    ]
    together = traces(layers, [r[1] for r in runs], [r[2] for r in runs])
    for (block, layer), (_, routing, vectors), found in zip(layers, runs, together, strict=True):
        for one, alone in zip(found, layer.traces(routing, vectors, block), strict=True):
            for name, value in vars(alone).items():
                np.testing.assert_equal(getattr(one, name), value, err_msg=name)


def test_no_layers_have_no_traces():
    assert traces([], [], []) == []
