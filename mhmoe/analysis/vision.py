"""What a chapter on pictures counts: neighbours, places, blends. numpy in, numbers out.

Axis letters as in ``mhmoe.trace``; T patches of a picture, row by row; P all slots (E times those
of one expert).
"""

from __future__ import annotations

import numpy as np

#: Levels of :func:`levels`, each one character of base64's alphabet in the browser.
LEVELS = 64
#: What the lowest and the highest level mean, as multiples of an even share.
SPAN = (1 / 16, 64.0)


def neighbours_alike(first_T: np.ndarray, grid: tuple[int, int]) -> tuple[float, float]:
    """Share of pairs of patches side by side, or one above the other, with the same first choice;
    and that share if the same choices lay anywhere in the picture."""
    board = first_T.reshape(grid)
    across, down = board[:, 1:] == board[:, :-1], board[1:] == board[:-1]
    pairs = across.size + down.size
    counts = np.bincount(first_T)
    n = first_T.size
    chance = float((counts * (counts - 1)).sum() / (n * (n - 1)))
    return float((across.sum() + down.sum()) / pairs), chance


def kept_choices(kept_SK: np.ndarray, heads: int) -> np.ndarray:
    """[T] how many of a patch's choices found a place."""
    return kept_SK.reshape(-1, heads * kept_SK.shape[1]).sum(1)


def priority(probs_SE: np.ndarray) -> np.ndarray:
    """[S] how early each sub-token is served under priority, 1 = first: by its largest
    probability, ties by position (V-MoE, section 4)."""
    order = np.argsort(-probs_SE.max(1), kind="stable")
    rank = np.empty(len(order), int)
    rank[order] = np.arange(1, len(order) + 1)
    return rank


def survivor_question(vanilla_T: np.ndarray, first_T: np.ndarray, columns: int) -> dict | None:
    """Four patches, spread over the picture, of which priority keeps one alone: the one that has a
    place under priority and none in the order of position, if there is one, and three that lose all
    their choices under priority. None where nobody loses all, or everybody does."""
    won = np.flatnonzero((first_T > 0) & (vanilla_T == 0))
    won = won if len(won) else np.flatnonzero(first_T > 0)
    lost = np.flatnonzero(first_T == 0)
    if not len(won) or len(lost) < 3:
        return None
    chosen = [int(won[len(won) // 2])]
    for _ in range(3):  # the one farthest from those chosen
        there = np.stack([lost // columns, lost % columns], 1)
        here = np.stack([np.array(chosen) // columns, np.array(chosen) % columns], 1)
        gap = np.abs(there[:, None] - here[None]).max(2).min(1)
        chosen.append(int(lost[gap.argmax()]))
    return {"patches": sorted(chosen), "survivor": chosen[0]}


def reads(dispatch_TP: np.ndarray, combine_TP: np.ndarray) -> np.ndarray:
    """[T, T] how much of what patch i gets back was blended from patch j: C D^T, rows sum to 1."""
    return combine_TP @ dispatch_TP.T


def effective(weights: np.ndarray, axis: int) -> np.ndarray:
    """exp(entropy) of weights that sum to 1 along an axis: how many matter."""
    w = np.maximum(weights, 1e-30)
    return np.exp(-(w * np.log(w)).sum(axis))


def blends(dispatch_TP: np.ndarray, patches_TV: np.ndarray) -> np.ndarray:
    """[P, V] the picture's own patches [T, V], averaged with each slot's weights."""
    return dispatch_TP.T @ patches_TV


def levels(shares: np.ndarray, even: float) -> np.ndarray:
    """Shares as whole levels 0..LEVELS-1, equal steps of the logarithm over ``SPAN`` times the
    even share; what lies outside takes the end."""
    low, high = np.log(SPAN[0]), np.log(SPAN[1])
    at = (np.log(np.maximum(shares / even, 1e-12)) - low) / (high - low)
    return np.clip(np.rint(at * (LEVELS - 1)), 0, LEVELS - 1).astype(np.uint8)


def similarity(position_TD: np.ndarray) -> np.ndarray:
    """[T, T] cosines of the position embeddings."""
    unit = position_TD / np.linalg.norm(position_TD, axis=1, keepdims=True)
    return unit @ unit.T


def main_colours(embedded_TD: np.ndarray) -> tuple[np.ndarray, float]:
    """uint8 [T, 3] the three main directions of the embeddings as red, green and blue, and the
    share of their variance that these carry."""
    centred = embedded_TD - embedded_TD.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    top = u[:, :3] * s[:3]
    low, high = np.percentile(top, [2, 98], axis=0)
    scaled = np.clip((top - low) / np.maximum(high - low, 1e-12), 0, 1)
    return np.rint(255 * scaled).astype(np.uint8), float((s[:3] ** 2).sum() / (s**2).sum())
