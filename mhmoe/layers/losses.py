"""The losses that keep routers in order. Unweighted; each layer reports all of them.

Shapes: logits, probs [N, E]; expert, gate [N, K]. Axes before these stay, so that all sequences
of a batch are done at once: [B, S, E] -> [B]. ``real`` [N] is False for padding, which is left
out; its expert is -1.

Balance and load use demand (choices before capacity and re-routing), so that a full expert
cannot hide its popularity; importance sums the gates as they were given. Balance reads 1 when
routing is even, whatever E, K and the number of tokens; others scale it differently: GShard's
paper has 1/E^2 there, Hugging Face's Mixtral K.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mhmoe.layers.config import MoEConfig
from mhmoe.layers.routers import MASKED, Routing


def demand(expert_NK: Tensor, experts: int) -> Tensor:
    """[E] how often each expert was chosen, before capacity; -1 is padding."""
    return _per_expert(torch.ones_like(expert_NK), expert_NK, experts)


def importance(expert_NK: Tensor, gate_NK: Tensor, experts: int) -> Tensor:
    """[E] sum of the gates each expert received (Shazeer 2017, eq. 6)."""
    return _per_expert(gate_NK, expert_NK, experts)


def _per_expert(value_NK: Tensor, expert_NK: Tensor, experts: int) -> Tensor:
    sums = value_NK.new_zeros(*value_NK.shape[:-2], experts + 1)  # the first one takes padding
    return sums.scatter_add(-1, expert_NK.flatten(-2) + 1, value_NK.flatten(-2))[..., 1:]


def total(rows_NE: Tensor, real: Tensor | None) -> Tensor:
    """[E] the sum of all rows but padding."""
    return (rows_NE if real is None else torch.where(real[..., None], rows_NE, 0)).sum(-2)


def mean(rows_NE: Tensor, real: Tensor | None) -> Tensor:
    """[E] the mean of all rows but padding; 0 of none."""
    if real is None:
        return total(rows_NE, None) / max(1, rows_NE.shape[-2])
    return total(rows_NE, real) / real.sum(-1, keepdim=True).clamp_min(1)


def balance(mean_E: Tensor, demand_E: Tensor) -> Tensor:
    """E * sum_e f_e P_e (Switch, 2101.03961, eq. 4), f = demand / (N K), P = mean probability.

    1 under perfect balance and E under full collapse, for any K; not bounded below by 1.
    Only P carries gradient: f is a count.
    """
    counts = demand_E.to(mean_E.dtype)
    share = counts / counts.sum(-1, keepdim=True).clamp_min(1)
    return mean_E.shape[-1] * (share * mean_E).sum(-1)


def variation(total_E: Tensor) -> Tensor:
    """CV^2 = variance / mean^2 (Shazeer 2017, eq. 7 and 11), population variance: between 0 and
    E - 1."""
    if not total_E.numel():  # no sequence: torch would warn of a variance of nothing
        return total_E.sum(-1)
    variance, average = torch.var_mean(total_E, -1, unbiased=False)
    return variance / average.square().clamp_min(1e-12)


def smooth_load(
    clean_NE: Tensor,
    noisy_NE: Tensor,
    std_NE: Tensor,
    top_k: int,
    threshold: str = "excluding",
    real: Tensor | None = None,
) -> Tensor:
    """[E] expected choices of each expert if its noise were drawn again (Shazeer 2017, eq. 8-10):
    sum over tokens of Phi((clean_i - t_i) / std_i), where t_i is the score to beat.

    threshold  "excluding": the k-th largest noisy score of the other experts; "kth": the k-th
               largest of all, also for those above it (V-MoE's code)
    """
    if threshold == "excluding" and top_k == clean_NE.shape[-1]:
        return total(torch.ones_like(clean_NE), real)
    ranked, order = torch.sort(noisy_NE, dim=-1, descending=True, stable=True)
    beat = ranked[..., top_k - 1 : top_k]
    if threshold == "excluding":  # for those above it, the k-th of the others is one further down
        inside = torch.zeros_like(noisy_NE, dtype=torch.bool)
        inside = inside.scatter(-1, order[..., :top_k], True)
        beat = torch.where(inside, ranked[..., top_k : top_k + 1], beat)
    return total(torch.special.ndtr((clean_NE - beat) / std_NE.clamp_min(1e-6)), real)


def z_loss(logits_NE: Tensor, real: Tensor | None = None) -> Tensor:
    """Mean squared log-sum-exp of the scores (ST-MoE, 2202.08906, eq. 5)."""
    return mean(torch.logsumexp(logits_NE, -1, keepdim=True).square(), real).squeeze(-1)


# ---------------------------------------------------------------------------- of a layer


@dataclass(frozen=True)
class Sums:
    """[B, E] what each expert was asked for, took, and got in gates; padding is in none of them."""

    demand: Tensor
    load: Tensor
    importance: Tensor


def sums(routing: Routing, config: MoEConfig) -> Sums:
    """Of each sequence. Soft MoE fills all slots of all experts; its importance is what the
    tokens read from each."""
    E = config.experts
    if routing.combine is not None:
        read = total(routing.combine, routing.mask).unflatten(-1, (E, -1)).sum(-1)
        full = torch.full_like(read, config.slots)
        return Sums(full, full, read)
    asked = demand(routing.asked, E)
    taken = asked if routing.asked is routing.taken else demand(routing.taken, E)
    return Sums(asked, taken, importance(routing.expert, routing.gate, E))


def of(routing: Routing, config: MoEConfig, temperature: Tensor | None = None) -> dict[str, Tensor]:
    """The losses of a batch, by the method's switches: those of all its sub-tokens as one
    sequence. Where the method averages balance over sequences, those of padding alone are left
    out.

    temperature  X-MoE's learned one
    """
    found = {name: loss[0] for name, loss in each(routing.as_one(), config, temperature).items()}
    if config.loss_over == "sequence":
        loss = _balance(routing, config, temperature, sums(routing, config))
        found["balance"] = loss.sum() / _present(routing).sum().clamp_min(1)
    return found


def each(
    routing: Routing,
    config: MoEConfig,
    temperature: Tensor | None = None,
    counted: Sums | None = None,
) -> dict[str, Tensor]:
    """[B] the losses of every sequence; 0 where all is padding. ``counted``: :func:`sums` of the
    same routing, where they are known already.

    Without noise there are only counts for the load loss, which carry no gradient. Soft MoE
    chooses nothing: its slots are always full, so its balance is 1 and its load even; z is that of
    the combining softmax.
    """
    counted = counted or sums(routing, config)
    z = z_loss(routing.logits, routing.mask)
    if routing.combine is not None:
        return {
            "balance": _present(routing),
            "importance": variation(counted.importance),
            "load": torch.zeros_like(z),
            "z": z,
        }
    return {
        "balance": _balance(routing, config, temperature, counted),
        "importance": variation(_importance(routing, config, counted)),
        "load": variation(_load(routing, config, counted)),
        "z": z,
    }


def _present(routing: Routing) -> Tensor:
    """[B] 1 for a sequence with anything but padding in it, else 0."""
    if routing.mask is not None:
        return routing.mask.any(-1).to(routing.probs.dtype)
    B, S, _ = routing.logits.shape
    return routing.probs.new_full((B,), min(S, 1))


def _balance(
    routing: Routing, config: MoEConfig, temperature: Tensor | None, counted: Sums
) -> Tensor:
    asked = counted.demand
    if config.loss_counts == "first":
        asked = demand(routing.asked[..., :1], config.experts)
    return balance(mean(shares(routing, config, temperature), routing.mask), asked)


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
    return total(clean.softmax(-1), routing.mask)


def _load(routing: Routing, config: MoEConfig, counted: Sums) -> Tensor:
    """Smooth loads where noise was drawn, else the counts."""
    if routing.std is None:
        return counted.demand.to(routing.probs.dtype)
    K = routing.expert.shape[-1]
    clean = routing.clean.masked_fill(routing.logits <= MASKED, MASKED)  # an expert that is off
    scores = (clean, routing.logits, routing.std)
    return smooth_load(*scores, K, config.load_threshold, routing.mask)
