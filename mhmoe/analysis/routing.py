"""Load, balance and diversity of one layer's routing, each with its chance level.

Chance is uniform random routing: every sub-token takes K of the E experts, each set equally
likely. Axis letters as in ``mhmoe.trace``.
"""

from __future__ import annotations

from math import comb

import numpy as np

from mhmoe.analysis import balance, diversity
from mhmoe.trace import LayerTrace, RoutingTrace

#: Scores at or below this belong to experts that were switched off.
MASKED = -1e30


def open_experts(layer: LayerTrace) -> int:
    """Experts that could be chosen: all but those switched off."""
    return int((layer.logits.max(0) > MASKED).sum())


def first_choices(layer: LayerTrace) -> np.ndarray:
    """[T] different first choices among a token's H sub-tokens."""
    first = np.sort(layer.expert[:, 0].reshape(-1, layer.heads), axis=1)
    return 1 + (first[:, 1:] != first[:, :-1]).sum(1)


#: Below this multiple of the even level 1/E, a mean first probability is called undecided.
UNDECIDED = 1.2


def first_probability(layer: LayerTrace) -> float:
    """Mean probability of the likeliest expert: 1/E of an undecided router, 1 of a sure one."""
    return float(layer.probs.max(1).mean())


def distinct_experts(layer: LayerTrace) -> np.ndarray:
    """[T] different experts that a token's H sub-tokens chose, over all K choices."""
    return diversity.distinct(diversity.per_token(layer.expert, layer.heads, layer.experts))


def distinct_chance(experts: int, top_k: int, heads: int) -> float:
    """Expected distinct experts per token under chance: E (1 - (1 - K/E)^H)."""
    return experts * (1 - (1 - top_k / experts) ** heads)


def per_word(trace: RoutingTrace, per_token: np.ndarray) -> np.ndarray:
    """[W] mean over the tokens of each word of a text trace."""
    word = np.array([t.word for t in trace.input.tokens])
    total = np.bincount(word, weights=per_token, minlength=len(trace.input.words))
    return total / np.maximum(np.bincount(word, minlength=len(trace.input.words)), 1)


def variation(values: np.ndarray) -> float:
    """CV = std / mean, population form; between 0 and sqrt(E - 1)."""
    return float(balance.variation(values))


def variation_chance(experts: int, top_k: int, sub_tokens: int) -> float:
    """Root mean square CV of demand under chance: sqrt((E - K) / (K S)). Short texts look
    unbalanced even when nobody prefers anything."""
    return float(np.sqrt((experts - top_k) / (top_k * max(1, sub_tokens))))


def max_violation(layer: LayerTrace) -> float:
    """MaxVio = (busiest - mean) / mean of demand (2408.15664); 0 when balanced."""
    return float(balance.max_violation(layer.demand))


def effective_experts(layer: LayerTrace) -> float:
    """exp(entropy) of the demand shares: E when balanced, 1 when collapsed."""
    return float(balance.effective(layer.demand))


def dead_experts(share_E: np.ndarray, threshold: float = balance.DEAD) -> int:
    """Experts with less than ``threshold`` of the fair share 1/E."""
    return int(balance.dead(share_E, threshold))


def repetition_chance(experts: int, top_k: int) -> float:
    """Probability that two random choices of K experts share one: 1 - C(E-K,K)/C(E,K)."""
    return 1 - comb(experts - top_k, top_k) / comb(experts, top_k)


def dropped_chance(
    experts: int, top_k: int, sub_tokens: int, capacity: int | None, draws: int = 400, seed: int = 0
) -> float:
    """Share of choices turned away if the same number were routed by chance (simulated)."""
    if capacity is None or not sub_tokens:
        return 0.0
    rng = np.random.default_rng(seed)
    order = rng.random((draws, sub_tokens, experts)).argsort(-1)[..., :top_k]
    demand = (order.reshape(draws, -1, 1) == np.arange(experts)).sum(1)
    return float(np.maximum(demand - capacity, 0).sum() / (draws * sub_tokens * top_k))


def identities(layer: LayerTrace) -> dict[str, bool]:
    """Conservation laws that a reader can check on the picture: ``load`` = demand - dropped,
    ``demand`` sums to S*K, ``probs`` of every sub-token sum to 1."""
    counts = np.bincount(layer.expert[layer.expert >= 0], minlength=layer.experts)
    return {
        "load": bool(
            (layer.load == layer.demand - layer.dropped).all()
            and (layer.load == np.bincount(layer.expert[layer.kept], minlength=layer.experts)).all()
        ),
        "demand": bool(
            (counts == layer.demand).all() and counts.sum() == layer.sub_tokens * layer.top_k
        ),
        "probs": bool(np.allclose(layer.probs.sum(1), 1, atol=1e-5)),
    }
