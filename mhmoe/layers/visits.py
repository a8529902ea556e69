"""Rows that visit experts: sorted by expert, taken through both products while they are in cache.

There is one path. The visits are sorted by expert and cut into pieces of at most :func:`most` rows.
A large expert is cut into several pieces, each a plain matrix product. Small experts share a
piece, and one ``grouped_mm`` multiplies all of them; where it cannot (float64, widths that are no
multiples of 16 bytes) each has a piece of its own. On a GPU everything is one piece.

Why pieces: the hidden layer of a piece (its rows x F) stays in a core's cache between the two
products, so that for narrow, deep experts this is faster than two products over all rows. Where
no gradient is wanted all pieces use the same memory for it, and fewer rows fit best; where one is,
every piece adds to the gradients of its weights, which more rows make up for.

What is kept: the hidden layers, but those that are much wider than their input
(:func:`is_cheap_again`) are computed again in the backward pass.

Why a backward pass by hand: where pieces share weights, autograd would add a zero tensor of all
experts' size for each of them. Here each gradient is written once, into its place. The rule: a
single piece with small weights, and every single piece on a GPU, is left to autograd, which has
less to do before its first product; everything else goes by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

#: The hidden layer of a piece. With 8 MB narrow, deep experts (D/H = 16, F = 3,968) took three
#: times as long; from 0.5 to 2 MB the times differ by a few percent.
PIECE_BYTES = 2 << 20
#: Rows of a piece: fewer are slow to multiply, more are no faster.
FEWEST, MOST = 64, 512
#: From this size on, a buffer comes with large pages.
LARGE_BYTES = 4 << 20
#: From this size on, w_in's gradient is worth a buffer: the allocator gives fresh memory each time.
LARGE_WEIGHTS = 16 << 20

#: An activation that writes over its input.
IN_PLACE: dict[Callable, Callable[[Tensor], Tensor]] = {
    F.relu: torch.relu_,
    F.gelu: torch.ops.aten.gelu_,
    F.silu: torch.ops.aten.silu_,
}
#: Hidden layers so many times wider than an expert's input are computed twice, not kept. At 64
#: times a training step is 7% faster and needs 0.4 GB instead of 0.9; at 16 times it is 9% slower.
WIDE = 32
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
    edges                   [E + 1] int32: expert e has the visits edges[e] to edges[e + 1]
    starts                  the same as a list
    rows                    number of rows of the sum
    """

    expert: Tensor
    source: Tensor
    target: Tensor
    edges: Tensor
    starts: list[int]
    rows: int

    @classmethod
    def of(cls, expert_NK: Tensor, experts: int, each: bool) -> tuple[Visits, Tensor]:
        """The visits of all choices but -1, and [R] where in the flat choices each stands.

        each  every choice has a row of the sum for itself, instead of one per row of x
        """
        N, K = expert_NK.shape
        expert, order = expert_NK.flatten().sort(stable=True)
        every = torch.arange(experts + 1, device=expert.device)
        edges = torch.searchsorted(expert, every, out_int32=True)
        starts = edges.tolist()
        if skipped := starts[0]:  # -1 sorts to the front
            expert, order, edges = expert[skipped:], order[skipped:], edges - skipped
            starts = [start - skipped for start in starts]
        source = order // K if K > 1 else order
        target, rows = (order, N * K) if each else (source, N)
        return cls(expert, source, target, edges, starts, rows), order


@dataclass(frozen=True)
class Weights:
    """The stacked matrices of all experts: w_in, w_gate [E, D, F], w_out [E, F, D], b_in [E, F],
    b_out [E, D]; w_gate and the biases may be None."""

    w_in: Tensor
    w_gate: Tensor | None
    w_out: Tensor
    b_in: Tensor | None
    b_out: Tensor | None

    @property
    def each(self) -> tuple[Tensor | None, ...]:
        return self.w_in, self.w_gate, self.w_out, self.b_in, self.b_out


@dataclass(frozen=True)
class Piece:
    """The visits lo to hi, which are those of the experts first to last."""

    lo: int
    hi: int
    first: int
    last: int
    ends: Tensor | None  # of several experts: where each one's rows end

    def times(self, rows: Tensor, w: Tensor, *, turned=False, out: Tensor | None = None) -> Tensor:
        """[R', A] times each row's own expert's matrix of w [E, A, B] (turned: [E, B, A]).
        One expert writes into ``out`` if given; several cannot."""
        if self.ends is None:
            w = w[self.first]
            return torch.mm(rows, w.t() if turned else w, out=out)
        if self.last - self.first < len(w):
            w = w[self.first : self.last]
        return F.grouped_mm(rows, w.transpose(1, 2) if turned else w, offs=self.ends)

    def outer(self, a: Tensor, b: Tensor, starts: list[int], out: Tensor | None) -> None:
        """a^T b [A, B] over each expert's rows, into out [E, A, B]; later pieces are added."""
        if out is None:
            return
        for e in range(self.first, self.last):
            lo, hi = max(starts[e], self.lo) - self.lo, min(starts[e + 1], self.hi) - self.lo
            if lo == hi:
                continue
            if starts[e] < self.lo:
                out[e].addmm_(a[lo:hi].t(), b[lo:hi])
            else:
                torch.mm(a[lo:hi].t(), b[lo:hi], out=out[e])


def can_group(x: Tensor, width: int) -> bool:
    """Whether ``grouped_mm`` takes rows and matrices like these."""
    unit = 16 // x.element_size()
    whole = x.shape[1] % unit == 0 and width % unit == 0
    return whole and x.dtype != torch.float64 and x.device.type in ("cpu", "cuda")


def most(x: Tensor, width: int, free: bool) -> int | None:
    """Rows of the largest piece for hidden layers of this width; None where all are one piece.
    ``free``: no gradient is wanted."""
    if x.device.type != "cpu":
        return None
    fit = PIECE_BYTES // (width * x.element_size()) if free else MOST
    return min(max(fit, FEWEST), MOST)


def is_one_piece(visits: Visits, x: Tensor, w_in: Tensor) -> bool:
    """Whether autograd does it all, as the head of this file says."""
    rows = most(x, w_in.shape[2], free=False)
    small = rows is None or (visits.starts[-1] <= rows and w_in.nbytes < LARGE_WEIGHTS)
    return small and can_group(x, w_in.shape[2])


def is_cheap_again(x: Tensor, w_in: Tensor) -> bool:
    """Whether the backward pass computes hidden layers again: where they are so much wider than
    what they come from, that costs less than bringing them back from memory."""
    return x.device.type == "cpu" and w_in.shape[2] >= WIDE * w_in.shape[1]


def pieces(visits: Visits, x: Tensor, width: int, free: bool = False) -> Iterator[Piece]:
    """All visits in order, cut as the head of this file says."""
    starts = visits.starts
    limit = most(x, width, free) or starts[-1]
    grouped = can_group(x, width)
    first, experts = 0, len(starts) - 1
    while first < experts:
        last = first + 1
        while grouped and last < experts and starts[last + 1] - starts[first] <= limit:
            last += 1
        lo, rows = starts[first], starts[last] - starts[first]
        ends = None
        if rows and last - first > 1:
            ends = visits.edges[first + 1 : last + 1]
            ends = ends - lo if lo else ends
        cuts = -(-rows // limit) if rows else 0
        for i in range(cuts):
            yield Piece(lo + rows * i // cuts, lo + rows * (i + 1) // cuts, first, last, ends)
        first = last


def visit(
    x_ND: Tensor, gate_R: Tensor | None, weights: Weights, visits: Visits, activation: Callable
) -> Tensor:
    """[rows, D] sum over the visits of gate * expert(x), differentiable in all tensors.

    The sum is taken in the order of the experts, so it does not depend on how pieces are cut.
    """
    inputs, device = (x_ND, gate_R, *weights.each), x_ND.device.type
    if torch.is_autocast_enabled(device):  # all in its dtype, and no product changes it again
        dtype = torch.get_autocast_dtype(device)
        x, gate, *parts = (None if t is None else t.to(dtype) for t in inputs)
        with torch.autocast(device, enabled=False):
            return visit(x, gate, Weights(*parts), visits, activation)
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    if not wanted or is_one_piece(visits, x_ND, weights.w_in):
        return _forward(x_ND, gate_R, weights, visits, activation, free=not wanted)
    return _Visit.apply(*inputs, visits, activation)


def _forward(
    x: Tensor,
    gate: Tensor | None,
    w: Weights,
    visits: Visits,
    activation: Callable,
    kept: list[Tensor | None] | None = None,
    free: bool = False,
) -> Tensor:
    """The sum. ``kept`` gets what the backward pass needs: three tensors of each piece, the hidden
    layer before its activation, with SwiGLU the gating one, and the output if gates want a
    gradient. ``free`` says that no hidden layer is needed again, so each piece writes over the
    last; then ``kept`` gets the output of all visits only."""
    R, width = len(visits.source), w.w_in.shape[2]
    total = x.new_zeros(visits.rows, x.shape[1])
    outputs = None if kept is None or gate is None else buffer((R, x.shape[1]), x)
    rows = min(R, most(x, width, free) or R) if free else R
    space = None
    act = IN_PLACE[activation] if free else activation
    for p in pieces(visits, x, width, free):
        at = slice(p.lo, p.hi)
        into = (None, None)
        if p.ends is None and (free or kept is not None):  # several experts bring their own memory
            space = space or _space(x, w, rows)
            where = slice(0, p.hi - p.lo) if free else at
            into = (None if t is None else t[where] for t in space)
        hidden, gating = _hidden(p, x, w, visits, *into)
        active = act(hidden) if gating is None else act(gating) * hidden
        out = p.times(active, w.w_out, out=None if outputs is None else outputs[at])
        if w.b_out is not None:
            out += w.b_out.index_select(0, visits.expert[at])
        add(total, visits.target[at], out if gate is None else out * gate[at, None])
        if kept is not None and not free:
            kept += [hidden, gating, None if gate is None else out]
        elif outputs is not None and p.ends is not None:
            outputs[at] = out
    if kept is not None and free:
        kept.append(outputs)
    return total


def _hidden(
    p: Piece, x: Tensor, w: Weights, visits: Visits, hidden=None, gating=None
) -> tuple[Tensor, Tensor | None]:
    """[R', F] the hidden layer of a piece before its activation and, with SwiGLU, the gating one;
    written into the given memory where the piece is one expert's."""
    at = slice(p.lo, p.hi)
    rows = x.index_select(0, visits.source[at])
    hidden = p.times(rows, w.w_in, out=hidden)
    if w.b_in is not None:
        hidden += w.b_in.index_select(0, visits.expert[at])
    return hidden, None if w.w_gate is None else p.times(rows, w.w_gate, out=gating)


def _space(x: Tensor, w: Weights, rows: int) -> tuple[Tensor, Tensor | None]:
    """Memory for the hidden layer and the gating one."""
    shape = rows, w.w_in.shape[2]
    return buffer(shape, x), None if w.w_gate is None else buffer(shape, x)


class _Visit(torch.autograd.Function):
    """:func:`_forward` with its gradient. A gradient of the gradient goes through
    :func:`_plainly`, which autograd understands."""

    @staticmethod
    def forward(ctx, x, gate, w_in, w_gate, w_out, b_in, b_out, visits, activation):
        weights = Weights(w_in, w_gate, w_out, b_in, b_out)
        kept: list[Tensor | None] = []
        again = is_cheap_again(x, w_in)
        total = _forward(x, gate, weights, visits, activation, kept, free=again)
        ctx.save_for_backward(x, gate, w_in, w_gate, w_out, b_in, b_out, *kept)
        ctx.visits, ctx.activation = visits, activation
        return total

    @staticmethod
    def backward(ctx, grad):
        x, gate, *rest = ctx.saved_tensors
        weights, kept = Weights(*rest[:5]), rest[5:]
        gradients = _again if torch.is_grad_enabled() else _backward
        return (*gradients(grad, x, gate, weights, kept, ctx), None, None)


def _backward(grad, x, gate, w: Weights, kept: list, ctx) -> tuple[Tensor | None, ...]:
    """Gradients of x, gate and the five weights."""
    visits, activation, starts = ctx.visits, ctx.activation, ctx.visits.starts
    derivative = DERIVATIVE[activation]
    grad = grad.contiguous()  # a sum's gradient has no strides, which grouped_mm refuses
    to_x, to_gate = torch.zeros_like(x), None if gate is None else torch.empty_like(gate)
    wanted = ctx.needs_input_grad[2:7]
    to = Weights(*(_for_all(t, starts) if y else None for t, y in zip(w.each, wanted, strict=True)))
    again = is_cheap_again(x, w.w_in)
    for i, p in enumerate(pieces(visits, x, w.w_in.shape[2])):
        at = slice(p.lo, p.hi)
        if again:
            hidden, gating = _hidden(p, x, w, visits)
            out = None if gate is None else kept[0][at]
        else:
            hidden, gating, out = kept[3 * i : 3 * i + 3]
        source, expert = visits.source[at], visits.expert[at]
        rows, g = x.index_select(0, source), grad.index_select(0, visits.target[at])
        if gate is not None:
            to_gate[at] = (g * out).sum(-1)
            g *= gate[at, None]
        opened = None if gating is None else activation(gating)
        p.outer(activation(hidden) if gating is None else opened * hidden, g, starts, to.w_out)
        g_hidden = p.times(g, w.w_out, turned=True)
        if gating is None:
            g_hidden = derivative(g_hidden, hidden)
        else:
            g_gating = derivative(g_hidden * hidden, gating)
            g_hidden *= opened
            p.outer(rows, g_gating, starts, to.w_gate)
            add(to_x, source, p.times(g_gating, w.w_gate, turned=True))
        p.outer(rows, g_hidden, starts, to.w_in)
        add(to_x, source, p.times(g_hidden, w.w_in, turned=True))
        if to.b_in is not None:
            add(to.b_in, expert, g_hidden)
        if to.b_out is not None:
            add(to.b_out, expert, g)
    return to_x, to_gate, *to.each


def _plainly(x, gate, w: Weights, visits: Visits, activation: Callable) -> Tensor:
    """:func:`_forward` in a few differentiable lines: one expert after the other."""
    E, counts = len(w.w_in), [b - a for a, b in pairwise(visits.starts)]
    rows = x.index_select(0, visits.source).split(counts)
    parts = [[None] * E if t is None else t.unbind(0) for t in w.each]
    out = torch.cat([ffn(r, *own, activation) for r, *own in zip(rows, *parts, strict=True)])
    out = out if gate is None else out * gate[:, None]
    return x.new_zeros(visits.rows, x.shape[1]).index_add(0, visits.target, out)


def _again(grad, x, gate, w: Weights, kept: list, ctx) -> list[Tensor | None]:
    """The gradients with a graph of their own."""
    needed = ctx.needs_input_grad[:7]
    inputs = [t for t, wanted in zip((x, gate, *w.each), needed, strict=True) if wanted]
    y = _plainly(x, gate, w, ctx.visits, ctx.activation)
    found = iter(torch.autograd.grad(y, inputs, grad, create_graph=True))
    return [next(found) if wanted else None for wanted in needed]


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
    size = like.element_size() * math.prod(shape)
    if like.device.type != "cpu" or size < LARGE_BYTES:
        return like.new_empty(shape)
    raw = np.empty(size + 64, np.uint8)
    begin = -raw.ctypes.data % 64  # aligned as torch's own
    return torch.from_numpy(raw)[begin : begin + size].view(like.dtype).view(shape)


def _for_all(stacked: Tensor, starts: list[int]) -> Tensor:
    """A gradient for all experts; matrices are written by the visited, biases are added up."""
    if stacked.dim() == 2:
        return torch.zeros_like(stacked)
    total = buffer(stacked.shape, stacked)
    for e, (lo, hi) in enumerate(pairwise(starts)):
        if lo == hi:
            total[e].zero_()
    return total
