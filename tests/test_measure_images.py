"""Image models in the results file: generated scenes, photographs with boundaries, verdicts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import CLASSES, IMAGE, TINY, written

from mhmoe import cli
from mhmoe.analysis import report, results
from mhmoe.layers import MoEConfig, WhatIf
from mhmoe.models import checkpoint, engine, metrics
from mhmoe.models.config import ModelConfig
from mhmoe.models.images import DecodedImage
from mhmoe.models.transformer import Transformer
from mhmoe.training import measure, measure_images, scenes

MIXED = MoEConfig(d_model=16, d_ff=8, experts=4, router="soft-moe", slots=2)
SOFT = ModelConfig(**IMAGE, moe=MIXED)
HEADS = replace(TINY["image-e8-h4"], classes=12)


@pytest.fixture(autouse=True)
def _quick(monkeypatch, models):
    monkeypatch.setenv("MHMOE_DEVICE", "cpu")
    sizes = dict(SCENES=24, PROBED=24, ROUTED=18, LIMITED=12, FEW=12, UNTRAINED=(0, 1))
    for name, value in sizes.items():
        monkeypatch.setattr(measure_images, name, value)
    monkeypatch.setattr(measure, "REMOVALS", 8)
    monkeypatch.setattr(report, "BOOTSTRAP", 50)
    monkeypatch.setattr(report, "SHUFFLES", 10)


@pytest.fixture
def subject():
    return lambda name: measure.subjects([name])[0]


@pytest.fixture
def pictures() -> measure_images.Pictures:
    return measure_images.drawn(TINY["image-e8"])


# ---------------------------------------------------------------------------- the scenes


def test_the_scenes_are_those_of_the_card_and_their_objects_have_attributes(pictures):
    pixels, classes = scenes.classified_validation(24)
    np.testing.assert_array_equal(pictures.pixels, pixels)
    np.testing.assert_array_equal(pictures.classes, classes)
    facts = pictures.facts(TINY["image-e8"])
    assert (facts["scenes"], facts["routed"], facts["tokens"]) == (24, 18, 18 * 16)
    assert facts["probed"] == 24
    assert pictures.part(3).facts(TINY["image-e8"])["sha256"] != facts["sha256"]
    objects = pictures.objects(32)
    items = [item for scene in pictures.scenes for item in scene.items]
    for i, item in enumerate(items):
        assert item in pictures.scenes[objects.picture[i]].items
        for name in ("shape", "texture", "colour"):
            assert objects.names[name][objects.label[name][i]] == getattr(item, name)
        x, y = item.centre
        sides = ("upper", "lower")[y >= 64], ("left", "right")[x >= 64]
        assert objects.names["position"][objects.label["position"][i]] == " ".join(sides)


def test_pictures_of_another_size_are_one_sentence():
    with pytest.raises(measure.MeasureError, match="have 128 pixels a side, but the model sees 64"):
        measure_images.drawn(replace(TINY["image-e8"], patch=16))


# ---------------------------------------------------------------------------- the runs


@pytest.mark.parametrize("config", [CLASSES, TINY["image-ffn"]], ids=["classes", "none"])
def test_quality_is_that_of_the_card(config, pictures):
    model = Transformer(config, seed=3).eval()
    found = measure_images.quality(model, pictures)
    expected = metrics.image_metrics(model, pictures.pixels)
    for key in ("relative_error", "masked_error", "baseline_error"):
        assert found[key] == pytest.approx(expected[key]), key
    low, high = found["interval"]
    assert low < found["relative_error"] < high
    if config.classes:
        right = metrics.class_metrics(model, pictures.pixels, pictures.classes)
        assert found["accuracy"] == right["class_accuracy"]
        assert found["chance"] == right["class_chance"] == 1 / 12
    else:
        assert "accuracy" not in found


def test_a_layers_trace_is_that_of_every_picture_end_to_end(pictures):
    model = Transformer(TINY["image-e8-h4"], seed=3).eval()
    layers = measure_images.routed(model, pictures.pixels)
    loaded = engine.Loaded("", model, {"sha256": ""})
    shown = DecodedImage(pictures.pixels[5], (0, 0, 128, 128), (128, 128), "PNG", ())
    (alone,) = engine.trace_image(loaded, shown)
    for layer, one in zip(layers, alone.layers, strict=True):
        np.testing.assert_array_equal(layer.expert[5 * 64 : 6 * 64], one.expert)


def test_removing_an_expert_is_what_the_layer_does_without_it(pictures):
    model = Transformer(CLASSES, seed=3).eval()
    found = measure_images.removal(model, pictures)
    part = pictures.part(12)
    assert found["scenes"] == 12
    plain, baseline = metrics.picture_errors(model, part.pixels)
    off, _ = metrics.picture_errors(
        model, part.pixels, what_if=WhatIf(experts_off=(3,)), only_block=1
    )
    row = found["layers"][1][3]
    assert row["rise"] == pytest.approx((off - plain).sum() / baseline.sum())
    assert row["interval"][0] <= row["rise"] <= row["interval"][1]
    assert -1 <= row["accuracy_lost"] <= 1


def test_an_expert_that_computes_nothing_is_not_missed(pictures):
    model = Transformer(CLASSES, seed=3).eval()
    with torch.no_grad():
        model.moe_layers[0][1].experts.w_in.zero_()
    silent, others = measure_images.removal(model, pictures)["layers"]
    assert [row["rise"] for row in silent] == pytest.approx([0] * 4, abs=1e-6)
    assert [row["accuracy_lost"] for row in silent] == [0] * 4
    assert all(abs(row["rise"]) > 1e-6 for row in others)


def test_slots_of_equal_scores_take_all_patches_and_of_sure_ones_a_few(pictures):
    model = Transformer(SOFT, seed=0).eval()
    start, _ = measure_images.slots(model, pictures)
    assert start["value"] == pytest.approx(start["untrained"][0])  # seed 0 is the first of them
    assert start["untrained"][0] != start["untrained"][1]
    assert len(start["slots"]) == 8
    router = model.moe_layers[0][1].router
    with torch.no_grad():
        router.weight.mul_(1000)
    sure, _ = measure_images.slots(model, pictures)
    assert 1 <= sure["value"] < 4 < start["value"] < sure["uniform"] == 16
    with torch.no_grad():
        router.weight.zero_()
    even, _ = measure_images.slots(model, pictures)
    assert even["value"] == pytest.approx(16)


def test_capacity_stands_beside_what_has_no_limit(pictures):
    model = Transformer(CLASSES, seed=3).eval()
    found = measure_images.capacity(model, pictures.part(12))
    *_, free = found["rows"]
    whole = metrics.class_metrics(model, pictures.pixels[:12], pictures.classes[:12])
    assert free["accuracy"] == whole["class_accuracy"]
    assert len(found["rows"]) == 3 * 8 + 1
    assert set(found["gain"]) == {"position", "random"}


# ---------------------------------------------------------------------------- entries


def test_an_entry_is_the_same_twice_and_its_numbers_are_numbers(subject, pictures):
    first, second = (measure_images.measure(subject("image-e8-h4"), pictures) for _ in range(2))
    text = json.dumps(results.rounded(first), allow_nan=False)
    assert text == json.dumps(results.rounded(second))
    assert first["command"] == "python -m mhmoe measure image-e8-h4"
    for name in ("balance", "diversity", "coactivation", "attributes", "complexity"):
        assert len(first[name]) == 2, name
    assert "capacity" not in first  # a model without classes


def test_what_a_model_does_not_have_is_not_in_its_entry(subject, pictures):
    plain = measure_images.measure(subject("image-ffn"), pictures)
    assert "balance" not in plain
    assert "removal" not in plain
    sparse = measure_images.measure(subject("image-e8"), pictures)
    assert "diversity" not in sparse
    assert "complexity" not in sparse
    assert "heads" not in sparse["attributes"][0]
    checkpoint.save(Transformer(SOFT, seed=3), "image-e8", {})
    soft = measure_images.measure(subject("image-e8"), pictures)
    assert "balance" not in soft
    assert len(soft["slots"]) == len(soft["removal"]["layers"]) == 2
    json.dumps(results.rounded(soft), allow_nan=False)
    for every in (plain, sparse, soft):
        assert list(every["probes"]) == ["shape", "texture", "colour", "position"]
        for row in every["probes"].values():
            assert len(row["picture_correct"]) == 12


def test_a_run_is_measured_with_its_snapshots_seeds_and_findings(tmp_path, pictures):
    for seed in (1, 2):
        written(tmp_path, "image-tiny", HEADS, seed)
    first, second = measure.subjects([], tmp_path)
    assert [s.name for s in first.seeds] == [second.name] == ["image-tiny-2"]
    entry = measure_images.measure(first, pictures)
    assert entry["command"] == "python -m mhmoe measure image-tiny-1 --runs RUNS"
    assert entry["over_time"]["tokens"] == 12 * 16
    assert len(entry["over_time"]["texture"]) == 2
    (alike,) = entry["other_seeds"]["runs"].values()
    assert all(-1 <= row["value"] < 0.9 for row in alike)
    rows = results.merged({"models": {}}, {first.name: entry})["findings"]
    assert {row["key"] for row in rows} >= {
        *("distinct-experts", "coactivation", "saturation"),
        *("heads-attributes-exchanged", "heads-attributes-untrained"),
        *("diversity-texture-shift", "diversity-texture-picture", "diversity-texture-untrained"),
        "diversity-texture-grows",
        *("priority-position-accuracy", "priority-position-error"),
        *("priority-random-accuracy", "priority-random-error"),
    }
    for row in rows:
        assert row["verdict"] in ("reproduced", "not reproduced")
        assert row["tokens"] == 18 * 16
        assert row["command"] == [entry["command"]]


# ---------------------------------------------------------------------------- photographs


@pytest.fixture
def photos(tmp_path):
    """Two photographs of 200 x 128 whose boundaries lie in the square's second patch of the first
    row, half of it, and of the second photograph in a margin that is cut off."""
    folder = tmp_path / "photos"
    (folder / "val").mkdir(parents=True)
    (folder / "val_boundaries").mkdir()
    rng = np.random.default_rng(0)
    for name, column in (("a", 36 + 32), ("b", 0)):
        pixels = rng.integers(0, 256, (128, 200, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "val" / f"{name}.jpg")
        marked = np.zeros((128, 200), np.uint8)
        marked[:32, column : column + 16] = 255
        Image.fromarray(marked).save(folder / "val_boundaries" / f"{name}.png")
    return folder


def test_boundaries_are_cut_as_their_photographs(photos):
    found = measure_images.photographs(photos, TINY["image-e8-h4"])
    assert found.pixels.shape == (2, 128, 128, 3)
    assert found.boundary[0].tolist() == pytest.approx([0, 0.5] + [0] * 14, abs=0.01)
    assert not found.boundary[1].any()


def test_boundaries_of_another_size_are_one_sentence(photos):
    Image.new("L", (128, 200)).save(photos / "val_boundaries" / "b.png")
    with pytest.raises(measure.MeasureError, match=r"b.png has 128 x 200 .* photograph 200 x 128"):
        measure_images.photographs(photos, TINY["image-e8-h4"])


def test_photographs_add_boundaries_and_findings(photos, tmp_path, capsys):
    path = tmp_path / "r.json"
    asked = ["measure", "image-e8-h4", "image-e8", "--boundaries", photos, "--out", path]
    assert cli.main([str(part) for part in asked]) == 0
    content = results.load(path)
    entry = content["models"]["image-e8-h4"]
    assert entry["command"].endswith("measure image-e8-h4 --boundaries PHOTOS")
    assert entry["photographs"]["photographs"] == 2
    assert "photographs" not in content["models"]["image-e8"]
    keys = {row["key"] for row in content["findings"]}
    assert "diversity-boundaries-picture" in keys
    assert "mhmoe-smoe-parameters-probe-texture" in keys  # both were asked about the same objects
    (photos / "val" / "a.jpg").unlink()
    assert cli.main([str(part) for part in asked]) == 1
    assert "a.png and its photograph cannot be read" in capsys.readouterr().err
    with pytest.raises(measure.MeasureError, match="has no PART_boundaries/NAME"):
        measure_images.photographs(tmp_path, TINY["image-e8-h4"])


# ---------------------------------------------------------------------------- the command


def test_text_is_needed_for_text_models_alone(tmp_path, capsys):
    path = tmp_path / "r.json"
    assert cli.main(["measure", "image-ffn", "text-e8", "--out", str(path)]) == 2
    assert "text-e8 is a text model: name the folder" in capsys.readouterr().err
    assert not path.exists()
    assert cli.main(["measure", "image-ffn", "--out", str(path)]) == 0
    assert "24 generated scenes" in capsys.readouterr().out
    before = path.read_bytes()
    assert cli.main(["measure", "image-ffn", "--out", str(path)]) == 0
    assert path.read_bytes() == before
