"""One router's arithmetic, step by step: scores, softmax, gates, mixtures, contributions.

Axis letters as in ``mhmoe.trace``. Everything is recomputed here in numpy from what a trace
recorded, independently of the layers, so that each picture can be checked against the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mhmoe.analysis.routing import dead_experts
from mhmoe.trace import GATES, LayerTrace

#: Stops of the three controls of the softmax, all computed before anybody drags.
TEMPERATURES = 2.0 ** np.linspace(-2, 2, 17)
PUSHES = np.linspace(-4, 4, 33)
SHIFTS = np.linspace(-10, 10, 21)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    scores = np.asarray(scores, np.float64)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log_sum_exp(scores: np.ndarray) -> np.ndarray:
    """log sum_e exp h_e over the last axis: what the z-loss squares."""
    scores = np.asarray(scores, np.float64)
    top = scores.max(-1)
    return top + np.log(np.exp(scores - top[..., None]).sum(-1))


def ranking(scores: np.ndarray) -> np.ndarray:
    """Experts from the largest score to the smallest; ties go to the lower index."""
    return np.argsort(-np.asarray(scores), axis=-1, kind="stable")


def gates(scores: np.ndarray, k: int, convention: str) -> np.ndarray:
    """[..., E] weight of every expert, 0 if not chosen; ``convention`` of mhmoe.trace.GATES."""
    if convention not in GATES:
        raise ValueError(f"gate convention {convention!r} is none of {', '.join(GATES)}")
    keep = np.zeros(np.shape(scores), bool)
    np.put_along_axis(keep, ranking(scores)[..., :k], True, axis=-1)
    if convention == "topk-softmax":
        return softmax(np.where(keep, scores, -np.inf))
    weights = np.where(keep, softmax(scores), 0.0)
    return weights / weights.sum(-1, keepdims=True) if convention == "renormalised" else weights


# ------------------------------------------------------------------------ the softmax


@dataclass(frozen=True)
class Stops:
    """One control's outcomes. values [n]; scores, probs [n, E]; entropy, margin, lse [n];
    chosen [n, k]. Entropy in nats (at most ln E), margin = largest minus second probability."""

    values: np.ndarray
    scores: np.ndarray
    probs: np.ndarray
    entropy: np.ndarray
    margin: np.ndarray
    lse: np.ndarray
    chosen: np.ndarray


def stops(values: np.ndarray, scores: np.ndarray, k: int) -> Stops:
    """What softmax makes of each row of ``scores`` [n, E]."""
    probs = softmax(scores)
    two = np.sort(probs, -1)[:, ::-1]
    second = two[:, 1] if probs.shape[1] > 1 else np.zeros(len(probs))
    logs = np.log(np.maximum(probs, 1e-300))
    return Stops(
        values=np.asarray(values, float),
        scores=np.asarray(scores, float),
        probs=probs,
        entropy=-(probs * logs).sum(-1),
        margin=two[:, 0] - second,
        lse=log_sum_exp(scores),
        chosen=ranking(scores)[:, :k],
    )


def by_temperature(scores_E: np.ndarray, k: int) -> Stops:
    return stops(TEMPERATURES, scores_E[None] / TEMPERATURES[:, None], k)


def by_push(scores_E: np.ndarray, expert: int, k: int) -> Stops:
    """One score moved up or down, the others as they are."""
    moved = np.repeat(scores_E[None].astype(float), len(PUSHES), 0)
    moved[:, expert] += PUSHES
    return stops(PUSHES, moved, k)


def by_shift(scores_E: np.ndarray, k: int) -> Stops:
    """The same number added to every score."""
    return stops(SHIFTS, scores_E[None] + SHIFTS[:, None], k)


# ------------------------------------------------- mixtures, contributions, predictions


def merged(combined_SD: np.ndarray, tokens: int, merge: np.ndarray | None) -> np.ndarray:
    """[S, D/H] -> [T, D]: the slices side by side, then the merge layer where there is one."""
    rows = combined_SD.reshape(tokens, -1)
    return rows if merge is None else rows @ merge.T


def mixtures(
    scores_SE: np.ndarray,
    expert_out_SED: np.ndarray,
    convention: str,
    tokens: int,
    merge: np.ndarray | None = None,
) -> np.ndarray:
    """[E, T, D] the layer's output on the same input if it used k = 1..E experts."""
    E = scores_SE.shape[1]
    weights = np.stack([gates(scores_SE, k, convention) for k in range(1, E + 1)])
    combined = np.einsum("kse,sed->ksd", weights, expert_out_SED)
    return np.stack([merged(c, tokens, merge) for c in combined])


def relative_error(y_ETD: np.ndarray) -> np.ndarray:
    """[E, T] ||y_k - y_E|| / ||y_E|| for k = 1..E."""
    size = np.linalg.norm(y_ETD[-1], axis=-1)
    return np.linalg.norm(y_ETD - y_ETD[-1], axis=-1) / np.maximum(size, 1e-12)


def contributions(
    layer: LayerTrace, expert_out_SED: np.ndarray, merge: np.ndarray | None = None
) -> np.ndarray:
    """[E, T, D] what each expert adds to each token's output: its gated outputs through the
    merge layer, which is linear, so that the E parts add up to the layer's output."""
    H, E = layer.heads, layer.experts
    weights = layer.gate * layer.kept
    mine = layer.expert[None] == np.arange(E)[:, None, None]
    weights_ES = np.where(mine, weights, 0).sum(-1)
    parts = weights_ES[..., None] * expert_out_SED.transpose(1, 0, 2)
    return np.stack([merged(part, layer.sub_tokens // H, merge) for part in parts])


def missed(probs_RV: np.ndarray) -> np.ndarray:
    """[R - 1] total variation distance of every row from row 0: the share of probability
    that moves to other tokens, 0..1."""
    return 0.5 * np.abs(probs_RV[1:].astype(float) - probs_RV[0]).sum(-1)


def likely(probs_RV: np.ndarray, row: int, count: int = 5) -> np.ndarray:
    """Token ids worth comparing: the ``count`` likeliest before or after, in order of before."""
    before, after = probs_RV[0], probs_RV[row]
    ids = {*np.argsort(-before)[:count].tolist(), *np.argsort(-after)[:count].tolist()}
    return np.array(sorted(ids, key=lambda i: (-before[i], i)))


def gate_sums(layer: LayerTrace, token: int) -> np.ndarray:
    """[E] sum of the kept gates over a token's sub-tokens."""
    rows = slice(token * layer.heads, (token + 1) * layer.heads)
    expert, gate = layer.expert[rows], np.where(layer.kept[rows], layer.gate[rows], 0)
    return np.bincount(expert[expert >= 0], gate[expert >= 0], layer.experts)


def touched(layer: LayerTrace, token: int) -> list[int]:
    """The experts that work for a token, the one with the largest sum of gates first."""
    total = gate_sums(layer, token)
    return [int(e) for e in ranking(total) if total[e] > 0]


def queues(layer: LayerTrace) -> list[list[tuple[int, int]]]:
    """For every expert the (sub-token, choice) it serves, in the order of its places."""
    found: list[list[tuple[int, int, int]]] = [[] for _ in range(layer.experts)]
    for s, k in np.argwhere(layer.kept):
        found[layer.expert[s, k]].append((int(layer.slot[s, k]), int(s), int(k)))
    return [[(s, k) for _, s, k in sorted(line)] for line in found]


def scattered_back(layer: LayerTrace) -> bool:
    """Gather and scatter undo each other: every kept choice stands in exactly one queue."""
    served = sorted(pair for line in queues(layer) for pair in line)
    return served == [(int(s), int(k)) for s, k in np.argwhere(layer.kept)]


# ------------------------------------------------------------------------ two stored runs

#: A dead expert has less than this part of the fair share 1/E, on average over WINDOW steps.
DEAD = 0.2
WINDOW = 20


@dataclass(frozen=True)
class Replay:
    """A stored training run, thinned to n points. step [n] (1-based, end of each bin);
    loss [n] nats per token; share [n, L, E] of demand; dead [n, L] experts."""

    name: str
    alpha: float
    top_k: int
    step: np.ndarray
    loss: np.ndarray
    share: np.ndarray
    dead: np.ndarray


def replay(
    name: str,
    alpha: float,
    loss: np.ndarray,
    demand: np.ndarray,
    *,
    top_k: int = 1,
    points: int = 125,
) -> Replay:
    """loss [steps], demand [steps, L, E] -> means over equal bins; dead over WINDOW steps."""
    steps = len(loss)
    width = max(1, steps // points)
    ends = np.arange(width, steps + 1, width)
    share = np.asarray(demand, np.float64)
    share = share / share.sum(-1, keepdims=True)
    binned = np.stack([share[e - width : e].mean(0) for e in ends])
    recent = np.stack([share[max(0, e - WINDOW) : e].mean(0) for e in ends])
    dead = np.array([[dead_experts(layer, DEAD) for layer in point] for point in recent])
    return Replay(
        name=name,
        alpha=alpha,
        top_k=top_k,
        step=ends,
        loss=np.array([loss[e - width : e].mean() for e in ends], np.float64),
        share=binned,
        dead=dead,
    )


def checks_of_product(sub: np.ndarray, router: np.ndarray, logits: np.ndarray) -> bool:
    """x W = H: the recorded scores are the product of the recorded inputs and the weights."""
    return bool(np.allclose(sub @ router.T, logits, atol=1e-4))
