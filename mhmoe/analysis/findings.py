"""From measured numbers to findings: a claim of a paper, our number, chance, and a verdict.

A verdict is computed from an interval and a null by one of three rules, and never typed:

    above       reproduced if the whole interval lies above the whole null
    below       reproduced if the whole interval lies below the whole null
    negligible  a claim that there is nothing: reproduced if the whole interval lies inside the
                null, here a margin named in the finding

Without an interval or a null it is "not testable here". The numbers come from the models' entries
in the results file (``mhmoe.analysis.results``), so findings are derived anew whenever it changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from mhmoe.analysis import nulls

REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE = "reproduced", "not reproduced", "not testable here"
#: A claim of no effect is believed up to this part of what there could be.
NEGLIGIBLE = 0.01
#: Sizes that differ by less than this are called equal.
EQUAL = 0.06
#: Student's t, two-sided 95%, by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306}

MHMOE, FOLLOW_UP = "2404.15045", "2411.16205"
ST_MOE, MIXTRAL, OLMOE = "2202.08906", "2401.04088", "2409.02060"

Span = tuple[float, float]


def verdict(rule: str, interval: Span | None, null: Span | None) -> str:
    """One of three words. Raises ValueError for an unknown rule."""
    if rule not in ("above", "below", "negligible"):
        raise ValueError(f"rule {rule!r} is none of above, below, negligible")
    if interval is None or null is None:
        return NOT_TESTABLE
    holds = {
        "above": interval[0] > null[1],
        "below": interval[1] < null[0],
        "negligible": null[0] <= interval[0] and interval[1] <= null[1],
    }
    return REPRODUCED if holds[rule] else NOT_REPRODUCED


def finding(
    key: str,
    claim: str,
    paper: str,
    theirs: str,
    rule: str,
    unit: str,
    ours: float | None,
    interval: Span | None,
    null: Span | None,
    entries: dict[str, dict],
) -> dict:
    """One row; ``entries`` are the models that it rests on, by name."""
    return {
        "key": key,
        "models": sorted(entries),
        "claim": claim,
        "paper": paper,
        "theirs": theirs,
        "ours": ours,
        "unit": unit,
        "interval": interval,
        "null": null,
        "rule": rule,
        "verdict": verdict(rule, interval, null),
        "tokens": min(seen(entry)["tokens"] for entry in entries.values()),
        "command": [entries[name]["command"] for name in sorted(entries)],
    }


def seen(entry: dict) -> dict:
    """The facts of the held-out text, or of the pictures."""
    return entry["text"] if "text" in entry else entry["pictures"]


def derive(models: dict[str, dict]) -> list[dict]:
    """All findings of all models, sorted; those of pictures alone are in
    ``mhmoe.analysis.findings_pictures``."""
    rows = [row for name in models for row in _of_one({name: models[name]})]
    rows += _of_pairs(models)
    return sorted(rows, key=order)


def order(row: dict) -> tuple[str, list[str]]:
    """The key by which findings are sorted."""
    return row["key"], row["models"]


# ------------------------------------------------------------------------ one model


def _of_one(one: dict[str, dict]) -> Iterator[dict]:
    (entry,) = one.values()
    if "balance" not in entry:
        return
    sparse = entry["facts"]["heads"] == 1
    yield from ([_unused(one)] if sparse else [_diverse(one)])
    if "coactivation" in entry:
        yield _pairs_up(one)
    if "over_time" in entry:
        yield _saturates(one)
    if "text" in entry:
        yield from _of_text(one)


def _of_text(one: dict[str, dict]) -> Iterator[dict]:
    (entry,) = one.values()
    yield _no_split(one, "language", "Experts of a multilingual model do not split by language")
    yield _no_split(one, "token_class", "Experts of a decoder do not specialise in kinds of tokens")
    if "meanings" in entry:
        yield from _meanings(one)
    if "word_class" in entry:
        yield _no_split(one, "word_class", "Experts of a decoder do not specialise in word classes")
    yield from _repeats(one)
    yield _capacity(one)


def _unused(one: dict[str, dict]) -> dict:
    (entry,) = one.values()
    value, interval, null = active(entry, "sub_tokens", 0.5)
    return finding(
        "unused-experts",
        "A plain sparse MoE leaves most of its experts unused",
        f"{MHMOE}, figure 1a",
        "8.33 % of the experts activated, threshold not given",
        "below",
        "share of experts above half the fair share",
        value,
        interval,
        null,
        one,
    )


def _diverse(one: dict[str, dict]) -> dict:
    (entry,) = one.values()
    rows = [layer["distinct"] for layer in entry["diversity"]]
    return finding(
        "distinct-experts",
        "The sub-tokens of one token go to different experts, more than by chance",
        f"{MHMOE}, figures 1b, 2 and 7",
        "no number",
        "above",
        "distinct experts per token, mean of layers; chance: tokens dealt out anew in each head",
        mean(row["value"] for row in rows),
        mean_span(row["interval"] for row in rows),
        mean_span((row["heads"]["low"], row["heads"]["high"]) for row in rows),
        one,
    )


def _meanings(one: dict[str, dict]) -> Iterator[dict]:
    (entry,) = one.values()
    for name, found in entry["meanings"].items():
        yield finding(
            f"meanings-{name.replace('_', '-')}",
            "Words of two meanings visit more distinct experts than other words as frequent "
            f"({name.replace('_', ' ')})",
            f"{MHMOE}, figure 7",
            "shifted to more experts, no number and no control",
            "above",
            "distinct experts per token more than ordinary words of the same language, length and "
            "frequency, mean of layers; chance: labels dealt out anew among these",
            found and found["excess"],
            found and found["interval"],
            found and (found["test"]["low"], found["test"]["high"]),
            one,
        )


def _no_split(one: dict[str, dict], key: str, claim: str) -> dict:
    (entry,) = one.values()
    most = max(entry[key], key=lambda layer: layer["explained"])
    return finding(
        f"no-split-{key.replace('_', '-')}",
        claim,
        f"{ST_MOE}, tables 13 and 14 and their discussion",
        "experts do not split by language, no number"
        if key == "language"
        else "entropy of routing sentinel tokens in the decoder 3.4 of at most 3.47 nats",
        "negligible",
        "share of the classes' information in a choice, the layer with most, less chance; "
        f"margin {NEGLIGIBLE:g}",
        most["explained"],
        most["explained_interval"],
        (-NEGLIGIBLE, NEGLIGIBLE),
        one,
    )


def _repeats(one: dict[str, dict]) -> Iterator[dict]:
    (entry,) = one.values()
    last = entry["repetition"][-1]["first"]
    for within, claim in (
        ("layer", "Neighbouring tokens share their first expert more often than by chance"),
        ("window", "They do so because they are neighbours, not only because of their text"),
    ):
        yield finding(
            f"repetition-{within}",
            claim + " (last layer)",
            f"{MIXTRAL}, table 5",
            "25.3 % in layer 31 on Wikipedia, chance 12.5 %",
            "above",
            f"share of neighbours; chance: tokens dealt out anew in the {within}",
            last["value"],
            last["interval"],
            (last[within]["low"], last[within]["high"]),
            one,
        )


def _pairs_up(one: dict[str, dict]) -> dict:
    (entry,) = one.values()
    rows = entry["coactivation"]
    limit = 2 * rows[0]["uniform"]
    return finding(
        "coactivation",
        "Experts are seldom chosen together",
        f"{OLMOE}, co-activation",
        "little co-activation, no number",
        "below",
        "share of an expert's sub-tokens that go with its most frequent partner, mean of layers; "
        "limit: twice uniform chance",
        mean(row["strongest"] for row in rows),
        mean_span(row["interval"] for row in rows),
        (limit, limit),
        one,
    )


def _saturates(one: dict[str, dict]) -> dict:
    (entry,) = one.values()
    rows = [layer[0]["saturation"] for layer in entry["over_time"]["layers"]]
    step, steps = entry["over_time"]["layers"][0][0]["step"], entry["over_time"]["steps"]
    return finding(
        "saturation",
        f"Routing settles early: it resembles the end's already at {step / steps:.0%} of training",
        f"{OLMOE}, router saturation",
        "about 60 % at 0.4 % of training, 80 % at 40 %",
        "above",
        "share of experts as at the end, mean of layers; chance: the same demands, dealt out anew",
        mean(row["value"] for row in rows),
        mean_span(row["interval"] for row in rows),
        mean_span((row["demand"], row["demand"]) for row in rows),
        one,
    )


def _capacity(one: dict[str, dict]) -> dict:
    (entry,) = one.values()
    factors = entry["capacity"]["factors"]
    near = min(factors, key=lambda row: abs(row["dropped"] - 0.125))
    plain = entry["quality"]["bits_per_byte"]
    fits = abs(near["dropped"] - 0.125) <= 0.05
    return finding(
        "capacity",
        "Losing 10 to 15 % of the choices to full experts hardly hurts",
        f"{ST_MOE}, fine-tuning with dropped tokens",
        "SuperGLUE 86.5 with 10.6 % dropped, 86.7 with 0.3 %",
        "negligible",
        f"bits per byte more, relative, with {near['dropped']:.1%} dropped (capacity factor "
        f"{near['factor']:g}); margin {NEGLIGIBLE:g}",
        near["rise"] / plain,
        (near["interval"][0] / plain, near["interval"][1] / plain) if fits else None,
        (-NEGLIGIBLE, NEGLIGIBLE),
        one,
    )


# ------------------------------------------------------------------------ two recipes


def _of_pairs(models: dict[str, dict]) -> list[dict]:
    """Every comparison whose two recipes are there with the same seeds and the same text."""
    recipes: dict[str, dict[str, dict]] = {}
    for name, entry in sorted(models.items()):
        if "text" in entry:
            recipes.setdefault(entry["facts"]["recipe"], {})[name] = entry
    rows = []
    for first, second in product(recipes.values(), repeat=2):
        together = [
            (a, b)
            for a, b in product(first, second)
            if first[a]["facts"]["seed"] == second[b]["facts"]["seed"]
            and first[a]["text"] == second[b]["text"]
            and a != b
        ]
        if together:
            entries = first | second
            rows += _of_pair([(entries[a], entries[b]) for a, b in together], together, entries)
    return rows


def _of_pair(
    pairs: list[tuple[dict, dict]], names: list[tuple[str, str]], entries: dict[str, dict]
) -> Iterator[dict]:
    """``pairs`` of entries, one per seed."""
    a, b = (entry["facts"] for entry in pairs[0])
    used = {name: entries[name] for pair in names for name in pair}
    if not a["experts"] and b["experts"] and b["heads"] == 1 and _equal(a, b, "params_active"):
        yield _better(
            "smoe-dense",
            "A sparse MoE predicts better than a dense model with equal active parameters",
            f"{MHMOE}, table 1",
            "multilingual perplexity 7.19 against 8.56",
            pairs,
            used,
        )
    if not (a["experts"] and a["heads"] == 1 and b["heads"] > 1 and _equal(a, b, "params_total")):
        return
    if a["router"] != b["router"]:
        return
    if _equal(a, b, "macs_per_token"):
        yield _better(
            "mhmoe-smoe-flops",
            "MH-MoE predicts better than SMoE at equal parameters and equal multiplications",
            f"{FOLLOW_UP}, table 1",
            "perplexity 10.70 (h = 2), 10.51 (h = 3) against 10.90",
            pairs,
            used,
        )
    elif (a["experts"], a["top_k"]) == (b["experts"], b["top_k"]):
        yield _better(
            "mhmoe-smoe-parameters",
            "MH-MoE predicts better than SMoE at equal experts and equal parameters "
            f"({b['macs_per_token'] / a['macs_per_token']:.2f} times its multiplications)",
            f"{MHMOE}, table 1",
            "multilingual perplexity 6.26 against 7.19 (base X-MoE)",
            pairs,
            used,
        )
        yield from _more_active(pairs, used)


def _better(
    key: str,
    claim: str,
    paper: str,
    theirs: str,
    pairs: list[tuple[dict, dict]],
    used: dict[str, dict],
) -> dict:
    """Bits per byte of the second less those of the first."""
    value, interval, of = difference(pairs)
    return finding(
        key,
        claim,
        paper,
        theirs,
        "below",
        f"difference in bits per byte, second less first; interval over {of}",
        value,
        interval,
        (0.0, 0.0),
        used,
    )


def difference(pairs: list[tuple[dict, dict]]) -> tuple[float, Span, str]:
    """Mean over the seeds of the second's bits per byte less the first's, and its interval: over
    seeds (Student's t) where there are two and more; of one seed over windows, which says nothing
    about other seeds."""
    each = [b["quality"]["bits_per_byte"] - a["quality"]["bits_per_byte"] for a, b in pairs]
    value, n = float(np.mean(each)), len(each)
    if n > 1:
        wide = STUDENT.get(n - 1, 2.262) * float(np.std(each, ddof=1)) / n**0.5
        return value, (value - wide, value + wide), f"{n} seeds"
    (a, b) = (entry["quality"] for entry in pairs[0])
    more = np.subtract(b["window_bits"], a["window_bits"])
    size = np.asarray(a["window_bytes"])
    languages = len(a["languages"])
    group = np.arange(languages).repeat(len(size) // languages)
    draws = nulls.resampled(group)
    return value, nulls.interval(draws @ more / (draws @ size)), "windows of one seed"


def _more_active(pairs: list[tuple[dict, dict]], used: dict[str, dict]) -> Iterator[dict]:
    for size, threshold, claim in (
        ("sub_tokens", 0.5, "MH-MoE activates more of its experts than SMoE"),
        ("tokens", 1.5, "It does so beyond what dividing by tokens gives by counting alone"),
    ):
        values, lows, highs, chance = [], [], [], []
        for a, b in pairs:
            (va, ia, na), (vb, ib, nb) = (active(entry, size, threshold) for entry in (a, b))
            values.append(vb - va)
            lows.append(ib[0] - ia[1])
            highs.append(ib[1] - ia[0])
            chance.append(nb[0] - na[0])
        yield finding(
            f"activation-{size.replace('_', '-')}",
            claim,
            f"{MHMOE}, figure 1a",
            "90.71 % against 8.33 %, threshold and denominator not given",
            "above",
            f"difference in the share of experts above {threshold:g} fair shares, selections "
            f"divided by {size.replace('_', '-')}; chance: uniform routing",
            mean(values),
            (mean(lows), mean(highs)),
            (mean(chance), mean(chance)),
            used,
        )


# ------------------------------------------------------------------------ pieces


def active(entry: dict, size: str, threshold: float) -> tuple[float, Span, Span]:
    """Share of experts above ``threshold`` fair shares, its interval, and that of chance."""
    curves = entry["activation"]
    at = int(np.argmin(np.abs(np.subtract(curves["thresholds"], threshold))))
    one = curves[size]
    chance = one["chance"][at]
    return one["curve"][at], (one["low"][at], one["high"][at]), (chance, chance)


def _equal(a: dict, b: dict, size: str) -> bool:
    return abs(a[size] / b[size] - 1) < EQUAL


def mean(values) -> float:
    return float(np.mean(list(values)))


def mean_span(spans) -> Span:
    """The mean of the lower and of the upper ends: never narrower than the interval of a mean."""
    low, high = np.mean([tuple(span) for span in spans], axis=0)
    return float(low), float(high)
