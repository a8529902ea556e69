"""The routing trace: everything one forward pass decided, as frozen numpy arrays.

Every figure, caption, download, command-line answer and test of this project reads a
:class:`RoutingTrace`. Models fill it; nothing that draws ever computes routing again.

Axis letters, used everywhere in the package:

    T tokens (or patches)        E experts
    D model width                K choices per sub-token (the largest count of the layer)
    H heads (slices per token)   P slots per expert (Soft MoE)
    S = T * H sub-tokens         C capacity, places per expert and sequence

Row ``s`` of a layer is sub-token ``s % H`` of token ``s // H``.

This module imports numpy, and safetensors' numpy flavour for the file format; it knows
neither torch nor Streamlit, so that any program can fill or read a trace.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save_file

SCHEMA = 1

TOKEN_CHOICE, EXPERT_CHOICE, SOFT = "token-choice", "expert-choice", "soft"
ASSIGNMENTS = (TOKEN_CHOICE, EXPERT_CHOICE, SOFT)
SCORES = ("softmax", "sigmoid")

#: The gate conventions of the literature: which numbers weigh the chosen experts.
GATES = {
    "topk-softmax": "keep the k largest scores, softmax over these (Shazeer 2017, Mixtral)",
    "softmax-topk": "softmax over all experts, keep the k largest (Switch, V-MoE, MH-MoE)",
    "renormalised": "softmax over all, keep the k largest, divide by their sum (GShard)",
}


class TraceError(ValueError):
    """A trace that contradicts itself, or a file that is not a trace."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Which model made the trace: a shipped model's name and checkpoint hash, or a folder."""

    name: str
    sha256: str = ""
    folder: str | None = None


@dataclass(frozen=True, kw_only=True)
class Token:
    """One token: its text, its UTF-8 byte span [start, end) in the input, its word's index."""

    text: str
    span: tuple[int, int]
    word: int


@dataclass(frozen=True, kw_only=True)
class TextInput:
    """The text as the model saw it. ``words`` are UTF-8 byte spans; tokens point into them."""

    text: str
    tokens: tuple[Token, ...]
    words: tuple[tuple[int, int], ...]
    kind: str = "text"

    @property
    def count(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """The patch grid. ``patch`` is a patch's side in model pixels; ``crop`` is the square
    (left, top, right, bottom) of the upright original, in its own pixels, that was used."""

    grid: tuple[int, int]
    patch: int
    crop: tuple[int, int, int, int]
    kind: str = "image"

    @property
    def count(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True, kw_only=True)
class PairInput:
    """A picture and its caption in one sequence: all patches, then all tokens."""

    picture: ImageInput
    caption: TextInput
    kind: str = "image-text"

    @property
    def count(self) -> int:
        return self.picture.count + self.caption.count


Input = TextInput | ImageInput | PairInput


@dataclass(frozen=True, kw_only=True)
class LayerTrace:
    """What one MoE layer decided.

    logits, probs  [S, E]   scores and their softmax (for Soft MoE [S, E*P] scores and combine)
    score                   "softmax", or "sigmoid": then probs are each score's own sigmoid
    expert         [S, K]   chosen experts, best first, padded with -1
    gate           [S, K]   the weight each choice really got before any drop, padded with 0
    slot           [S, K]   place in the expert's buffer, -1 where there is none
    kept           [S, K]   False where the expert was full, or for padding
    wanted         [S, K]   choices before re-routing; None where full experts just drop
    dispatch, combine [S, E*P]   Soft MoE only; then expert/gate/slot/kept are None
    demand         [E]      choices before capacity and re-routing
    load           [E]      choices kept
    importance     [E]      sum over sub-tokens of the gates
    losses                  this layer's losses by name, unweighted
    shared                  indices of experts that every sub-token visits besides the routed ones
    vectors                 optional activations for the stage; not part of a saved trace
    """

    layer: int
    router: str
    assignment: str = TOKEN_CHOICE
    experts: int
    top_k: int
    heads: int
    gate_convention: str = "softmax-topk"
    score: str = "softmax"
    capacity: int | None
    logits: np.ndarray
    probs: np.ndarray
    expert: np.ndarray | None = None
    gate: np.ndarray | None = None
    slot: np.ndarray | None = None
    kept: np.ndarray | None = None
    wanted: np.ndarray | None = None
    dispatch: np.ndarray | None = None
    combine: np.ndarray | None = None
    demand: np.ndarray
    load: np.ndarray
    importance: np.ndarray
    losses: dict[str, float] = field(default_factory=dict)
    shared: tuple[int, ...] = ()
    vectors: dict[str, np.ndarray] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self):
        for name in ARRAYS:
            if (array := getattr(self, name)) is not None:
                view = array.view()
                view.setflags(write=False)
                object.__setattr__(self, name, view)

    @property
    def sub_tokens(self) -> int:
        return self.logits.shape[0]

    @property
    def dropped(self) -> np.ndarray:
        """[E] choices turned away; after re-routing less those taken over, so perhaps below 0."""
        return self.demand - self.load

    @property
    def dropped_share(self) -> float:
        """Share of all choices that were turned away, 0..1."""
        total = float(self.demand.sum())
        return float(self.dropped.sum()) / total if total else 0.0


ARRAYS = (
    "logits",
    "probs",
    "expert",
    "gate",
    "slot",
    "kept",
    "wanted",
    "dispatch",
    "combine",
    "demand",
    "load",
    "importance",
)
SCALARS = (
    "layer",
    "router",
    "assignment",
    "experts",
    "top_k",
    "heads",
    "gate_convention",
    "score",
    "capacity",
    "losses",
    "shared",
)


@dataclass(frozen=True, kw_only=True)
class RoutingTrace:
    """One input through one model. ``layers`` is empty for a dense model.

    nats  [T]  cross-entropy of each token given those before it; NaN where there is none (the
               first token). None for pictures, and for encoders, which see what they would predict
    """

    source: Source
    input: Input
    heads: int
    layers: tuple[LayerTrace, ...]
    nats: np.ndarray | None = None
    schema: int = SCHEMA

    def __post_init__(self):
        check(self)

    @property
    def bits_per_byte(self) -> float | None:
        """Mean code length of the predicted tokens, per UTF-8 byte they cover."""
        if self.nats is None or self.input.kind != "text" or len(self.nats) < 2:
            return None
        size = sum(t.span[1] - t.span[0] for t in self.input.tokens[1:])
        return float(np.nansum(self.nats)) / np.log(2) / size if size else None

    def to_dict(self) -> dict:
        """The JSON form; the same names as the fields, arrays as nested lists."""
        layers = [
            {
                name: _plain(getattr(layer, name))
                for name in SCALARS + ARRAYS
                if getattr(layer, name) is not None or name == "capacity"
            }
            for layer in self.layers
        ]
        return {
            "schema": self.schema,
            "model": {
                "name": self.source.name,
                "sha256": self.source.sha256,
                "folder": self.source.folder,
            },
            "input": _input_dict(self.input),
            "heads": self.heads,
            "nats": None
            if self.nats is None
            else [None if np.isnan(v) else float(v) for v in self.nats],
            "layers": layers,
        }

    def save(self, path: str | Path) -> None:
        """Write one safetensors file: arrays as tensors, the rest as JSON in its header."""
        arrays = {
            f"layers.{i}.{name}": np.ascontiguousarray(getattr(layer, name))
            for i, layer in enumerate(self.layers)
            for name in ARRAYS
            if getattr(layer, name) is not None
        }
        if self.nats is not None:
            arrays["nats"] = self.nats
        meta = self.to_dict() | {"nats": None}
        meta["layers"] = [{name: layer[name] for name in SCALARS} for layer in meta["layers"]]
        save_file(arrays, str(path), metadata={"mhmoe.trace": json.dumps(meta)})

    @classmethod
    def load(cls, path: str | Path) -> RoutingTrace:
        """Read what :meth:`save` wrote; raises TraceError with the reason otherwise."""
        raw = Path(path).read_bytes()
        try:
            arrays = load(raw)
            size = int.from_bytes(raw[:8], "little")
            meta = json.loads(json.loads(raw[8 : 8 + size])["__metadata__"]["mhmoe.trace"])
            schema = meta["schema"]
        except Exception as error:  # whatever a foreign file provokes
            raise TraceError(
                f"{path} is not a trace file written by this program: {error}"
            ) from None
        if schema != SCHEMA:
            raise TraceError(f"{path} has trace schema {schema}; this program reads {SCHEMA}.")
        try:
            return cls._from_parts(meta, arrays)
        except (KeyError, TypeError, AttributeError) as error:
            raise TraceError(
                f"{path} lacks a part of a trace, or has one too many: {error}"
            ) from None

    @classmethod
    def _from_parts(cls, meta: dict, arrays: dict[str, np.ndarray]) -> RoutingTrace:
        layers = tuple(
            LayerTrace(
                **(scalars | {"shared": tuple(scalars["shared"])}),
                **{name: arrays[key] for name in ARRAYS if (key := f"layers.{i}.{name}") in arrays},
            )
            for i, scalars in enumerate(meta["layers"])
        )
        return cls(
            source=Source(**meta["model"]),
            input=_input_from(meta["input"]),
            heads=meta["heads"],
            layers=layers,
            nats=arrays.get("nats"),
        )


def _plain(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _input_dict(source: Input) -> dict:
    if isinstance(source, PairInput):
        return _input_dict(source.picture) | _input_dict(source.caption) | {"kind": source.kind}
    if isinstance(source, ImageInput):
        return {
            "kind": "image",
            "grid": list(source.grid),
            "patch": source.patch,
            "crop": list(source.crop),
        }
    return {
        "kind": "text",
        "text": source.text,
        "tokens": [{"text": t.text, "span": list(t.span), "word": t.word} for t in source.tokens],
        "words": [list(w) for w in source.words],
    }


def _input_from(data: dict) -> Input:
    if data["kind"] == "image-text":
        picture, caption = (_input_from(data | {"kind": kind}) for kind in ("image", "text"))
        return PairInput(picture=picture, caption=caption)
    if data["kind"] == "image":
        return ImageInput(grid=tuple(data["grid"]), patch=data["patch"], crop=tuple(data["crop"]))
    return TextInput(
        text=data["text"],
        words=tuple(tuple(w) for w in data["words"]),
        tokens=tuple(
            Token(text=t["text"], span=tuple(t["span"]), word=t["word"]) for t in data["tokens"]
        ),
    )


# ---------------------------------------------------------------------------- invariants


def check(trace: RoutingTrace) -> None:
    """Raise TraceError with the numbers if the trace contradicts itself."""
    for layer in trace.layers:
        _require(
            layer.heads in (1, trace.heads),
            "layer {} has {} heads, the trace {}",
            *(layer.layer, layer.heads, trace.heads),
        )
        _require(
            layer.sub_tokens == trace.input.count * layer.heads,
            "layer {} has {} sub-tokens, not {} tokens x {} heads",
            *(layer.layer, layer.sub_tokens, trace.input.count, layer.heads),
        )
        check_layer(layer)
    if trace.nats is not None:
        _require(
            trace.nats.shape == (trace.input.count,),
            "nats has shape {}, not ({},)",
            *(trace.nats.shape, trace.input.count),
        )


def check_layer(layer: LayerTrace, tolerance: float = 1e-4) -> None:
    """The conservation laws of one layer. Raises TraceError."""
    S, E, K = layer.sub_tokens, layer.experts, layer.top_k
    _require(layer.assignment in ASSIGNMENTS, "unknown assignment {!r}", layer.assignment)
    _require(bool(np.isfinite(layer.probs).all()), "probs are not all finite")
    for name in ("demand", "load", "importance"):
        shape = getattr(layer, name).shape
        _require(shape == (E,), "{} has shape {}, not ({},)", name, shape, E)
    if layer.assignment == SOFT:
        _check_soft(layer, tolerance)
        return
    _require(
        layer.logits.shape == layer.probs.shape == (S, E),
        "logits {} and probs {} are not ({}, {})",
        *(layer.logits.shape, layer.probs.shape, S, E),
    )
    _check_probs(layer, tolerance)
    for name in ("expert", "gate", "slot", "kept", *(["wanted"] * (layer.wanted is not None))):
        array = getattr(layer, name)
        there = array is not None and array.shape == (S, K)
        _require(there, "{} is not [S, K] = ({}, {})", name, S, K)
    least, most = layer.expert.min(initial=0), layer.expert.max(initial=0)
    _require(-1 <= least <= most < E, "an expert index is not below {}, or less than -1", E)
    if least < 0:
        padded = layer.expert < 0
        _require(not (layer.kept & padded).any(), "a padded choice is marked as kept")
        _require(not layer.gate[padded].any(), "a padded choice has a gate")
    _require(
        ((layer.slot >= 0) == layer.kept).all(),
        "slot must be -1 exactly where a choice is not kept",
    )
    if layer.assignment == TOKEN_CHOICE:
        _require(not _repeats(np.sort(layer.expert)), "a sub-token chose one expert twice")
    _check_counts(layer, tolerance)
    _check_places(layer)


def _check_probs(layer: LayerTrace, tolerance: float) -> None:
    """Shares of one softmax, or a sigmoid of each score."""
    _require(layer.score in SCORES, "score {!r} is none of {}", layer.score, ", ".join(SCORES))
    if layer.score == "softmax":
        _require(
            _close(layer.probs.sum(1), 1, tolerance),
            "a row of probs does not sum to 1 over the experts",
        )
    else:
        _require(_close(layer.probs, 0.5, 0.5 + tolerance), "a sigmoid is not between 0 and 1")


def _check_counts(layer: LayerTrace, tolerance: float) -> None:
    """Demand, load and importance are what the choices add up to."""
    bins = layer.experts + 1
    picks = (layer.expert + 1).ravel()  # padding is 0, left out by [1:]
    asked = picks if layer.wanted is None else (layer.wanted + 1).ravel()
    counts = np.bincount(asked, minlength=bins)[1:]
    _require(
        np.array_equal(counts, layer.demand),
        "demand {} is not the count of choices {}",
        *(layer.demand, counts),
    )
    held = counts
    if layer.wanted is not None or not layer.kept.all():
        held = np.bincount(picks[layer.kept.ravel()], minlength=bins)[1:]
    _require(
        np.array_equal(held, layer.load),
        "load {} is not the count of kept choices {}",
        *(layer.load, held),
    )
    weight = np.bincount(picks, layer.gate.ravel(), bins)[1:]
    _require(
        _close(weight, layer.importance, tolerance * (1 + np.abs(weight))),
        "importance is not the sum of the gates per expert",
    )


def _check_places(layer: LayerTrace) -> None:
    """No expert holds more than its capacity, and no two choices share a place."""
    stride = layer.sub_tokens * layer.top_k + 1
    places = np.sort((layer.expert.astype(np.int64) * stride + layer.slot)[layer.kept])
    _require(not _repeats(places), "two choices share one place of an expert")
    if layer.capacity is None:
        return
    most, last = int(layer.load.max(initial=0)), int(layer.slot.max(initial=-1))
    full = layer.capacity
    _require(most <= full, "an expert holds {} with capacity {}", most, full)
    _require(last < full, "place {} lies beyond capacity {}", last, full)


def _repeats(ordered: np.ndarray) -> bool:
    """Whether a number of a row, in ascending order, stands there twice; -1 may."""
    later = ordered[..., 1:]
    same = later == ordered[..., :-1]
    return bool(same.any() and (same & (later >= 0)).any())


def _check_soft(layer: LayerTrace, tolerance: float) -> None:
    for name in ("dispatch", "combine"):
        _require(
            getattr(layer, name) is not None and getattr(layer, name).shape == layer.logits.shape,
            "{} does not have the shape of logits {}",
            *(name, layer.logits.shape),
        )
    _require(
        layer.logits.shape[1] % layer.experts == 0,
        "{} slots cannot be shared by {} experts",
        *(layer.logits.shape[1], layer.experts),
    )
    _require(
        layer.sub_tokens == 0 or np.allclose(layer.dispatch.sum(0), 1, atol=tolerance),
        "a dispatch column does not sum to 1 over the tokens",
    )
    _require(
        np.allclose(layer.combine.sum(1), 1, atol=tolerance),
        "a combine row does not sum to 1 over the slots",
    )


def _close(found: np.ndarray, expected: np.ndarray | float, tolerance: np.ndarray | float) -> bool:
    """Everywhere within the tolerance; never where a number is none. (np.allclose takes as long
    as all other checks of a small layer together.)"""
    return bool((np.abs(found - expected) <= tolerance).all())


def _require(condition: bool, message: str, *values: object) -> None:
    """The values are put into the message only when it is needed."""
    if not condition:
        plain = (v.tolist() if isinstance(v, np.ndarray) else v for v in values)
        raise TraceError(message.format(*plain))


__all__ = [
    "ASSIGNMENTS",
    "EXPERT_CHOICE",
    "GATES",
    "SCHEMA",
    "SCORES",
    "SOFT",
    "TOKEN_CHOICE",
    "ImageInput",
    "LayerTrace",
    "RoutingTrace",
    "Source",
    "TextInput",
    "Token",
    "TraceError",
    "check",
    "check_layer",
]
