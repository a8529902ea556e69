"""What a picture model loses when its experts have few places, by who is served first.

V-MoE (Riquelme et al. 2021, arXiv 2106.05974, section 4): with Batch Priority Routing the surest
patches are served first, and accuracy falls later than in the order of position. Here the whole
trained model is run again for every capacity factor and order; each picture shares its own places.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mhmoe.analysis.nulls import binomial
from mhmoe.layers import WhatIf, losses
from mhmoe.layers.config import ORDERS
from mhmoe.models import metrics
from mhmoe.models.transformer import Run, Transformer
from mhmoe.trace import TOKEN_CHOICE

FACTORS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5)


def capacity_curve(
    model: Transformer,
    pictures: np.ndarray,
    classes: np.ndarray,
    factors: Sequence[float] = FACTORS,
    orders: Sequence[str] = ORDERS,
    seed: int = 0,
) -> list[dict]:
    """pictures [N, side, side, 3] uint8 and the class of each [N] -> one row per order and factor,
    and a last one without a limit, where the order plays no part (``order`` and ``factor`` None):

    accuracy, low, high  share of whole pictures that get their class, and its 95 % interval
    kept                 share of all choices that found a place, on the same pictures
    relative_error       error of hidden patches over that of the mean visible colour

    ``seed`` draws the random order. Raises ValueError for a model without classes or in which
    tokens do not choose experts.
    """
    config = model.config
    if not config.classes or config.moe is None or config.moe.assignment != TOKEN_CHOICE:
        raise ValueError(
            f"capacity is measured on models with classes in which tokens choose experts, not on "
            f"one with {config.classes} classes and router {config.router!r}"
        )
    asked = [(order, factor) for order in orders for factor in factors] + [(None, None)]
    return [_row(model, pictures, classes, order, factor, seed) for order, factor in asked]


def _row(
    model: Transformer,
    pictures: np.ndarray,
    classes: np.ndarray,
    order: str | None,
    factor: float | None,
    seed: int,
) -> dict:
    what_if = WhatIf(capacity_factors=(factor,), order=order, seed=seed)
    counter = _Kept(model)
    found = metrics.class_metrics(model, pictures, classes, counter, what_if)
    low, high = binomial(found["classified_correctly"], found["classified"])
    patches = metrics.image_metrics(model, pictures, what_if=what_if)
    return {
        "order": order,
        "factor": factor,
        "accuracy": found["class_accuracy"],
        "low": low,
        "high": high,
        "classified": found["classified"],
        "chance": found["class_chance"],
        "kept": counter.kept / counter.asked,
        "relative_error": patches["relative_error"],
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
