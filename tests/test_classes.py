"""Pictures with a class: the scenes, the model's answer, its training, its numbers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import CLASSES, TINY, Cut, cut_at

from mhmoe import cli
from mhmoe.models import checkpoint, engine, metrics
from mhmoe.models.config import ModelConfig
from mhmoe.models.transformer import Transformer
from mhmoe.training import loop, scenes, ship, tasks
from mhmoe.training.loop import Job, TrainingError
from mhmoe.training.recipe import Recipe

SMALL = dict(data="image", steps=6, batch=4, learning_rate=1e-2, seed=1, balance=0.01, warmup=2)


@pytest.fixture(autouse=True)
def _often(monkeypatch, models):
    monkeypatch.setenv("MHMOE_DEVICE", "cpu")
    monkeypatch.setattr(loop, "SAVE_EVERY", 2)
    monkeypatch.setattr(loop, "REPORT_EVERY", 2)
    monkeypatch.setattr(tasks, "VALIDATION", 4)
    monkeypatch.setattr(tasks, "CLASSIFIED", 12)
    monkeypatch.setattr(tasks, "CARD_PICTURES", 2)
    monkeypatch.setattr(tasks, "CARD_CLASSIFIED", 24)


def tiny(**changes) -> Recipe:
    return Recipe(**(dict(name="image-e8", model=CLASSES) | SMALL | changes))


# ---------------------------------------------------------------------------- scenes


def test_the_class_of_a_scene_is_the_colour_of_its_largest_object_in_view():
    found = scenes.classified_scenes(36)
    for i, scene in enumerate(found):
        in_view = Counter(scene.owner[scene.owner >= 0].tolist())
        ((largest, pixels),) = in_view.most_common(1)
        assert scene.items[largest].colour == scenes.CLASSES[i % 12]
        assert largest == len(scene.items) - 1
        assert pixels >= 4 * 64  # of four patches, at the least
    assert any(len(scene.items) > 2 for scene in found)


def test_the_validation_scenes_are_fixed_even_and_begin_alike():
    pictures, classes = scenes.classified_validation(24)
    assert np.bincount(classes).tolist() == [2] * 12
    shorter, first = scenes.classified_validation(5)
    np.testing.assert_array_equal(shorter, pictures[:5])
    np.testing.assert_array_equal(first, classes[:5])
    np.testing.assert_array_equal(scenes.classified_scenes(3)[2].pixels, pictures[2])
    with pytest.raises(ValueError, match="at least 1, not 0"):
        scenes.classified_validation(0)


def test_a_batch_has_even_classes_and_photographs_without(monkeypatch):
    black = np.zeros((1, 128, 128, 3), np.uint8)
    monkeypatch.setattr(scenes, "photo_crops", lambda *_: black)
    white = scenes.Scene(np.full((128, 128, 3), 255, np.uint8), (), black[0, :, :, 0], "flat")
    asked = []
    monkeypatch.setattr(scenes, "classified_scene", lambda _, s: asked.append(s) or white)
    drawn = []
    for step in range(100):
        pictures, classes = scenes.classified_batch(1, step, 8)
        assert [not p.any() for p in pictures] == [False, False, False, True] * 2
        assert classes[[3, 7]].tolist() == [-1, -1]
        drawn += classes[classes >= 0].tolist()
    assert asked == [scenes.CLASSES[c] for c in drawn]
    counts = np.bincount(drawn, minlength=12)  # of 600: 50 each, standard deviation 6.8
    assert abs(counts - 50).max() < 4 * 6.8
    pairs = np.array(drawn[:-1]) * 12 + drawn[1:]  # no turns: every class after every class
    assert len(set(pairs.tolist())) > 120


def test_a_batch_is_a_function_of_seed_and_step():
    pictures, classes = scenes.classified_batch(1, 5, 4)
    again, same = scenes.classified_batch(1, 5, 4)
    np.testing.assert_array_equal(pictures, again)
    np.testing.assert_array_equal(classes, same)
    held_out = {p.tobytes() for p in scenes.classified_validation(12)[0]}
    for other in (scenes.classified_batch(2, 5, 4)[0], scenes.classified_batch(1, 6, 4)[0]):
        assert all((a != b).any() for a, b in zip(pictures, other, strict=True))
        assert not held_out & {p.tobytes() for p in other}


def test_a_subject_is_large_and_near_the_middle_and_nothing_else_is_moved():
    for seed in range(12):
        plain = scenes.labelled_scene(np.random.default_rng(seed))
        found = scenes.labelled_scene(np.random.default_rng(seed), "teal")
        subject = found.items[-1]
        assert subject.colour == "teal"
        assert scenes.SUBJECT[0] <= subject.radius <= scenes.SUBJECT[1]
        assert all(0.3 * 128 <= c <= 0.7 * 128 for c in subject.centre)
        assert found.items[:-1] == plain.items[:-1]
        assert found.background == plain.background


# ---------------------------------------------------------------------------- the model


def test_a_model_without_classes_is_what_it_was():
    plain = Transformer(TINY["image-e8"], seed=3)
    assert not [name for name in plain.state_dict() if "classify" in name]
    assert plain(torch.zeros(1, 16, 3072)).classes is None
    old_card = TINY["image-e8"].to_dict()
    del old_card["classes"]  # as the cards of the first generation have it
    assert ModelConfig.from_dict(old_card) == TINY["image-e8"]
    shared = Transformer(CLASSES, seed=3).state_dict()
    for name in ("position", "embed.weight"):  # drawn or set before anything else
        assert shared[name].shape == plain.state_dict()[name].shape


def test_the_class_is_read_from_the_mean_over_the_patches():
    model = Transformer(CLASSES, seed=3).eval()
    patches = torch.randn(2, 16, 3072, generator=torch.Generator().manual_seed(0))
    seen = []
    model.norm.register_forward_hook(lambda *call: seen.append(call[-1]))
    with torch.inference_mode():
        run = model(patches)
        expected = model.classify(seen[0].mean(1))
    assert run.classes.shape == (2, 12)
    torch.testing.assert_close(run.classes, expected)


def test_accuracy_counts_what_is_right():
    model = Transformer(CLASSES, seed=3).eval()
    with torch.no_grad():  # a model that always answers 2
        model.classify.weight.zero_()
        model.classify.bias.copy_(torch.eye(12)[2])
    pictures = np.random.default_rng(0).integers(0, 256, (20, 128, 128, 3), np.uint8)
    classes = np.array([2] * 5 + [4] * 15)
    numbers = metrics.class_metrics(model, pictures, classes)
    assert numbers == {
        "class_accuracy": 0.25,
        "class_chance": 1 / 12,
        "classified": 20,
        "classified_correctly": 5,
    }


# ---------------------------------------------------------------------------- training


def test_an_interrupted_run_is_the_uninterrupted_one(tmp_path):
    whole = Job(tiny(), tmp_path / "a")
    whole.run()

    with pytest.raises(Cut):
        Job(tiny(), tmp_path / "b").run(cut_at(4))
    again = Job(tiny(), tmp_path / "b")
    assert again.resume()
    assert again.step == 4
    again.run()
    assert whole.loss_log == again.loss_log
    assert whole.validation == again.validation
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    assert {"relative_error", "class_accuracy", "class_chance"} <= set(whole.validation[-1])


def test_which_pictures_teach_what(tmp_path, monkeypatch):
    job = Job(tiny(), tmp_path)
    asked = []
    forward = job.model.forward

    def watch(patches, caption, *, masked, generator):
        asked.append(masked)
        return forward(patches, caption, masked=masked, generator=generator)

    monkeypatch.setattr(job.model, "forward", watch)
    task, run = job._loss()
    assert asked[0].sum(1).tolist() == [0, 8, 0, 8]
    task.backward()
    weight = job.model.classify.weight.grad.clone()
    job.model.zero_grad()
    half = Job(tiny(class_weight=0.5), tmp_path / "half")
    half._loss()[0].backward()
    torch.testing.assert_close(half.model.classify.weight.grad, weight / 2)
    # a photograph, the fourth, has no class: what is answered to it pulls at nothing
    for picture, pulled in ((3, False), (0, True), (1, True)):
        job.model.zero_grad()
        answer = run.classes.detach().clone().requires_grad_()
        torch.nn.functional.cross_entropy(
            answer, torch.from_numpy(scenes.classified_batch(1, 0, 4)[1]), ignore_index=-1
        ).backward()
        assert bool(answer.grad[picture].abs().sum()) == pulled
    assert weight.abs().sum() > 0


def test_a_class_that_is_shown_often_enough_is_learned(tmp_path, monkeypatch):
    """Scenes replaced by flat pictures, a colour for each class."""
    colours = np.array([(r, g, 60) for r in (0, 85, 170, 255) for g in (0, 120, 240)], np.uint8)

    def flat(classes):
        return np.tile(colours[classes][:, None, None], (1, 128, 128, 1)), classes

    def drawn(seed, step, size, rows):
        return flat(np.random.default_rng((seed, step)).integers(12, size=size)[rows])

    monkeypatch.setattr(scenes, "classified_batch", drawn)
    monkeypatch.setattr(scenes, "classified_validation", lambda size: flat(np.arange(size) % 12))
    job = Job(tiny(steps=80, batch=9, learning_rate=1e-2), tmp_path)
    before = job.validate()["class_accuracy"]
    job.run()
    assert before <= 4 / 12
    assert job.validation[-1]["class_accuracy"] >= 9 / 12


def test_the_scenes_have_twelve_classes(tmp_path):
    with pytest.raises(TrainingError, match="have 12 classes, the recipe's model 4; write 12"):
        Job(tiny(model=replace(CLASSES, classes=4)), tmp_path)


def test_a_state_from_before_there_were_classes_goes_on(tmp_path):
    plain = tiny(model=TINY["image-e8"], steps=2)
    job = Job(plain, tmp_path)
    job.run()
    path = job.folder / "last" / "state.json"
    facts = json.loads(path.read_text())
    del facts["recipe"]["model"]["classes"]
    path.write_text(json.dumps(facts))
    assert Job(plain, tmp_path).resume()
    with pytest.raises(TrainingError, match="another version of the recipe"):
        Job(tiny(steps=2), tmp_path).resume()


# ---------------------------------------------------------------------------- its numbers


def test_a_shipped_model_says_its_classes_and_how_often_it_is_right(tmp_path, monkeypatch, capsys):
    job = Job(tiny(steps=2, ship=True), tmp_path)
    job.run()
    ship.ship(job)
    engine.load.cache_clear()
    card = checkpoint.card("image-e8")
    assert card["classes"] == list(scenes.CLASSES)
    numbers = card["metrics"]
    assert numbers["classified"] == 24
    assert numbers["class_accuracy"] == numbers["classified_correctly"] / 24
    assert numbers["class_chance"] == pytest.approx(1 / 12)
    assert numbers["relative_error"] > 0
    assert [row["layer"] for row in card["load"]] == [0, 1]
    # the command measures the same scenes
    assert cli.main(["evaluate", "--model", "image-e8", "--scenes", "24", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["classified_correctly"] == numbers["classified_correctly"]
    assert again["images"] == 24
    assert cli.main(["models"]) == 0
    row = next(r for r in capsys.readouterr().out.splitlines() if r.startswith("image-e8"))
    assert f"{numbers['class_accuracy']:.1%} of the classes" in row


def test_scenes_for_a_model_without_classes_measure_the_patches(capsys):
    assert cli.main(["evaluate", "--model", "image-e8", "--scenes", "3", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["images"] == 3
    assert "class_accuracy" not in numbers


@pytest.mark.parametrize("number", ["0", "-3", "many"])
def test_a_number_of_scenes_that_is_none(number, capsys):
    assert cli.main(["evaluate", "--model", "image-e8", "--scenes", number]) == 2
    assert "invalid count value" in capsys.readouterr().err


def test_scenes_are_no_text(capsys):
    assert cli.main(["evaluate", "--model", "text-e8", "--scenes", "3"]) == 2
    assert "is of kind text, the input of kind image" in capsys.readouterr().err
