"""google-research/vmoe (JAX, too heavy to install): its own hand-sized cases, as numbers.

Three items, three experts, two places: the cases of ``moe_test.py`` and ``nn/routing_test.py``
(Apache 2.0), restated. Its router functions take gates; ours take tokens, so the tokens are the
rows of a unit matrix and the router's weights are whatever gives these gates.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mhmoe.layers import MoEConfig, MoELayer, losses

#: [item, expert]. The rows need not sum to 1, so they enter as sigmoid scores, not as a softmax.
GATES = torch.tensor([[0.4, 0.0, 0.2], [0.5, 0.1, 0.4], [0.3, 0.2, 0.6]])
#: combine[item, expert, place]: every first choice finds a place, and one second choice; which
#: one depends on who is served first, item 0 (by position) or item 1 (larger gate).
BY_POSITION = torch.tensor(
    [
        [[0.4, 0.0], [0.0, 0.0], [0.0, 0.2]],
        [[0.0, 0.5], [0.0, 0.0], [0.0, 0.0]],
        [[0.0, 0.0], [0.0, 0.0], [0.6, 0.0]],
    ]
)
BY_PRIORITY = torch.tensor(
    [
        [[0.0, 0.4], [0.0, 0.0], [0.0, 0.0]],
        [[0.5, 0.0], [0.0, 0.0], [0.0, 0.4]],
        [[0.0, 0.0], [0.0, 0.0], [0.6, 0.0]],
    ]
)
#: Expert 0 takes items 1 and 0, the others items 2 and 1, best first.
BY_EXPERTS = torch.tensor(
    [
        [[0.0, 0.4], [0.0, 0.0], [0.0, 0.0]],
        [[0.5, 0.0], [0.0, 0.1], [0.0, 0.4]],
        [[0.0, 0.0], [0.2, 0.0], [0.6, 0.0]],
    ]
)
#: Rows that do sum to 1, for the losses.
PROBS = torch.tensor([[0.5, 0.4, 0.1], [0.3, 0.3, 0.4], [0.1, 0.2, 0.7], [0.8, 0.2, 0.0]])


def routing(scores_SE: Tensor, router: str, **switches):
    """What a layer of this router decides about these scores."""
    S, E = scores_SE.shape
    config = MoEConfig(d_model=S, d_ff=4, experts=E, router=router, **switches)
    layer = MoELayer(config)
    with torch.no_grad():
        layer.router.weight.copy_(scores_SE.T)
        _, decisions, _ = layer.run(torch.eye(S)[None])
        return layer, decisions


def combine(decisions, experts: int, places: int) -> Tensor:
    """[S, E, C] weight of every item in every place, as vmoe writes a routing down."""
    expert, gate, slot, kept = (
        getattr(decisions, name)[0] for name in ("expert", "gate", "slot", "kept")
    )
    table = torch.zeros(len(expert), experts, places)
    item, choice = kept.nonzero(as_tuple=True)
    table[item, expert[item, choice], slot[item, choice]] = gate[item, choice]
    return table


def token_choice(router: str, **switches) -> Tensor:
    scores = torch.logit(GATES, eps=1e-30).clamp_min(-80)
    shape = {"top_k": 2, "capacity_factor": 1.0, "capacity_multiple": 1}
    _, decisions = routing(scores, router, score="sigmoid", **(shape | switches))
    return combine(decisions, experts=3, places=3)


@pytest.mark.parametrize(
    ("router", "expected"), [("v-moe", BY_POSITION), ("v-moe-priority", BY_PRIORITY)]
)
def test_three_items_three_experts_two_places(router, expected):
    found = token_choice(router)
    torch.testing.assert_close(found[..., :2], expected, atol=1e-6, rtol=1e-6)
    assert not found[..., 2].any()


@pytest.mark.parametrize(
    ("change", "entry", "moves"),
    [
        ({"order": "position"}, (1, 2, 1), 0.4),
        ({"gate": "renormalised"}, (0, 0, 1), 0.4 / 0.6 - 0.4),  # places stay, by the raw gate
        ({"capacity_factor": 1.5}, (0, 2, 2), 0.2),  # a third place for the third choice
    ],
)
def test_a_difference_to_priority_is_seen(change, entry, moves):
    found = token_choice("v-moe-priority", **change)
    expected = torch.nn.functional.pad(BY_PRIORITY, (0, 1))
    assert abs(found[entry] - expected[entry]) == pytest.approx(moves, abs=1e-6)


def test_experts_choose_items():
    """Ours is a softmax, so half of each gate is used and a fourth expert takes the rest."""
    half = GATES / 2
    probs = torch.cat([half, 1 - half.sum(1, keepdim=True)], dim=1)
    _, decisions = routing(
        probs.clamp_min(1e-30).log(), "expert-choice", top_k=2, capacity_factor=4 / 3
    )
    found = combine(decisions, experts=4, places=2)[:, :3]
    torch.testing.assert_close(2 * found, BY_EXPERTS, atol=1e-6, rtol=1e-6)


def test_capacity_is_raised_to_a_multiple_of_four():
    """32 items, 32 experts, k = 2, factor 1: ceil(2) places, raised to 4."""
    scores = torch.zeros(32, 32)
    assert routing(scores, "v-moe", top_k=2, capacity_factor=1.0)[1].capacity == (4,)
    exact = {"capacity_factor": 1.0, "capacity_multiple": 1}
    assert routing(scores, "v-moe", top_k=2, **exact)[1].capacity == (2,)


def test_gshard_loss():
    """3 (0.5 * 1.7 / 4 + 0.5 * 1.2 / 4): first choices are experts 0, 2, 2, 0."""
    layer, decisions = routing(PROBS.clamp_min(1e-30).log(), "gshard")
    assert float(layer.losses(decisions)["balance"]) == pytest.approx(1.0875, abs=1e-6)
    # second choices are 1, 0 (before its equal 1), 1, 1: 3 (3 * 1.7 + 3 * 1.1 + 2 * 1.2) / 32
    layer, decisions = routing(PROBS.clamp_min(1e-30).log(), "gshard", loss_counts="all")
    assert float(layer.losses(decisions)["balance"]) == pytest.approx(1.0125, abs=1e-6)


def test_importance_loss():
    """CV^2 of (1.7, 1.1, 1.2), population variance, over the whole softmax."""
    layer, decisions = routing(PROBS.clamp_min(1e-30).log(), "v-moe")
    assert float(layer.losses(decisions)["importance"]) == pytest.approx(0.03874999, abs=1e-6)
    # of the gates alone, as Shazeer has it, the sums are others
    layer, decisions = routing(PROBS.clamp_min(1e-30).log(), "v-moe", importance_of="gates")
    assert abs(float(layer.losses(decisions)["importance"]) - 0.03874999) > 0.01


LOGITS = torch.tensor([[0.9, 0.06, 0.04], [0.7, 0.18, 0.12], [0.85, 0.05, 0.1]])
NOISE = torch.tensor([[-0.037, 0.026, -0.018], [-0.074, 0.045, -0.015], [-0.067, -0.059, 0.073]])


def test_load_loss():
    """CV^2 of the expected loads, noise of std 0.1, k = 2: its code takes the second largest
    noisy score as the one to beat for every expert; Shazeer leaves the expert itself out."""

    def loss(threshold: str) -> float:
        load = losses.smooth_load(LOGITS, LOGITS + NOISE, torch.tensor(0.1), 2, threshold)
        return losses.variation(load).item()

    assert loss("kth") == pytest.approx(0.48573864536489236, abs=1e-6)
    assert abs(loss("excluding") - 0.48573864536489236) > 0.1
