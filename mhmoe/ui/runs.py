"""Model runs for pages: cached, one visitor's heavy work at a time per core, never a traceback.

Traces are shared between visitors and never changed. Everything is keyed by values: model,
text or the picture's checksum, what-if.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from threading import BoundedSemaphore

import streamlit as st
import torch

from mhmoe.layers import TRAINED, WhatIf
from mhmoe.models import engine
from mhmoe.models.device import DeviceError, choose, describe
from mhmoe.models.images import DecodedImage, decode
from mhmoe.trace import RoutingTrace

#: The values of the capacity factor that the browser scrubs through; None is unlimited, as trained.
CAPACITIES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, None)
#: Fewer for pictures, whose strips are long: the browser holds at most 100 KB.
PICTURE_CAPACITIES = (0.5, 1.0, 1.5, None)
#: Heads for which trained models are shipped; every other number builds an untrained layer.
TRAINED_HEADS = {1: "smoe", 4: "mhmoe"}
TRAINED_EXPERTS = 8
#: Stops of the two sliders.
HEADS = (1, 2, 4, 8)
EXPERTS = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32)

_busy = BoundedSemaphore(max(1, (os.cpu_count() or 2) // 2))


@dataclass(frozen=True)
class ModelKey:
    """A model as a visitor asks for it: family, heads, experts."""

    kind: str
    heads: int = 4
    experts: int = TRAINED_EXPERTS

    @property
    def trained(self) -> bool:
        return self.heads in TRAINED_HEADS and self.experts <= TRAINED_EXPERTS

    @property
    def state(self) -> str:
        """trained, masked (some trained experts switched off) or untrained."""
        if not self.trained:
            return "untrained"
        return "trained" if self.experts == TRAINED_EXPERTS else "masked"

    def load(self) -> engine.Loaded:
        name = f"{self.kind}-{TRAINED_HEADS.get(self.heads, 'mhmoe')}"
        if self.trained:
            return engine.load(name, device())
        return engine.variant(f"{self.kind}-mhmoe", self.heads, self.experts, device=device())

    def what_if(self, capacities: tuple[float | None, ...]) -> WhatIf:
        off = tuple(range(self.experts, TRAINED_EXPERTS)) if self.state == "masked" else ()
        top_k = 1 if self.experts == 1 else None
        return WhatIf(capacity_factors=capacities, experts_off=off, top_k=top_k)


@cache
def device() -> torch.device:
    """The device of this process: MHMOE_DEVICE if it is there, else the best present."""
    try:
        return choose()
    except DeviceError:
        return choose("cpu")


def device_name() -> str:
    return describe(device())


@st.cache_resource(max_entries=24, show_spinner=False)
def text_traces(
    key: ModelKey, text: str, capacities: tuple[float | None, ...] = CAPACITIES
) -> tuple[RoutingTrace, ...]:
    """One trace per capacity factor, the last the one asked for last; with activations."""
    with _busy:
        loaded = key.load()
        return tuple(engine.trace_text(loaded, text, key.what_if(capacities), vectors=True))


@st.cache_resource(max_entries=12, show_spinner=False)
def image_traces(
    key: ModelKey,
    checksum: str,
    _image: DecodedImage,
    capacities: tuple[float | None, ...] = PICTURE_CAPACITIES,
) -> tuple[RoutingTrace, ...]:
    """As :func:`text_traces`, for a decoded picture named by its checksum."""
    with _busy:
        loaded = key.load()
        return tuple(engine.trace_image(loaded, _image, key.what_if(capacities), vectors=True))


@st.cache_resource(max_entries=24, show_spinner=False)
def dense_bits(text: str) -> float | None:
    """Bits per byte of the text under the dense model of the family."""
    with _busy:
        loaded = engine.load("text-dense", device())
        return engine.trace_text(loaded, text, TRAINED)[0].bits_per_byte


@st.cache_resource(max_entries=16, show_spinner=False)
def picture(content: bytes) -> tuple[DecodedImage, str]:
    """The picture and its checksum. Raises ImageProblem, which names the sentence to say."""
    with _busy:
        return decode(content), sha256(content).hexdigest()
