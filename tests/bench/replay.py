"""Draws recorded elements again, byte for byte; the floor pages share it."""

import json
import os
from pathlib import Path

import plotly.graph_objects as go
import streamlit as st

#: Names the file that record.py wrote.
RECORD = "MHMOE_BENCH_RECORD"


@st.cache_resource(show_spinner=False)
def record() -> dict:
    return json.loads(Path(os.environ[RECORD]).read_text("utf-8"))


@st.cache_resource(show_spinner=False)
def _component(name: str):
    source = record()["components"][name]
    return st.components.v2.component(name, html=source["html"], css=source["css"], js=source["js"])


def draw(item: dict) -> None:
    """One element as record.py describes it."""
    if item["type"] == "html":
        st.html(item["body"])
    elif item["type"] == "component":
        _component(item["name"])(key=item["key"], data=item["data"], on_pick_change=lambda: None)
    else:
        st.plotly_chart(
            go.Figure(item["spec"]),
            key=item["key"],
            theme=item["theme"] or None,
            config=item["config"],
        )
