"""What an MoE layer is (MoEConfig) and what may be asked of it afterwards (WhatIf)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mhmoe.trace import GATES

ACTIVATIONS = ("relu", "gelu")


class ConfigError(ValueError):
    """A layer that cannot be built; the message names the numbers."""


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """One MoE layer. ``d_ff`` and ``experts`` are what is really built, after any sizing rule.

    heads            1 is the plain sparse layer; h > 1 splits each token into h sub-tokens
                     of width d_model / h that share one router and one pool of experts
    projections      the multi-head and merge layers (d x d each); default: only if heads > 1
    gate             a convention of ``mhmoe.trace.GATES``
    capacity_factor  None is dropless; else C = ceil(capacity_factor * K * S / E) per sequence
    inner_residual   the paper's o = x + sum g f(x) inside the sub-token (MH-MoE, eq. 5);
                     its code leaves it out, as do we unless asked
    """

    d_model: int
    d_ff: int
    experts: int
    top_k: int
    heads: int = 1
    router: str = "linear"
    activation: str = "gelu"
    capacity_factor: float | None = None
    gate: str = "softmax-topk"
    projections: bool | None = None
    inner_residual: bool = False

    def __post_init__(self):
        if self.projections is None:
            object.__setattr__(self, "projections", self.heads > 1)
        for name in ("d_model", "d_ff", "experts", "top_k", "heads"):
            _require(
                isinstance(getattr(self, name), int) and getattr(self, name) >= 1,
                f"{name} must be a whole number of at least 1, not {getattr(self, name)!r}",
            )
        _require(
            self.d_model % self.heads == 0,
            f"d_model {self.d_model} cannot be cut into {self.heads} equal heads",
        )
        _require(
            self.top_k <= self.experts,
            f"top_k {self.top_k} is more than the {self.experts} experts",
        )
        _require(self.gate in GATES, f"gate {self.gate!r} is none of {', '.join(GATES)}")
        _require(
            self.activation in ACTIVATIONS,
            f"activation {self.activation!r} is none of {', '.join(ACTIVATIONS)}",
        )
        _require(
            self.capacity_factor is None or self.capacity_factor > 0,
            f"capacity_factor must be positive or None, not {self.capacity_factor}",
        )

    @property
    def d_head(self) -> int:
        """Width D/H of a sub-token, which is also the width of router and experts."""
        return self.d_model // self.heads

    @property
    def parameters(self) -> int:
        """Weights of the layer: experts + router + the two square layers."""
        experts = self.experts * 2 * self.d_head * self.d_ff
        return experts + self.experts * self.d_head + 2 * self.d_model**2 * self.projections

    @property
    def active_parameters(self) -> int:
        """Weights that one sub-token meets; the square layers count once."""
        return self.parameters - (self.experts - self.top_k) * 2 * self.d_head * self.d_ff

    @property
    def macs_per_token(self) -> int:
        """Multiply-accumulates per token: every sub-token pays for K experts of its own."""
        per_sub_token = self.top_k * 2 * self.d_head * self.d_ff + self.experts * self.d_head
        return self.heads * per_sub_token + 2 * self.d_model**2 * self.projections

    def matched(self, heads: int) -> MoEConfig:
        """The same layer with h heads, the same E and K, and as many parameters.

        MH-MoE's first sizing (arXiv 2404.15045, as its code has it): the inner width grows
        to about 4*beta*h*d so that experts of width d/h hold what they held before, less the
        two square layers. Rounded down to a multiple of 8. Parameters match, MACs do not:
        every one of the h sub-tokens pays for an expert as large as before.
        """
        target = self.parameters
        wide = replace(self, heads=heads, projections=heads > 1, d_ff=8)
        fixed = wide.parameters - wide.experts * 2 * wide.d_head * 8
        d_ff = (target - fixed) // (wide.experts * 2 * wide.d_head) // 8 * 8
        _require(d_ff >= 8, f"{heads} heads leave no width for {self.experts} experts")
        return replace(wide, d_ff=d_ff)


@dataclass(frozen=True, kw_only=True)
class WhatIf:
    """Changes to a built layer for one forward pass; nothing is stored in the layer.

    capacity_factors  one value per sequence of the batch, None for unlimited; a tuple of one
                      serves all sequences. An empty tuple keeps the layer's own setting.
    """

    top_k: int | None = None
    temperature: float = 1.0
    capacity_factors: tuple[float | None, ...] = ()
    experts_off: tuple[int, ...] = ()
    inner_residual: bool | None = None


TRAINED = WhatIf()


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
