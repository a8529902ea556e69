"""Byte-level BPE, and the map from words to tokens that every strip is drawn with."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mhmoe.trace import TextInput, Token

#: One word: a run of letters with their marks and inner apostrophes, a number, a run of CJK
#: (split further below), or a run of anything else; a single leading space belongs to it.
_CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af\U00020000-\U0002ffff"
_WORD = re.compile(
    rf" ?(?:[{_CJK}]+|(?:(?![{_CJK}])[^\W\d_])(?:(?![{_CJK}])[\w'’\u0300-\u036f])*"
    rf"|\d+|[^\s\w]+|_+|\w)|\s+"
)
_HAS_CJK = re.compile(rf"[{_CJK}]")


def train(sentences: Iterable[str], vocabulary: int) -> Tokenizer:
    """Learn a byte-level BPE; the 256 bytes are in it, so any text can be written."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        sentences,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


@cache
def load(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))


@cache
def _byte_of() -> dict[str, int]:
    """GPT-2's printable stand-in character -> byte."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [b for b in range(256) if b not in keep]
    return {chr(b): b for b in keep} | {chr(256 + i): b for i, b in enumerate(other)}


def encode(tokenizer: Tokenizer, text: str, limit: int) -> tuple[list[int], TextInput]:
    """Token ids and the trace's input, at most ``limit`` tokens.

    The text of the input is what was used: cut where the last token that fits ends.
    """
    encoding = tokenizer.encode(text)
    ids, pieces = encoding.ids[:limit], encoding.tokens[:limit]
    sizes = [len(piece) for piece in pieces]
    raw = bytes(_byte_of()[c] for piece in pieces for c in piece)
    spans, start = [], 0
    for size in sizes:
        spans.append((start, start + size))
        start += size
    used = raw.decode("utf-8", "replace")
    words = _words(raw, spans)
    tokens, word = [], 0
    for a, b in spans:
        while words[word][1] <= a:
            word += 1
        tokens.append(Token(text=_shown(raw[a:b]), span=(a, b), word=word))
    return ids, TextInput(text=used, tokens=tuple(tokens), words=tuple(words))


def filled(
    tokenizer: Tokenizer, texts: Sequence[str], length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids int64 [N, length], and bool [N, length] where a text was over: it is filled with
    line breaks there. What is longer is cut."""
    (fill,) = tokenizer.encode("\n").ids  # one byte is one token
    rows = [encoding.ids[:length] for encoding in tokenizer.encode_batch(list(texts))]
    over = np.arange(length) >= np.array([len(row) for row in rows])[:, None]
    return np.array([row + [fill] * (length - len(row)) for row in rows], np.int64), over


def spell(tokenizer: Tokenizer, token: int) -> str:
    """The text of one token id, a leading space included."""
    return _shown(bytes(_byte_of()[c] for c in tokenizer.id_to_token(token)))


def _shown(piece: bytes) -> str:
    """A token's text; bytes that are only part of a character are written \\xNN."""
    return piece.decode("utf-8", "backslashreplace")


def _words(raw: bytes, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """UTF-8 spans of words such that every token lies inside exactly one of them.

    A run of CJK has no spaces: there a word is the smallest group of tokens that ends at a
    character. Everywhere else it is a word of the text, joined with its neighbour if a token
    crosses the border.
    """
    ends = {b for _, b in spans}
    borders, at = set(), 0
    text = raw.decode("utf-8", "surrogateescape")
    for match in _WORD.finditer(text):
        piece = match.group()
        units = list(piece) if _HAS_CJK.search(piece) else [piece]
        for unit in units:
            at += len(unit.encode("utf-8", "surrogateescape"))
            borders.add(at)
    cuts = sorted((borders & ends) | {len(raw)})
    return list(zip([0, *cuts[:-1]], cuts, strict=True)) if raw else []


def visible(text: str) -> str:
    """Text for the screen: control and invisible characters as their symbols or code points."""
    return "".join(_visible(c) for c in text)


def _visible(char: str) -> str:
    code = ord(char)
    if char == "\n":
        return "↵"
    if code < 32:
        return chr(0x2400 + code)
    if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return f"<{code:04X}>"
    return char


def byte_sizes(tokenizer: Tokenizer) -> np.ndarray:
    """[vocabulary] UTF-8 bytes that each token stands for."""
    return np.array([len(tokenizer.id_to_token(i)) for i in range(tokenizer.get_vocab_size())])
