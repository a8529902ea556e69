"""Text for training: one folder per language with sentences, one per line, gzip or plain.

The languages are sampled evenly whatever their size. A window starts where a sentence
starts, because that is how a visitor's sentence starts; it holds one language, the next
sentences of the file follow, separated by a line break. ``text.toml`` names the sentences of the
shipped models, their source and licence.
"""

from __future__ import annotations

import gzip
import hashlib
import tomllib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

LANGUAGES = ("de", "en", "es", "fr", "it", "zh")
SEPARATOR = "\n"
SOURCES = Path(__file__).parent / "text.toml"


class CorpusError(ValueError):
    """The text folder lacks a file that the recipe needs."""


def sentences(text_dir: Path, language: str, split: str) -> list[str]:
    """Lines of ``<language>/plain_<split>.txt[.gz]``."""
    for name in (f"plain_{split}.txt.gz", f"plain_{split}.txt"):
        path = text_dir / language / name
        if path.exists():
            opener = gzip.open if path.suffix == ".gz" else open
            try:
                with opener(path, "rt", encoding="utf-8") as file:
                    return [line.strip() for line in file if line.strip()]
            except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
                raise CorpusError(f"{path} cannot be read: {error}.") from None
    raise CorpusError(
        f"{text_dir} has no {language}/plain_{split}.txt or .txt.gz; "
        f"give the folder with --text-dir."
    )


def digest(lines: Sequence[str]) -> str:
    """SHA-256 of sentences, each ended by a line break."""
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def differing(digests: dict[str, str]) -> list[str]:
    """Those of ``TextData.digests`` that are not the sentences of the shipped models."""
    files = tomllib.loads(SOURCES.read_text("utf-8"))["files"]
    return [name for name, found in digests.items() if files[name]["sha256"] != found]


def even_sample(text_dir: Path, characters: int) -> list[str]:
    """About as many characters of each language, for learning the tokenizer."""
    chosen = []
    for language in LANGUAGES:
        size = 0
        # a Chinese character carries about three times as much as a letter
        limit = characters // 3 if language == "zh" else characters
        for line in sentences(text_dir, language, "train"):
            chosen.append(line)
            size += len(line)
            if size >= limit:
                break
    return chosen


@dataclass(frozen=True)
class Corpus:
    """Token ids of one language end to end, and where its sentences start."""

    ids: np.ndarray
    starts: np.ndarray

    @classmethod
    def build(cls, lines: list[str], tokenizer: Tokenizer) -> Corpus:
        encoded = [e.ids for e in tokenizer.encode_batch([s + SEPARATOR for s in lines])]
        sizes = np.array([len(e) for e in encoded])
        return cls(
            np.concatenate([np.asarray(e, np.int32) for e in encoded]),
            np.concatenate([[0], sizes.cumsum()[:-1]]),
        )

    def window(self, start: int, size: int) -> np.ndarray:
        begin = self.starts[start]
        return self.ids[begin : begin + size]

    def apart(self, size: int) -> np.ndarray:
        """[windows, size] all windows that begin at a sentence and share no token with another."""
        found, free = [], 0
        for begin in self.starts:
            if begin >= free and begin + size <= len(self.ids):
                found.append(self.ids[begin : begin + size])
                free = begin + size
        return np.stack(found)


class TextData:
    """Batches of windows [batch, context], a pure function of (seed, step). ``digests``: SHA-256 of
    the sentences of each file, by its name without endings."""

    def __init__(
        self,
        text_dir: Path,
        split: str,
        tokenizer: Tokenizer,
        context: int,
        languages: Sequence[str] = LANGUAGES,
    ):
        self.context = context
        self.corpora, self.digests = [], {}
        for language in languages:
            lines = sentences(text_dir, language, split)
            corpus = Corpus.build(lines, tokenizer) if lines else None
            if corpus is None or len(corpus.ids) < context:
                raise CorpusError(
                    f"{text_dir}: the {split} sentences of {language!r} do not fill "
                    f"one window of {context} tokens."
                )
            self.corpora.append(corpus)
            self.digests[f"{language}/plain_{split}"] = digest(lines)

    def batch(self, seed: int, step: int, size: int) -> np.ndarray:
        rng = np.random.default_rng([seed, step])
        rows = []
        for i in range(size):
            corpus = self.corpora[i % len(self.corpora)]
            last = np.searchsorted(corpus.starts, len(corpus.ids) - self.context, side="right")
            rows.append(corpus.window(int(rng.integers(last)), self.context))
        return np.stack(rows)
