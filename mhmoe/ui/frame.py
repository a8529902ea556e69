"""The shell around every page: name, navigation, model and device, language, link."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import streamlit as st

from mhmoe.models.checkpoint import CheckpointError
from mhmoe.ui import components, language, session, state, style
from mhmoe.ui.chapters import CHAPTERS, Chapter, written
from mhmoe.ui.language import to_html
from mhmoe.ui.session import t

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator
    from streamlit.navigation.page import Page

PRODUCT = "Heads & Experts"
HOME = CHAPTERS[0].slug
SIDEBAR_WIDTH = 252
_FRAMED, _HEALED = "_framed", "_healed"


@dataclass(frozen=True)
class Frame:
    """An open frame: the page to run and the places in the sidebar that are filled after it."""

    page: Page
    slug: str
    status: DeltaGenerator
    link: DeltaGenerator


def title(chapter: Chapter) -> str:
    """A chapter's title with its number, as the navigation shows it."""
    name = t(f"chapters.{chapter.slug}")
    return f"{chapter.number} {name}" if chapter.number else name


def pages() -> dict[str, Page]:
    """slug -> registered page, in order. Paths are ASCII and the same in every language."""
    return {
        chapter.slug: st.Page(
            chapter.file,
            title=title(chapter),
            url_path=chapter.slug,
            default=chapter.slug == HOME,
        )
        for chapter in written()
    }


def open_frame() -> Frame:
    """Draw the frame and decide which page runs in it. Called once a run, by app.py."""
    session.choose_language()
    st.set_page_config(
        page_icon=str(language.ASSETS / "favicon.png"),
        layout="wide",
        initial_sidebar_state=SIDEBAR_WIDTH,
        # With an entry of its own, the menu also offers the choice of theme.
        menu_items={"About": t("frame.about", product=PRODUCT)},
    )
    style.inject()
    known = pages()
    page = st.navigation(list(known.values()), position="hidden")
    slug = next(slug for slug, candidate in known.items() if candidate is page)
    with st.sidebar:
        _brand()
        with st.container(key="he-nav", gap=None):
            for entry in known.values():
                st.page_link(entry, width="stretch")
        with st.container(key="he-foot", gap=None):
            status = st.container()
            _language_switch()
            link = st.container()
    session.enter(slug)
    st.session_state[_FRAMED] = True
    return Frame(page, slug, status, link)


def close_frame(frame: Frame, status: str) -> None:
    """Fill in what depends on the page: the status line, the link, the document's language."""
    path = "" if frame.slug == HOME else frame.slug
    view = session.view()
    with frame.status:
        st.html(f'<p class="he-status">{to_html(status)}</p>')
    with frame.link:
        components.copy_link(
            path=path,
            query=state.to_query(view, with_text=True),
            text_left_out=bool(view.text) and not state.text_fits(view.text),
        )
    with st.container(key="he-page"):
        components.page_head(
            lang=session.lang(),
            slug=frame.slug,
            home=frame.slug == HOME,
            query=session.address_query(),
        )
    _spare_the_collector()


@cache
def _spare_the_collector() -> None:
    """Once in a process, after its first page: what is imported and loaded by now is no garbage.

    Streamlit collects after every run while all threads wait, and would look through torch again
    each time (90 ms, most of a click).
    """
    gc.freeze()


def ensure(slug: str) -> None:
    """Called by every page first: bring the page into the frame if it was run without it.

    While no visitor of a fresh server has opened app.py yet, Streamlit runs a file of pages/
    alone for a deep link. Registering the navigation ends that for good; then the same page is
    opened again, inside the frame, with its link intact.
    """
    if st.session_state.pop(_FRAMED, False):
        return
    # Once only: a page file started on its own has no frame to go to, and must still run.
    if not st.session_state.get(_HEALED):
        st.session_state[_HEALED] = True
        known = pages()
        st.navigation(list(known.values()), position="hidden")
        st.switch_page(known[slug], query_params=st.query_params.to_dict())
    style.inject()
    session.enter(slug)


def _brand() -> None:
    st.html(
        f'<div class="he-brand"><b>{to_html(PRODUCT)}</b><span>{t("frame.subtitle")}</span></div>'
    )


def _language_switch() -> None:
    st.segmented_control(
        "Language · 语言",
        list(language.LANGUAGES),
        format_func=language.LANGUAGES.get,
        required=True,
        key=session.LANG,
        label_visibility="collapsed",
    )


def run_page(frame: Frame) -> None:
    """The page; a model that cannot be loaded becomes a sentence, not a traceback."""
    try:
        frame.page.run()
    except CheckpointError as error:
        problem = t(f"problem.model.{error.code}", **error.numbers)
        st.html(f'<p class="he-notice he-notice-error" role="alert">{to_html(problem)}</p>')


def status_line() -> str:
    """The line at the foot of the sidebar: the model in view, its size, where it runs."""
    from mhmoe.ui import runs  # torch is imported by the page, not by the frame around it

    if runs.fell_back():
        return t("problem.device")
    known = runs.model_facts(session.view().model or runs.pair("text")[0])
    if known is None:
        return t("frame.device", device=runs.device_name())
    name, params = known
    return t("frame.status", model=name, millions=f"{params / 1e6:.1f}", device=runs.device_name())
