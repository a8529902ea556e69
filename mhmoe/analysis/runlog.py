"""What training runs routed, step by step, as one file keeps it for the pages.

A safetensors file in float16 holds one run (a replay) or those of a family. Of each run:

    loss                [steps]             of each kept step's batch, nats
    demand, importance  [steps, layers, E]  shares of the layer's total; a dense model has none

and its facts, JSON in the header: recipe, seed, ``validation`` along the run. In a family's file
the name of the run goes before each array, as in ``text-e8-1/loss``, and behind ``mhmoe.run`` of
its facts, and not all steps are kept, but the first and each ``every``-th (a fact) after it.

How unevenly experts were used follows: ``mhmoe.analysis.balance`` has MaxVio, dead experts and the
like from demand of any shape [..., E].
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

FACTS = "mhmoe.run"
MOST = 90_000  #: bytes of one run's arrays in a family's file; with its facts below 100 kB

#: A run's facts and its arrays.
Run = tuple[dict, dict[str, np.ndarray]]


def thinned(arrays: Mapping[str, np.ndarray], most: int = MOST) -> tuple[int, dict]:
    """``every``, and of the arrays [steps, ...] as many steps as fit into ``most`` bytes."""
    size = sum(2 * values.size for values in arrays.values())
    every = max(1, -(-size // most))
    return every, {name: values[::every] for name, values in arrays.items()}


def save(path: Path, runs: Mapping[str, Run]) -> None:
    """Runs by name; the name of a run that is alone in its file may be empty. Raises OSError,
    SafetensorError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        _key(run, name): np.ascontiguousarray(values, np.float16)
        for run, (_, found) in runs.items()
        for name, values in found.items()
    }
    header = {_key(FACTS, run): json.dumps(facts) for run, (facts, _) in runs.items()}
    save_file(arrays, path, metadata=header)


def names(path: Path) -> list[str]:
    """Names of the runs in a file, sorted. Raises as :func:`load` does."""
    with safe_open(path, "numpy") as file:
        keys = [key for key in file.metadata() if key.split("/")[0] == FACTS]
    return sorted(key[len(FACTS) + 1 :] for key in keys)


def load(path: Path, run: str = "") -> Run:
    """One run. Raises OSError, SafetensorError, and TypeError, KeyError or ValueError where the
    file is something else or does not hold the run."""
    with safe_open(path, "numpy") as file:
        facts = json.loads(file.metadata()[_key(FACTS, run)])
        split = {key: key.rpartition("/") for key in file.keys()}  # noqa: SIM118
        return facts, {part[2]: file.get_tensor(k) for k, part in split.items() if part[0] == run}


def _key(*parts: str) -> str:
    return "/".join(part for part in parts if part)
