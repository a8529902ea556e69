"""Plates: figures with controls that the browser scrubs. Here they are mounted.

One component draws all kinds; ``data["plate"]`` names the kind. Its JavaScript is the explorer's
helpers (DOM, packed data, saving pictures) and the files of assets/plates, joined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from mhmoe.figures.palette import expert_colours
from mhmoe.ui import language
from mhmoe.ui.session import lang

_HELPERS = ("10-dom.js", "15-export.js", "20-payload.js")
_PARTS = [language.ASSETS / "explorer" / name for name in _HELPERS]
_PARTS += sorted((language.ASSETS / "plates").glob("*.js"))
_component = st.components.v2.component(
    "he_plates",
    css="\n".join(
        (language.ASSETS / name).read_text("utf-8") for name in ("explorer.css", "plates.css")
    ),
    js="\n".join(part.read_text("utf-8") for part in _PARTS),
)


def plate(
    key: str,
    data: Mapping[str, object],
    *,
    section: str,
    experts: int,
    figures: Sequence[str],
    checks: Mapping[str, bool],
    alt: str,
) -> None:
    """Draw one figure.

    section  key of the texts of its controls and sentences (``section.plate``)
    figures  its numbers in the visual guide
    checks   identities of its numbers, worded, each with the result of testing it just now
    """
    _component(
        key=key,
        data={
            **data,
            "say": language.section(lang(), f"{section}.plate"),
            "palette": expert_colours(experts),
            "figures": list(figures),
            "checks": [{"text": text, "good": bool(good)} for text, good in checks.items()],
            "alt": alt,
        },
    )
