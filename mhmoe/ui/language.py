"""Two language tables, one glossary, and the one way from a text to safe HTML.

Nothing here imports Streamlit: texts can be looked up, tested and exported without a browser.
"""

from __future__ import annotations

import html
import json
import re
from functools import cache
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[2] / "assets"
LANGUAGES = {"en": "English", "zh": "中文"}
DEFAULT = "en"

#: What the markup of a table entry may contain: [[term]], [[term|shown words]], **bold**, `code`.
_MARKUP = re.compile(r"\[\[([a-z-]+)(?:\|([^\]]+))?\]\]|\*\*(.+?)\*\*|`([^`]+)`")


class Html(str):
    """A string that is already safe HTML. Plain strings are escaped wherever HTML is made."""


def from_locale(locale: str | None) -> str:
    """The language for a browser locale such as ``zh-CN``; English when there is none of ours."""
    code = (locale or "").replace("_", "-").split("-")[0].lower()
    return code if code in LANGUAGES else DEFAULT


@cache
def table(lang: str) -> dict[str, str]:
    """The whole table of one language, its sections flattened to ``section.key``."""
    path = ASSETS / "languages" / f"{lang}.json"
    return dict(_flatten(json.loads(path.read_text(encoding="utf-8"))))


def _flatten(node: dict, prefix: str = ""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def lookup(lang: str, key: str, **values: object) -> str:
    """The plain text ``key`` in ``lang``, with ``{placeholders}`` filled from ``values``."""
    return table(lang)[key].format(**values)


def section(lang: str, name: str) -> dict[str, str]:
    """All texts under ``name.``, by the rest of their keys, placeholders unfilled: for the
    browser components, which fill in numbers of their own."""
    prefix = f"{name}."
    return {
        key.removeprefix(prefix): text
        for key, text in table(lang).items()
        if key.startswith(prefix)
    }


def rich(lang: str, key: str, **values: object) -> Html:
    """The text ``key`` as HTML: the table's own markup is rendered, every value is escaped."""
    template = _MARKUP.sub(lambda match: _render(lang, match), html.escape(table(lang)[key], False))
    # Numbers keep their type, so that a table may format them ("{bytes:,}").
    safe = {k: v if isinstance(v, int | float) else to_html(v) for k, v in values.items()}
    return Html(template.format(**safe))


def _render(lang: str, match: re.Match[str]) -> str:
    term_id, shown, bold, code = match.groups()
    if term_id:
        return term(lang, term_id, shown)
    return f"<strong>{bold}</strong>" if bold else f"<code>{code}</code>"


def to_html(value: object) -> Html:
    """``value`` as safe HTML: escaped, unless it is :class:`Html` already."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


@cache
def glossary() -> dict[str, dict[str, dict[str, str]]]:
    """term id -> language -> ``word`` and ``definition`` (one sentence)."""
    return json.loads((ASSETS / "glossary.json").read_text(encoding="utf-8"))


def term(lang: str, term_id: str, shown: str | None = None) -> Html:
    """A glossary word, underlined with dots, whose definition appears on hover and on focus.

    ``shown`` replaces the word itself where the sentence needs another form ("experts").
    """
    entry = glossary()[term_id][lang]
    word = to_html(shown or entry["word"])
    # The definition is part of the text, so a screen reader reaches it without an id to point at.
    return Html(
        f'<span class="he-term" tabindex="0">{word}'
        f'<span class="he-tip" role="tooltip">{to_html(entry["definition"])}</span></span>'
    )
