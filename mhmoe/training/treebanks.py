"""Labelled text for measuring: a universal word class for every token of a model's tokenizer.

A folder holds ``<language>.conllu`` or ``.conllu.gz`` (CoNLL-U, universaldependencies.org), Chinese
also as ``zh_hans``. The parallel treebanks UD_*-PUD are made for this; nothing here trains on them.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from mhmoe.models import tokenizer
from mhmoe.training.text import LANGUAGES, SEPARATOR, Corpus, CorpusError

#: The 17 universal parts of speech, as they are written in the fourth column.
CLASSES = (
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM"),
    *("PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X"),
)
NAMES = {"zh": ("zh_hans", "zh")}


def sentences(path: Path) -> Iterator[list[tuple[str, int, bool]]]:
    """Of each sentence its surface tokens: form, index into CLASSES, whether a space follows.

    A surface token of several words (``5-6``, Italian della) has no class of its own: -1.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            sentence, covered = [], 0
            for line in file:
                cells = line.rstrip("\n").split("\t")
                if len(cells) < 10:
                    if not line.strip() and sentence:
                        yield sentence
                        sentence, covered = [], 0
                    continue
                number, form, kind = cells[0], cells[1], cells[3]
                if "." in number or ("-" not in number and int(number) <= covered):
                    continue
                if "-" in number:
                    covered = int(number.split("-")[1])
                label = CLASSES.index(kind) if kind in CLASSES else -1
                sentence.append((form, label, "SpaceAfter=No" not in cells[9]))
            if sentence:
                yield sentence
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise CorpusError(f"{path} cannot be read as CoNLL-U: {error}.") from None


def labelled(sentence: list[tuple[str, int, bool]], bpe: Tokenizer) -> tuple[list[int], list[int]]:
    """Token ids of a sentence and the line break after it, and the class of each: that of the
    surface token in which its first byte other than a space lies; -1 for none."""
    text, owner = "", []
    for form, label, space in sentence:
        text += form + " " * space
        owner += [label] * len(form.encode()) + [-1] * space
    raw = (text + SEPARATOR).encode()
    owner += [-1] * len(SEPARATOR)
    ids, source = tokenizer.encode(bpe, text + SEPARATOR, len(raw))
    spans = [token.span for token in source.tokens]
    seen = (next((i for i in range(a, b) if raw[i : i + 1] != b" "), a) for a, b in spans)
    return ids, [owner[i] for i in seen]


def windows(
    folder: Path,
    bpe: Tokenizer,
    context: int,
    most: int,
    languages: Sequence[str] = LANGUAGES,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[N, context] ids and labels, [N] language; as many windows of each language, at most
    ``most``, none sharing a token. Raises CorpusError."""
    every = [_language(_file(folder, language), bpe, context) for language in languages]
    count = min(most, *(len(ids) for ids, _ in every))
    ids, labels = (np.concatenate([pair[i][:count] for pair in every]) for i in (0, 1))
    return ids, labels, np.arange(len(languages)).repeat(count)


def _language(path: Path, bpe: Tokenizer, context: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = [labelled(sentence, bpe) for sentence in sentences(path)]
    sizes = [len(ids) for ids, _ in pairs]
    if sum(sizes) < context:
        raise CorpusError(f"{path} does not fill one window of {context} tokens.")
    starts = np.cumsum([0, *sizes[:-1]])
    ids, labels = (np.concatenate([pair[i] for pair in pairs]).astype(np.int32) for i in (0, 1))
    return Corpus(ids, starts).apart(context), Corpus(labels, starts).apart(context)


def _file(folder: Path, language: str) -> Path:
    names = NAMES.get(language, (language,))
    for path in (folder / f"{name}.conllu{end}" for name in names for end in (".gz", "")):
        if path.exists():
            return path
    raise CorpusError(
        f"{folder} has no {names[0]}.conllu or .conllu.gz; give the treebanks' folder with "
        "--treebanks, or leave it out."
    )
