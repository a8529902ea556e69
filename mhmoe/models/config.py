"""Shapes of the small transformers."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mhmoe.layers import MoEConfig


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A pre-norm transformer whose every FFN is dense, or an MoE layer.

    kind        "text", "image" (encoder of patches), or "image-text" (of patches, then a caption)
    causal      text: each token sees those before it and predicts the next one (a decoder); if not,
                it sees all and hidden tokens are predicted (an encoder). Pictures see everything
    context     tokens at most; for pictures the number of patches
    vocabulary  token ids; for pictures the raw values of a patch (side * side * 3)
    caption     tokens of a caption at most, of a vocabulary of ``words``; image-text only
    d_ff        inner width of the dense FFN; unused when ``moe`` is set
    patch       patch side in pixels, images only
    attention_width  of all attention heads together; 0 is d_model
    classes     that a whole picture may belong to, images only; 0 is a model without a class
    """

    kind: str
    causal: bool = True
    d_model: int
    blocks: int
    attention_heads: int
    vocabulary: int
    context: int
    d_ff: int = 0
    moe: MoEConfig | None = None
    patch: int = 0
    attention_width: int = 0
    classes: int = 0
    caption: int = 0
    words: int = 0

    @property
    def router(self) -> str:
        return self.moe.router if self.moe else "none"

    @property
    def predicts_next(self) -> bool:
        """A decoder; every other model is asked for what was hidden from it."""
        return self.kind == "text" and self.causal

    @property
    def heads(self) -> int:
        return self.moe.heads if self.moe else 1

    @property
    def d_attention(self) -> int:
        return self.attention_width or self.d_model

    @property
    def length(self) -> int:
        """Rows of a full sequence: tokens, patches, or patches and a caption."""
        return self.context + self.caption

    @property
    def grid(self) -> int:
        """Patches along one side of an image."""
        return int(self.context**0.5)

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict) -> ModelConfig:
        moe = data.get("moe")
        return cls(**{**data, "moe": MoEConfig(**moe) if moe else None})
