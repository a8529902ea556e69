"""Word lists for measuring: false friends by language, and English words by number of senses.

same_spelling_pairs.tsv   class, form, lang_a, lang_b, ...; class false_friend or cognate
en_sense_counts.tsv[.gz]  lemma, senses, ...
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from mhmoe.training.text import CorpusError

#: Senses of a word that counts as polysemous, at least, and of one that does not, at most.
MANY, FEW = 5, 2


def same_spelling(folder: Path) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """(language, form) of the false friends, and of all words listed: those are no controls.
    Raises CorpusError."""
    false, listed = set(), set()
    for row in _rows(folder, "same_spelling_pairs.tsv", ("class", "form", "lang_a", "lang_b")):
        both = {(row["lang_a"], row["form"]), (row["lang_b"], row["form"])}
        listed |= both
        if row["class"] == "false_friend":
            false |= both
    return false, listed


def by_senses(folder: Path) -> tuple[set[str], set[str]]:
    """English words of ``MANY`` senses and more, and of ``FEW`` and less. Raises CorpusError."""
    many, few = set(), set()
    for row in _rows(folder, "en_sense_counts.tsv", ("lemma", "senses")):
        senses = int(row["senses"])
        if senses >= MANY:
            many.add(row["lemma"])
        elif senses <= FEW:
            few.add(row["lemma"])
    return many, few


def _rows(folder: Path, name: str, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    path = next((p for p in (folder / f"{name}.gz", folder / name) if p.exists()), None)
    if path is None:
        raise CorpusError(f"{folder} has no {name} or {name}.gz; give its folder with --words.")
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            if missing := [c for c in columns if c not in (rows.fieldnames or ())]:
                raise ValueError(f"it lacks the columns {', '.join(missing)}")
            yield from rows
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise CorpusError(f"{path} cannot be read: {error}.") from None
