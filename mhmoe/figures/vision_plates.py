"""The data of the vision chapter's pictures: arrays in, plain lists out, ready for the browser.

Patches count from 0, row by row. A picture is a data address that the caller made.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np

from mhmoe.analysis import vision
from mhmoe.figures.plates import rounded
from mhmoe.trace import LayerTrace

#: The browser reads one level per character.
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
#: Slots per expert, and patches and slots of the linked matrices, that a picture shows.
SLOTS, CORNER = 8, 16
CROPS = (4, 8, 16, 32)


def characters(levels: np.ndarray) -> str:
    return "".join(ALPHABET[i] for i in levels.ravel())


def as_bytes(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values, np.uint8).tobytes()).decode("ascii")


def patches(src: str, filters: str, grid: int, patch: int, embedding) -> dict:
    """VG-44, 45. ``filters`` is a sheet of small pictures, 16 in a row."""
    colours, share = vision.main_colours(embedding.embedded + embedding.position)
    like = vision.similarity(embedding.position)
    return {
        "plate": "patches",
        "src": src,
        "filters": filters,
        "grid": grid,
        "patch": patch,
        "crops": list(CROPS),
        "width": embedding.embedded.shape[1],
        "colours": as_bytes(colours),
        "share": round(share, 4),
        "like": characters(np.rint(63 * np.clip(like, 0, 1)).astype(np.uint8)),
    }


def tints(src: str, grid: int, rows: Sequence[dict]) -> dict:
    """VG-46. rows: {name, layers: LayerTrace[], distinct: [T] per layer, chance, alike}"""
    return {
        "plate": "tints",
        "src": src,
        "grid": grid,
        "models": [
            {
                "name": row["name"],
                "heads": row["layers"][0].heads,
                "k": row["layers"][0].top_k,
                "experts": row["layers"][0].experts,
                "chance": round(row["chance"], 2),
                "alike": row["alike"],
                "layers": [
                    {
                        "layer": layer.layer,
                        "first": as_bytes(layer.expert[:, 0]),
                        "distinct": as_bytes(distinct),
                        "chosen": as_bytes(layer.expert),
                        "top": round(float(layer.probs.max()), 5),
                        "probs": characters(
                            np.rint(63 * layer.probs / layer.probs.max()).astype(np.uint8)
                        ),
                    }
                    for layer, distinct in zip(row["layers"], row["distinct"], strict=True)
                ],
            }
            for row in rows
        ],
    }


def priority(
    src: str,
    grid: int,
    factors: Sequence[float | None],
    orders: dict[str, list[list[LayerTrace]]],
    classes: dict | None,
    question: dict | None,
    start: int,
    layer: int,
) -> dict:
    """VG-47, 48, 49. orders: name -> [factor][layer]; kept choices 0..K of every patch."""
    first = next(iter(orders.values()))[0]
    return {
        "plate": "priority",
        "src": src,
        "grid": grid,
        "factors": list(factors),
        "capacity": [None if f is None else runs[0].capacity for f, runs in _by(factors, orders)],
        "k": first[0].top_k,
        "layers": [one.layer for one in first],
        "chosen": layer,
        "start": start,
        "question": question,
        "classes": classes,
        "score": [rounded(one.probs.max(1), 3) for one in orders["priority"][-1]],
        "orders": [
            {
                "name": name,
                "kept": [
                    [_digits(vision.kept_choices(one.kept, one.heads)) for one in runs]
                    for runs in found
                ],
            }
            for name, found in orders.items()
        ],
    }


def _by(factors: Sequence[float | None], orders: dict) -> list[tuple]:
    return list(zip(factors, next(iter(orders.values())), strict=True))


def _digits(values: np.ndarray) -> str:
    return "".join(str(int(v)) for v in values)


def curve(rows: Sequence[dict], scenes: int, chance: float) -> dict:
    """VG-49. Rows of a results file's ``capacity`` entry."""
    names = [n for n in ("position", "priority", "random") if any(r["order"] == n for r in rows)]
    free = next(row for row in rows if row["order"] is None)
    factors = sorted({row["factor"] for row in rows if row["order"]})
    by = {(row["order"], row["factor"]): row for row in rows}
    fields = ("accuracy", "low", "high", "kept")
    return {
        "plate": "keepcurve",
        "factors": factors,
        "scenes": scenes,
        "chance": round(chance, 4),
        "free": {f: round(free[f], 4) for f in fields},
        "orders": [
            {"name": n, **{f: [round(by[n, x][f], 4) for x in factors] for f in fields}}
            for n in names
        ],
    }


def mixing(layer: LayerTrace) -> dict:
    """VG-50, 51. A corner of R, D and C; the sums are those of the whole matrices."""
    T, P = layer.logits.shape
    rows = np.linspace(0, T - 1, CORNER + 2).round().astype(int)[1:-1]
    columns = np.linspace(0, P - 1, CORNER + 2).round().astype(int)[1:-1]
    cut = np.ix_(rows, columns)
    return {
        "plate": "mixing",
        "rows": rows.tolist(),
        "columns": columns.tolist(),
        "per": P // layer.experts,
        "size": [T, P],
        "scores": rounded(layer.logits[cut], 2),
        "dispatch": rounded(layer.dispatch[cut], 5),
        "combine": rounded(layer.combine[cut], 5),
        "column_sum": rounded(layer.dispatch.sum(0)[columns], 4),
        "row_sum": rounded(layer.combine.sum(1)[rows], 4),
    }


def slots(src: str, sheet: str, grid: int, layer: LayerTrace, shown: np.ndarray) -> dict:
    """VG-52, 53. shown [E*SLOTS] slots in the order of ``sheet``, SLOTS small pictures a row."""
    T, P = layer.dispatch.shape
    read = vision.reads(layer.dispatch, layer.combine)
    return {
        "plate": "slots",
        "src": src,
        "sheet": sheet,
        "grid": grid,
        "layer": layer.layer,
        "columns": SLOTS,
        "slots": shown.tolist(),
        "per": P // layer.experts,
        "total": P,
        "span": list(vision.SPAN),
        "dispatch": characters(vision.levels(layer.dispatch[:, shown].T, 1 / T)),
        "reads": characters(vision.levels(read, 1 / T)),
        "slot_effective": rounded(vision.effective(layer.dispatch, 0)[shown], 1),
        "patch_effective": rounded(vision.effective(read, 1), 1),
        "largest": rounded(layer.dispatch.max(0)[shown], 4),
        "least": float(f"{read.min():.2e}"),
    }
