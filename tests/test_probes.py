"""Linear probes: what is planted is found, what is not there is chance, and by heart is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import TINY

from mhmoe.analysis import report
from mhmoe.models.transformer import Transformer
from mhmoe.training import measure, measure_text, probes, questions


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(report, "BOOTSTRAP", 50)


def task(label: np.ndarray, windows: np.ndarray | None = None) -> probes.Task:
    """Two languages by turns, two windows of which are taught."""
    N, T = label.shape
    windows = np.arange(N * T).reshape(N, T) % 300 if windows is None else windows
    return probes.Task(windows, label, np.arange(N) % 2)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_the_first_half_of_each_language_is_taught():
    asked = probes.Task(
        np.zeros((7, 2), int), np.zeros((7, 2), int), np.array([0, 0, 1, 0, 1, 1, 1])
    )
    assert asked.taught.tolist() == [True, False, True, False, True, False, False]


def test_two_classes_by_hand():
    """At 0 (three times class 0, once class 1) and at 1 (once class 0, three times class 1) the
    likeliest logistic curve has odds 1/3 and 3."""
    x = torch.tensor([0.0] * 4 + [1.0] * 4)[:, None]
    label = torch.tensor([0, 0, 0, 1, 0, 1, 1, 1])
    weight = probes.fitted(x, label)
    odds = torch.tensor([[0.0, 1], [1, 1]]) @ (weight[:, 1] - weight[:, 0])
    assert odds.exp().tolist() == pytest.approx([1 / 3, 3], rel=0.02)  # but for the decay


def test_a_probe_is_the_same_for_vectors_in_other_units():
    x, label = torch.from_numpy(random(200, 3)), torch.arange(200) % 4
    first = torch.cat([x, torch.ones(200, 1)], 1) @ probes.fitted(x, label)
    moved = 50 * x - 7
    second = torch.cat([moved, torch.ones(200, 1)], 1) @ probes.fitted(moved, label)
    assert torch.allclose(first, second, atol=1e-2)


def share(x: np.ndarray, label: np.ndarray) -> float:
    correct, count = probes.right(torch.from_numpy(x), label, task(label))
    assert (count == (label[task(label).taught == 0] >= 0).sum(1)).all()
    return correct.sum() / count.sum()


def test_what_is_linear_is_found_and_what_is_not_there_is_chance():
    label = np.random.default_rng(1).integers(0, 3, (12, 40))
    planted = random(12, 40, 8) + 6 * np.eye(3, 8, dtype=np.float32)[label]
    assert share(planted, label) > 0.98
    # 240 answers by chance: a third of them is 80, with a deviation of 7.3
    assert share(random(12, 40, 8), label) == pytest.approx(1 / 3, abs=4 * 7.3 / 240)


def test_what_is_unlabelled_is_neither_taught_nor_asked():
    label = np.random.default_rng(1).integers(0, 3, (12, 40))
    x = 6 * np.eye(3, 8, dtype=np.float32)[label]
    hidden = np.random.default_rng(2).random(label.shape) < 0.5
    x[hidden] = 100 * random(int(hidden.sum()), 8)
    label[hidden] = -1
    assert share(x, label) == 1


def test_control_labels_belong_to_token_ids_and_are_as_frequent():
    rng = np.random.default_rng(4)
    label = rng.choice([0, 1, 1, 1, -1], (10, 200))
    asked = task(label, rng.integers(0, 300, (10, 200)))
    control = asked.control()
    assert ((control < 0) == (label < 0)).all()
    known = label >= 0
    for token in (3, 77, 299):
        assert len(set(control[known & (asked.windows == token)].tolist())) == 1
    assert (control[known] == 1).mean() == pytest.approx(0.75, abs=0.1)
    assert (control == asked.control()).all()


def test_features_are_what_the_output_is_read_from():
    model = Transformer(TINY["text-e8-h4"], 5).eval()
    windows = np.random.default_rng(0).integers(0, 320, (20, 16))
    x = probes.features(model, windows)
    with torch.no_grad():
        expected = model(torch.from_numpy(windows)).output
        found = model.norm(x) @ model.embed.weight.T
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["text-ffn", "text-e8"])
def test_the_stream_is_kept_only_when_asked_for(name):
    model = Transformer(TINY[name], 5).eval()
    ids = torch.zeros(1, 4, dtype=torch.long)
    with torch.no_grad():
        assert model(ids).stream == []
        first, *_, last = stream = model(ids, with_vectors=True).stream
        assert torch.equal(first, model.embed(ids) + model.position[:4])
        assert len(stream) == model.config.blocks + 1
        assert not torch.equal(first, last)


@pytest.mark.parametrize("name", ["text-e8", "text-e8-h4"])
def test_router_inputs_are_what_the_router_scores(name):
    model = Transformer(TINY[name], 5).eval()
    windows = np.random.default_rng(0).integers(0, 320, (20, 16))
    layers = measure_text.routed(model, windows)
    inputs = probes.router_inputs(model, windows)
    for (_, layer), (x, first), trace in zip(model.moe_layers, inputs, layers, strict=True):
        with torch.no_grad():
            scores = layer.router(torch.from_numpy(x)).flatten(0, 1)
        assert np.allclose(scores.numpy(), trace.logits, atol=1e-5)
        assert (first.ravel() == trace.expert[:, 0]).all()


def test_an_untrained_model_has_not_moved_from_its_start():
    model = Transformer(TINY["text-e8-h4"], 5).eval()
    windows = np.random.default_rng(0).integers(0, 320, (20, 16))
    group = np.zeros(20, int)
    for layer in probes.collapse(model, 5, windows, group):
        assert layer["value"] == layer["untrained"]["value"]
        assert layer["interval"] == layer["untrained"]["interval"]
    for layer in probes.collapse(model, 6, windows, group):
        assert layer["value"] != layer["untrained"]["value"]


def test_an_entry_tells_probe_control_floor_and_majority(models, text_dir):
    (subject,) = measure.subjects(["text-ffn"])
    text = questions.held_out(text_dir, subject.config)
    model = subject.model()
    found = probes.of(model, 3, text)
    assert set(found) == {"language"}
    row = found["language"]
    assert row["majority"] == pytest.approx(1 / 6)
    # the tests' models are untrained and of this seed, so their floor is themselves
    assert row["accuracy"]["value"] == pytest.approx(row["untrained"]["value"], abs=0.02)
    assert probes.of(model, 4, text)["language"]["untrained"] != row["untrained"]
    assert row["selectivity"] == row["accuracy"]["value"] - row["control"]["value"]
    assert row["taught"] + row["tokens"] == text.windows.size
    assert row["window_tokens"] == [16] * (len(text.windows) // 2)
    assert sum(row["window_correct"]) / row["tokens"] == row["accuracy"]["value"]
    low, high = row["accuracy"]["interval"]
    assert low < row["accuracy"]["value"] < high
    assert row["accuracy"]["value"] > 2 / 6  # six alphabets and many numbers, of two sentences each


def test_one_window_of_each_language_teaches_nothing(models, text_dir, monkeypatch):
    monkeypatch.setattr(questions, "WINDOWS", 1)
    (subject,) = measure.subjects(["text-e8"])
    assert (
        measure_text.measure(subject, questions.held_out(text_dir, subject.config))["probes"] == {}
    )
