"""Findings across image models: who guesses hidden patches, and whole pictures' classes, better at
which equal budget, and whose vectors tell more of objects. Recipes, seeds and intervals are those
of ``mhmoe.analysis.comparisons``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mhmoe.analysis import nulls
from mhmoe.analysis.comparisons import (
    BASE,
    BOTH,
    DENSE,
    HEADED,
    SMOE,
    SOFT,
    Better,
    Pair,
    over_seeds,
    probed,
)
from mhmoe.analysis.verdicts import FOLLOW_UP, MHMOE, SOFT_MOE, Span, finding

BETTER = (
    Better(
        "smoe-dense",
        DENSE,
        SMOE,
        ("params_active",),
        "A sparse MoE does better on pictures than a dense model with equal active parameters",
        f"{MHMOE}, table 1",
        "perplexity of masked pictures and text 16.34 against 17.95",
    ),
    Better(
        "soft-smoe",
        SMOE,
        SOFT,
        ("params_total",),
        "Soft MoE does better on pictures than experts chosen by patches, at equal parameters",
        f"{SOFT_MOE}, abstract",
        "outperforms token choice by far, no number here",
    ),
    Better(
        "mhmoe-smoe-flops",
        SMOE,
        HEADED,
        BOTH,
        "MH-MoE does better on pictures than SMoE at equal parameters and multiplications",
        f"{FOLLOW_UP}, table 1",
        "text alone: perplexity 10.70 (h = 2), 10.51 (h = 3) against 10.90",
    ),
    Better(
        "mhmoe-smoe-parameters",
        SMOE,
        HEADED,
        ("params_total",),
        "MH-MoE does better on pictures than SMoE at equal experts and equal parameters",
        f"{MHMOE}, table 1",
        "perplexity of masked pictures and text 14.73 against 16.34 (base X-MoE)",
        dearer=True,
    ),
)

#: What probes are asked of objects; not where they lie: that is given to every model.
ATTRIBUTES = {
    "shape": "shapes of objects",
    "texture": "textures of objects",
    "colour": "colours of objects",
}


@dataclass(frozen=True)
class Number:
    """What a model is better by: sums over pictures of ``part`` by those of ``whole``."""

    name: str
    rule: str
    unit: str
    part: str
    whole: str | None


NUMBERS = (
    Number(
        "error", "below", "relative error of hidden patches", "picture_error", "picture_baseline"
    ),
    Number("accuracy", "above", "accuracy of the class", "picture_correct", None),
)


def of_kinds(
    pair: Pair, claims: Sequence[Better] = BETTER, numbers: Sequence[Number] = NUMBERS
) -> Iterator[dict]:
    """The rows of two kinds of models at equal sizes. Losses of the routers are the same where both
    have such losses."""
    kinds = (pair.first.kind, pair.second.kind)
    if SOFT not in kinds and not pair.same("losses"):
        return
    if not {DENSE, SOFT} & set(kinds) and not pair.same(*BASE):
        return
    for claim in filter(lambda claim: claim.fits(pair), claims):
        for number in numbers:
            if all(number.part in entry["quality"] for two in pair.entries for entry in two):
                yield _better(claim, number, pair)
        if claim.second == HEADED:
            yield from probed(
                pair,
                f"{claim.key}-probe",
                "MH-MoE",
                f"{MHMOE}, table 4",
                "VQA test-dev 70.1 against 68.4, NLVR2 dev 77.0 against 75.5 (base X-MoE); neither "
                "can be run here",
                ATTRIBUTES,
            )


def _better(claim: Better, number: Number, pair: Pair) -> dict:
    each = [difference(number, a, b) for a, b in pair.entries]
    value, interval, of = over_seeds(each, "pictures")
    more = pair.second.facts["macs_per_token"] / pair.first.facts["macs_per_token"]
    return finding(
        f"{claim.key}-{number.name}",
        claim.claim,
        claim.paper,
        claim.theirs,
        number.rule,
        f"difference in the {number.unit}, second less first, at {more:.2f} times the "
        f"multiplications; interval over {of}",
        value,
        interval,
        (0.0, 0.0),
        pair.used,
    )


def difference(number: Number, first: dict, second: dict) -> tuple[float, Span]:
    """Second less first, and its interval over the pictures, drawn again for both alike."""
    a, b = (np.asarray(entry["quality"][number.part], float) for entry in (first, second))
    whole = np.ones(len(a)) if number.whole is None else first["quality"][number.whole]
    draws = nulls.resampled(np.zeros(len(a)))
    value = float((b - a).sum() / np.sum(whole))
    return value, nulls.interval(draws @ (b - a) / (draws @ whole))
