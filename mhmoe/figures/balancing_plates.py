"""The data of the pictures of chapter 4: arrays in, plain lists out, ready for the browser.

Numbers are computed in ``analysis`` and by the layers; here they are only rounded, cut to what is
shown, and packed. Indices count from 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mhmoe.analysis import balance, balancing
from mhmoe.analysis.balancing import Kept
from mhmoe.analysis.router import gates, softmax
from mhmoe.figures.plates import packed, rounded, window
from mhmoe.trace import LayerTrace

#: Rows that the pictures can hold legibly.
MASK_ROWS, CHOICE_ROWS = 12, 12


def importance(
    layer: LayerTrace,
    names: Sequence[str],
    sums: Mapping[str, np.ndarray],
    chance: Mapping[str, np.ndarray],
) -> dict:
    """VG-30. Per gate convention what each token gives each expert, and the CV after each token
    beside its chance level."""
    return {
        "plate": "importance",
        "names": list(names),
        "experts": layer.experts,
        "heads": layer.heads,
        "ours": layer.gate_convention,
        "cases": {
            key: {
                "given": packed(given),
                "cv": rounded(balancing.growing_variation(given)),
                "chance": rounded(chance[key]),
            }
            for key, given in sums.items()
        },
    }


def noise(
    clean_E: np.ndarray,
    top_k: int,
    scales: Sequence[float],
    sources: Sequence[tuple[str, np.ndarray, object]],
    sub_tokens: int,
    draws: int,
) -> dict:
    """VG-25. Per source of noise (key, std [E], the engine's Redrawn): every scale, every draw."""
    return {
        "plate": "noise",
        "k": top_k,
        "clean": rounded(clean_E),
        "calm": np.argsort(-clean_E, kind="stable")[:top_k].tolist(),
        "scales": list(scales),
        "rest": list(scales).index(1),
        "total": sub_tokens,
        "draws": draws,
        "sources": [
            {
                "key": key,
                "std": rounded(std_E),
                "noisy": packed(found.noisy),
                "chosen": found.chosen.tolist(),
                "share": rounded(found.share, 3),
                "closed": rounded(found.closed, 3),
                "moved": found.moved.tolist(),
            }
            for key, std_E, found in sources
        ],
    }


def mask(layer: LayerTrace, names: Sequence[str], token: int, head: int) -> dict:
    """VG-26, 27. Rows of whole tokens around the followed one, for every k."""
    H = layer.heads
    start, stop = window(token, layer.sub_tokens // H, max(1, MASK_ROWS // H))
    scores = layer.logits[start * H : stop * H].astype(float)
    every = [gates(scores, k, "topk-softmax") for k in range(1, layer.experts + 1)]
    return {
        "plate": "mask",
        "k": layer.top_k,
        "heads": H,
        "names": list(names[start:stop]),
        "row": (token - start) * H + head,
        "scores": rounded(scores, 3),
        "rank": balancing.ranks(scores).tolist(),
        "probs": rounded(softmax(scores)),
        "gates": packed(np.stack(every)),
        "total": layer.sub_tokens // H,
        "first": start,
    }


def choice(
    layer: LayerTrace,
    names: Sequence[str],
    token: int,
    weights: Mapping[str, Sequence[np.ndarray]],
) -> dict:
    """VG-28, 29. weights: per method one [S, E] for each k = 1, 2, ..; those of a window are
    drawn, counts are over all sub-tokens."""
    H = layer.heads
    start, stop = window(token, layer.sub_tokens // H, max(1, CHOICE_ROWS // H))
    rows = slice(start * H, stop * H)
    return {
        "plate": "choice",
        "k": layer.top_k,
        "heads": H,
        "experts": layer.experts,
        "names": list(names[start:stop]),
        "token": token - start,
        "first": start,
        "total": layer.sub_tokens,
        "methods": [
            {
                "key": key,
                "weight": packed(np.stack([w[rows] for w in found])),
                "load": [((w > 0).sum(0)).tolist() for w in found],
                "read": [rounded(w.sum(0), 2) for w in found],
                "served": [np.bincount((w > 0).sum(1), minlength=9).tolist() for w in found],
            }
            for key, found in weights.items()
        ],
    }


def bars(live_E: np.ndarray) -> dict:
    """VG-31, 32, 33. The guide's two vectors, even ones, and the layer's own, in shares of the
    largest so that five bars can be dragged."""
    presets = {"guide32": balancing.GUIDE[0], "guide33": balancing.GUIDE[1], "even": (0.4,) * 5}
    presets |= {"one": (1.0, 0.0, 0.0, 0.0, 0.0)}
    found = {key: list(values) for key, values in presets.items()}
    found["live"] = rounded(live_E / live_E.max())
    return {
        "plate": "bars",
        "cases": [
            {
                "key": key,
                "values": values,
                "cv": round(balancing.variation(values), 4),
                "sample": round(balancing.variation(values, sample=True), 4),
            }
            for key, values in found.items()
        ],
    }


def descent(found: Mapping[str, object], sub_tokens: int, top_k: int) -> dict:
    """VG-34. Per kind of pull (the engine's Descent) every strength and step."""
    return {
        "plate": "descent",
        "total": sub_tokens * top_k,
        "cases": [
            {
                "key": key,
                "strengths": list(d.strengths),
                "importance": packed(d.importance),
                "load": packed(d.load),
                "pull": packed(d.pull),
                "added": packed(d.added),
                "cv": rounded(balance.variation(d.importance)),
                "cvload": rounded(balance.variation(d.load)),
                "maxvio": rounded(balance.max_violation(d.load)),
            }
            for key, d in found.items()
        ],
    }


def equal(layer: LayerTrace, convention: str) -> dict:
    """C-08. Gates per expert as blocks: the case made by hand, and the layer's own."""
    own = gates(layer.logits, layer.top_k, convention)
    return {
        "plate": "equal",
        "cases": [_blocks("made", balancing.equal_gates()), _blocks("live", own)],
    }


def _blocks(key: str, gates_SE: np.ndarray) -> dict:
    columns = [sorted(column[column > 0], reverse=True) for column in gates_SE.T]
    return {
        "key": key,
        "tokens": len(gates_SE),
        "blocks": [rounded(np.array(column), 3) for column in columns],
        "importance": rounded(gates_SE.sum(0), 3),
        "load": (gates_SE > 0).sum(0).tolist(),
        "cv": [
            round(float(balance.variation(gates_SE.sum(0))), 3),
            round(float(balance.variation((gates_SE > 0).sum(0))), 3),
        ],
    }


def kept_runs(runs: Sequence[Kept]) -> dict:
    """Stored runs that differ in how, and how hard, their experts are balanced."""
    return {
        "plate": "kept",
        "experts": int(runs[0].final.shape[-1]),
        "runs": [
            {
                "name": run.name,
                "what": run.what or "balance",
                "alpha": run.alpha,
                "k": run.top_k,
                "step": run.step.tolist(),
                "uneven": rounded(run.uneven, 3),
                "final": rounded(run.final),
                "train": round(run.train, 3),
                "validation": round(run.validation, 3),
                "gap": round(run.gap, 3),
            }
            for run in runs
        ],
    }
