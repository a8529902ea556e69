"""The MoE layer: split, route, visit, merge. With one head it is the plain sparse layer."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from mhmoe.layers import losses
from mhmoe.layers.config import TRAINED, MoEConfig, WhatIf
from mhmoe.layers.experts import Experts
from mhmoe.layers.routers import LinearRouter, Routing, route
from mhmoe.trace import LayerTrace


class MoELayer(nn.Module):
    """A sparse mixture of experts around tokens, or around h slices of them (MH-MoE).

    Steps, as the stage draws them (MH-MoE, arXiv 2404.15045, section 3):

    1. multi-head layer    x W_head^T                             [B, T, D]
    2. split               token t -> sub-tokens t*H .. t*H+H-1   [B, S, D/H]
    3. scores              x e_p for every expert                 [B, S, E]
    4. keep top k          all other scores are masked
    5. gates               the weights of the chosen experts      [B, S, K]
    6. experts             full ones turn choices away            [B, S, K, D/H]
    7. weighted sum, merge concatenate the slices, W_merge^T      [B, T, D]

    Parameter names: ``router.weight`` (E, D/H), ``experts.w_in`` (E, D/H, F),
    ``experts.w_out`` (E, F, D/H), ``head.weight`` and ``merge.weight`` (D, D).
    """

    def __init__(self, config: MoEConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.router = LinearRouter(config)
        self.experts = Experts(config)
        if config.projections:
            self.head = nn.Linear(config.d_model, config.d_model, bias=False)
            self.merge = nn.Linear(config.d_model, config.d_model, bias=False)
        self.reset(generator)

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Fan-in scaled experts, a small router (Switch: a tenth), Xavier square layers with
        the multi-head one at gain 1/sqrt(2) (MH-MoE's pseudo-code)."""
        c = self.config
        self.experts.w_in.normal_(0, 1 / math.sqrt(c.d_head), generator=generator)
        self.experts.w_out.normal_(0, 1 / math.sqrt(c.d_ff), generator=generator)
        self.router.weight.normal_(0, 0.1 / math.sqrt(c.d_head), generator=generator)
        if c.projections:
            nn.init.xavier_uniform_(self.head.weight, 1 / math.sqrt(2), generator=generator)
            nn.init.xavier_uniform_(self.merge.weight, generator=generator)

    def forward(
        self,
        x_BTD: Tensor,
        *,
        mask: Tensor | None = None,
        what_if: WhatIf = TRAINED,
        trace: bool = False,
    ) -> Tensor | tuple[Tensor, list[LayerTrace]]:
        """x [B, T, D] -> y [B, T, D]; with ``trace`` also one LayerTrace per sequence.

        mask  [B, T] True for real tokens; padding returns zero and is counted nowhere.
        """
        y, routing, vectors = self.run(x_BTD, mask=mask, what_if=what_if, with_places=trace)
        return (y, self.traces(routing, vectors)) if trace else y

    def run(
        self,
        x_BTD: Tensor,
        *,
        mask: Tensor | None = None,
        what_if: WhatIf = TRAINED,
        with_places: bool = False,
    ) -> tuple[Tensor, Routing, dict[str, Tensor]]:
        """The forward pass with its decisions as tensors; training reads losses from them."""
        B, T, D = x_BTD.shape
        H = self.config.heads
        wide = self.head(x_BTD) if self.config.projections else x_BTD
        x_BSD = wide.reshape(B, T * H, D // H)  # b t (h d) -> b (t h) d
        mask_BS = None if mask is None else mask.repeat_interleave(H, dim=1)
        routing = route(
            self.router(x_BSD), self.config, what_if, mask=mask_BS, with_places=with_places
        )
        K = routing.expert.shape[-1]
        visits = (
            routing.expert
            if routing.kept is None
            else (routing.expert.masked_fill(~routing.kept, -1))
        )
        out_NKD = self.experts(x_BSD.reshape(B * T * H, D // H), visits.reshape(-1, K))
        weights = routing.gate.reshape(-1, K, 1).to(out_NKD.dtype)
        sum_BSD = (out_NKD * weights).sum(1).view(B, T * H, D // H)
        inner = (
            self.config.inner_residual
            if what_if.inner_residual is None
            else (what_if.inner_residual)
        )
        if inner:
            sum_BSD = sum_BSD + x_BSD
        combined = sum_BSD.reshape(B, T, D)  # b (t h) d -> b t (h d)
        y_BTD = self.merge(combined) if self.config.projections else combined
        if mask is not None:
            y_BTD = torch.where(mask[..., None], y_BTD, 0)
        vectors = {
            "x": x_BTD,
            "wide": wide,
            "combined": combined,
            "out": y_BTD,
            "expert_out": out_NKD.view(B, T * H, K, -1),
        }
        return y_BTD, routing, vectors

    def losses(self, routing: Routing, mask: Tensor | None = None) -> dict[str, Tensor]:
        """The layer's losses over all real sub-tokens of the batch."""
        rows = [routing.logits, routing.probs, routing.expert, routing.gate]
        rows = [r.flatten(0, 1) for r in rows]
        if mask is not None:
            real = mask.repeat_interleave(self.config.heads, dim=1).flatten()
            rows = [r[real] for r in rows]
        return losses.all_losses(*rows)

    def traces(
        self, routing: Routing, vectors: dict[str, Tensor], block: int = 0
    ) -> list[LayerTrace]:
        """One trace per sequence of the batch, on the CPU."""
        host = {
            name: getattr(routing, name).detach().cpu()
            for name in ("logits", "probs", "expert", "gate", "slot", "kept")
        }
        acts = {name: v.detach().float().cpu().numpy() for name, v in vectors.items()}
        return [
            self._one_trace(
                {n: v[b] for n, v in host.items()},
                {n: v[b] for n, v in acts.items()},
                routing.capacity[b],
                block,
            )
            for b in range(routing.logits.shape[0])
        ]

    def _one_trace(
        self, row: dict[str, Tensor], acts: dict[str, np.ndarray], limit: int | None, block: int
    ) -> LayerTrace:
        c = self.config
        real = row["expert"][:, 0] >= 0  # only padding has no first choice
        rows = [row[n] for n in ("logits", "probs", "expert", "gate")]
        scalars = losses.all_losses(*(rows if real.all() else (r[real] for r in rows)))
        kept = row["expert"].masked_fill(~row["kept"], -1)
        return LayerTrace(
            layer=block,
            router=c.router,
            experts=c.experts,
            top_k=row["expert"].shape[1],
            heads=c.heads,
            gate_convention=c.gate,
            capacity=limit,
            logits=row["logits"].numpy(),
            probs=row["probs"].numpy(),
            expert=row["expert"].numpy(),
            gate=row["gate"].numpy(),
            slot=row["slot"].numpy(),
            kept=row["kept"].numpy(),
            demand=losses.demand(row["expert"], c.experts).numpy(),
            load=losses.demand(kept, c.experts).numpy(),
            importance=losses.importance(row["expert"], row["gate"], c.experts).numpy(),
            losses={name: float(value) for name, value in scalars.items()},
            vectors=acts or None,
        )
