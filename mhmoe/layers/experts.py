"""The networks: a dense FFN, and E of them side by side with three ways to use them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mhmoe.layers.config import ConfigError, MoEConfig
from mhmoe.layers.visits import Visits, Weights, ffn, visit

ACTIVATION = {"relu": F.relu, "gelu": F.gelu, "swiglu": F.silu}


class DenseFFN(nn.Module):
    """y = act(x W_in + b_in) W_out + b_out, the layer that an MoE layer replaces.

    "swiglu" is (silu(x W_gate) * (x W_in + b_in)) W_out + b_out (Shazeer 2020, arXiv 2002.05202,
    eq. 6); without ``bias`` there are no b. Parameters: ``w_in`` (D, F), ``w_out`` (F, D),
    ``w_gate`` (D, F), ``b_in`` (F,), ``b_out`` (D,); those that are not used are None.
    Weights start fan-in scaled, biases at zero. Raises ConfigError for an unknown activation.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        activation: str = "gelu",
        bias: bool = False,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if activation not in ACTIVATION:
            raise ConfigError(f"activation {activation!r} is none of {', '.join(ACTIVATION)}")
        _parameters(self, (), d_model, d_ff, activation, bias)
        self.reset(generator)

    def reset(self, generator: torch.Generator | None = None) -> None:
        _fan_in(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        parts = (self.w_in, self.w_gate, self.w_out, self.b_in, self.b_out)
        return ffn(x, *parts, self.activation)


class Experts(nn.Module):
    """E independent FFNs as above, of width D/H. Parameters: ``w_in`` (E, D/H, F), ``w_out``
    (E, F, D/H), ``w_gate`` (E, D/H, F), ``b_in`` (E, F), ``b_out`` (E, D/H)."""

    def __init__(self, config: MoEConfig):
        super().__init__()
        c = config
        _parameters(self, (c.experts,), c.d_head, c.d_ff, c.activation, c.bias)
        self.reset()

    def reset(self, generator: torch.Generator | None = None) -> None:
        _fan_in(self, generator)

    def forward(self, x_ND: Tensor, expert_NK: Tensor) -> Tensor:
        """[N, D/H], [N, K] expert or -1 -> [N, K, D/H] what each chosen expert makes of x; zero
        for -1."""
        visits, _ = Visits.of(expert_NK, self.w_in.shape[0], each=True)
        y = visit(x_ND, None, self.weights, visits, self.activation)
        return y.view(*expert_NK.shape, x_ND.shape[1])

    def mix(self, x_ND: Tensor, expert_NK: Tensor, gate_NK: Tensor) -> Tensor:
        """[N, D/H], [N, K] expert or -1, [N, K] -> [N, D/H], y = sum_k gate_k expert_k(x)
        (Shazeer 2017, eq. 1). The gates of -1 are not read. Costs as much as there are real
        choices, however large K is."""
        visits, order = Visits.of(expert_NK, self.w_in.shape[0], each=False)
        gate_R = gate_NK.to(x_ND.dtype).flatten().index_select(0, order)
        return visit(x_ND, gate_R, self.weights, visits, self.activation)

    def slots(self, x_EPD: Tensor) -> Tensor:
        """[E, P, D/H] -> [E, P, D/H], every expert on P rows of its own (Soft MoE)."""
        E, P, D = x_EPD.shape
        row = torch.arange(E * P, device=x_EPD.device)
        edges = torch.arange(E + 1, device=x_EPD.device, dtype=torch.int32) * P
        visits = Visits(row // max(P, 1), row, row, edges, edges.tolist(), E * P)
        y = visit(x_EPD.reshape(E * P, D), None, self.weights, visits, self.activation)
        return y.view(E, P, D)

    @property
    def weights(self) -> Weights:
        return Weights(self.w_in, self.w_gate, self.w_out, self.b_in, self.b_out)


def _parameters(
    module: nn.Module, lead: tuple[int, ...], width: int, inner: int, activation: str, bias: bool
) -> None:
    """All five parameters by name, None where the FFN has none; ``lead`` is () or (E,)."""
    module.activation = ACTIVATION[activation]
    for name, there, shape in (
        ("w_in", True, (width, inner)),
        ("w_out", True, (inner, width)),
        ("w_gate", activation == "swiglu", (width, inner)),
        ("b_in", bias, (inner,)),
        ("b_out", bias, (width,)),
    ):
        value = nn.Parameter(torch.empty(*lead, *shape)) if there else None
        module.register_parameter(name, value)


@torch.no_grad()
def _fan_in(module: nn.Module, generator: torch.Generator | None) -> None:
    """Weights with std 1 / sqrt(inputs), biases zero."""
    for name, weight in module.named_parameters():
        if name.startswith("b_"):
            weight.zero_()
        else:
            weight.normal_(0, 1 / math.sqrt(weight.shape[-2]), generator=generator)
