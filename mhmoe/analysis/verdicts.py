"""A verdict on a claim: computed from an interval and a null by one of three rules, never typed.

    above       reproduced if the whole interval lies above the whole null
    below       reproduced if the whole interval lies below the whole null
    negligible  a claim that there is nothing: reproduced if the whole interval lies inside the
                null, here a margin named in the finding

Without an interval or a null it is "not testable here".
"""

from __future__ import annotations

import numpy as np

REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE = "reproduced", "not reproduced", "not testable here"
#: A claim of no effect is believed up to this part of what there could be.
NEGLIGIBLE = 0.01
#: Student's t, two-sided 95%, by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306}

MHMOE, FOLLOW_UP = "2404.15045", "2411.16205"
ST_MOE, MIXTRAL, OLMOE = "2202.08906", "2401.04088", "2409.02060"
X_MOE, SWITCH = "2204.09179", "2101.03961"
V_MOE, SOFT_MOE, LIMOE = "2106.05974", "2308.00951", "2206.02770"

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


# ------------------------------------------------------------------------ pieces


def seen(entry: dict) -> dict:
    """The facts of the held-out text, of the pictures, or of the pictures with captions."""
    return next(entry[data] for data in ("text", "pictures", "pairs") if data in entry)


def is_encoder(entry: dict) -> bool:
    """Of text: it guesses tokens that were hidden from it."""
    return entry["text"].get("hidden", 0) > 0


def active(entry: dict, size: str, threshold: float) -> tuple[float, Span, Span]:
    """Share of experts above ``threshold`` fair shares, its interval, and that of chance."""
    curves = entry["activation"]
    at = int(np.argmin(np.abs(np.subtract(curves["thresholds"], threshold))))
    one = curves[size]
    chance = one["chance"][at]
    return one["curve"][at], (one["low"][at], one["high"][at]), (chance, chance)


def mean(values) -> float:
    return float(np.mean(list(values)))


def mean_span(spans) -> Span:
    """The mean of the lower and of the upper ends: never narrower than the interval of a mean."""
    low, high = np.mean([tuple(span) for span in spans], axis=0)
    return float(low), float(high)
