"""Linear probes: what is planted is found, what is not there is chance, and by heart is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import IMAGE, SPARSE, TINY

from mhmoe.analysis import report
from mhmoe.models.config import ModelConfig
from mhmoe.models.patches import to_patches
from mhmoe.models.transformer import Transformer
from mhmoe.training import measure, measure_images, measure_text, probes, questions, scenes


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(report, "BOOTSTRAP", 50)


def task(label: np.ndarray) -> probes.Task:
    """Two languages by turns, half of whose windows are taught."""
    return probes.Task(label, np.arange(len(label)) % 2)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_the_first_half_of_each_language_is_taught():
    asked = probes.Task(np.zeros((7, 2), int), np.array([0, 0, 1, 0, 1, 1, 1]))
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
    correct, count = probes.right(torch.from_numpy(x), task(label))
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
    windows = rng.integers(0, 300, (10, 200))
    control = task(label).control(windows).label
    assert ((control < 0) == (label < 0)).all()
    known = label >= 0
    for token in (3, 77, 299):
        assert len(set(control[known & (windows == token)].tolist())) == 1
    assert (control[known] == 1).mean() == pytest.approx(0.75, abs=0.1)
    assert (control == task(label).control(windows).label).all()


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


# ---------------------------------------------------------------------------- pictures

#: 8 x 8 patches of 16 x 16 pixels, so that small objects are in view, too.
FINE = ModelConfig(**IMAGE | dict(vocabulary=16 * 16 * 3, context=64, patch=16), moe=SPARSE)
#: Colours in which textures are told at once.
PAINT = np.array([[255 * (i >> bit & 1) for bit in range(3)] for i in range(1, 8)], np.uint8)


@pytest.fixture(scope="module")
def pictures() -> measure_images.Pictures:
    return measure_images.Pictures(tuple(scenes.classified_scenes(96)))


def painted(pictures: measure_images.Pictures) -> measure_images.Pictures:
    """Objects are of one colour each, that of their texture, before black."""

    def paint(scene: scenes.Scene) -> scenes.Scene:
        number = [scenes.TEXTURES.index(item.texture) for item in scene.items]
        each = np.concatenate([PAINT[number], np.zeros((1, 3), np.uint8)])
        return replace(scene, pixels=each[scene.owner])  # -1 is the last: black

    return measure_images.Pictures(tuple(map(paint, pictures.scenes)))


def test_an_object_is_the_mean_of_its_patches_in_whole_pictures(pictures):
    model = Transformer(FINE, 5).eval()
    few = pictures.part(20)  # more than one batch
    objects = few.objects(16)
    index, share = objects.in_pictures()
    x = probes.object_features(model, few.pixels, torch.from_numpy(share).float())
    assert x.shape == (*index.shape, 16)
    for n in (3, 17):
        patches = to_patches(few.pixels[n : n + 1], 16)
        with torch.no_grad():
            (stream,) = model(patches, with_vectors=True).stream[-1]
        for found, i in zip(x[n][index[n] >= 0], index[n][index[n] >= 0], strict=True):
            own = torch.from_numpy(objects.owner[n] == i)
            assert torch.allclose(found, stream[own].mean(0), atol=1e-5)


def test_classes_go_round_in_both_halves(pictures):
    assert measure_images.PROBED % (2 * len(scenes.CLASSES)) == 0
    part = pictures.part(24)
    taught = probes.Task(np.zeros((24, 1), int), part.group).taught
    for half in (taught, ~taught):
        assert sorted(part.classes[half]) == list(range(12))


def test_what_objects_show_is_found_and_what_they_do_not_is_chance(pictures):
    found = probes.of_pictures(Transformer(FINE, 5).eval(), 6, painted(pictures))
    assert list(found) == ["shape", "texture", "colour", "position"]
    for row in found.values():
        low, high = row["accuracy"]["interval"]
        assert low <= row["accuracy"]["value"] <= high
    assert found["texture"]["pixels"]["value"] > 0.95
    assert found["texture"]["accuracy"]["value"] > 0.9
    # 130 objects, whose mean colour tells nothing of nine shapes: 1/9, with a deviation of 0.028
    assert found["shape"]["pixels"]["value"] == pytest.approx(1 / 9, abs=4 * 0.028)
    assert found["shape"]["accuracy"]["value"] < found["texture"]["accuracy"]["value"] / 2
    # pixels do not tell where they are; the model is given it
    assert found["position"]["accuracy"]["value"] > found["position"]["pixels"]["value"] + 0.2


def test_labels_dealt_out_anew_are_chance(pictures, monkeypatch):
    """The same objects, each with the texture of another."""
    shown = painted(pictures)
    objects = shown.objects(16)
    dealt = np.random.default_rng(0).permutation(objects.label["texture"])
    other = replace(objects, label={"texture": dealt})
    monkeypatch.setattr(measure_images.Pictures, "objects", lambda self, patch: other)
    row = probes.of_pictures(Transformer(FINE, 5).eval(), 6, shown)["texture"]
    for kind in ("accuracy", "untrained", "pixels"):
        # 130 objects: a seventh, with a deviation of 0.031
        assert row[kind]["value"] == pytest.approx(1 / 7, abs=4 * 0.031), kind


def test_objects_are_counted_in_the_pictures_that_were_not_taught(pictures):
    part = pictures.part(48)
    model = Transformer(FINE, 5).eval()
    found = probes.of_pictures(model, 5, part)
    seen = [len(set(own[own >= 0])) for own in part.objects(16).owner]
    for row in found.values():
        assert row["picture_objects"] == seen[24:]
        assert (row["taught"], row["objects"]) == (sum(seen[:24]), sum(seen[24:]))
        assert sum(row["picture_correct"]) / row["objects"] == row["accuracy"]["value"]
        assert row["untrained"] == row["accuracy"]  # it has not moved from its start
    other = probes.of_pictures(model, 6, part)
    assert other["colour"]["accuracy"] == found["colour"]["accuracy"]
    assert other["colour"]["pixels"] == found["colour"]["pixels"]
    assert any(other[name]["untrained"] != found[name]["untrained"] for name in found)


def test_the_order_of_pictures_within_a_half_is_only_that_of_its_numbers(pictures):
    model, part = Transformer(FINE, 5).eval(), painted(pictures).part(24)
    turned = measure_images.Pictures(part.scenes[:12] + part.scenes[:11:-1])
    one, other = (probes.of_pictures(model, 5, each) for each in (part, turned))
    for name, row in one.items():
        assert other[name]["picture_objects"] == row["picture_objects"][::-1]
        assert other[name]["picture_correct"] == row["picture_correct"][::-1]
        assert other[name]["majority"] == row["majority"]


def test_one_picture_teaches_nothing(pictures):
    assert probes.of_pictures(Transformer(FINE, 5).eval(), 5, pictures.part(1)) == {}
