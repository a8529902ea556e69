"""The losses that keep routers in order. Scalars, unweighted; each layer reports all of them.

Shapes: logits, probs [N, E]; expert, gate [N, K]; rows of padding are left out by the caller.
All use demand (choices before capacity), so that a full expert cannot hide its popularity.
"""

from __future__ import annotations

import torch
from torch import Tensor


def demand(expert_NK: Tensor, experts: int) -> Tensor:
    """[E] how often each expert was chosen, before capacity; -1 is padding."""
    return torch.bincount(expert_NK.flatten() + 1, minlength=experts + 1)[1:]


def importance(expert_NK: Tensor, gate_NK: Tensor, experts: int) -> Tensor:
    """[E] sum of the gates each expert received (Shazeer 2017, eq. 6)."""
    total = gate_NK.new_zeros(experts)
    return total.index_add(
        0, expert_NK.clamp_min(0).flatten(), torch.where(expert_NK >= 0, gate_NK, 0).flatten()
    )


def switch_loss(probs_NE: Tensor, expert_NK: Tensor) -> Tensor:
    """E * sum_e f_e P_e (Switch, 2101.03961, eq. 4), f = demand / (N K), P = mean probability.

    1 under perfect balance and E under full collapse, for any K; not bounded below by 1.
    Only P carries gradient: f is a count.
    """
    E = probs_NE.shape[1]
    counts = demand(expert_NK, E).to(probs_NE.dtype)
    return E * torch.dot(counts / counts.sum().clamp_min(1), probs_NE.mean(0))


def importance_loss(expert_NK: Tensor, gate_NK: Tensor, experts: int) -> Tensor:
    """CV(importance)^2 (Shazeer 2017, eq. 7), population variance: between 0 and E - 1."""
    total = importance(expert_NK, gate_NK, experts)
    return total.var(unbiased=False) / total.mean().square().clamp_min(1e-12)


def z_loss(logits_NE: Tensor) -> Tensor:
    """Mean squared log-sum-exp of the scores (ST-MoE, 2202.08906, eq. 5)."""
    return torch.logsumexp(logits_NE, -1).square().mean()


def all_losses(
    logits_NE: Tensor, probs_NE: Tensor, expert_NK: Tensor, gate_NK: Tensor
) -> dict[str, Tensor]:
    """Every loss by the name that traces, logs and recipes use."""
    return {
        "balance": switch_loss(probs_NE, expert_NK),
        "importance": importance_loss(expert_NK, gate_NK, logits_NE.shape[1]),
        "z": z_loss(logits_NE),
    }
