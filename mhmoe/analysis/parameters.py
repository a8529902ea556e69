"""How many parameters a language model has, and how many one token uses, from its config.json.

Exact to the last one for the model types of ``TYPES``, as Hugging Face's transformers builds them
(not counted: buffers, such as the biases of DeepSeek-V3's router, and layers for multi-token
prediction). A token uses all weights but the experts that were not chosen for it; a tied head is
counted once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PRESETS = Path(__file__).resolve().parents[2] / "assets" / "presets.json"


class ConfigError(ValueError):
    """A config whose parameters cannot be counted; ``code`` names the sentence, which ``numbers``
    fill."""

    def __init__(self, code: str, message: str, **numbers: object):
        super().__init__(message)
        self.code, self.numbers = code, numbers


@dataclass(frozen=True)
class Part:
    """One kind of weights over all layers.

    name     embedding, attention, router, experts, shared, dense, norms or head
    total    parameters
    active   of these, what one token uses
    macs     multiplications with them for one token
    """

    name: str
    total: int
    active: int
    macs: int


@dataclass(frozen=True)
class Counted:
    """``parts`` in the order of a forward pass; ``units``: experts in all layers, and how many of
    them one token visits; ``attended``: multiplications for each token that is looked back at."""

    parts: tuple[Part, ...]
    units: tuple[int, int]
    attended: int

    @property
    def total(self) -> int:
        return sum(part.total for part in self.parts)

    @property
    def active(self) -> int:
        return sum(part.active for part in self.parts)

    def macs(self, context: int) -> int:
        """Of one token that looks back at ``context`` tokens."""
        return sum(part.macs for part in self.parts) + context * self.attended

    def memory(self, bits: int) -> float:
        """Bytes of the weights at ``bits`` each."""
        return self.total * bits / 8


class Config:
    """A config.json, read with one clear sentence for what is missing or makes no sense."""

    def __init__(self, values: dict):
        self.values = values

    def whole(self, *names: str, default: int | None = None, least: int = 1) -> int:
        """The first of these names that is there."""
        for name in names:
            value = self.values.get(name)
            if value is None:
                continue
            if (
                isinstance(value, bool)
                or not isinstance(value, int)
                or not least <= value < 1 << 40
            ):
                raise ConfigError(
                    "number",
                    f"{name} is {value!r}; it must be a whole number of at least {least}.",
                    name=name,
                    value=repr(value)[:40],
                    least=least,
                )
            return value
        if default is None:
            raise ConfigError(
                "missing",
                f"The config has no {names[0]}; paste the whole config.json of a model.",
                name=names[0],
            )
        return default

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self.values.get(name, default))


@dataclass(frozen=True)
class _Attention:
    """Of one layer: entries of matrices, entries of vectors, and what each token before costs."""

    matrices: int
    vectors: int
    attended: int


def _grouped(
    c: Config, bias: str | bool = "attention_bias", out_bias: bool = False, norm: str = ""
) -> _Attention:
    """Grouped-query attention; ``norm`` of queries and keys: per "head" or over the "whole"."""
    D, H = c.whole("hidden_size"), c.whole("num_attention_heads")
    K = c.whole("num_key_value_heads", default=H)
    width = c.whole("head_dim", default=max(1, D // H))
    if H % K:
        raise ConfigError(
            "groups",
            f"{H} attention heads cannot share {K} key-value heads evenly.",
            heads=H,
            kv_heads=K,
        )
    inner, shared = H * width, K * width
    biased = c.flag(bias) if isinstance(bias, str) else bias
    vectors = biased * (inner + 2 * shared) + (biased and out_bias) * D
    vectors += {"": 0, "head": 2 * width, "whole": inner + shared}[norm]
    return _Attention(2 * D * inner + 2 * D * shared, vectors, 2 * inner)


def _latent(c: Config) -> _Attention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434)."""
    D, H = c.whole("hidden_size"), c.whole("num_attention_heads")
    rank, rotary = c.whole("kv_lora_rank"), c.whole("qk_rope_head_dim")
    plain, value = c.whole("qk_nope_head_dim"), c.whole("v_head_dim")
    squeezed = c.whole("q_lora_rank", default=0)
    query = H * (plain + rotary)
    matrices = squeezed * (D + query) if squeezed else D * query
    matrices += D * (rank + rotary) + rank * H * (plain + value) + H * value * D
    vectors = squeezed + rank
    if c.flag("attention_bias"):
        vectors += squeezed + rank + rotary + D
    return _Attention(matrices, vectors, H * (plain + rotary + value))


def _with_sinks(c: Config) -> _Attention:
    """gpt-oss: biases everywhere, and one learned sink for each head."""
    plain = _grouped(c, True, out_bias=True)
    sinks = c.whole("num_attention_heads")
    return _Attention(plain.matrices, plain.vectors + sinks, plain.attended)


def _glm_norm(c: Config) -> str:
    return "head" if c.flag("use_qk_norm") else ""


@dataclass(frozen=True)
class _Type:
    """What distinguishes a model type; names are those of its config.

    experts, chosen, width   of the routed experts; no name: a dense model
    router_bias, expert_bias whether they have any
    shared, shared_gate      width of all shared experts together, and whether a gate weighs them
    dense                    which layers have a dense FFN
    dense_bias, head_bias    the flags that say whether these have biases; no name: they have none
    norm                     vectors of one norm, in units of D
    """

    attention: Callable[[Config], _Attention] = _grouped
    experts: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ("num_experts_per_tok",)
    width: str = "intermediate_size"
    router_bias: bool = False
    expert_bias: bool = False
    shared: Callable[[Config], int] = lambda c: 0
    shared_gate: bool = False
    dense: Callable[[Config, int], bool] = lambda c, layer: False
    dense_bias: str = ""
    norm: int = 1
    head_bias: str = ""


def _first_dense(c: Config, layer: int) -> bool:
    return layer < c.whole("first_k_dense_replace", default=0, least=0)


def _every_so_often(c: Config, layer: int) -> bool:
    step, dense = c.whole("decoder_sparse_step", default=1), c.values.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        name, value = "mlp_only_layers", repr(dense)[:40]
        raise ConfigError(
            "list", f"{name} is {value}; it must be a list of layers.", name=name, value=value
        )
    return layer in dense or (layer + 1) % step != 0


def _several_shared(c: Config) -> int:
    return c.whole("n_shared_experts", default=0, least=0) * c.whole("moe_intermediate_size")


_DEEPSEEK = dict(
    attention=_latent,
    experts=("n_routed_experts",),
    width="moe_intermediate_size",
    shared=_several_shared,
    dense=_first_dense,
)
TYPES: dict[str, _Type] = {
    "llama": _Type(lambda c: _grouped(c, out_bias=True), dense_bias="mlp_bias"),
    "mistral": _Type(lambda c: _grouped(c, False)),
    "qwen2": _Type(lambda c: _grouped(c, True)),
    "qwen3": _Type(lambda c: _grouped(c, out_bias=True, norm="head")),
    "mixtral": _Type(lambda c: _grouped(c, False), ("num_local_experts",)),
    "olmoe": _Type(
        lambda c: _grouped(c, out_bias=True, norm="whole"), ("num_experts", "num_local_experts")
    ),
    "qwen2_moe": _Type(
        lambda c: _grouped(c, True),
        ("num_experts", "num_local_experts"),
        width="moe_intermediate_size",
        shared=lambda c: c.whole("shared_expert_intermediate_size"),
        shared_gate=True,
        dense=_every_so_often,
    ),
    "qwen3_moe": _Type(
        lambda c: _grouped(c, out_bias=True, norm="head"),
        ("num_experts", "num_local_experts"),
        width="moe_intermediate_size",
        dense=_every_so_often,
    ),
    "granitemoe": _Type(lambda c: _grouped(c, out_bias=True), ("num_local_experts",)),
    "phimoe": _Type(
        lambda c: _grouped(c, out_bias=True),
        ("num_local_experts",),
        norm=2,
        head_bias="lm_head_bias",
    ),
    "gpt_oss": _Type(
        _with_sinks,
        ("num_local_experts", "num_experts"),
        router_bias=True,
        expert_bias=True,
    ),
    "deepseek_v2": _Type(**_DEEPSEEK),
    "deepseek_v3": _Type(**_DEEPSEEK),
    "glm4_moe": _Type(**_DEEPSEEK | {"attention": lambda c: _grouped(c, norm=_glm_norm(c))}),
}


def count(values: dict) -> Counted:
    """The parts of the model that a config.json describes. Raises ConfigError."""
    c, kind = _opened(values)
    row = TYPES[kind]
    D, layers = c.whole("hidden_size"), c.whole("num_hidden_layers")
    if layers > 10_000:
        raise ConfigError(
            "number", f"num_hidden_layers is {layers}; 10000 are enough.",
            name="num_hidden_layers", value=layers, least=1,
        )  # fmt: skip
    vocabulary = c.whole("vocab_size")
    attention = row.attention(c)
    sparse = [layer for layer in range(layers) if row.experts and not row.dense(c, layer)]
    tied = c.flag("tie_word_embeddings")
    table = vocabulary * D
    norms = (2 * layers + 1) * D * row.norm
    weights = layers * attention.matrices
    parts = [
        Part("embedding", table, table, table if tied else 0),
        _whole("attention", weights + layers * attention.vectors, weights),
        *(_sparse(c, row, len(sparse)) if sparse else ()),
    ]
    if dense := layers - len(sparse):
        F = c.whole("intermediate_size")
        bias = c.flag(row.dense_bias)
        parts.append(_whole("dense", dense * (3 * D * F + bias * (2 * F + D)), dense * 3 * D * F))
    parts.append(_whole("norms", norms, 0))
    if not tied:
        bias = c.flag(row.head_bias)
        parts.append(_whole("head", table + bias * vocabulary, table))
    units = (0, 0)
    if sparse:
        units = (len(sparse) * c.whole(*row.experts), len(sparse) * c.whole(*row.chosen))
    return Counted(tuple(parts), units, layers * attention.attended)


def _opened(values: dict) -> tuple[Config, str]:
    if not isinstance(values, dict):
        raise ConfigError("json", "A config.json is one object in braces.")
    inner = values.get("text_config")
    if isinstance(inner, dict) and inner.get("model_type") in TYPES:
        values = inner
    kind = values.get("model_type")
    if kind not in TYPES:
        known = ", ".join(TYPES)
        raise ConfigError(
            "type",
            f"The model type {str(kind)[:40]!r} is not known; known are {known}.",
            type=str(kind)[:40],
            known=known,
        )
    return Config(values), kind


def _whole(name: str, size: int, macs: int) -> Part:
    return Part(name, size, size, macs)


def _sparse(c: Config, row: _Type, layers: int) -> list[Part]:
    """Router, experts and shared experts of the MoE layers."""
    D, F = c.whole("hidden_size"), c.whole(row.width)
    E, K = c.whole(*row.experts), c.whole(*row.chosen)
    if K > E:
        raise ConfigError("chosen", f"{K} experts cannot be chosen from {E}.", chosen=K, experts=E)
    one = 3 * D * F
    each = one + row.expert_bias * (2 * F + D)
    router = layers * E * D
    parts = [
        _whole("router", router + layers * E * row.router_bias, router),
        Part("experts", layers * E * each, layers * K * each, layers * K * one),
    ]
    if width := row.shared(c):
        size = layers * (3 * width * D + row.shared_gate * D)
        parts.append(_whole("shared", size, size))
    return parts


@cache
def presets() -> dict[str, dict]:
    """Well-known models by name: what of their config.json decides about their parameters."""
    return json.loads(PRESETS.read_text("utf-8"))
