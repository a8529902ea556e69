"""The arithmetic of an uneven router: sums of gates, their variation, and stored runs compared.

Axis letters as in ``mhmoe.trace``; numpy alone, so that pictures can be checked independently of
the layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mhmoe.analysis import balance
from mhmoe.analysis.router import gates, ranking
from mhmoe.trace import LayerTrace

#: The two vectors of the guide (VG-32, 33).
GUIDE = ((0.8, 0.2, 0.1, 0.05, 0.2), (0.3, 0.3, 0.2, 0.2, 0.3))


def variation(values_E: np.ndarray, *, sample: bool = False) -> float:
    """CV = std / mean; ``sample`` divides the squares by E - 1 instead of E."""
    values_E = np.asarray(values_E, float)
    return float(np.std(values_E, ddof=int(sample)) / values_E.mean())


def gate_sums(layer: LayerTrace, convention: str) -> np.ndarray:
    """[T, E] what each token gives each expert, over its H sub-tokens: gates of the layer's own
    choices under a convention of mhmoe.trace.GATES."""
    weights = gates(layer.logits, layer.top_k, convention)
    return weights.reshape(-1, layer.heads, layer.experts).sum(1)


def growing_variation(sums_TE: np.ndarray) -> np.ndarray:
    """[T] CV of the importance after each token."""
    return balance.variation(sums_TE.cumsum(0))


def growing_chance(
    layer: LayerTrace, convention: str, draws: int = 200, seed: int = 0
) -> np.ndarray:
    """[T] mean CV if every sub-token gave its gates to K random experts instead."""
    weights = np.sort(gates(layer.logits, layer.top_k, convention), -1)
    shuffled = np.random.default_rng(seed).permuted(
        np.broadcast_to(weights, (draws, *weights.shape)), axis=-1
    )
    shape = (draws, -1, layer.heads, layer.experts)
    return balance.variation(shuffled.reshape(shape).sum(2).cumsum(1)).mean(0)


# --------------------------------------------------------------------------- noise


def chosen_probability(
    clean_E: np.ndarray, std_E: np.ndarray, k: int, points: int = 401
) -> np.ndarray:
    """[E] exact probability of each expert to be among the k largest of clean + std N(0, 1).

    Integral over the expert's own noise of the probability that fewer than k others are larger: a
    sum of independent events, counted one after the other.
    """
    E = len(clean_E)
    z = np.linspace(-8, 8, points)
    weight = np.exp(-(z**2) / 2)
    weight /= weight.sum()
    found = np.zeros(E)
    for i in range(E):
        own = clean_E[i] + std_E[i] * z
        fewer = np.zeros((k + 1, points))  # [n] exactly n others larger; the last: k or more
        fewer[0] = 1
        for j in range(E):
            if j == i:
                continue
            larger = _normal_cdf((clean_E[j] - own) / std_E[j])
            fewer[1:k] = fewer[1:k] * (1 - larger) + fewer[: k - 1] * larger
            fewer[0] *= 1 - larger
        found[i] = (weight * fewer[:k].sum(0)).sum()
    return found


_erf = np.vectorize(math.erf, otypes=[float])


def _normal_cdf(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + _erf(x / math.sqrt(2)))


def within_errors(share_E: np.ndarray, exact_E: np.ndarray, draws: int, errors: float = 4) -> bool:
    """Whether frequencies of so many draws lie within so many standard errors of the truth."""
    error = np.sqrt(np.maximum(exact_E * (1 - exact_E), 1 / draws) / draws)
    return bool((np.abs(share_E - exact_E) <= errors * error).all())


# --------------------------------------------------------------------------- KeepTopK


def thresholds(scores_SE: np.ndarray) -> np.ndarray:
    """[S, E] for k = 1..E the score that is still kept: the k-th largest of each row."""
    return -np.sort(-np.asarray(scores_SE), axis=-1)


def masks_agree(scores_SE: np.ndarray) -> bool:
    """Every row keeps its k largest scores, for every k: softmax over a masked row is the whole
    row's softmax, its survivors divided by their sum."""
    E = scores_SE.shape[1]
    return all(
        np.allclose(gates(scores_SE, k, "topk-softmax"), gates(scores_SE, k, "renormalised"))
        for k in range(1, E + 1)
    )


def ranks(scores_SE: np.ndarray) -> np.ndarray:
    """[S, E] place of each score in its row, 0 for the largest."""
    return np.argsort(ranking(scores_SE), axis=-1, kind="stable")


# --------------------------------------------------------------------------- equal, unequal

#: Gates by hand (C-08): four experts, sixteen tokens, two choices each. Experts 1 and 2 are few
#: tokens' main expert, 3 and 4 are many tokens' second or half: all importances are 4.
EQUAL = tuple(
    [((0, 0.8), (2 + i % 2, 0.2)) for i in range(5)]
    + [((1, 0.8), (3 - i % 2, 0.2)) for i in range(5)]
    + [((2, 0.5), (3, 0.5))] * 6
)


def equal_gates() -> np.ndarray:
    """[16, 4] :data:`EQUAL` as a matrix."""
    found = np.zeros((len(EQUAL), 4))
    for row, pair in zip(found, EQUAL, strict=True):
        for expert, gate in pair:
            row[expert] = gate
    return found


# --------------------------------------------------------------------------- stored runs

#: Where runs may differ from the reference and still answer what balancing costs, by dotted name.
_FREE = {"name", "seed", "ship", "snapshots", "replay"}
_BALANCING = {
    "balance": {"balance"},
    "k": {"model.moe.top_k"},
    "free": {"balance", "model.moe.score", "model.moe.gate", "model.moe.bias_update"},
}


def flat(recipe: Mapping, prefix: str = "") -> dict[str, object]:
    """A recipe's settings by dotted name."""
    found: dict[str, object] = {}
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def departs(recipe: Mapping, reference: Mapping) -> str | None:
    """In what a run departs from the reference: "" in nothing, "balance" (alpha), "k", "free" (a
    bias in place of the loss), None in anything else."""
    own, other = flat(recipe), flat(reference)
    names = (own.keys() | other.keys()) - _FREE
    differ = {name for name in names if own.get(name) != other.get(name)}
    if not differ:
        return ""
    return next((what for what, allowed in _BALANCING.items() if differ <= allowed), None)


@dataclass(frozen=True)
class Kept:
    """A stored run for comparison, thinned to n points.

    step [n]; uneven [n] mean MaxVio of the layers, of demand summed over each bin; final [L, E]
    shares of demand over the last tenth; train and validation: loss in nats per token, mean of the
    last tenth, and of held-out text.
    """

    name: str
    what: str
    alpha: float
    top_k: int
    step: np.ndarray
    uneven: np.ndarray
    final: np.ndarray
    train: float
    validation: float

    @property
    def gap(self) -> float:
        return self.validation - self.train


def kept(name: str, what: str, facts: Mapping, arrays: Mapping, points: int = 80) -> Kept:
    demand = np.asarray(arrays["demand"], np.float64)
    loss = np.asarray(arrays["loss"], np.float64)
    width = max(1, len(loss) // points)
    ends = np.arange(width, len(loss) + 1, width)
    binned = np.stack([demand[end - width : end].mean(0) for end in ends])
    tail = max(1, len(loss) // 10)
    recipe = facts["recipe"]
    return Kept(
        name=name,
        what=what,
        alpha=float(recipe["balance"]),
        top_k=int(recipe["model"]["moe"]["top_k"]),
        step=ends * int(facts.get("every", 1)),
        uneven=balance.max_violation(binned).mean(-1),
        final=balance.shares(demand[-tail:].mean(0)),
        train=float(loss[-tail:].mean()),
        validation=math.log(facts["validation"][-1]["perplexity"]),
    )
