"""What the H sub-tokens of one token do together: how many experts, how evenly, how alike.

Chance is of three kinds, from the least to the most demanding:

    uniform   every sub-token takes any K of the E experts
    layer     the sub-tokens of the whole layer are dealt out anew, so the demand for each expert
              stays as it is
    heads     tokens are dealt out anew within each head, so what a head prefers stays as well;
              what differs from this depends on the token

Axis letters as in ``mhmoe.trace``; R tokens of all windows together.
"""

from __future__ import annotations

import numpy as np

from mhmoe.analysis import balance

NULLS = ("layer", "heads")


def per_token(
    expert_SK: np.ndarray, heads: int, experts: int, weight_SK: np.ndarray | None = None
) -> np.ndarray:
    """[R, E] how many of a token's sub-tokens chose each expert, or the sum of these choices'
    weights (their gates); padding (-1) counts nowhere."""
    rows = expert_SK.reshape(-1, heads * expert_SK.shape[1])
    at = np.arange(len(rows))[:, None] * (experts + 1) + rows + 1
    weight = None if weight_SK is None else weight_SK.ravel()
    counts = np.bincount(at.ravel(), weight, len(rows) * (experts + 1))
    return counts.reshape(len(rows), experts + 1)[:, 1:]


def distinct(count_RE: np.ndarray) -> np.ndarray:
    """[R] different experts that a token's sub-tokens chose, over all K choices."""
    return np.count_nonzero(count_RE, axis=-1)


def effective(gate_RE: np.ndarray) -> np.ndarray:
    """[R] exp(entropy) of the gates' shares: experts as many as matter, at most ``distinct``."""
    return balance.effective(gate_RE)


def agreement(count_RE: np.ndarray, heads: int, top_k: int) -> np.ndarray:
    """[R] of two different heads of a token, the share of their K experts that is the same, mean
    over all pairs of heads. Uniform chance is K / E."""
    if heads < 2:
        raise ValueError(f"agreement needs at least two heads, not {heads}")
    same = np.einsum("re,re->r", count_RE, count_RE - 1)  # ordered pairs of heads, per expert
    return same / (heads * (heads - 1) * top_k)


def dealt_anew(sub_tokens: int, heads: int, null: str, rng: np.random.Generator) -> np.ndarray:
    """[S] a permutation of the sub-tokens under one of ``NULLS``."""
    if null == "layer":
        return rng.permutation(sub_tokens)
    if null != "heads":
        raise ValueError(f"null {null!r} is none of {', '.join(NULLS)}")
    rows = np.arange(sub_tokens).reshape(-1, heads)
    return np.stack([rng.permutation(column) for column in rows.T], 1).ravel()


def numbers(
    expert_SK: np.ndarray, gate_SK: np.ndarray, heads: int, experts: int
) -> dict[str, np.ndarray]:
    """[R] each: ``distinct``, ``effective`` and ``agreement`` of every token."""
    count = per_token(expert_SK, heads, experts)
    return {
        "distinct": distinct(count),
        "effective": effective(per_token(expert_SK, heads, experts, gate_SK)),
        "agreement": agreement(count, heads, expert_SK.shape[1]),
    }


def null_means(
    expert_SK: np.ndarray,
    gate_SK: np.ndarray,
    heads: int,
    experts: int,
    null: str,
    draws: int = 100,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """[draws] each: the means of ``numbers`` when the sub-tokens are dealt out anew."""
    rng = np.random.default_rng(seed)
    found: list[dict[str, float]] = []
    for _ in range(draws):
        order = dealt_anew(len(expert_SK), heads, null, rng)
        drawn = numbers(expert_SK[order], gate_SK[order], heads, experts)
        found.append({name: float(values.mean()) for name, values in drawn.items()})
    return {name: np.array([one[name] for one in found]) for name in found[0]}
