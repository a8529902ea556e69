"""What is measured of the routing of pictures beyond ``mhmoe.analysis.report``, as dictionaries.

A layer is a LayerTrace of N pictures of T patches end to end; intervals draw whole pictures again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mhmoe.analysis import attributes, balance, complexity, nulls, report, routing, specialisation
from mhmoe.analysis.attributes import Objects
from mhmoe.analysis.report import Routed
from mhmoe.trace import LayerTrace

# ------------------------------------------------------------------------ attributes


def of_attributes(r: Routed, objects: Objects) -> dict:
    """``experts``: what all choices of a patch tell of each attribute of its object; of several
    heads also what the first choice of each ``head`` does, and the ``spread`` of their
    preferences (``mhmoe.analysis.attributes``)."""
    layer = r.layer
    count = objects.count(r.hits.reshape(-1, layer.experts))
    found: dict = {
        "objects": int((count.sum(1) > 0).sum()),
        "experts": {
            name: report.information(
                objects.tables(count, name), _dealt_out(count, name, objects), words, r
            )
            for name, words in objects.names.items()
        },
    }
    if layer.heads == 1:
        return found
    first = layer.expert[:, 0].reshape(-1, layer.heads)
    counts = [objects.count(np.eye(layer.experts)[column]) for column in first.T]
    heads = [
        {
            name: report.explained(objects.tables(count, name), _dealt_out(count, name, objects), r)
            for name in objects.names
        }
        for count in counts
    ]
    return found | {"heads": heads, "spread": _spread(counts, heads, objects, r)}


def _dealt_out(count_OE: np.ndarray, name: str, objects: Objects) -> np.ndarray:
    """[draws] information about one attribute when the objects in view swap it among them."""
    seen, label = count_OE.sum(1) > 0, objects.label[name]
    return specialisation.of_windows(
        count_OE[seen], label[seen], len(objects.names[name]), report.SHUFFLES, report.SEED
    )


def _spread(counts: list[np.ndarray], heads: list[dict], objects: Objects, r: Routed) -> dict:
    """``attributes.beyond_rank_one`` of the heads' shares of information, against exchanging them
    within each picture."""
    patches = objects.per_picture(counts[0].sum(1))
    share = np.empty((len(patches), len(heads), len(objects.names)))
    for h, (count, head) in enumerate(zip(counts, heads, strict=True)):
        for a, (name, words) in enumerate(objects.names.items()):
            bits = attributes.pointwise(count, objects.label[name], len(words))
            less = head[name]["test"]["chance"] * patches
            share[:, h, a] = (objects.per_picture(bits) - less) / head[name]["class_bits"]
    value = float(attributes.beyond_rank_one(share.sum(0) / patches.sum()))
    drawn = np.tensordot(r.draws, share, 1) / (r.draws @ patches)[:, None, None]
    chance = attributes.exchanged(share / patches.sum(), report.SHUFFLES, report.SEED)
    return {
        "value": value,
        "interval": report.recentred(attributes.beyond_rank_one(drawn), value),
        "test": report.tested(value, chance),
    }


# ------------------------------------------------------------------------ complexity


def of_complexity(r: Routed, map_NT: np.ndarray) -> dict:
    """Rank correlation of a map of complexity with the experts of each patch, mean of the pictures:
    ``distinct`` over all choices, and ``first`` among the heads' first choices alone."""
    layer, N = r.layer, len(r.group)
    experts = {"distinct": routing.distinct_experts(layer), "first": routing.first_choices(layer)}
    return {name: correlated(r, each.reshape(N, -1), map_NT) for name, each in experts.items()}


def correlated(r: Routed, value_NT: np.ndarray, map_NT: np.ndarray) -> dict:
    """Their rank correlation with both of its nulls."""
    found = r.mean(complexity.correlations(value_NT, map_NT))
    for null in complexity.NULLS:
        drawn = complexity.by_chance(value_NT, map_NT, null, report.SHUFFLES, report.SEED)
        found[null] = report.tested(found["value"], drawn)
    return found


def grown(first: LayerTrace, r: Routed, map_NT: np.ndarray) -> dict:
    """How much more the distinct experts of a patch go with the map in a later layer than in the
    ``first``, the same one at an earlier step."""
    now, before = (
        complexity.correlations(routing.distinct_experts(one).reshape(map_NT.shape), map_NT)
        for one in (r.layer, first)
    )
    return r.mean(now - before)


def correlation(layers: Sequence[dict]) -> float:
    """Of ``of_complexity`` the mean over the layers, of all choices."""
    return float(np.mean([layer["distinct"]["value"] for layer in layers]))


def in_short(content: dict) -> dict:
    """Means over the layers of ``of_attributes`` and ``of_complexity``, for models that only serve
    to be compared with."""
    layers = content["attributes"]
    found: dict = {
        "explained": {
            name: float(np.mean([layer["experts"][name]["explained"] for layer in layers]))
            for name in layers[0]["experts"]
        }
    }
    if "complexity" in content:
        found["spread"] = float(np.mean([layer["spread"]["value"] for layer in layers]))
        found["texture"] = correlation(content["complexity"])
    return found


# ------------------------------------------------------------------------ slots


def effective_patches(dispatch_NTP: np.ndarray) -> np.ndarray:
    """[N, E*P] exp(entropy) of the weights with which each slot averages a picture's T patches,
    dispatch [N, T, E*P]: T where it takes all alike, 1 where it takes one."""
    return balance.effective(dispatch_NTP.swapaxes(1, 2))


def of_slots(effective_NP: np.ndarray, untrained: Sequence[float], patches: int) -> dict:
    """Effective patches per slot, mean over slots and pictures; ``untrained``: the same number of
    models that have learned nothing, one per seed."""
    per_picture = effective_NP.mean(1)
    draws = nulls.resampled(np.zeros(len(per_picture)), report.BOOTSTRAP, report.SEED)
    return {
        "value": float(per_picture.mean()),
        "interval": nulls.mean_interval(per_picture, draws),
        "slots": effective_NP.mean(0).tolist(),
        "uniform": patches,
        "untrained": [float(one) for one in untrained],
    }
