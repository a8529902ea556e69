"""What a picture model loses when its experts have few places, by who is served first.

V-MoE (Riquelme et al. 2021, arXiv 2106.05974, section 4): with Batch Priority Routing the surest
patches are served first, and accuracy falls later than in the order of position. Here the whole
trained model is run again for every capacity factor and order; each picture shares its own places,
where V-MoE's are shared by a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mhmoe.analysis import nulls
from mhmoe.layers import WhatIf, losses
from mhmoe.layers.config import ORDERS
from mhmoe.models import metrics
from mhmoe.models.transformer import Run, Transformer
from mhmoe.trace import TOKEN_CHOICE

FACTORS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5)
LOW = 0.5  #: the capacity factors up to which V-MoE sees the order matter


@dataclass(frozen=True, eq=False)
class Limited:
    """One model under one limit; ``order`` and ``factor`` are None where there is none.

    kept             share of all choices that found a place
    correct          [N] whether a whole picture gets its class
    error, baseline  [N] of the hidden patches, as ``metrics.picture_errors`` gives them
    """

    order: str | None
    factor: float | None
    kept: float
    correct: np.ndarray
    error: np.ndarray
    baseline: np.ndarray


def limited(
    model: Transformer,
    pictures: np.ndarray,
    classes: np.ndarray,
    factors: Sequence[float] = FACTORS,
    orders: Sequence[str] = ORDERS,
    seed: int = 0,
) -> list[Limited]:
    """pictures [N, side, side, 3] uint8 and the class of each [N] -> one run per order and factor,
    and a last one without a limit, where the order plays no part. ``seed`` draws the random order.

    Raises ValueError for a model without classes or in which tokens do not choose experts.
    """
    config = model.config
    if not config.classes or config.moe is None or config.moe.assignment != TOKEN_CHOICE:
        raise ValueError(
            f"capacity is measured on models with classes in which tokens choose experts, not on "
            f"one with {config.classes} classes and router {config.router!r}"
        )
    asked = [(order, factor) for order in orders for factor in factors] + [(None, None)]
    found = []
    for order, factor in asked:
        what_if = WhatIf(capacity_factors=(factor,), order=order, seed=seed)
        counter = _Kept(model)
        guesses = metrics.class_guesses(model, pictures, counter, what_if)
        errors = metrics.picture_errors(model, pictures, what_if=what_if)
        kept = counter.kept / counter.asked
        found.append(Limited(order, factor, kept, guesses == classes, *errors))
    return found


def capacity_curve(runs: Sequence[Limited], draws: np.ndarray) -> list[dict]:
    """One row per run of :func:`limited`, with intervals over the pictures; draws [draws, N] say
    how often each picture is drawn in a bootstrap:

    accuracy, low, high             share of whole pictures that get their class, 95 % interval
    kept                            share of all choices that found a place, on the same pictures
    relative_error, error_interval  error of hidden patches over that of the mean visible colour
    """
    return [_row(run, draws) for run in runs]


def _row(run: Limited, draws: np.ndarray) -> dict:
    low, high = nulls.binomial(int(run.correct.sum()), len(run.correct))
    return {
        "order": run.order,
        "factor": run.factor,
        "accuracy": float(run.correct.mean()),
        "low": low,
        "high": high,
        "classified": len(run.correct),
        "kept": run.kept,
        "relative_error": float(run.error.sum() / run.baseline.sum()),
        "error_interval": nulls.interval(draws @ run.error / (draws @ run.baseline)),
    }


def priority_gain(runs: Sequence[Limited], over: str, draws: np.ndarray) -> dict:
    """What it gains to serve the surest first rather than in the order ``over``, at each factor and
    in the mean of those up to ``LOW``: ``accuracy`` more, and relative ``error`` less. The same
    pictures stand on both sides, so the interval is that of their differences."""
    by = {(run.order, run.factor): run for run in runs}
    factors = sorted(factor for order, factor in by if order == over)
    pairs = [(by["priority", factor], by[over, factor]) for factor in factors]
    whole = pairs[0][0].baseline  # of all runs the same
    gains = {
        "accuracy": ([a.correct.astype(float) - b.correct for a, b in pairs], np.ones(len(whole))),
        "error": ([b.error - a.error for a, b in pairs], whole),
    }
    low = [factor <= LOW for factor in factors]
    return {
        name: {
            "factors": [
                {"factor": factor, **_ratio(gain_N, of_N, draws)}
                for factor, gain_N in zip(factors, gain_FN, strict=True)
            ],
            "low": _ratio(np.mean(gain_FN, 0, where=np.array(low)[:, None]), of_N, draws),
        }
        for name, (gain_FN, of_N) in gains.items()
    }


def _ratio(part_N: np.ndarray, whole_N: np.ndarray, draws: np.ndarray) -> dict:
    return {
        "value": float(part_N.sum() / whole_N.sum()),
        "interval": nulls.interval(draws @ part_N / (draws @ whole_N)),
    }


class _Kept:
    """Counts choices and those that found a place, over all layers and passes."""

    def __init__(self, model: Transformer):
        self.config, self.kept, self.asked = model.config.moe, 0, 0

    def __call__(self, run: Run) -> None:
        for routing in run.routing:
            counted = losses.sums(routing, self.config)
            self.kept += int(counted.load.sum())
            self.asked += int(counted.demand.sum())
