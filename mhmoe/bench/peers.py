"""MoE layers by others, as the bench of the layers calls them. Only called, never required: a
package that is not installed is left out.

Each has its own matrices: transformers' experts are SwiGLU with three, all others have two with
GELU between. Where a layer would drop tokens or draw at random, it is told not to, except for
capacity: mixture-of-experts, st-moe-pytorch and torchscale send tokens to buffers of twice the
fair share, in groups of at most 1,024 tokens, because their cost grows with the square of a group.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from types import SimpleNamespace
from unittest import mock

import torch
from torch import Tensor, nn

from mhmoe.layers import MoEConfig

GROUP = 1024

#: A peer's module, and the call that takes [T, D] to [T, D].
Built = tuple[nn.Module, Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Peer:
    """beside   the implementation of ours that has the same matrices: a key of ``layer.OURS``
    most      the largest number of tokens times experts at which one call takes seconds, not
              minutes
    top_k     the numbers of choices it can do
    """

    package: str
    build: Callable[[MoEConfig, int], Built]
    beside: str
    most: int
    top_k: tuple[int, ...] = (1, 2)

    def fits(self, config: MoEConfig, tokens: int) -> bool:
        """Whether it can do this size; none of them has heads."""
        small = tokens * config.experts <= self.most
        return config.heads == 1 and config.top_k in self.top_k and small


def mixtral(kind: str, config: MoEConfig, tokens: int) -> Built:
    """transformers' Mixtral block: "grouped_mm", or "eager", a loop over the experts."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # it is built here, nothing is fetched
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    sizes = MixtralConfig(
        hidden_size=config.d_model,
        intermediate_size=config.d_ff,
        num_local_experts=config.experts,
        num_experts_per_tok=config.top_k,
    )
    sizes._experts_implementation = kind
    block = _filled(MixtralSparseMoeBlock(sizes))
    return block, lambda x: block(x[None])[0]


def mixture_of_experts(config: MoEConfig, tokens: int) -> Built:
    from mixture_of_experts import MoE

    rules = {"second_policy_train": "all", "capacity_factor_train": 2.0}
    moe = MoE(
        config.d_model,
        num_experts=config.experts,
        hidden_dim=config.d_ff,
        activation=nn.GELU,
        **rules,
    )
    return _filled(moe), lambda x: moe(_grouped(x))[0].flatten(0, 1)


def st_moe(config: MoEConfig, tokens: int) -> Built:
    with warnings.catch_warnings():  # beartype about st-moe's type hints
        warnings.simplefilter("ignore", DeprecationWarning)
        from st_moe_pytorch import MoE

    moe = MoE(
        dim=config.d_model,
        num_experts=config.experts,
        gating_top_n=config.top_k,
        threshold_train=0.0,
        capacity_factor_train=2.0,
        experts=_two_matrices(config),
    )
    return _filled(moe), lambda x: moe(_grouped(x)).outputs.flatten(0, 1)


def soft_moe(config: MoEConfig, tokens: int) -> Built:
    from soft_moe_pytorch import SoftMoE

    moe = SoftMoE(
        config.d_model,
        num_experts=config.experts,
        num_slots=slots(config, tokens),
        expert_mult=config.d_ff / config.d_model,
    )
    moe.experts.offload_unused_experts_to_cpu = False
    return _filled(moe), lambda x: moe(x[None])[0]


def slots(config: MoEConfig, tokens: int) -> int:
    """Slots per expert for as many rows as a sparse layer would multiply."""
    return max(1, tokens * config.top_k // config.experts)


def x_moe(config: MoEConfig, tokens: int) -> Built:
    """torchscale's layer. It asks for a process group, answered here with one process."""
    from torchscale.component.xmoe import moe_layer, routing

    gate = (
        routing.Top1Gate(config.d_model, config.experts)
        if config.top_k == 1
        else routing.Top2Gate(config.d_model, config.experts, second_expert_policy="all")
    )
    args = SimpleNamespace(moe_expert_count=config.experts, batch_size=1, batch_size_valid=1)
    one_process = SimpleNamespace(get_world_size=lambda group=None: 1)
    with (
        mock.patch.object(moe_layer, "dist", one_process),
        mock.patch.object(moe_layer, "get_moe_group", return_value=(0, None)),
        mock.patch.object(moe_layer, "get_all2all_group", return_value=None),
    ):
        moe = _filled(moe_layer.MOELayer(gate, _two_matrices(config), args))
    histogram = torch.histc

    def call(x: Tensor) -> Tensor:
        floats = lambda numbers, **bins: histogram(numbers.float(), **bins)  # noqa: E731
        with mock.patch.object(torch, "histc", floats):  # it counts integers, which a CPU refuses
            return moe(x[None])[0][0]

    return moe, call


#: Every peer by the name of its rows. transformers' loop allocates a zero of all experts' size
#: for every expert in its backward pass, and the others multiply one-hot matrices.
PEERS: dict[str, Peer] = {
    "transformers": Peer(
        "transformers", lambda c, t: mixtral("grouped_mm", c, t), "ours swiglu", 1 << 22
    ),
    "transformers eager": Peer(
        "transformers", lambda c, t: mixtral("eager", c, t), "ours swiglu", 1 << 17
    ),
    "mixture-of-experts": Peer("mixture_of_experts", mixture_of_experts, "ours", 1 << 19, (2,)),
    "st-moe-pytorch": Peer("st_moe_pytorch", st_moe, "ours", 1 << 19, (2,)),
    "torchscale": Peer("torchscale", x_moe, "ours", 1 << 17),
    "soft-moe-pytorch": Peer("soft_moe_pytorch", soft_moe, "ours soft", 1 << 15),
}


def installed(name: str) -> bool:
    return find_spec(PEERS[name].package) is not None


def _grouped(x_TD: Tensor) -> Tensor:
    """[T, D] as sequences of at most GROUP tokens, if T can be cut so."""
    size = GROUP if len(x_TD) % GROUP == 0 else len(x_TD)
    return x_TD.view(-1, size, x_TD.shape[1])


def _two_matrices(config: MoEConfig) -> nn.ModuleList:
    d, f = config.d_model, config.d_ff
    return nn.ModuleList(
        nn.Sequential(nn.Linear(d, f), nn.GELU(), nn.Linear(f, d)) for _ in range(config.experts)
    )


def _filled(module: nn.Module) -> nn.Module:
    """Random weights, since some are not initialised at all; training mode, the faster one of
    those that drop more in it is not chosen: capacities are set for it above."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = parameter.shape[-1] ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return module.train()
