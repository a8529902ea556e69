"""How the weights of other MoE layers become the weights of a MoELayer: one function for each.

Each takes their layer and returns a dict for ``MoELayer.load_state_dict``:

    layer = MoELayer(config)
    layer.load_state_dict(weights.mixtral(block))

Ours multiply from the right, x [N, D] @ w_in [D, F], so the weights of an ``nn.Linear`` [out, in]
are transposed; the router keeps its rows, one for each expert. Every line moves numbers and does
no arithmetic with them, so the same functions bring their gradients into our layout
(``get=gradient``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Get = Callable[[Tensor], Tensor]


def value(parameter: Tensor) -> Tensor:
    return parameter.detach().clone()


def gradient(parameter: Tensor) -> Tensor:
    """A parameter that took no part has a gradient of zero, whether autograd says so or not."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()


def mixtral(block: nn.Module, get: Get = value) -> dict[str, Tensor]:
    """Hugging Face Mixtral, OLMoE and Qwen3-MoE blocks (transformers 5: stacked experts).

    ``gate_up_proj`` [E, 2F, D] holds the half that goes through silu *first*: ours is w_gate.
    """
    gate, up = get(block.experts.gate_up_proj).chunk(2, dim=1)
    return {
        "router.weight": get(block.gate.weight),
        "experts.w_gate": gate.transpose(1, 2),
        "experts.w_in": up.transpose(1, 2),
        "experts.w_out": get(block.experts.down_proj).transpose(1, 2),
    }


def deepseek(block: nn.Module, get: Get = value) -> dict[str, Tensor]:
    """Hugging Face DeepSeek-V2 and V3: as Mixtral, and one wide MLP for all shared experts.

    Its width n F is n shared experts side by side: the sum of n outputs is one wider product.
    """
    shared = block.shared_experts
    n = block.config.n_shared_experts
    weights = mixtral(block, get) | {
        "shared.w_gate": get(shared.gate_proj.weight).unflatten(0, (n, -1)).transpose(1, 2),
        "shared.w_in": get(shared.up_proj.weight).unflatten(0, (n, -1)).transpose(1, 2),
        "shared.w_out": get(shared.down_proj.weight).unflatten(1, (n, -1)).permute(1, 2, 0),
    }
    if hasattr(block.gate, "e_score_correction_bias"):  # V3; a buffer, so it has no gradient
        weights["router.bias"] = get(block.gate.e_score_correction_bias)
    return weights


def switch(block: nn.Module, get: Get = value) -> dict[str, Tensor]:
    """Hugging Face SwitchTransformersSparseMLP: a module for each expert, no biases."""
    experts = block.experts.values()
    return {
        "router.weight": get(block.router.classifier.weight),
        "experts.w_in": torch.stack([get(e.wi.weight).T for e in experts]),
        "experts.w_out": torch.stack([get(e.wo.weight).T for e in experts]),
    }


def mixture_of_experts(moe: nn.Module, get: Get = value) -> dict[str, Tensor]:
    """mixture-of-experts (lucidrains): experts as ours, the router's matrix [D, E] transposed."""
    return {
        "router.weight": get(moe.gate.w_gating).T,
        "experts.w_in": get(moe.experts.w1),
        "experts.w_out": get(moe.experts.w2),
    }


def two_layers(experts: nn.ModuleList, get: Get = value) -> dict[str, Tensor]:
    """Experts that are ``nn.Sequential(Linear, activation, ..., Linear)``, with biases."""
    return {
        "experts.w_in": torch.stack([get(e[0].weight).T for e in experts]),
        "experts.b_in": torch.stack([get(e[0].bias) for e in experts]),
        "experts.w_out": torch.stack([get(e[-1].weight).T for e in experts]),
        "experts.b_out": torch.stack([get(e[-1].bias) for e in experts]),
    }


def st_moe(moe: nn.Module, get: Get = value) -> dict[str, Tensor]:
    """st-moe-pytorch around experts of two layers (its own experts are GEGLU with a
    multiplicative bias, which ours are not)."""
    return {"router.weight": get(moe.gate.to_gates.weight)} | two_layers(moe.experts.experts, get)


def soft_moe(moe: nn.Module, get: Get = value) -> dict[str, Tensor]:
    """soft-moe-pytorch: ``slot_embeds`` [E, P, D]; slot j of ours belongs to expert j // P."""
    return {"router.weight": get(moe.slot_embeds).flatten(0, 1)} | two_layers(
        moe.experts.experts, get
    )


def torchscale(moe: nn.Module, get: Get = value) -> dict[str, Tensor]:
    """torchscale's MOELayer with a Top1Gate or Top2Gate around experts of two layers."""
    return {"router.weight": get(moe.gate.wg.weight)} | two_layers(moe.experts, get)


def x_moe(moe: nn.Module, get: Get = value) -> dict[str, Tensor]:
    """torchscale's gates with ``use_xmoe``: a projection to 16 before the router's rows."""
    return {
        "router.project": get(moe.gate.wg_reduction.weight),
        "router.weight": get(moe.gate.wg),
    } | two_layers(moe.experts, get)
