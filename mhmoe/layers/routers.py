"""Routers: given the scores of S sub-tokens for E experts, who goes where with what weight.

A router is a module that turns sub-tokens into scores, and the
choice (KeepTopK), the gate convention and the capacity are pure functions below and the
same for all of them. A new token-choice router is one class and one row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mhmoe.layers.config import MoEConfig, WhatIf

MASKED = torch.finfo(torch.float32).min  # -inf would make softmax NaN where all are masked


@dataclass(frozen=True)
class Routing:
    """The decisions for a batch, as tensors. B sequences; other letters as in mhmoe.trace.

    kept and slot are None when capacity is unlimited and nobody asked for places.
    """

    logits: Tensor  # [B, S, E] float32
    probs: Tensor  # [B, S, E]
    expert: Tensor  # [B, S, K] int64, best first, -1 padded
    gate: Tensor  # [B, S, K], before any drop
    slot: Tensor | None = None  # [B, S, K] place in the buffer, -1 if not kept
    kept: Tensor | None = None  # [B, S, K] bool
    capacity: tuple[int | None, ...] = ()  # per sequence


class LinearRouter(nn.Module):
    """scores = W x, one weight row per expert, no bias (Shazeer 2017 without noise; Switch)."""

    def __init__(self, config: MoEConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.experts, config.d_head))

    def forward(self, x_BSD: Tensor) -> Tensor:
        # float32 whatever the activations are: half precision flips choices (Switch, 2.4)
        return nn.functional.linear(x_BSD.float(), self.weight.float())


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """[..., K] indices of the k largest scores, best first; ties go to the lower index."""
    return torch.sort(logits, dim=-1, descending=True, stable=True).indices[..., :k]


def gates(logits: Tensor, probs: Tensor, expert: Tensor, convention: str) -> Tensor:
    """[..., K] weights of the chosen experts under a convention of ``mhmoe.trace.GATES``."""
    if convention == "topk-softmax":
        return logits.gather(-1, expert).softmax(-1)
    gate = probs.gather(-1, expert)
    return gate / gate.sum(-1, keepdim=True) if convention == "renormalised" else gate


def places(expert: Tensor, experts: int) -> Tensor:
    """[B, S, K] rank of each choice in its expert's queue: all first choices in order of
    position, then all second choices, ... (GShard, V-MoE). Padding gets a rank of its own."""
    B, S, K = expert.shape
    queue = expert.transpose(1, 2).reshape(B, K * S)
    key = torch.where(queue >= 0, queue, experts) + (
        torch.arange(B, device=expert.device)[:, None] * (experts + 1)
    )
    flat = key.flatten()
    order = torch.sort(flat, stable=True).indices
    starts = torch.bincount(flat, minlength=B * (experts + 1)).cumsum(0)
    starts = torch.cat([starts.new_zeros(1), starts[:-1]])
    rank = torch.empty_like(flat)
    rank[order] = torch.arange(len(flat), device=flat.device) - starts[flat[order]]
    return rank.view(B, K, S).transpose(1, 2)


def capacity(factor: float | None, top_k: int, sub_tokens: int, experts: int) -> int | None:
    """C = ceil(CF * K * S / E) places per expert and sequence; None is unlimited."""
    if factor is None:
        return None
    # rounding first: 0.28 * 2 * 100 / 4 is 14.000000000000002 in floating point, not 15 places
    return math.ceil(round(factor * top_k * sub_tokens / experts, 9))


def route(
    logits: Tensor,
    config: MoEConfig,
    what_if: WhatIf,
    *,
    mask: Tensor | None = None,
    with_places: bool = False,
) -> Routing:
    """Scores [B, S, E] -> decisions.

    mask         [B, S] True for real sub-tokens; padding chooses no expert and uses no place
    with_places  compute slots also when nothing can be dropped (a trace wants them)
    """
    B, S, E = logits.shape
    K = config.top_k if what_if.top_k is None else what_if.top_k
    logits = logits / what_if.temperature
    if what_if.experts_off:
        logits = logits.index_fill(
            -1, torch.tensor(what_if.experts_off, device=logits.device), MASKED
        )
    probs = logits.softmax(-1)
    expert = keep_top_k(logits, K)
    gate = gates(logits, probs, expert, config.gate)
    off = logits.gather(-1, expert) <= MASKED
    if mask is not None:
        off = off | ~mask[..., None]
    if mask is not None or what_if.experts_off:
        expert, gate = expert.masked_fill(off, -1), gate.masked_fill(off, 0)
    limits = _limits(config, what_if, K, B, S if mask is None else mask.sum(1).tolist())
    if not with_places and all(c is None for c in limits):
        return Routing(logits, probs, expert, gate, capacity=limits)
    slot = places(expert, E)
    bound = torch.tensor([S * K if c is None else c for c in limits], device=slot.device)
    kept = (slot < bound[:, None, None]) & (expert >= 0)
    return Routing(logits, probs, expert, gate, slot.masked_fill(~kept, -1), kept, limits)


def _limits(
    config: MoEConfig, what_if: WhatIf, top_k: int, batch: int, sub_tokens: int | list[int]
) -> tuple[int | None, ...]:
    """Capacity of each sequence of the batch."""
    factors = what_if.capacity_factors or (config.capacity_factor,)
    if len(factors) == 1:
        factors = factors * batch
    if len(factors) != batch:
        raise ValueError(f"{len(factors)} capacity factors were given for {batch} sequences")
    sizes = [sub_tokens] * batch if isinstance(sub_tokens, int) else sub_tokens
    return tuple(capacity(f, top_k, n, config.experts) for f, n in zip(factors, sizes, strict=True))
