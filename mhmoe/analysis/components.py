"""Findings about what MH-MoE is made of, at equal parameters (its tables 6 and 7).

Square layers stand before and after the experts, tokens are cut between them; each is tried
without the other, and the layers in several depths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from mhmoe.analysis.comparisons import (
    BASE,
    DENSE,
    HEADED,
    SMOE,
    Pair,
    better,
    further,
    hardly_other,
    with_depth,
)
from mhmoe.analysis.verdicts import MHMOE

LAYERED, BARE = with_depth(SMOE, 1), with_depth(HEADED, 0)


@dataclass(frozen=True)
class Step:
    """From one kind to another by one component.

    helps  the claim is that the second predicts better; if not, that hardly anything changes
    """

    key: str
    first: str
    second: str
    helps: bool
    claim: str
    table: str
    theirs: str

    def fits(self, pair: Pair) -> bool:
        if (self.first, self.second) != (pair.first.kind, pair.second.kind):
            return False
        shape = ("losses",) if self.first == DENSE else ("losses", *BASE, "experts", "top_k")
        cut = pair.first.facts["heads"] > 1
        return pair.same(*shape, *(["heads"] if cut else [])) and pair.equal("params_total")


STEPS = (
    Step(
        "layers-dense",
        DENSE,
        with_depth(DENSE, 1),
        False,
        "Square layers by themselves do not change a dense model",
        "table 6",
        "English perplexity 16.40 against 16.23",
    ),
    Step(
        "layers-smoe",
        SMOE,
        LAYERED,
        False,
        "Square layers by themselves do not change SMoE",
        "table 6",
        "English perplexity 14.77 against 14.82",
    ),
    Step(
        "cutting-smoe",
        SMOE,
        BARE,
        True,
        "Cutting tokens helps by itself: MH-MoE without square layers predicts better than SMoE",
        "table 6",
        "English perplexity 13.97 against 14.82",
    ),
    Step(
        "cutting-layers",
        LAYERED,
        HEADED,
        True,
        "Cutting tokens between square layers helps: MH-MoE predicts better than SMoE with them",
        "table 6",
        "English perplexity 12.72 against 14.77",
    ),
    Step(
        "depth-0-1",
        BARE,
        HEADED,
        True,
        "MH-MoE predicts better with its square layers than without",
        "tables 6 and 7",
        "English perplexity 12.72 against 13.97",
    ),
    Step(
        "depth-1-2",
        HEADED,
        with_depth(HEADED, 2),
        False,
        "One square layer on each side is enough: with two hardly anything changes",
        "table 7",
        "English perplexity 12.66 against 12.72",
    ),
    Step(
        "depth-1-3",
        HEADED,
        with_depth(HEADED, 3),
        False,
        "One square layer on each side is enough: with three hardly anything changes",
        "table 7",
        "English perplexity 12.87 against 12.72",
    ),
)


def of(together: Sequence[Pair]) -> Iterator[dict]:
    """All rows of all pairs."""
    for pair, step in product(together, STEPS):
        if step.fits(pair):
            row = (step.key, step.claim, f"{MHMOE}, {step.table}", step.theirs)
            yield better(*row, "below", pair) if step.helps else hardly_other(*row, pair)
    yield from _both(together)


def _both(together: Sequence[Pair]) -> Iterator[dict]:
    """What square layers gain where tokens are cut, less what they gain where they are not."""
    steps = {step.key: step for step in STEPS}
    whole, cut = (
        [pair for pair in together if steps[key].fits(pair)] for key in ("layers-smoe", "depth-0-1")
    )
    beside = {pair.recipes for pair in together if steps["cutting-smoe"].fits(pair)}
    for plain, headed in product(whole, cut):
        if (plain.recipes[0], headed.recipes[0]) in beside:
            yield from further(
                "layers-where-cut",
                "Square layers gain more where tokens are cut than where they are not",
                f"{MHMOE}, table 6",
                "English perplexity 13.97 to 12.72 where cut, 14.82 to 14.77 where not",
                "square layers less none, where tokens are cut less where not",
                plain,
                headed,
            )
