"""The experts, and the one way sub-tokens reach them: sort by expert, multiply, unsort."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mhmoe.layers.config import MoEConfig

#: Rows that pass through both products of an expert together: their hidden activations stay in
#: a core's cache. For MH-MoE's narrow, deep experts this halves the time of a training step.
CHUNK = 256

ACTIVATION = {"relu": F.relu, "gelu": F.gelu}


class DenseFFN(nn.Module):
    """y = act(x W_in) W_out, the layer that an MoE layer replaces."""

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu"):
        super().__init__()
        self.w_in = nn.Parameter(torch.empty(d_model, d_ff))
        self.w_out = nn.Parameter(torch.empty(d_ff, d_model))
        self.activation = ACTIVATION[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x @ self.w_in) @ self.w_out


class Experts(nn.Module):
    """E independent FFNs of width D/H: ``w_in`` [E, D/H, F], ``w_out`` [E, F, D/H]."""

    def __init__(self, config: MoEConfig):
        super().__init__()
        self.w_in = nn.Parameter(torch.empty(config.experts, config.d_head, config.d_ff))
        self.w_out = nn.Parameter(torch.empty(config.experts, config.d_ff, config.d_head))
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
        done = [
            self.activation(r @ w_in) @ w_out
            for rows_e, w_in, w_out in zip(
                rows, self.w_in.unbind(0), self.w_out.unbind(0), strict=False
            )
            for r in rows_e.split(CHUNK)
        ]
        done.append(x_ND.new_zeros(counts[E], x_ND.shape[1]))
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        return torch.cat(done).index_select(0, back).view(N, K, -1)
