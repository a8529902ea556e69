"""Held-out text, and what a model is asked about it: the next token, or those that are hidden.

The text is fixed: of each of a model's languages the first ``WINDOWS`` windows of plain_dev that do
not overlap.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from mhmoe.analysis import nulls, report
from mhmoe.layers import TRAINED, WhatIf
from mhmoe.models import checkpoint, metrics, tokenizer
from mhmoe.models.config import ModelConfig
from mhmoe.models.metrics import Watch
from mhmoe.models.transformer import Transformer
from mhmoe.training import treebanks
from mhmoe.training.measure import MeasureError
from mhmoe.training.text import LANGUAGES, TextData

WINDOWS = 32  #: windows of each language
CLASSES = (
    "punctuation",
    "number",
    "line break",
    "start of word",
    "rest of word",
    "part of a character",
)


# ------------------------------------------------------------------------ text


@dataclass(frozen=True, eq=False)
class HeldOut:
    """windows, kind [N, T] token ids and their classes, indices into ``classes``, -1 for none;
    language [N], indices into ``languages``; sizes [vocabulary] bytes."""

    windows: np.ndarray
    language: np.ndarray
    kind: np.ndarray
    sizes: np.ndarray
    languages: tuple[str, ...]
    classes: tuple[str, ...] = CLASSES

    def first(self, per_language: int) -> np.ndarray:
        """Indices of the first windows of each language."""
        each = [np.flatnonzero(self.language == i) for i in range(len(self.languages))]
        return np.sort(np.concatenate([rows[:per_language] for rows in each]))

    def part(self, per_language: int) -> HeldOut:
        rows = self.first(per_language)
        return replace(
            self, windows=self.windows[rows], language=self.language[rows], kind=self.kind[rows]
        )

    @property
    def facts(self) -> dict:
        N, T = self.windows.shape
        return {
            "windows": N,
            "tokens": N * T,
            "languages": list(self.languages),
            "sha256": hashlib.sha256(self.windows.astype("<i4").tobytes()).hexdigest(),
        }


def held_out(text_dir: Path, config: ModelConfig, languages: Sequence[str] = LANGUAGES) -> HeldOut:
    """As many windows of every language, at most ``WINDOWS``. Raises MeasureError, CorpusError."""
    bpe = tokenizer_of(config.vocabulary)
    data = TextData(text_dir, "dev", bpe, config.context, languages)
    every = [corpus.apart(config.context) for corpus in data.corpora]
    count = min(WINDOWS, *(len(windows) for windows in every))
    windows = np.concatenate([windows[:count] for windows in every])
    kinds = np.array([token_class(tokenizer.spell(bpe, i)) for i in range(config.vocabulary)])
    return HeldOut(
        windows=windows,
        language=np.arange(len(languages)).repeat(count),
        kind=kinds[windows],
        sizes=tokenizer.byte_sizes(bpe),
        languages=tuple(languages),
    )


def labelled(folder: Path, config: ModelConfig, languages: Sequence[str] = LANGUAGES) -> HeldOut:
    """Treebanks in the same way; the classes are those of words. Raises MeasureError,
    CorpusError."""
    bpe = tokenizer_of(config.vocabulary)
    windows, labels, language = treebanks.windows(folder, bpe, config.context, WINDOWS, languages)
    sizes = tokenizer.byte_sizes(bpe)
    return HeldOut(windows, language, labels, sizes, tuple(languages), treebanks.CLASSES)


def tokenizer_of(tokens: int) -> Tokenizer:
    """The tokenizer of the models' folder, if it is that of a model of so many tokens. Raises
    MeasureError."""
    bpe = checkpoint.load_tokenizer()
    if (found := bpe.get_vocab_size()) != tokens:
        raise MeasureError(
            f"The tokenizer in {checkpoint.folder()} has {found} tokens, the model "
            f"{tokens}; set MHMOE_MODELS to the folder with the model's own."
        )
    return bpe


def token_class(text: str) -> int:
    """Index into CLASSES of a token's text as ``tokenizer.spell`` gives it; -1 for spaces alone and
    for what is of several kinds."""
    if re.search(r"\\x[0-9a-f]{2}", text):
        return 5
    bare = text.strip(" ")
    if "\n" in bare:
        return 2 if not bare.strip() else -1
    groups = {unicodedata.category(c)[0] for c in bare}
    if groups and groups <= {"P", "S"}:
        return 0
    if groups == {"N"}:
        return 1
    if groups and groups <= {"L", "M"}:
        return 3 if text.startswith(" ") else 4
    return -1


# ------------------------------------------------------------------------ what is asked


@dataclass(frozen=True, eq=False)
class Question:
    """Which tokens of N windows a model has to predict, and how well it does.

    asked   [N, T] True for the tokens that count, as many in every window
    hidden  the share of them that is hidden from the model, an encoder, which sees the others on
            both sides; 0 for a decoder, which predicts every token from those before it
    """

    text: HeldOut
    asked: np.ndarray
    hidden: float

    @classmethod
    def of(cls, text: HeldOut, config: ModelConfig, mask_ratio: float) -> Question:
        """All tokens after the first; or of an encoder those that an evaluation hides, too."""
        if not config.predicts_next:
            hidden = metrics.hidden_tokens(*text.windows.shape, mask_ratio)
            return cls(text, hidden.numpy(), mask_ratio)
        asked = np.ones(text.windows.shape, bool)
        asked[:, 0] = False
        return cls(text, asked, 0.0)

    def part(self, per_language: int) -> Question:
        """About the first windows of each language."""
        asked = self.asked[self.text.first(per_language)]
        return Question(self.text.part(per_language), asked, self.hidden)

    @property
    def size(self) -> np.ndarray:
        """[N] bytes of the tokens that are asked for."""
        return (self.text.sizes[self.text.windows] * self.asked).sum(1)

    @property
    def facts(self) -> dict:
        return self.text.facts | {"predicted": int(self.asked.sum()), "hidden": self.hidden}

    @torch.inference_mode()
    def nats(
        self,
        model: Transformer,
        what_if: WhatIf = TRAINED,
        only_block: int | None = None,
        watch: Watch = lambda run: None,
    ) -> np.ndarray:
        """[N] cross-entropy of what is asked in each window, in nats, summed."""
        found = []
        for number, ids in enumerate(metrics.chunks(model, self.text.windows)):
            masked = None
            if self.hidden:
                rows = self.asked[number * metrics.BATCH :][: len(ids)]
                masked = torch.from_numpy(rows).to(ids.device)
            run = model(ids, masked=masked, what_if=what_if, only_block=only_block)
            watch(run)
            nats = metrics.token_nats(run.output, ids, masked)
            found.append(nats.view(len(ids), -1).double().sum(1).cpu().numpy())
        return np.concatenate(found)

    def quality(self, nats: np.ndarray) -> dict:
        """Bits per byte and perplexity of all and of each language; bits [N] of every window are
        kept, so that models can be compared window by window."""
        size, bits = self.size, nats / np.log(2)

        def numbers(rows: np.ndarray) -> dict:
            draws = nulls.resampled(self.text.language[rows], report.BOOTSTRAP, report.SEED)
            tokens = int(self.asked[rows].sum())
            return {
                **metrics.per_byte(nats[rows].sum(), tokens, int(size[rows].sum())),
                "interval": nulls.interval(draws @ bits[rows] / (draws @ size[rows])),
            }

        return {
            **numbers(np.arange(len(nats))),
            "languages": {
                language: numbers(np.flatnonzero(self.text.language == i))
                for i, language in enumerate(self.text.languages)
            },
            "window_bits": bits.tolist(),
            "window_bytes": size.tolist(),
        }

    def rise(self, nats: np.ndarray, plain: np.ndarray) -> dict:
        """Bits per byte more than ``plain``, with the interval over the same windows."""
        size, more = self.size, (nats - plain) / np.log(2)
        draws = nulls.resampled(self.text.language, report.BOOTSTRAP, report.SEED)
        return {
            "rise": float(more.sum() / size.sum()),
            "interval": nulls.interval(draws @ more / (draws @ size)),
        }
