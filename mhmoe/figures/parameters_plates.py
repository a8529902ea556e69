"""The data of the parameter chapter's pictures: counts in, plain lists out (see ``plates``).

Counts of weights stay whole numbers all the way, so that a sum in the browser is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mhmoe.analysis import budget
from mhmoe.analysis.budget import Anatomy, Cost
from mhmoe.analysis.parameters import Counted
from mhmoe.analysis.routing import distinct_chance
from mhmoe.figures.plates import rounded


@dataclass(frozen=True, eq=False)
class ModelHeld:
    """One of our models, and what the visitor's text used of it.

    visits  [E, L, T, E] for k = 1..E how many sub-tokens of a token chose each expert
    bits    [E] bits per byte of the text, NaN for a single token; macs [E] of one token
    first   [L, E] the first token that visits each expert, as trained
    """

    name: str
    parts: Anatomy
    heads: int
    trained: int
    visits: np.ndarray
    bits: np.ndarray
    macs: np.ndarray
    first: np.ndarray

    @property
    def layers(self) -> int:
        return len(self.parts.blocks)

    @property
    def experts(self) -> int:
        return self.visits.shape[-1]

    @property
    def expert(self) -> int:
        """Weights of one expert of one layer."""
        return self.parts.blocks[0]["experts"] // self.experts

    def active(self, visited: np.ndarray | float) -> np.ndarray | float:
        """All weights but those of the experts, of all layers, that were not visited."""
        return self.parts.total - (self.layers * self.experts - visited) * self.expert


def treemap(models: Sequence[ModelHeld], model: int, token: int, name: str) -> dict:
    """VG-54 for one token, at every k."""
    return {
        "plate": "treemap",
        "model": model,
        "name": name,
        "models": [_tree(held, token) for held in models],
    }


def _tree(held: ModelHeld, token: int) -> dict:
    L, E = held.layers, held.experts
    visits = held.visits[:, :, token]
    visited = (visits > 0).sum((1, 2))
    ks = range(1, E + 1)
    return {
        "name": held.name,
        "outside": held.parts.outside,
        "blocks": list(held.parts.blocks),
        "heads": held.heads,
        "experts": E,
        "expert": held.expert,
        "units": L * E,
        "trained": held.trained,
        "total": held.parts.total,
        "visits": visits.tolist(),
        "active": held.active(visited).tolist(),
        "sub": [held.active(L * k) for k in ks],
        "chance": [round(L * distinct_chance(E, k, held.heads), 3) for k in ks],
        "bits": [None if np.isnan(v) else round(float(v), 4) for v in held.bits],
        "macs": [int(v) for v in held.macs],
    }


def batch(models: Sequence[ModelHeld], model: int, tokens: Sequence[str], ask: int) -> dict:
    """VG-54 for the first 1, 2, ... tokens; ``ask``: for how many the visitor is asked."""
    T = len(tokens)
    return {
        "plate": "batch",
        "model": model,
        "tokens": list(tokens),
        "ask": ask,
        "models": [
            {
                "name": held.name,
                "experts": held.experts,
                "units": held.layers * held.experts,
                "first": held.first.tolist(),
                "touched": budget.touched(held.first, T).tolist(),
                "chance": rounded(
                    budget.touched_chance(held.layers, held.experts, held.trained, held.heads, T),
                    2,
                ),
            }
            for held in models
        ],
    }


def calculator(name: str, stops: Sequence[int], counted: Sequence[Counted], own: Counted) -> dict:
    """VG-55, 56. One model at every number of chosen experts; ``own`` is its own."""
    return {
        "plate": "budget",
        "name": name,
        "ks": list(stops),
        "trained": list(counted).index(own),
        "parts": [{"name": part.name, "total": part.total} for part in own.parts],
        "active": [[part.active for part in found.parts] for found in counted],
        "macs": [found.macs(0) for found in counted],
        "attended": own.attended,
        "contexts": list(budget.CONTEXTS),
        "units": list(own.units),
        "visited": [found.units[1] for found in counted],
    }


def costs(
    sizes: Mapping[tuple, Mapping[str, Cost]], weights: Mapping[tuple, tuple[int, int, int]]
) -> dict:
    """Measured times by size, each with the weights of the dense layer of its active size, of ours
    and of the dense layer of its total size."""
    rows = []
    for size, found in sizes.items():
        tokens, experts, k, heads, d, _ = size
        times = {which: [cost.active, cost.ours, cost.total] for which, cost in found.items()}
        touched = distinct_chance(experts, k, tokens * heads)
        rows.append(
            {
                "tokens": tokens,
                "experts": experts,
                "k": k,
                "heads": heads,
                "d": d,
                "weights": list(weights[size]),
                "touched": round(touched, 1),
                **times,
            }
        )
    return {"plate": "costs", "rows": rows}


def parity(
    heads: Sequence[int],
    stops: Sequence[Mapping[str, object]],
    times: Mapping[tuple[str, int], float] | None,
    multi: Sequence[str],
    start: int,
) -> dict:
    """Every design at every number of heads; ``stops`` are analysis.parity's members."""
    return {
        "plate": "parity",
        "heads": list(heads),
        "start": start,
        "timed": times is not None,
        "stops": [
            [_design(design, member, h, times, multi) for design, member in found.items()]
            for h, found in zip(heads, stops, strict=True)
        ],
    }


def _design(design: str, member, h: int, times, multi: Sequence[str]) -> dict:
    if member is None:
        return {"design": design, "problem": True}
    row = {"design": design, "problem": False, **vars(member)}
    if times is not None:
        key = (design, h) if design in multi else (design, 1)
        found = times.get(("smoe", 1) if design in multi and h == 1 else key)
        row["ms"] = None if found is None else round(found, 3)
    return row
