"""Where ours and theirs differ on purpose, the difference as an equation; and who is no oracle."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import compare
import oracles
import pytest
import torch
import weights
from oracles import BATCH, TOKENS, WIDTH

from mhmoe.layers import MoELayer

ROW = {oracle.name: oracle for oracle in oracles.ORACLES}


def pair(name: str, **switches):
    """An oracle and ours with its weights, by the name in the table."""
    row = ROW[name]
    return compare.build(replace(row, config=replace(row.config, **switches)))


def same(theirs, our):
    assert compare.far(theirs, our) < compare.TOLERANCE


# ------------------------------------------------------------------------------ losses


@pytest.mark.parametrize("k", [1, 2, 4])
def test_hugging_face_loss_reads_k_at_balance_and_ours_one(k):
    """Theirs = k * ours: they count k choices per token, we divide by all choices."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    layer = MoELayer(oracles.layer("mixtral", 8, k, "swiglu"))
    with torch.no_grad():
        layer.router.weight.zero_()  # every probability is 1 / E: balance, whoever is chosen
    _, decisions, _ = layer.run(compare.tokens())
    theirs = load_balancing_loss_func((decisions.logits.flatten(0, 1),), 8, k)
    assert theirs.item() == pytest.approx(k)
    assert layer.losses(decisions)["balance"].item() == pytest.approx(1)


def test_hugging_face_loss_leaves_padding_out_as_ours():
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    _, layer = pair("transformers Mixtral")
    x = compare.tokens()
    mask = torch.arange(TOKENS) < torch.tensor([[TOKENS], [7]])
    logits = (layer.run(x)[1].logits.flatten(0, 1),)
    theirs = load_balancing_loss_func(logits, 8, 2, mask)
    our = layer.losses(layer.run(x, mask=mask)[1])["balance"]
    same(theirs, 2 * our)
    # without a mask theirs counts the padding
    assert compare.far(load_balancing_loss_func(logits, 8, 2), 2 * our) > 1e-3


def test_hugging_face_joins_layers_before_multiplying():
    """Theirs = k E sum_e mean_l(f) mean_l(P): experts of the same index in different layers
    count as one. Ours is a loss for each layer, k E mean_l(sum_e f P) in their units."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    _, layer = pair("transformers Mixtral")
    runs = [layer.run(compare.random(BATCH, TOKENS, WIDTH, seed=s))[1] for s in (5, 6)]
    theirs = load_balancing_loss_func(tuple(r.logits.flatten(0, 1) for r in runs), 8, 2)
    shares = [torch.bincount(r.expert.flatten(), minlength=8) / r.expert.numel() for r in runs]
    means = [r.probs.mean((0, 1)) for r in runs]
    same(theirs, 2 * 8 * (sum(shares) / 2 * sum(means) / 2).sum())
    apart = sum(layer.losses(r)["balance"] for r in runs) / 2
    assert compare.far(theirs, 2 * apart) > 1e-3


def test_st_moe_counts_its_balance_loss_after_the_drops():
    """Theirs = ours - E sum_e (first choices dropped / T) P_e, the mean over sequences: an expert
    that is asked for more than it can hold looks as if it were not."""
    theirs, layer = pair("st-moe-pytorch, top 3", capacity_factor=1 / 4)
    theirs.gate.capacity_factor_train = 3 / 4
    x = compare.tokens()
    answer, (_, decisions, _) = theirs(x), layer.run(x)
    lost = decisions.expert[..., 0].where(~decisions.kept[..., 0], -1)
    lost = torch.nn.functional.one_hot(lost + 1, 5)[..., 1:].float().mean(1)
    hidden = 4 * (lost * decisions.probs.mean(1)).sum(-1).mean()
    our = layer.losses(decisions)["balance"]
    same(answer.balance_loss, our - hidden)
    assert hidden.item() > 0.1


def test_torchscale_counts_padding_in_the_probabilities():
    """Theirs = E sum_e f_e P_e with f = count / all rows, without padding, and P the mean over all
    rows, with padding; ours takes both over real tokens. Their outputs agree."""
    theirs, layer = pair("torchscale xmoe top-1", capacity_factor=4.0)
    theirs.gate.capacity_factor = 4.0
    x = compare.tokens()
    mask = torch.arange(TOKENS) < torch.tensor([[TOKENS], [7]])
    with mock.patch.object(torch, "histc", oracles.histogram_of_floats):
        y, loss = theirs(x, input_padding_mask=~mask)
    our, decisions, _ = layer.run(x, mask=mask)
    same(y, our)
    first = torch.bincount(decisions.expert[mask].flatten(), minlength=4)
    everywhere = layer.run(x)[1].probs.mean((0, 1))
    same(loss, 4 * (first / mask.numel() * everywhere).sum())
    only_real = 4 * (first / mask.sum() * decisions.probs[mask].mean(0)).sum()
    same(layer.losses(decisions)["balance"], only_real)
    assert compare.far(loss, only_real) > 0.1


# ------------------------------------------------------------------------------ chance


def test_mixture_of_experts_draws_in_evaluation_too():
    """Its default keeps a second choice of weight g with probability min(1, g / 0.2), also in
    eval(). Ours draws only from a generator that it is given."""
    from mixture_of_experts import MoE

    x = compare.tokens()
    theirs = oracles.fill(MoE(WIDTH, num_experts=4, hidden_dim=oracles.INNER)).eval()
    torch.manual_seed(0)  # two draws may also fall alike; these do not
    first, second = theirs(x)[0], theirs(x)[0]
    assert compare.far(first, second) > 0.01
    layer = MoELayer(replace(ROW["mixture-of-experts"].config, second="threshold"))
    layer.load_state_dict(weights.mixture_of_experts(theirs))
    assert torch.equal(layer(x), layer(x))
    draws = [layer(x, generator=torch.Generator().manual_seed(s)).detach() for s in (1, 2)]
    assert compare.far(*draws) > 0.01


def test_switch_jitter_reaches_its_experts():
    """Theirs multiplies the layer's input in place, so that router, experts and the caller all
    see x * u, and theirs(x) = ours without jitter (x * u). In ours the experts read x: the same
    gates, other outputs."""
    theirs, layer = pair("transformers Switch", jitter=0.3)
    theirs.router.jitter_noise = 0.3
    before = compare.tokens().detach()
    x = before.clone()
    torch.manual_seed(0)
    y, (expert, probability, _) = oracles.watch(theirs, theirs.router, x)
    assert compare.far(before, x) > 0.1  # the caller's tensor has changed
    same(y, layer(x))
    x = before.clone()
    out, decisions, _ = layer.run(x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, before)
    same(expert * probability, compare.gates(decisions))
    visited = decisions.expert.where(decisions.kept, -1).flatten(0, 1)
    clean = layer.experts(before.flatten(0, 1), visited)[:, 0]
    same(clean * decisions.gate.flatten(0, 1), out.flatten(0, 1))
    assert compare.far(y, out) > 0.05


# ------------------------------------------------------------------------------ formulas


def test_soft_moe_pytorch_is_the_plain_form_on_normalised_tokens():
    """Theirs(x) = plain(r(x)) with slot vectors r(phi), r(v) = sqrt(d) v / |v|."""
    from soft_moe_pytorch import SoftMoE

    _, layer = pair("soft-moe-pytorch")
    theirs = oracles.fill(
        SoftMoE(WIDTH, num_experts=4, num_slots=3, expert_mult=oracles.INNER / WIDTH)
    )
    theirs.experts.offload_unused_experts_to_cpu = False
    torch.nn.init.ones_(theirs.norm.gamma)
    torch.nn.init.ones_(theirs.slot_norm.gamma)
    x = compare.tokens().detach()
    state = weights.soft_moe(theirs)
    layer.load_state_dict(state | {"router.weight": rms(state["router.weight"])})
    same(theirs(x), layer(rms(x)))
    assert compare.far(theirs(x), layer(x)) > 0.01


def test_soft_moe_pytorch_meets_the_papers_normalised_form_on_the_sphere():
    """The paper's logits are s cos(x, phi) and its slots average x itself; theirs average
    sqrt(d) x / |x| with s = d. Where |x| = sqrt(d) the two are one; elsewhere only ours
    notices how long a token is."""
    from soft_moe_pytorch import SoftMoE

    theirs = oracles.fill(
        SoftMoE(WIDTH, num_experts=4, num_slots=3, expert_mult=oracles.INNER / WIDTH)
    )
    theirs.experts.offload_unused_experts_to_cpu = False
    torch.nn.init.ones_(theirs.norm.gamma)
    torch.nn.init.ones_(theirs.slot_norm.gamma)
    layer = MoELayer(oracles.layer("soft-moe-normalised", 4, None, "gelu", bias=True, slots=3))
    scale = torch.full_like(layer.router.scale, WIDTH)
    layer.load_state_dict(weights.soft_moe(theirs) | {"router.scale": scale})
    x = rms(compare.tokens().detach())
    same(theirs(x), layer(x))
    same(theirs(3 * x), theirs(x))
    assert compare.far(layer(3 * x), layer(x)) > 0.5


def rms(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True) * x.shape[-1] ** 0.5


def test_st_moe_straight_through_adds_a_gradient():
    """By default theirs sends x (1 + G - stop(G)) to an expert: the same numbers, but the router
    also learns from what a larger input would have changed. In no paper; not in ours."""
    theirs, layer = pair("st-moe-pytorch, top 3", capacity_factor=None)
    theirs.gate.capacity_factor_train = 4.0
    theirs.gate.straight_through_dispatch_tensor = True
    x = compare.tokens()
    probe = compare.random(BATCH, TOKENS, WIDTH, seed=1)
    y, our = theirs(x).outputs, layer(x)
    same(y, our)
    found = compare.gradients((y * probe).sum(), x, theirs, weights.st_moe)
    plain = compare.gradients((our * probe).sum(), x, layer, compare.named)
    same(found["experts.w_out"], plain["experts.w_out"])
    assert compare.far(found["router.weight"], plain["router.weight"]) > 0.1
    weight = compare.gates(layer.run(x)[1])[..., None, :]  # [B, T, 1, E]
    sent = x[..., None] * (1 + weight - weight.detach())  # [B, T, D, E]
    inner = torch.einsum("btde,edf->btef", sent, layer.experts.w_in) + layer.experts.b_in
    each = torch.einsum("btef,efd->bted", torch.nn.functional.gelu(inner), layer.experts.w_out)
    through = ((each + layer.experts.b_out) * weight.transpose(-1, -2)).sum(2)
    again = compare.gradients((through * probe).sum(), x, layer, compare.named)
    same(found["router.weight"], again["router.weight"])


# ------------------------------------------------------------------------------ capacity, ties


def capacity(router: str, tokens: int, experts: int, **switches) -> int:
    """Places of an expert for this many tokens, by our rule with these switches."""
    layer = MoELayer(oracles.layer(router, experts, None, "gelu", **switches))
    with torch.no_grad():
        return layer.run(torch.zeros(1, tokens, WIDTH))[1].capacity[0]


def test_capacity_is_whatever_each_code_calls_so():
    """50 tokens, 8 experts, k = 2, factor 1.25: seven places or sixteen, depending on the code."""
    from mixture_of_experts import MoE
    from torchscale.component.xmoe import routing

    x = compare.random(1, 50, WIDTH)
    _, combine, _ = MoE(WIDTH, num_experts=8).gate(x)
    assert combine.shape[-1] == 7  # int(50 * 1.25 / 8), without the factor k
    rule = {"capacity_factor": 1.25 / 2, "capacity_rounding": "floor", "capacity_minimum": 4}
    assert capacity("gshard", 50, 8, **rule) == 7
    _, combine, _ = MoE(WIDTH, num_experts=32).gate(x)
    assert combine.shape[-1] == 4  # at least 4
    assert capacity("gshard", 50, 32, **rule) == 4
    logits = compare.random(50, 8)
    with mock.patch.object(torch, "histc", oracles.histogram_of_floats):
        places = [
            routing.top2gating(logits)[1].shape[-1],
            routing.top1gating(logits, capacity_factor=1.25)[1].shape[-1],
            routing.top2gating(logits, eval_mode=True)[1].shape[-1],
        ]
    assert places == [14, 8, 13]  # 2 ceil(50 / 8), int(1.25 ceil(50 / 8)), ceil(50 / 4)
    share = {"capacity_rounding": "share"}
    assert capacity("gshard", 50, 8, capacity_factor=1.0, **share) == 14
    assert capacity("switch", 50, 8, capacity_factor=1.25, **share) == 8
    assert capacity("gshard", 50, 8, capacity_factor=1.0) == 13
    assert capacity("v-moe", 50, 8, capacity_factor=1.25) == 16


def test_equal_scores_go_to_the_lower_experts_in_ours_alone():
    """torch.topk on the CPU answers ties with some other experts, so that a router of zeros sends
    Hugging Face's tokens elsewhere; a stable order is ours."""
    theirs, _ = pair("transformers Mixtral")
    layer = MoELayer(ROW["transformers Mixtral"].config)
    with torch.no_grad():
        theirs.gate.weight.zero_()
        layer.router.weight.zero_()
    x = compare.tokens()
    _, decisions, _ = layer.run(x)
    assert decisions.expert.unique(dim=1).tolist() == [[[0, 1]]] * BATCH
    assert set(torch.topk(torch.zeros(8), 2).indices.tolist()) != {0, 1}
    assert set(theirs.gate(x)[2].unique().tolist()) != {0, 1}


# ------------------------------------------------------------------------------ no oracle


def test_nllb_of_transformers_is_no_oracle():
    """Its expert loop takes the 0/1 mask of first choices for expert numbers: of eight experts
    only 0 and 1 ever compute, whatever the router says (transformers 5.23.0)."""
    from transformers.models.nllb_moe.configuration_nllb_moe import NllbMoeConfig
    from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeSparseMLP

    config = NllbMoeConfig(d_model=WIDTH, num_experts=8, second_expert_policy="all")
    block = oracles.fill(NllbMoeSparseMLP(config, ffn_dim=oracles.INNER))
    ran = []
    for number in range(8):
        expert = block.experts[f"expert_{number}"]
        expert.register_forward_hook(lambda *_, number=number: ran.append(number))
    x = compare.tokens()
    block(x)
    chosen = block.router.classifier(x).argmax(-1)
    assert len(chosen.unique()) > 4
    assert set(ran) == {0, 1}
