"""The MoE layer: split, route, visit, merge. With one head it is the plain sparse layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mhmoe.layers import losses, routers, soft
from mhmoe.layers.choice import route
from mhmoe.layers.config import TRAINED, ConfigError, MoEConfig, WhatIf
from mhmoe.layers.experts import Experts
from mhmoe.layers.routers import Routing
from mhmoe.trace import SOFT, LayerTrace

#: What of a routing a trace keeps.
DECISIONS = (
    *("logits", "probs", "expert", "gate", "slot", "kept", "wanted"),
    *("dispatch", "combine"),
)


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

    Steps 3 to 6 are those of ``config.router``, a row of ``mhmoe.layers.METHODS``.

    Parameter names: ``router.weight`` (E, D/H), ``experts.w_in`` (E, D/H, F),
    ``experts.w_out`` (E, F, D/H), ``head.weight`` and ``merge.weight`` (D, D). Where the
    switches ask for them: ``experts.w_gate`` (like w_in), ``experts.b_in`` (E, F),
    ``experts.b_out`` (E, D/H), ``shared.*`` like experts, ``router.noise`` (E, D/H), the buffer
    ``router.bias`` (E,), X-MoE's ``router.project`` (d_e, D/H), ``router.weight`` (E, d_e) and
    ``router.temperature``, Soft MoE's ``router.weight`` (E*P, D/H) and ``router.scale``; square
    layers of depth n are ``head.0.weight``, ``head.2.weight``, ...

    Random parts (noise, jitter, a random second expert) act only when a generator is given;
    without one the layer is deterministic, in training and in evaluation alike.
    """

    def __init__(self, config: MoEConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        kind = routers.CosineRouter if config.cosine != "none" else routers.LinearRouter
        self.router = (soft.SoftRouter if config.assignment == SOFT else kind)(config)
        self.experts = Experts(config)
        if config.shared:
            self.shared = Experts(config.of_shared)
        if config.projections:
            self.head = _square(config)
            self.merge = _square(config)
        self.reset(generator)

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Fan-in scaled experts, a small router, Xavier square layers with the multi-head one at
        gain 1/sqrt(2) (MH-MoE's pseudo-code), biases zero."""
        c = self.config
        for pool in (self.experts, self.shared) if c.shared else (self.experts,):
            pool.reset(generator)
        self.router.reset(generator)
        if c.projections:
            for mixer, gain in ((self.head, 1 / math.sqrt(2)), (self.merge, 1)):
                for weight in mixer.parameters():
                    if weight.dim() == 2:
                        nn.init.xavier_uniform_(weight, gain, generator=generator)
                    else:
                        weight.zero_()

    def forward(
        self,
        x_BTD: Tensor,
        *,
        mask: Tensor | None = None,
        what_if: WhatIf = TRAINED,
        generator: torch.Generator | None = None,
        trace: bool = False,
    ) -> Tensor | tuple[Tensor, list[LayerTrace]]:
        """x [B, T, D] -> y [B, T, D]; with ``trace`` also one LayerTrace per sequence.

        mask       [B, T] True for real tokens; padding returns zero and is counted nowhere
        what_if    changes for this pass alone
        generator  lets the random parts act, as in training
        """
        y, routing, vectors = self.run(
            x_BTD, mask=mask, what_if=what_if, generator=generator, with_places=trace
        )
        return (y, self.traces(routing, vectors)) if trace else y

    def run(
        self,
        x_BTD: Tensor,
        *,
        mask: Tensor | None = None,
        what_if: WhatIf = TRAINED,
        generator: torch.Generator | None = None,
        with_places: bool = False,
    ) -> tuple[Tensor, Routing, dict[str, Tensor]]:
        """The forward pass with its decisions as tensors; training reads losses from them.

        with_places   also compute places where nothing can be dropped
        """
        B, T, D = x_BTD.shape
        H, c = self.config.heads, self.config
        if mask is not None:  # whatever stands in padding, be it NaN, must not reach a gradient
            x_BTD = torch.where(mask[..., None], x_BTD, 0)
        wide = self.head(x_BTD) if c.projections else x_BTD
        x_BSD = wide.reshape(B, T * H, D // H)  # b t (h d) -> b (t h) d
        mask_BS = None if mask is None else mask.repeat_interleave(H, dim=1)
        routing = self.decide(x_BSD, mask_BS, what_if, generator, with_places)
        sum_BSD, vectors = self.visit(x_BSD, routing)
        if c.shared:
            sum_BSD = sum_BSD + self.visit_shared(x_BSD)
        inner = c.inner_residual if what_if.inner_residual is None else what_if.inner_residual
        if inner:
            sum_BSD = sum_BSD + x_BSD
        combined = sum_BSD.reshape(B, T, D)  # b (t h) d -> b t (h d)
        y_BTD = self.merge(combined) if c.projections else combined
        if mask is not None:
            y_BTD = torch.where(mask[..., None], y_BTD, 0)
        vectors |= {"x": x_BTD, "wide": wide, "combined": combined, "out": y_BTD}
        return y_BTD, routing, vectors

    def decide(
        self,
        x_BSD: Tensor,
        mask: Tensor | None = None,
        what_if: WhatIf = TRAINED,
        generator: torch.Generator | None = None,
        with_places: bool = False,
    ) -> Routing:
        """[B, S, D/H] -> who goes where with what weight, and who finds a place; steps 3 to 6,
        in float32 also under autocast."""
        if torch.is_autocast_enabled(x_BSD.device.type):
            with torch.autocast(x_BSD.device.type, enabled=False):
                return self.decide(x_BSD, mask, what_if, generator, with_places)
        logits, clean, std = self.scores(x_BSD, generator)
        routing = route(
            logits,
            self.config,
            what_if,
            mask=mask,
            bias=self.router.bias if self.config.bias_update else None,
            generator=generator,
            with_places=with_places,
        )
        if std is None:
            return routing
        t = what_if.temperature  # it divides the noise as well as the scores
        return replace(routing, clean=clean / t, std=std / t)

    def scores(
        self, x_BSD: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """[B, S, D/H] -> scores [B, S, E], the same without noise, and the noise's std or None.
        Jitter and noise act here, and only here: experts read x as it is."""
        c, read = self.config, x_BSD
        if generator is None:
            clean = self.router(read)
            return clean, clean, None
        if c.jitter and c.jitter_on == "input":
            read = routers.jittered(read, c.jitter, generator)
        clean = self.router(read)
        if c.jitter and c.jitter_on == "scores":
            shift = routers.uniform(clean.shape, 1 - c.jitter, 1 + c.jitter, generator)
            clean = clean + shift.to(clean.device)
        if c.noise == "none":
            return clean, clean, None
        std = routers.noise_std(self.router, read)
        return routers.noisy(clean, std, generator), clean, std

    def visit(self, x_BSD: Tensor, routing: Routing) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, S, D/H] -> [B, S, D/H] the gated sum of what the kept choices' experts compute; of
        Soft MoE also ``slot_out`` [B, E*P, D/H]."""
        if routing.combine is not None:
            y_BSD, out = soft.mix(self.experts, x_BSD, routing)
            return y_BSD, {"slot_out": out}
        B, S, K = routing.expert.shape
        x_ND, expert_NK = x_BSD.reshape(B * S, x_BSD.shape[-1]), routing.taken.reshape(B * S, K)
        y_ND = self.experts.mix(x_ND, expert_NK, routing.gate.reshape(B * S, K))
        return y_ND.view(x_BSD.shape), {}

    def visit_shared(self, x_BSD: Tensor) -> Tensor:
        """[B, S, D/H] -> the sum of all shared experts (DeepSeekMoE, arXiv 2401.06066, eq. 9)."""
        rows = x_BSD.flatten(0, 1).expand(self.config.shared, -1, -1)
        return self.shared.slots(rows).sum(0).view(x_BSD.shape)

    def losses(self, routing: Routing) -> dict[str, Tensor]:
        """The layer's losses over all real sub-tokens of the batch."""
        return losses.of(routing, self.config, getattr(self.router, "temperature", None))

    @torch.no_grad()
    def after_step(self, routing: Routing) -> None:
        """What a method does after every step of the optimiser, besides the step itself."""
        if self.config.bias_update:
            self.update_bias(losses.demand(routing.asked.flatten(0, 1), self.config.experts))
        if self.config.embedding_norm:
            self.router.keep_norm()

    @torch.no_grad()
    def update_bias(self, demand_E: Tensor) -> None:
        """One step of loss-free balancing after a batch: b += u sign(mean(c) - c), c [E] how often
        each expert was chosen (Wang et al. 2024, arXiv 2408.15664, algorithm 1). Raises ConfigError
        for a layer without such a bias."""
        if not self.config.bias_update:
            raise ConfigError("this layer has no bias to update: build it with bias_update above 0")
        c = demand_E.float()  # half precision cannot count
        self.router.bias += self.config.bias_update * torch.sign(c.mean() - c)

    def traces(
        self, routing: Routing, vectors: dict[str, Tensor], block: int = 0
    ) -> list[LayerTrace]:
        """One trace per sequence of the batch, on the CPU."""
        return traces([(block, self)], [routing], [vectors])[0]


def traces(
    layers: Sequence[tuple[int, MoELayer]],
    routings: Sequence[Routing],
    vectors: Sequence[dict[str, Tensor]],
) -> list[list[LayerTrace]]:
    """One trace per layer and sequence, on the CPU. The layers, each with the number of its block,
    have one config: the batches of all are joined, so that counts and losses take one pass."""
    if len({None if r.expert is None else r.expert.shape for r in routings}) != 1:
        # with Expert Choice, K is what the layer's busiest sub-token has
        each = zip(layers, routings, vectors, strict=True)
        return [traces([layer], [r], [v])[0] for layer, r, v in each]
    c, B = layers[0][1].config, len(routings[0].logits)
    host = Routing.joined(routings).on_host()
    temperature = None
    if c.temperature:
        learned = torch.stack([layer.router.temperature.detach().cpu() for _, layer in layers])
        temperature = learned.repeat_interleave(B)[:, None, None]
    counted = losses.sums(host, c)
    scalars = losses.each(host, c, temperature, counted)
    scalars = {name: loss.tolist() for name, loss in scalars.items()}
    decided = {name: getattr(host, name) for name in DECISIONS} | vars(counted)
    arrays = {name: t.numpy() for name, t in decided.items() if t is not None}
    acts = [{name: v.detach().float().cpu().numpy() for name, v in a.items()} for a in vectors]

    def one(n: int, b: int) -> LayerTrace:
        row = n * B + b
        return LayerTrace(
            layer=layers[n][0],
            router=c.router,
            assignment=c.assignment,
            experts=c.experts,
            top_k=c.experts if host.expert is None else host.expert.shape[-1],
            heads=c.heads,
            gate_convention=c.gate,
            score=c.score,
            capacity=host.capacity[row],
            **{name: array[row] for name, array in arrays.items()},
            losses={name: values[row] for name, values in scalars.items()},
            shared=tuple(range(c.experts, c.experts + c.shared)),
            vectors={name: array[b] for name, array in acts[n].items()} or None,
        )

    return [[one(n, b) for b in range(B)] for n in range(len(layers))]


def _square(config: MoEConfig) -> nn.Module:
    """One d x d layer, or n of them with ReLU between (MH-MoE, table 7)."""
    D, n = config.d_model, int(config.projections)
    layers = [nn.Linear(D, D, bias=config.projection_bias) for _ in range(n)]
    if n == 1:
        return layers[0]
    between = [part for layer in layers for part in (layer, nn.ReLU())]
    return nn.Sequential(*between[:-1])
