"""The losses that keep routers in order. Scalars, unweighted; each layer reports all of them.

Shapes: logits, probs [N, E]; expert, gate [N, K]; rows of padding are left out by the caller.
All use demand (choices before capacity and re-routing), so that a full expert cannot hide its
popularity. Balance reads 1 when routing is even, whatever E, K and the number of tokens; others
scale it differently: GShard's paper has 1/E^2 there, Hugging Face's Mixtral K.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mhmoe.layers.config import MoEConfig
from mhmoe.layers.routers import Routing


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
    """CV(importance)^2 (Shazeer 2017, eq. 7)."""
    return variation(importance(expert_NK, gate_NK, experts))


def variation(total_E: Tensor) -> Tensor:
    """CV^2 = variance / mean^2, population variance: between 0 and E - 1."""
    return total_E.var(unbiased=False) / total_E.mean().square().clamp_min(1e-12)


def smooth_load(
    clean_NE: Tensor, noisy_NE: Tensor, std_NE: Tensor, top_k: int, threshold: str = "excluding"
) -> Tensor:
    """[E] expected choices of each expert if its noise were drawn again (Shazeer 2017, eq. 8-10):
    sum over tokens of Phi((clean_i - t_i) / std_i), where t_i is the score to beat.

    threshold  "excluding": the k-th largest noisy score of the other experts; "kth": the k-th
               largest of all, also for those above it (V-MoE's code)
    """
    E = clean_NE.shape[1]
    if threshold == "excluding" and top_k == E:
        return clean_NE.new_ones(clean_NE.shape).sum(0)
    ranked, order = torch.sort(noisy_NE, dim=-1, descending=True, stable=True)
    beat = ranked[:, top_k - 1 : top_k]
    if threshold == "excluding":  # for those above it, the k-th of the others is one further down
        inside = torch.zeros_like(noisy_NE, dtype=torch.bool)
        inside = inside.scatter(1, order[:, :top_k], True)
        beat = torch.where(inside, ranked[:, top_k : top_k + 1], beat)
    return torch.special.ndtr((clean_NE - beat) / std_NE.clamp_min(1e-6)).sum(0)


def z_loss(logits_NE: Tensor) -> Tensor:
    """Mean squared log-sum-exp of the scores (ST-MoE, 2202.08906, eq. 5)."""
    return torch.logsumexp(logits_NE, -1).square().mean()


def all_losses(
    logits_NE: Tensor,
    probs_NE: Tensor,
    expert_NK: Tensor,
    gate_NK: Tensor,
    *,
    importance_E: Tensor | None = None,
    load_E: Tensor | None = None,
    counts: str = "all",
) -> dict[str, Tensor]:
    """Every loss by the name that traces, logs and recipes use.

    importance_E  other sums than those of the gates
    load_E        smooth loads; without noise there are only counts, which carry no gradient
    counts        "first": balance counts first choices only
    """
    E = probs_NE.shape[1]
    sums = importance(expert_NK, gate_NK, E) if importance_E is None else importance_E
    load = demand(expert_NK, E).to(probs_NE.dtype) if load_E is None else load_E
    return {
        "balance": switch_loss(probs_NE, expert_NK[:, :1] if counts == "first" else expert_NK),
        "importance": variation(sums),
        "load": variation(load),
        "z": z_loss(logits_NE),
    }


def of(routing: Routing, config: MoEConfig, temperature: Tensor | None = None) -> dict[str, Tensor]:
    """The losses of a batch, by the method's switches; ``temperature`` is X-MoE's learned one.

    Soft MoE chooses nothing: its slots are always full, so its balance is 1 and its load even;
    importance is what the tokens read from each expert, z is that of the combining softmax.
    """
    if not (routing.logits.numel() if routing.mask is None else routing.mask.any()):
        return dict.fromkeys(("balance", "importance", "load", "z"), routing.logits.sum() * 0)
    logits = routing.real(routing.logits)
    if routing.combine is not None:
        read_E = routing.real(routing.combine).sum(0).view(config.experts, -1).sum(1)
        return {
            "balance": read_E.new_ones(()),
            "importance": variation(read_E),
            "load": read_E.new_zeros(()),
            "z": z_loss(logits),
        }
    wanted = routing.expert if routing.wanted is None else routing.wanted
    found = all_losses(
        logits,
        routing.real(shares(routing, config, temperature)),
        routing.real(wanted),
        routing.real(routing.gate),
        importance_E=_importance(routing, config),
        load_E=_load(routing, config),
        counts=config.loss_counts,
    )
    if config.loss_over == "sequence" and len(routing.logits) > 1:
        alone = replace(config, loss_over="batch")
        each = [routing.sequence(b) for b in range(len(routing.logits))]
        each = [r for r in each if r.mask is None or r.mask.any()]
        found["balance"] = torch.stack([of(r, alone, temperature)["balance"] for r in each]).mean()
    return found


def shares(routing: Routing, config: MoEConfig, temperature: Tensor | None) -> Tensor:
    """[B, S, E] what the balance loss averages; rows sum to 1. X-MoE takes the softmax at the
    temperature it started with, DeepSeek-V3 each sigmoid's part of their sum."""
    if config.temperature:
        return (routing.logits * (temperature / config.temperature)).softmax(-1)
    if config.score == "sigmoid":
        return routing.probs / routing.probs.sum(-1, keepdim=True).clamp_min(1e-20)
    return routing.probs


def _importance(routing: Routing, config: MoEConfig) -> Tensor | None:
    """Sums that are not those of the chosen experts' gates: V-MoE's, and after re-routing."""
    if config.importance_of == "probs":
        clean = routing.logits if routing.clean is None else routing.clean
        return routing.real(clean).softmax(-1).sum(0)
    if routing.wanted is not None:
        experts, gates = routing.real(routing.expert), routing.real(routing.gate)
        return importance(experts, gates, config.experts)
    return None


def _load(routing: Routing, config: MoEConfig) -> Tensor | None:
    if routing.std is None:
        return None
    rows = [routing.real(r) for r in (routing.clean, routing.logits, routing.std)]
    return smooth_load(*rows, routing.expert.shape[-1], config.load_threshold)
