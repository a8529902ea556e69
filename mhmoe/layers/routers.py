"""Routers: from sub-tokens to scores for E experts, and what is decided from them.

A router is a module with one formula. The choice that follows (``mhmoe.layers.choice``), the
places (``mhmoe.layers.buffers``) and the averages of Soft MoE (``mhmoe.layers.soft``) are pure
functions of its scores and the same for all methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mhmoe.layers.config import MoEConfig

MASKED = torch.finfo(torch.float32).min  # -inf would make softmax NaN where all are masked


@dataclass(frozen=True, kw_only=True)
class Routing:
    """The decisions for a batch, as tensors. B sequences; other letters as in mhmoe.trace.

    kept and slot are None when capacity is unlimited and nobody asked for places. Soft MoE has
    dispatch and combine instead of expert, gate, slot and kept, and E*P scores.
    """

    logits: Tensor  # [B, S, E] float32
    probs: Tensor  # [B, S, E] their softmax, or the sigmoid of each
    expert: Tensor | None = None  # [B, S, K] int64, best first, -1 padded
    gate: Tensor | None = None  # [B, S, K] weights, of choices without a place before the drop
    slot: Tensor | None = None  # [B, S, K] place in the buffer, -1 if not kept
    kept: Tensor | None = None  # [B, S, K] bool
    wanted: Tensor | None = None  # [B, S, K] choices before re-routing, where there is any
    dispatch: Tensor | None = None  # [B, S, E*P]
    combine: Tensor | None = None  # [B, S, E*P]
    clean: Tensor | None = None  # [B, S, E] scores before noise, where there is any
    std: Tensor | None = None  # [B, S, E] of that noise
    mask: Tensor | None = None  # [B, S] True for real sub-tokens, where some are padding
    capacity: tuple[int | None, ...] = ()  # per sequence

    @property
    def asked(self) -> Tensor:
        """[B, S, K] choices before capacity and re-routing, -1 for none."""
        return self.expert if self.wanted is None else self.wanted

    @property
    def taken(self) -> Tensor:
        """[B, S, K] choices that have a place, -1 for none."""
        if self.kept is None or all(limit is None for limit in self.capacity):
            return self.expert
        return torch.where(self.kept, self.expert, -1)

    @staticmethod
    def joined(routings: Sequence[Routing]) -> Routing:
        """Several batches of the same shapes as one."""
        first, *rest = routings
        if not rest:
            return first
        names = [name for name, value in vars(first).items() if isinstance(value, Tensor)]
        tensors = {name: torch.cat([getattr(r, name) for r in routings]) for name in names}
        return Routing(**tensors, capacity=sum((r.capacity for r in routings), ()))

    def on_host(self) -> Routing:
        """The same without gradients, on the CPU."""
        return self._each(lambda t: t.detach().cpu())

    def as_one(self) -> Routing:
        """All sub-tokens of the batch as those of one sequence."""
        return self._each(lambda t: t.flatten(0, 1)[None])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Routing:
        tensors = {name: change(v) for name, v in vars(self).items() if isinstance(v, Tensor)}
        return Routing(**tensors, capacity=self.capacity)


class LinearRouter(nn.Module):
    """scores = W x, one weight row per expert, no bias (Shazeer 2017, eq. 2; Switch, eq. 1)."""

    def __init__(self, config: MoEConfig):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.experts, config.d_head))
        add_extras(self)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """[B, S, D/H] -> [B, S, E]."""
        return F.linear(full(x_BSD), full(self.weight))

    def reset(self, generator: torch.Generator | None) -> None:
        std = self.config.router_init / math.sqrt(self.config.d_head)
        self.weight.normal_(0, std, generator=generator)


class CosineRouter(nn.Module):
    """scores = (W x) . e / (|W x| |e|) / temperature (X-MoE, arXiv 2204.09179).

    ``project`` (d_e, D/H) is W and ``weight`` (E, d_e) holds the e. The released code divides
    by |e| alone and has no temperature: ``cosine="experts"``, ``temperature=0``.
    """

    def __init__(self, config: MoEConfig):
        super().__init__()
        self.config = config
        width = config.embedding or config.d_head
        self.weight = nn.Parameter(torch.empty(config.experts, width))
        if config.embedding:
            self.project = nn.Parameter(torch.empty(width, config.d_head))
        if config.temperature:
            self.temperature = nn.Parameter(torch.tensor(float(config.temperature)))
        add_extras(self)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """[B, S, D/H] -> [B, S, E]."""
        x = full(x_BSD)
        if self.config.embedding:
            x = F.linear(x, full(self.project))
        if self.config.cosine == "both":
            x = F.normalize(x, dim=-1)
        scores = F.linear(x, F.normalize(full(self.weight), dim=-1))
        return scores / full(self.temperature) if self.config.temperature else scores

    def reset(self, generator: torch.Generator | None) -> None:
        c = self.config
        if c.embedding:
            self.project.normal_(0, 1 / math.sqrt(c.d_head), generator=generator)
        if c.temperature:
            self.temperature.fill_(c.temperature)
        self.weight.normal_(0, 1 / math.sqrt(self.weight.shape[1]), generator=generator)
        self.keep_norm()

    @torch.no_grad()
    def keep_norm(self) -> None:
        """Bring the experts' vectors back to ``embedding_norm``; call it after an optimiser's
        step. Their length cancels in the scores, but the shorter they are, the faster a step
        turns them: 0.1 in the paper, 1.5 in the code, which rescales at every forward pass."""
        if norm := self.config.embedding_norm:
            self.weight.mul_(norm / self.weight.norm(dim=1, keepdim=True))


def add_extras(router: nn.Module) -> None:
    """``noise`` (E, D/H) of learned noise, and the buffer ``bias`` (E,) of loss-free balance."""
    c = router.config
    if c.noise == "learned":
        router.noise = nn.Parameter(torch.zeros(c.experts, c.d_head))
    if c.bias_update:
        router.register_buffer("bias", torch.zeros(c.experts))


def full(x: Tensor) -> Tensor:
    """At least float32: half precision flips choices (Switch, section 2.4)."""
    return x.float() if x.dtype.itemsize < 4 else x


# ---------------------------------------------------------------------------- randomness


class PartGenerator(torch.Generator):
    """For those who divide a batch of ``batch`` sequences: every draw is made for all of them, and
    ``rows`` are kept. So each row sees what it would see if nothing were divided."""

    def __new__(cls, device: torch.device | str, rows: slice, batch: int):
        self = super().__new__(cls, device)
        self.rows, self.batch = rows, batch
        return self


def draw(
    shape: Sequence[int], fill: Callable[[Tensor], Tensor], generator: torch.Generator
) -> Tensor:
    """A tensor of the shape [B, ...] after ``fill``, where the generator lives, so that every
    device sees the same."""
    if not isinstance(generator, PartGenerator):
        return fill(torch.empty(shape, device=generator.device))
    whole = torch.empty((generator.batch, *shape[1:]), device=generator.device)
    return fill(whole)[generator.rows]


def uniform(shape: torch.Size, low: float, high: float, generator: torch.Generator) -> Tensor:
    """U(low, high)."""
    return draw(shape, lambda t: t.uniform_(low, high, generator=generator), generator)


def jittered(x: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """A copy of x times U(1 - e, 1 + e) (Switch, section 2.4)."""
    factor = uniform(x.shape, 1 - amount, 1 + amount, generator)
    return full(x) * factor.to(x.device)


def noise_std(router: nn.Module, x_BSD: Tensor) -> Tensor:
    """[B, S, E] std of the noise on the scores: softplus(x W_noise) per token and expert
    (Shazeer 2017, eq. 4), or 1/E everywhere (V-MoE, section 2)."""
    if router.config.noise == "learned":
        return F.softplus(F.linear(full(x_BSD), full(router.noise)))
    E = router.config.experts
    return full(x_BSD).new_full((), 1 / E).expand(*x_BSD.shape[:-1], E)


def noisy(clean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """clean + eps * std, eps ~ N(0, 1) per token and expert (Shazeer 2017, eq. 4)."""
    eps = draw(clean.shape, lambda t: t.normal_(generator=generator), generator)
    return clean + eps.to(clean.device, clean.dtype) * std
