"""The losses that keep routers in order. Scalars, unweighted; each layer reports all of them.

Shapes: logits, probs [N, E]; expert, gate [N, K]; padding is left out.
All use demand (choices before capacity and re-routing), so that a full expert cannot hide its
popularity. Balance reads 1 when routing is even, whatever E, K and the number of tokens; others
scale it differently: GShard's paper has 1/E^2 there, Hugging Face's Mixtral K.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    return balance(probs_NE, demand(expert_NK, probs_NE.shape[1]))


def balance(probs_NE: Tensor, demand_E: Tensor) -> Tensor:
    """:func:`switch_loss` of choices that are counted already."""
    counts = demand_E.to(probs_NE.dtype)
    share = counts / counts.sum().clamp_min(1)
    return probs_NE.shape[1] * torch.dot(share, probs_NE.mean(0))


def variation(total_E: Tensor) -> Tensor:
    """CV^2 = variance / mean^2 (Shazeer 2017, eq. 7 and 11), population variance: between 0 and
    E - 1."""
    variance, mean = torch.var_mean(total_E, unbiased=False)
    return variance / mean.square().clamp_min(1e-12)


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


@dataclass(frozen=True)
class Sums:
    """[E] what each expert was asked for, took, and got in gates; padding is in none of them."""

    demand: Tensor
    load: Tensor
    importance: Tensor


def sums(routing: Routing, config: MoEConfig) -> Sums:
    """Over all sub-tokens of a batch. Soft MoE fills all slots of all experts; its importance is
    what the tokens read from each."""
    E = config.experts
    if routing.combine is not None:
        full = routing.combine.new_full((E,), config.slots * len(routing.logits))
        read = routing.real(routing.combine).sum(0).view(E, -1).sum(1)
        return Sums(full, full, read)
    asked = demand(routing.expert if routing.wanted is None else routing.wanted, E)
    taken = asked
    if routing.kept is not None:
        taken = demand(torch.where(routing.kept, routing.expert, -1), E)
    return Sums(asked, taken, importance(routing.expert, routing.gate, E))


def of(
    routing: Routing,
    config: MoEConfig,
    temperature: Tensor | None = None,
    counted: Sums | None = None,
) -> dict[str, Tensor]:
    """The losses of a batch, by the method's switches.

    temperature  X-MoE's learned one
    counted      :func:`sums` of the same routing, where they are known already

    Without noise there are only counts for the load loss, which carry no gradient. Soft MoE
    chooses nothing: its slots are always full, so its balance is 1 and its load even; z is that of
    the combining softmax.
    """
    if not (routing.logits.numel() if routing.mask is None else routing.mask.any()):
        return dict.fromkeys(("balance", "importance", "load", "z"), routing.logits.sum() * 0)
    logits = routing.real(routing.logits)
    counted = counted or sums(routing, config)
    if routing.combine is not None:
        return {
            "balance": counted.importance.new_ones(()),
            "importance": variation(counted.importance),
            "load": counted.importance.new_zeros(()),
            "z": z_loss(logits),
        }
    return {
        "balance": _balance(routing, config, temperature, counted),
        "importance": variation(_importance(routing, config, counted)),
        "load": variation(_load(routing, config, counted)),
        "z": z_loss(logits),
    }


def _balance(
    routing: Routing, config: MoEConfig, temperature: Tensor | None, counted: Sums
) -> Tensor:
    if config.loss_over == "sequence" and len(routing.logits) > 1:
        alone = replace(config, loss_over="batch")
        each = [routing.sequence(b) for b in range(len(routing.logits))]
        each = [r for r in each if r.mask is None or r.mask.any()]
        return torch.stack([_balance(r, alone, temperature, sums(r, alone)) for r in each]).mean()
    probs_NE = routing.real(shares(routing, config, temperature))
    if config.loss_counts == "first":
        wanted = routing.expert if routing.wanted is None else routing.wanted
        return balance(probs_NE, demand(wanted[..., :1], config.experts))
    return balance(probs_NE, counted.demand)


def shares(routing: Routing, config: MoEConfig, temperature: Tensor | None) -> Tensor:
    """[B, S, E] what the balance loss averages; rows sum to 1. X-MoE takes the softmax at the
    temperature it started with, DeepSeek-V3 each sigmoid's part of their sum."""
    if config.temperature:
        return (routing.logits * (temperature / config.temperature)).softmax(-1)
    if config.score == "sigmoid":
        return routing.probs / routing.probs.sum(-1, keepdim=True).clamp_min(1e-20)
    return routing.probs


def _importance(routing: Routing, config: MoEConfig, counted: Sums) -> Tensor:
    """Sums of gates, or V-MoE's of probabilities before noise."""
    if config.importance_of == "gates":
        return counted.importance
    clean = routing.logits if routing.clean is None else routing.clean
    return routing.real(clean).softmax(-1).sum(0)


def _load(routing: Routing, config: MoEConfig, counted: Sums) -> Tensor:
    """Smooth loads where noise was drawn, else the counts."""
    if routing.std is None:
        return counted.demand.to(routing.probs.dtype)
    rows = [routing.real(r) for r in (routing.clean, routing.logits, routing.std)]
    return smooth_load(*rows, routing.expert.shape[-1], config.load_threshold)
