"""How evenly the experts of a layer are used: numbers of one count of choices per expert.

Every function takes counts [..., E] and works on the last axis, so that a bootstrap or a null
of many draws is one call. Chance is uniform random routing, as in ``mhmoe.analysis.routing``.
"""

from __future__ import annotations

import numpy as np

#: An expert with less than this part of its fair share counts as dead.
DEAD = 0.2
#: Thresholds of the activation share, in fair shares.
THRESHOLDS = np.linspace(0, 2, 21)


def shares(count_E: np.ndarray) -> np.ndarray:
    """[..., E] each expert's part of all choices; zeros where nothing was chosen."""
    count_E = np.asarray(count_E, float)
    return count_E / np.maximum(np.einsum("...e->...", count_E), 1e-300)[..., None]


def entropy(count_E: np.ndarray) -> np.ndarray:
    """[...] nats of the shares: ln E when balanced, 0 when one expert has it all."""
    share = shares(count_E)
    # a product of rows: many times faster than a sum over few experts
    return -np.einsum("...e,...e->...", share, np.log(np.where(share > 0, share, 1)))


def effective(count_E: np.ndarray) -> np.ndarray:
    """[...] exp(entropy): as many evenly used experts have this entropy; 0 without choices."""
    return np.where(np.einsum("...e->...", count_E) > 0, np.exp(entropy(count_E)), 0.0)


def variation(count_E: np.ndarray) -> np.ndarray:
    """[...] CV = std / mean, population form; between 0 and sqrt(E - 1)."""
    mean = np.mean(count_E, -1)
    return np.where(mean > 0, np.std(count_E, -1) / np.where(mean > 0, mean, 1), 0.0)


def max_violation(count_E: np.ndarray) -> np.ndarray:
    """[...] MaxVio = (busiest - mean) / mean (2408.15664); 0 when balanced."""
    mean = np.mean(count_E, -1)
    most = np.max(count_E, -1)
    return np.where(mean > 0, (most - mean) / np.where(mean > 0, mean, 1), 0.0)


def dead(share_E: np.ndarray, threshold: float = DEAD) -> np.ndarray:
    """[...] experts with less than ``threshold`` of the fair share 1/E."""
    share_E = np.asarray(share_E)
    return (share_E < threshold / share_E.shape[-1]).sum(-1)


def by_chance(
    experts: int, top_k: int, sub_tokens: int, draws: int = 1000, seed: int = 0
) -> np.ndarray:
    """[draws, E] counts of uniform random routing, S sub-tokens taking K different experts each.

    Drawn from the normal distribution with the exact means S K/E and covariances (the counts of
    one draw sum to S K); for some hundred sub-tokens and more nobody can tell the difference.
    """
    p = top_k / experts
    z = np.random.default_rng(seed).standard_normal((draws, experts))
    z -= z.mean(1, keepdims=True)
    wide = np.sqrt(sub_tokens * p * (1 - p) * experts / max(1, experts - 1))
    return np.maximum(sub_tokens * p + wide * z, 0.0)


def active_share(
    count_E: np.ndarray, top_k: int, denominator: float, thresholds: np.ndarray = THRESHOLDS
) -> np.ndarray:
    """[..., thresholds] share of experts whose choices / ``denominator`` exceed each threshold.

    MH-MoE (2404.15045, figure 1a) calls an expert activated when its share of selections is above
    a threshold that it does not name, and does not say whether selections are divided by tokens
    (denominator T) or by sub-tokens (T * H). ``thresholds`` are in the fair share K / E of a layer
    that does not split its tokens. Dividing by tokens, balanced routing of H heads exceeds every
    threshold below H fair shares: by counting alone.
    """
    count_E = np.asarray(count_E, float)
    fair = top_k / count_E.shape[-1]
    part = count_E / denominator
    return (part[..., None, :] > thresholds[:, None] * fair).mean(-1)
