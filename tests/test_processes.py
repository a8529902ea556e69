"""Two processes under torchrun train what one trains on the joined batch, and stop together."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchrun
from safetensors.torch import load_file

from mhmoe import cli
from mhmoe.layers import METHODS, MoEConfig, MoELayer
from mhmoe.layers.routers import PartGenerator
from mhmoe.training import loop, processes, tasks
from mhmoe.training.loop import Job
from mhmoe.training.processes import TrainingError, World

ROOT = Path(__file__).resolve().parents[1]


TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def launched(
    models: Path, *arguments: object, by: tuple[str, ...] = TWO
) -> subprocess.CompletedProcess:
    """``torchrun.py`` in two processes, or alone."""
    command = [sys.executable, *by]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.run(
        [*command, str(ROOT / "tests" / "torchrun.py"), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MHMOE_MODELS": str(models)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def two(_tiny_models, text_dir, tmp_path_factory) -> Path:
    """The folder in which two processes have run everything that ``torchrun.py`` has."""
    folder = tmp_path_factory.mktemp("two")
    done = launched(_tiny_models, "runs", folder, text_dir)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    for name in ("SAVE_EVERY", "REPORT_EVERY"):
        monkeypatch.setattr(loop, name, getattr(loop, name))
    for name in ("VALIDATION", "CLASSIFIED"):
        monkeypatch.setattr(tasks, name, getattr(tasks, name))
    torchrun.often()


def assert_close(ours: Path, theirs: Path) -> None:
    """Weights, both moments of the gradients and the log of two saved states."""
    found, expected = (load_file(folder / "state.safetensors") for folder in (ours, theirs))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-4, rtol=0, msg=name)
        if name.startswith("first"):  # a tenth of the last gradients, clipped to length one
            torch.testing.assert_close(found[name], value, atol=2e-6, rtol=0, msg=name)
    found, expected = (load_file(folder / "log.safetensors") for folder in (ours, theirs))
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found.pop("loss"), expected.pop("loss"), atol=1e-5, rtol=0)
    for name, shares in expected.items():
        torch.testing.assert_close(found[name], shares, atol=1e-4, rtol=0, msg=name)


# ---------------------------------------------------------------------------- equal to one


@pytest.mark.parametrize("name", torchrun.RECIPES)
def test_two_processes_are_one_on_the_joined_batch(name, two, models, text_dir, tmp_path):
    recipe = torchrun.RECIPES[name]
    job = Job(recipe, tmp_path, text_dir=text_dir)
    job.run()
    theirs = two / job.folder.name
    assert_close(theirs / "last", job.folder / "last")
    again = Job(recipe, two, text_dir=text_dir)
    assert again.resume()
    assert again.step == torchrun.STEPS
    for found, expected in zip(again.validation, job.validation, strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    assert again.snapshot(2).exists() == (2 in recipe.snapshots)


@pytest.mark.parametrize("router", METHODS)
def test_a_row_draws_the_same_whoever_has_it(router):
    layer = MoELayer(
        MoEConfig(d_model=8, d_ff=8, experts=4, router=router), torch.Generator().manual_seed(0)
    )
    x = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(1))
    whole = layer.run(x, generator=torch.Generator().manual_seed(2))[1]
    for rows in (slice(0, 2), slice(2, 6)):
        part = layer.run(x[rows], generator=PartGenerator("cpu", rows, 6).manual_seed(2))[1]
        torch.testing.assert_close(part.logits, whole.logits[rows])


# ---------------------------------------------------------------------------- stopping


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("disagreement", "The 2 processes do not agree about their rank: 0, 1."),
        ("no_number", "The loss became nan at step 0; stopped. The last good state is in"),
        ("no_room", "could not be written to"),
    ],
)
def test_what_stops_one_process_stops_both_and_one_says_why(name, sentence, two):
    said, told = ((two / f"{name}.{rank}").read_text() for rank in (0, 1))
    assert said.startswith("TrainingError: ")
    assert sentence in said
    assert told.startswith("Told: ")


def test_a_killed_run_goes_on_in_two_processes_or_in_one(two, models, text_dir, tmp_path):
    state = tmp_path / "state"
    command = ["train", "noisy", "--text-dir", text_dir, "--state", state, "--device", "cpu"]
    cut = launched(models, "step", *command)
    assert cut.returncode == 1
    assert "Signal 9 (SIGKILL)" in cut.stderr
    assert "mhmoe/training" not in cut.stderr  # no traceback of ours
    assert "step 2/4" in cut.stdout
    assert "step 4/4" not in cut.stdout

    shutil.copytree(state, tmp_path / "copy")
    alone = Job(torchrun.RECIPES["noisy"], tmp_path / "copy", text_dir=text_dir)
    assert alone.resume()
    assert alone.step == 2
    alone.run()
    assert_close(alone.folder / "last", two / "noisy-1" / "last")

    done = launched(models, "whole", *command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Going on from step 2") == 1
    assert "noisy, seed 1, on CPU in 2 processes: 2 of 4 steps done." in done.stdout
    for name in ("state.safetensors", "log.safetensors"):
        found, expected = (folder / "noisy-1" / "last" / name for folder in (state, two))
        assert found.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("moment", ["step", "save"])
def test_one_killed_process_loses_nothing_that_was_saved(moment, models, text_dir, tmp_path):
    state = tmp_path / "state"
    command = ["train", "mhmoe", "--text-dir", text_dir, "--state", state, "--device", "cpu"]
    assert launched(models, moment, *command, by=()).returncode == -signal.SIGKILL
    again = Job(torchrun.RECIPES["mhmoe"], state, text_dir=text_dir)
    assert (again.folder / "new").exists() == (moment == "save")
    assert again.resume()
    assert again.step == 2
    again.run()
    whole = Job(torchrun.RECIPES["mhmoe"], tmp_path / "whole", text_dir=text_dir)
    whole.run()
    for name in ("state.safetensors", "log.safetensors"):
        found, expected = (job.folder / "last" / name for job in (again, whole))
        assert found.read_bytes() == expected.read_bytes()


def test_what_cannot_be_divided():
    with pytest.raises(TrainingError, match=r"batch of 6 rows cannot be .* among 4 processes"):
        World(0, 4).rows(6)
    assert World(2, 3).rows(6) == slice(4, 6)
    shared = MoEConfig(d_model=8, d_ff=8, experts=4, capacity_factor=1.0, group="batch")
    for moe in (shared, MoEConfig(d_model=8, d_ff=8, experts=4, router="expert-choice")):
        World(0, 1).check(moe)
        with pytest.raises(TrainingError, match="train in one process"):
            World(0, 2).check(moe)
    World(0, 2).check(MoEConfig(d_model=8, d_ff=8, experts=4, capacity_factor=1.0))
    World(0, 2).check(None)


def test_devices_that_processes_cannot_share(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setattr(processes.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(TrainingError, match=r"2 GPUs for 3 processes; .* --nproc-per-node 2"):
        World(2, 3).device(torch.device("cuda"))
    with pytest.raises(TrainingError, match=r"devices of type mps .* --device cpu"):
        World(0, 2).device(torch.device("mps"))
    assert World(0, 2).device(torch.device("cpu")) == torch.device("cpu")


def test_without_gloo_a_sentence(models, text_dir, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "any")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(processes.distributed, "is_gloo_available", lambda: False)
    assert cli.main(["train", "text-e8", "--text-dir", str(text_dir)]) == 1
    assert "was built without gloo" in capsys.readouterr().err
