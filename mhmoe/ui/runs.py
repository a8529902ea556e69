"""Model runs for pages: cached, a few visitors' heavy work at a time, never a traceback.

Traces are shared between visitors and never changed. Everything is keyed by values: model,
text or the picture's checksum, what-if.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from threading import BoundedSemaphore
from typing import TypeVar

import numpy as np
import streamlit as st
import torch
from safetensors import SafetensorError

from mhmoe.analysis import runlog
from mhmoe.layers import WhatIf
from mhmoe.layers.config import ORDERS
from mhmoe.models import checkpoint, engine
from mhmoe.models.config import ModelConfig
from mhmoe.models.device import DeviceError, choose, describe
from mhmoe.models.images import DecodedImage, decode
from mhmoe.trace import RoutingTrace

#: The values of the capacity factor that the browser scrubs through; None is unlimited, as trained.
CAPACITIES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, None)
#: Fewer for pictures, whose strips are long: the browser holds at most 100 KB.
PICTURE_CAPACITIES = (0.5, 1.0, 1.5, None)
#: Stops of the two sliders, and where they begin.
HEADS = (1, 2, 4, 8)
EXPERTS = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32)
USUAL_HEADS, USUAL_EXPERTS = 4, 8
#: Names for people where the router is what a model is known by.
ROUTERS = {"x-moe": "X-MoE", "soft-moe": "Soft MoE"}

Result = TypeVar("Result")

# Half of the cores stay with the server and the browser: threads of one run that share a core
# with another program wait for each other at every barrier, which made a rerun five times slower.
_cores = max(1, (os.cpu_count() or 2) // 2)
_threads = min(4, _cores)
torch.set_num_threads(_threads)
_busy = BoundedSemaphore(_cores // _threads)


@dataclass(frozen=True)
class ModelKey:
    """A model as a visitor asks for it: family, heads, experts."""

    kind: str
    heads: int = USUAL_HEADS
    experts: int = USUAL_EXPERTS

    @property
    def whole(self) -> ModelKey | None:
        """The smallest shipped model with these heads that has as many experts."""
        found = trained_experts(self.kind, self.heads)
        enough = [experts for experts in found if experts >= self.experts]
        return ModelKey(self.kind, self.heads, enough[0]) if enough else None

    @property
    def state(self) -> str:
        """trained, masked (some trained experts switched off) or untrained."""
        if self.whole is None:
            return "untrained"
        return "trained" if self.whole == self else "masked"

    @property
    def built(self) -> int:
        """Experts of the model that is loaded. An untrained one has at least the usual number: the
        square layers would leave fewer no width."""
        return self.whole.experts if self.whole else max(self.experts, USUAL_EXPERTS)

    @property
    def name(self) -> str:
        """As the shipped models are named, whether there is one or not."""
        return f"{self.kind}-e{self.experts}" + (f"-h{self.heads}" if self.heads > 1 else "")

    def load(self, where: torch.device) -> engine.Loaded:
        if self.whole is None:
            plain = ModelKey(self.kind, heads=1).name
            return engine.variant(plain, self.heads, self.built, device=where)
        return engine.load(self.whole.name, where)

    def what_if(self, capacities: tuple[float | None, ...]) -> WhatIf:
        off = tuple(range(self.experts, self.built))
        top_k = 1 if self.experts == 1 else None
        return WhatIf(capacity_factors=capacities, experts_off=off, top_k=top_k)


def trained_experts(kind: str, heads: int) -> list[int]:
    """Numbers of experts for which a model with these heads is shipped."""
    known = checkpoint.names()
    return [experts for experts in EXPERTS if ModelKey(kind, heads, experts).name in known]


def trained_heads(kind: str) -> list[int]:
    """Numbers of heads for which a model with the usual experts is shipped."""
    return [heads for heads in HEADS if USUAL_EXPERTS in trained_experts(kind, heads)]


def pair(kind: str) -> tuple[str, str]:
    """The two models that pages hold side by side: MH-MoE, and plain SMoE below. In a link they
    name the row, also where the sliders put another model into the upper one."""
    return ModelKey(kind).name, ModelKey(kind, heads=1).name


def dense(kind: str) -> str:
    """The dense model of a family, with the active parameters of plain SMoE."""
    return f"{kind}-ffn"


@cache
def device() -> torch.device:
    """The device of this process: MHMOE_DEVICE if it is there, else the best present."""
    try:
        return choose()
    except DeviceError:
        return choose("cpu")


def device_name() -> str:
    return describe(device())


def card(name: str) -> dict:
    """The facts of a shipped model. Raises checkpoint.CheckpointError."""
    return checkpoint.card(name)


def _run(work: Callable[[torch.device], Result]) -> Result:
    """Heavy work: one at a time for each second core, on the CPU if the GPU is full."""
    with _busy:
        return engine.on_device(work, device())


def fell_back() -> bool:
    """Whether a GPU ran out of memory and the CPU took over."""
    return engine.FELL_BACK.is_set()


def model_facts(name: str) -> tuple[str, int] | None:
    """A shipped model's name for people and its parameters; None if there is no such model."""
    try:
        card = checkpoint.card(name)
    except checkpoint.CheckpointError:
        return None
    config = ModelConfig.from_dict(card["config"])
    if config.moe is None:
        shown = "Dense"
    else:
        shown = "MH-MoE" if config.heads > 1 else ROUTERS.get(config.router, "SMoE")
    return shown, card["params_total"]


#: One input under one model: its trace at each capacity factor that was asked for so far.
Outcomes = dict[float | None, RoutingTrace]


@st.cache_resource(max_entries=24, show_spinner=False)
def _text_outcomes(key: ModelKey, text: str) -> Outcomes:
    return {}


@st.cache_resource(max_entries=12, show_spinner=False)
def _image_outcomes(key: ModelKey, checksum: str) -> Outcomes:
    return {}


def text_traces(key: ModelKey, text: str, *capacities: float | None) -> Outcomes:
    """All traces known of a text, with activations, those of ``capacities`` certainly: what is
    missing of these is computed."""
    return _completed(
        _text_outcomes(key, text),
        capacities,
        lambda d, what_if: engine.trace_text(key.load(d), text, what_if, vectors=True),
        key,
    )


def image_traces(
    key: ModelKey, checksum: str, image: DecodedImage, *capacities: float | None
) -> Outcomes:
    """As :func:`text_traces`, for a decoded picture named by its checksum."""
    return _completed(
        _image_outcomes(key, checksum),
        capacities,
        lambda d, what_if: engine.trace_image(key.load(d), image, what_if, vectors=True),
        key,
    )


def _completed(
    known: Outcomes,
    capacities: tuple[float | None, ...],
    work: Callable[[torch.device, WhatIf], list[RoutingTrace]],
    key: ModelKey,
) -> Outcomes:
    if not known.keys() >= set(capacities):

        def complete(where: torch.device) -> None:
            # Another visitor may have computed them while this one waited.
            if missing := tuple(c for c in capacities if c not in known):
                known.update(zip(missing, work(where, key.what_if(missing)), strict=True))

        _run(complete)
    return known


@st.cache_resource(max_entries=24, show_spinner=False)
def dense_bits(text: str) -> float | None:
    """Bits per byte of the text under the dense model of the family."""
    return _run(lambda d: engine.trace_text(engine.load(dense("text"), d), text)[0].bits_per_byte)


@st.cache_resource(max_entries=12, show_spinner=False)
def image_orders(
    key: ModelKey, checksum: str, _image: DecodedImage, factors: tuple[float | None, ...]
) -> dict[str, tuple[list[RoutingTrace], np.ndarray | None]]:
    """By who is served first: a trace at each capacity factor, and the classes' probabilities."""
    return _run(
        lambda d: {
            order: engine.read_image(
                key.load(d), _image, WhatIf(capacity_factors=factors, order=order)
            )
            for order in ORDERS
        }
    )


@st.cache_resource(max_entries=12, show_spinner=False)
def named_image(
    name: str, checksum: str, _image: DecodedImage
) -> tuple[RoutingTrace, engine.Embedding]:
    """A picture under a shipped model by name, as trained, and its embedding. Raises
    checkpoint.CheckpointError."""
    return _run(
        lambda d: (
            engine.trace_image(engine.load(name, d), _image)[0],
            engine.embed_image(engine.load(name, d), _image),
        )
    )


@st.cache_resource(max_entries=16, show_spinner=False)
def picture(content: bytes) -> tuple[DecodedImage, str]:
    """The picture and its checksum. Raises ImageProblem, which names the sentence to say."""
    with _busy:
        return decode(content), sha256(content).hexdigest()


# ------------------------------------------------------------- one layer opened, reruns


@st.cache_resource(max_entries=24, show_spinner=False)
def opened_layer(key: ModelKey, text: str, index: int) -> engine.OpenedLayer:
    """The ``index``-th MoE layer on the input it really had, every expert computed."""
    trace = text_traces(key, text, None)[None]
    return _run(lambda d: engine.open_layer(key.load(d), trace, index))


@st.cache_resource(max_entries=24, show_spinner=False)
def under_methods(key: ModelKey, text: str, index: int) -> dict[str, engine.UnderMethod | None]:
    """The scores of the ``index``-th MoE layer under every method of the literature."""
    layer = text_traces(key, text, None)[None].layers[index]
    return _run(lambda d: engine.under_methods(layer.logits, layer.top_k))


@st.cache_resource(max_entries=24, show_spinner=False)
def fillings(
    key: ModelKey, text: str, index: int, factors: tuple[float | None, ...]
) -> dict[str, engine.Filled]:
    """The scores of the ``index``-th MoE layer, placed by every policy at every factor."""
    layer = text_traces(key, text, None)[None].layers[index]
    return _run(lambda d: {p: engine.fill(layer.logits, p, factors) for p in engine.POLICIES})


@st.cache_resource(max_entries=24, show_spinner=False)
def bits_by_policy(
    key: ModelKey, text: str, factors: tuple[float | None, ...]
) -> dict[str, np.ndarray]:
    """[n] bits per byte of the text under every policy in all layers, the model rerun for each."""
    return _run(
        lambda d: {p: engine.bits_by_policy(key.load(d), text, p, factors) for p in engine.POLICIES}
    )


@st.cache_resource(max_entries=48, show_spinner=False)
def neurons(key: ModelKey, text: str, index: int, expert: int, row: int) -> np.ndarray:
    """[F] activations of one expert for one sub-token."""
    sub = opened_layer(key, text, index).sub[row]
    return _run(lambda d: engine.neurons(key.load(d), index, expert, sub))


@st.cache_resource(max_entries=24, show_spinner=False)
def bits_by_k(key: ModelKey, text: str) -> np.ndarray:
    """[E] bits per byte of the text with k = 1..E in every layer, the whole model rerun."""
    return _run(lambda d: engine.bits_by_k(key.load(d), text))


@st.cache_resource(max_entries=48, show_spinner=False)
def next_without(
    key: ModelKey, text: str, index: int, position: int, experts: tuple[int, ...]
) -> np.ndarray:
    """[1 + len(experts), V] next-token probabilities, as trained and without each expert."""
    return _run(lambda d: engine.next_without(key.load(d), text, index, position, experts))


@st.cache_resource(max_entries=64, show_spinner=False)
def stored_run(name: str, run: str = "") -> runlog.Run:
    """A replay, or a run of a family's file: its facts and its arrays. Raises
    checkpoint.CheckpointError."""
    return _stored(name, lambda path: runlog.load(path, run))


@st.cache_resource(max_entries=8, show_spinner=False)
def stored_runs(name: str) -> list[str]:
    """The runs in a family's file. Raises checkpoint.CheckpointError."""
    return _stored(name, runlog.names)


def _stored(name: str, read: Callable[[Path], Result]) -> Result:
    path = checkpoint.runs() / f"{name}.safetensors"
    try:
        return read(path)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise checkpoint.CheckpointError(f"{path.name}: {reason}", file=path.name) from None
