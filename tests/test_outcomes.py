"""Outcomes of the capacity factor: the shown one first, the others when the browser asks."""

import base64

import numpy as np
import pytest
import streamlit as st

from mhmoe.models import engine
from mhmoe.ui import runs
from mhmoe.ui.explorer import Pick, Row, payload
from mhmoe.ui.runs import ModelKey

TEXT = "The bank lent us money by the river"
KEY = ModelKey("text", 4)
LABELS = ("0.5", "1", "∞")
FACTORS = (0.5, 1.0, None)


@pytest.fixture(autouse=True)
def _no_cache(models):
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


def test_only_what_is_not_known_is_computed(monkeypatch):
    asked = []

    def counted(loaded, text, what_if, *, vectors):
        asked.append(what_if.capacity_factors)
        return trace_text(loaded, text, what_if, vectors=vectors)

    trace_text = engine.trace_text
    monkeypatch.setattr(engine, "trace_text", counted)
    assert not runs.text_traces(KEY, TEXT)
    shown = runs.text_traces(KEY, TEXT, None)[None]
    assert asked == [(None,)]
    assert runs.text_traces(KEY, TEXT).keys() == {None}
    every = runs.text_traces(KEY, TEXT, *FACTORS)
    assert asked == [(None,), (0.5, 1.0)]
    assert every[None] is shown
    runs.text_traces(KEY, TEXT, *FACTORS)
    assert len(asked) == 2


def test_the_order_of_asking_changes_no_number():
    apart = [runs.text_traces(KEY, TEXT, factor)[factor] for factor in FACTORS]
    st.cache_resource.clear()
    found = runs.text_traces(KEY, TEXT, *FACTORS)
    together = [found[factor] for factor in FACTORS]
    for one, other in zip(apart, together, strict=True):
        for a, b in zip(one.layers, other.layers, strict=True):
            assert a.capacity == b.capacity
            np.testing.assert_array_equal(a.expert, b.expert)
            np.testing.assert_array_equal(a.kept, b.kept)
            np.testing.assert_allclose(a.gate, b.gate, atol=1e-6)
    assert together[0].layers[0].dropped.sum() > 0
    assert together[2].layers[0].dropped.sum() == 0


def test_what_is_missing_is_sent_as_missing():
    found = runs.text_traces(KEY, TEXT, *FACTORS)
    whole = tuple(found[factor] for factor in FACTORS)
    part = (None, None, whole[2])
    full, first = (
        payload((Row("MH-MoE", traces),), LABELS, Pick(outcome=2)) for traces in (whole, part)
    )
    assert [o["ready"] for o in full["outcomes"]] == [True, True, True]
    assert [o["ready"] for o in first["outcomes"]] == [False, False, True]
    assert first["stage"]["outcomes"] == [None, None, full["stage"]["outcomes"][2]]
    assert first["models"][0]["readings"][:2] == [None, None]
    sizes = [len(base64.b64decode(data["models"][0]["choice"])) for data in (full, first)]
    assert sizes[0] == 3 * sizes[1]
    changes = {"outcomes", "models", "stage"}
    assert {k: v for k, v in first.items() if k not in changes} == {
        k: v for k, v in full.items() if k not in changes
    }
