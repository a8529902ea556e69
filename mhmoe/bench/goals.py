"""What the layers' speed has to reach, read from the rows of ``bench layer``; and the file of
measured costs that a page draws from.

Goals that are about milliseconds compare with the floor; the others say what they count.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import median

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mhmoe.bench import Row, interleaved
from mhmoe.bench.layer import PASSES, PEERS, Case, _milliseconds
from mhmoe.layers import MoEConfig, MoELayer

FLOOR_GOALS = {"forward": 1.3, "both": 1.4}  # at 4,096 tokens and up to 32 experts
HEADS_GOAL, MANY_EXPERTS_GOAL, GROWTH_GOAL, PEER_GOAL = 1.05, 2.0, 1.5, 1.1
EXPLAINER_MS, EXPLAINER_KERNELS, TRACE_GOAL = 0.4, 25, 1.1
#: Operations that only look at memory in another way although their schema does not say so.
NO_KERNEL = {"_unsafe_view", "_reshape_alias", "lift_fresh"}


def reached(rows: Sequence[dict]) -> list[Row]:
    """The goals that these rows speak about, with what was measured."""
    return [*_floors(rows), *_explainer(rows), *_growth(rows), *_peers(rows)]


def _floors(rows: Sequence[dict]) -> list[Row]:
    found = []
    ms = _by_size(rows)
    for row in (r for r in rows if r["impl"] == "ours"):
        goal = None
        if row["heads"] > 1 and row["d_model"] // row["heads"] <= 128:
            goal = HEADS_GOAL
        elif row["experts"] >= 128:
            goal = MANY_EXPERTS_GOAL
        elif row["tokens"] == 4096 and row["heads"] == 1:
            goal = FLOOR_GOALS[row["pass"]]
        if goal:
            found.append(Row(f"{_name(row)}: floor", row["ms"], ms[_key(row)]["floor"], goal))
    return found


def _explainer(rows: Sequence[dict]) -> list[Row]:
    return [
        Row(f"{_name(row)}: ms", row["ms"], goal=EXPLAINER_MS)
        for row in rows
        if row["impl"] == "ours" and row["pass"] == "forward" and row["experts"] == 8
        if row["tokens"] * row["heads"] <= 64 and row["d_model"] <= 64
    ]


def _growth(rows: Sequence[dict]) -> list[Row]:
    """From 8 to 128 experts with the same k, one head."""
    ms = {
        (r["tokens"], r["experts"], r["top_k"], r["pass"]): r["ms"]
        for r in rows
        if r["impl"] == "ours" and r["heads"] == 1
    }
    return [
        Row(f"16384/8..128/{k} {which}: growth", ms[many], ms[few], GROWTH_GOAL)
        for k, which in product((1, 2), PASSES)
        if (many := (16384, 128, k, which)) in ms and (few := (16384, 8, k, which)) in ms
    ]


def _peers(rows: Sequence[dict]) -> list[Row]:
    """Ours over each peer: the worst size, and the geometric mean of all sizes."""
    found, ms = [], _by_size(rows)
    for name, which in product(PEERS, PASSES):
        ratios = {
            _key(row): ms[_key(row)][PEERS[name].beside] / row["ms"]
            for row in rows
            if row["impl"] == name and row["pass"] == which
        }
        if not ratios:
            continue
        worst = max(ratios, key=ratios.get)
        ours, theirs = ms[worst][PEERS[name].beside], ms[worst][name]
        size = "/".join(map(str, worst[:3]))
        found.append(Row(f"{name}, {which}: worst, {size}", ours, theirs, PEER_GOAL))
        mean = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
        found.append(Row(f"{name}, {which}: mean ratio of {len(ratios)}", mean, goal=1.0))
    return found


def _by_size(rows: Sequence[dict]) -> dict[tuple, dict[str, float]]:
    found: dict[tuple, dict[str, float]] = {}
    for row in rows:
        found.setdefault(_key(row), {})[row["impl"]] = row["ms"]
    return found


def _key(row: dict) -> tuple:
    return tuple(row[n] for n in ("tokens", "experts", "top_k", "heads", "d_model", "d_ff", "pass"))


def _name(row: dict) -> str:
    size = "/".join(str(row[n]) for n in ("tokens", "experts", "top_k", "d_model", "d_ff"))
    heads = f" h={row['heads']}" if row["heads"] > 1 else ""
    return f"{size}{heads} {row['pass']}"


# ------------------------------------------------------------------------- kernels, trace


class Kernels(TorchDispatchMode):
    """Counts operations that run a kernel, allocations included, views not."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        schema = function._schema
        aliases = [r.alias_info for r in schema.returns]
        view = any(a is not None and not a.is_write for a in aliases)
        name = schema.name.split("::")[1]
        if not view and name not in NO_KERNEL:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def kernels(config: MoEConfig, tokens: int) -> list[str]:
    """The operations of one forward pass without gradients."""
    layer = MoELayer(config, torch.Generator().manual_seed(0))
    x = torch.randn(1, tokens, config.d_model)
    with torch.no_grad(), Kernels() as counted:
        layer(x)
    return counted.names


def kernel_rows() -> list[Row]:
    found = []
    for tokens, experts, k, d in (
        (16, 8, 2, 32),
        (64, 8, 1, 64),
        (64, 8, 2, 64),
        (256, 64, 2, 128),
    ):
        config = MoEConfig(d_model=d, d_ff=4 * d, experts=experts, top_k=k)
        count = len(kernels(config, tokens))
        found.append(Row(f"{tokens}/{experts}/{k}/{d}: kernels", count, goal=EXPLAINER_KERNELS))
    return found


def trace_row(runs: int, tokens: int = 4096) -> Row:
    """A forward pass with a trace beside one without."""
    case = Case.of(MoEConfig(d_model=256, d_ff=1024, experts=32, top_k=2), tokens)
    layer = MoELayer(case.config, torch.Generator().manual_seed(0))

    def call(trace: bool) -> float:
        with torch.inference_mode():
            return _milliseconds(lambda _: layer(case.x_TD[None], trace=trace), "forward", case)

    calls = [lambda: call(True), lambda: call(False)]
    interleaved(1, calls)
    with_trace, without = map(median, interleaved(runs, calls))
    return Row(f"{tokens}/32/2 with trace: without", with_trace, without, TRACE_GOAL)


# ------------------------------------------------------------------------- the file


def write(path: Path, rows: Sequence[dict], summary: Sequence[Row], threads: int) -> None:
    """Rows as lists under one head, so that the file stays small."""
    columns = list(rows[0])
    facts = {
        "schema": 1,
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": threads,
        "columns": columns,
        "rows": [[row[name] for name in columns] for row in rows],
        "goals": [row.to_dict() for row in summary],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = json.dumps(facts).replace("], [", "],\n[")
    path.write_text(lines + "\n", encoding="utf-8")
