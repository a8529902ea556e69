"""Laws that hold for every method, size, mask, capacity and number type (hypothesis)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_cases import ALL, TOKENS_CHOOSE, build, config, seeded, tokens

from mhmoe.layers import MoEConfig, keep_top_k, losses, route
from mhmoe.trace import GATES, check_layer

QUICK = settings(max_examples=100, deadline=None, derandomize=True)
FACTORS = (None, 0.3, 1.0, 1.25, 50.0)


@st.composite
def token_choices(draw) -> MoEConfig:
    """Any switches that go together."""
    experts = draw(st.integers(1, 6))
    overflow = draw(st.sampled_from(("drop", "reroute")))
    return MoEConfig(
        d_model=4,
        d_ff=4,
        experts=experts,
        top_k=draw(st.integers(1, experts)),
        capacity_factor=draw(st.sampled_from(FACTORS)),
        capacity_rounding=draw(st.sampled_from(("ceil", "floor", "nearest", "share"))),
        capacity_multiple=draw(st.sampled_from((1, 4))),
        group=draw(st.sampled_from(("sequence", "batch", 1, 2, 5))),
        order=draw(st.sampled_from(("position", "priority"))),
        overflow=overflow,
        second="all" if overflow == "reroute" else draw(st.sampled_from(("all", "random"))),
        gate=draw(st.sampled_from(tuple(GATES))),
        score=draw(st.sampled_from(("softmax", "sigmoid"))),
        renormalise_after_drop=draw(st.booleans()),
        loss_counts=draw(st.sampled_from(("all", "first"))),
        loss_over=draw(st.sampled_from(("batch", "sequence"))),
    )


def masks(B: int, S: int, seed: int) -> torch.Tensor | None:
    """None for an even seed; else some padding, perhaps a whole sequence of it."""
    if seed % 2 == 0:
        return None
    return torch.rand(B, S, generator=seeded(seed)) < 0.7


@QUICK
@given(
    c=token_choices(),
    B=st.integers(1, 3),
    S=st.integers(1, 9),
    scale=st.sampled_from((0.0, 1.0, 1e4)),
    seed=st.integers(0, 99),
)
def test_conservation(c, B, S, scale, seed):
    logits = (2 * torch.rand(B, S, c.experts, generator=seeded(seed)) - 1) * scale
    mask = masks(B, S, seed)
    generator = seeded(seed) if c.second == "random" else None
    routing = route(logits, c, mask=mask, generator=generator, with_places=True)
    real = torch.ones(B, S, dtype=torch.bool) if mask is None else mask
    wanted = routing.expert if routing.wanted is None else routing.wanted
    asked = (wanted >= 0).sum().item()
    if c.second == "all":
        assert asked == real.sum().item() * c.top_k
    assert (wanted[~real] == -1).all()
    assert (wanted[real][:, 0] >= 0).all()
    # nothing is not a number, no gate is negative, none weighs without being wanted
    assert torch.isfinite(routing.gate).all()
    assert (routing.gate >= 0).all()
    assert not routing.gate[routing.expert < 0].any()
    assert not (routing.kept & (routing.expert < 0)).any()
    # nobody goes to one expert twice
    for row in routing.expert.flatten(0, 1).tolist():
        chosen = [e for e in row if e >= 0]
        assert len(set(chosen)) == len(chosen)
    for value in losses.of(routing, c).values():
        assert torch.isfinite(value)


@QUICK
@given(c=token_choices(), B=st.integers(1, 3), S=st.integers(1, 9), seed=st.integers(0, 99))
def test_buffers_never_hold_more_than_their_places(c, B, S, seed):
    logits = 3 * torch.randn(B, S, c.experts, generator=seeded(seed))
    routing = route(logits, c, mask=masks(B, S, seed), with_places=True)
    for b in range(B):
        limit = routing.capacity[b]
        kept, expert, slot = routing.kept[b], routing.expert[b], routing.slot[b]
        load = losses.demand(expert.masked_fill(~kept, -1), c.experts)
        held = sorted(zip(expert[kept].tolist(), slot[kept].tolist(), strict=True))
        assert len(set(held)) == len(held)
        if limit is None:
            assert torch.equal(kept, expert >= 0)
        else:
            assert load.max().item() <= limit
            assert slot.max().item() < max(limit, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("key", ALL)
def test_any_number_type_and_very_large_inputs(key, dtype):
    layer = build(config(key)).to(dtype)
    for scale in (1.0, 1e4):
        x = (tokens(2, 6, 8) * scale).to(dtype)
        y, traces = layer(x, trace=True, generator=seeded(1))
        assert y.dtype == dtype
        assert torch.isfinite(y).all()
        for trace in traces:
            check_layer(trace, tolerance=1e-3)
            assert trace.logits.dtype in (np.float32, np.float64)


@pytest.mark.parametrize("key", ALL)
@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 2), (2, 7)])
def test_one_token_and_sizes_that_do_not_divide(key, size):
    layer = build(config(key, experts=5, heads=2))
    y, traces = layer(tokens(*size, 8), trace=True, generator=seeded(1))
    assert y.shape == (*size, 8)
    for trace in traces:
        check_layer(trace)


SHARES = ("v-moe", "v-moe-priority")


@QUICK
@given(
    key=st.sampled_from([k for k in ALL if k not in SHARES]),
    seed=st.integers(0, 99),
    heads=st.sampled_from((1, 2)),
)
def test_a_sequence_does_not_notice_its_neighbours(key, seed, heads):
    """Where places belong to a sequence, its batch changes nothing but rounding."""
    layer = build(config(key, heads=heads), seed)
    x = tokens(3, 5, 8, seed=seed)
    y = layer(x)
    for order in ([2, 0, 1], [1], [0, 0, 2, 1]):
        torch.testing.assert_close(layer(x[order]), y[order])


@pytest.mark.parametrize("key", SHARES)
def test_where_the_batch_shares_its_places_it_does(key):
    layer = build(config(key, capacity_factor=0.5, capacity_multiple=1))
    x = tokens(3, 5, 8)
    assert not torch.allclose(layer(x)[2:], layer(x[2:]), atol=1e-4)


@QUICK
@given(
    key=st.sampled_from([k for k in TOKENS_CHOOSE if config(k).capacity_factor is None]),
    seed=st.integers(0, 99),
)
def test_without_a_limit_the_order_of_tokens_does_not_matter(key, seed):
    layer, x = build(config(key), seed), tokens(1, 8, 8, seed=seed)
    order = torch.randperm(8, generator=seeded(seed))
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])


@QUICK
@given(
    key=st.sampled_from(("expert-choice", "soft-moe", "v-moe-priority")), seed=st.integers(0, 99)
)
def test_nor_where_only_scores_decide(key, seed):
    # one choice: with two, a tie of first choices' order is broken by position
    changes = {"top_k": 1, "capacity_factor": 0.5, "capacity_multiple": 1}
    layer = build(config(key, **changes if "soft" not in key else {}), seed)
    x, order = tokens(1, 8, 8, seed=seed), torch.randperm(8, generator=seeded(seed))
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])


def test_but_it_does_for_first_come_first_served():
    layer, x = build(config("switch", capacity_factor=0.5)), tokens(1, 8, 8)
    order = torch.arange(7, -1, -1)
    assert not torch.allclose(layer(x[:, order]), layer(x)[:, order], atol=1e-4)


@QUICK
@given(
    number=st.sampled_from((2, 16, 17, 40)),
    k=st.integers(1, 12),
    steps=st.sampled_from((1, 2, 5, 1000)),
    seed=st.integers(0, 99),
)
def test_the_largest_in_every_way_to_find_them(number, k, steps, seed):
    """Few steps are many ties; among the values are those that mark a closed expert."""
    k, scores = min(k, number), torch.randn(5, number, generator=seeded(seed))
    scores = (scores * steps).round() / steps
    for odd in (0.0, torch.finfo(torch.float32).min, -torch.inf, torch.nan):
        scores[:, ::3] = odd
        expected = [
            sorted(range(number), key=lambda e, row=row: (-np.nan_to_num(row[e], nan=np.inf), e))
            for row in scores.tolist()
        ]
        assert keep_top_k(scores, k).tolist() == [row[:k] for row in expected]


@QUICK
@given(
    expert=st.lists(st.lists(st.integers(-1, 3), min_size=2, max_size=2), min_size=1, max_size=8)
)
def test_demand_is_a_count(expert):
    found = losses.demand(torch.tensor(expert), 4).tolist()
    flat = [e for row in expert for e in row]
    assert found == [flat.count(e) for e in range(4)]
