"""The independent implementations: how each is built, called and read, and what ours must match.

Every row of :data:`ORACLES` is one layer written by somebody else, with random weights, and the
``MoEConfig`` that describes the same layer. ``run`` returns what theirs computes; the functions of
``weights`` bring its weights, and later its gradients, into our layout.

Sizes are tiny: B = 2 sequences of T = 25 tokens, which no number of experts here divides.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from unittest import mock

import torch
import weights
from torch import Tensor, nn

from mhmoe.layers import MoEConfig

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything here is built, nothing fetched

BATCH, TOKENS, WIDTH, INNER = 2, 25, 32, 24


@dataclass(frozen=True)
class Answer:
    """What one layer said about one input.

    parts   compared as they are: ``output`` [B, T, D] and ``gates`` [B, T, E], the weight of every
            expert in the output after drops (zero where an expert had no part)
    losses  scalars by our names, each as its code computes it
    """

    parts: dict[str, Tensor]
    losses: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Control:
    """A deliberate difference that must be noticed, so that the agreement means something.

    breaks    the part or loss that moves, by at least ``at_least`` of its largest value
    changes   other switches for our layer, or ``weights``: other weights for it
    """

    name: str
    breaks: str
    at_least: float
    changes: dict = field(default_factory=dict)
    weights: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda state: state


@dataclass(frozen=True)
class Oracle:
    """One independent implementation and our description of it.

    loss_factor  theirs = factor * ours, where the definitions differ by a constant
    drops        whether the capacity of this case must turn choices away
    seed         both sides draw their random numbers from it; None where nothing is random
    """

    name: str
    build: Callable[[], nn.Module]
    run: Callable[[nn.Module, Tensor], Answer]
    weights: Callable[..., dict[str, Tensor]]
    config: MoEConfig
    controls: tuple[Control, ...]
    loss_factor: dict[str, float] = field(default_factory=dict)
    drops: bool = False
    seed: int | None = None


def fill(module: nn.Module, seed: int = 1) -> nn.Module:
    """Random weights in place of theirs, some of which are not initialised at all; training mode,
    since some report losses only there (nothing random is switched on)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
    return module.train()


def two_layer_experts(experts: int, activation: type[nn.Module] = nn.GELU) -> nn.ModuleList:
    return nn.ModuleList(
        nn.Sequential(nn.Linear(WIDTH, INNER), activation(), nn.Linear(INNER, WIDTH))
        for _ in range(experts)
    )


def watch(module: nn.Module, part: nn.Module, x: Tensor) -> tuple[Tensor, tuple]:
    """module(x), and what ``part`` of it returned on the way (its last call)."""
    seen: list = []
    handle = part.register_forward_hook(lambda _module, _args, out: seen.append(out))
    try:
        return module(x), seen[-1]
    finally:
        handle.remove()


# ------------------------------------------------------------------------------ Hugging Face


def hugging_face(folder: str, config_name: str, block_name: str, **sizes) -> nn.Module:
    """A block of transformers by name, with the plain loop over experts."""
    from importlib import import_module

    models = "transformers.models"
    config_class = getattr(import_module(f"{models}.{folder}.configuration_{folder}"), config_name)
    config = config_class(hidden_size=WIDTH, hidden_act="silu", **sizes)
    config._experts_implementation = "eager"
    return fill(getattr(import_module(f"{models}.{folder}.modeling_{folder}"), block_name)(config))


def mixtral() -> nn.Module:
    return hugging_face(
        "mixtral",
        "MixtralConfig",
        "MixtralSparseMoeBlock",
        intermediate_size=INNER,
        num_local_experts=8,
        num_experts_per_tok=2,
    )


def olmoe() -> nn.Module:
    return hugging_face(
        "olmoe",
        "OlmoeConfig",
        "OlmoeSparseMoeBlock",
        intermediate_size=INNER,
        num_experts=8,
        num_experts_per_tok=3,
        norm_topk_prob=False,
    )


def qwen3() -> nn.Module:
    return hugging_face(
        "qwen3_moe",
        "Qwen3MoeConfig",
        "Qwen3MoeSparseMoeBlock",
        moe_intermediate_size=INNER,
        num_experts=6,
        num_experts_per_tok=3,
        norm_topk_prob=True,
    )


def deepseek_v2(method: str = "greedy") -> nn.Module:
    return hugging_face(
        "deepseek_v2",
        "DeepseekV2Config",
        "DeepseekV2Moe",
        moe_intermediate_size=INNER,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_shared_experts=2,
        routed_scaling_factor=1.7,
        topk_method=method,
        n_group=2,
        topk_group=1,  # with as many groups as choices, the best experts' groups are always kept
    )


def deepseek_v3() -> nn.Module:
    block = hugging_face(
        "deepseek_v3",
        "DeepseekV3Config",
        "DeepseekV3MoE",
        moe_intermediate_size=INNER,
        n_routed_experts=12,
        num_experts_per_tok=3,
        n_shared_experts=1,
        routed_scaling_factor=2.5,
        norm_topk_prob=True,
        n_group=3,
        topk_group=2,
    )
    # as large as the differences between scores, so that it changes who is chosen
    block.gate.e_score_correction_bias.copy_(torch.linspace(-0.3, 0.3, 12))
    return block


def run_hugging_face(block: nn.Module, x: Tensor) -> Answer:
    y, (logits, weight, expert) = watch(block, block.gate, x)
    gates = torch.zeros_like(logits).scatter(-1, expert, weight)
    return Answer({"output": y, "gates": gates.unflatten(0, x.shape[:2])})


def run_with_loss(block: nn.Module, x: Tensor) -> Answer:
    """Also the loss that Mixtral, OLMoE and Qwen3-MoE compute from the logits of a layer."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    _, (logits, _, expert) = watch(block, block.gate, x)
    loss = load_balancing_loss_func((logits,), logits.shape[1], expert.shape[1])
    return Answer(run_hugging_face(block, x).parts, {"balance": loss})


SWITCH_CAPACITY = 5


def switch() -> nn.Module:
    from transformers.models.switch_transformers.configuration_switch_transformers import (
        SwitchTransformersConfig,
    )
    from transformers.models.switch_transformers.modeling_switch_transformers import (
        SwitchTransformersSparseMLP,
    )

    config = SwitchTransformersConfig(
        d_model=WIDTH,
        d_ff=INNER,
        num_experts=4,
        expert_capacity=SWITCH_CAPACITY,
        router_jitter_noise=0.0,
        dropout_rate=0.0,
    )
    return fill(SwitchTransformersSparseMLP(config))


def run_switch(block: nn.Module, x: Tensor) -> Answer:
    from transformers.models.switch_transformers.modeling_switch_transformers import (
        load_balancing_loss_func,
        router_z_loss_func,
    )

    y, (expert, probability, logits) = watch(block, block.router, x)
    probs = logits.softmax(-1)
    losses = {
        "balance": load_balancing_loss_func(probs, probs.argmax(-1)),
        "z": router_z_loss_func(logits),
    }
    return Answer({"output": y, "gates": expert * probability}, losses)


# ------------------------------------------------------------------------------- lucidrains


def mixture_of_experts(second: str = "all") -> nn.Module:
    from mixture_of_experts import MoE

    rules = {"second_policy_train": second, "capacity_factor_train": 1.25}
    return fill(MoE(WIDTH, num_experts=4, hidden_dim=INNER, loss_coef=1.0, **rules))


def run_mixture_of_experts(moe: nn.Module, x: Tensor) -> Answer:
    (y, loss), (_, combine, _) = watch(moe, moe.gate, x)
    return Answer({"output": y, "gates": combine.sum(-1)}, {"balance": loss})


def st_moe(top_n: int = 3) -> nn.Module:
    """Thresholds of 0 keep every choice; without the straight-through estimator, which adds a
    path for the gradient that is in no paper (test_differences.py)."""
    with warnings.catch_warnings():  # beartype about st-moe's type hints
        warnings.simplefilter("ignore", DeprecationWarning)
        from st_moe_pytorch import MoE

    moe = MoE(
        dim=WIDTH,
        num_experts=4,
        gating_top_n=top_n,
        threshold_train=0.0,
        capacity_factor_train=2.0,
        straight_through_dispatch_tensor=False,
        experts=two_layer_experts(4),
    )
    return fill(moe)


def run_st_moe(moe: nn.Module, x: Tensor) -> Answer:
    """Its balance loss, counted after the drops, is another: see test_differences.py."""
    answer, (_, combine, _, _) = watch(moe, moe.gate, x)
    return Answer({"output": answer.outputs, "gates": combine.sum(-1)}, {"z": answer.router_z_loss})


def soft_moe() -> nn.Module:
    """Without its two RMS norms, which the paper's plain form has not (test_differences.py)."""
    from soft_moe_pytorch import SoftMoE

    moe = SoftMoE(WIDTH, num_experts=4, num_slots=3, expert_mult=INNER / WIDTH)
    moe.norm = moe.slot_norm = nn.Identity()
    moe.experts.offload_unused_experts_to_cpu = False
    return fill(moe)


def run_soft_moe(moe: nn.Module, x: Tensor) -> Answer:
    slots: list[Tensor] = []
    handle = moe.experts.register_forward_pre_hook(lambda _module, args: slots.append(args[0]))
    y = moe(x)
    handle.remove()
    return Answer({"output": y, "slots": slots[0].flatten(1, 2)})


# ------------------------------------------------------------------------------- torchscale


def torchscale(gate_name: str, **rules) -> nn.Module:
    """The layer as torchscale assembles it. It asks for a process group of its own, answered
    here with one process; the batch is then one group of B T tokens for capacity and losses."""
    from torchscale.component.xmoe import moe_layer, routing

    gate = getattr(routing, gate_name)(WIDTH, 4, **rules)
    args = SimpleNamespace(moe_expert_count=4, batch_size=BATCH, batch_size_valid=BATCH)
    one_process = SimpleNamespace(get_world_size=lambda group=None: 1)
    with (
        mock.patch.object(moe_layer, "dist", one_process),
        mock.patch.object(moe_layer, "get_moe_group", return_value=(0, None)),
        mock.patch.object(moe_layer, "get_all2all_group", return_value=None),
    ):
        return fill(moe_layer.MOELayer(gate, two_layer_experts(4), args))


def top1() -> nn.Module:
    return torchscale("Top1Gate", capacity_factor=1.0)


def top2(second: str = "all", **rules) -> nn.Module:
    return torchscale("Top2Gate", second_expert_policy=second, **rules)


def x_moe() -> nn.Module:
    """After one pass, which rescales every row of the router to length 1.5 in place."""
    moe = torchscale("Top1Gate", capacity_factor=1.0, use_xmoe=True)
    with torch.no_grad():
        run_torchscale(moe, torch.zeros(BATCH, TOKENS, WIDTH))
    return moe


histogram = torch.histc


def histogram_of_floats(numbers: Tensor, **bins) -> Tensor:
    """torch.histc for the integers that torchscale gives it, which only CUDA takes."""
    return histogram(numbers.float(), **bins)


def run_torchscale(moe: nn.Module, x: Tensor) -> Answer:
    with mock.patch.object(torch, "histc", histogram_of_floats):
        (y, loss), (_, combine, _, _) = watch(moe, moe.gate, x)
    return Answer({"output": y, "gates": combine.sum(-1).view(*x.shape[:2], -1)}, {"balance": loss})


# ------------------------------------------------------------------------------ ours, beside


def swap_halves(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mistake that converters make: the half through silu taken for the other one."""
    return state | {
        "experts.w_in": state["experts.w_gate"],
        "experts.w_gate": state["experts.w_in"],
    }


def without_bias(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"router.bias": torch.zeros_like(state["router.bias"])}


def shift_experts(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Expert e gets the second matrix of expert e - 1."""
    return state | {"experts.w_out": state["experts.w_out"].roll(1, dims=0)}


def slots_across(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Slot j given to expert j % E instead of j // P."""
    rows = state["router.weight"]
    return state | {"router.weight": rows.unflatten(0, (3, 4)).transpose(0, 1).flatten(0, 1)}


def shared_routed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first routed expert in the place of the first shared one."""
    shared = state["shared.w_out"].clone()
    shared[0] = state["experts.w_out"][0]
    return state | {"shared.w_out": shared}


V2_GROUPS = {"expert_groups": 2, "groups_kept": 1, "group_score": "max"}
FLOOR = {"capacity_rounding": "floor", "capacity_minimum": 4}
ONE_GROUP = {"group": "batch", "capacity_rounding": "share", "loss_over": "batch"}
TOP2 = {"bias": True, "second": "all", "capacity_factor": 1.0, **ONE_GROUP}


def layer(router: str, experts: int, top_k: int | None, activation: str, **switches) -> MoEConfig:
    """The shape that all rows share."""
    return MoEConfig(
        d_model=WIDTH,
        d_ff=INNER,
        router=router,
        experts=experts,
        top_k=top_k,
        activation=activation,
        **switches,
    )


SWAPPED = Control("w_in and w_gate swapped", "output", 0.1, weights=swap_halves)
SHIFTED = Control("w_out of the neighbour", "output", 0.1, weights=shift_experts)
RAW = Control("not renormalised", "gates", 0.1, {"gate": "softmax-topk"})

ORACLES = (
    Oracle(
        "transformers Mixtral",
        mixtral,
        run_with_loss,
        weights.mixtral,
        layer("mixtral", 8, 2, "swiglu"),
        (RAW, SWAPPED),
        loss_factor={"balance": 2},  # it counts all k choices of a token: k at balance
    ),
    Oracle(
        "transformers OLMoE",
        olmoe,
        run_with_loss,
        weights.mixtral,
        layer("linear", 8, 3, "swiglu"),
        (Control("renormalised", "gates", 0.1, {"gate": "renormalised"}), SWAPPED),
        loss_factor={"balance": 3},
    ),
    Oracle(
        "transformers Qwen3-MoE",
        qwen3,
        run_with_loss,
        weights.mixtral,
        layer("linear", 6, 3, "swiglu", gate="renormalised"),
        (RAW, SWAPPED),
        loss_factor={"balance": 3},
    ),
    Oracle(
        "transformers DeepSeek-V2, greedy",
        deepseek_v2,
        run_hugging_face,
        weights.deepseek,
        layer("deepseek-moe", 8, 2, "swiglu", shared=2, gate_scale=1.7),
        (
            Control("not scaled", "gates", 0.1, {"gate_scale": 1.0}),
            Control("shared experts exchanged for routed", "output", 0.1, weights=shared_routed),
        ),
    ),
    Oracle(
        "transformers DeepSeek-V2, grouped",
        lambda: deepseek_v2("group_limited_greedy"),
        run_hugging_face,
        weights.deepseek,
        layer("deepseek-moe", 8, 2, "swiglu", shared=2, gate_scale=1.7, **V2_GROUPS),
        (
            Control("groups ignored", "gates", 0.1, {"expert_groups": 1, "groups_kept": 1}),
            Control("groups as V3 ranks them", "gates", 0.1, {"group_score": "top2"}),
        ),
    ),
    Oracle(
        "transformers DeepSeek-V3",
        deepseek_v3,
        run_hugging_face,
        weights.deepseek,
        layer("deepseek-v3", 12, 3, "swiglu", gate_scale=2.5, expert_groups=3, groups_kept=2),
        (
            Control("bias left out", "gates", 0.1, weights=without_bias),
            Control("softmax scores", "gates", 0.1, {"score": "softmax"}),
            Control("groups as V2 ranks them", "gates", 0.1, {"group_score": "max"}),
            RAW,
        ),
    ),
    Oracle(
        "transformers Switch",
        switch,
        run_switch,
        weights.switch,
        layer("switch", 4, 1, "relu", capacity_factor=0.8, loss_over="sequence"),
        (
            Control("one place more", "gates", 0.1, {"capacity_factor": 0.96}),
            Control("nothing dropped", "gates", 0.1, {"capacity_factor": None}),
            Control("loss over the batch", "balance", 1e-3, {"loss_over": "batch"}),
            SHIFTED,
        ),
        drops=True,
    ),
    Oracle(
        "mixture-of-experts",
        mixture_of_experts,
        run_mixture_of_experts,
        weights.mixture_of_experts,
        # its capacity leaves out the factor k: n * 1.25 / E = 0.625 * k * n / E
        layer("gshard", 4, 2, "relu", second="all", capacity_factor=0.625, **FLOOR),
        (
            Control("capacity rounded up", "gates", 0.1, {"capacity_rounding": "ceil"}),
            Control("divided after the drops", "gates", 0.1, {"renormalise_after_drop": True}),
            Control("loss counts all choices", "balance", 1e-3, {"loss_counts": "all"}),
            RAW,
        ),
        drops=True,
    ),
    Oracle(
        "mixture-of-experts, second choice by chance",
        lambda: mixture_of_experts("random"),
        run_mixture_of_experts,
        weights.mixture_of_experts,
        layer("gshard", 4, 2, "relu", second="threshold", capacity_factor=0.625, **FLOOR),
        (
            Control("every second choice", "gates", 0.1, {"second": "all"}),
            Control("GShard's chance, 2 g", "gates", 0.1, {"second": "random"}),
        ),
        drops=True,
        seed=3,
    ),
    Oracle(
        "st-moe-pytorch, top 3",
        st_moe,
        run_st_moe,
        weights.st_moe,
        layer("st-moe", 4, 3, "gelu", bias=True, second="all", capacity_factor=2 / 3, **FLOOR),
        (
            Control("capacity rounded up", "gates", 0.1, {"capacity_rounding": "ceil"}),
            Control("served by priority", "gates", 0.1, {"order": "priority"}),
            SHIFTED,
            Control("not renormalised", "gates", 0.05, {"gate": "softmax-topk"}),
        ),
        drops=True,
    ),
    Oracle(
        "soft-moe-pytorch",
        soft_moe,
        run_soft_moe,
        weights.soft_moe,
        layer("soft-moe", 4, None, "gelu", bias=True, slots=3),
        (Control("slots dealt in turn", "output", 0.1, weights=slots_across), SHIFTED),
    ),
    Oracle(
        "torchscale xmoe top-1",
        top1,
        run_torchscale,
        weights.torchscale,
        layer("switch", 4, 1, "gelu", bias=True, **ONE_GROUP, capacity_factor=1.0),
        (
            Control(
                "capacity without the inner ceil", "gates", 0.1, {"capacity_rounding": "floor"}
            ),
            Control("a group per sequence", "gates", 0.1, {"group": "sequence"}),
            SHIFTED,
        ),
        drops=True,
    ),
    Oracle(
        "torchscale xmoe top-2",
        top2,
        run_torchscale,
        weights.torchscale,
        layer("gshard", 4, 2, "gelu", **TOP2, renormalise_after_drop=True),
        (
            Control("divided before the drops", "gates", 0.1, {"renormalise_after_drop": False}),
            Control("one group per sequence", "gates", 0.1, {"group": "sequence"}),
        ),
        drops=True,
    ),
    Oracle(
        "torchscale xmoe top-2, priority",
        lambda: top2(batch_prioritized_routing=True, normalize_gate_prob_before_dropping=True),
        run_torchscale,
        weights.torchscale,
        layer("gshard", 4, 2, "gelu", **TOP2, order="priority"),
        (
            Control("served by position", "gates", 0.1, {"order": "position"}),
            Control("divided after the drops", "gates", 0.1, {"renormalise_after_drop": True}),
        ),
        drops=True,
    ),
    Oracle(
        "torchscale xmoe top-2, second choice by chance",
        lambda: top2("random", normalize_gate_prob_before_dropping=True),
        run_torchscale,
        weights.torchscale,
        layer("gshard", 4, 2, "gelu", **(TOP2 | {"second": "random"})),
        (
            Control("every second choice", "gates", 0.1, {"second": "all"}),
            Control("Mesh-TensorFlow's chance, g / 0.2", "gates", 0.1, {"second": "threshold"}),
        ),
        drops=True,
        seed=3,
    ),
    Oracle(
        "torchscale X-MoE",
        x_moe,
        run_torchscale,
        weights.x_moe,
        layer("x-moe-code", 4, 1, "gelu", bias=True, group="batch"),
        (
            Control("both sides normalised", "gates", 0.05, {"cosine": "both"}),
            Control("one place more", "gates", 0.1, {"capacity_minimum": 14}),
        ),
        drops=True,
    ),
)
