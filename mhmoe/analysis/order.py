"""Choices side by side: of neighbours in a text, of one sub-token, of one model at two times.

expert [N, T, H, K]: N windows of T tokens of H sub-tokens, K different experts each.
"""

from __future__ import annotations

from itertools import product

import numpy as np

# ------------------------------------------------------------------------ neighbours


def repeated(expert_NTHK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N] share of neighbours t, t+1 whose sub-tokens of the same head have the same first choice,
    and [N] any choice in common (Mixtral, arXiv 2401.04088, table 5). Chance is 1/E, and
    ``mhmoe.analysis.routing.repetition_chance``."""
    before, after = expert_NTHK[:, :-1], expert_NTHK[:, 1:]
    first = (before[..., 0] == after[..., 0]).mean((1, 2))
    shared = np.zeros(before.shape[:3], bool)
    for i, j in product(range(before.shape[3]), repeat=2):
        shared |= before[..., i] == after[..., j]
    return first, shared.mean((1, 2))


def repeated_shuffled(
    expert_NTHK: np.ndarray, within: str, draws: int = 100, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """[draws] means of both numbers when whole tokens change places: in the ``layer`` (the demand
    of each head stays), or in each ``window`` (so does what the window is about)."""
    if within not in ("layer", "window"):
        raise ValueError(f"tokens change places in the 'layer' or the 'window', not in {within!r}")
    rng = np.random.default_rng(seed)
    N, T = expert_NTHK.shape[:2]
    flat = expert_NTHK.reshape(N * T, *expert_NTHK.shape[2:])
    found = []
    for _ in range(draws):
        if within == "layer":
            order = rng.permutation(N * T)
        else:
            order = (rng.random((N, T)).argsort(1) + T * np.arange(N)[:, None]).ravel()
        found.append([values.mean() for values in repeated(flat[order].reshape(expert_NTHK.shape))])
    first, shared = np.array(found).T
    return first, shared


# ------------------------------------------------------------------------ one sub-token


def coactivation(expert_SK: np.ndarray, experts: int) -> np.ndarray:
    """[E, E] N_ij / N_i: of the sub-tokens that chose i, the share that chose j too (OLMoE, arXiv
    2409.02060); 0 on the diagonal and for an expert that nobody chose. Chance is
    (K-1) / (E-1). All pairs of a sub-token's K choices count."""
    return of_first(together(expert_SK, experts))


def together(expert_SK: np.ndarray, experts: int) -> np.ndarray:
    """[E, E] sub-tokens that chose both experts; those that chose one on the diagonal."""
    chosen = np.zeros((len(expert_SK), experts))
    np.put_along_axis(chosen, expert_SK, 1.0, axis=1)
    return chosen.T @ chosen


def of_first(both_EE: np.ndarray) -> np.ndarray:
    """[..., E, E] counts of ``together`` as shares of the first expert's, 0 on the diagonal."""
    alone = np.diagonal(both_EE, axis1=-2, axis2=-1)
    apart = both_EE * (1 - np.eye(both_EE.shape[-1]))
    return apart / np.maximum(alone, 1)[..., None]


def unpaired(expert_SK: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same choices with every later column dealt out anew: each expert keeps how often it is
    first, second, ...; who goes with whom is left to chance. A sub-token that would have one expert
    twice swaps with another until none has. Raises ValueError where that does not come about."""
    drawn = expert_SK.copy()
    for k in range(1, drawn.shape[1]):
        drawn[:, k] = rng.permutation(drawn[:, k])
        for _ in range(1000):
            twice = (drawn[:, :k] == drawn[:, k : k + 1]).any(1)
            if not twice.any():
                break
            _swap(drawn, k, np.flatnonzero(twice), np.flatnonzero(~twice), rng)
        else:
            raise ValueError("one expert has so many choices that they cannot be paired anew")
    return drawn


def _swap(
    drawn: np.ndarray, k: int, clash: np.ndarray, free: np.ndarray, rng: np.random.Generator
) -> None:
    """Swap the k-th choices of clashing rows with those of free rows, where that helps both."""
    n = min(len(clash), len(free))
    a, b = rng.permutation(clash)[:n], rng.permutation(free)[:n]
    of_a, of_b = drawn[a, k], drawn[b, k]
    fits = (drawn[a, :k] != of_b[:, None]).all(1) & (drawn[b, :k] != of_a[:, None]).all(1)
    drawn[a[fits], k], drawn[b[fits], k] = of_b[fits], of_a[fits]


# ------------------------------------------------------------------------ two times


def overlap(before_SK: np.ndarray, after_SK: np.ndarray) -> np.ndarray:
    """[S] share of the K experts of each sub-token that are the same at two times (OLMoE's router
    saturation if ``after`` is the final model). Uniform chance is K / E."""
    same = before_SK[:, :, None] == after_SK[:, None, :]
    return same.any(-1).mean(1)


def overlap_chance(before_SK: np.ndarray, after_SK: np.ndarray, experts: int) -> float:
    """The mean of ``overlap`` if the sub-tokens of one time were dealt out anew: sum over the
    experts of their shares at both times, times K."""
    shares = [
        np.bincount(choices.ravel(), minlength=experts) / choices.size
        for choices in (before_SK, after_SK)
    ]
    return float(before_SK.shape[1] * (shares[0] * shares[1]).sum())


def changed(before_SK: np.ndarray, after_SK: np.ndarray) -> np.ndarray:
    """[S] True for a sub-token with another first choice (routing fluctuation, X-MoE, arXiv
    2204.09179)."""
    return before_SK[:, 0] != after_SK[:, 0]


def changed_chance(before_SK: np.ndarray, after_SK: np.ndarray, experts: int) -> float:
    """The mean of ``changed`` if the sub-tokens of one time were dealt out anew."""
    return 1 - overlap_chance(before_SK[:, :1], after_SK[:, :1], experts)
