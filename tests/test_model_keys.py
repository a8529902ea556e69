"""Which model the sliders load: a shipped one, a larger one with experts off, or an untrained."""

from __future__ import annotations

import pytest

from mhmoe.models import checkpoint
from mhmoe.models.transformer import Transformer
from mhmoe.ui import runs
from mhmoe.ui.runs import ModelKey

SHIPPED = (
    *("text-e4", "text-e8", "text-e16", "text-e8-h4", "image-e8-h4"),
    *("text-ffn", "text-e8-xmoe"),  # which no slider loads
)


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(checkpoint, "names", lambda: sorted(SHIPPED))


@pytest.mark.parametrize(
    ("key", "state", "loaded"),
    [
        (ModelKey("text"), "trained", "text-e8-h4"),
        (ModelKey("text", heads=1), "trained", "text-e8"),
        (ModelKey("text", 1, 16), "trained", "text-e16"),
        (ModelKey("text", 1, 3), "masked", "text-e4"),  # the smallest that has as many
        (ModelKey("text", 1, 5), "masked", "text-e8"),
        (ModelKey("text", 4, 3), "masked", "text-e8-h4"),
        (ModelKey("text", 4, 16), "untrained", None),
        (ModelKey("text", 1, 32), "untrained", None),
        (ModelKey("image"), "trained", "image-e8-h4"),
        (ModelKey("image", heads=1), "untrained", None),
    ],
)
def test_a_key_names_what_is_loaded(known, key, state, loaded):
    assert key.state == state
    assert (key.whole and key.whole.name) == loaded


def test_masked_experts_are_the_last_of_the_model_that_is_loaded(known):
    assert ModelKey("text", 1, 3).what_if((None,)).experts_off == (3,)
    assert ModelKey("text", 1, 5).what_if((None,)).experts_off == (5, 6, 7)
    assert ModelKey("text", 1, 8).what_if((None,)).experts_off == ()
    assert ModelKey("text", 4, 1).what_if((None,)).top_k == 1


def test_stops_with_trained_models(known):
    assert runs.trained_experts("text", 1) == [4, 8, 16]
    assert runs.trained_heads("text") == [1, 4]
    assert runs.trained_heads("image") == [4]


def test_every_stop_of_the_sliders_builds_a_model_of_its_shape():
    """With the shipped weights: no setting fails, and each has the heads it says, at the
    parameters of plain SMoE with as many experts."""
    for heads in runs.HEADS:
        for experts in (1, 3, 8, 16):
            key = ModelKey("image", heads, experts)
            model = key.load("cpu").model
            assert isinstance(model, Transformer)
            moe = model.config.moe
            assert (moe.heads, moe.experts) == (heads, key.built)
            assert moe.experts - len(key.what_if((None,)).experts_off) == experts
            assert moe.parameters == pytest.approx(
                ModelKey("image", 1, moe.experts).load("cpu").model.config.moe.parameters, rel=0.03
            )


@pytest.mark.parametrize(
    ("name", "shown"), [("text-e8-h4", "MH-MoE"), ("text-e8", "SMoE"), ("text-ffn", "Dense")]
)
def test_names_for_people(name, shown):
    assert runs.model_facts(name) == (shown, checkpoint.card(name)["params_total"])


def test_a_model_of_an_old_link_is_none():
    assert runs.model_facts("text-mhmoe") is None
