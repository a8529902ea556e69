"""What pages are built from. A page imports this module and nothing else of the app.

Texts: ``t`` (plain), ``rich`` (HTML with glossary words), ``term``. Every function that takes a
text accepts ``str``, which is escaped, or ``Html``, which is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import streamlit as st

from mhmoe.ui import chapters, frame, session, style
from mhmoe.ui.components import PICTURE_MB, Dropped, dropzone
from mhmoe.ui.language import Html, to_html
from mhmoe.ui.session import lang, remember, rich, t, term, view
from mhmoe.ui.state import Ignored, ViewState

__all__ = [
    "PICTURE_MB",
    "Download",
    "Dropped",
    "Html",
    "Tile",
    "ViewState",
    "badge",
    "card",
    "choice",
    "columns",
    "details",
    "downloads",
    "dropzone",
    "fit",
    "grid",
    "hero",
    "identity_line",
    "jump",
    "lang",
    "next_chapter",
    "notice",
    "remember",
    "rich",
    "sentence_box",
    "setup_page",
    "status_line",
    "t",
    "table",
    "term",
    "theme_colours",
    "tiles",
    "view",
    "what_to_notice",
    "write",
]

BADGES = ("live", "stored", "preset", "untrained", "what-if")
NOTICES = ("info", "warning", "error", "good")


def setup_page(slug: str) -> ViewState:
    """First line of every page: the frame around it and the title of the tab."""
    frame.ensure(slug)
    st.set_page_config(page_title=f"{t(f'chapters.{slug}')} · {frame.PRODUCT}")
    return view()


def fit(**bounds: tuple[float, float]) -> ViewState:
    """Keep the view inside the loaded model and text, e.g. ``fit(layer=(0, 3), token=(0, 8))``;
    what had to move is said once."""
    fitted, moved = session.fit(**bounds)
    if moved:
        notice("warning", _ignored_sentence(moved))
    return fitted


def _ignored_sentence(parts: Sequence[Ignored]) -> str:
    shown = [
        t(
            f"link.part_{part.reason}",
            name=part.name,
            low=_number(part.low),
            high=_number(part.high),
        )
        for part in parts[:5]
    ]
    if len(parts) > len(shown):
        shown.append(t("link.part_more", count=len(parts) - len(shown)))
    return t("link.ignored", parts=t("link.separator").join(shown))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"


# Text and layout.


def write(text: str | Html) -> None:
    """One paragraph."""
    st.html(f'<p class="he-text">{to_html(text)}</p>')


def hero(claim: str | Html, subtitle: str | Html) -> None:
    """The page's one-sentence claim as its heading, and a line below it; then, where the link
    that led here asked for something impossible, one sentence that says so."""
    st.html(f'<div class="he-hero"><h1>{to_html(claim)}</h1><p>{to_html(subtitle)}</p></div>')
    if session.ignored():
        notice("warning", _ignored_sentence(session.ignored()))


def card_id(key: str) -> str:
    """The id of a card's head, for a link that jumps to it."""
    return f"he-card-{key}"


@contextmanager
def card(key: str, title: str | Html = "", aside: str | Html = "") -> Iterator[None]:
    """A bordered panel with a title and a quieter remark beside it (a badge goes there too)."""
    with st.container(border=True, key=f"he-card-{key}"):
        if title or aside:
            st.html(
                f'<div class="he-card-head" id="{card_id(key)}"><h2>{to_html(title)}</h2>'
                f"<span>{to_html(aside)}</span></div>"
            )
        yield


def columns(*widths: float) -> list:
    """Side by side on a wide screen, below one another on a narrow one."""
    return st.columns(widths, gap="small", vertical_alignment="top")


@dataclass(frozen=True)
class Tile:
    """One number: what it is, the number, and its chance level or condition below."""

    label: str | Html
    value: str | Html
    foot: str | Html = ""


def tiles(entries: Sequence[Tile]) -> None:
    """A row of numbers."""
    cells = "".join(
        f'<div class="he-tile"><dt>{to_html(tile.label)}</dt>'
        f"<dd><b>{to_html(tile.value)}</b><span>{to_html(tile.foot)}</span></dd></div>"
        for tile in entries
    )
    st.html(f'<dl class="he-tiles">{cells}</dl>')


def identity_line(results: Mapping[str, bool]) -> None:
    """The identities of a picture's numbers, each with the result of checking it just now."""
    marks = "".join(
        f'<span class="he-check-{"good" if holds else "bad"}">{"✓" if holds else "✗"} '
        f"{t(f'check.{name}')}{'' if holds else ' ' + t('check.fails')}</span>"
        for name, holds in results.items()
    )
    st.html(f'<p class="he-checks"><b>{t("check.title")}</b>{marks}</p>')


def what_to_notice(*sentences: str | Html) -> None:
    """The two or three things a reader should take from the picture above."""
    paragraphs = "".join(f"<p>{to_html(sentence)}</p>" for sentence in sentences)
    st.html(f'<div class="he-notice-this"><h2>{t("kit.what_to_notice")}</h2>{paragraphs}</div>')


def badge(source: str, meaning: str = "") -> Html:
    """Where a panel's numbers come from: one of BADGES, explained on hover and focus; a picture
    whose parts come from different runs gives its own ``meaning``."""
    if source not in BADGES:
        raise ValueError(f"badge {source!r} is none of {', '.join(BADGES)}")
    said = to_html(meaning or t(f"badge.{source}.meaning"))
    return Html(
        f'<span class="he-badge he-badge-{source}" tabindex="0">{t(f"badge.{source}.word")}'
        f'<span class="he-tip" role="tooltip">{said}</span></span>'
    )


def jump(to: str, sentence: str | Html, picture: str) -> None:
    """A small picture (its data address) and a sentence that lead to a card further down."""
    st.html(
        f'<p class="he-jump"><a href="#{card_id(to)}"><img src="{picture}" alt="">'
        f"<span>{to_html(sentence)}</span></a></p>"
    )


def notice(kind: str, sentence: str | Html) -> None:
    """One clear sentence to the visitor; ``kind`` is one of NOTICES."""
    if kind not in NOTICES:
        raise ValueError(f"notice {kind!r} is none of {', '.join(NOTICES)}")
    role = "alert" if kind == "error" else "status"
    st.html(f'<p class="he-notice he-notice-{kind}" role="{role}">{to_html(sentence)}</p>')


def details(
    title: str = "",
    *,
    text: str | Html = "",
    formula: str = "",
    code: str = "",
    paper: tuple[str, str] | None = None,
) -> None:
    """The closed drawer under a picture: words, LaTeX formula, the code of this step, and the
    paper as (name, address)."""
    with st.expander(title or t("kit.details")):
        if text:
            write(text)
        if formula:
            st.latex(formula)
        if code:
            st.code(code, language="python")
        if paper:
            name, address = paper
            st.html(
                f'<p class="he-paper"><a href="{to_html(address)}" target="_blank" '
                f'rel="noopener noreferrer">{to_html(name)}</a></p>'
            )


@contextmanager
def drawer(key: str, title: str, *, opened: bool = False) -> Iterator[None]:
    """A panel for controls and remarks that not everyone needs; closed, unless ``opened``."""
    with st.expander(title, key=f"he-drawer-{key}", expanded=opened):
        yield


def next_chapter(slug: str) -> None:
    """A link to the next written chapter; nothing after the last one."""
    following = chapters.after(slug)
    if following is not None:
        with st.container(key="he-next"):
            label = t("kit.next", title=frame.title(following))
            st.page_link(frame.pages()[following.slug], label=label)


# Controls and data.


def sentence_box(label: str, *, default: str, key: str = "sentence") -> str:
    """One line of the visitor's own text. It survives page and language switches, starts with
    the text of a link, and is remembered in the view; the default sentence is not."""
    if key not in st.session_state:
        st.session_state[key] = view().text if view().text is not None else default
    text = st.text_input(
        label, key=key, persist_state="session", label_visibility="collapsed", placeholder=label
    )
    remember(text=None if text == default else text)
    return text


def choice(
    label: str, options: Sequence, *, default: object, key: str, show: Callable[[object], str] = str
) -> object:
    """One of a few options, as a row of buttons. Options are codes; ``show`` words them."""
    return st.segmented_control(
        label,
        list(options),
        default=default,
        format_func=show,
        key=key,
        required=True,
        persist_state="session",
    )


def grid(rows: Sequence[Mapping[str, str | Html]]) -> None:
    """A small table to read, not a twin: column names, then one row each; the first cell names
    the row. It scrolls sideways where it does not fit."""
    heads = "".join(f'<th scope="col">{to_html(name)}</th>' for name in rows[0])
    lines = []
    for row in rows:
        first, *others = (to_html(cell) for cell in row.values())
        cells = "".join(f"<td>{cell}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    st.html(
        f'<div class="he-grid" tabindex="0"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


@st.fragment
def table(key: str, rows: Callable[[], Sequence[dict]], *, caption: str) -> None:
    """The table twin of a picture, in a drawer; ``rows`` is called only while it is open."""
    title = t("kit.as_table", what=caption)
    with st.expander(title, key=f"he-table-{key}", on_change="rerun") as drawer:
        if drawer.open:
            st.dataframe(list(rows()), hide_index=True, width="stretch")


@dataclass(frozen=True)
class Download:
    """One file to take away; ``data`` may be a function, called only when it is asked for."""

    label: str
    name: str
    data: bytes | str | Callable[[], bytes | str]
    mime: str


def downloads(key: str, files: Sequence[Download]) -> None:
    """A quiet row of buttons: PNG, SVG, CSV, trace."""
    with st.container(key=f"he-downloads-{key}", horizontal=True, gap="small"):
        for file in files:
            st.download_button(
                file.label,
                file.data,
                file_name=file.name,
                mime=file.mime,
                key=f"{key}-{file.name}",
                type="tertiary",
                on_click="ignore",
            )


def status_line(model_name: str, params: int, device: str) -> str:
    """The line at the foot of the sidebar: which model is drawn, its size, where it runs."""
    return t("frame.status", model=model_name, millions=f"{params / 1e6:.1f}", device=device)


def theme_colours() -> dict[str, str]:
    """The colours of the theme the visitor sees, by our names, for figures made in Python."""
    return style.colours("dark" if st.context.theme.type == "dark" else "light")
