"""Do the tokens of one expert drift together? X-MoE's representation collapse, RC.

RC = Tr(W B+) with W the covariance of the vectors around the mean of their own expert, B that of
the experts' means, B+ its pseudo-inverse (X-MoE, arXiv 2204.09179, after Zhu et al. 2021, arXiv
2105.02375): how far tokens of one expert lie apart, in units of how far experts do. Lower is more
collapsed. Every expert counts once in B, however many tokens it has; one without any does not.

N windows of R sub-tokens of width D; an expert's tokens are those whose first choice it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Of the largest singular value of the means; below it lies what is zero but for rounding.
ZERO = 1e-9


@dataclass(frozen=True)
class Moments:
    """Of vectors around any one origin: count [..., E] of each expert's, total [..., E, D] of
    them, square [..., D, D] of all: sum of x x^T."""

    count: np.ndarray
    total: np.ndarray
    square: np.ndarray

    def drawn(self, draws: np.ndarray) -> Moments:
        """Those of whole samples in which window n comes draws [..., N] times."""
        weight = np.asarray(draws, float)

        def summed(part: np.ndarray) -> np.ndarray:
            flat = weight @ part.reshape(len(part), -1)
            return flat.reshape(*weight.shape[:-1], *part.shape[1:])

        return Moments(summed(self.count), summed(self.total), summed(self.square))


def moments(x_NRD: np.ndarray, expert_NR: np.ndarray, experts: int) -> Moments:
    """Of every window."""
    x = np.asarray(x_NRD, float)
    mine = (expert_NR[..., None] == np.arange(experts)).astype(float)
    return Moments(mine.sum(1), mine.swapaxes(1, 2) @ x, x.swapaxes(1, 2) @ x)


def rc(of: Moments) -> np.ndarray:
    """[...] RC; NaN where fewer than two experts have tokens."""
    used = of.count > 0
    mean = of.total / np.maximum(of.count, 1)[..., None]  # [..., E, D]
    size = of.count.sum(-1)[..., None, None]
    own = np.where(used, of.count, 0)[..., None] * mean
    within = (of.square - own.swapaxes(-1, -2) @ mean) / size
    experts = used.sum(-1)[..., None, None]
    centre = mean.sum(-2, keepdims=True) / np.maximum(experts, 1)
    apart = np.where(used[..., None], mean - centre, 0) / np.sqrt(np.maximum(experts, 1))
    inverse = np.linalg.pinv(apart, rcond=ZERO)  # [..., D, E]: B+ = inverse inverse^T
    found = (inverse * (within @ inverse)).sum((-1, -2))
    return np.where(experts[..., 0, 0] > 1, found, np.nan)


def by_chance(
    x_NRD: np.ndarray, expert_NR: np.ndarray, experts: int, draws: int = 100, seed: int = 0
) -> np.ndarray:
    """[draws] RC when the sub-tokens of the layer are dealt out anew among the experts."""
    rng = np.random.default_rng(seed)
    x = np.asarray(x_NRD, float).reshape(-1, x_NRD.shape[-1])
    expert = expert_NR.ravel()
    square, found = x.T @ x, []
    for _ in range(draws):
        mine = rng.permutation(expert)[:, None] == np.arange(experts)
        found.append(rc(Moments(mine.sum(0), mine.T.astype(float) @ x, square)))
    return np.array(found)
