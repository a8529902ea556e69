"""Models of pictures with captions: what ``python -m mhmoe measure`` does with them.

The pairs are fixed: the first of ``captions.paired_validation``. Routing is that of whole pairs, of
which nothing is hidden: patches, then the caption, which is filled with line breaks to its full
length; these are routed, too, but are neither word nor patch. This module runs the models; what
their routing amounts to is computed in ``mhmoe.analysis``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch

from mhmoe.analysis import nulls, report, report_pairs
from mhmoe.models import metrics, tokenizer
from mhmoe.models.config import ModelConfig
from mhmoe.models.transformer import Transformer
from mhmoe.trace import TOKEN_CHOICE, LayerTrace
from mhmoe.training import captions
from mhmoe.training.measure import Routes, Subject, facts, has_choice, of_routing, relatives
from mhmoe.training.measure_images import check_side, hidden_patches, untrained
from mhmoe.training.questions import tokenizer_of

PAIRS = 480  #: for quality
ROUTED = 120  #: of these, for routing
FEW = 48  #: where a model runs many times


# ------------------------------------------------------------------------ pairs


@dataclass(frozen=True, eq=False)
class Pairs:
    """pixels uint8 [N, side, side, 3]; caption [N, L] token ids, filled [N, L] True where it is
    over; sizes [words] bytes."""

    pixels: np.ndarray
    caption: np.ndarray
    filled: np.ndarray
    sizes: np.ndarray

    def part(self, count: int) -> Pairs:
        return replace(
            self,
            pixels=self.pixels[:count],
            caption=self.caption[:count],
            filled=self.filled[:count],
        )

    @property
    def group(self) -> np.ndarray:
        """[N] all are one group."""
        return np.zeros(len(self.pixels), int)

    @property
    def draws(self) -> np.ndarray:
        """[draws, N] how often each is drawn in a bootstrap."""
        return nulls.resampled(self.group, report.BOOTSTRAP, report.SEED)

    def label(self, patches: int) -> np.ndarray:
        """[N, patches + L] indices into ``report_pairs.MODALITIES``, -1 where a caption is over."""
        words = np.where(self.filled, -1, 1)
        return np.concatenate([np.zeros((len(words), patches), int), words], 1)

    def facts(self, config: ModelConfig) -> dict:
        """``pairs`` for quality; ``tokens`` are the patches and words, line breaks after a caption
        included, of those that are ``routed``, on which findings rest."""
        routed = len(self.part(ROUTED).pixels)
        content = self.pixels.tobytes() + self.caption.astype("<i4").tobytes()
        return {
            "pairs": len(self.pixels),
            "routed": routed,
            "tokens": routed * config.length,
            "sha256": hashlib.sha256(content).hexdigest(),
        }


def drawn(config: ModelConfig) -> Pairs:
    """The pairs for a model. Raises MeasureError for one that sees pictures of another size, or
    has other tokens."""
    check_side(config)
    bpe = tokenizer_of(config.words)
    pixels, texts = _drawn(PAIRS)
    caption, filled = tokenizer.filled(bpe, texts, config.caption)
    return Pairs(pixels, caption, filled, tokenizer.byte_sizes(bpe))


@lru_cache(maxsize=1)
def _drawn(count: int) -> tuple[np.ndarray, list[str]]:
    return captions.paired_validation(count)


# ------------------------------------------------------------------------ one model


def measure(
    subject: Subject,
    pairs: Pairs,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda sentence: None,
) -> dict:
    """Everything about one model."""
    model = subject.model(device=device)
    say(f"{subject.name}: {len(pairs.pixels)} generated scenes with captions")
    entry = {
        "command": subject.command,
        "facts": facts(subject, model),
        "pairs": pairs.facts(model.config),
        "quality": quality(model, pairs, subject.mask_ratio),
    }
    if not has_choice(model) or model.config.moe.assignment != TOKEN_CHOICE:
        return entry
    part, few = pairs.part(ROUTED), pairs.part(FEW)
    opened = report.opened(routed(model, part), part.group)
    entry |= of_routing(opened)
    label = part.label(model.config.context)
    entry["modality"] = [report_pairs.of_modality(r, label) for r in opened]
    say(f"{subject.name}: models that have learned nothing")
    entry["untrained"] = [
        report_pairs.in_short(report.opened(routed(one, part), part.group), label)
        for one in untrained(model)
    ]
    return entry | relatives(subject, partial(routed, pairs=few), few.group, device, say)


def routed(model: Transformer, pairs: Pairs) -> list[LayerTrace]:
    """Of every MoE layer one trace of all whole pairs end to end."""
    routes = Routes(model)
    metrics.whole_pictures(model, pairs.pixels, routes, captions=pairs.caption)
    return routes.layers()


def quality(model: Transformer, pairs: Pairs, mask_ratio: float) -> dict:
    """Error of hidden patches, beside whole captions, over that of the mean visible colour; and
    bits per byte of hidden words, beside whole pictures: their own, and what the ``next_picture``
    in place of it costs. The numbers of every pair are kept, so that models can be compared pair by
    pair."""
    draws, shown = pairs.draws, pairs.pixels
    hidden = metrics.hidden_words(pairs.filled, mask_ratio)
    size = (pairs.sizes[pairs.caption] * hidden).sum(1)
    own, other = (
        metrics.caption_nats(model, pixels, pairs.caption, hidden) / np.log(2)
        for pixels in (shown, np.roll(shown, -1, axis=0))
    )

    def per_byte(bits: np.ndarray) -> tuple[float, tuple[float, float]]:
        return float(bits.sum() / size.sum()), nulls.interval(draws @ bits / (draws @ size))

    errors = metrics.picture_errors(model, shown, mask_ratio, captions=pairs.caption)
    value, interval = per_byte(own)
    more, span = per_byte(other - own)
    return {
        **hidden_patches(*errors, draws),
        "caption_bits_per_byte": value,
        "caption_interval": interval,
        "next_picture": {"rise": more, "interval": span},
        "caption_tokens": int(hidden.sum()),
        "caption_bytes": int(size.sum()),
        "pair_bits": own.tolist(),
        "pair_bytes": size.tolist(),
    }
