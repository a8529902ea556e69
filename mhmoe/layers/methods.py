"""The routers of the literature in one table: a method is a row, a row is a set of switches.

The layer has one pipeline (``mhmoe.layers.moe``). What distinguishes Switch from GShard or
Mixtral is how its switches stand; :data:`METHODS` says how each paper sets them. A switch that
is given to ``MoEConfig`` wins over the row. :data:`SWITCHES` holds the positions from which the
rows differ, and what each switch does is written at ``MoEConfig``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from mhmoe.trace import EXPERT_CHOICE, SOFT, TOKEN_CHOICE

#: Every switch with the position it has unless a method's row says otherwise.
SWITCHES = {
    "top_k": 2,
    "activation": "gelu",
    "bias": False,
    "capacity_factor": None,
    "capacity_rounding": "ceil",
    "capacity_multiple": 1,
    "capacity_minimum": 0,
    "group": "sequence",
    "order": "position",
    "overflow": "drop",
    "score": "softmax",
    "gate": "softmax-topk",
    "gate_scale": 1.0,
    "second": "all",
    "renormalise_after_drop": False,
    "noise": "none",
    "jitter": 0.0,
    "jitter_on": "input",
    "router_init": 0.1,
    "cosine": "none",
    "embedding": 0,
    "embedding_norm": 0.0,
    "temperature": 0.0,
    "loss_counts": "all",
    "loss_over": "batch",
    "importance_of": "gates",
    "load_threshold": "excluding",
    "shared": 0,
    "expert_groups": 1,
    "groups_kept": 1,
    "group_score": "top2",
    "bias_update": 0.0,
    "slots": 1,
    "normalised": False,
}

#: The switches that only mean something where tokens choose experts.
TOKEN_CHOICE_ONLY = (
    "order",
    "overflow",
    "score",
    "gate",
    "second",
    "renormalise_after_drop",
    "noise",
    "cosine",
    "expert_groups",
    "bias_update",
    "gate_scale",
)
#: The switches that only mean something where places are limited.
CAPACITY_ONLY = (
    "capacity_factor",
    "capacity_rounding",
    "capacity_multiple",
    "capacity_minimum",
    "group",
)


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row: ``key`` is the value of ``MoEConfig.router``.

    paper         authors, year, arXiv id and where in it the formula stands
    sentence      what is particular about it, in plain words
    switches      where it departs from :data:`SWITCHES`
    loss_weights  the weights of the losses it is trained with, by the names of
                  ``mhmoe.layers.losses``; empty where it needs none, or none could be verified
    """

    key: str
    title: str
    paper: str
    sentence: str
    assignment: str = TOKEN_CHOICE
    switches: dict[str, object] = field(default_factory=dict)
    loss_weights: dict[str, float] = field(default_factory=dict)

    def position(self, switch: str) -> object:
        """Where this method has one of :data:`SWITCHES`."""
        return self.switches.get(switch, SWITCHES[switch])

    def to_dict(self) -> dict:
        """The row as plain data."""
        return asdict(self)


_GSHARD = {
    "top_k": 2,
    "activation": "relu",
    "gate": "renormalised",
    "loss_counts": "first",
    "loss_over": "sequence",
}
_SWITCH = {
    "top_k": 1,
    "activation": "relu",
    "capacity_factor": 1.25,
    "jitter": 0.01,
    "loss_counts": "first",
}
_X_MOE = {"top_k": 1, "loss_counts": "first"}
_V_MOE = {
    "capacity_factor": 1.0,
    "capacity_multiple": 4,
    "group": "batch",
    "noise": "fixed",
    "importance_of": "probs",
    "load_threshold": "kth",
}
_FINE = {"activation": "swiglu"}

_ROWS = (
    Method(
        key="linear",
        title="Plain top-k",
        paper="Wu et al. 2024, arXiv 2404.15045, section 3.1 (the plain layer of MH-MoE)",
        sentence="One linear map scores the experts, the k best get the token, weighted by their "
        "share of a softmax over all. The shipped models use it.",
        loss_weights={"balance": 1e-2},
    ),
    Method(
        key="dense",
        title="Dense mixture",
        paper="Shazeer et al. 2017, arXiv 1701.06538, eq. 1 and section 2.1 (softmax gating)",
        sentence="Every expert computes every token; the router only weighs the results.",
        switches={"top_k": "all"},
    ),
    Method(
        key="shazeer",
        title="Noisy top-k",
        paper="Shazeer et al. 2017, arXiv 1701.06538, eq. 3-11",
        sentence="Learned noise on the scores lets every expert be tried; two losses keep the "
        "sums of gates and the chances of being chosen even.",
        switches={
            "top_k": 4,
            "activation": "relu",
            "gate": "topk-softmax",
            "noise": "learned",
            "router_init": 0.0,
        },
        loss_weights={"importance": 0.1, "load": 0.1},
    ),
    Method(
        key="gshard",
        title="GShard top-2",
        paper="Lepikhin et al. 2020, arXiv 2006.16668, algorithm 1",
        sentence="Two experts per token, the second one by chance when its weight is small; each "
        "expert has as many places per group as it would get if all were even.",
        switches=_GSHARD | {"capacity_factor": 1.0, "second": "random"},
        loss_weights={"balance": 1e-2},
    ),
    Method(
        key="switch",
        title="Switch",
        paper="Fedus et al. 2021, arXiv 2101.03961, eq. 1-6",
        sentence="One expert per token, a router in float32 with a slightly shaken input, and a "
        "full expert drops what comes late.",
        switches=_SWITCH,
        loss_weights={"balance": 1e-2},
    ),
    Method(
        key="st-moe",
        title="ST-MoE",
        paper="Zoph et al. 2022, arXiv 2202.08906, eq. 5 (z-loss)",
        sentence="Two experts per token; the z-loss keeps the scores small, so that rounding "
        "cannot change a choice.",
        switches=_GSHARD | {"activation": "gelu", "capacity_factor": 1.25, "second": "threshold"},
        loss_weights={"balance": 1e-2, "z": 1e-3},
    ),
    Method(
        key="x-moe",
        title="X-MoE",
        paper="Chi et al. 2022, arXiv 2204.09179, as the paper writes it",
        sentence="Scores are cosines in a small space, sharpened by a learned temperature, so "
        "that tokens are not drawn towards the experts' vectors.",
        switches=_X_MOE
        | {"cosine": "both", "embedding": "half", "embedding_norm": 0.1, "temperature": 0.3},
        loss_weights={"balance": 1e-2},
    ),
    Method(
        key="x-moe-code",
        title="X-MoE, released code",
        paper="Chi et al. 2022, arXiv 2204.09179, as torchscale and MH-MoE's code compute it",
        sentence="Only the experts' vectors are normalised, and there is no temperature.",
        switches=_X_MOE
        | {
            "cosine": "experts",
            "embedding": 16,
            "embedding_norm": 1.5,
            "capacity_factor": 1.0,
            "capacity_rounding": "share",
        },
        loss_weights={"balance": 1e-2},
    ),
    Method(
        key="mixtral",
        title="Mixtral",
        paper="Jiang et al. 2024, arXiv 2401.04088, section 2.1",
        sentence="The two best scores pass through a softmax of their own; no capacity, nothing "
        "is dropped.",
        switches={"gate": "topk-softmax", "activation": "swiglu"},
        loss_weights={"balance": 2e-3},  # its code: 0.001 times a loss that is K when even
    ),
    Method(
        key="v-moe",
        title="V-MoE",
        paper="Riquelme et al. 2021, arXiv 2106.05974, section 2 (vanilla routing)",
        sentence="Patches choose two experts under small fixed noise; the whole batch shares the "
        "experts' places, in order of position.",
        switches=_V_MOE,
        loss_weights={"importance": 5e-3, "load": 5e-3},
    ),
    Method(
        key="v-moe-priority",
        title="V-MoE, batch priority",
        paper="Riquelme et al. 2021, arXiv 2106.05974, section 4 (Batch Priority Routing)",
        sentence="The same, but the patches with the largest probability take their places first.",
        switches=_V_MOE | {"order": "priority"},
        loss_weights={"importance": 5e-3, "load": 5e-3},
    ),
    Method(
        key="expert-choice",
        title="Expert Choice",
        paper="Zhou et al. 2022, arXiv 2202.09368, section 3.2",
        sentence="Experts choose tokens, each its best C; loads are even by construction, but "
        "later tokens decide about earlier ones.",
        assignment=EXPERT_CHOICE,
        switches={"capacity_factor": 1.0},
    ),
    Method(
        key="soft-moe",
        title="Soft MoE",
        paper="Puigcerver et al. 2023, arXiv 2308.00951, section 2.1, without normalisation",
        sentence="Experts read weighted averages of all tokens and tokens read weighted averages "
        "of all experts; nothing is chosen or dropped.",
        assignment=SOFT,
        switches={"top_k": "all"},
    ),
    Method(
        key="soft-moe-normalised",
        title="Soft MoE, normalised",
        paper="Puigcerver et al. 2023, arXiv 2308.00951, section 2.3",
        sentence="The same with tokens and slot vectors of length one and a learned scale, so "
        "that the averages stay soft however wide the model is.",
        assignment=SOFT,
        switches={"top_k": "all", "normalised": True},
    ),
    Method(
        key="deepseek-moe",
        title="DeepSeekMoE",
        paper="Dai et al. 2024, arXiv 2401.06066, eq. 6-11",
        sentence="Many small experts instead of a few large ones, and shared ones that every "
        "token visits.",
        switches=_FINE | {"top_k": 6, "shared": 2},
    ),
    Method(
        key="deepseek-v3",
        title="DeepSeek-V3, loss-free balance",
        paper="Wang et al. 2024, arXiv 2408.15664; DeepSeek-AI 2024, arXiv 2412.19437",
        sentence="A bias that rises for idle experts and falls for busy ones takes part in the "
        "choice, not in the weights; only a very small loss still pulls at the router.",
        switches=_FINE
        | {
            "top_k": 8,
            "shared": 1,
            "score": "sigmoid",
            "gate": "renormalised",
            "gate_scale": 2.5,
            "bias_update": 1e-3,
            "loss_over": "sequence",
        },
        loss_weights={"balance": 1e-4},
    ),
    Method(
        key="no-token-left-behind",
        title="No-Token-Left-Behind",
        paper="Fedus et al. 2021, arXiv 2101.03961, appendix B",
        sentence="Switch, but a token whose expert is full asks its next best one, until it finds "
        "a place; its authors saw no gain.",
        switches=_SWITCH | {"overflow": "reroute"},
        loss_weights={"balance": 1e-2},
    ),
)

#: Every method by the name that ``MoEConfig.router`` takes.
METHODS: dict[str, Method] = {row.key: row for row in _ROWS}
