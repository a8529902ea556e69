"""The experts' one pass: against a loop over single choices, by gradients, and at its edges."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from mhmoe.layers import DenseFFN, Experts, MoEConfig, visits

BASE = MoEConfig(d_model=8, d_ff=12, experts=5, top_k=2)
KINDS = {
    "relu": replace(BASE, activation="relu"),
    "gelu, biases": replace(BASE, activation="gelu", bias=True),
    "swiglu": replace(BASE, activation="swiglu"),
    "swiglu, biases": replace(BASE, activation="swiglu", bias=True),
    "odd widths": replace(BASE, d_model=7, d_ff=9, activation="gelu", bias=True),
}
#: Experts 0 twice in a row of visits, 3 never, -1 in every position.
CHOICES = torch.tensor([[0, 1], [2, -1], [-1, -1], [4, 2], [1, 0], [-1, 0], [0, 4]])
EXACT = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2}


def built(config: MoEConfig, dtype=torch.float64) -> Experts:
    experts = Experts(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return experts.to(dtype)


def inputs(config: MoEConfig, expert=CHOICES, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(expert), config.d_model, generator=generator).to(dtype)
    return x, expert, torch.rand(expert.shape, generator=generator).to(dtype)


def alone(experts: Experts, row: torch.Tensor, e: int) -> torch.Tensor:
    """One expert on one row, from the formula."""
    hidden = row @ experts.w_in[e]
    if experts.b_in is not None:
        hidden = hidden + experts.b_in[e]
    if experts.w_gate is None:
        hidden = experts.activation(hidden)
    else:
        hidden = F.silu(row @ experts.w_gate[e]) * hidden
    out = hidden @ experts.w_out[e]
    return out if experts.b_out is None else out + experts.b_out[e]


def each(experts: Experts, x: torch.Tensor, expert: torch.Tensor) -> torch.Tensor:
    zero = torch.zeros_like(x[0])
    rows = [
        torch.stack([alone(experts, row, e) if e >= 0 else zero for e in picks])
        for row, picks in zip(x, expert.tolist(), strict=True)
    ]
    return torch.stack(rows)


@pytest.fixture(params=[2, 3, 512], ids=lambda rows: f"{rows} rows a piece")
def chunk(request, monkeypatch) -> int:
    """Experts cut into pieces, a few experts sharing one, and all experts in one."""
    monkeypatch.setattr(visits, "MOST", request.param)
    return request.param


@pytest.fixture(params=[1, 100], ids=["hidden again", "hidden kept"])
def wide(request, monkeypatch) -> int:
    """Hidden layers that are all computed again, and all kept, for the backward pass."""
    monkeypatch.setattr(visits, "WIDE", request.param)
    return request.param


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_one_choice_at_a_time(kind, dtype, chunk):
    config, tolerance = KINDS[kind], EXACT[dtype]
    experts = built(config, dtype)
    x, expert, gate = inputs(config, dtype=dtype)
    exact = built(config).requires_grad_(False)
    for mine, theirs in zip(exact.parameters(), experts.parameters(), strict=True):
        mine.copy_(theirs)
    oracle = each(exact, x.double(), expert)
    found = experts(x, expert), experts.mix(x, expert, gate)
    expected = oracle, (oracle * gate.double()[..., None]).sum(1)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_autograd_through_the_loop(kind, dtype, chunk, wide):
    """float32 goes through grouped_mm, float64 through one product per expert."""
    experts = built(KINDS[kind], dtype)
    x, expert, gate = inputs(KINDS[kind], dtype=dtype)
    wanted = [x.requires_grad_(), gate.requires_grad_(), *experts.parameters()]
    ours = experts.mix(x, expert, gate)
    theirs = (each(experts, x, expert) * gate[..., None]).sum(1)
    for a, b in zip(
        torch.autograd.grad(ours.square().sum(), wanted),
        torch.autograd.grad(theirs.square().sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=10 * EXACT[dtype], atol=10 * EXACT[dtype])


@pytest.mark.parametrize("kind", KINDS)
def test_first_and_second_derivatives_by_finite_differences(kind):
    config = replace(KINDS[kind], d_model=3, d_ff=2, experts=3)
    experts = built(config)
    x, expert, gate = inputs(config, torch.tensor([[0, 2], [2, -1], [0, 2]]))
    names = [name for name, _ in experts.named_parameters()]

    def mixed(x, gate, *values):
        call = (x, expert, gate)
        return torch.func.functional_call(
            Mix(experts), dict(zip(names_of, values, strict=True)), call
        )

    names_of = [f"experts.{name}" for name in names]
    values = [p.detach().clone().requires_grad_() for p in experts.parameters()]
    arguments = (x.requires_grad_(), gate.requires_grad_(), *values)
    assert torch.autograd.gradcheck(mixed, arguments)
    assert torch.autograd.gradgradcheck(mixed, arguments)


class Mix(torch.nn.Module):
    def __init__(self, experts: Experts):
        super().__init__()
        self.experts = experts

    def forward(self, *call):
        return self.experts.mix(*call)


@pytest.mark.parametrize("kind", KINDS)
def test_slots_give_every_expert_its_own_rows(kind, chunk):
    config = KINDS[kind]
    experts = built(config)
    x, _, _ = inputs(config, torch.zeros(5 * 4, 1, dtype=torch.long))
    found = experts.slots(x.view(5, 4, config.d_model))
    expected = each(experts, x, torch.arange(5).repeat_interleave(4)[:, None])
    torch.testing.assert_close(found, expected.view(found.shape))


def test_rows_without_a_choice_and_experts_without_a_row():
    experts = built(BASE)
    x, expert, gate = inputs(BASE)
    assert torch.equal(experts(x, expert)[expert < 0], torch.zeros(4, 8).double())
    assert torch.equal(experts.mix(x, expert, gate)[2], torch.zeros(8).double())
    for grad in torch.autograd.grad(experts.mix(x, expert, gate).sum(), experts.parameters()):
        assert not grad[3].any()
        assert all(grad[e].any() for e in (0, 1, 2, 4))


@pytest.mark.parametrize("expert", [CHOICES[:0], CHOICES[2:3]], ids=["no rows", "no choices"])
def test_nothing_to_do_is_zero_with_zero_gradients(expert):
    experts = built(BASE)
    x, expert, gate = inputs(BASE, expert)
    y = experts.mix(x.requires_grad_(), expert, gate)
    assert y.shape == x.shape
    assert experts(x, expert).shape == (*expert.shape, 8)
    for grad in torch.autograd.grad(y.sum(), [x, *experts.parameters()]):
        assert not grad.any()
    assert experts.slots(x.new_zeros(5, 0, 8)).shape == (5, 0, 8)


def test_gates_of_padding_are_not_read():
    experts = built(BASE)
    x, expert, gate = inputs(BASE)
    spoilt = torch.where(expert < 0, torch.nan, gate).requires_grad_()
    y = experts.mix(x, expert, spoilt)
    assert torch.equal(y, experts.mix(x, expert, gate))
    (grad,) = torch.autograd.grad(y.sum(), spoilt)
    assert not grad[expert < 0].any()


def test_only_real_choices_cost(monkeypatch):
    """Expert Choice fills most of [N, E] with -1; those rows reach no product."""
    seen = []
    pieces = visits.pieces
    monkeypatch.setattr(
        visits, "pieces", lambda v, *rest: [seen.append(p.hi - p.lo) or p for p in pieces(v, *rest)]
    )
    experts = built(BASE)
    expert = torch.full((6, 5), -1)
    expert[1, 0], expert[4, 3] = 2, 0
    experts.mix(*inputs(BASE, expert))
    assert sum(seen) == 2


def test_frozen_weights_and_frozen_input():
    experts = built(BASE)
    x, expert, gate = inputs(BASE)
    experts.w_in.requires_grad_(False)
    experts.mix(x, expert, gate).sum().backward()
    assert experts.w_in.grad is None
    assert experts.w_out.grad.any()
    assert not experts.mix(x, expert, gate).detach().requires_grad


def test_a_piece_holds_at_most_the_chunk_and_pieces_are_all_visits(chunk):
    expert = torch.randint(-1, 5, (40, 3), generator=torch.Generator().manual_seed(2))
    found, _ = visits.Visits.of(expert, 5, each=False)
    cut = list(visits.pieces(found, torch.zeros(40, 8), 12))
    assert [p.lo for p in cut] == [0, *(p.hi for p in cut[:-1])]
    assert cut[-1].hi == (expert >= 0).sum()
    assert all(p.hi - p.lo <= chunk for p in cut)


def test_large_buffers_are_as_asked():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        like = torch.zeros(1, dtype=dtype)
        shape = (3, visits.LARGE_BYTES // 4)
        assert visits.buffer(shape, like).dtype == dtype
        assert visits.buffer(shape, like).shape == shape
        assert visits.buffer(shape, like).data_ptr() % 64 == 0


def test_autocast_computes_in_its_dtype():
    experts = built(BASE, torch.float32)
    x, expert, gate = inputs(BASE, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = experts.mix(x, expert, gate)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), experts.mix(x, expert, gate), rtol=0.1, atol=0.1)
    y.float().sum().backward()
    assert experts.w_in.grad.dtype == torch.float32


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "odd widths"])
def test_the_dense_ffn_is_one_expert(kind):
    config = replace(KINDS[kind], experts=1, top_k=1)
    experts = built(config)
    ffn = DenseFFN(8, 12, config.activation, config.bias).double()
    with torch.no_grad():
        for mine, stacked in zip(ffn.parameters(), experts.parameters(), strict=True):
            mine.copy_(stacked[0])
    x, _, _ = inputs(config)
    torch.testing.assert_close(ffn(x), experts(x, torch.zeros(7, 1, dtype=torch.long))[:, 0])
