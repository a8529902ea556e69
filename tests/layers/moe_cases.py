"""What the tests of the layers share: small layers of every method, and inputs for them."""

from __future__ import annotations

from dataclasses import replace

import torch

from mhmoe.layers import METHODS, MoEConfig, MoELayer, Routing, WhatIf, route
from mhmoe.trace import SOFT, TOKEN_CHOICE

ALL = tuple(METHODS)
TOKENS_CHOOSE = tuple(k for k, m in METHODS.items() if m.assignment == TOKEN_CHOICE)
SOFT_ONES = tuple(k for k, m in METHODS.items() if m.assignment == SOFT)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def config(router: str = "linear", **changes) -> MoEConfig:
    """A small layer of a method; every switch is its row's unless changed."""
    sizes = {"d_model": 8, "d_ff": 12, "experts": 4} | changes
    return MoEConfig(router=router, **sizes)


def build(c: MoEConfig, seed: int = 0) -> MoELayer:
    """A layer whose router has opinions: most start at a tenth, Shazeer's at nothing."""
    layer = MoELayer(c, seeded(seed)).eval()
    with torch.no_grad():
        layer.router.weight.normal_(0, 2 / layer.router.weight.shape[1] ** 0.5, generator=seeded(7))
        if c.noise == "learned":
            layer.router.noise.normal_(0, 0.5, generator=seeded(8))
        if c.bias_update:
            layer.router.bias.normal_(0, 0.2, generator=seeded(9))
    return layer


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def hand(
    scores: list[list[float]], router: str = "linear", *, what_if: WhatIf | None = None, **changes
) -> Routing:
    """Route one sequence of scores written by hand. They are logarithms of the given numbers, so
    that softmax gives fractions."""
    logits = torch.tensor(scores).log()[None]
    c = config(router, experts=logits.shape[-1], **changes)
    return route(logits, c, what_if or WhatIf(), with_places=True)


def without_limit(c: MoEConfig) -> MoEConfig:
    return replace(c, capacity_factor=None)
