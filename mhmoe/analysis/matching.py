"""Two runs of one recipe: do their experts divide the text alike, up to their numbering?

Experts of different seeds have nothing in common but what they are chosen for, so they are matched
first: the one-to-one assignment with the largest sum of correlations. A best match is above zero
even between unrelated runs, so it is always given beside that of tokens dealt out anew.
"""

from __future__ import annotations

import numpy as np


def assignment(gain: np.ndarray) -> np.ndarray:
    """[n] the column of every row, each used once, with the largest sum of ``gain`` [n, n].

    The Hungarian method with potentials (Kuhn 1955), O(n^3).
    """
    n = len(gain)
    if gain.shape != (n, n):
        raise ValueError(f"only a square table can be matched, not {gain.shape}")
    cost = np.zeros((n + 1, n + 1))
    cost[1:, 1:] = -np.asarray(gain, float)
    row_price, column_price = np.zeros(n + 1), np.zeros(n + 1)
    row_of = np.zeros(n + 1, int)  # of each column; index 0 stands for nobody
    for row in range(1, n + 1):
        row_of[0], column = row, 0
        best, before = np.full(n + 1, np.inf), np.zeros(n + 1, int)
        done = np.zeros(n + 1, bool)
        while row_of[column]:
            done[column] = True
            left = cost[row_of[column]] - row_price[row_of[column]] - column_price
            closer = ~done & (left < best)
            best[closer], before[closer] = left[closer], column
            step_to = int(np.argmin(np.where(done, np.inf, best)))
            step = best[step_to]
            row_price[row_of[done]] += step
            column_price[done] -= step
            best[~done] -= step
            column = step_to
        while column:  # along the path back to the start, everybody moves over
            row_of[column] = row_of[before[column]]
            column = int(before[column])
    found = np.zeros(n, int)
    found[row_of[1:] - 1] = np.arange(n)
    return found


def correlations(first_RE: np.ndarray, second_RE: np.ndarray) -> np.ndarray:
    """[E, E] Pearson over the R tokens of each expert's choices in one run with each one's in the
    other; 0 for an expert that is always or never chosen."""
    columns = []
    for counts in (first_RE, second_RE):
        centred = counts - counts.mean(0)
        size = np.linalg.norm(centred, axis=0)
        columns.append(centred / np.where(size > 0, size, np.inf))
    return columns[0].T @ columns[1]


def consistency(first_RE: np.ndarray, second_RE: np.ndarray) -> float:
    """Mean correlation of matched experts: 1 for the same routing in another numbering (X-MoE's
    inter-run consistency, arXiv 2204.09179, with the matching and for tokens)."""
    table = correlations(first_RE, second_RE)
    return float(table[np.arange(len(table)), assignment(table)].mean())


def by_chance(
    first_RE: np.ndarray, second_RE: np.ndarray, draws: int = 100, seed: int = 0
) -> np.ndarray:
    """[draws] consistency when the tokens of one run are dealt out anew: random partitions of the
    same sizes."""
    rng = np.random.default_rng(seed)
    return np.array([consistency(first_RE, rng.permutation(second_RE)) for _ in range(draws)])
