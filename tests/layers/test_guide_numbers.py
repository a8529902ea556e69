"""The numbers that the visual guide prints, as our layers compute them, with its corrections.

VG-nn is a figure of the guide, C-nn what has to be put right in it.
"""

from __future__ import annotations

import pytest
import torch
from moe_cases import config, hand

from mhmoe.layers import capacity, losses, route
from mhmoe.layers.buffers import by_priority, places
from mhmoe.layers.losses import variation
from mhmoe.trace import GATES

#: VG-43's six tokens by the highest of their bars; the guide counts from 1.
VG43 = [0, 1, 2, 0, 2, 0]


def switch_loss(probs: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    return losses.balance(losses.mean(probs, None), losses.demand(chosen, probs.shape[1]))


def test_vg16_a_single_choice_weighs_p_or_one():
    scores = [[0.45, 0.19, 0.05, 0.31]]
    found = {c: hand(scores, top_k=1, gate=c).gate.item() for c in GATES}
    # C-03: the guide's .45 is convention (b); what it draws in VG-27 would give 1
    assert found["softmax-topk"] == pytest.approx(0.45)
    assert found["topk-softmax"] == found["renormalised"] == 1


def test_vg26_every_token_loses_its_own_worst():
    # C-01: the guide masks a whole row; each row keeps k = 2 of its 3
    routing = hand([[3, 2, 1], [1, 3, 2], [2, 1, 3]], "shazeer", top_k=2)
    assert routing.expert[0].tolist() == [[0, 1], [1, 2], [2, 0]]
    assert torch.equal(routing.gate[0].sum(1), torch.ones(3))


@pytest.mark.parametrize(
    ("vector", "population", "sample", "total"),
    [
        ([0.8, 0.2, 0.1, 0.05, 0.2], 1.005, 1.123, 1.35),  # VG-32, printed 1.11
        ([0.3, 0.3, 0.2, 0.2, 0.3], 0.188, 0.211, 1.30),  # VG-33, printed .19
    ],
)
def test_vg32_and_33_coefficients_of_variation(vector, population, sample, total):
    # C-07: the two printed values mix conventions and roundings; ours is the population's
    importance = torch.tensor(vector, dtype=torch.float64)
    assert variation(importance).sqrt().item() == pytest.approx(population, abs=5e-4)
    assert (importance.std() / importance.mean()).item() == pytest.approx(sample, abs=5e-4)
    # C-06: as sums of gates that sum to 1 they would have to total the number of tokens
    assert importance.sum().item() == pytest.approx(total)


def test_importance_totals_the_number_of_tokens():
    # C-06, for conventions whose gates sum to 1
    routing = hand([[3, 2, 1], [1, 3, 2], [2, 1, 3], [5, 1, 1]], "shazeer", top_k=2)
    total = losses.importance(routing.expert[0], routing.gate[0], 3)
    assert total.sum().item() == pytest.approx(4)


def test_vg36_and_37_a_full_expert_and_its_next():
    # "What is Mixture of Experts ?": five want FFNN1, the last FFNN4; capacity 3. FFNN4 is next
    first = [[8.0, 1.0, 1.5, 4.0]]
    scores = first * 5 + [[1.0, 1.5, 2.0, 8.0]]
    rule = dict(top_k=1, capacity_factor=2.0)  # 2 * 6 / 4 = 3 places
    dropped = hand(scores, "switch", **rule)
    assert dropped.capacity == (3,)
    assert dropped.kept[0, :, 0].tolist() == [True, True, True, False, False, True]
    # C-09: what the guide draws is no paper's default but the cascade
    cascade = hand(scores, "no-token-left-behind", **rule)
    assert cascade.expert[0, :, 0].tolist() == [0, 0, 0, 3, 3, 3]
    # "Summarize" makes seven: both are full now, but 2 and 3 are not, and the cascade finds them
    seven = dict(top_k=1, capacity_factor=1.5)  # ceil(1.5 * 7 / 4) = 3
    cascade = hand(first + scores, "no-token-left-behind", **seven)
    assert cascade.expert[0, :, 0].tolist() == [0, 0, 0, 3, 3, 2, 3]
    assert not hand(first + scores, "switch", **seven).kept[0, 3:6].any()


def test_vg41_capacity():
    assert capacity(1.0, 1, 6, 3) == 2


def test_vg42_overflow_and_empty_places():
    want = {0: [6.0, 2, 1], 1: [1.0, 6, 2], 2: [1.0, 2, 6]}
    scores = [want[e] for e in (0, 0, 0, 1, 2, 2)]  # loads 3 1 2
    for factor, places_each, overflow, empty in ((1.0, 2, 1, 1), (1.5, 3, 0, 3)):
        routing = hand(scores, "switch", capacity_factor=factor)
        assert routing.capacity == (places_each,)
        assert (~routing.kept).sum().item() == overflow
        assert 3 * places_each - routing.kept.sum().item() == empty


def test_vg43_shares_and_the_loss():
    E = 3
    # C-13: f is printed 4/6, 2/6, 0, but the bars' highest give 3, 1, 2 of 6
    chosen = torch.tensor(VG43)[:, None]
    assert losses.demand(chosen, E).tolist() == [3, 1, 2]
    assert switch_loss(torch.full((6, E), 1 / E), chosen).item() == pytest.approx(1)
    sure = torch.tensor([[1.0, 0, 0]]).repeat(6, 1)
    crowd = switch_loss(sure, torch.zeros(6, 1, dtype=torch.long))
    assert crowd.item() == pytest.approx(E)
    # uniform is the reference, not a lower bound: nine (.51, .49) and one (0, 1) give .934
    probs = torch.tensor([[0.51, 0.49]] * 9 + [[0.0, 1.0]])
    assert switch_loss(probs, probs.argmax(1)[:, None]).item() == pytest.approx(0.9344)


def test_vg43_only_p_carries_gradient():
    logits = torch.zeros(6, 3, requires_grad=True)
    switch_loss(logits.softmax(-1), torch.tensor(VG43)[:, None]).backward()
    # E/N * p (f_j - sum_i p_i f_i) with p = 1/3 and f = (3, 1, 2)/6: + for the crowded
    expected = 3 / 6 * (torch.tensor([3, 1, 2]) / 6 - 1 / 3) / 3
    torch.testing.assert_close(logits.grad, expected.expand(6, 3))


def test_vg48_the_most_certain_patches_are_kept():
    # 4 x 4 patches, E = 2, capacity 4 (C-21: the score is the router's largest gate)
    rows = [[0.1, 0.8, 0.7, 0], [0, 0.9, 0.8, 0.2], [0.1, 0.8, 0.5, 0.7], [0.6, 0.7, 0.3, 0.2]]
    score = torch.tensor(rows).flatten()
    # the experts of the patches are not printed; taking turns in order of score, each gets 4
    # of the eight that reach .6
    expert = torch.empty(16, dtype=torch.long)
    expert[score.sort(descending=True, stable=True).indices] = torch.arange(16) % 2
    expert = expert[None, :, None]
    order = by_priority(score[None, :, None])
    kept = (places(expert, 2, order=order) < 4)[0, :, 0]
    assert torch.equal(kept, score >= 0.6)
    vanilla = (places(expert, 2) < 4)[0, :, 0]
    assert vanilla.sum() == kept.sum() == 2 * 4
    assert score[vanilla].sum() < score[kept].sum()


def test_why_the_z_loss():
    # F-07: ten scores of 128 and one of 128.5, which bfloat16 rounds to 128
    logits = torch.tensor([[[128.5] + [128.0] * 10]])
    c = config(experts=11)
    assert route(logits, c).probs[0, 0, 0].item() == pytest.approx(0.142, abs=5e-4)
    rounded = logits.bfloat16().float()
    assert route(rounded, c).probs[0, 0, 0].item() == pytest.approx(0.091, abs=5e-4)
