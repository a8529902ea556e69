"""What a model holds and what a token, or a batch, uses of it.

Total parameters have to be in memory; active ones are those that a token meets. Between the two lie
the experts that nobody chose. Sizes are counts of weights; L layers, T tokens, E experts of a
layer, K choices of each of the H sub-tokens of a token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mhmoe.analysis.parameters import TYPES, ConfigError, Counted, count
from mhmoe.analysis.routing import distinct_chance
from mhmoe.trace import LayerTrace

#: Which part of a block, or of the model, a parameter of ours belongs to, by its name.
_PART = (
    (re.compile(r"\.ffn\.router\."), "router"),
    (re.compile(r"\.ffn\.(experts|shared)\."), "experts"),
    (re.compile(r"\.ffn\.(head|merge)\."), "square"),
    (re.compile(r"\.ffn\."), "dense"),
    (re.compile(r"\.attention\."), "attention"),
    (re.compile(r"norm\."), "norms"),
    (re.compile(r"^embed\."), "embedding"),
    (re.compile(r"^(position|mask_token)$"), "position"),
)
_BLOCK = re.compile(r"^blocks\.(\d+)\.")
#: Longest config that is read, in characters; the longest in use has about 5,000.
CONFIG_LIMIT = 100_000
#: Up to here k has a stop for every number of experts; beyond, powers of two.
MOST_STOPS = 64
#: Tokens looked back at: the stops of the context.
CONTEXTS = (0, 1024, 4096, 16384, 32768, 65536, 131072)


@dataclass(frozen=True)
class Anatomy:
    """``outside``: weights by part that no block holds; ``blocks``: one such table for each."""

    outside: dict[str, int]
    blocks: tuple[dict[str, int], ...]

    @property
    def total(self) -> int:
        return sum(sum(table.values()) for table in (self.outside, *self.blocks))


def anatomy(sizes: Mapping[str, int]) -> Anatomy:
    """A model's parts from its parameters' names and sizes. Raises ValueError for a name that
    belongs to none, so that no weight is left out in silence."""
    outside: dict[str, int] = {}
    blocks: dict[int, dict[str, int]] = {}
    for name, size in sizes.items():
        part = next((part for pattern, part in _PART if pattern.search(name)), None)
        if part is None:
            raise ValueError(f"parameter {name!r} belongs to no part of the model")
        block = _BLOCK.match(name)
        table = blocks.setdefault(int(block[1]), {}) if block else outside
        table[part] = table.get(part, 0) + size
    return Anatomy(outside, tuple(blocks[i] for i in sorted(blocks)))


# ------------------------------------------------------------------------------- a batch


def visitors(layer: LayerTrace) -> np.ndarray:
    """[T, E] how many of a token's sub-tokens chose each expert."""
    H, E = layer.heads, layer.experts
    seen = np.zeros((layer.sub_tokens, E), int)
    row, choice = np.nonzero(layer.expert >= 0)
    np.add.at(seen, (row, layer.expert[row, choice]), 1)
    return seen.reshape(-1, H, E).sum(1)


def first_seen(layers: Sequence[LayerTrace]) -> np.ndarray:
    """[L, E] the first token that visits each expert, T where none does."""
    visited = np.stack([visitors(layer) > 0 for layer in layers], 1)  # [T, L, E]
    return np.where(visited.any(0), visited.argmax(0), len(visited))


def touched(first_LE: np.ndarray, tokens: int) -> np.ndarray:
    """[tokens] experts of all layers that the first 1, 2, ... tokens touch together."""
    return (first_LE[..., None] < np.arange(1, tokens + 1)).sum((0, 1))


def touched_chance(layers: int, experts: int, top_k: int, heads: int, tokens: int) -> np.ndarray:
    """[tokens] the same if every sub-token drew K experts blindly: L E (1 - (1 - K/E)^(H n))."""
    return np.array(
        [layers * distinct_chance(experts, top_k, heads * n) for n in range(1, tokens + 1)]
    )


# ------------------------------------------------------------------------------- a config.json


def read_config(text: str) -> dict:
    """The object that a visitor gave. Raises ConfigError "json" or "large"."""
    if len(text) > CONFIG_LIMIT:
        raise ConfigError(
            "large",
            f"The text has {len(text)} characters; a config.json has fewer than {CONFIG_LIMIT}.",
            given=len(text),
            limit=CONFIG_LIMIT,
        )
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ConfigError("json", "A config.json is one object in braces.")
    return values


def by_chosen(values: dict) -> tuple[tuple[int, ...], tuple[Counted, ...]]:
    """The same model with each number of chosen experts: the stops, and what is counted there. A
    dense model has none, and is counted once. Raises ConfigError."""
    own = count(values)
    if not own.units[0]:
        return (), (own,)
    inner = values if values.get("model_type") in TYPES else values["text_config"]
    row = TYPES[inner["model_type"]]
    experts = next(inner[name] for name in row.experts if inner.get(name) is not None)
    chosen = experts * own.units[1] // own.units[0]
    stops = range(1, experts + 1)
    if experts > MOST_STOPS:
        powers = {2**i for i in range(experts.bit_length())}
        stops = sorted(powers | {chosen, experts})
    asked = [inner | dict.fromkeys(row.chosen, k) for k in stops]
    return tuple(stops), tuple(count(config) for config in asked)


# ------------------------------------------------------------------------------- measured


@dataclass(frozen=True)
class Cost:
    """One measured size: milliseconds of our layer and of the dense layers with as many active and
    as many total parameters; ``which``: forward, or both with the gradients."""

    tokens: int
    experts: int
    top_k: int
    heads: int
    d_model: int
    d_ff: int
    which: str
    ours: float
    active: float
    total: float


def costs(table: Mapping[str, object]) -> list[Cost]:
    """The sizes of layer-costs.json for which all three layers were measured, in its order."""
    columns = table["columns"]
    found: dict[tuple, dict[str, float]] = {}
    for row in table["rows"]:
        cells = dict(zip(columns, row, strict=True))
        size = tuple(cells[name] for name in columns[: columns.index("pass") + 1])
        found.setdefault(size, {})[cells["impl"]] = cells["ms"]
    return [
        Cost(*size, ours=ms["ours"], active=ms["dense"], total=ms["dense_total"])
        for size, ms in found.items()
        if {"ours", "dense", "dense_total"} <= ms.keys()
    ]
