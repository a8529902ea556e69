"""Measuring: the app in a browser beside bare pages, the layers beside their matrix products,
training beside that of dense models.

Everything is a median of interleaved runs (ours, floor, ours, floor, ...), so that a machine that
slows down slows both. What is measured, and against what, stands in :mod:`mhmoe.bench.app`,
:mod:`mhmoe.bench.layer` and :mod:`mhmoe.bench.train`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


class BenchError(Exception):
    """A measurement that cannot be made; the message says what is missing."""


class BenchUsage(BenchError):
    """A measurement that was asked for wrongly."""


@dataclass(frozen=True)
class Row:
    """One line of a bench. The goal is for the ratio where there is a floor, else for ours.

    A row that is not about milliseconds names its unit in its name; the number stands in
    ``ours_ms`` all the same, so that every row has the same five fields.
    """

    name: str
    ours_ms: float | None
    floor_ms: float | None = None
    goal: float | None = None

    @property
    def ratio(self) -> float | None:
        if self.ours_ms is None or not self.floor_ms:
            return None
        return self.ours_ms / self.floor_ms

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none, or nothing was measured."""
        reached = self.ours_ms if self.floor_ms is None else self.ratio
        return None if self.goal is None or reached is None else reached <= self.goal

    def to_dict(self) -> dict:
        return {
            "name": self.name,
            "ours_ms": _rounded(self.ours_ms),
            "floor_ms": _rounded(self.floor_ms),
            "ratio": _rounded(self.ratio),
            "goal": self.goal,
        }


def compared(name: str, ours: Sequence[float], floor: Sequence[float], goal: float) -> Row:
    """The row of two interleaved series: the ratio of their medians."""
    return Row(name, median(ours), median(floor), goal)


def interleaved(
    runs: int, actions: Sequence[Callable[[], float]], seconds: float = float("inf")
) -> list[list[float]]:
    """``runs`` results of each action, in turns, the first action changing from round to round.

    Stops early, but never before the third round, when ``seconds`` are over.
    """
    results: list[list[float]] = [[] for _ in actions]
    end = time.monotonic() + seconds
    for run in range(runs):
        if run >= 3 and time.monotonic() > end:
            break
        for turn in range(len(actions)):
            at = (run + turn) % len(actions)
            results[at].append(actions[at]())
    return results


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all values do not exceed; 0 of no values."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


def table(rows: Sequence[dict]) -> str:
    """Rows as plain text, columns as wide as needed."""
    if not rows:
        return "nothing was measured"
    names = list(rows[0])
    lines = [names, *([_shown(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def options(parser: argparse.ArgumentParser) -> None:
    """``bench app|layer|train`` for the command line; each adds its own options."""
    kinds = parser.add_subparsers(metavar="app|layer|train", required=True)
    app = kinds.add_parser("app", help="the app in a browser, beside bare pages")
    app.add_argument("--runs", metavar="N", type=count, default=15, help="of each; default 15")
    app.add_argument("--only", metavar="CASE", nargs="+", help="some of the cases")
    app.set_defaults(measure=_app)
    layer = kinds.add_parser("layer", help="the layers, beside their matrix products")
    layer.add_argument(
        "--sizes",
        metavar="T/E/K[/D/F],...",
        help="tokens/experts/top_k and, unless 256/1024, d_model/d_ff; default: 25 sizes, a "
        "quarter of an hour",
    )
    layer.add_argument("--heads", metavar="H,...", help="default 1, at 4096/32/2 also 2,4,8")
    layer.add_argument("--write", metavar="FILE", help="also keep the costs for the pages")
    layer.set_defaults(measure=_layer)
    train = kinds.add_parser("train", help="steps of training, beside dense models of equal cost")
    train.add_argument("--only", metavar="NAME", nargs="+", help="some of the rows")
    train.set_defaults(measure=_train)
    for kind in (layer, train):
        kind.add_argument("--runs", metavar="N", type=count, default=15, help="default 15")
        kind.add_argument("--threads", metavar="N", type=count, default=1, help="default 1")
        kind.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default cpu")
    for kind in (app, layer, train):
        kind.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Measure what was asked for and print it. Raises BenchError."""
    rows = args.measure(args)
    print(json.dumps(rows, indent=1) if args.json else table(rows))


def _app(args: argparse.Namespace) -> list[dict]:
    from mhmoe.bench import app

    return _seen(row.to_dict() for row in app.measure(args.runs, args.only))


def _layer(args: argparse.Namespace) -> list[dict]:
    from mhmoe.bench import goals, layer

    _check_device(args.device)
    sizes, heads = layer.parse_sizes(args.sizes or layer.SIZES), layer.parse_heads(args.heads)
    rows = _seen(layer.measure(sizes, heads, args.runs, args.threads, args.device))
    summary = goals.reached(rows)
    if args.sizes is None:
        summary += [*goals.kernel_rows(), goals.trace_row(args.runs)]
    print(table([row.to_dict() for row in summary]), file=sys.stderr)
    if args.write:
        goals.write(Path(args.write), rows, summary, args.threads)
    return rows


def _train(args: argparse.Namespace) -> list[dict]:
    from mhmoe.bench import train

    _check_device(args.device)
    return _seen(train.measure(args.only, args.runs, args.threads, args.device))


def _check_device(name: str) -> None:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise BenchUsage("there is no CUDA device here: leave --device out to measure the CPU")


def _seen(rows: Iterable[dict]) -> list[dict]:
    """All rows; each is shown as soon as it is measured, since they take minutes."""
    found = []
    for row in rows:
        found.append(row)
        print(table([row]).splitlines()[1], file=sys.stderr, flush=True)
    return found


def count(value: str) -> int:
    """For argparse: a whole number of at least 1."""
    number = int(value)
    if number < 1:
        raise ValueError
    return number


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
