"""Floor of the controls: the pictures of the Start page, recorded, under the same three controls.

The controls have the keys of the app's own, so one driver moves both. Nothing is computed: the
recorded data are looked up and sent.
"""

import replay
import streamlit as st

record = replay.record()
HEADS = (1, 2, 4, 8)


def use(sample: str) -> None:
    st.session_state["sample"] = sample


text = st.text_input("sentence", next(iter(record["sentences"])), key="sentence")
for name in record["samples"]:
    st.button(name, key=f"sample-{name}", on_click=use, args=(name,))
heads = st.select_slider("heads", HEADS, value=4, key="heads")
sample = st.session_state.get("sample", next(iter(record["samples"])))
replay.draw(record["sentences"][text][str(heads)])
replay.draw(record["samples"][sample][str(heads)])
