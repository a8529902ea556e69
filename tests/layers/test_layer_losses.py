"""The losses: values worked out by hand, which switches they follow, who gets their gradient."""

from __future__ import annotations

import math

import pytest
import torch
from moe_cases import ALL, build, config, hand, seeded, tokens

from mhmoe.layers import MoELayer, Routing, WhatIf, losses, route
from mhmoe.layers.losses import smooth_load, variation


def of(routing, **changes) -> dict[str, float]:
    c = config(experts=routing.probs.shape[-1], **changes)
    return {name: value.item() for name, value in losses.of(routing, c).items()}


def phi(z: float) -> float:
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


# ---------------------------------------------------------------------------- balance


def test_balance_counts_all_choices_or_the_first():
    # choices (0 1), (0 2): all f = (2 1 1)/4, first f = (1 0 0); P = (12/7 + ...)/2
    scores = [[4.0, 2.0, 1.0], [4.0, 1.0, 2.0]]  # P = (4/7, 3/14, 3/14)
    routing = hand(scores)
    assert of(routing)["balance"] == pytest.approx(3 * (2 * 4 / 7 + 3 / 14 + 3 / 14) / 4)
    assert of(routing, loss_counts="first")["balance"] == pytest.approx(3 * 4 / 7)


@pytest.mark.parametrize("key", ALL)
def test_balance_is_one_when_even_and_e_when_all_go_to_one(key):
    """Whatever K, and for Expert Choice and Soft MoE by construction."""
    c = config(key, capacity_factor=None)
    if c.assignment != "token-choice":
        even = build(c).losses(build(c).decide(tokens(1, 6, 8)))["balance"]
        assert even.item() == pytest.approx(1, abs=1e-5)
        return
    E, K = c.experts, c.top_k
    turns = torch.stack([torch.arange(E).roll(i) for i in range(E)]).float()[None]
    even = losses.of(route(turns, c), c, torch.tensor(c.temperature))
    assert even["balance"].item() == pytest.approx(1, abs=1e-6)
    one = torch.zeros(1, 5, E)
    one[..., 0] = 60
    if c.score == "softmax" and (c.loss_counts == "first" or K == 1):
        crowd = losses.of(route(one, c), c, torch.tensor(c.temperature or 1.0))
        assert crowd["balance"].item() == pytest.approx(E, rel=1e-5)


def test_how_others_scale_it():
    routing = hand([[4.0, 2.0, 1.0], [1.0, 2.0, 4.0]])
    E, K, ours = 3, 2, of(routing)["balance"]
    probs = routing.probs[0]
    chosen = torch.zeros(2, E).scatter(1, routing.expert[0], 1.0)
    hugging_face = E * (chosen.mean(0) * probs.mean(0)).sum().item()  # choices per token
    assert hugging_face == pytest.approx(K * ours)
    first = torch.zeros(2, E).scatter(1, routing.expert[0, :, :1], 1.0)
    gshard = (first.mean(0) * probs.mean(0)).sum().item() / E
    assert E**2 * gshard == pytest.approx(of(routing, loss_counts="first")["balance"])


def test_balance_over_sequences_is_the_mean_of_each():
    # each sequence sends all to one expert, the batch as a whole is even
    logits = torch.tensor([[[9.0, 1.0]] * 3, [[1.0, 9.0]] * 3]).log()
    c = config(experts=2, top_k=1)
    assert losses.of(route(logits, c), c)["balance"].item() == pytest.approx(1)
    c = config(experts=2, top_k=1, loss_over="sequence")
    assert losses.of(route(logits, c), c)["balance"].item() == pytest.approx(2 * 0.9)
    # a sequence of padding alone counts for nothing
    mask = torch.tensor([[True] * 3, [False] * 3])
    alone = losses.of(route(logits, c, mask=mask), c)["balance"]
    assert alone.item() == pytest.approx(2 * 0.9)


def test_v3_takes_each_sigmoid_as_a_part_of_their_sum():
    # sigmoids 4/5, 2/3, 1/2 sum to 59/30; all choose expert 0: E f P = 3 * (4/5) / (59/30)
    c = config("deepseek-v3", experts=3, top_k=1)
    routing = hand([[4.0, 2.0, 1.0]] * 2, "deepseek-v3", top_k=1)
    assert losses.of(routing, c)["balance"].item() == pytest.approx(3 * 24 / 59)


def test_x_moe_balances_at_the_temperature_it_started_with():
    c = config("x-moe", experts=3, temperature=0.5)
    scores = torch.tensor([[[0.6, 0.2, 0.1]]])
    learned = torch.tensor(0.25, requires_grad=True)
    found = losses.of(route(scores / learned, c), c, learned)["balance"]
    torch.testing.assert_close(found, 3 * (scores / 0.5).softmax(-1)[0, 0, 0])
    (gradient,) = torch.autograd.grad(found, learned)
    assert gradient.abs().item() < 1e-6  # the learned temperature gets nothing from it


# ---------------------------------------------------------------------------- importance, load


def test_v_moe_sums_the_probabilities_before_noise():
    routing = hand([[4.0, 2.0, 1.0], [1.0, 2.0, 4.0]], top_k=1)
    # gates: 4/7 for expert 0 and for 2; probabilities: 5/7, 4/7, 5/7
    gates = variation(torch.tensor([4.0, 0.0, 4.0])).item()
    assert of(routing)["importance"] == pytest.approx(gates)
    assert of(routing, importance_of="probs")["importance"] == pytest.approx(
        variation(torch.tensor([5.0, 4.0, 5.0])).item()
    )


def test_noise_does_not_reach_that_sum():
    layer, x = build(config("v-moe", experts=2)), tokens(1, 10, 8)  # with noise of std 1/2
    clean = layer.losses(layer.decide(x))["importance"]
    noisy = layer.losses(layer.decide(x, generator=seeded(0)))["importance"]
    assert torch.equal(clean, noisy)


def test_smooth_load_by_hand():
    # k = 1, std 1: expert 0 must beat 1, the others 3 (excluding); or all must beat 3 (kth)
    clean = noisy = torch.tensor([[3.0, 1.0, 0.0]])
    std = torch.ones(1, 3)
    expected = [phi(3 - 1), phi(1 - 3), phi(0 - 3)]
    torch.testing.assert_close(smooth_load(clean, noisy, std, 1), torch.tensor(expected))
    expected[0] = phi(0)
    found = smooth_load(clean, noisy, std, 1, "kth")
    torch.testing.assert_close(found, torch.tensor(expected))
    # all experts chosen: everyone is certain
    assert smooth_load(clean, noisy, std, 3).tolist() == [1, 1, 1]


def test_smooth_load_is_the_chance_to_be_chosen_when_its_own_noise_is_drawn_again():
    clean = torch.tensor([[0.5, 0.0, -0.3, 0.2]])
    noisy = clean + torch.tensor([[0.1, -0.4, 0.9, 0.0]])
    std = torch.tensor([[0.5, 1.0, 0.7, 0.3]])
    draws, hits = 20_000, []
    for i in range(4):
        again = noisy.repeat(draws, 1)
        again[:, i] = clean[0, i] + std[0, i] * torch.randn(draws, generator=seeded(i))
        hits.append((again.topk(2).indices == i).any(1).float().mean())
    found = smooth_load(clean, noisy, std, 2)
    torch.testing.assert_close(found, torch.stack(hits), atol=0.015, rtol=0)


@pytest.mark.parametrize("key", ["shazeer", "v-moe"])
def test_load_is_smooth_with_noise_and_a_count_without(key):
    layer = build(config(key, top_k=2, capacity_factor=None))
    x = tokens(1, 30, 8)
    counted = layer.losses(layer.decide(x))["load"]
    assert not counted.requires_grad
    smooth = layer.losses(layer.decide(x, generator=seeded(0)))["load"]
    smooth.backward()
    assert layer.router.weight.grad.abs().max() > 0


def test_a_temperature_divides_the_noise_too():
    # so that the chance to be chosen, (clean - threshold) / std, stays
    layer, x = build(config("shazeer", top_k=2)), tokens(1, 30, 8)
    loads = [
        layer.losses(layer.decide(x, what_if=WhatIf(temperature=t), generator=seeded(0)))["load"]
        for t in (1.0, 3.0)
    ]
    torch.testing.assert_close(loads[0], loads[1])


def test_losses_see_what_was_wanted_not_what_was_found():
    # all want expert 0; re-routing hides it from nobody
    routing = hand([[4.0, 2.0, 1.0]] * 3, "no-token-left-behind", capacity_factor=1.0)
    assert routing.expert[0, :, 0].tolist() == [0, 1, 2]
    found = of(routing)
    assert found["balance"] == pytest.approx(3 * 4 / 7)
    assert found["load"] == pytest.approx(2)  # CV^2 of (3, 0, 0)
    assert found["importance"] == pytest.approx(variation(torch.tensor([4.0, 2.0, 1.0])).item())


def test_a_batch_of_padding_alone_has_no_losses():
    layer = build(config())
    y, routing, _ = layer.run(tokens(1, 3, 8), mask=torch.zeros(1, 3, dtype=torch.bool))
    assert not y.any()
    assert all(value.item() == 0 for value in layer.losses(routing).values())


def test_soft_moe_has_nothing_to_balance():
    c = config("soft-moe", experts=2)
    routing = route(torch.tensor([[[math.log(2), 0.0], [0.0, 0.0]]]), c, WhatIf())
    found = losses.of(routing, c)
    assert (found["balance"].item(), found["load"].item()) == (1, 0)
    # tokens read 7/6 and 5/6: mean 1, variance 1/36
    assert found["importance"].item() == pytest.approx(1 / 36)


# ---------------------------------------------------------------------------- every sequence


def slowly(layer: MoELayer, routing: Routing, rows: list[tuple[int, int]]) -> dict[str, float]:
    """The losses of the sub-tokens (b, s) in ``rows``, added up one by one."""
    c, N = layer.config, max(1, len(rows))
    z = sum(routing.logits[row].exp().sum().log().item() ** 2 for row in rows) / N
    if routing.combine is not None:
        read = [routing.combine[row].view(c.experts, -1).sum(1) for row in rows]
        return {"balance": min(1, len(rows)), "importance": spread(read), "load": 0, "z": z}
    asked = routing.expert if routing.wanted is None else routing.wanted
    counted = asked[..., :1] if c.loss_counts == "first" else asked
    choices = [e for row in rows for e in counted[row].tolist() if e >= 0]
    shares = losses.shares(routing, c, getattr(layer.router, "temperature", None))
    balance = sum(
        c.experts * choices.count(e) / max(1, len(choices)) * shares[row][e].item() / N
        for e in range(c.experts)
        for row in rows
    )
    weights = [torch.zeros(c.experts) for _ in rows]
    for row, weight in zip(rows, weights, strict=True):
        for e, gate in zip(routing.expert[row].tolist(), routing.gate[row], strict=True):
            weight[max(e, 0)] += gate if e >= 0 else 0
    if c.importance_of == "probs":
        weights = [routing.clean[row].softmax(-1) for row in rows]
    loads = [(asked[row][:, None] == torch.arange(c.experts)).sum(0).float() for row in rows]
    if routing.std is not None:
        loads = [
            smooth_load(clean[None], noisy[None], std[None], c.top_k, c.load_threshold)
            for clean, noisy, std in (
                (routing.clean[row], routing.logits[row], routing.std[row]) for row in rows
            )
        ]
    return {"balance": balance, "importance": spread(weights), "load": spread(loads), "z": z}


def spread(parts: list[torch.Tensor]) -> float:
    """CV^2 of a sum; of nothing 0."""
    total = sum(parts).double() if parts else torch.ones(2)
    return (total.var(unbiased=False) / total.mean() ** 2).item()


@pytest.mark.parametrize("key", ALL)
def test_all_sequences_at_once_are_each_one_added_up_row_by_row(key):
    layer = build(config(key))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    with torch.no_grad():
        routing = layer.run(tokens(4, 5, 8), mask=mask, generator=seeded(3))[1]
        found = losses.each(routing, layer.config, getattr(layer.router, "temperature", None))
        rows = [tuple(row) for row in mask.nonzero().tolist()]
        expected = [slowly(layer, routing, [row for row in rows if row[0] == b]) for b in range(4)]
        for name, values in found.items():
            assert values.tolist() == pytest.approx([e[name] for e in expected], abs=1e-5), name
        # the batch is all rows as one sequence, but for methods that average over sequences
        whole = slowly(layer, routing, rows)
        if layer.config.loss_over == "sequence":
            whole["balance"] = sum(e["balance"] for e in expected[:3]) / 3
        batch = {name: value.item() for name, value in layer.losses(routing).items()}
        assert batch == pytest.approx(whole, abs=1e-5)


# ---------------------------------------------------------------------------- the z-loss


def test_gradient_of_the_z_loss():
    # dL/dh_j = (2/B) * LSE * p_j (F-07)
    logits = torch.tensor([[4.0, 2.0, 1.0], [1.0, 1.0, 1.0]], requires_grad=True)
    losses.z_loss(logits).backward()
    lse = logits.detach().logsumexp(-1, keepdim=True)
    torch.testing.assert_close(logits.grad, lse * logits.detach().softmax(-1))
