"""Findings about one thing that is varied: the heads, the number of experts, the balance loss.

Rows are of two recipes that differ in this one thing (``mhmoe.analysis.comparisons``), and of the
two ends of a sweep in both kinds of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from mhmoe.analysis.comparisons import (
    BASE,
    HEADED,
    SMOE,
    Pair,
    apart,
    better,
    further,
    hardly_other,
    over_seeds,
)
from mhmoe.analysis.verdicts import MHMOE, SWITCH, Span, finding, mean, mean_span

#: MH-MoE's table 5: from so many heads to so many, what follows, and the perplexities.
HEADS = {
    (2, 4): ("below", "better", "12.72 against 12.87"),
    (4, 8): ("above", "worse", "12.95 against 12.72"),
}
#: What makes the shape of a sparse model, besides its sizing.
SHAPE = (*BASE, "projections", "experts", "top_k", "heads", "d_ff")


def of(together: Sequence[Pair]) -> Iterator[dict]:
    """All rows of all pairs."""
    for pair in together:
        if pair.same(*BASE):
            yield from _heads(pair)
            yield from _experts(pair)
            yield from _balance(pair)
    yield from _widening(together)


def _heads(pair: Pair) -> Iterator[dict]:
    """Table 5: between too few heads and too many."""
    heads = (pair.first.facts["heads"], pair.second.facts["heads"])
    if heads not in HEADS or not pair.same("losses", "experts", "top_k"):
        return
    if pair.first.kind == pair.second.kind == HEADED and pair.equal("params_total"):
        rule, word, theirs = HEADS[heads]
        yield better(
            f"heads-{heads[0]}-{heads[1]}",
            f"MH-MoE with {heads[1]} heads predicts {word} than with {heads[0]}, at equal "
            "experts and parameters",
            f"{MHMOE}, table 5",
            f"English perplexity {theirs}",
            rule,
            pair,
        )


def _experts(pair: Pair) -> Iterator[dict]:
    """Figure 6a: more experts, same model around them."""
    if not _more_experts(pair):
        return
    few, many = pair.first.facts["experts"], pair.second.facts["experts"]
    if many == 2 * few:
        name = "MH-MoE" if pair.first.kind == HEADED else "plain SMoE"
        yield better(
            f"experts-{pair.first.kind}-{few}-{many}",
            f"{name} with {many} experts predicts better than with {few}",
            f"{MHMOE}, figure 6a",
            "training perplexity falls from 8 to 256 experts, a curve",
            "below",
            pair,
        )


def _more_experts(pair: Pair) -> bool:
    """Of the same kind, with more experts of about the same width: other parameters, same cost."""
    return (
        pair.first.kind == pair.second.kind
        and pair.first.kind in (SMOE, HEADED)
        and pair.same(*BASE, "losses", "top_k", "heads")
        and pair.first.facts["experts"] < pair.second.facts["experts"]
        and not pair.equal("params_total")
    )


def _widening(together: Sequence[Pair]) -> Iterator[dict]:
    """Figure 6a: the lead of MH-MoE over SMoE, at the most experts and at the fewest."""
    grown = [pair for pair in together if _more_experts(pair)]
    beside = {
        pair.recipes
        for pair in together
        if (pair.first.kind, pair.second.kind) == (SMOE, HEADED)
        and pair.same(*BASE, "losses", "experts", "top_k")
        and pair.equal("params_total")
    }
    found = [
        (plain, headed)
        for plain, headed in product(grown, repeat=2)
        if set(zip(plain.recipes, headed.recipes, strict=True)) <= beside
    ]
    if found:
        yield from _wider(*max(found, key=lambda two: _growth(two[0])))


def _growth(pair: Pair) -> float:
    return pair.second.facts["experts"] / pair.first.facts["experts"]


def _wider(plain: Pair, headed: Pair) -> Iterator[dict]:
    few, many = plain.first.facts["experts"], plain.second.facts["experts"]
    return further(
        "experts-gap",
        f"The lead of MH-MoE over SMoE grows with the number of experts (from {few} to {many})",
        f"{MHMOE}, figure 6a",
        "the gap widens from 8 to 256 experts, a curve",
        "MH-MoE less SMoE, at the most experts less at the fewest",
        plain,
        headed,
    )


# ------------------------------------------------------------------------ balance


def _balance(pair: Pair) -> Iterator[dict]:
    """alpha of the balance loss, against none."""
    a, b = (recipe.facts.get("losses") for recipe in (pair.first, pair.second))
    if not a or any(a.values()) or not b["balance"] or not pair.same(*SHAPE):
        return
    if any(weight for name, weight in b.items() if name != "balance"):
        return
    alpha = b["balance"]
    yield _evens(pair, alpha)
    yield hardly_other(
        f"alpha-{alpha:g}-quality",
        f"A balance loss of weight {alpha:g} does not hurt the prediction",
        f"{SWITCH}, equation 4",
        "0.01 is small enough not to overwhelm the task, no number",
        pair,
    )


def _evens(pair: Pair, alpha: float) -> dict:
    def unevenness(entry: dict) -> tuple[float, Span]:
        rows = [layer["cv"] for layer in entry["balance"]]
        return mean(row["value"] for row in rows), mean_span(row["interval"] for row in rows)

    value, interval, of = over_seeds([apart(*map(unevenness, two)) for two in pair.entries])
    return finding(
        f"alpha-{alpha:g}-balance",
        f"A balance loss of weight {alpha:g} evens the demand for the experts",
        f"{SWITCH}, equation 4",
        "a weight of 0.01 balances quickly, no number",
        "below",
        "difference in the CV of demand, with the loss less without, mean of layers; interval "
        f"over {of}",
        value,
        interval,
        (0.0, 0.0),
        pair.used,
    )
