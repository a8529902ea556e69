"""The logs of runs: thinned, in one file per family, and what can be read from them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors import SafetensorError

from mhmoe import cli
from mhmoe.analysis import balance, runlog
from mhmoe.models import checkpoint
from mhmoe.training import logs, loop, recipe, ship, tasks
from mhmoe.training.loop import Job, TrainingError
from mhmoe.training.recipe import FAMILIES, Recipe, members

FAMILY = """
data = "text"
steps = 4
batch = 6
learning_rate = 1e-2
balance = 0.1
warmup = 2
seed = 1

[model]
kind = "text"
d_model = 16
blocks = 2
attention_heads = 2
vocabulary = 320
context = 16

[model.moe]
d_model = 16
d_ff = 32
experts = 4
top_k = 1

[members.some-ffn]
model.d_ff = 64

[members.some-e4]
"""
NAMES = [name for family in FAMILIES.glob("*.toml") for name in members(family)]


@pytest.fixture
def family(models, tmp_path, monkeypatch):
    """A folder with a family of two tiny members, called "some"."""
    folder = tmp_path / "families"
    folder.mkdir()
    (folder / "some.toml").write_text(FAMILY)
    monkeypatch.setattr(recipe, "FAMILIES", folder)
    monkeypatch.setattr(tasks, "VALIDATION", 6)
    return folder


@pytest.fixture
def runs(family, text_dir, tmp_path):
    """Finished runs of both, one with two seeds."""
    for name, seed in (("some-ffn", 1), ("some-e4", 1), ("some-e4", 2)):
        Job(Recipe.load(name, seed), tmp_path / "runs", text_dir=text_dir).run()
    return tmp_path / "runs"


# ---------------------------------------------------------------------------- the file


def test_as_many_steps_are_kept_as_fit():
    arrays = {"loss": np.arange(10.0), "demand": np.ones((10, 2, 2))}  # 10 bytes a step
    assert runlog.thinned(arrays, 100)[0] == 1
    every, kept = runlog.thinned(arrays, 99)
    assert every == 2
    np.testing.assert_array_equal(kept["loss"], [0, 2, 4, 6, 8])
    assert kept["demand"].shape == (5, 2, 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_member_costs_at_most_100_kilobytes(name, tmp_path):
    trained = Recipe.load(name)
    shape = trained.model
    whole = {"loss": np.ones(trained.steps)}
    if shape.moe:
        for part in ("demand", "importance"):
            whole[part] = np.ones((trained.steps, shape.blocks, shape.moe.experts))
    every, arrays = runlog.thinned(whole)
    seen = {"step": 2000, "bits_per_byte": 1 / 3, "perplexity": 1e4 / 3, "tokens": 6096} | {
        str(i): 1 / 7 for i in range(8)
    }
    state = {"step": trained.steps, "seconds": 1 / 3, "validation": [seen] * loop.VALIDATE_AT}
    runlog.save(tmp_path / "x", {f"{name}-1": (ship.of_run(trained, state), arrays)})
    assert (tmp_path / "x").stat().st_size <= 100_000
    assert every < trained.steps / 40  # still a curve


def test_runs_come_back_by_name(tmp_path):
    path = tmp_path / "new" / "runs.safetensors"
    first = ({"seed": 1}, {"loss": np.float16([3, 2]), "demand": np.ones((2, 1, 4), np.float16)})
    second = ({"seed": 2}, {"loss": np.float16([5])})
    runlog.save(path, {"b": second, "a": first})
    assert runlog.names(path) == ["a", "b"]
    for name, (facts, arrays) in (("a", first), ("b", second)):
        found = runlog.load(path, name)
        assert found[0] == facts
        assert found[1].keys() == arrays.keys()
        for part, values in arrays.items():
            np.testing.assert_array_equal(found[1][part], values, strict=True)
    with pytest.raises(KeyError):
        runlog.load(path, "c")
    runlog.save(path, {"": first})
    assert runlog.names(path) == [""]
    assert runlog.load(path)[1].keys() == {"loss", "demand"}


def test_how_evenly_experts_were_used_follows_from_what_is_kept(tmp_path):
    count = np.random.default_rng(0).multinomial(4608, np.float64([4, 2, 1, 1, 0.1]) / 8.1, (50, 3))
    share = count / count.sum(-1, keepdims=True)
    runlog.save(tmp_path / "x", {"": ({}, {"demand": share})})
    kept = runlog.load(tmp_path / "x")[1]["demand"].astype(float)
    assert kept.shape == (50, 3, 5)
    np.testing.assert_allclose(balance.max_violation(kept), balance.max_violation(count), rtol=1e-3)
    np.testing.assert_array_equal(balance.dead(kept), balance.dead(balance.shares(count)))
    assert balance.dead(kept).min() == 1


# ---------------------------------------------------------------------------- a family


def test_a_family_is_collected_with_its_validation(runs, family, text_dir, tmp_path):
    path, names = logs.write("some", runs)
    assert path == checkpoint.runs() / "some.safetensors"
    assert names == runlog.names(path) == ["some-e4-1", "some-e4-2", "some-ffn-1"]
    job = Job(Recipe.load("some-e4", 2), runs, text_dir=text_dir)
    assert job.resume()
    facts, arrays = runlog.load(path, "some-e4-2")
    assert facts["validation"] == job.validation
    assert [v["step"] for v in facts["validation"]] == [1, 2, 3, 4]
    assert (facts["seed"], facts["every"], facts["training"]["tokens"]) == (2, 1, 4 * 6 * 16)
    assert Recipe.from_dict(facts["recipe"]) == job.recipe
    for name, values in job.log().items():
        np.testing.assert_array_equal(arrays[name], values.half().numpy(), strict=True)
    assert set(runlog.load(path, "some-ffn-1")[1]) == {"loss"}


def test_pages_read_it_as_they_read_replays(runs):
    from mhmoe.ui.runs import stored_run, stored_runs

    logs.write("some", runs)
    assert stored_runs.__wrapped__("some") == ["some-e4-1", "some-e4-2", "some-ffn-1"]
    assert stored_run.__wrapped__("some", "some-e4-2")[0]["seed"] == 2
    with pytest.raises(checkpoint.CheckpointError, match=r"some\.safetensors: KeyError"):
        stored_run.__wrapped__("some", "some-e4-9")


def test_what_cannot_be_collected(runs, family, tmp_path, monkeypatch, capsys):
    with pytest.raises(recipe.UnknownRecipe, match="Unknown family 'other'; known are some"):
        logs.collect("other", runs)
    with pytest.raises(TrainingError, match="no finished run of the family some"):
        logs.collect("some", tmp_path)

    state = runs / "some-e4-1" / "last" / "state.json"
    said = state.read_text()
    state.write_text(json.dumps(json.loads(said) | {"step": 2}))
    assert set(logs.collect("some", runs)) == {"some-e4-2", "some-ffn-1"}
    state.write_text(said[:20])
    with pytest.raises(TrainingError, match=r"state\.json cannot be read"):
        logs.collect("some", runs)
    state.write_text(said)
    (state.parent / "log.safetensors").write_bytes(b"cut")
    with pytest.raises(TrainingError, match=r"log in .*some-e4-1 cannot be read"):
        logs.collect("some", runs)
    shutil.rmtree(state.parent)

    def full(*arguments, **named):
        raise SafetensorError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(runlog, "save_file", full)
        assert cli.main(["logs", "some", "--runs", str(runs)]) == 1
    assert "could not be written (No space left on device)" in capsys.readouterr().err
    family.joinpath("some.toml").write_text(FAMILY.replace("balance = 0.1", "balance = 0.2"))
    with pytest.raises(TrainingError, match="another version of the recipe some-e4"):
        logs.collect("some", runs)


def test_the_command_line_collects(runs, tmp_path, capsys):
    assert cli.main(["logs", "some", "--runs", str(runs), "--out", str(tmp_path / "x")]) == 0
    assert "3 runs (some-e4-1, some-e4-2, some-ffn-1)" in capsys.readouterr().out
    assert len(runlog.names(tmp_path / "x")) == 3
    assert cli.main(["logs", "none", "--runs", str(runs)]) == 2
