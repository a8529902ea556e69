"""Full experts: what was turned away, what stayed empty, and what chance would have done.

Axis letters as in ``mhmoe.trace``; n counts capacity factors. Decisions come from the layers'
own code (``mhmoe.models.engine.fill``); here they are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mhmoe.analysis import balance
from mhmoe.analysis.router import merged
from mhmoe.trace import LayerTrace

#: Draws of uniform random routing behind a chance level.
DRAWS = 200


def loads(expert_nSK: np.ndarray, kept_nSK: np.ndarray, experts: int) -> np.ndarray:
    """[n, E] choices that have a place."""
    taken = (expert_nSK[..., None] == np.arange(experts)) & kept_nSK[..., None]
    return taken.sum((1, 2))


def dropped(kept_nSK: np.ndarray) -> np.ndarray:
    """[n] share of the S K choices that have no place, 0..1."""
    return 1 - kept_nSK.mean((1, 2))


def empty(load_nE: np.ndarray, capacity: Sequence[int | None]) -> np.ndarray:
    """[n] share of the E C places that nobody took: padded, and computed all the same. NaN where
    nothing limits the places, because then there are none to be left."""
    E = load_nE.shape[1]
    return np.array(
        [
            np.nan if c is None else 1 - load.sum() / (E * c) if c else 0.0
            for load, c in zip(load_nE, capacity, strict=True)
        ]
    )


def gate_lost(gate_nSK: np.ndarray, kept_nSK: np.ndarray, wanted_SK: np.ndarray) -> np.ndarray:
    """[n] share of the gates that the sub-tokens wanted and do not get; re-routing gives back a
    smaller one."""
    got = np.where(kept_nSK, gate_nSK, 0).sum((1, 2))
    return 1 - got / max(float(wanted_SK.sum()), 1e-12)


def output_error(
    expert_nSK: np.ndarray,
    weight_nSK: np.ndarray,
    expert_out_SED: np.ndarray,
    tokens: int,
    merge: np.ndarray | None,
) -> np.ndarray:
    """[n] distance of the layer's output from the last row's, relative to its length, mean over
    the tokens: the last row is the one without a limit. ``weight`` is 0 without a place."""
    S = expert_out_SED.shape[0]
    rows = np.arange(S)[:, None]
    outputs = []
    for expert, weight in zip(expert_nSK, weight_nSK, strict=True):
        parts = weight[..., None] * expert_out_SED[rows, np.maximum(expert, 0)]
        outputs.append(merged(parts.sum(1), tokens, merge))
    whole = np.maximum(np.linalg.norm(outputs[-1], axis=-1), 1e-12)
    return np.array([(np.linalg.norm(y - outputs[-1], axis=-1) / whole).mean() for y in outputs])


def drop_chance(
    experts: int, top_k: int, sub_tokens: int, capacity: Sequence[int | None], seed: int = 0
) -> np.ndarray:
    """[n] share dropped if as many choices fell on the experts by chance (simulated)."""
    demand = _chance_demand(experts, top_k, sub_tokens, seed).sum(1)  # [draws, E]
    total = DRAWS * max(1, sub_tokens) * top_k
    return np.array(
        [0.0 if c is None else np.maximum(demand - c, 0).sum() / total for c in capacity]
    )


def reroute_chance(
    experts: int, top_k: int, sub_tokens: int, capacity: Sequence[int | None]
) -> np.ndarray:
    """[n] share dropped by re-routing, whatever the scores: who asks every expert finds a place
    as long as there is one, so only places that do not exist are missed (K = 1)."""
    wanted = max(1, sub_tokens * top_k)
    return np.array([0.0 if c is None else max(0.0, 1 - experts * c / wanted) for c in capacity])


@lru_cache(maxsize=8)
def _chance_demand(experts: int, top_k: int, sub_tokens: int, seed: int) -> np.ndarray:
    """[draws, S, E] 0 or 1: K different experts for every sub-token, each set equally likely."""
    rng = np.random.default_rng(seed)
    order = rng.random((DRAWS, sub_tokens, experts), np.float32).argsort(-1)
    taken = order < top_k  # the ranks of independent draws: any K of them are a random set
    taken.setflags(write=False)
    return taken


# ------------------------------------------------------------------------ small batches


def gini(count_E: np.ndarray) -> np.ndarray:
    """[...] Gini coefficient of the counts: 0 when even, (E - 1) / E when one has all."""
    count_E = np.sort(np.asarray(count_E, float), -1)
    E = count_E.shape[-1]
    total = np.maximum(count_E.sum(-1), 1e-300)
    rank = np.arange(1, E + 1)
    return np.where(count_E.sum(-1) > 0, (2 * (rank * count_E).sum(-1) / total - (E + 1)) / E, 0.0)


def growing_demand(expert_SK: np.ndarray, heads: int, experts: int) -> np.ndarray:
    """[T, E] choices that fall on each expert in the first 1, 2, .. T tokens."""
    chosen = (expert_SK[..., None] == np.arange(experts)).sum(1)  # [S, E]
    return chosen.reshape(-1, heads, experts).sum(1).cumsum(0)


def growing_chance(layer: LayerTrace, seed: int = 0) -> np.ndarray:
    """[3, T] MaxVio of random routing of the first tokens: mean, and the middle 95 %."""
    S, E, K = layer.sub_tokens, layer.experts, layer.top_k
    per_token = _chance_demand(E, K, S, seed).reshape(DRAWS, -1, layer.heads, E).sum(2)
    violation = balance.max_violation(per_token.cumsum(1))  # [draws, T]
    low, high = np.quantile(violation, (0.025, 0.975), axis=0)
    return np.stack([violation.mean(0), low, high])


# ------------------------------------------------------------------------ prediction


def late_comer(
    first_S: np.ndarray, by_position: np.ndarray, by_priority: np.ndarray, order_S: np.ndarray
) -> tuple[int, int, int] | None:
    """(sub-token, its rank among those with its first choice, how many these are): the last
    first choice that is turned away when all are served by position; None if there is none.

    by_position, by_priority  [S] whether the first choice has a place; order_S of priority
    """
    away = np.flatnonzero(~by_position)
    if not len(away):
        return None
    s = int(away[-1])
    rivals = order_S[first_S[order_S] == first_S[s]]
    rank = int(np.flatnonzero(rivals == s)[0])
    return s, rank, len(rivals)


def mean_jacobian(probs_NE: np.ndarray) -> np.ndarray:
    """[E, E] dP_j / dh_e of mean probabilities by a shift of expert e's scores, the slope of
    balance is E sum_j f_j of it: only P carries it, f counts."""
    p = np.asarray(probs_NE, np.float64)
    return np.diag(p.mean(0)) - p.T @ p / len(p)
