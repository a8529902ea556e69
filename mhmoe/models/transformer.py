"""The small transformers: a decoder or encoder of text, an encoder of image patches, and one of
patches and a caption in one sequence."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mhmoe.layers import TRAINED, DenseFFN, MoELayer, Routing, WhatIf
from mhmoe.models.config import ModelConfig


@dataclass
class Run:
    """What one forward pass leaves: predictions, and for each MoE block its decisions.

    output   [B, T, V] logits (text) or [B, T, patch values] (the patches of a picture)
    caption  [B, tokens, words] logits, where a caption was given
    classes  [B, classes] logits of the whole picture, where the model has classes
    routing  per MoE block; vectors likewise, kept only when asked for
    stream   [B, T, D] what each block reads, and what the last one leaves; kept with vectors
    """

    output: Tensor
    caption: Tensor | None = None
    classes: Tensor | None = None
    routing: list[Routing] = field(default_factory=list)
    vectors: list[dict[str, Tensor]] = field(default_factory=list)
    stream: list[Tensor] = field(default_factory=list)


class Attention(nn.Module):
    """Multi-head self-attention; its heads have nothing to do with MH-MoE's."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.heads, self.causal = config.attention_heads, config.predicts_next
        self.qkv = nn.Linear(config.d_model, 3 * config.d_attention, bias=False)
        self.out = nn.Linear(config.d_attention, config.d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, _ = x_BTD.shape
        q, k, v = self.qkv(x_BTD).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(B, T, -1))


class Block(nn.Module):
    """x + attention(norm x), then x + ffn(norm x): the residual carries what the FFN drops."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.d_model)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.d_model)
        self.ffn = (
            MoELayer(config.moe) if config.moe else DenseFFN(config.d_model, config.d_ff, "relu")
        )


class Transformer(nn.Module):
    """Embedding, blocks, output. Text ties its output to the token embedding.

    The class of a picture is read from the mean over its patches after the last norm: a class token
    would be one more row in every trace that is no patch.
    """

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        self.config = config
        D = config.d_model
        if config.kind == "text":
            self.embed = nn.Embedding(config.vocabulary, D)
        else:
            self.embed = nn.Linear(config.vocabulary, D)
            self.output = nn.Linear(D, config.vocabulary)
        if not config.predicts_next:
            self.mask_token = nn.Parameter(torch.empty(D))
        if config.caption:
            self.embed_caption = nn.Embedding(config.words, D)
            self.caption_position = nn.Parameter(torch.empty(config.caption, D))
        self.position = nn.Parameter(torch.empty(config.context, D))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.RMSNorm(D)
        if config.classes:
            self.classify = nn.Linear(D, config.classes)
        self.reset(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Every weight from one generator, so that a seed is a model."""
        scale = (2 * self.config.blocks) ** -0.5  # residual branches: GPT-2's rule
        for name, p in self.named_parameters():
            if p.dim() <= 1:
                p.fill_(0.0 if name.endswith("bias") or name == "mask_token" else 1.0)
            else:
                p.normal_(
                    0,
                    0.02 if "embed" in name or "position" in name else p.shape[-1] ** -0.5,
                    generator=generator,
                )
        if self.config.kind != "text":
            # Where a patch lies must be as loud as what it shows, or attention needs thousands
            # of steps to find a hidden patch's neighbours.
            self.embed.weight.normal_(0, self.config.vocabulary**-0.5, generator=generator)
            self.position.copy_(sin_cos(self.config.grid, self.config.d_model))
        for block in self.blocks:
            block.attention.out.weight.mul_(scale)
            if isinstance(block.ffn, MoELayer):
                block.ffn.reset(generator)
                block.ffn.experts.w_out.mul_(scale)
            else:
                block.ffn.w_in.normal_(0, self.config.d_model**-0.5, generator=generator)
                block.ffn.w_out.normal_(0, scale * self.config.d_ff**-0.5, generator=generator)

    def forward(
        self,
        inputs: Tensor,
        caption: Tensor | None = None,
        *,
        masked: Tensor | None = None,
        what_if: WhatIf = TRAINED,
        only_block: int | None = None,
        generator: torch.Generator | None = None,
        with_places: bool = False,
        with_vectors: bool = False,
    ) -> Run:
        """inputs: token ids [B, T], or patches [B, T, values].

        caption     token ids [B, tokens], which follow the patches: T counts both
        masked      [B, T] bool: hidden from the model
        only_block  the one block that ``what_if`` changes; None changes every block
        generator   lets the random parts of the routers act, as in training
        """
        x, position = self.embed(inputs), self.position[: inputs.shape[1]]
        if caption is not None:
            x = torch.cat([x, self.embed_caption(caption)], 1)
            position = torch.cat([position, self.caption_position[: caption.shape[1]]])
        if masked is not None:
            x = torch.where(masked[..., None], self.mask_token.to(x.dtype), x)
        x = x + position
        run = Run(x)
        for i, block in enumerate(self.blocks):
            if with_vectors:
                run.stream.append(x)
            x = x + block.attention(block.attention_norm(x))
            if self.config.moe is None:
                x = x + block.ffn(block.ffn_norm(x))
                continue
            asked = what_if if only_block in (None, i) else TRAINED
            y, routing, vectors = block.ffn.run(
                block.ffn_norm(x),
                what_if=asked,
                generator=generator,
                with_places=with_places,
            )
            x = x + y
            run.routing.append(routing)
            if with_vectors:
                run.vectors.append(vectors)
        if with_vectors:
            run.stream.append(x)
        x = self.norm(x)
        if caption is not None:
            x, rest = x.split([inputs.shape[1], caption.shape[1]], 1)
            run.caption = rest @ self.embed_caption.weight.T
        run.output = x @ self.embed.weight.T if self.config.kind == "text" else self.output(x)
        if self.config.classes:
            run.classes = self.classify(x.mean(1))
        return run

    @property
    def moe_layers(self) -> list[tuple[int, MoELayer]]:
        """(block index, layer) of every MoE layer."""
        return [(i, b.ffn) for i, b in enumerate(self.blocks) if isinstance(b.ffn, MoELayer)]

    def counts(self) -> dict[str, int]:
        """params_total, params_active (what one sub-token's pass touches) and macs_per_token.

        MACs: all matrix products of one token, attention at full context; the token embedding
        is a lookup and costs none, the tied output product does. The class is one product per
        picture, no token's. Of patches and captions, the mean of a full sequence.
        """
        c = self.config
        total = sum(p.numel() for p in self.parameters())
        active = total
        D, T, A = c.d_model, c.length, c.d_attention
        ends = c.context * c.vocabulary * (1 if c.kind == "text" else 2) + c.caption * c.words
        macs = c.blocks * (4 * D * A + 2 * T * A) + round(ends * D / T)
        if c.moe is None:
            macs += c.blocks * 2 * D * c.d_ff
        else:
            macs += c.blocks * c.moe.macs_per_token
            active -= c.blocks * (c.moe.parameters - c.moe.active_parameters)
        return {"params_total": total, "params_active": active, "macs_per_token": macs}


def sin_cos(grid: int, width: int) -> Tensor:
    """[grid * grid, width] sines and cosines of row and column (ViT/MAE's fixed positions)."""
    rates = 100.0 ** (-torch.arange(width // 4) / (width // 4))
    angle = torch.arange(grid)[:, None] * rates  # [grid, width / 4]
    line = torch.cat([angle.sin(), angle.cos()], 1)
    rows = line[:, None].expand(grid, grid, -1)
    columns = line[None].expand(grid, grid, -1)
    return torch.cat([rows, columns], -1).reshape(grid * grid, width)
