"""The experts, and the one way sub-tokens reach them: sort by expert, multiply, unsort."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mhmoe.layers.config import MoEConfig

#: Rows that pass through both products of an expert together: their hidden activations stay in
#: a core's cache. For MH-MoE's narrow, deep experts this halves the time of a training step.
CHUNK = 256

ACTIVATION = {"relu": F.relu, "gelu": F.gelu, "swiglu": F.silu}


class DenseFFN(nn.Module):
    """y = act(x W_in + b_in) W_out + b_out, the layer that an MoE layer replaces.

    With SwiGLU (arXiv 2002.05202) the hidden layer is silu(x W_gate) * (x W_in + b_in).
    """

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", bias: bool = False):
        super().__init__()
        self.w_in = nn.Parameter(torch.empty(d_model, d_ff))
        self.w_out = nn.Parameter(torch.empty(d_ff, d_model))
        _optional(self, activation == "swiglu", bias)
        self.activation = ACTIVATION[activation]

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.w_in, self.w_gate, self.w_out, self.b_in, self.b_out)
        return _ffn(x, weights, self.activation)


class Experts(nn.Module):
    """E independent FFNs of width D/H: ``w_in`` [E, D/H, F], ``w_out`` [E, F, D/H], for SwiGLU
    also ``w_gate`` like w_in, with biases ``b_in`` [E, F] and ``b_out`` [E, D/H]."""

    def __init__(self, config: MoEConfig):
        super().__init__()
        self.w_in = nn.Parameter(torch.empty(config.experts, config.d_head, config.d_ff))
        self.w_out = nn.Parameter(torch.empty(config.experts, config.d_ff, config.d_head))
        _optional(self, config.activation == "swiglu", getattr(config, "bias", False))
        self.activation = ACTIVATION[config.activation]

    def forward(self, x_ND: Tensor, expert_NK: Tensor) -> Tensor:
        """[N, D/H], [N, K] expert or -1 -> [N, K, D/H]; rows of -1 are zero.

        Rows are sorted by expert once; each expert takes its rows through both products while
        they are in cache. Unsorting is a permutation, so nothing is summed in random order.
        """
        N, K = expert_NK.shape
        E = self.w_in.shape[0]
        flat = expert_NK.flatten()
        flat = torch.where(flat < 0, E, flat)  # padding sorts behind the last expert
        order = torch.sort(flat, stable=True).indices
        counts = torch.bincount(flat, minlength=E + 1).tolist()
        rows = x_ND.index_select(0, order // K).split(counts)
        # unbind once: indexing w_in[e] would make backward build a full [E, ..] zero per expert
        names = (self.w_in, self.w_gate, self.w_out, self.b_in, self.b_out)
        parts = [[None] * E if w is None else w.unbind(0) for w in names]
        done = [
            _ffn(r, weights, self.activation)
            for rows_e, *weights in zip(rows, *parts, strict=False)
            for r in rows_e.split(CHUNK)
        ]
        done.append(x_ND.new_zeros(counts[E], x_ND.shape[1]))
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        return torch.cat(done).index_select(0, back).view(N, K, x_ND.shape[1])

    def mix(self, x_ND: Tensor, expert_NK: Tensor, gate_NK: Tensor) -> Tensor:
        """[N, D/H], [N, K] expert or -1, [N, K] -> [N, D/H] sum over K of gate * expert(x)."""
        weight_NK1 = gate_NK.to(x_ND.dtype)[..., None]
        return (self(x_ND, expert_NK) * weight_NK1).sum(1)

    def slots(self, x_EPD: Tensor) -> Tensor:
        """[E, P, D/H] -> [E, P, D/H], every expert on P rows of its own (Soft MoE)."""
        b_in, b_out = (b if b is None else b[:, None] for b in (self.b_in, self.b_out))
        weights = (self.w_in, self.w_gate, self.w_out, b_in, b_out)
        return _ffn(x_EPD, weights, self.activation)


def _optional(module: nn.Module, gated: bool, bias: bool) -> None:
    """The parameters that only some FFNs have; the others get None by the same name."""
    w_in, w_out = module.w_in, module.w_out
    for name, wanted, shape in (
        ("w_gate", gated, w_in.shape),
        ("b_in", bias, (*w_in.shape[:-2], w_in.shape[-1])),
        ("b_out", bias, (*w_out.shape[:-2], w_out.shape[-1])),
    ):
        value = nn.Parameter(torch.empty(shape)) if wanted else None
        module.register_parameter(name, value)


def _ffn(x: Tensor, weights: tuple[Tensor | None, ...], activation) -> Tensor:
    w_in, w_gate, w_out, b_in, b_out = weights
    hidden = x @ w_in if b_in is None else x @ w_in + b_in
    hidden = activation(hidden) if w_gate is None else activation(x @ w_gate) * hidden
    return hidden @ w_out if b_out is None else hidden @ w_out + b_out
