"""The data of chapter 5's pictures, ready for the browser (assets/plates/60-.. to 68-..).

Numbers are computed in ``analysis`` and the engine; here they are only rounded, cut to what is
shown, and packed. Indices count from 0.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mhmoe.analysis import balance as evenness
from mhmoe.analysis import capacity as counted
from mhmoe.figures.plates import packed, rounded
from mhmoe.trace import LayerTrace

#: As in the explorer: a choice is one byte, +128 without a place, 255 for none.
NONE, AWAY = 255, 128


def octets(values: np.ndarray) -> str:
    """uint8 in base64."""
    return base64.b64encode(np.ascontiguousarray(values, np.uint8).tobytes()).decode("ascii")


def optional(values: np.ndarray, digits: int = 4) -> list:
    """Rounded, None where a number is missing."""
    return [None if np.isnan(v) else round(float(v), digits) for v in values]


@dataclass(frozen=True)
class Outcome:
    """One policy on the board. ``filled`` is the engine's Filled of n factors; error, chance and
    bits are [n]; bits is None where no model was run."""

    key: str
    filled: object
    error: np.ndarray | None
    chance: np.ndarray | None
    bits: np.ndarray | None


def policy(outcome: Outcome, experts: int) -> dict:
    """One policy's outcome at every factor: choices as bytes [n, S, K], service order, counts."""
    f = outcome.filled
    S, K = f.expert.shape[1:]
    away = np.where(f.expert < 0, NONE, np.where(f.kept, f.expert, f.expert + AWAY))
    load = counted.loads(f.expert, f.kept, experts)
    wanted = np.take_along_axis(f.probs, f.ranked[:, :K], 1)
    by_position = bool((f.order == np.arange(S)).all())
    missing = [None] * len(f.capacity)
    return {
        "key": outcome.key,
        "k": K,
        "capacity": list(f.capacity),
        "choice": octets(away),
        "order": None if by_position else f.order.tolist(),
        "load": load.tolist(),
        "demand": np.bincount(f.ranked[:, :K].ravel(), minlength=experts).tolist(),
        "dropped": rounded(counted.dropped(f.kept)),
        "empty": optional(counted.empty(load, f.capacity)),
        "lost": rounded(counted.gate_lost(f.gate, f.kept, wanted)),
        "error": missing if outcome.error is None else rounded(outcome.error),
        "chance": missing if outcome.chance is None else rounded(outcome.chance),
        "bits": missing if outcome.bits is None else optional(outcome.bits),
    }


def board_case(
    key: str,
    names: Sequence[str],
    heads: int,
    outcomes: Sequence[Outcome],
    *,
    full: Sequence[str] = (),
    trained: float | None = None,
    start: int = 0,
    ask: Mapping[str, object] | None = None,
    note: str = "",
) -> dict:
    """One input on the board, under all policies. ``full`` names tokens within their words, as
    far as that differs from ``names``; ``trained`` is the bits per byte without any
    limit and with the K of training; ``start`` is the index of the factor shown first."""
    first = outcomes[0].filled
    S, E = first.ranked.shape
    return {
        "key": key,
        "names": list(names),
        "full": list(full or names),
        "heads": heads,
        "experts": E,
        "count": S,
        "ranked": octets(first.ranked),
        "probs": packed(first.probs),
        "policies": [policy(outcome, E) for outcome in outcomes],
        "trained": None if trained is None else round(trained, 4),
        "start": start,
        "ask": None if ask is None else dict(ask),
        "note": note,
    }


def board(
    cases: Sequence[dict],
    factors: Sequence[float | None],
    layer: int,
    *,
    token: int | None = None,
    chosen: str = "drop",
) -> dict:
    """VG-36, 37, 40, 41, 42. ``layer`` counts from 1; it is 0 where there is none."""
    return {
        "plate": "board",
        "cases": list(cases),
        "factors": list(factors),
        "layer": layer,
        "token": token,
        "policy": chosen,
    }


# ------------------------------------------------------------------------------- VG-35


def demand_case(
    key: str, names: Sequence[str], growing_TE: np.ndarray, chance_3T: np.ndarray | None
) -> dict:
    """Demand after 1 .. T tokens, with MaxVio, Gini and the experts that would be busy."""
    return {
        "key": key,
        "names": list(names),
        "demand": growing_TE.tolist(),
        "violation": rounded(evenness.max_violation(growing_TE), 3),
        "gini": rounded(counted.gini(growing_TE), 3),
        "effective": rounded(evenness.effective(growing_TE), 2),
        "chance": None if chance_3T is None else rounded(chance_3T, 3),
    }


def demand(cases: Sequence[dict], layer: int) -> dict:
    """VG-35."""
    return {"plate": "demand", "cases": list(cases), "layer": layer}


# ------------------------------------------------------------------------------- VG-40, 41


def places(
    tokens: Sequence[int],
    heads: Sequence[int],
    experts: Sequence[int],
    choices: Sequence[int],
    factors: Sequence[float],
    table: np.ndarray,
    start: Mapping[str, int],
    guide: Mapping[str, int],
) -> dict:
    """The capacity formula. table [heads, experts, choices, factors, tokens] is C; ``start`` and
    ``guide`` are indices into the five lists, by their names here."""
    return {
        "plate": "places",
        "axes": {
            "heads": list(heads),
            "experts": list(experts),
            "choices": list(choices),
            "factors": list(factors),
            "tokens": list(tokens),
        },
        "table": base64.b64encode(np.ascontiguousarray(table, "<u2").tobytes()).decode("ascii"),
        "start": dict(start),
        "guide": dict(guide),
    }


# ------------------------------------------------------------------------------- VG-42


def sweep(
    layers: Sequence[Sequence[LayerTrace]],
    factors: Sequence[float | None],
    chance: np.ndarray,
    bits: Sequence[float | None],
    chosen: int,
) -> dict:
    """VG-42. layers[l][n]: layer l in the whole model run at factor n."""
    rows = []
    for runs in layers:
        capacity = [run.capacity for run in runs]
        load = np.stack([run.load for run in runs])
        rows.append(
            {
                "layer": runs[0].layer,
                "dropped": rounded(np.array([run.dropped_share for run in runs])),
                "empty": optional(counted.empty(load, capacity)),
            }
        )
    return {
        "plate": "sweep",
        "factors": list(factors),
        "capacity": [run.capacity for run in layers[0]],
        "layers": rows,
        "chance": rounded(chance),
        "bits": [None if b is None else round(float(b), 4) for b in bits],
        "chosen": chosen,
    }


# ------------------------------------------------------------------------------- VG-43


def balance_case(
    key: str, names: Sequence[str], heads: int, probs_NE: np.ndarray, pushes, expert_N: np.ndarray
) -> dict:
    """f and P of N sub-tokens with one choice each. ``pushes`` is the engine's Pushes, whose
    shift 0 is the case itself; ``expert`` says where the chips lie at first."""
    return {
        "key": key,
        "names": list(names),
        "heads": heads,
        "experts": probs_NE.shape[1],
        "expert": expert_N.tolist(),
        "mean": rounded(probs_NE.mean(0), 5),
        "jacobian": rounded(counted.mean_jacobian(probs_NE), 5),
        "shifts": rounded(pushes.shifts, 3),
        "rest": int(np.abs(pushes.shifts).argmin()),
        "pushed": {
            "expert": octets(pushes.expert),
            "mean": packed(pushes.mean),
            "slope": packed(pushes.slope),
            "balance": packed(pushes.balance),
        },
    }


def balance(cases: Sequence[dict], alpha: float) -> dict:
    """VG-43."""
    return {"plate": "balance", "cases": list(cases), "alpha": alpha}
