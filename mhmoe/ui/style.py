"""The theme's colours as CSS variables, and the one stylesheet, put into the page."""

from __future__ import annotations

import streamlit as st

from mhmoe.ui.language import ASSETS

#: Our name of a colour -> Streamlit's theme option that holds it.
TOKENS = {
    "page": "backgroundColor",
    "card": "secondaryBackgroundColor",
    "line": "borderColor",
    "ink": "textColor",
    "muted": "grayTextColor",
    "accent": "primaryColor",
    "warning": "orangeTextColor",
    "good": "greenTextColor",
    "bad": "redTextColor",
    "code": "codeBackgroundColor",
}


def colours(theme: str) -> dict[str, str]:
    """The colours of the ``light`` or ``dark`` theme by our names, from .streamlit/config.toml."""
    return {name: st.get_option(f"theme.{theme}.{option}") for name, option in TOKENS.items()}


def inject() -> None:
    """Put the stylesheet into the page. ``light-dark()`` follows Streamlit's theme at once."""
    light, dark = colours("light"), colours("dark")
    variables = "".join(f"--he-{name}: light-dark({light[name]}, {dark[name]});" for name in TOKENS)
    fonts = (
        f"--he-serif: {st.get_option('theme.headingFont')};"
        f"--he-sans: {st.get_option('theme.font')};"
    )
    sheet = (ASSETS / "style.css").read_text(encoding="utf-8")
    st.html(f"<style>:root {{ {variables} {fonts} }}\n{sheet}</style>")
