"""Everything that is measured of one model's routing of held-out data, as plain dictionaries.

A layer is a LayerTrace of N windows of T tokens end to end, or of N pictures of T patches,
S = N * T * H; ``group`` [N] is each window's language; pictures are one group. Every number has its
interval (windows drawn again within their group) and its chance level; draws and seeds are fixed,
so the same routing gives the same report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mhmoe.analysis import (
    balance,
    collapse,
    diversity,
    matching,
    nulls,
    order,
    routing,
    specialisation,
)
from mhmoe.trace import LayerTrace

SEED = 0
BOOTSTRAP = 1000
SHUFFLES = 100


@dataclass(frozen=True)
class Routed:
    """One layer's choices in N windows, and how often each window is drawn in a bootstrap."""

    layer: LayerTrace
    group: np.ndarray
    draws: np.ndarray

    @property
    def tokens(self) -> int:
        return self.layer.sub_tokens // self.layer.heads

    @property
    def expert(self) -> np.ndarray:
        """[N, T, H, K]"""
        layer, N = self.layer, len(self.group)
        return layer.expert.reshape(N, -1, layer.heads, layer.top_k)

    @property
    def hits(self) -> np.ndarray:
        """[N, T, E] choices of each expert by the sub-tokens of each token."""
        layer = self.layer
        counts = diversity.per_token(layer.expert, layer.heads, layer.experts)
        return counts.reshape(len(self.group), -1, layer.experts)

    def mean(self, values: np.ndarray) -> dict:
        """Mean and interval of numbers per token [N * T], or per window [N]."""
        per_window = np.asarray(values, float).reshape(len(self.group), -1).mean(1)
        return {
            "value": float(per_window.mean()),
            "interval": nulls.mean_interval(per_window, self.draws),
        }


def opened(layers: Sequence[LayerTrace], group: np.ndarray) -> list[Routed]:
    draws = nulls.resampled(group, BOOTSTRAP, SEED)
    return [Routed(layer, group, draws) for layer in layers]


# ------------------------------------------------------------------------ balance


def balanced(r: Routed) -> dict:
    """Demand of one layer: shares, and its evenness with interval and chance."""
    layer = r.layer
    drawn = r.draws @ r.hits.sum(1)
    chance = balance.by_chance(layer.experts, layer.top_k, layer.sub_tokens, seed=SEED)
    rows = {
        "entropy": balance.entropy,
        "effective": balance.effective,
        "cv": balance.variation,
        "max_violation": balance.max_violation,
        "dead": lambda count: balance.dead(balance.shares(count)),
    }
    return {
        "share": balance.shares(layer.demand).tolist(),
        **{
            name: {
                "value": float(number(layer.demand)),
                "interval": nulls.interval(number(drawn)),
                "chance": float(number(chance).mean()),
                "chance_interval": nulls.interval(number(chance)),
            }
            for name, number in rows.items()
        },
    }


def activation(every: Sequence[Routed]) -> dict:
    """Share of (layer, expert) pairs above each threshold, selections divided by tokens and by
    sub-tokens, with the curve of uniform random routing."""
    first = every[0]
    E, K, H = first.layer.experts, first.layer.top_k, first.layer.heads
    counts = np.stack([r.layer.demand for r in every])
    drawn = np.stack([r.draws @ r.hits.sum(1) for r in every])  # [L, draws, E]
    chance = balance.by_chance(E, K, first.layer.sub_tokens, seed=SEED)
    found: dict = {"thresholds": balance.THRESHOLDS.tolist(), "fair_share": K / E}
    for name, size in (("tokens", first.tokens), ("sub_tokens", first.tokens * H)):
        draws = balance.active_share(drawn, K, size).mean(0)  # [draws, thresholds]
        low, high = np.array([nulls.interval(column) for column in draws.T]).T
        found[name] = {
            "curve": balance.active_share(counts, K, size).mean(0).tolist(),
            "chance": balance.active_share(chance, K, size).mean(0).tolist(),
            "low": low.tolist(),
            "high": high.tolist(),
        }
    return found


# ------------------------------------------------------------------------ diversity


def diverse(r: Routed) -> dict:
    """Distinct and effective experts per token and the heads' agreement, with three nulls."""
    layer = r.layer
    H, E, K = layer.heads, layer.experts, layer.top_k
    found = diversity.numbers(layer.expert, layer.gate, H, E)
    report = {name: r.mean(values) for name, values in found.items()}
    report["distinct"]["uniform"] = routing.distinct_chance(E, K, H)
    report["agreement"]["uniform"] = K / E
    for null in diversity.NULLS:
        drawn = diversity.null_means(layer.expert, layer.gate, H, E, null, SHUFFLES, SEED)
        for name in found:
            report[name][null] = tested(report[name]["value"], drawn[name])
    return report


# ------------------------------------------------------------------------ collapse


def collapsed(x_NRD: np.ndarray, first_NR: np.ndarray, experts: int, group: np.ndarray) -> dict:
    """X-MoE's RC of the sub-tokens that a layer's router read, by first choice; chance: the same
    sub-tokens dealt out anew among the experts."""
    test = collapse.by_chance(x_NRD, first_NR, experts, SHUFFLES, SEED)
    found = rc(x_NRD, first_NR, experts, group)
    return {**found, "test": tested(found["value"], test)}


def rc(x_NRD: np.ndarray, first_NR: np.ndarray, experts: int, group: np.ndarray) -> dict:
    """RC alone, with its interval."""
    of = collapse.moments(x_NRD, first_NR, experts)
    value = float(collapse.rc(of.drawn(np.ones(len(group)))))
    drawn = np.log(collapse.rc(of.drawn(nulls.resampled(group, BOOTSTRAP, SEED))))
    return {
        "value": value,
        "interval": tuple(np.exp(recentred(drawn, np.log(value))).tolist()),
    }


# ------------------------------------------------------------------------ specialisation


def of_windows(r: Routed, labels: Sequence[str]) -> dict:
    """Experts against the windows' own class, ``group``: its language."""
    counts = r.hits.sum(1)
    of_class = np.eye(len(labels))[r.group]
    draws = specialisation.of_windows(counts, r.group, len(labels), seed=SEED)
    return information(of_class[:, :, None] * counts[:, None], draws, labels, r)


def of_tokens(r: Routed, label_NT: np.ndarray, labels: Sequence[str]) -> dict:
    """Experts against a class of each token, -1 for none."""
    draws = specialisation.of_tokens(r.hits, label_NT, len(labels), SHUFFLES, SEED)
    return information(tables(r, label_NT, len(labels)), draws, labels, r)


def tables(r: Routed, label_NT: np.ndarray, classes: int) -> np.ndarray:
    """[N, classes, E] choices of each expert by the tokens of each class, one table per window."""
    return np.stack(
        [
            specialisation.table(counts, label, classes)
            for counts, label in zip(r.hits, label_NT, strict=True)
        ]
    )


def information(
    count_NCE: np.ndarray, chance: np.ndarray, labels: Sequence[str], r: Routed
) -> dict:
    """``explained`` with how the choices of each class are spread over the experts."""
    table = count_NCE.sum(0)
    return {
        **explained(count_NCE, chance, r),
        "choices": dict(zip(labels, table.sum(1).astype(int).tolist(), strict=True)),
        "share": dict(zip(labels, balance.shares(table).tolist(), strict=True)),
        "uniform": 1 / r.layer.experts,
    }


def explained(count_NCE: np.ndarray, chance: np.ndarray, r: Routed) -> dict:
    """Bits that a choice tells about the class, and the part of the class's own that this is, less
    chance; of tables of classes and experts, one per window."""
    table = count_NCE.sum(0)
    bits = float(specialisation.mutual_information(table))
    entropy = specialisation.class_entropy(table)
    test = tested(bits, chance)
    drawn = np.tensordot(r.draws, count_NCE, 1)
    low, high = recentred(specialisation.mutual_information(drawn), bits)
    return {
        "bits": bits,
        "interval": (low, high),
        "class_bits": entropy,
        "explained": (bits - test["chance"]) / entropy if entropy else 0.0,
        "explained_interval": tuple(
            (end - test["chance"]) / entropy if entropy else 0.0 for end in (low, high)
        ),
        "test": test,
    }


# ------------------------------------------------------------------------ order


def repetition(r: Routed) -> dict:
    """Consecutive tokens with the same first choice, and with any choice in common."""
    layer = r.layer
    found = dict(zip(("first", "any"), order.repeated(r.expert), strict=True))
    report = {name: r.mean(values) for name, values in found.items()}
    report["first"]["uniform"] = 1 / layer.experts
    report["any"]["uniform"] = routing.repetition_chance(layer.experts, layer.top_k)
    for within in ("layer", "window"):
        drawn = order.repeated_shuffled(r.expert, within, SHUFFLES, SEED)
        for name, draws in zip(found, drawn, strict=True):
            report[name][within] = tested(report[name]["value"], draws)
    return report


def pairs(r: Routed) -> dict | None:
    """Co-activation, and its strongest pair against choices paired anew; None for K = 1."""
    layer = r.layer
    if layer.top_k < 2:
        return None
    rng = np.random.default_rng(SEED)
    drawn = [
        order.coactivation(order.unpaired(layer.expert, rng), layer.experts).max()
        for _ in range(SHUFFLES // 2)
    ]
    matrix = order.coactivation(layer.expert, layer.experts)
    windows = layer.expert.reshape(len(r.group), -1, layer.top_k)
    both = np.stack([order.together(rows, layer.experts) for rows in windows])
    again = order.of_first(np.tensordot(r.draws, both, 1)).max((-1, -2))
    return {
        "matrix": matrix.tolist(),
        "uniform": (layer.top_k - 1) / (layer.experts - 1),
        "strongest": float(matrix.max()),
        "interval": recentred(again, float(matrix.max())),
        "test": tested(float(matrix.max()), np.array(drawn)),
    }


def over_time(steps: Sequence[int], choices: Sequence[np.ndarray], r: Routed) -> list[dict]:
    """Of each earlier time against the last: ``r``, the final model on the same windows.

    steps, choices [S, K]  in the order of training, without the last
    """
    layer = r.layer
    later = [*choices[1:], layer.expert]
    return [
        {
            "step": step,
            "saturation": {
                **r.mean(order.overlap(now, layer.expert)),
                "uniform": layer.top_k / layer.experts,
                "demand": order.overlap_chance(now, layer.expert, layer.experts),
            },
            "changed_next": {
                **r.mean(order.changed(now, after)),
                "demand": order.changed_chance(now, after, layer.experts),
            },
        }
        for step, now, after in zip(steps, choices, later, strict=True)
    ]


# ------------------------------------------------------------------------ other seeds


def alike(r: Routed, other: Routed) -> dict:
    """Two seeds' experts of one layer, matched; chance: the tokens of one run dealt out anew."""
    first, second = (one.hits.reshape(-1, one.layer.experts) for one in (r, other))
    partner = matching.matched(first, second)
    value, load = matching.agreement(first, second, partner)
    chance = matching.by_chance(first, second, SHUFFLES, SEED)
    windows = matching.per_window(r.hits, other.hits[..., partner])
    return {
        "value": value,
        "interval": nulls.interval(matching.correlated(r.draws @ windows).mean(-1)),
        "test": tested(value, chance[:, 0]),
        "load": {"value": load, "test": tested(load, chance[:, 1])},
    }


def recentred(draws: np.ndarray, value: float) -> tuple[float, float]:
    """The interval of draws whose mean is not the value: a bootstrap adds its own noise to what
    can only grow by noise, as information and a maximum do."""
    return nulls.interval(draws - draws.mean() + value)


def tested(observed: float, draws: np.ndarray) -> dict:
    """The number against its draws under a null, without the number itself."""
    found = nulls.against(observed, draws).to_dict()
    del found["observed"]
    return found
