"""Floor of the page switch: two bare pages that send what the app's two pages send.

Texts, components and charts are replayed in their order; no control, no model, no frame.
"""

from functools import partial

import replay
import streamlit as st


def page(slug: str) -> None:
    for item in replay.record()["pages"][slug]:
        replay.draw(item)


pages = [
    st.Page(partial(page, slug), title=slug, url_path=slug, default=i == 0)
    for i, slug in enumerate(replay.record()["pages"])
]
current = st.navigation(pages, position="hidden")
with st.container(key="he-nav"):
    for entry in pages:
        st.page_link(entry)
current.run()
