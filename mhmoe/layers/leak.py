"""Whether a layer lets a token see the future: where tokens compete for experts, it may."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mhmoe.layers.moe import MoELayer


@torch.no_grad()
def future_leak(layer: MoELayer, x_TD: Tensor, last_D: Tensor) -> Tensor:
    """[T - 1] how far each token's output moves when only the last token is replaced by another.

    Zero (up to rounding) for a layer that may stand in a left-to-right language model. Expert
    Choice, Soft MoE and priority routing are not, nor is a limited capacity with several choices,
    where a later token's first choice is served before an earlier one's second.
    """
    other_TD = torch.cat([x_TD[:-1], last_D[None]])
    before, after = (layer(x[None])[0, :-1] for x in (x_TD, other_TD))
    return (after - before).abs().amax(1)


def leaked_bits(top_k: int, experts: int, layers: int = 1) -> float:
    """At least so many bits per token can pass from the future through Expert Choice:
    K log2((1 - R) / R) in each layer, R = K / E (Wang et al. 2024, arXiv 2408.15664). The bound
    says nothing from R = 1/2 on."""
    if not 0 < 2 * top_k < experts:
        return 0.0
    share = top_k / experts
    return layers * top_k * math.log2((1 - share) / share)
