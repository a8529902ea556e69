"""How much happens in a patch, and whether the number of its experts follows (MH-MoE, figures 1b,
8 and 10: brighter, that is more experts, where there is texture).

Maps [N, T]: one number for each patch of N pictures, T = side * side, row by row. Neighbouring
patches resemble each other, in what they show and in how they are routed, so a correlation that
takes them for independent finds something in anything. Chance is of two kinds that keep both maps'
own smoothness:

    shift    one map of every picture is shifted around its edges (all shifts are equally likely)
    picture  the pictures' maps are dealt out anew, so what the place in the picture does stays as
             it is (things are in the middle, and edges are edges)
"""

from __future__ import annotations

import numpy as np

NULLS = ("shift", "picture")
LEVELS = 32  #: of grey, of which a patch's entropy is taken


def local_entropy(pixels: np.ndarray, patch: int) -> np.ndarray:
    """[N, side, side, 3] uint8 -> [N, T] bits: Shannon's entropy of the grey levels of each patch,
    in ``LEVELS`` steps; 0 for a plain one."""
    N, side = pixels.shape[:2]
    n = side // patch
    level = (pixels.mean(3) * LEVELS / 256).astype(int)
    level = level.reshape(N, n, patch, n, patch).swapaxes(2, 3).reshape(N * n * n, patch * patch)
    at = np.arange(len(level))[:, None] * LEVELS + level
    share = np.bincount(at.ravel(), minlength=len(level) * LEVELS) / patch**2
    bits = -share * np.log2(np.where(share > 0, share, 1))
    return bits.reshape(N, n * n, LEVELS).sum(2)


def ranked(map_NT: np.ndarray) -> np.ndarray:
    """[N, T] ranks within each picture, ties sharing theirs, of mean 0 and length 1; zeros where
    all patches are equal, so that nothing correlates with them."""
    ranks = np.empty(map_NT.shape)
    for row, values in zip(ranks, map_NT, strict=True):
        ordered = np.sort(values)
        row[:] = ordered.searchsorted(values, "left") + ordered.searchsorted(values, "right")
    ranks -= ranks.mean(1, keepdims=True)
    size = np.linalg.norm(ranks, axis=1, keepdims=True)
    return ranks / np.where(size > 0, size, 1)


def correlations(first_NT: np.ndarray, second_NT: np.ndarray) -> np.ndarray:
    """[N] Spearman's rank correlation of two maps of each picture."""
    return (ranked(first_NT) * ranked(second_NT)).sum(1)


def by_chance(
    first_NT: np.ndarray, second_NT: np.ndarray, null: str, draws: int = 100, seed: int = 0
) -> np.ndarray:
    """[draws] the mean of ``correlations`` under one of ``NULLS``."""
    if null not in NULLS:
        raise ValueError(f"null {null!r} is none of {', '.join(NULLS)}")
    rng = np.random.default_rng(seed)
    first, second = ranked(first_NT), ranked(second_NT)
    N, T = first.shape
    if null == "picture":
        every = first @ second.T
        chosen = rng.permuted(np.arange(N)[None].repeat(draws, 0), axis=1)
    else:
        every, chosen = shifted(first, second), rng.integers(T, size=(draws, N))
    return every[np.arange(N), chosen].mean(1)


def shifted(first_NT: np.ndarray, second_NT: np.ndarray) -> np.ndarray:
    """[N, T] sums of products of the maps, the second shifted around its edges by every number of
    rows and columns; no shift comes first."""
    N, T = first_NT.shape
    side = int(T**0.5)
    one, other = (np.fft.rfft2(m.reshape(N, side, side)) for m in (first_NT, second_NT))
    return np.fft.irfft2(one * other.conj(), (side, side)).reshape(N, T)
