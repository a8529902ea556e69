"""Words of two meanings against ordinary words as frequent and as long (MH-MoE, figure 7).

The paper shows that polysemous words and false cognates visit more distinct experts than other
words. Frequent words are short and polysemous, so each is compared only with words of its own
stratum: the same language, the same number of tokens, and about the same frequency in the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mhmoe.analysis import nulls

Spans = Iterable[tuple[int, str, Sequence[int]]]


@dataclass(frozen=True)
class Types:
    """W different words. form, language (index); count [W] occurrences, pieces [W] tokens each,
    value [W] mean over all tokens of all occurrences."""

    form: tuple[str, ...]
    language: np.ndarray
    count: np.ndarray
    pieces: np.ndarray
    value: np.ndarray

    @property
    def stratum(self) -> np.ndarray:
        """[W] one number per language, number of tokens (3 and more alike) and power of two of the
        occurrences."""
        bins = np.floor(np.log2(self.count)).astype(int)
        return (self.language * 3 + np.minimum(self.pieces, 3) - 1) * 64 + bins


def types(occurrences: Spans, value_R: np.ndarray) -> Types:
    """occurrences: language, form and the indices of the word's tokens into ``value_R``."""
    seen: dict[tuple[int, str], list[Sequence[int]]] = {}
    for language, form, at in occurrences:
        seen.setdefault((language, form), []).append(at)
    keys = sorted(seen)
    return Types(
        form=tuple(form for _, form in keys),
        language=np.array([language for language, _ in keys]),
        count=np.array([len(seen[key]) for key in keys]),
        pieces=np.array([min(len(at) for at in seen[key]) for key in keys]),
        value=np.array([value_R[np.concatenate(seen[key])].mean() for key in keys]),
    )


def excess(value_W: np.ndarray, special_W: np.ndarray, stratum_W: np.ndarray) -> np.ndarray:
    """Of each special word, how much it lies above the ordinary words of its stratum, mean. Every
    stratum must have both kinds."""
    _, of = np.unique(stratum_W, return_inverse=True)
    ordinary = np.bincount(of, value_W * ~special_W) / np.bincount(of, ~special_W)
    return (value_W - ordinary[of])[special_W]


def compared(
    found: Types, special_W: np.ndarray, draws: int = 500, seed: int = 0
) -> dict[str, object] | None:
    """The mean excess, its interval (special words drawn again) and its null (the labels dealt out
    anew within each stratum). None where no stratum has both kinds."""
    stratum = found.stratum
    both = np.isin(stratum, stratum[special_W]) & np.isin(stratum, stratum[~special_W])
    if not both.any():
        return None
    value, special, stratum = found.value[both], special_W[both], stratum[both]
    mine = excess(value, special, stratum)
    rng = np.random.default_rng(seed)
    base, chance = np.argsort(stratum, kind="stable"), []
    for _ in range(draws):
        dealt = np.empty_like(special)
        dealt[base] = special[np.lexsort((rng.random(len(stratum)), stratum))]
        chance.append(excess(value, dealt, stratum).mean())
    again = rng.choice(mine, (draws, len(mine))).mean(1)
    test = nulls.against(mine.mean(), np.array(chance)).to_dict()
    return {
        "excess": test.pop("observed"),
        "interval": nulls.interval(again),
        "test": test,
        "special": int(special.sum()),
        "ordinary": int((~special).sum()),
    }


def compared_kinds(found: Types, kind_W: np.ndarray) -> dict[str, object] | None:
    """``compared`` of the words of kind 1 with those of kind 0; the others are left out."""
    take = kind_W >= 0
    part = Types(
        form=tuple(np.array(found.form)[take]),
        language=found.language[take],
        count=found.count[take],
        pieces=found.pieces[take],
        value=found.value[take],
    )
    return compared(part, kind_W[take] == 1)
