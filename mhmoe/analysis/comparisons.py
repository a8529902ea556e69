"""Findings across models: who predicts better at which equal budget, and what a sweep shows.

Two recipes are compared seed by seed: the same seed, the same held-out text, the same base router,
gates and losses unless these are the question. Over two seeds and more the interval is Student's t
of the differences; of one seed it is that of its windows, which says nothing about other seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from mhmoe.analysis import nulls
from mhmoe.analysis.verdicts import (
    FOLLOW_UP,
    MHMOE,
    NEGLIGIBLE,
    STUDENT,
    X_MOE,
    Span,
    active,
    finding,
    mean,
    mean_span,
    seen,
)

#: Sizes that differ by less than this are called equal.
EQUAL = 0.06
#: What two sparse recipes have in common unless it is what they are compared for.
BASE = ("router", "gate", "score", "shared")
BOTH = ("params_total", "macs_per_token")

DENSE, SMOE, FINE, XMOE, HEADED, SOFT = "dense", "smoe", "fine", "xmoe", "mhmoe", "soft"


@dataclass(frozen=True)
class Recipe:
    """The finished runs of one recipe: their entries by name, and what all of them are."""

    entries: dict[str, dict]
    facts: dict
    kind: str


@dataclass(frozen=True)
class Pair:
    """Two recipes, with one pair of entries for every seed that both have."""

    first: Recipe
    second: Recipe
    names: tuple[tuple[str, str], ...]

    @property
    def recipes(self) -> tuple[str, str]:
        return self.first.facts["recipe"], self.second.facts["recipe"]

    @property
    def entries(self) -> list[tuple[dict, dict]]:
        return [(self.first.entries[a], self.second.entries[b]) for a, b in self.names]

    @property
    def used(self) -> dict[str, dict]:
        every = self.first.entries | self.second.entries
        return {name: every[name] for names in self.names for name in names}

    @property
    def languages(self) -> tuple[str, ...]:
        """Of the text on which both were measured."""
        first, _ = self.entries[0]
        return tuple(seen(first).get("languages", ()))

    def equal(self, *sizes: str) -> bool:
        a, b = self.first.facts, self.second.facts
        return all(abs(a[size] / b[size] - 1) < EQUAL for size in sizes)

    def same(self, *names: str) -> bool:
        a, b = self.first.facts, self.second.facts
        return all(a.get(name) == b.get(name) for name in names)


@dataclass(frozen=True)
class Better:
    """A claim that the second kind predicts better than the first at these equal sizes.

    dearer   MH-MoE's first sizing: as many experts and choices, more multiplications
    english  the paper's numbers of English, where those of ``theirs`` are of several languages
    """

    key: str
    first: str
    second: str
    equal: tuple[str, ...]
    claim: str
    paper: str
    theirs: str
    dearer: bool = False
    english: str = ""

    def fits(self, pair: Pair) -> bool:
        if (self.first, self.second) != (pair.first.kind, pair.second.kind):
            return False
        if self.dearer and (not pair.same("experts", "top_k") or pair.equal("macs_per_token")):
            return False
        return pair.equal(*self.equal)

    def told_of(self, pair: Pair) -> Better:
        """As it is to be read of a pair: of models that know English alone in its own words."""
        if pair.languages != ("en",):
            return self
        return replace(
            self,
            key=f"{self.key}-english",
            claim=f"{self.claim} (English alone)",
            theirs=self.english or self.theirs,
        )


#: What probes are asked of text, and what papers have in their place.
TASKS = {"language": "languages", "word_class": "word classes"}
AVERAGES = "averages of tasks, some points higher; none of them can be run here"

BETTER = (
    Better(
        "smoe-dense",
        DENSE,
        SMOE,
        ("params_active",),
        "A sparse MoE predicts better than a dense model with equal active parameters",
        f"{MHMOE}, table 1",
        "multilingual perplexity 7.19 against 8.56",
        english="English perplexity 14.82 against 16.23 (X-MoE)",
    ),
    Better(
        "mhmoe-dense",
        DENSE,
        HEADED,
        ("params_active", "macs_per_token"),
        "MH-MoE predicts better than a dense model with equal active parameters and "
        "multiplications",
        f"{FOLLOW_UP}, table 1",
        "perplexity 10.70 (h = 2), 10.51 (h = 3) against 12.13",
    ),
    Better(
        "fine-smoe",
        SMOE,
        FINE,
        BOTH,
        "More, narrower experts predict better at equal parameters and multiplications",
        f"{FOLLOW_UP}, table 1",
        "perplexity 10.74 against 10.90",
    ),
    Better(
        "xmoe-smoe",
        SMOE,
        XMOE,
        BOTH,
        "X-MoE's routing predicts better than plain SMoE at equal parameters",
        f"{X_MOE}, language modelling",
        "masked-text perplexity 18.72 against 19.02",
    ),
    Better(
        "mhmoe-smoe-flops",
        SMOE,
        HEADED,
        BOTH,
        "MH-MoE predicts better than SMoE at equal parameters and equal multiplications",
        f"{FOLLOW_UP}, table 1",
        "perplexity 10.70 (h = 2), 10.51 (h = 3) against 10.90",
    ),
    Better(
        "mhmoe-fine-flops",
        FINE,
        HEADED,
        BOTH,
        "MH-MoE predicts better than fine-grained SMoE at equal parameters and multiplications",
        f"{FOLLOW_UP}, table 1",
        "perplexity 10.70 (h = 2), 10.51 (h = 3) against 10.74",
    ),
    Better(
        "mhmoe-smoe-parameters",
        SMOE,
        HEADED,
        ("params_total",),
        "MH-MoE predicts better than SMoE at equal experts and equal parameters",
        f"{MHMOE}, table 1",
        "multilingual perplexity 6.26 against 7.19 (base X-MoE)",
        dearer=True,
        english="English perplexity 12.72 against 14.82 (base X-MoE)",
    ),
    Better(
        "mhmoe-xmoe-parameters",
        XMOE,
        HEADED,
        ("params_total",),
        "MH-MoE predicts better than X-MoE at equal experts and equal parameters (its own base "
        "router is plain)",
        f"{MHMOE}, table 1",
        "multilingual perplexity 6.26 against 7.19 (base X-MoE)",
        dearer=True,
        english="English perplexity 12.72 against 14.82 (base X-MoE)",
    ),
)


def recipes(models: dict[str, dict], data: str = "text") -> list[Recipe]:
    """Of the models that were measured on "text", on "pictures" or on "pairs" of both."""
    runs: dict[str, dict[str, dict]] = {}
    for name, entry in sorted(models.items()):
        if data in entry:
            runs.setdefault(entry["facts"]["recipe"], {})[name] = entry
    facts = [next(iter(entries.values()))["facts"] for entries in runs.values()]
    return [
        Recipe(entries, own, _kind(own, facts))
        for entries, own in zip(runs.values(), facts, strict=True)
    ]


def _kind(own: dict, every: Sequence[dict]) -> str:
    """With square layers of another depth than is usual it is a kind of its own, ``with_depth``."""
    depth = square_layers(own)
    plain = _usual_kind(own, every)
    return plain if depth == (own["heads"] > 1) else with_depth(plain, depth)


def with_depth(kind: str, depth: int) -> str:
    """A kind whose square layers are so deep (MH-MoE's n), where that is not usual: one where
    tokens are cut, none elsewhere."""
    return f"{kind}-n{depth}"


def square_layers(own: dict) -> int:
    """Their depth; what was measured before it was written down has the usual one."""
    return own.get("projections", int(own["heads"] > 1))


def _usual_kind(own: dict, every: Sequence[dict]) -> str:
    """A single expert leaves nothing to choose: that is a dense layer. Fine-grained is what has
    another recipe's experts cut into parts, as many of which are chosen as make up the same
    width."""
    if own["heads"] > 1:
        return HEADED
    if own["experts"] <= 1:
        return DENSE
    if own["router"].startswith("soft-moe"):
        return SOFT
    if own["router"].startswith("x-moe"):
        return XMOE
    cut = any(
        1 < other["experts"] < own["experts"]
        and other["heads"] == 1
        and square_layers(other) == square_layers(own)
        and all(other.get(name) == own.get(name) for name in BASE)
        and other["experts"] * other["d_ff"] == own["experts"] * own["d_ff"]
        and other["top_k"] * other["d_ff"] == own["top_k"] * own["d_ff"]
        for other in every
    )
    return FINE if cut else SMOE


def same_question(first: dict, second: dict) -> bool:
    """The same held-out data, of which the same was hidden."""
    return seen(first) == seen(second)


def pairs(
    found: Sequence[Recipe], meet: Callable[[dict, dict], bool] = same_question
) -> Iterator[Pair]:
    """Every ordered pair of recipes that have a seed in common whose entries ``meet``; of several
    entries of one recipe and seed (a run, and the checkpoint made of it) the first by name."""
    for first, second in product(found, repeat=2):
        by_seed = {}
        for a, b in product(first.entries, second.entries):
            one, two = first.entries[a], second.entries[b]
            seed = one["facts"]["seed"]
            if seed == two["facts"]["seed"] and meet(one, two):
                by_seed.setdefault(seed, (a, b))
        if first is not second and by_seed:
            yield Pair(first, second, tuple(by_seed.values()))


# ------------------------------------------------------------------------ kinds of models


def of_kinds(pair: Pair) -> Iterator[dict]:
    """The rows of two kinds of models at equal sizes."""
    kinds = (pair.first.kind, pair.second.kind)
    base = [name for name in BASE if name != "router" or XMOE not in kinds]
    if not pair.same("losses") or (DENSE not in kinds and not pair.same(*base)):
        return
    # What is asked by key is a matter of several languages: figure 1a is of XNLI, X-MoE of 94.
    for claim in (claim.told_of(pair) for claim in BETTER if claim.fits(pair)):
        yield better(claim.key, claim.claim, claim.paper, claim.theirs, "below", pair)
        if claim.key == "mhmoe-smoe-parameters" and _have("activation", pair):
            yield from _more_active(pair)
        if claim.second == HEADED and claim.first in (SMOE, XMOE):
            paper = f"{MHMOE}, tables 2 and 3"
            yield from probed(pair, f"{claim.key}-probe", "MH-MoE", paper, AVERAGES, TASKS)
        if claim.key == "xmoe-smoe":
            paper = f"{X_MOE}, XTREME"
            yield from probed(pair, "xmoe-smoe-probe", "X-MoE", paper, AVERAGES, TASKS)
            yield from _of_x_moe(pair)


def better(key: str, claim: str, paper: str, theirs: str, rule: str, pair: Pair) -> dict:
    """Bits per byte of the second less those of the first."""
    value, interval, of = over_seeds([bits([(1, b), (-1, a)]) for a, b in pair.entries])
    more = pair.second.facts["macs_per_token"] / pair.first.facts["macs_per_token"]
    return finding(
        key,
        claim,
        paper,
        theirs,
        rule,
        f"difference in bits per byte, second less first, at {more:.2f} times the "
        f"multiplications; interval over {of}",
        value,
        interval,
        (0.0, 0.0),
        pair.used,
    )


def _have(part: str, pair: Pair) -> bool:
    return all(part in entry for two in pair.entries for entry in two)


def hardly_other(key: str, claim: str, paper: str, theirs: str, pair: Pair) -> dict:
    """A claim that nothing changes: bits per byte of the second less those of the first, relative
    to these."""
    before = mean(first["quality"]["bits_per_byte"] for first, _ in pair.entries)
    value, (low, high), of = over_seeds([bits([(1, b), (-1, a)]) for a, b in pair.entries])
    return finding(
        key,
        claim,
        paper,
        theirs,
        "negligible",
        "relative difference in bits per byte, second less first; margin "
        f"{NEGLIGIBLE:g}; interval over {of}",
        value / before,
        (low / before, high / before),
        (-NEGLIGIBLE, NEGLIGIBLE),
        pair.used,
    )


def further(
    key: str, claim: str, paper: str, theirs: str, step: str, first: Pair, second: Pair
) -> Iterator[dict]:
    """A claim that a ``step`` gains more in the second pair than in the first, which differ in one
    thing more; nothing where the four models have no seed in common."""
    each = [
        bits([(1, d), (-1, c), (-1, b), (1, a)])
        for (a, b), (c, d) in product(first.entries, second.entries)
        if a["facts"]["seed"] == c["facts"]["seed"] and same_question(a, c)
    ]
    if not each:
        return
    value, interval, of = over_seeds(each)
    yield finding(
        key,
        claim,
        paper,
        theirs,
        "below",
        f"difference of differences in bits per byte, {step}; interval over {of}",
        value,
        interval,
        (0.0, 0.0),
        first.used | second.used,
    )


def _more_active(pair: Pair) -> Iterator[dict]:
    for size, threshold, claim in (
        ("sub_tokens", 0.5, "MH-MoE activates more of its experts than SMoE"),
        ("tokens", 1.5, "It does so beyond what dividing by tokens gives by counting alone"),
    ):
        shares = [[active(entry, size, threshold) for entry in two] for two in pair.entries]
        value, interval, of = over_seeds([apart(a[:2], b[:2]) for a, b in shares])
        chance = mean(b[2][0] - a[2][0] for a, b in shares)
        yield finding(
            f"activation-{size.replace('_', '-')}",
            claim,
            f"{MHMOE}, figure 1a",
            "90.71 % against 8.33 %, threshold and denominator not given",
            "above",
            f"difference in the share of experts above {threshold:g} fair shares, selections "
            f"divided by {size.replace('_', '-')}; chance: uniform routing; interval over {of}",
            value,
            interval,
            (chance, chance),
            pair.used,
        )


def probed(
    pair: Pair, key: str, name: str, paper: str, theirs: str, tasks: Mapping[str, str]
) -> Iterator[dict]:
    """A linear probe in place of the tasks on which papers fine-tune or prompt; ``tasks``: their
    names in the entries, and in words."""
    if not _have("probes", pair):
        return
    for task, what in tasks.items():
        if not all(task in entry["probes"] for two in pair.entries for entry in two):
            continue
        each = [_more_right(task, *two) for two in pair.entries]
        value, interval, of = over_seeds(each, f"{_units(pair.entries[0][0])[0]}s")
        yield finding(
            f"{key}-{task.replace('_', '-')}",
            f"What {name} learns serves other tasks better ({what}, linear probe)",
            paper,
            theirs,
            "above",
            f"difference in the probe's accuracy, second less first; interval over {of}",
            value,
            interval,
            (0.0, 0.0),
            pair.used,
        )


def _units(entry: dict) -> tuple[str, str]:
    """What is drawn again, and what is right or wrong in it, as ``mhmoe.training.probes`` calls
    them."""
    return ("window", "tokens") if "text" in entry else ("picture", "objects")


def _more_right(task: str, first: dict, second: dict) -> tuple[float, Span]:
    """Of one seed: the probes were asked about the same tokens, or objects."""
    a, b = (entry["probes"][task] for entry in (first, second))
    whole, parts = _units(first)
    more = np.subtract(b[f"{whole}_correct"], a[f"{whole}_correct"])
    groups = len(first["quality"]["languages"]) if "text" in first else 1
    value = b["accuracy"]["value"] - a["accuracy"]["value"]
    return value, _over_windows(more, a[f"{whole}_{parts}"], groups)


# ------------------------------------------------------------------------ X-MoE's own claims


def _of_x_moe(pair: Pair) -> Iterator[dict]:
    if all(has_rc(entry) for two in pair.entries for entry in two):
        yield from _collapses(pair)
    if _have("over_time", pair):
        times = {tuple(entry["over_time"]["at"]) for two in pair.entries for entry in two}
        if len(times) == 1:
            yield _fluctuates(pair)
    if _have("other_seeds", pair):
        yield _consistent(pair)


def _collapses(pair: Pair) -> Iterator[dict]:
    for key, claim, unit, logarithm in (
        (
            "xmoe-smoe-collapse",
            "The representations of a plain SMoE collapse around its experts more than X-MoE's",
            "logarithm of X-MoE's RC over SMoE's, mean of layers (lower RC: more collapsed)",
            log_rc,
        ),
        (
            "xmoe-smoe-collapse-training",
            "They do so because they are trained: X-MoE's RC falls less from its untrained value",
            "the same of RC over that of the untrained model",
            log_fall,
        ),
    ):
        value, interval, of = over_seeds([apart(*map(logarithm, two)) for two in pair.entries])
        yield finding(
            key,
            claim,
            f"{X_MOE}, RC metric",
            "RC lower for plain SMoE, a curve",
            "above",
            f"{unit}; interval over {of}",
            value,
            interval,
            (0.0, 0.0),
            pair.used,
        )


def has_rc(entry: dict) -> bool:
    """False where all tokens of a layer have one expert, so that no experts lie apart."""
    layers = entry.get("collapse", [])
    rows = [one for layer in layers for one in (layer, layer["untrained"])]
    return bool(rows) and all(None not in (row["value"], *row["interval"]) for row in rows)


def log_rc(entry: dict, of: Callable[[dict], dict] = lambda layer: layer) -> tuple[float, Span]:
    """Logarithm of a number of each layer's RC, mean of layers."""
    rows = [_of(of(layer)) for layer in entry["collapse"]]
    return mean(np.log(v) for v, _ in rows), mean_span(np.log(span) for _, span in rows)


def log_fall(entry: dict) -> tuple[float, Span]:
    """Logarithm of RC over that of the untrained model, mean of layers: below 0 it has fallen."""
    return apart(log_rc(entry, lambda layer: layer["untrained"]), log_rc(entry))


def _fluctuates(pair: Pair) -> dict:
    def changed(entry: dict) -> tuple[float, Span]:
        layers = entry["over_time"]["layers"]
        rows = [_of(time["changed_next"]) for layer in layers for time in layer]
        return mean(v for v, _ in rows), mean_span(span for _, span in rows)

    value, interval, of = over_seeds([apart(*map(changed, two)) for two in pair.entries])
    return finding(
        "xmoe-smoe-fluctuation",
        "X-MoE's routing fluctuates less while it is trained",
        f"{X_MOE}, routing fluctuation",
        "lower, a curve",
        "below",
        "difference in the share of sub-tokens with another first choice at the next snapshot, "
        f"second less first, mean of snapshots and layers; interval over {of}",
        value,
        interval,
        (0.0, 0.0),
        pair.used,
    )


def _consistent(pair: Pair) -> dict:
    """Of three seeds every run is in two of the pairs, so these are no independent draws: the
    interval is that of the windows."""

    def alike(entry: dict) -> tuple[float, Span]:
        rows = [_of(layer) for layers in entry["other_seeds"]["runs"].values() for layer in layers]
        return mean(v for v, _ in rows), mean_span(span for _, span in rows)

    each = [apart(*map(alike, two)) for two in pair.entries]
    return finding(
        "xmoe-smoe-consistency",
        "Runs of X-MoE with other seeds divide the text more alike than runs of plain SMoE",
        f"{X_MOE}, inter-run consistency",
        "correlation of the experts' loads, higher, a figure",
        "above",
        "difference in the correlation of matched experts' choices, second less first, mean of "
        "layers and pairs of seeds; interval over windows",
        mean(v for v, _ in each),
        mean_span(span for _, span in each),
        (0.0, 0.0),
        pair.used,
    )


# ------------------------------------------------------------------------ intervals


def bits(signed: Sequence[tuple[int, dict]]) -> tuple[float, Span]:
    """The sum of +1 or -1 times the bits per byte of entries on the same text, and its interval
    over the windows, drawn again within their language for all entries alike."""
    every = [(sign, entry["quality"]) for sign, entry in signed]
    first = every[0][1]
    more = sum(sign * np.asarray(q["window_bits"]) for sign, q in every)
    value = sum(sign * q["bits_per_byte"] for sign, q in every)
    return value, _over_windows(more, first["window_bytes"], len(first["languages"]))


def _over_windows(more: np.ndarray, size: Sequence[float], languages: int) -> Span:
    """Interval of sum / sum over windows drawn again within their language."""
    group = np.arange(languages).repeat(len(size) // languages)
    draws = nulls.resampled(group)
    return nulls.interval(draws @ more / (draws @ np.asarray(size)))


def apart(first: tuple[float, Span], second: tuple[float, Span]) -> tuple[float, Span]:
    """Second less first, with an interval that is never narrower than that of the difference."""
    (a, (low_a, high_a)), (b, (low_b, high_b)) = first, second
    return b - a, (low_b - high_a, high_b - low_a)


def over_seeds(
    each: Sequence[tuple[float, Span]], unit: str = "windows"
) -> tuple[float, Span, str]:
    """The mean of one number and interval per seed: over seeds (Student's t) where there are two
    and more; of one seed its own interval over windows, or other units, which says nothing about
    other seeds."""
    values = [value for value, _ in each]
    value, n = float(np.mean(values)), len(values)
    if n == 1:
        return value, each[0][1], f"{unit} of one seed"
    wide = STUDENT.get(n - 1, STUDENT[8]) * float(np.std(values, ddof=1)) / n**0.5
    return value, (value - wide, value + wide), f"{n} seeds"


def _of(row: dict) -> tuple[float, Span]:
    return row["value"], tuple(row["interval"])
