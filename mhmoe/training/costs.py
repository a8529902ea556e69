"""What a forward pass takes, beside dense models of equal active and of equal total parameters.

Time: the median over rounds in which all models take their turns in one process
(``mhmoe.bench.interleaved``), on the same batch of held-out text, without gradients; ratios are
within a round, so that a machine that slows down slows both. Memory: the
most bytes that live at once above weights and input; on the CPU every allocation and release that
torch's profiler records, added up in order, on a GPU what torch's allocator counts.

All of it depends on the machine, which is named beside it, and enters no verdict.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from mhmoe.bench import interleaved
from mhmoe.models import metrics
from mhmoe.models.config import ModelConfig
from mhmoe.models.device import describe
from mhmoe.models.transformer import Transformer

ROUNDS = 30
SECONDS = 20.0  #: after which no further round begins


def costs(model: Transformer, windows: np.ndarray) -> dict:
    """Of one pass over the first ``metrics.BATCH`` windows [N, T] of token ids; of a sparse model
    also the median ratio to each dense one, and the middle half of the rounds' ratios."""
    ids = next(metrics.chunks(model, windows))
    models = {"own": model}
    if model.config.moe is not None:
        counts = model.counts()
        models["dense_active"] = dense(model.config, counts["params_active"]).to(ids.device)
        models["dense_total"] = dense(model.config, counts["params_total"]).to(ids.device)
    steps = {name: partial(_forward, one, ids) for name, one in models.items()}
    calls = [partial(_seconds, step, ids.device) for step in steps.values()]
    interleaved(1, calls)  # cold caches, first kernels
    series = dict(zip(steps, map(np.array, interleaved(ROUNDS, calls, SECONDS)), strict=True))
    return {
        "depends_on_machine": True,
        "machine": machine(ids.device),
        "tokens": ids.numel(),
        "rounds": len(series["own"]),
        "models": {
            name: {
                "parameters": one.counts()["params_total"],
                "weight_bytes": sum(p.numel() * p.element_size() for p in one.parameters()),
                "peak_bytes": peak_bytes(steps[name], ids.device),
                "microseconds_per_token": 1e6 * median(series[name]) / ids.numel(),
            }
            for name, one in models.items()
        },
        "ratios": {
            name: {
                "value": median(series["own"] / series[name]),
                "middle_half": np.quantile(series["own"] / series[name], [0.25, 0.75]).tolist(),
            }
            for name in models
            if name != "own"
        },
    }


def dense(config: ModelConfig, parameters: int) -> Transformer:
    """The same transformer, untrained, with dense FFNs as wide as to have so many parameters."""
    narrow = replace(config, moe=None, d_ff=1)
    one = 2 * config.d_model * config.blocks
    more = parameters - Transformer(narrow).counts()["params_total"]
    return Transformer(replace(narrow, d_ff=1 + max(0, round(more / one)))).eval()


def peak_bytes(step: Callable[[], object], device: torch.device) -> int | None:
    """The most bytes that live at once while ``step`` runs, less those before; None where torch
    cannot tell."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        return None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text("utf-8"))["traceEvents"]
    changes = [(e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]"]
    changes.sort(key=lambda change: change[0])
    return int(np.cumsum([0, *(size for _, size in changes)]).max())


def machine(device: torch.device) -> dict:
    return {
        "device": describe(device),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def processor() -> str:
    """Its name as Linux has it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


@torch.inference_mode()
def _forward(model: Transformer, ids: torch.Tensor) -> None:
    model(ids)


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    begin = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - begin


def _wait(device: torch.device) -> None:
    """A GPU works on while Python runs ahead."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
