"""A link is a view: :class:`ViewState` <-> query string, checked in this one place.

Indices (layer, token, expert) count from 0, as in the trace and on the command line; ``None``
means that the page decides. The page itself is the path of the link, not a parameter. The
visitor's text enters a link only through :func:`to_query` with ``with_text=True``.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from urllib.parse import urlencode

#: Longest text, in UTF-8 bytes, that a link carries.
TEXT_LIMIT = 500

#: Outermost bounds of every number in a link; a page narrows them to its model with fit().
BOUNDS: dict[str, tuple[float, float]] = {
    "layer": (0, 63),
    "token": (0, 4095),
    "expert": (0, 511),
    "seed": (0, 2**31 - 1),
    "capacity": (0.05, 16.0),
    "heads": (1, 64),
    "experts": (1, 512),
}
_NAMES = {
    "model": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}"),
    "hash": re.compile(r"[0-9a-f]{4,64}"),
    "sample": re.compile(r"[a-z0-9][a-z0-9-]{0,39}"),
    "preset": re.compile(r"[a-z0-9][a-z0-9-]{0,39}"),
    "lang": re.compile(r"en|zh"),
}
#: Parameters that belong to Streamlit itself.
_FOREIGN = ("embed", "embed_options")


@dataclass(frozen=True, kw_only=True)
class ViewState:
    """What is being looked at: everything a link restores."""

    lang: str = "en"
    page: str = "start"
    model: str | None = None
    hash: str | None = None
    layer: int | None = None
    token: int | None = None
    expert: int | None = None
    sample: str | None = None
    preset: str | None = None
    seed: int | None = None
    capacity: float | None = None
    heads: int | None = None
    experts: int | None = None
    present: bool = False
    text: str | None = None


@dataclass(frozen=True)
class Ignored:
    """One part of a link that could not be used. ``reason``: unknown, invalid, range or text."""

    name: str
    reason: str
    low: float | None = None
    high: float | None = None


def read_query(
    params: Mapping[str, str], *, page: str = "start", lang: str = "en"
) -> tuple[ViewState, tuple[Ignored, ...]]:
    """The view a query string asks for, and what of it could not be used.

    Numbers out of bounds are moved to the nearest bound and reported; anything else that is not
    exactly right is left at its default and reported. Never raises, whatever the link says.
    """
    values: dict[str, object] = {}
    ignored: list[Ignored] = []
    for name, raw in params.items():
        if name in _FOREIGN:
            continue
        value, problem = _read(name, raw)
        if problem:
            ignored.append(problem)
        if value is not None:
            values[name] = value
    return ViewState(**{"lang": lang, **values, "page": page}), tuple(ignored)


def _read(name: str, raw: str) -> tuple[object, Ignored | None]:
    if name in BOUNDS:
        return _read_number(name, raw)
    if name in _NAMES:
        fine = _NAMES[name].fullmatch(raw) is not None
        return (raw, None) if fine else (None, Ignored(name, "invalid"))
    if name == "present":
        fine = raw in ("0", "1")
        return (raw == "1", None) if fine else (None, Ignored(name, "invalid"))
    if name == "text":
        text = decode_text(raw)
        return (text, None) if text is not None else (None, Ignored(name, "text"))
    return None, Ignored(_shorten(name), "unknown")


def _read_number(name: str, raw: str) -> tuple[object, Ignored | None]:
    low, high = BOUNDS[name]
    kind = float if name == "capacity" else int
    try:
        value = kind(raw) if len(raw) <= 24 else None
    except ValueError:
        value = None
    if value is None or not math.isfinite(value):
        return None, Ignored(name, "invalid")
    if low <= value <= high:
        return value, None
    return kind(min(max(value, low), high)), Ignored(name, "range", low, high)


def _shorten(name: str) -> str:
    """A parameter name from outside, fit to be shown: printable and at most 24 characters."""
    shown = "".join(char if char.isprintable() else "?" for char in name)
    return shown if len(shown) <= 24 else shown[:23] + "…"


def fit(view: ViewState, **bounds: tuple[float, float]) -> tuple[ViewState, tuple[Ignored, ...]]:
    """The view moved inside what the loaded model and text allow: ``fit(view, layer=(0, 3))``."""
    changes: dict[str, float] = {}
    ignored: list[Ignored] = []
    for name, (low, high) in bounds.items():
        value = getattr(view, name)
        if value is not None and not low <= value <= high:
            changes[name] = min(max(value, low), high)
            ignored.append(Ignored(name, "range", low, high))
    return replace(view, **changes), tuple(ignored)


def to_query(view: ViewState, *, with_text: bool = False) -> str:
    """The query string of a view, without its page; the text goes in only when asked for."""
    pairs: dict[str, str] = {}
    for field in fields(ViewState):
        value = getattr(view, field.name)
        if field.name in ("page", "text") or value is None or value is False:
            continue
        pairs[field.name] = "1" if value is True else _write(value)
    if with_text and text_fits(view.text):
        pairs["text"] = encode_text(view.text)
    return urlencode(pairs)


def _write(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def text_fits(text: str | None) -> bool:
    """Whether there is a text and a link has room for it."""
    return text is not None and 0 < len(text.encode("utf-8", "replace")) <= TEXT_LIMIT


def encode_text(text: str) -> str:
    """zlib, then base64url without padding: safe inside a query string."""
    packed = zlib.compress(text.encode("utf-8", "replace"), 9)
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode("ascii")


def decode_text(packed: str) -> str | None:
    """The text of a link, or None when it is damaged, empty or longer than the limit."""
    try:
        data = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
        unpack = zlib.decompressobj()
        # The limit is given to zlib, so that a small link cannot unfold into gigabytes.
        raw = unpack.decompress(data, TEXT_LIMIT + 1)
        text = raw.decode("utf-8")
    except (ValueError, binascii.Error, zlib.error):
        return None
    return text if 0 < len(raw) <= TEXT_LIMIT and unpack.eof else None
