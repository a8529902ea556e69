"""This visitor's language and view. The only module that touches ``st.session_state`` for them."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from mhmoe.ui import language, state
from mhmoe.ui.language import Html
from mhmoe.ui.state import Ignored, ViewState

#: Key of the language switch.
LANG = "lang"
_VIEW, _IGNORED, _LINKED = "_view", "_ignored", "_linked_text"


def choose_language() -> None:
    """Set the language switch when a session starts: the link's language, else the browser's.

    Afterwards only the switch counts, so that Back never undoes it. (Streamlit's own binding of
    a widget to the URL would put the shown words, not the code, into the link.)
    """
    if LANG not in st.session_state:
        st.session_state[LANG] = lang()


def lang() -> str:
    """The visitor's language: the switch, else the link, else the browser's locale."""
    if (switched := st.session_state.get(LANG)) in language.LANGUAGES:
        return switched  # asked hundreds of times a run, so the link is not looked at in vain
    linked = st.query_params.get("lang")
    return linked if linked in language.LANGUAGES else language.from_locale(st.context.locale)


def t(key: str, **values: object) -> str:
    """The plain text ``key`` in the visitor's language."""
    return language.lookup(lang(), key, **values)


def rich(key: str, **values: object) -> Html:
    """The text ``key`` as safe HTML, with glossary words; values are escaped."""
    return language.rich(lang(), key, **values)


def term(term_id: str, shown: str | None = None) -> Html:
    """A glossary word with its definition on hover and focus."""
    return language.term(lang(), term_id, shown)


def enter(page: str) -> None:
    """Begin a run of ``page``: take the view from the link where there is one.

    The link is read when a session starts and when the visitor arrives at another page with
    parameters (a link inside the app, Back, Forward). On any other run the session is ahead of
    the address bar, and reading it would undo the visitor's latest step.
    """
    old = st.session_state.get(_VIEW)
    asked = {name: value for name, value in st.query_params.items() if name != "lang"}
    if old is None or (old.page != page and asked):
        new, ignored = state.read_query(st.query_params.to_dict(), page=page, lang=lang())
        st.session_state[_IGNORED] = ignored
        if new.text is not None:
            st.session_state[_LINKED] = new.text
        elif old is not None:
            new = replace(new, text=old.text)
        st.session_state[_VIEW] = new
    elif old.page != page:
        st.session_state[_IGNORED] = ()
    st.session_state[_VIEW] = replace(st.session_state[_VIEW], page=page, lang=lang())


def view() -> ViewState:
    """The current view; the plain default when no page was entered yet."""
    return st.session_state.get(_VIEW, ViewState(lang=lang()))


def remember(**changes: object) -> ViewState:
    """Change the view (``remember(layer=2)``); the address bar and the link follow."""
    st.session_state[_VIEW] = replace(view(), **changes)
    return st.session_state[_VIEW]


def ignored() -> tuple[Ignored, ...]:
    """What of the link that led here could not be used."""
    return st.session_state.get(_IGNORED, ())


def fit(**bounds: tuple[float, float]) -> tuple[ViewState, tuple[Ignored, ...]]:
    """Move the view inside what the loaded model and text allow; say what had to move."""
    fitted, moved = state.fit(view(), **bounds)
    st.session_state[_VIEW] = fitted
    return fitted, moved


def address_query() -> str:
    """The query string for the address bar: never a text that the link did not bring itself."""
    came_with_link = view().text is not None and view().text == st.session_state.get(_LINKED)
    return state.to_query(view(), with_text=came_with_link)
