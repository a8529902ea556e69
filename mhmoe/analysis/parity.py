"""The parity calculator: the same budget as a dense layer, a sparse one, and MH-MoE in the three
sizings of its papers. Parameters and multiplications by formula, and counted on layers that are
really built.

    dense   one FFN as wide as the k chosen experts together (a token meets all of it)
    smoe    N experts of inner width F, k chosen
    fine    the same cut into ``PARTS`` times as many, k times as many chosen (DeepSeekMoE)
    text    MH-MoE as the text of its first paper sizes it (arXiv 2404.15045)
    code    as its code does
    follow  as the follow-up does (arXiv 2411.16205)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mhmoe.bench import interleaved
from mhmoe.layers import ConfigError, DenseFFN, MoEConfig, MoELayer

PARTS = 4
HEADS = (1, 2, 4, 8, 16)
SIZINGS = {"text": "paper", "code": "parameters", "follow": "flops"}
DESIGNS = ("dense", "smoe", "fine", *SIZINGS)
#: Largest sizes that can be asked for; built without storage, they cost nothing.
MOST = {"d": 8192, "inner": 32768, "experts": 512}
#: Timed are so many tokens, if all layers together stay below these: a second on one slow core.
TOKENS, ROUNDS = 32, 3
MOST_WEIGHTS, MOST_MACS = 20_000_000, 1_500_000_000


@dataclass(frozen=True)
class Asked:
    """The visitor's layer: width d, inner width F of an expert, N experts, k chosen; ``gated``
    experts have three matrices (SwiGLU)."""

    d: int
    inner: int
    experts: int
    chosen: int
    gated: bool = False

    @property
    def plain(self) -> MoEConfig:
        """The sparse layer with one head. Raises layers.ConfigError if more are chosen than are."""
        return MoEConfig(
            d_model=self.d,
            d_ff=self.inner,
            experts=self.experts,
            top_k=self.chosen,
            activation="swiglu" if self.gated else "relu",
        )

    @property
    def heads(self) -> tuple[int, ...]:
        """The numbers of heads into which d can be cut."""
        return tuple(h for h in HEADS if self.d % h == 0)


@dataclass(frozen=True)
class Member:
    """One design at one number of heads.

    parameters, active, macs   by formula; ``macs`` of one token
    built                      parameters of the really built layer
    width, inner, experts, chosen  of one expert; experts is 0 for a dense layer
    """

    parameters: int
    active: int
    macs: int
    built: int
    width: int
    inner: int
    experts: int
    chosen: int


def config_of(asked: Asked, design: str, heads: int) -> MoEConfig | None:
    """The layer of a design; None where it cannot be built at this size."""
    plain = asked.plain
    try:
        if design == "fine":
            return plain.fine_grained(PARTS)
        return plain.matched(heads, sizing=SIZINGS[design]) if design in SIZINGS else plain
    except ConfigError:
        return None


def build(asked: Asked, design: str, heads: int) -> nn.Module | None:
    """The layer itself, on the device that torch is set to."""
    if design == "dense":
        return DenseFFN(asked.d, asked.chosen * asked.inner, asked.plain.activation)
    config = config_of(asked, design, heads)
    return None if config is None else MoELayer(config)


class _Unfilled(TorchFunctionMode):
    """Weights are not filled: on the meta device that would do nothing, at the cost of seconds for
    what torch imports to do it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "zero_"):
            return args[0]
        return func(*args, **(kwargs or {}))


@lru_cache(maxsize=64)
def members(asked: Asked, heads: int) -> dict[str, Member | None]:
    """All designs, in order; None where there is none. Raises layers.ConfigError."""
    return {design: _member(asked, design, heads) for design in DESIGNS}


def _member(asked: Asked, design: str, heads: int) -> Member | None:
    with torch.device("meta"), _Unfilled():  # a module with shapes and no storage
        layer = build(asked, design, heads)
    if layer is None:
        return None
    built = sum(weight.numel() for weight in layer.parameters())
    if design == "dense":
        inner = asked.chosen * asked.inner
        size = (3 if asked.gated else 2) * asked.d * inner
        return Member(size, size, size, built, asked.d, inner, 0, 0)
    c = layer.config
    shape = (c.d_head, c.d_ff, c.experts, c.top_k)
    return Member(c.parameters, c.active_parameters, c.macs_per_token, built, *shape)


def of_heads(design: str) -> bool:
    """Whether the number of heads changes a design."""
    return design in SIZINGS


def affordable(asked: Asked) -> bool:
    """Whether all layers can be built and timed in about a second."""
    found = [members(asked, h)[design] for design, h in _each(asked)]
    weights = sum(m.parameters for m in found if m)
    macs = sum(m.macs for m in found if m) * TOKENS * ROUNDS
    return weights <= MOST_WEIGHTS and macs <= MOST_MACS


def _each(asked: Asked) -> list[tuple[str, int]]:
    """Every design with every number of heads that makes it another layer: with one head, MH-MoE
    is the plain sparse one."""
    return [(d, h) for d in DESIGNS for h in (asked.heads[1:] if of_heads(d) else (1,))]


def timed(asked: Asked, device: torch.device | str = "cpu") -> dict[tuple[str, int], float]:
    """(design, heads) -> milliseconds of a forward pass over ``TOKENS`` tokens through the really
    built layer, without gradients: the fastest of ``ROUNDS``, all layers in turns."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, TOKENS, asked.d, generator=generator).to(device)
    layers = {}
    for design, heads in _each(asked):
        layer = build(asked, design, heads)
        if layer is not None:
            layers[design, heads] = layer.to(device).eval()
    with torch.inference_mode():
        steps = [_step(layer, x) for layer in layers.values()]
        for step in steps:
            step()  # once cold
        found = interleaved(ROUNDS, steps)
    return {key: min(ms) for key, ms in zip(layers, found, strict=True)}


def _step(layer: nn.Module, x: torch.Tensor):
    def step() -> float:
        start = perf_counter()
        layer(x)
        if x.is_cuda:
            torch.cuda.synchronize()
        return 1000 * (perf_counter() - start)

    return step
