"""Two runs of one recipe: do their experts divide the text alike, up to their numbering?

Experts of different seeds have nothing in common but what they are chosen for, so they are matched
first: the one-to-one assignment with the largest sum of correlations. A best match is above zero
even between unrelated runs, so it is always given beside that of tokens dealt out anew.
"""

from __future__ import annotations

import numpy as np


def matched(first_RE: np.ndarray, second_RE: np.ndarray) -> np.ndarray:
    """[E] the other run's expert for each of this one's, no two alike, with the largest sum of
    correlations (the assignment problem)."""
    from scipy.optimize import linear_sum_assignment  # the app does without scipy

    return linear_sum_assignment(correlations(first_RE, second_RE), maximize=True)[1]


def correlations(first_RE: np.ndarray, second_RE: np.ndarray) -> np.ndarray:
    """[E, E] Pearson over the R tokens of each expert's choices in one run with each one's in the
    other; 0 for an expert that is always or never chosen."""
    columns = []
    for counts in (first_RE, second_RE):
        centred = counts - counts.mean(0)
        size = np.linalg.norm(centred, axis=0)
        columns.append(centred / np.where(size > 0, size, np.inf))
    return columns[0].T @ columns[1]


def agreement(
    first_RE: np.ndarray, second_RE: np.ndarray, partner_E: np.ndarray
) -> tuple[float, float]:
    """Of matched experts, the mean correlation of their choices: 1 for the same routing in another
    numbering; and the correlation of their loads over the experts (X-MoE's inter-run consistency,
    arXiv 2204.09179, which says nothing about the numbering)."""
    rows = np.arange(len(partner_E))
    loads = (first_RE.sum(0)[:, None], second_RE.sum(0)[partner_E][:, None])
    return (
        float(correlations(first_RE, second_RE)[rows, partner_E].mean()),
        float(correlations(*loads)[0, 0]),
    )


def by_chance(
    first_RE: np.ndarray, second_RE: np.ndarray, draws: int = 100, seed: int = 0
) -> np.ndarray:
    """[draws, 2] both numbers when the tokens of one run are dealt out anew: random partitions of
    the same sizes, matched as best they can be."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        dealt = rng.permutation(second_RE)
        found.append(agreement(first_RE, dealt, matched(first_RE, dealt)))
    return np.array(found)


def per_window(first_NTE: np.ndarray, second_NTE: np.ndarray) -> np.ndarray:
    """[N, 6 E] what ``correlated`` needs, of every window: number, sums, squares and products."""
    a, b = np.asarray(first_NTE, float), np.asarray(second_NTE, float)
    parts = (np.ones_like(a), a, b, a * a, b * b, a * b)
    return np.concatenate([part.sum(1) for part in parts], 1)


def correlated(sums: np.ndarray) -> np.ndarray:
    """[..., E] Pearson of each expert's choices with its partner's, from sums [..., 6 E]."""
    n, a, b, aa, bb, ab = np.split(sums, 6, axis=-1)
    spread = (n * aa - a * a) * (n * bb - b * b)
    return np.where(spread > 0, (n * ab - a * b) / np.sqrt(np.where(spread > 0, spread, 1)), 0.0)
