"""The data of the router chapter's pictures: arrays in, plain lists out, ready for the browser.

The browser component draws them as SVG (assets/plates). Numbers are computed in ``analysis``;
here they are only rounded, cut to what is shown, and packed. Indices count from 0.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np

from mhmoe.analysis import router as arithmetic
from mhmoe.analysis.router import Replay, Stops
from mhmoe.trace import GATES, LayerTrace

#: Rows that one picture of the matrix product, and of the permutation, can hold legibly.
PRODUCT_ROWS, FLOW_TOKENS = 24, 10
COORDINATES = 16


def rounded(values: np.ndarray, digits: int = 4) -> list:
    return np.round(np.asarray(values, np.float64), digits).tolist()


def packed(values: np.ndarray) -> dict:
    """float32 in base64 with its shape, for arrays that lists would make too large."""
    data = np.ascontiguousarray(values, "<f4")
    return {"f4": base64.b64encode(data.tobytes()).decode("ascii"), "shape": list(data.shape)}


def window(chosen: int, total: int, size: int) -> tuple[int, int]:
    """The ``size`` neighbours of ``chosen`` that are drawn, [start, stop)."""
    start = max(0, min(chosen - size // 2, total - size))
    return start, min(total, start + size)


def zoom(
    layer: LayerTrace, blocks: int, opened, token: int, head: int, neurons: np.ndarray
) -> dict:
    """VG-17. ``opened`` is the engine's OpenedLayer; neurons [F] of the first choice."""
    s = token * layer.heads + head
    strongest = np.sort(neurons)[::-1]
    return {
        "plate": "zoom",
        "blocks": blocks,
        "layer": layer.layer,
        "heads": layer.heads,
        "width": opened.sub.shape[1] * layer.heads,
        "slice": opened.sub.shape[1],
        "experts": layer.experts,
        "chosen": layer.expert[s].tolist(),
        "gate": rounded(layer.gate[s]),
        "hidden": opened.hidden,
        "firing": int((neurons > 0).sum()),
        "neurons": rounded(strongest[:: max(1, len(strongest) // 192)], 3),
        "parameters": opened.parameters,
    }


def gates(layer: LayerTrace, token: int, head: int) -> dict:
    """VG-16, 38. One row of scores under the three gate conventions."""
    s = token * layer.heads + head
    scores = layer.logits[s]
    return {
        "plate": "gates",
        "k": layer.top_k,
        "scores": rounded(scores),
        "probs": rounded(layer.probs[s]),
        "chosen": layer.expert[s].tolist(),
        "convention": layer.gate_convention,
        "gates": {name: rounded(arithmetic.gates(scores, layer.top_k, name)) for name in GATES},
    }


def product(layer: LayerTrace, opened, names: Sequence[str], token: int, head: int) -> dict:
    """VG-19, 39. x [rows, D/H], W [D/H, E], H [rows, E]; rows are whole tokens."""
    H = layer.heads
    size = max(1, PRODUCT_ROWS // H)
    start, stop = window(token, layer.sub_tokens // H, size)
    rows = slice(start * H, stop * H)
    return {
        "plate": "product",
        "x": packed(opened.sub[rows]),
        "w": packed(opened.router.T),
        "h": packed(layer.logits[rows]),
        "chosen": layer.expert[rows].tolist(),
        "heads": H,
        "names": list(names[start:stop]),
        "first": start,
        "total": layer.sub_tokens // H,
        "row": (token - start) * H + head,
        "expert": int(layer.expert[token * H + head, 0]),
    }


def scrubbed(layer: LayerTrace, token: int, head: int) -> dict:
    """VG-20. Every stop of the three controls."""
    scores, k = layer.logits[token * layer.heads + head].astype(float), layer.top_k
    return {
        "plate": "softmax",
        "k": k,
        "experts": layer.experts,
        "temperature": _stops(arithmetic.by_temperature(scores, k)),
        "push": [_stops(arithmetic.by_push(scores, e, k), e) for e in range(layer.experts)],
        "shift": _stops(arithmetic.by_shift(scores, k)),
    }


def _stops(found: Stops, moved: int | None = None) -> dict:
    scores = found.scores if moved is None else found.scores[:, moved]
    return {
        "values": rounded(found.values, 3),
        "scores": rounded(scores, 3),
        "probs": rounded(found.probs),
        "entropy": rounded(found.entropy, 3),
        "margin": rounded(found.margin, 3),
        "lse": rounded(found.lse, 3),
        "chosen": found.chosen.tolist(),
    }


def mixture(
    layer: LayerTrace,
    error_ET: np.ndarray,
    macs: np.ndarray,
    bits: np.ndarray,
    token: int,
    head: int,
) -> dict:
    """VG-18. k = 1..E."""
    s = token * layer.heads + head
    order = arithmetic.ranking(layer.logits[s])
    return {
        "plate": "mixture",
        "trained": layer.top_k,
        "order": order.tolist(),
        "probs": rounded(layer.probs[s][order]),
        "error": rounded(error_ET[:, token]),
        "mean": rounded(error_ET.mean(1)),
        "macs": [int(v) for v in macs],
        "bits": [None if np.isnan(v) else round(float(v), 4) for v in bits],
    }


def stack(
    parts_ED: np.ndarray,
    out_D: np.ndarray,
    experts: Sequence[int],
    gate_sums: np.ndarray,
    predictions: Sequence[dict],
    shift: np.ndarray,
) -> dict:
    """VG-21. The coordinates with the largest output, one signed part per expert; for each
    expert the next tokens with it and without it."""
    shown = np.argsort(-np.abs(out_D), kind="stable")[:COORDINATES]
    return {
        "plate": "stack",
        "coordinates": shown.tolist(),
        "width": len(out_D),
        "experts": list(experts),
        "gates": rounded(gate_sums, 3),
        "parts": [rounded(parts_ED[e][shown]) for e in experts],
        "out": rounded(out_D[shown]),
        "next": list(predictions),
        "shift": rounded(shift),
    }


def flow(layer: LayerTrace, names: Sequence[str], token: int) -> dict:
    """VG-23. Tokens in order, their choices in the experts' queues, and back in order."""
    H, T = layer.heads, layer.sub_tokens // layer.heads
    start, stop = window(token, T, FLOW_TOKENS)
    rows = range(start * H, stop * H)
    lines = [
        [[s - start * H, k, round(float(layer.gate[s, k]), 4)] for s, k in line if s in rows]
        for line in arithmetic.queues(layer)
    ]
    return {
        "plate": "flow",
        "heads": H,
        "k": layer.top_k,
        "names": list(names[start:stop]),
        "first": start,
        "total": T,
        "token": token - start,
        "queues": lines,
        "load": layer.load.tolist(),
        "multi": H > 1,
    }


def collapse(runs: Sequence[Replay]) -> dict:
    """VG-24. Shares as bytes would lose dead experts: thousandths in 16 bits."""
    return {
        "plate": "collapse",
        "threshold": arithmetic.DEAD,
        "window": arithmetic.WINDOW,
        "step": runs[0].step.tolist(),
        "runs": [
            {
                "name": run.name,
                "alpha": run.alpha,
                "loss": rounded(run.loss, 3),
                "share": packed(run.share.astype(np.float32)),
                "dead": run.dead.tolist(),
            }
            for run in runs
        ],
    }
