"""Intervals and chance levels: what a number is worth, and what it would be for no reason at all.

N windows of text, or pictures, are the units that are drawn again: tokens of one window depend on
each other, windows do not.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

LEVEL = 0.95


def resampled(group_N: np.ndarray, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """[draws, N] how often each window is drawn in a bootstrap within its group (language), so
    that every draw is as even as the data."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((draws, len(group_N)), np.int64)
    for group in np.unique(group_N):
        members = np.flatnonzero(group_N == group)
        share = np.full(len(members), 1 / len(members))
        counts[:, members] = rng.multinomial(len(members), share, draws)
    return counts


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The middle ``LEVEL`` of the draws (percentile bootstrap)."""
    low, high = np.quantile(np.asarray(draws, float), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mean_interval(value_N: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Of the mean of one value per window, in windows drawn as ``counts`` [draws, N] says."""
    return interval(counts @ np.asarray(value_N, float) / counts.sum(1))


def binomial(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share that was counted, 95 % for z = 1.96 (Wilson 1927, JASA 22):
    unlike share ± z sqrt(p (1 - p) / n) it stays inside 0..1, and has a width at 0 and at 1.

    Raises ValueError unless 0 <= successes <= trials and trials >= 1.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials} is no share: count at least one trial")
    p, square = successes / trials, z * z / trials
    middle = p + square / 2
    half = z * math.sqrt(p * (1 - p) / trials + square / (4 * trials))
    low, high = (middle - half) / (1 + square), (middle + half) / (1 + square)
    return max(0.0, min(low, p)), min(1.0, max(high, p))


@dataclass(frozen=True)
class Against:
    """One number against the numbers that chance gives.

    low, high  the middle 95% of chance; z is in its standard deviations, 0 where it has none;
    p  the share of draws, the observed one included, at least as far up (or down, where the number
       lies below the mean of chance), doubled, at most 1
    """

    observed: float
    chance: float
    low: float
    high: float
    z: float
    p: float
    draws: int

    def to_dict(self) -> dict:
        return asdict(self)


def against(observed: float, chance_draws: np.ndarray) -> Against:
    """A two-sided permutation test; ``chance_draws`` are the same number under the null."""
    chance_draws = np.asarray(chance_draws, float)
    mean, deviation, n = float(chance_draws.mean()), float(chance_draws.std()), len(chance_draws)
    # equal numbers that differ in rounding are no sign of anything
    slack = 1e-9 * max(1.0, abs(observed))
    above = 1 + int((chance_draws >= observed - slack).sum())
    below = 1 + int((chance_draws <= observed + slack).sum())
    low, high = interval(chance_draws)
    return Against(
        observed=float(observed),
        chance=mean,
        low=low,
        high=high,
        z=(float(observed) - mean) / deviation if deviation > slack else 0.0,
        p=min(1.0, 2 * min(above, below) / (n + 1)),
        draws=n,
    )
