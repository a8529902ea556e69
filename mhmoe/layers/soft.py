"""Soft MoE (Puigcerver et al. 2023, arXiv 2308.00951): averages in place of choices.

P slots per expert. With scores R = X Phi [S, E*P]: dispatch D is R's softmax over the tokens,
combine C its softmax over all slots; Y = C f(D^T X). D and C are two normalisations of one R.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mhmoe.layers.config import MoEConfig, WhatIf
from mhmoe.layers.experts import Experts
from mhmoe.layers.routers import MASKED, Routing, full


class SoftRouter(nn.Module):
    """scores R = X Phi; normalised: (X / |X|) (scale Phi / |Phi|) (section 2.3).

    ``weight`` (E*P, D/H) is Phi transposed, slot p of expert e in row e*P + p; ``scale`` is one
    number. Only the scores are normalised: slots average the tokens as they are.
    """

    def __init__(self, config: MoEConfig):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.experts * config.slots, config.d_head))
        if config.normalised:
            self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x_BSD: Tensor) -> Tensor:
        """[B, S, D/H] -> [B, S, E*P]."""
        x, weight = full(x_BSD), full(self.weight)
        if self.config.normalised:
            x = F.normalize(x, dim=-1, eps=1e-6)
            weight = full(self.scale) * F.normalize(weight, dim=-1, eps=1e-6)
        return F.linear(x, weight)

    def reset(self, generator: torch.Generator | None) -> None:
        self.weight.normal_(0, 1 / math.sqrt(self.config.d_head), generator=generator)
        if self.config.normalised:
            self.scale.fill_(1.0)


def soft(logits: Tensor, config: MoEConfig, what_if: WhatIf, mask: Tensor | None) -> Routing:
    """Scores [B, S, E*P] -> dispatch (columns sum to 1 over the real tokens of a sequence) and
    combine (rows sum to 1 over the slots). Experts that are off are read by nobody."""
    if what_if.temperature != 1:
        logits = logits / what_if.temperature
    dispatch = logits if mask is None else logits.masked_fill(~mask[..., None], MASKED)
    combine = logits
    if what_if.experts_off:
        slots = torch.arange(logits.shape[-1], device=logits.device) // config.slots
        off = torch.isin(slots, torch.tensor(what_if.experts_off, device=logits.device))
        combine = combine.masked_fill(off, MASKED)
    combine = combine.softmax(-1)
    return Routing(
        logits=logits,
        probs=combine,
        dispatch=dispatch.softmax(1),
        combine=combine,
        mask=mask,
        capacity=(config.slots,) * len(logits),
    )


def mix(experts: Experts, x_BSD: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
    """Y = C f(D^T X): [B, S, D/H] -> [B, S, D/H], and the slots' outputs [B, E*P, D/H].

    Slot j belongs to expert floor(j / P); each expert gets the P slots of every sequence.
    """
    B, _, D = x_BSD.shape
    E = experts.w_in.shape[0]
    P = routing.dispatch.shape[-1] // E
    slots_BPD = routing.dispatch.to(x_BSD.dtype).transpose(1, 2) @ x_BSD
    by_expert = slots_BPD.view(B, E, P, D).transpose(0, 1).reshape(E, B * P, D)
    out = experts.slots(by_expert).view(E, B, P, D).transpose(0, 1).reshape(slots_BPD.shape)
    return routing.combine.to(out.dtype) @ out, out
