"""MH-MoE's three sizings (mhmoe.md's numbers are those of the papers), and fine-grained experts."""

from __future__ import annotations

import pytest
from moe_cases import config

from mhmoe.layers import ConfigError, MoEConfig, MoELayer

#: The layer of the first paper: d = 768, inner width 4d, one expert per token.
PAPER = MoEConfig(d_model=768, d_ff=3072, experts=8, top_k=1)
#: The follow-up's: SwiGLU experts of width 2048.
SWIGLU = MoEConfig(d_model=768, d_ff=2048, experts=8, top_k=1, activation="swiglu")


def expert_macs(c: MoEConfig) -> int:
    """Per token, of the experts and the square layers: the papers' leading terms."""
    return c.heads * c.top_k * c.matrices * c.d_head * c.d_ff + 2 * c.d_model**2 * c.projections


def expert_parameters(c: MoEConfig) -> int:
    return c.experts * c.matrices * c.d_head * c.d_ff


@pytest.mark.parametrize("heads", [2, 3, 4, 8])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
@pytest.mark.parametrize("bias", [False, True])
def test_parameters_match_and_macs_grow(heads, activation, bias):
    base = MoEConfig(
        d_model=768, d_ff=3072, experts=8, top_k=1, activation=activation, bias=bias, shared=1
    )
    many = base.matched(heads)
    assert many == MoEConfig.matched(base, heads) == base.matched(heads, "parameters")
    assert (many.experts, many.top_k, many.heads, many.shared) == (8, 1, heads, 1)
    assert 0 <= base.parameters - many.parameters < 0.005 * base.parameters
    assert many.macs_per_token > 1.5 * base.macs_per_token


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_the_depth_of_the_square_layers_is_paid_for_by_the_experts(heads, depth):
    many = PAPER.matched(heads, projections=depth)
    assert (many.heads, many.projections, many.experts) == (heads, depth, PAPER.experts)
    assert 0 <= PAPER.parameters - many.parameters < 0.005 * PAPER.parameters
    assert (many == PAPER) == (heads == 1 and depth == 0)


def test_the_code_of_the_first_paper_costs_four_times_as_much():
    # mhmoe.md 3.4: 67 B d^2 against 16 B d^2 (operations, two a MAC) at h = 4 and beta = 63/64;
    # the inner width that its code hard-codes is 15 d, ours comes from the exact parameters
    many = PAPER.matched(4)
    assert many.d_ff == pytest.approx(4 * 4 * 768 * 63 / 64, rel=0.05)
    assert expert_macs(many) / expert_macs(PAPER) == pytest.approx(67 / 16, rel=0.04)


def test_the_text_of_the_first_paper_keeps_macs_and_loses_parameters():
    many = PAPER.matched(4, "paper")
    assert many.d_ff == 3024  # 3072 * 63/64
    experts = expert_macs(many) - 2 * 768**2
    assert experts / expert_macs(PAPER) == pytest.approx(63 / 64)
    assert expert_parameters(many) / expert_parameters(PAPER) == pytest.approx(63 / 64 / 4)
    # and as section 3.1 says: with the square layers it costs more, not less
    assert expert_macs(many) > expert_macs(PAPER)


def test_the_follow_up_matches_both():
    # worked case: d_moe = 4d, k = 1, h = 3 -> d_mh = 3d and E_mh = 4E - 1
    many = PAPER.matched(3, "flops")
    assert (many.d_ff, many.experts, many.top_k) == (3 * 768, 31, 1)
    assert expert_macs(many) == expert_macs(PAPER)
    # and the other two that it quotes, for h = 2
    assert PAPER.matched(2, "flops").d_ff == 3 * 768
    assert PAPER.matched(2, "flops", top_k=2).d_ff == 3 * 768 // 2


@pytest.mark.parametrize(
    ("heads", "top_k", "width", "experts", "printed"), [(2, 2, 768, 41, 40), (3, 3, 512, 93, 96)]
)
def test_the_models_of_the_follow_up(heads, top_k, width, experts, printed):
    many = SWIGLU.matched(heads, "flops", top_k=top_k)
    assert (many.d_ff, many.experts, many.top_k) == (width, experts, top_k)
    assert expert_macs(many) == expert_macs(SWIGLU)
    # the paper rounds to 40 and 96, which is 3.1 % less and more weights than the layer replaced
    assert many.parameters == pytest.approx(SWIGLU.parameters, rel=0.01)
    as_printed = expert_parameters(SWIGLU) / (many.matrices * many.d_head * many.d_ff)
    assert printed == pytest.approx(as_printed - 2 * heads * 768 / (3 * width), rel=0.04)


@pytest.mark.parametrize("sizing", ["parameters", "paper", "flops"])
def test_the_formulas_hold_for_what_is_built(sizing):
    base = config(d_model=32, d_ff=128, experts=4, top_k=2)
    c = base.matched(2, sizing)
    assert c.parameters == sum(p.numel() for p in MoELayer(c).parameters())


def test_one_head_is_the_layer_itself():
    for sizing in ("parameters", "flops"):
        assert PAPER.matched(1, sizing) == PAPER


def test_fine_grained_experts_cost_the_same():
    base = MoEConfig(d_model=64, d_ff=256, experts=16, top_k=2, router="deepseek-moe", shared=0)
    fine = base.fine_grained(4)
    assert (fine.experts, fine.top_k, fine.d_ff) == (64, 8, 64)  # C(64, 8) in place of C(16, 2)
    shared = base.fine_grained(4, shared=2)
    assert (shared.experts, shared.top_k, shared.shared) == (62, 6, 2)
    for c in (fine, shared):
        assert expert_parameters(base) == (c.experts + c.shared) * 3 * 64 * c.d_ff
        assert expert_macs(base) == (c.top_k + c.shared) * 3 * 64 * c.d_ff


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PAPER.matched(4, "guess"), "sizing 'guess' is none of parameters, paper, flops"),
        (lambda: PAPER.matched(4, top_k=2), "keeps top_k 1; only flops can change it to 2"),
        (lambda: PAPER.matched(5), "768 cannot be cut into 5"),
        (
            lambda: MoEConfig(d_model=64, d_ff=32, experts=2, top_k=1).matched(2, "flops"),
            "2 heads leave no width for 2 experts",
        ),
        (lambda: PAPER.matched(0), "heads must be a whole number of at least 1, not 0"),
        (lambda: PAPER.matched(4, "flops", top_k=0), "top_k must be a whole number of at least 1"),
        (lambda: PAPER.matched(4).matched(2), "matched starts from one head .* not from 4 heads"),
        (
            lambda: MoEConfig(d_model=64, d_ff=64, experts=4, router="dense").matched(2, "flops"),
            "router 'dense' with 0 shared experts is none of its layers",
        ),
        (lambda: PAPER.fine_grained(5), "d_ff 3072 cannot be cut into 5 equal parts"),
        (lambda: PAPER.fine_grained(2, shared=2), "of the 2 experts .* 2 cannot be shared"),
    ],
)
def test_a_size_that_is_none_says_why(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_shared_experts_are_cut_like_the_others():
    base = MoEConfig(d_model=64, d_ff=256, experts=8, top_k=2, shared=1, router="deepseek-moe")
    fine = base.fine_grained(2)
    assert (fine.experts, fine.top_k, fine.shared, fine.d_ff) == (16, 4, 2, 128)
    router = 64 * (fine.experts - base.experts)
    assert fine.parameters == base.parameters + router
    assert fine.macs_per_token == base.macs_per_token + router
