"""``python -m mhmoe bench layer``: our MoE layer beside the least that its work can cost.

ours         ``MoELayer``, its router and, with several heads, its two square layers included
floor        the larger of the matrix products of the active rows, without activation or routing,
             and moving the weights of the experts hit once (for backward their gradients, too)
dense        a dense FFN with the layer's active parameters
dense_total  a dense FFN with all its parameters

``forward`` runs without gradients, ``both`` includes the gradients of the input and all weights.
Everything is interleaved and the median is kept; threads are 1 unless asked otherwise, because on
shared cores two stall each other at every barrier.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor

from mhmoe.bench import BenchUsage, interleaved
from mhmoe.layers import ConfigError, DenseFFN, MoEConfig, MoELayer, keep_top_k

PASSES = ("forward", "both")
#: No implementation is timed for longer than this per size and pass (but three times at least).
SECONDS = 60.0
#: What would multiply more than this per pass is left out: minutes for one number.
MOST_MACS = 2e11

#: One step of an implementation: called with the pass, it does all of the work once.
Step = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """One size: the layer, and the input and upstream gradient that all implementations share."""

    config: MoEConfig
    x_TD: Tensor
    grad_TD: Tensor

    @classmethod
    def of(cls, config: MoEConfig, tokens: int) -> Case:
        generator = torch.Generator().manual_seed(0)
        x, grad = (torch.randn(tokens, config.d_model, generator=generator) for _ in range(2))
        return cls(config, x, grad)

    @property
    def tokens(self) -> int:
        return len(self.x_TD)


def measure(
    sizes: Sequence[tuple[int, MoEConfig]], heads: Sequence[int], runs: int, threads: int = 1
) -> list[dict]:
    """One row per size, number of heads, pass and implementation."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return [
            row
            for tokens, base in sizes
            for h in heads
            for row in rows(Case.of(with_heads(base, h), tokens), runs)
        ]
    finally:
        torch.set_num_threads(before)


def rows(case: Case, runs: int) -> Iterable[dict]:
    steps = {name: make(case) for name, make in IMPLEMENTATIONS.items() if fits(name, case)}
    c = case.config
    for which in PASSES:
        calls = [partial(_milliseconds, step, which) for step in steps.values()]
        interleaved(1, calls)
        results = interleaved(runs, calls, SECONDS * len(calls))
        ms = dict(zip(steps, map(median, results), strict=True))
        ms["floor"] = max(ms.pop("floor: products"), ms.pop("floor: weights"))
        for impl in ("ours", "floor", *(name for name in ms if name not in ("ours", "floor"))):
            yield {
                "tokens": case.tokens,
                "experts": c.experts,
                "top_k": c.top_k,
                "heads": c.heads,
                "d_model": c.d_model,
                "d_ff": c.d_ff,
                "pass": which,
                "impl": impl,
                "ms": round(ms[impl], 4),
                "ratio_to_floor": round(ms[impl] / ms["floor"], 3),
            }


# ------------------------------------------------------------------------- implementations


def ours(case: Case) -> Step:
    layer = MoELayer(case.config, torch.Generator().manual_seed(1))
    return _step(case, lambda x: layer(x[None])[0], list(layer.parameters()))


def products(case: Case) -> Step:
    """Every row that some expert sees, through both matrices of one expert; with several heads
    also the two square layers."""
    c = case.config
    rows_ND = torch.randn(case.tokens * c.heads * c.top_k, c.d_head)
    w_in, w_out = _weights(c.d_head, c.d_ff), _weights(c.d_ff, c.d_head)
    square = [_weights(c.d_model, c.d_model) for _ in range(2 * c.projections)]
    pairs = [(rows_ND, (w_in, w_out))] + ([(case.x_TD, square)] if square else [])
    grads = [torch.randn_like(rows) for rows, _ in pairs]

    def step(which: str) -> None:
        for (rows, (first, second)), grad in zip(pairs, grads, strict=True):
            with torch.no_grad():
                hidden = rows @ first
                hidden @ second
                if which == "both":
                    hidden.t() @ grad
                    inner = grad @ second.t()
                    rows.t() @ inner
                    inner @ first.t()

    return step


def weights(case: Case) -> Step:
    """Read the weights of the experts hit; for backward also write as much."""
    c = case.config
    layer = MoELayer(c, torch.Generator().manual_seed(1))
    with torch.no_grad():
        chosen = keep_top_k(layer.router(_sub_tokens(layer, case.x_TD)), c.top_k)
        hit = torch.unique(chosen)
        kept = [w.detach()[hit].clone() for w in (layer.experts.w_in, layer.experts.w_out)]
    written = [torch.empty_like(w) for w in kept]

    def step(which: str) -> None:
        for w, grad in zip(kept, written, strict=True):
            w.sum()
            if which == "both":
                grad.copy_(w)

    return step


def dense(case: Case) -> Step:
    return _dense(case, case.config.active_parameters)


def dense_total(case: Case) -> Step:
    return _dense(case, case.config.parameters)


#: Every implementation by name. A peer is one more row here: a function from a case to a step,
#: and in ``fits`` the sizes that it cannot do.
IMPLEMENTATIONS: dict[str, Callable[[Case], Step]] = {
    "ours": ours,
    "floor: products": products,
    "floor: weights": weights,
    "dense": dense,
    "dense_total": dense_total,
}


def fits(name: str, case: Case) -> bool:
    """Whether an implementation can be timed at this size at all."""
    if name == "dense_total":
        return case.tokens * case.config.parameters <= MOST_MACS
    return True


def _dense(case: Case, parameters: int) -> Step:
    d = case.config.d_model
    ffn = DenseFFN(d, max(1, round(parameters / (2 * d))), case.config.activation)
    with torch.no_grad():
        ffn.w_in.copy_(_weights(*ffn.w_in.shape))
        ffn.w_out.copy_(_weights(*ffn.w_out.shape))
    return _step(case, ffn, list(ffn.parameters()))


def _step(case: Case, function: Callable[[Tensor], Tensor], parameters: list[Tensor]) -> Step:
    def step(which: str) -> None:
        if which == "forward":
            with torch.inference_mode():
                function(case.x_TD)
            return
        x = case.x_TD.detach().requires_grad_()
        torch.autograd.grad(function(x), [x, *parameters], case.grad_TD, allow_unused=True)

    return step


def _sub_tokens(layer: MoELayer, x_TD: Tensor) -> Tensor:
    wide = layer.head(x_TD) if layer.config.projections else x_TD
    return wide.reshape(1, -1, layer.config.d_head)


def _weights(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns) / rows**0.5


def _milliseconds(step: Step, which: str) -> float:
    begin = time.perf_counter()
    step(which)
    return 1000 * (time.perf_counter() - begin)


# ------------------------------------------------------------------------- the command line


def parse_sizes(text: str) -> list[tuple[int, MoEConfig]]:
    """``4096/32/2,64/8/2/64/256``: tokens/experts/top_k and, where not 256/1024, d_model/d_ff."""
    return [_size(part) for part in text.split(",")]


def _size(text: str) -> tuple[int, MoEConfig]:
    parts = text.split("/")
    if len(parts) not in (3, 5) or not all(part.isdecimal() for part in parts):
        raise BenchUsage(f"size {text!r} is not tokens/experts/top_k or .../d_model/d_ff")
    tokens, experts, top_k, d_model, d_ff = [int(part) for part in (*parts, "256", "1024")[:5]]
    if tokens < 1:
        raise BenchUsage(f"size {text!r} has no tokens")
    try:
        return tokens, MoEConfig(d_model=d_model, d_ff=d_ff, experts=experts, top_k=top_k)
    except ConfigError as error:
        raise BenchUsage(f"size {text!r}: {error}") from None


def parse_heads(text: str) -> list[int]:
    """``1,2,4,8``."""
    if not all(part.isdecimal() and int(part) for part in text.split(",")):
        raise BenchUsage(f"heads {text!r} are not whole numbers of at least 1")
    return [int(part) for part in text.split(",")]


def with_heads(base: MoEConfig, heads: int) -> MoEConfig:
    """The same matrix products, cut into h heads: h times the rows, each d/h wide."""
    try:
        return MoEConfig(
            d_model=base.d_model,
            d_ff=base.d_ff,
            experts=base.experts,
            top_k=base.top_k,
            heads=heads,
        )
    except ConfigError as error:
        raise BenchUsage(str(error)) from None
