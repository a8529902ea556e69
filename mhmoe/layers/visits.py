"""Rows that visit experts: sorted by expert, taken through both products while they are in cache.

There is one path. The visits are sorted by expert and cut into pieces of at most ``CHUNK`` rows.
A large expert is cut into several pieces, each a plain matrix product. Small experts share a
piece, and one ``grouped_mm`` multiplies all of them; where it cannot (float64, widths that are no
multiples of 16 bytes) each has a piece of its own. On a GPU everything is one piece.

Why pieces: the hidden layer of a piece (CHUNK x F) stays in a core's cache between the two
products, so that for narrow, deep experts this is faster than two products over all rows.

Why a backward pass by hand: autograd would add a zero tensor of all experts' size for each expert
(or stack the gradients again). Here each gradient is written once, into its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

#: Rows of one piece. From 256 to 1024 the times differ by a few percent.
CHUNK = 512
#: From this size on, buffers ask the system for large pages (as numpy does; torch does not).
LARGE_BYTES = 4 << 20

#: Gradient of an activation from the gradient above and its input.
DERIVATIVE: dict[Callable, Callable[[Tensor, Tensor], Tensor]] = {
    F.relu: lambda grad, x: torch.ops.aten.threshold_backward(grad, x, 0),
    F.gelu: torch.ops.aten.gelu_backward,
    F.silu: torch.ops.aten.silu_backward,
}


@dataclass(frozen=True)
class Visits:
    """R visits, sorted by expert: which row of x each reads, which row of the sum it adds to.

    expert, source, target  [R]
    starts                  E + 1 numbers: expert e has the visits starts[e] to starts[e + 1]
    rows                    number of rows of the sum
    """

    expert: Tensor
    source: Tensor
    target: Tensor
    starts: list[int]
    rows: int

    @classmethod
    def of(cls, expert_NK: Tensor, experts: int, each: bool) -> tuple[Visits, Tensor]:
        """The visits of all choices but -1, and [R] where in the flat choices each stands.

        each  every choice has a row of the sum for itself, instead of one per row of x
        """
        N, K = expert_NK.shape
        expert, order = expert_NK.flatten().sort(stable=True)
        edges = torch.arange(experts + 1, device=expert.device)
        starts = torch.searchsorted(expert, edges).tolist()
        if skipped := starts[0]:  # -1 sorts to the front
            expert, order = expert[skipped:], order[skipped:]
            starts = [start - skipped for start in starts]
        source = order // K if K > 1 else order
        target, rows = (order, N * K) if each else (source, N)
        return cls(expert, source, target, starts, rows), order


@dataclass(frozen=True)
class Weights:
    """The stacked matrices of all experts: w_in, w_gate [E, D, F], w_out [E, F, D], b_in [E, F],
    b_out [E, D]; w_gate and the biases may be None."""

    w_in: Tensor
    w_gate: Tensor | None
    w_out: Tensor
    b_in: Tensor | None
    b_out: Tensor | None


@dataclass(frozen=True)
class Piece:
    """The visits lo to hi, which are those of the experts first to last."""

    lo: int
    hi: int
    first: int
    last: int
    ends: Tensor | None  # of several experts: where each one's rows end

    def times(self, rows: Tensor, w: Tensor, *, turned=False, out: Tensor | None = None) -> Tensor:
        """[R', A] times each row's own expert's matrix of w [E, A, B] (turned: [E, B, A])."""
        if self.ends is None:
            w = w[self.first]
            return torch.mm(rows, w.t() if turned else w, out=out)
        w = w[self.first : self.last]
        product = F.grouped_mm(rows, w.transpose(1, 2) if turned else w, offs=self.ends)
        return product if out is None else out.copy_(product)

    def outer(self, a: Tensor, b: Tensor, starts: list[int], out: Tensor) -> None:
        """a^T b [A, B] over each expert's rows, into out [E, A, B]; later pieces are added."""
        if self.ends is not None and a.is_cuda:
            out[self.first : self.last] = F.grouped_mm(a.t(), b, offs=self.ends)
            return
        for e in range(self.first, self.last):
            lo, hi = max(starts[e], self.lo) - self.lo, min(starts[e + 1], self.hi) - self.lo
            if lo == hi:
                continue
            if starts[e] < self.lo:
                out[e].addmm_(a[lo:hi].t(), b[lo:hi])
            else:
                torch.mm(a[lo:hi].t(), b[lo:hi], out=out[e])


def pieces(starts: list[int], x: Tensor, width: int) -> Iterator[Piece]:
    """All visits in order, cut as the head of this file says. x [N, D] and F decide what can be
    grouped."""
    most = starts[-1] if x.is_cuda else CHUNK
    unit = 16 // x.element_size()
    grouped = x.dtype != torch.float64 and x.shape[1] % unit == 0 and width % unit == 0
    first, experts = 0, len(starts) - 1
    while first < experts:
        last = first + 1
        while grouped and last < experts and starts[last + 1] - starts[first] <= most:
            last += 1
        lo, rows = starts[first], starts[last] - starts[first]
        ends = None
        if rows and last - first > 1:
            offsets = [end - lo for end in starts[first + 1 : last + 1]]
            ends = torch.tensor(offsets, dtype=torch.int32, device=x.device)
        cuts = -(-rows // most) if rows else 0
        for i in range(cuts):
            yield Piece(lo + rows * i // cuts, lo + rows * (i + 1) // cuts, first, last, ends)
        first = last


def visit(
    x_ND: Tensor, gate_R: Tensor | None, weights: Weights, visits: Visits, activation: Callable
) -> Tensor:
    """[rows, D] sum over the visits of gate * expert(x), differentiable in all tensors.

    The sum is taken in the order of the experts, so it does not depend on how pieces are cut.
    """
    parts = (weights.w_in, weights.w_gate, weights.w_out, weights.b_in, weights.b_out)
    wants = any(t is not None and t.requires_grad for t in (x_ND, gate_R, *parts))
    if torch.is_grad_enabled() and wants:
        return _Visit.apply(x_ND, gate_R, *parts, visits, activation)
    return _forward(x_ND, gate_R, weights, visits, activation)


@dataclass(frozen=True)
class Kept:
    """What the backward pass reads again: the hidden layer before its activation [R, F], with
    SwiGLU also the gating one, and the experts' outputs [R, D] if gates want a gradient."""

    hidden: Tensor
    gating: Tensor | None
    out: Tensor | None


def _forward(
    x: Tensor,
    gate: Tensor | None,
    w: Weights,
    visits: Visits,
    activation: Callable,
    kept: Kept | None = None,
) -> Tensor:
    total = x.new_zeros(visits.rows, x.shape[1])
    for p in pieces(visits.starts, x, w.w_in.shape[2]):
        at = slice(p.lo, p.hi)
        here = _rows_of(kept, at)
        rows = x.index_select(0, visits.source[at])
        hidden = p.times(rows, w.w_in, out=here.hidden)
        if w.b_in is not None:
            hidden += w.b_in.index_select(0, visits.expert[at])
        if w.w_gate is None:
            hidden = activation(hidden)
        else:
            hidden = activation(p.times(rows, w.w_gate, out=here.gating)) * hidden
        out = p.times(hidden, w.w_out, out=here.out)
        if w.b_out is not None:
            out += w.b_out.index_select(0, visits.expert[at])
        add(total, visits.target[at], out if gate is None else out * gate[at, None])
    return total


class _Visit(torch.autograd.Function):
    """:func:`_forward` with its gradient. A gradient of the gradient goes through
    :func:`_plainly`, which autograd understands."""

    @staticmethod
    def forward(ctx, x, gate, w_in, w_gate, w_out, b_in, b_out, visits, activation):
        R, width = len(visits.source), w_in.shape[2]
        kept = Kept(
            buffer((R, width), x),
            None if w_gate is None else buffer((R, width), x),
            None if gate is None else buffer((R, x.shape[1]), x),
        )
        ctx.save_for_backward(
            x, gate, w_in, w_gate, w_out, b_in, b_out, kept.hidden, kept.gating, kept.out
        )
        ctx.visits, ctx.activation = visits, activation
        weights = Weights(w_in, w_gate, w_out, b_in, b_out)
        return _forward(x, gate, weights, visits, activation, kept)

    @staticmethod
    def backward(ctx, grad):
        *inputs, hidden, gating, out = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (*_again(grad, inputs, ctx), None, None)
        x, gate, *parts = inputs
        kept = Kept(hidden, gating, out)
        return (*_backward(grad, x, gate, Weights(*parts), kept, ctx), None, None)


def _backward(grad, x, gate, w: Weights, kept: Kept, ctx) -> tuple[Tensor | None, ...]:
    """Gradients of x, gate and the five weights."""
    visits, derivative = ctx.visits, DERIVATIVE[ctx.activation]
    starts = visits.starts
    grad = grad.contiguous()  # a sum's gradient has no strides, which grouped_mm refuses
    to_x, to_gate = torch.zeros_like(x), None if gate is None else torch.empty_like(gate)
    to = Weights(*(None if t is None else _for_all(t, starts) for t in vars(w).values()))
    for p in pieces(starts, x, w.w_in.shape[2]):
        at = slice(p.lo, p.hi)
        here, expert = _rows_of(kept, at), visits.expert[at]
        rows, g = x.index_select(0, visits.source[at]), grad.index_select(0, visits.target[at])
        if gate is not None:
            torch.sum(g * here.out, -1, out=to_gate[at])
            g *= gate[at, None]
        opened = None if w.w_gate is None else ctx.activation(here.gating)
        hidden = ctx.activation(here.hidden) if opened is None else opened * here.hidden
        p.outer(hidden, g, starts, to.w_out)
        g_hidden = p.times(g, w.w_out, turned=True)
        if opened is None:
            g_hidden = derivative(g_hidden, here.hidden)
        else:
            g_gating = derivative(g_hidden * here.hidden, here.gating)
            g_hidden *= opened
            p.outer(rows, g_gating, starts, to.w_gate)
            add(to_x, visits.source[at], p.times(g_gating, w.w_gate, turned=True))
        p.outer(rows, g_hidden, starts, to.w_in)
        add(to_x, visits.source[at], p.times(g_hidden, w.w_in, turned=True))
        if w.b_in is not None:
            add(to.b_in, expert, g_hidden)
        if w.b_out is not None:
            add(to.b_out, expert, g)
    return to_x, to_gate, *vars(to).values()


def _plainly(x, gate, w: Weights, visits: Visits, activation: Callable) -> Tensor:
    """:func:`_forward` in a few differentiable lines: one expert after the other, nothing kept."""
    parts = [
        [None] * (len(visits.starts) - 1) if t is None else t.unbind(0) for t in vars(w).values()
    ]
    counts = np.diff(visits.starts).tolist()
    rows = x.index_select(0, visits.source).split(counts)
    done = [ffn(r, *own, activation) for r, *own in zip(rows, *parts, strict=True)]
    out = torch.cat(done)
    out = out if gate is None else out * gate[:, None]
    return x.new_zeros(visits.rows, x.shape[1]).index_add(0, visits.target, out)


def _again(grad: Tensor, inputs: list[Tensor | None], ctx) -> list[Tensor | None]:
    """The gradients with a graph of their own."""
    x, gate, *parts = inputs
    y = _plainly(x, gate, Weights(*parts), ctx.visits, ctx.activation)
    wanted = [t for t, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    return [next(found) if needed else None for needed in ctx.needs_input_grad[: len(inputs)]]


def ffn(x, w_in, w_gate, w_out, b_in, b_out, activation: Callable) -> Tensor:
    """act(x w_in + b_in) w_out + b_out; with w_gate (act(x w_gate) * (x w_in + b_in)) w_out."""
    hidden = x @ w_in if b_in is None else x @ w_in + b_in
    hidden = activation(hidden) if w_gate is None else activation(x @ w_gate) * hidden
    return hidden @ w_out if b_out is None else hidden @ w_out + b_out


def add(total: Tensor, index: Tensor, rows: Tensor) -> None:
    """total[index] += rows, in a fixed order also where an index occurs twice."""
    if total.is_cuda:
        total.index_put_((index,), rows, accumulate=True)  # index_add_ sums in random order there
    else:
        total.index_add_(0, index, rows)


def buffer(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Uninitialised memory of a dtype and device.

    A fresh large tensor costs a page fault per 4 KB, which can take longer than the products that
    fill it. numpy asks Linux for pages of 2 MB, torch does not, so numpy brings the memory.
    """
    size = like.element_size() * int(np.prod(shape))
    if like.is_cuda or size < LARGE_BYTES:
        return like.new_empty(shape)
    raw = np.empty(size + 64, np.uint8)
    begin = -raw.ctypes.data % 64  # aligned as torch's own
    return torch.from_numpy(raw)[begin : begin + size].view(like.dtype).view(shape)


def _for_all(stacked: Tensor, starts: list[int]) -> Tensor:
    """A gradient for all experts; matrices are written by the visited, biases are added up."""
    if stacked.dim() == 2:
        return torch.zeros_like(stacked)
    total = buffer(stacked.shape, stacked)
    idle = [e for e in range(len(starts) - 1) if starts[e] == starts[e + 1]]
    for e in idle:
        total[e].zero_()
    return total


def _rows_of(kept: Kept | None, at: slice) -> Kept:
    if kept is None:
        return Kept(None, None, None)
    return Kept(*(None if t is None else t[at] for t in vars(kept).values()))
