"""What an MoE layer is (MoEConfig) and what may be asked of it afterwards (WhatIf)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mhmoe.layers.methods import CAPACITY_ONLY, METHODS, SWITCHES, TOKEN_CHOICE_ONLY, Method
from mhmoe.trace import GATES, SCORES, SOFT, TOKEN_CHOICE

ACTIVATIONS = ("relu", "gelu", "swiglu")
#: Switches that are one of several words.
WORDS = {
    "activation": ACTIVATIONS,
    "gate": tuple(GATES),
    "score": SCORES,
    "second": ("all", "random", "threshold"),
    "order": ("position", "priority"),
    "overflow": ("drop", "reroute"),
    "capacity_rounding": ("ceil", "floor", "nearest", "share"),
    "noise": ("none", "learned", "fixed"),
    "jitter_on": ("input", "scores"),
    "cosine": ("none", "both", "experts"),
    "loss_counts": ("all", "first"),
    "loss_over": ("batch", "sequence"),
    "importance_of": ("gates", "probs"),
    "load_threshold": ("excluding", "kth"),
    "group_score": ("top2", "max"),
}
#: Switches that are whole numbers, and the least each may be.
WHOLE = {
    "capacity_multiple": 1,
    "capacity_minimum": 0,
    "embedding": 0,
    "shared": 0,
    "expert_groups": 1,
    "groups_kept": 1,
    "slots": 1,
}
#: Switches that are numbers of at least zero.
NUMBERS = (
    "gate_scale",
    "jitter",
    "router_init",
    "embedding_norm",
    "temperature",
    "bias_update",
)
YES_OR_NO = ("bias", "renormalise_after_drop", "normalised", "inner_residual", "projection_bias")
#: Who is served first, if a pass is asked to change it.
ORDERS = ("position", "priority", "random")
SIZINGS = ("parameters", "paper", "flops")
#: The smallest widening of the experts that MH-MoE's first paper reports (its beta).
BETA = 63 / 64


class ConfigError(ValueError):
    """A layer that cannot be built; the message names the numbers."""


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """One MoE layer. ``d_ff`` and ``experts`` are what is really built, after any sizing rule.

    A switch left out (None) stands as the row of ``router`` in ``METHODS`` says; afterwards
    every field is explicit, so ``replace(config, router=...)`` keeps the old switches, and
    ``replace(config, heads=4)`` the lack of square layers: build a new MoEConfig, or use
    ``matched``.

    The layer

    heads            1 is the plain sparse layer; h > 1 splits each token into h sub-tokens
                     of width d_model / h that share one router and one pool of experts
    top_k            experts per sub-token; for Expert Choice the average of that number
    router           a key of ``METHODS``
    activation       "relu", "gelu", or "swiglu" with a third matrix per expert
    bias             experts with ``b_in`` and ``b_out``
    projections      depth of the multi-head and of the merge layer, 0..3 matrices d x d with
                     ReLU between (MH-MoE, table 7); default: 1 if heads > 1, else 0
    projection_bias  biases in them: MH-MoE's pseudo-code has them, its equations do not
    inner_residual   the paper's o = x + sum g f(x) inside the sub-token (MH-MoE, eq. 5);
                     its code leaves it out, as do we unless asked
    shared           experts that every sub-token visits besides, with weight 1 (DeepSeekMoE)

    Scores

    score            "softmax" over the experts, or "sigmoid" of each (DeepSeek-V3)
    cosine           "both": cosines (X-MoE); "experts": only the experts' vectors are
                     normalised (its code)
    embedding        width of the space in which cosines are taken; 0 is that of the sub-token;
                     "half" is E / 2, X-MoE's default
    embedding_norm   length at which the experts' vectors start and are kept, 0 for free
    temperature      start of a learned temperature that divides the scores, 0 for none; the
                     balance loss keeps this value (X-MoE: 0.3, with sigmoid scores 0.07)
    router_init      std of the router's weights is router_init / sqrt(width); small, so that
                     the first gates are nearly even
    noise            "learned": eps * softplus(x W_noise) (Shazeer, eq. 4); "fixed": std 1/E
                     (V-MoE)
    jitter           e: the router's input times U(1 - e, 1 + e) (Switch); what the experts
                     read stays as it is
    jitter_on        "input" (Switch's text), "scores": added to them (its pseudo-code)

    Choice and weights

    gate             a convention of ``mhmoe.trace.GATES``; with sigmoid scores "softmax-topk"
                     is the score itself
    gate_scale       factor on all gates (DeepSeek's routed_scaling_factor)
    second           choices after the first: "all", "random": kept if 2 g > u (GShard),
                     "threshold": with probability min(1, g / 0.2) (Mesh-TensorFlow, ST-MoE)
    expert_groups    groups of experts; only the ``groups_kept`` best may be chosen from
    group_score      a group counts as its two best together ("top2", DeepSeek-V3) or its best
                     ("max", DeepSeek-V2)
    bias_update      step of the bias that is added for the choice alone (loss-free balancing)

    Places

    capacity_factor  None is unlimited; else C = ceil(capacity_factor * K * S / E) per group
    capacity_rounding  "ceil", "floor", "nearest", or "share": floor(factor * K * ceil(S / E))
    capacity_multiple, capacity_minimum  C is raised to the next multiple, and to the minimum
    group            who shares places: "sequence", "batch", or a number of sub-tokens
    order            who is served first: by "position", or by largest probability ("priority")
    overflow         "drop", or "reroute" to the next best expert with room
    renormalise_after_drop  the gates of the choices that found a place are divided by their sum
    slots            P, slots per expert (Soft MoE)
    normalised       Soft MoE with tokens and slot vectors of length one, and a learned scale

    Losses

    loss_counts      which choices the balance loss counts: "all", or the "first" of each token
    loss_over        the balance loss over the "batch", or the mean over every "sequence"
    importance_of    sums of "gates" (Shazeer), or of "probs" before noise (V-MoE)
    load_threshold   the score to beat: the k-th of the others ("excluding", Shazeer, eq. 9), or
                     simply the k-th ("kth", V-MoE's code)
    """

    d_model: int
    d_ff: int
    experts: int
    top_k: int | None = None
    heads: int = 1
    router: str = "linear"
    activation: str | None = None
    capacity_factor: float | str | None = "method"
    gate: str | None = None
    projections: bool | int | None = None
    inner_residual: bool = False
    projection_bias: bool = False
    bias: bool | None = None
    capacity_rounding: str | None = None
    capacity_multiple: int | None = None
    capacity_minimum: int | None = None
    group: int | str | None = None
    order: str | None = None
    overflow: str | None = None
    score: str | None = None
    gate_scale: float | None = None
    second: str | None = None
    renormalise_after_drop: bool | None = None
    noise: str | None = None
    jitter: float | None = None
    jitter_on: str | None = None
    router_init: float | None = None
    cosine: str | None = None
    embedding: int | str | None = None
    embedding_norm: float | None = None
    temperature: float | None = None
    loss_counts: str | None = None
    loss_over: str | None = None
    importance_of: str | None = None
    load_threshold: str | None = None
    shared: int | None = None
    expert_groups: int | None = None
    groups_kept: int | None = None
    group_score: str | None = None
    bias_update: float | None = None
    slots: int | None = None
    normalised: bool | None = None

    def __post_init__(self):
        known = isinstance(self.router, str) and self.router in METHODS
        _require(known, f"router {self.router!r} is none of {', '.join(METHODS)}")
        self._fill()
        self._check_sizes()
        self._check_switches()
        self._check_together()

    def _fill(self) -> None:
        """Every switch that was left out takes the position of the method's row."""
        for name, value in (SWITCHES | self.method.switches).items():
            left_out = "method" if name == "capacity_factor" else None
            if getattr(self, name) == left_out:
                if name == "top_k" and value != "all":
                    value = min(value, self.experts)
                object.__setattr__(self, name, value)
        if self.projections is None:
            object.__setattr__(self, "projections", self.heads > 1)
        if self.top_k == "all":
            object.__setattr__(self, "top_k", self.experts)
        if self.embedding == "half":
            object.__setattr__(self, "embedding", max(1, self.experts // 2))

    def _check_sizes(self) -> None:
        for name in ("d_model", "d_ff", "experts", "top_k", "heads"):
            _whole(name, getattr(self, name), 1)
        _require(
            self.d_model % self.heads == 0,
            f"d_model {self.d_model} cannot be cut into {self.heads} equal heads",
        )
        _require(
            self.top_k <= self.experts,
            f"top_k {self.top_k} is more than the {self.experts} experts",
        )
        _require(
            isinstance(self.projections, int) and 0 <= self.projections <= 3,
            f"projections must be 0, 1, 2 or 3 matrices, not {self.projections!r}",
        )

    def _check_switches(self) -> None:
        for name, words in WORDS.items():
            value = getattr(self, name)
            _require(value in words, f"{name} {value!r} is none of {', '.join(words)}")
        for name, least in WHOLE.items():
            _whole(name, getattr(self, name), least)
        for name in NUMBERS:
            value = getattr(self, name)
            _require(_number(value) and value >= 0, f"{name} must not be below 0, it is {value!r}")
        for name in YES_OR_NO:
            value = getattr(self, name)
            _require(isinstance(value, bool), f"{name} must be True or False, not {value!r}")
        factor = self.capacity_factor
        _require(
            factor is None or (_number(factor) and factor > 0),
            f"capacity_factor must be positive or None, not {factor}",
        )
        if self.group not in ("sequence", "batch"):
            _require(
                isinstance(self.group, int) and self.group is not True and self.group >= 1,
                f'group must be "sequence", "batch" or a number of sub-tokens, not {self.group!r}',
            )

    def _check_together(self) -> None:
        """What each switch allows alone may contradict the others."""
        if self.method.switches.get("top_k") == "all":
            _require(
                self.top_k == self.experts,
                f"router {self.router!r} uses all {self.experts} experts: leave top_k out "
                f"instead of setting it to {self.top_k}",
            )
        idle = () if self.assignment == TOKEN_CHOICE else TOKEN_CHOICE_ONLY
        if self.assignment == SOFT:
            idle += CAPACITY_ONLY
        for name in idle:
            _require(
                getattr(self, name) == SWITCHES[name],
                f"router {self.router!r} has no use for {name} {getattr(self, name)!r}: leave it "
                "out",
            )
        E, G = self.experts, self.expert_groups
        _require(E % G == 0, f"{E} experts cannot be cut into {G} equal expert_groups")
        _require(
            self.groups_kept <= G and (G == 1 or self.groups_kept * (E // G) >= self.top_k),
            f"groups_kept {self.groups_kept} of {G} groups of {E // G} experts cannot hold "
            f"top_k {self.top_k}",
        )
        _require(
            G == 1 or self.group_score == "max" or E // G >= 2,
            f'group_score "top2" needs groups of 2 experts; {G} groups of {E} have {E // G}',
        )
        _require(
            self.overflow == "drop" or self.second == "all",
            f'overflow "reroute" looks for places for all choices, but second {self.second!r} '
            "gives some up: set one of them back",
        )
        for name in ("embedding", "embedding_norm", "temperature"):
            _require(
                self.cosine != "none" or not getattr(self, name),
                f'{name} {getattr(self, name)} needs cosine "both" or "experts"',
            )
        for name in ("normalised", "slots"):
            _require(
                self.assignment == SOFT or getattr(self, name) == SWITCHES[name],
                f"{name} belongs to Soft MoE, not to router {self.router!r}",
            )
        _require(
            self.jitter < 1, f"jitter {self.jitter} would turn the sign of inputs: keep it below 1"
        )

    # ------------------------------------------------------------------ what it is

    @property
    def method(self) -> Method:
        """The row of ``METHODS``."""
        return METHODS[self.router]

    @property
    def assignment(self) -> str:
        """``mhmoe.trace``'s word for who chooses: token-choice, expert-choice or soft."""
        return self.method.assignment

    @property
    def d_head(self) -> int:
        """Width D/H of a sub-token, which is also the width of router and experts."""
        return self.d_model // self.heads

    @property
    def matrices(self) -> int:
        """Matrices of one expert: 2, or 3 with SwiGLU's gate."""
        return 3 if self.activation == "swiglu" else 2

    @property
    def of_shared(self) -> MoEConfig:
        """The pool of shared experts as a config of its own; only its experts are built."""
        return MoEConfig(
            d_model=self.d_model,
            d_ff=self.d_ff,
            experts=self.shared,
            top_k=self.shared,
            heads=self.heads,
            activation=self.activation,
            bias=self.bias,
        )

    # ------------------------------------------------------------------ what it costs

    @property
    def parameters(self) -> int:
        """Weights of the layer: experts, shared experts, router, and the square layers."""
        return (self.experts + self.shared) * self._expert + self._router + self._square

    @property
    def active_parameters(self) -> int:
        """Weights that one sub-token meets; the square layers count once. Soft MoE: all."""
        idle = 0 if self.assignment == SOFT else self.experts - self.top_k
        return self.parameters - idle * self._expert

    @property
    def macs_per_token(self) -> int:
        """Multiply-accumulates per token: every sub-token pays for K experts of its own.

        Soft MoE's cost depends on its slots; counted here is its usual size, as many slots as
        sub-tokens, of which each passes through one expert and mixes twice.
        """
        expert = self.matrices * self.d_head * self.d_ff
        visited = 1 if self.assignment == SOFT else self.top_k
        router = self._router_macs * (3 if self.assignment == SOFT else 1)
        square = 2 * self.projections * self.d_model**2
        return self.heads * ((visited + self.shared) * expert + router) + square

    @property
    def _expert(self) -> int:
        weights = self.matrices * self.d_head * self.d_ff
        return weights + (self.d_ff + self.d_head) * self.bias

    @property
    def _router_macs(self) -> int:
        E, D = self.experts, self.d_head
        if self.assignment == SOFT:
            return E * self.slots * D
        return D * self.embedding + E * self.embedding if self.embedding else E * D

    @property
    def _router(self) -> int:
        noise = self.experts * self.d_head * (self.noise == "learned")
        return self._router_macs + noise + (self.temperature > 0) + self.normalised

    @property
    def _square(self) -> int:
        return 2 * self.projections * self.d_model * (self.d_model + self.projection_bias)

    # ------------------------------------------------------------------ other sizes

    def matched(
        self,
        heads: int,
        sizing: str = "parameters",
        top_k: int | None = None,
        projections: int | None = None,
    ) -> MoEConfig:
        """The same layer with h heads, in one of MH-MoE's three sizings.

        "parameters"  as the code of the first paper has it (arXiv 2404.15045): the inner width
                      grows to about 4*beta*h*d, so that experts of width d/h hold what they held
                      before, less the square layers. Same E and K, same parameters, more MACs:
                      every one of the h sub-tokens pays for an expert as large as before.
        "paper"       as its text has it: the inner width shrinks to beta times what it was,
                      beta = 63/64, the smallest it reports. MACs of the experts stay about the
                      same; their parameters fall to beta / h.
        "flops"       the follow-up (arXiv 2411.16205): the inner width gives up what
                      the square layers cost, d_mh = d_ff - d/k for two matrices, and the number
                      of experts grows until the parameters match. Both match, in the leading
                      terms (without the router).

        Widths are rounded down to a multiple of 8, experts to the nearest number. ``top_k``
        changes K in the "flops" sizing, whose paper goes from K = 1 to K = h. ``projections`` is
        the depth of the square layers (its tables 6 and 7), by default 1 where there are heads.
        Starts from a layer with one head and no square layers; asked for just that, returns it.
        """
        _whole("heads", heads, 1)
        _require(sizing in SIZINGS, f"sizing {sizing!r} is none of {', '.join(SIZINGS)}")
        _require(
            top_k is None or sizing == "flops",
            f"sizing {sizing!r} keeps top_k {self.top_k}; only flops can change it to {top_k}",
        )
        _require(
            self.heads == 1 and not self.projections,
            f"matched starts from one head without square layers, not from {self.heads} heads "
            f"with projections {self.projections:d}",
        )
        depth = int(heads > 1) if projections is None else projections
        if heads == 1 and depth == 0:
            return self
        wide = replace(self, heads=heads, projections=depth, d_ff=8)
        if sizing == "flops":
            return self._matched_flops(wide, self.top_k if top_k is None else top_k)
        if sizing == "paper":
            d_ff = int(BETA * self.d_ff) // 8 * 8
        else:
            each = wide.matrices * wide.d_head + wide.bias  # parameters per inner neuron
            pool = self.experts + self.shared
            fixed = wide.parameters - pool * each * 8
            d_ff = (self.parameters - fixed) // (pool * each) // 8 * 8
        _require(d_ff >= 8, f"{heads} heads leave no width for {self.experts} experts")
        return replace(wide, d_ff=d_ff)

    def _matched_flops(self, wide: MoEConfig, top_k: int) -> MoEConfig:
        _whole("top_k", top_k, 1)
        _require(
            not self.shared and self.method.switches.get("top_k") != "all",
            f"sizing flops changes how many experts there are to choose from: router "
            f"{self.router!r} with {self.shared} shared experts is none of its layers",
        )
        M, D, square = self.matrices, self.d_model, 2 * wide.projections * self.d_model**2
        d_ff = (M * self.top_k * D * self.d_ff - square) // (M * top_k * D) // 8 * 8
        _require(d_ff >= 8, f"{wide.heads} heads leave no width for {self.experts} experts")
        pool = M * D * self.d_ff * self.experts - square
        return replace(wide, d_ff=d_ff, top_k=top_k, experts=round(pool / (M * wide.d_head * d_ff)))

    def fine_grained(self, parts: int, shared: int | None = None) -> MoEConfig:
        """Every expert cut into ``parts``: E, K times as many, F that much narrower, of which
        ``shared`` are always on (default: those that were, cut likewise); same parameters and
        MACs but for the router (DeepSeekMoE, arXiv 2401.06066, eq. 6-11: mN - K_s routed experts,
        mK - K_s of them chosen)."""
        _whole("parts", parts, 1)
        _require(
            self.d_ff % parts == 0,
            f"d_ff {self.d_ff} cannot be cut into {parts} equal parts",
        )
        shared = parts * self.shared if shared is None else shared
        visited = parts * (self.top_k + self.shared)
        _require(
            0 <= shared < visited,
            f"of the {visited} experts that a token visits, {shared} cannot be shared",
        )
        return replace(
            self,
            d_ff=self.d_ff // parts,
            experts=parts * (self.experts + self.shared) - shared,
            top_k=visited - shared,
            shared=shared,
        )


@dataclass(frozen=True, kw_only=True)
class WhatIf:
    """Changes to a built layer for one forward pass; nothing is stored in the layer.

    capacity_factors  one value per sequence of the batch, None for unlimited; a tuple of one
                      serves all sequences. An empty tuple keeps the layer's own setting.
    order             who is served first where tokens choose: one of ``ORDERS``; None keeps the
                      layer's own. "random" follows from ``seed`` and the shape of the batch
    """

    top_k: int | None = None
    temperature: float = 1.0
    capacity_factors: tuple[float | None, ...] = ()
    experts_off: tuple[int, ...] = ()
    inner_residual: bool | None = None
    order: str | None = None
    seed: int = 0

    def __post_init__(self):
        _require(
            self.order is None or self.order in ORDERS,
            f"order {self.order!r} is none of {', '.join(ORDERS)}",
        )
        _whole("seed", self.seed, 0)
        if self.top_k is not None:
            _whole("top_k", self.top_k, 1)
        _require(
            _number(self.temperature) and self.temperature > 0,
            f"temperature must be above 0, it is {self.temperature!r}",
        )
        for name in ("capacity_factors", "experts_off"):
            value = getattr(self, name)
            _require(isinstance(value, tuple), f"{name} must be a tuple, not {value!r}")
        for factor in self.capacity_factors:
            _require(
                factor is None or (_number(factor) and factor > 0),
                f"a capacity factor must be positive or None, not {factor}",
            )
        for expert in self.experts_off:
            _whole("an expert that is off", expert, 0)

    def check(self, experts: int) -> None:
        """Raise ConfigError if a layer of so many experts cannot do it."""
        _require(
            self.top_k is None or self.top_k <= experts,
            f"top_k {self.top_k} is more than the {experts} experts",
        )
        last = max(self.experts_off, default=0)
        _require(last < experts, f"expert {last} cannot be off: there are {experts}, from 0 on")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(name: str, value: object, least: int) -> None:
    _require(
        isinstance(value, int) and not isinstance(value, bool) and value >= least,
        f"{name} must be a whole number of at least {least}, not {value!r}",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


#: No change: the layer as it was trained.
TRAINED = WhatIf()
