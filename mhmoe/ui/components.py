"""The app's own browser components, their JavaScript read from assets/ and inlined.

Each is declared once at import and mounted with a key, so that a changed ``data`` updates the
same element (streamlit.components.v2). They use the theme's CSS variables and no other file.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import streamlit as st

from mhmoe.ui import language
from mhmoe.ui.session import remember, t

#: Largest picture the drop zone accepts, in megabytes of 10^6 bytes.
PICTURE_MB = 20


def _asset(name: str) -> str:
    return (language.ASSETS / name).read_text(encoding="utf-8")


_page = st.components.v2.component("he_page", js=_asset("page.js"))
_copy_link = st.components.v2.component(
    "he_copy_link", css=_asset("copylink.css"), js=_asset("copylink.js")
)
_dropzone = st.components.v2.component(
    "he_dropzone", css=_asset("dropzone.css"), js=_asset("dropzone.js")
)


def page_head(*, lang: str, slug: str, home: bool, query: str) -> None:
    """What only the browser can set: the document's language, the address bar, the landmark of
    our navigation, and Escape, which hides a definition."""
    data = {
        "lang": {"en": "en", "zh": "zh-CN"}[lang],
        "path": "" if home else slug,
        "query": query,
        "navigation": t("frame.navigation"),
    }
    _page(key="he_page", data=data)


def copy_link(*, path: str, query: str, text_left_out: bool) -> None:
    """A button that puts the link to this view on the clipboard and says so; below it another
    that opens the lecture view, in this session, so that text and picture stay.

    The button asks for a run and copies when its question comes back as ``asked``, because the
    click itself may have sent a text that the link on the page does not contain yet.
    """
    key = "he_copy_link"
    asked = st.session_state.get(key, {}).get("asked")
    names = ("copy", "copied", "by_hand", "text_left_out", "present", "present_hint")
    words = {name: t(f"link.{name}") for name in names}
    data = {"path": path, "query": query, "words": words, "asked": asked}
    data["text_left_out"] = text_left_out
    _copy_link(
        key=key,
        data=data,
        on_asked_change=lambda: None,
        on_present_change=lambda: remember(present=True),
    )


@dataclass(frozen=True)
class Dropped:
    """A file the visitor gave, as its bytes; nothing about it has been checked but its size."""

    name: str
    content: bytes


def dropzone(
    key: str = "picture", *, accept: str = "image/*", limit: float = PICTURE_MB, texts: str = "drop"
) -> Dropped | None:
    """A place for one file, usually a picture: drop, click, keyboard or paste. The file, in the one
    run it came.

    accept  what the browser offers to choose; limit in megabytes; texts: title and hint are
            ``{texts}.title`` and ``{texts}.hint``

    The bytes arrive as a trigger, not as state, so they are not sent again on later runs: keep
    what is made of them. Too large files are refused in the browser, with the numbers.
    """
    words = {
        word: t(f"drop.{word}", limit=limit) for word in ("reading", "release", "failed", "several")
    }
    words |= {word: t(f"{texts}.{word}", limit=limit) for word in ("title", "hint")}
    # The browser fills in the size of the refused file, so its placeholder must survive.
    words["too_large"] = t("drop.too_large", limit=limit, size="{size}")
    data = {"words": words, "limit": limit * 1_000_000, "accept": accept}
    result = _dropzone(key=key, data=data, on_file_change=lambda: None)
    return _dropped(result.file, limit)


def _dropped(sent: object, limit: float = PICTURE_MB) -> Dropped | None:
    """What the browser sent, checked: anything but a named base64 file within the limit is None."""
    if not isinstance(sent, dict) or not isinstance(sent.get("content"), str):
        return None
    try:
        content = base64.b64decode(sent["content"], validate=True)
    except (ValueError, binascii.Error):
        return None
    if len(content) > limit * 1_000_000:
        return None
    return Dropped(str(sent.get("name", ""))[:120], content)
