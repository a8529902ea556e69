"""The layers: cases worked out by hand, equivalences, and a slow loop that must agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mhmoe.layers import (
    ConfigError,
    DenseFFN,
    MoEConfig,
    MoELayer,
    WhatIf,
    capacity,
    gates,
    keep_top_k,
    losses,
    places,
    route,
    visits,
)
from mhmoe.trace import GATES, check_layer

SMALL = MoEConfig(d_model=8, d_ff=12, experts=4, top_k=2)
HEADS = replace(SMALL, heads=2, projections=True)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer_and_input(config: MoEConfig, batch: int = 2, tokens: int = 6):
    """A layer whose router has opinions (it starts at a tenth), and something to route."""
    layer = MoELayer(config, seeded(0)).eval()
    with torch.no_grad():
        layer.router.weight.mul_(20)
    return layer, torch.randn(batch, tokens, config.d_model, generator=seeded(1))


def plain(top_k: int, number: int, gate: str = "softmax-topk") -> MoEConfig:
    """A config for routing scores that are written by hand."""
    return MoEConfig(d_model=2, d_ff=2, experts=number, top_k=top_k, gate=gate)


# ---------------------------------------------------------------------------- three tokens by hand

#: Scores are logarithms, so that softmax gives fractions: rows sum to 7, 3 and 9 before division.
LOGITS = torch.tensor([[4.0, 2.0, 1.0], [1.0, 1.0, 1.0], [1.0, 4.0, 4.0]]).log()


def test_who_is_chosen_and_ties_go_to_the_lower_index():
    # row 0: 4 > 2 > 1. Row 1: all equal, so 0 then 1. Row 2: 4 = 4 > 1, so 1 then 2
    assert keep_top_k(LOGITS, 2).tolist() == [[0, 1], [0, 1], [1, 2]]
    assert keep_top_k(LOGITS, 3)[1].tolist() == [0, 1, 2]
    assert keep_top_k(torch.zeros(1, 40), 40).tolist() == [list(range(40))]


@pytest.mark.parametrize(
    ("convention", "expected"),
    [
        # (a) softmax over the kept: 4/6 2/6, 1/2 1/2, 4/8 4/8
        ("topk-softmax", [[4 / 6, 2 / 6], [1 / 2, 1 / 2], [1 / 2, 1 / 2]]),
        # (b) softmax over all three, then keep: 4/7 2/7, 1/3 1/3, 4/9 4/9
        ("softmax-topk", [[4 / 7, 2 / 7], [1 / 3, 1 / 3], [4 / 9, 4 / 9]]),
        # (c) the same divided by its sum: (4/7) / (6/7) = 4/6 and so on, which is (a)
        ("renormalised", [[4 / 6, 2 / 6], [1 / 2, 1 / 2], [1 / 2, 1 / 2]]),
    ],
)
def test_the_three_gate_conventions(convention, expected):
    routing = route(LOGITS[None], plain(2, 3, convention), WhatIf())
    torch.testing.assert_close(routing.gate[0], torch.tensor(expected))


def test_convention_a_is_convention_c():
    logits = torch.randn(50, 7, generator=seeded(2)) * 4
    chosen = keep_top_k(logits, 3)
    torch.testing.assert_close(
        gates(logits, logits.softmax(-1), chosen, "topk-softmax"),
        gates(logits, logits.softmax(-1), chosen, "renormalised"),
    )


def test_first_choices_stand_before_second_ones():
    # expert 0: firsts of 0 and 1, then second of 2. Expert 1: first of 2, then second of 0,
    # although token 0 comes earlier. Expert 2: second of 1 alone
    expert = torch.tensor([[[0, 1], [0, 2], [1, 0]]])
    assert places(expert, 3).tolist() == [[[0, 1], [1, 0], [0, 2]]]


def test_a_full_expert_turns_away_the_last_in_its_queue():
    # rows as above want 0 1, 0 1, 1 2. C = ceil(0.5 * 2 * 3 / 3) = 1 place
    # expert 0: token 0 in, token 1 out. Expert 1: first of token 2 in, seconds of 0 and 1 out
    routing = route(LOGITS[None], plain(2, 3), WhatIf(capacity_factors=(0.5,)))
    assert routing.capacity == (1,)
    assert routing.kept[0].tolist() == [[True, False], [False, False], [True, True]]
    assert routing.slot[0].tolist() == [[0, -1], [-1, -1], [0, 0]]
    # the gate is what the choice would have weighed, dropped or not
    torch.testing.assert_close(routing.gate[0, 1], torch.tensor([1 / 3, 1 / 3]))


@pytest.mark.parametrize(
    ("factor", "top_k", "sub_tokens", "number", "places_each"),
    [
        (1.25, 2, 128, 8, 40),
        (1.0, 1, 10, 8, 2),  # 1.25 places are 2
        (0.28, 2, 100, 4, 14),  # in floating point 14.000000000000002, still 14 places
        (0.07, 2, 100, 2, 7),  # likewise
        (0.01, 1, 10, 8, 1),
        (1.0, 2, 0, 8, 0),
        (None, 2, 128, 8, None),
    ],
)
def test_capacity(factor, top_k, sub_tokens, number, places_each):
    assert capacity(factor, top_k, sub_tokens, number) == places_each


def test_temperature_divides_the_scores():
    # 4 2 1 to the power 1/2 (T = 2): 2, 1.414, 1
    routing = route(LOGITS[None], plain(2, 3), WhatIf(temperature=2))
    root = torch.tensor([2.0, 2**0.5, 1.0])
    torch.testing.assert_close(routing.probs[0, 0], root / root.sum())
    assert torch.equal(routing.expert, keep_top_k(LOGITS[None], 2))


def test_experts_that_are_off_are_never_chosen():
    # without expert 0: row 0 is 2 1 -> 2/3 1/3, row 1 is 1 1, row 2 is 4 4
    routing = route(LOGITS[None], plain(2, 3), WhatIf(experts_off=(0,)))
    assert routing.expert[0].tolist() == [[1, 2]] * 3
    torch.testing.assert_close(routing.gate[0, 0], torch.tensor([2 / 3, 1 / 3]))
    # with one expert left there is one choice only; the other is padding
    routing = route(LOGITS[None], plain(2, 3), WhatIf(experts_off=(0, 2)), with_places=True)
    assert routing.expert[0].tolist() == [[1, -1]] * 3
    assert routing.gate[0].tolist() == [[1.0, 0.0]] * 3
    assert routing.kept[0].tolist() == [[True, False]] * 3


def test_another_k_for_one_pass():
    assert route(LOGITS[None], plain(2, 3), WhatIf(top_k=3)).expert.shape == (1, 3, 3)
    assert route(LOGITS[None], plain(2, 3), WhatIf(top_k=1)).expert[0].tolist() == [[0], [0], [1]]


# ---------------------------------------------------------------------------- losses


def test_losses_under_perfect_balance_and_collapse():
    E = 4
    spread = losses.of(route(50 * torch.eye(E)[None], plain(1, E)), plain(1, E))
    assert spread["balance"].item() == pytest.approx(1)
    assert spread["importance"].item() == pytest.approx(0, abs=1e-9)
    one = torch.tensor([[50.0, 0, 0, 0]]).repeat(E, 1)
    collapsed = losses.of(route(one[None], plain(1, E)), plain(1, E))
    assert collapsed["balance"].item() == pytest.approx(E)
    assert collapsed["importance"].item() == pytest.approx(E - 1)  # CV^2 of (4, 0, 0, 0)
    assert collapsed["load"].item() == pytest.approx(E - 1)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_balance_reads_one_for_any_k(k):
    expert = torch.stack([torch.arange(k).add(i) % 4 for i in range(4)])
    demand = losses.demand(expert, 4)
    assert losses.balance(torch.full((4,), 0.25), demand).item() == pytest.approx(1)


def test_importance_loss_by_hand():
    # importance (3, 1): mean 2, population variance 1, CV^2 = 1/4
    expert, gate = torch.tensor([[0, 1], [0, -1]]), torch.tensor([[2.0, 1.0], [1.0, 9.0]])
    assert losses.importance(expert, gate, 2).tolist() == [3, 1]  # padding's 9 is not counted
    assert losses.variation(torch.tensor([3.0, 1.0])).item() == pytest.approx(1 / 4)


def test_z_loss_by_hand():
    # log(1 + 1) and log(1 + 1 + ... 4 times) squared, then the mean
    assert losses.z_loss(torch.zeros(3, 4)).item() == pytest.approx(np.log(4) ** 2)
    assert losses.z_loss(torch.tensor([[0.0, 0.0], [np.log(3), 0.0]])).item() == pytest.approx(
        (np.log(2) ** 2 + np.log(4) ** 2) / 2
    )


# ---------------------------------------------------------------------------- equivalences


def test_one_head_without_projections_is_the_sparse_layer_bit_for_bit():
    sparse, x = layer_and_input(SMALL)
    one = MoELayer(replace(SMALL, heads=1, projections=False))
    one.load_state_dict(sparse.state_dict())
    assert torch.equal(one(x), sparse(x))
    eye = MoELayer(replace(SMALL, heads=1, projections=True))
    eye.load_state_dict(
        sparse.state_dict() | {"head.weight": torch.eye(8), "merge.weight": torch.eye(8)}
    )
    torch.testing.assert_close(eye(x), sparse(x))


def test_heads_without_projections_are_a_sparse_layer_on_slices():
    heads, x = layer_and_input(replace(HEADS, projections=False))
    narrow = MoELayer(replace(SMALL, d_model=4))
    narrow.load_state_dict(heads.state_dict())
    assert torch.equal(heads(x), narrow(x.reshape(2, 12, 4)).reshape(2, 6, 8))


def test_merge_after_split_is_the_identity():
    layer, x = layer_and_input(replace(HEADS, heads=4, projections=False, inner_residual=True))
    with torch.no_grad():
        layer.experts.w_out.zero_()
    assert torch.equal(layer(x), x)


def test_equal_experts_are_one_network():
    layer, x = layer_and_input(replace(SMALL, gate="renormalised"))
    ffn = DenseFFN(8, 12)
    with torch.no_grad():
        for name in ("w_in", "w_out"):
            same = getattr(layer.experts, name)[:1]
            getattr(layer.experts, name).copy_(same.expand(4, -1, -1))
            getattr(ffn, name).copy_(same[0])
        torch.testing.assert_close(layer(x), ffn(x))


@pytest.mark.parametrize("gate", GATES)
def test_all_experts_chosen_is_the_dense_mixture(gate):
    layer, x = layer_and_input(replace(SMALL, top_k=4, gate=gate))
    weights = (x @ layer.router.weight.T).softmax(-1)
    hidden = layer.experts.activation(torch.einsum("btd,edf->btef", x, layer.experts.w_in))
    out = torch.einsum("btef,efd->bted", hidden, layer.experts.w_out)
    torch.testing.assert_close(layer(x), torch.einsum("bte,bted->btd", weights, out))


def test_inner_residual_adds_the_sub_token_before_the_merge():
    layer, x = layer_and_input(HEADS)
    with torch.no_grad():
        difference = layer(x, what_if=WhatIf(inner_residual=True)) - layer(x)
        torch.testing.assert_close(difference, layer.merge(layer.head(x)), atol=1e-5, rtol=1e-5)


def test_permuting_experts_permutes_the_trace():
    layer, x = layer_and_input(SMALL, batch=1)
    order = [2, 0, 3, 1]  # new expert i is the old expert order[i]
    other = MoELayer(SMALL)
    other.load_state_dict({k: v[order] for k, v in layer.state_dict().items()})
    y, (old,) = layer(x, trace=True)
    z, (new,) = other(x, trace=True)
    torch.testing.assert_close(y, z)
    np.testing.assert_array_equal(np.array(order)[new.expert], old.expert)
    for name in ("demand", "load", "importance"):
        np.testing.assert_allclose(getattr(new, name), getattr(old, name)[order], rtol=1e-6)
    assert new.losses == pytest.approx(old.losses)


# ---------------------------------------------------------------------------- capacity in the layer


def test_enough_places_never_drop():
    layer, x = layer_and_input(SMALL)
    with torch.no_grad():
        layer.router.weight.zero_()  # all ties: everybody wants experts 0 and 1
    _, traces = layer(
        x, what_if=WhatIf(capacity_factors=(SMALL.experts / SMALL.top_k,)), trace=True
    )
    for trace in traces:
        assert trace.demand.tolist() == [6, 6, 0, 0]
        assert trace.dropped_share == 0
    _, traces = layer(x, what_if=WhatIf(capacity_factors=(1.0,)), trace=True)
    assert traces[0].load.tolist() == [3, 3, 0, 0]  # C = ceil(2 * 6 / 4)


@pytest.mark.parametrize("config", [SMALL, HEADS])
def test_a_dropped_choice_adds_zero_before_the_merge(config):
    layer, x = layer_and_input(config, batch=1)
    tight = WhatIf(capacity_factors=(0.1,))  # one place each
    with torch.no_grad():
        y, routing, vectors = layer.run(x, what_if=tight, with_places=True)
    lost = (~routing.kept[0]).all(-1)
    assert lost.any()
    combined = vectors["combined"].reshape(-1, config.d_head)
    assert torch.equal(combined[lost], torch.zeros_like(combined[lost]))
    merged = layer.merge(vectors["combined"]) if config.projections else vectors["combined"]
    assert torch.equal(y, merged)
    # what is kept weighs exactly what it weighs without a limit
    free = layer.run(x)[1]
    assert torch.equal(routing.gate, free.gate)


def test_a_list_of_capacities_is_as_many_runs():
    layer, x = layer_and_input(HEADS, batch=1)
    factors = (0.25, 1.0, None)
    y, traces = layer(x.expand(3, -1, -1), what_if=WhatIf(capacity_factors=factors), trace=True)
    for i, factor in enumerate(factors):
        alone, (trace,) = layer(x, what_if=WhatIf(capacity_factors=(factor,)), trace=True)
        torch.testing.assert_close(y[i : i + 1], alone)
        assert trace.capacity == traces[i].capacity
        np.testing.assert_array_equal(trace.kept, traces[i].kept)
    assert [t.capacity for t in traces] == [2, 6, None]  # of 12 sub-tokens, k = 2, E = 4


def test_as_many_capacities_as_sequences():
    layer, x = layer_and_input(SMALL)
    with pytest.raises(ValueError, match="3 capacity factors were given for 2"):
        layer(x, what_if=WhatIf(capacity_factors=(1.0, 2.0, 3.0)))


@pytest.mark.parametrize("config", [SMALL, HEADS], ids=["smoe", "mhmoe"])
def test_padding_is_counted_nowhere(config):
    layer, x = layer_and_input(replace(config, capacity_factor=1.0))
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    x[1, 4:] = 100  # loud padding
    y, (_, padded) = layer(x, mask=mask, trace=True)
    alone, (short,) = layer(x[1:, :4], trace=True)
    torch.testing.assert_close(y[1:, :4], alone)
    assert torch.equal(y[1, 4:], torch.zeros(2, 8))
    assert padded.capacity == short.capacity
    for name in ("demand", "load", "importance"):
        np.testing.assert_allclose(getattr(padded, name), getattr(short, name), rtol=1e-6)
    assert padded.losses == pytest.approx(short.losses)
    assert (padded.expert[4 * config.heads :] == -1).all()
    check_layer(padded)
    # and in the losses that training adds: two batches of one sequence, or one padded batch
    with torch.no_grad():
        routing = layer.run(x[1:], mask=mask[1:])[1]
        training = layer.losses(routing)
    assert {k: v.item() for k, v in training.items()} == pytest.approx(short.losses)


# ---------------------------------------------------------------------------- the slow way


def slow(layer: MoELayer, x: torch.Tensor, places_each: int) -> torch.Tensor:
    """One token, one slice, one choice at a time, straight from the paper; differentiable."""
    c = layer.config
    rows = []
    for sequence in x:
        wide = [layer.head.weight @ token if c.projections else token for token in sequence]
        subs = [w[h * c.d_head : (h + 1) * c.d_head] for w in wide for h in range(c.heads)]
        probs = [torch.softmax(layer.router.weight @ s, 0) for s in subs]
        ranked = [sorted(range(c.experts), key=lambda e, p=p: (-p[e].item(), e)) for p in probs]
        filled = [0] * c.experts
        sums = [torch.zeros_like(s) for s in subs]
        for k in range(c.top_k):
            for i, s in enumerate(subs):
                e = ranked[i][k]
                filled[e] += 1
                if filled[e] <= places_each:
                    hidden = layer.experts.activation(s @ layer.experts.w_in[e])
                    sums[i] = sums[i] + probs[i][e] * (hidden @ layer.experts.w_out[e])
        tokens = [torch.cat(sums[t * c.heads : (t + 1) * c.heads]) for t in range(len(sequence))]
        rows.append(torch.stack([layer.merge.weight @ t if c.projections else t for t in tokens]))
    return torch.stack(rows)


@pytest.mark.parametrize("factor", [None, 0.75])
@pytest.mark.parametrize(
    "config",
    [SMALL, HEADS, replace(HEADS, heads=4, projections=False)],
    ids=["smoe", "mhmoe", "slices"],
)
def test_output_and_gradients_equal_the_loop(config, factor, monkeypatch):
    monkeypatch.setattr(visits, "MOST", 2)  # several chunks an expert
    layer, x = layer_and_input(replace(config, capacity_factor=factor))
    layer, x = layer.double(), x.double().requires_grad_()
    limit = capacity(factor, 2, 6 * config.heads, 4) or 10**6
    inputs = [x, *layer.parameters()]
    fast, oracle = layer(x), slow(layer, x, limit)
    # the router computes in float32 whatever comes in, hence the tolerance
    torch.testing.assert_close(fast, oracle, rtol=1e-5, atol=1e-6)
    for a, b in zip(
        torch.autograd.grad(fast.square().sum(), inputs),
        torch.autograd.grad(oracle.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_single_choice_renormalised_teaches_the_router_nothing():
    layer, x = layer_and_input(replace(SMALL, top_k=1, gate="topk-softmax"))
    layer(x).square().sum().backward()
    assert torch.equal(layer.router.weight.grad, torch.zeros(4, 8))  # the gate is always 1
    layer, x = layer_and_input(replace(SMALL, top_k=1))
    layer(x).square().sum().backward()
    assert layer.router.weight.grad.abs().max() > 0


def test_a_trace_changes_nothing_and_keeps_its_laws():
    for config in (SMALL, HEADS):
        layer, x = layer_and_input(config)
        y, traces = layer(x, trace=True)
        assert torch.equal(y, layer(x))
        for b, trace in enumerate(traces):
            check_layer(trace)
            assert trace.sub_tokens == 6 * config.heads
            np.testing.assert_array_equal(trace.vectors["out"], y[b].detach().numpy())


def test_a_seed_is_a_layer():
    first, second = (MoELayer(HEADS, seeded(5)).state_dict() for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)


# ---------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("config", [SMALL, HEADS, replace(HEADS, heads=4, projections=False)])
def test_the_formulas_count_what_is_built(config):
    layer = MoELayer(config)
    total = sum(p.numel() for p in layer.parameters())
    idle = (config.experts - config.top_k) * (
        layer.experts.w_in[0].numel() + layer.experts.w_out[0].numel()
    )
    assert config.parameters == total
    assert config.active_parameters == total - idle
    # every weight that a sub-token meets is one multiplication; the square layers, one a token
    square = sum(
        p.numel() for n, p in layer.named_parameters() if n.split(".")[0] in ("head", "merge")
    )
    assert config.macs_per_token == config.heads * (total - idle - square) + square


def test_matched_heads_have_the_same_parameters_and_cost_more():
    base = MoEConfig(d_model=128, d_ff=512, experts=8, top_k=2)
    for heads in (2, 4, 8):
        many = base.matched(heads)
        assert (many.experts, many.top_k, many.heads) == (8, 2, heads)
        assert 0 <= base.parameters - many.parameters < 0.01 * base.parameters
        assert many.macs_per_token > base.macs_per_token


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "d_model 8 cannot be cut into 3"),
        ({"top_k": 5}, "top_k 5 is more than the 4 experts"),
        ({"experts": 0}, "experts must be a whole number of at least 1, not 0"),
        ({"d_ff": 2.5}, "d_ff must be a whole number"),
        ({"gate": "loud"}, "gate 'loud' is none of"),
        ({"activation": "tanh"}, "activation 'tanh' is none of"),
        ({"capacity_factor": 0}, "capacity_factor must be positive"),
    ],
)
def test_a_layer_that_cannot_be_built_says_why(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **change)


def test_an_unknown_router_lists_the_known():
    with pytest.raises(ValueError, match="'oracle' is none of linear"):
        MoELayer(replace(SMALL, router="oracle"))


def test_heads_that_leave_no_width_say_so():
    with pytest.raises(ConfigError, match="8 heads leave no width"):
        MoEConfig(d_model=64, d_ff=4, experts=2, top_k=1).matched(8)
