"""``python -m mhmoe bench layer``: our MoE layer beside the least that its work can cost.

ours         ``MoELayer``, its router and, with several heads, its two square layers included
floor        the larger of the matrix products of the active rows, without activation or routing,
             and moving the weights of the experts hit once (for backward their gradients, too)
dense        a dense FFN with the layer's active parameters
dense_total  a dense FFN with all its parameters
others       every installed peer (:mod:`mhmoe.bench.peers`); where its matrices are not those of
             ``ours``, beside the layer of ours that has the same: ``ours swiglu`` with three per
             expert and a floor of its own, ``ours soft``, Soft MoE with as many rows

``forward`` runs without gradients, ``both`` includes the gradients of the input and all weights.
Everything is interleaved and the median is kept; threads are 1 unless asked otherwise, because on
shared cores two stall each other at every barrier. What has to be reached stands in
:mod:`mhmoe.bench.goals`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from torch import Tensor

from mhmoe.bench import BenchUsage, interleaved
from mhmoe.bench.peers import PEERS, installed, slots
from mhmoe.layers import ConfigError, DenseFFN, MoEConfig, MoELayer, keep_top_k

PASSES = ("forward", "both")
#: tokens/experts/top_k/d_model/d_ff of the default run: the explainer's own scale, and a grid.
SMALL = (
    "16/8/2/32/128,64/8/1/64/256,64/8/2/64/256,256/8/2/64/256,"
    "16/64/2/128/512,64/32/2/128/512,256/64/2/128/512"
)
GRID = ",".join(f"{t}/{e}/{k}" for t in (256, 4096, 16384) for e in (8, 32, 128) for k in (1, 2))
SIZES = f"{SMALL},{GRID}"
#: The size that the default run also cuts into heads, and into how many.
HEADED, HEADS = (4096, 32, 2, 256), (2, 4, 8)
#: No size and pass is timed for longer than this (but three rounds at least).
SECONDS = 20.0
#: What takes longer than this is timed once, cold.
LONGEST_MS = 8000.0
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
    def of(cls, config: MoEConfig, tokens: int, device: str = "cpu") -> Case:
        generator = torch.Generator().manual_seed(0)
        x, grad = (torch.randn(tokens, config.d_model, generator=generator) for _ in range(2))
        return cls(config, x.to(device), grad.to(device))

    @property
    def tokens(self) -> int:
        return len(self.x_TD)

    @property
    def device(self) -> torch.device:
        return self.x_TD.device


def measure(
    sizes: Sequence[tuple[int, MoEConfig]],
    heads: Sequence[int] | None = None,
    runs: int = 15,
    threads: int = 1,
    device: str = "cpu",
) -> Iterator[dict]:
    """One row per size, number of heads, pass and implementation, each as it is measured.
    Without ``heads`` every size has one, and HEADED also HEADS."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for tokens, base in sizes:
            named = (tokens, base.experts, base.top_k, base.d_model)
            for h in heads or ((1, *HEADS) if named == HEADED else (1,)):
                yield from rows(Case.of(with_heads(base, h), tokens, device), runs)
    finally:
        torch.set_num_threads(before)


def rows(case: Case, runs: int) -> Iterator[dict]:
    steps = {name: make(case) for name, make in implementations(case).items()}
    c = case.config
    for which in PASSES:
        ms = medians({n: partial(_milliseconds, s, which, case) for n, s in steps.items()}, runs)
        for floor in [name.removesuffix(": products") for name in ms if ": products" in name]:
            ms[floor] = max(ms.pop(f"{floor}: products"), ms.pop(f"{floor}: weights"))
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
                "ratio_to_floor": round(ms[impl] / ms[floor_of(impl)], 3),
            }


def medians(calls: dict[str, Callable[[], float]], runs: int) -> dict[str, float]:
    """Milliseconds of each call, interleaved; ten times the runs where a round is over at once."""
    first = {
        name: found
        for name, (found,) in zip(calls, interleaved(1, list(calls.values())), strict=True)
    }
    again = [name for name, ms in first.items() if ms < LONGEST_MS]
    rounds = 10 * runs if sum(first.values()) < 50 else runs
    found = interleaved(rounds, [calls[name] for name in again], SECONDS)
    return first | dict(zip(again, map(median, found), strict=True))


# ------------------------------------------------------------------------- implementations


def ours(config: MoEConfig, case: Case) -> Step:
    layer = MoELayer(config, torch.Generator().manual_seed(1)).to(case.device)
    return _step(case, lambda x: layer(x[None])[0], list(layer.parameters()))


def swiglu(config: MoEConfig, tokens: int) -> MoEConfig:
    """Mixtral's layer of the same sizes: three matrices per expert."""
    c = config
    return MoEConfig(
        router="mixtral", d_model=c.d_model, d_ff=c.d_ff, experts=c.experts, top_k=c.top_k
    )


def soft(config: MoEConfig, tokens: int) -> MoEConfig:
    """Soft MoE with as many rows for the experts."""
    c = config
    return MoEConfig(
        router="soft-moe",
        d_model=c.d_model,
        d_ff=c.d_ff,
        experts=c.experts,
        activation=c.activation,
        slots=slots(c, tokens),
    )


#: Our layers by name, each a change of the size's config; peers say which they stand beside.
OURS: dict[str, Callable[[MoEConfig, int], MoEConfig]] = {
    "ours": lambda config, tokens: config,
    "ours swiglu": swiglu,
    "ours soft": soft,
}


def floor_of(impl: str) -> str:
    """The floor that an implementation's ratio is to: that of its own matrices."""
    beside = PEERS[impl].beside if impl in PEERS else impl
    return "floor swiglu" if beside.endswith("swiglu") else "floor"


def products(case: Case, matrices: int = 2) -> Step:
    """Every row that some expert sees, through the matrices of one expert; with several heads
    also through the two square layers."""
    c = case.config
    rows_ND = _random(case, case.tokens * c.heads * c.top_k, c.d_head)
    w_in = _random(case, c.d_head, (matrices - 1) * c.d_ff)  # SwiGLU's first two side by side
    w_out = _random(case, c.d_ff, c.d_head)
    square = [_random(case, c.d_model, c.d_model) for _ in range(2)] if c.projections else None
    pairs = [(rows_ND, w_in, w_out), *([(case.x_TD, *square)] if square else [])]
    grads = [torch.randn_like(rows) for rows, _, _ in pairs]

    @torch.no_grad()
    def step(which: str) -> None:
        for (rows, first, second), grad in zip(pairs, grads, strict=True):
            wide = rows @ first
            hidden = wide[:, : len(second)]
            hidden @ second
            if which == "both":
                hidden.t() @ grad
                inner = grad @ second.t()
                inner = torch.cat([inner, inner], 1) if wide.shape[1] > len(second) else inner
                rows.t() @ inner
                inner @ first.t()

    return step


def weights(case: Case, matrices: int = 2) -> Step:
    """Read the weights of the experts hit; for backward also write as much."""
    c = case.config
    layer = MoELayer(c, torch.Generator().manual_seed(1)).to(case.device)
    with torch.no_grad():
        wide = layer.head(case.x_TD) if c.projections else case.x_TD
        hit = torch.unique(keep_top_k(layer.router(wide.reshape(1, -1, c.d_head)), c.top_k))
        parts = (layer.experts.w_in, layer.experts.w_out, layer.experts.w_in)[:matrices]
        kept = [w.detach()[hit].clone() for w in parts]
    written = [torch.empty_like(w) for w in kept]

    def step(which: str) -> None:
        for w, grad in zip(kept, written, strict=True):
            w.sum()
            if which == "both":
                grad.copy_(w)

    return step


def dense(case: Case, parameters: int) -> Step:
    """A dense FFN with about as many parameters."""
    d = case.config.d_model
    ffn = DenseFFN(d, max(1, round(parameters / (2 * d))), case.config.activation)
    with torch.no_grad():
        ffn.w_in.normal_(0, ffn.w_in.shape[0] ** -0.5)
        ffn.w_out.normal_(0, ffn.w_out.shape[0] ** -0.5)
    ffn = ffn.to(case.device)
    return _step(case, ffn, list(ffn.parameters()))


def peer(name: str, case: Case) -> Step:
    module, call = PEERS[name].build(case.config, case.tokens)
    module = module.to(case.device)
    return _step(case, call, list(module.parameters()))


def implementations(case: Case) -> dict[str, Callable[[Case], Step]]:
    """Everything that is timed at this size, by name."""
    c = case.config
    names = [n for n, p in PEERS.items() if p.fits(c, case.tokens) and installed(n)]
    beside = {PEERS[name].beside for name in names} | {"ours"}
    found = {
        name: partial(ours, change(c, case.tokens))
        for name, change in OURS.items()
        if name in beside
    }
    found |= {"floor: products": products, "floor: weights": weights}
    if "ours swiglu" in beside:
        found["floor swiglu: products"] = partial(products, matrices=3)
        found["floor swiglu: weights"] = partial(weights, matrices=3)
    found["dense"] = partial(dense, parameters=c.active_parameters)
    if case.tokens * c.parameters <= MOST_MACS:
        found["dense_total"] = partial(dense, parameters=c.parameters)
    return found | {name: partial(peer, name) for name in names}


def _step(case: Case, function: Callable[[Tensor], Tensor], parameters: list[Tensor]) -> Step:
    def step(which: str) -> None:
        if which == "forward":
            with torch.inference_mode():
                function(case.x_TD)
            return
        x = case.x_TD.detach().requires_grad_()
        torch.autograd.grad(function(x), [x, *parameters], case.grad_TD, allow_unused=True)

    return step


def _random(case: Case, rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, device=case.device) / rows**0.5


def _milliseconds(step: Step, which: str, case: Case) -> float:
    return milliseconds(partial(step, which), case.device)


def milliseconds(action: Callable[[], object], device: torch.device) -> float:
    """How long it takes, until the device has done it."""
    _wait(device)
    begin = time.perf_counter()
    action()
    _wait(device)
    return 1000 * (time.perf_counter() - begin)


def _wait(device: torch.device) -> None:
    """A GPU works on while Python runs ahead."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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


def parse_heads(text: str | None) -> list[int] | None:
    """``1,2,4,8``."""
    if text is None:
        return None
    if not all(part.isdecimal() and int(part) for part in text.split(",")):
        raise BenchUsage(f"heads {text!r} are not whole numbers of at least 1")
    return [int(part) for part in text.split(",")]


def with_heads(base: MoEConfig, heads: int) -> MoEConfig:
    """The same matrix products, cut into h heads: h times the rows, each d/h wide."""
    try:
        return replace(base, heads=heads, projections=int(heads > 1))
    except ConfigError as error:
        raise BenchUsage(str(error)) from None
