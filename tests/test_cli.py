"""The command line: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY, shape_of

from mhmoe import cli
from mhmoe.layers import METHODS, SWITCHES
from mhmoe.models import checkpoint, engine
from mhmoe.trace import RoutingTrace
from mhmoe.training import loop, tasks

FIELDS = {
    "layer",
    "router",
    "experts",
    "top_k",
    "heads",
    "capacity",
    "logits",
    "probs",
    "expert",
    "gate",
    "slot",
    "kept",
    "demand",
    "load",
    "importance",
    "losses",
}


@pytest.fixture(autouse=True)
def _cpu(monkeypatch, models, tmp_path):
    monkeypatch.setenv("MHMOE_DEVICE", "cpu")
    monkeypatch.setenv("MHMOE_STATE", str(tmp_path / "state"))


@pytest.fixture
def run(capsys):
    """Call the command line; gives exit code, stdout, stderr."""

    def call(*argv: object) -> tuple[int, str, str]:
        code = cli.main([str(a) for a in argv])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def one_sentence(err: str) -> str:
    """The only line of stderr, which is a sentence."""
    assert err.startswith("mhmoe: ")
    assert err.count("\n") == 1
    assert err.endswith(".\n")
    assert "Traceback" not in err
    return err


# ---------------------------------------------------------------------------- models


def test_models_as_json(run):
    code, out, err = run("models", "--json")
    assert (code, err) == (0, "")
    rows = {row["name"]: row for row in json.loads(out)}
    assert list(rows) == sorted(TINY)
    for row in rows.values():
        assert list(row) == list(cli.FIELDS)
    assert rows["text-e8-h4"] | {"metrics": 0} == {
        "name": "text-e8-h4",
        "kind": "text",
        "router": "linear",
        "experts": 4,
        "top_k": 2,
        "heads": 4,
        "metrics": 0,
        "snapshots": [],
        **checkpoint.load("text-e8-h4")[0].counts(),
    }
    dense = rows["image-ffn"]
    assert (dense["router"], dense["experts"], dense["top_k"], dense["heads"]) == (
        "none",
        None,
        None,
        1,
    )


def test_models_for_people(run):
    code, out, _ = run("models")
    assert code == 0
    assert len(out.splitlines()) == 6
    assert "text-e8-h4" in out
    assert "E=4 k=2  h=4" in out


def test_no_models(run, models, monkeypatch, tmp_path):
    monkeypatch.setenv("MHMOE_MODELS", str(tmp_path / "nothing"))
    code, out, err = run("models", "--json")
    assert (code, json.loads(out)) == (0, [])
    code, _, err = run("trace", "--model", "x", "--text", "y")
    assert code == 2
    assert "known are none" in one_sentence(err)


# ---------------------------------------------------------------------------- trace


def test_routers_as_json(run):
    code, out, err = run("routers", "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [row["key"] for row in rows] == list(METHODS)
    for row in rows:
        assert set(row) == {
            *("key", "title", "paper", "sentence", "assignment", "switches", "loss_weights")
        }
        assert set(row["switches"]) == set(SWITCHES)  # all of them, also those at their default
    switch = rows[list(METHODS).index("switch")]
    assert (switch["switches"]["top_k"], switch["loss_weights"]) == (1, {"balance": 0.01})


def test_routers_for_people(run):
    code, out, err = run("routers")
    assert (code, err) == (0, "")
    for row in METHODS.values():
        assert f"{row.key:<20} {row.title}: {row.paper}" in out
        assert row.sentence in out
    assert "top_k=1, activation=relu, capacity_factor=1.25" in out


@pytest.mark.parametrize(("name", "heads"), [("text-e8", 1), ("text-e8-h4", 4)])
def test_trace_of_a_text(run, name, heads):
    code, out, err = run("trace", "--model", name, "--text", "sea shells 今", "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["schema"] == 1
    assert data["model"]["name"] == name
    assert data["heads"] == heads
    source = data["input"]
    assert source["kind"] == "text"
    assert "".join(t["text"] for t in source["tokens"][:3]) in "sea shells 今"
    assert all(set(t) == {"text", "span", "word"} for t in source["tokens"])
    assert source["tokens"][-1]["span"][1] == len("sea shells 今".encode())
    assert len(data["layers"]) == 2
    rows = len(source["tokens"]) * heads
    for layer in data["layers"]:
        assert set(layer) >= FIELDS
        assert np.shape(layer["logits"]) == (rows, 4)
        assert np.shape(layer["expert"]) == np.shape(layer["kept"]) == (rows, 2)
        assert sum(layer["demand"]) == rows * 2
        assert layer["capacity"] is None


def test_trace_of_a_picture(run, photo):
    code, out, err = run("trace", "--model", "image-e8-h4", "--image", photo, "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["input"] == {"kind": "image", "grid": [4, 4], "patch": 32, "crop": [10, 0, 50, 40]}
    assert np.shape(data["layers"][0]["gate"]) == (64, 2)


def test_a_dense_trace_has_no_layers(run, photo):
    for argv in (("text-ffn", "--text", "fox"), ("image-ffn", "--image", photo)):
        code, out, _ = run("trace", "--model", *argv, "--json")
        assert code == 0
        assert json.loads(out)["layers"] == []
        code, out, _ = run("trace", "--model", *argv)
        assert "nothing is routed" in out


def test_out_holds_what_json_says(run, tmp_path):
    file, text = tmp_path / "t.safetensors", tmp_path / "t.txt"
    text.write_text("Der Hund schläft.", "utf-8")
    code, out, _ = run(
        "trace", "--model", "text-e8-h4", "--text-file", text, "--json", "--out", file
    )
    assert code == 0
    assert json.dumps(RoutingTrace.load(file).to_dict()) == out.strip()


def test_the_summary_names_the_trace_s_numbers(run):
    (trace,) = engine.trace_text(engine.load("text-e8-h4"), "The fox")
    _, out, _ = run("trace", "--model", "text-e8-h4", "--text", "The fox")
    assert f"{trace.input.count} tokens in 2 words, {trace.bits_per_byte:.3f} bits" in out
    share = 100 * trace.layers[1].demand[0] / trace.layers[1].demand.sum()
    assert f"block 1  {share:5.1f} " in out
    first = " | ".join(" ".join(map(str, row)) for row in trace.layers[0].expert[:4])
    assert first in out


def test_the_summary_never_sends_control_characters(run):
    _, out, _ = run("trace", "--model", "text-e8", "--text", "a\x1b[31m\x07")
    assert "\x1b" not in out
    assert "\x07" not in out


def test_a_long_text_says_what_was_used(run):
    code, out, err = run("trace", "--model", "text-e8", "--text", "fox " * 50, "--json")
    assert code == 0
    total = engine.count_tokens("fox " * 50)
    assert f"{total} tokens; the first 16 were used" in one_sentence(err)
    assert len(json.loads(out)["input"]["tokens"]) == 16


def test_bytes_that_are_no_text(run, tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("schläft".encode("latin-1"))
    code, out, _ = run("trace", "--model", "text-e8", "--text-file", path, "--json")
    assert code == 0
    assert "\ufffd" in json.loads(out)["input"]["text"]
    code, _, err = run("trace", "--model", "text-e8", "--text", "a\udce4b")
    assert (code, err) == (0, "")


# ---------------------------------------------------------------------------- evaluate


def test_evaluate_a_text(run, tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("The quick brown fox jumps over the dog. " * 5)
    code, out, err = run("evaluate", "--model", "text-e8", "--text-file", path, "--json")
    assert (code, err) == (0, "")
    numbers = json.loads(out)
    expected = engine.evaluate_text(engine.load("text-e8"), path.read_text())
    assert {k: numbers[k] for k in expected} == expected
    assert set(numbers) >= {"bits_per_byte", "perplexity", "tokens", "bytes"}
    code, out, _ = run("evaluate", "--model", "text-e8", "--text-file", path)
    assert code == 0
    assert "bits_per_byte" in out


def test_evaluate_pictures_leaves_out_what_is_none_aloud(run, photo):
    (photo.parent / "notes.txt").write_text("not a picture")
    (photo.parent / "folder").mkdir()
    code, out, err = run("evaluate", "--model", "image-e8", "--image-dir", photo.parent, "--json")
    assert code == 0
    numbers = json.loads(out)
    assert numbers["images"] == 1
    assert numbers["patches"] == 8
    assert numbers["baseline_error"] > 0
    assert "notes.txt is left out" in one_sentence(err)


def test_evaluate_has_a_fixed_mask(run, photo):
    first, second = (
        run("evaluate", "--model", "image-e8-h4", "--image-dir", photo.parent, "--json")
        for _ in range(2)
    )
    assert first == second


# ---------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("dance",),
        ("trace",),
        ("evaluate", "--model", "text-e8"),
        ("train",),
        ("train", "text-e8", "--resume", "--fresh"),
        ("train", "text-e8", "--seed", "one"),
        ("train", "text-e8", "--seed", "-1"),
    ],
)
def test_wrong_options_are_bad_usage(run, argv):
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert "usage:" in err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("trace", "--model", "gpt", "--text", "a"), "known are image-e8, image-e8-h4, image-ffn"),
        (("evaluate", "--model", "gpt", "--text-file", "x"), "Unknown model 'gpt'; known are"),
        (("train", "cake"), "Unknown recipe 'cake'; known are collapse-balanced"),
        (("train", "text-e8"), "name its folder with --text-dir"),
        (
            ("trace", "--model", "image-e8", "--text", "a"),
            "is of kind image, the input of kind text",
        ),
        (
            ("trace", "--model", "text-e8", "--image", "a.png"),
            "is of kind text, the input of kind image",
        ),
        (
            ("trace", "--model", "text-e8", "--text", "a", "--image", "b"),
            "is of kind text, the input of kind image-text",
        ),
        (("trace", "--model", "text-e8"), "Give --text, --text-file or --image"),
        (
            ("trace", "--model", "text-e8", "--text", "a", "--device", "tpu"),
            "known are auto, cpu",
        ),
        (("train", "image-e8", "--device", "tpu"), "known are auto, cpu"),
    ],
)
def test_what_is_asked_for_wrongly(run, argv, sentence):
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert sentence in one_sentence(err)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("trace", "--model", "text-e8", "--text", "  "), "no text to route"),
        (("trace", "--model", "text-e8", "--text", ""), "no text to route"),
        (
            ("trace", "--model", "text-e8", "--text-file", "no/such.txt"),
            "such.txt cannot be read",
        ),
        (("trace", "--model", "text-e8", "--text-file", "."), "cannot be read"),
        (("trace", "--model", "image-e8", "--image", "no/such.png"), "such.png cannot be read"),
        (("trace", "--model", "text-e8", "--text", "a", "--out", "no/such/t"), "not be written"),
        (("evaluate", "--model", "text-e8", "--text-file", "no/such.txt"), "cannot be read"),
        (("evaluate", "--model", "image-e8", "--image-dir", "no/such"), "cannot be read"),
    ],
)
def test_what_was_tried_and_failed(run, argv, sentence):
    code, out, err = run(*argv)
    assert (code, out) == (1, "")
    assert sentence in one_sentence(err)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"hello, not a picture", "not a picture"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "PNG file of"),
    ],
)
def test_a_file_that_is_no_picture(run, tmp_path, content, sentence):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    code, out, err = run("trace", "--model", "image-e8", "--image", path)
    assert (code, out) == (1, "")
    assert err.startswith("mhmoe: ")
    assert sentence in err
    code, _, err = run("evaluate", "--model", "image-e8", "--image-dir", tmp_path / "assets")
    assert code == 1
    assert "no picture" in one_sentence(err)


def test_a_text_too_short_to_measure(run, tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("fox")
    code, _, err = run("evaluate", "--model", "text-e8", "--text-file", path)
    assert code == 1
    assert "full window of 16" in err


def test_a_damaged_checkpoint(run, models):
    (models / "text-e8.safetensors").write_bytes(b"0" * 100)
    code, _, err = run("trace", "--model", "text-e8", "--text", "a")
    assert code == 1
    assert "are damaged" in one_sentence(err)
    (models / "text-e8.json").write_text("{")
    code, _, err = run("models")
    assert code == 1
    assert "text-e8.json cannot be read" in one_sentence(err)


def test_a_device_that_is_absent(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("MHMOE_DEVICE", "cuda")
    code, _, err = run("trace", "--model", "text-e8", "--text", "a")
    assert code == 2
    assert "this machine has none" in one_sentence(err)
    code, _, err = run("trace", "--model", "text-e8", "--text", "a", "--device", "cpu")
    assert (code, err) == (0, "")


def test_out_of_memory_falls_back_to_the_cpu_aloud(run, monkeypatch):
    real, devices = engine.load, []

    def small(name, device, step):
        devices.append(str(device))
        if len(devices) == 1:
            raise torch.OutOfMemoryError
        return real(name, device, step)

    small.cache_clear = real.cache_clear
    monkeypatch.setattr(engine, "load", small)
    code, out, err = run("trace", "--model", "text-e8", "--text", "a", "--json")
    assert code == 0
    assert json.loads(out)["layers"]
    assert "the CPU computed instead" in one_sentence(err)
    assert devices[-1] == "cpu"


# ---------------------------------------------------------------------------- train


@pytest.fixture
def tiny_recipe(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tasks, "VALIDATION", 6)
    monkeypatch.setattr(loop, "SAVE_EVERY", 5)
    monkeypatch.setattr(tasks, "CARD_WINDOWS", 2)
    path = tmp_path / "text-e8.toml"
    path.write_text(
        'data = "text"\nsteps = 20\nbatch = 6\nlearning_rate = 1e-2\nbalance = 0.01\nseed = 1\n'
        f"ship = true\nsnapshots = [10]\n{shape_of('text-e8')}"
    )
    return path


def test_train_reports_resumes_and_ships(run, tiny_recipe, text_dir, tmp_path, monkeypatch):
    before = checkpoint.card("text-e8")["sha256"]
    real = loop.Job._one_step

    def interrupted(self):
        if self.step == 12:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(loop.Job, "_one_step", interrupted)
    code, out, err = run("train", tiny_recipe, "--text-dir", text_dir)
    assert code == 1
    assert "The same command goes on" in one_sentence(err)
    assert checkpoint.card("text-e8")["sha256"] == before
    monkeypatch.setattr(loop.Job, "_one_step", real)

    code, out, err = run("train", tiny_recipe, "--text-dir", text_dir)
    assert (code, err) == (0, "")
    assert "The sentences of de/plain_train, en/plain_train, " in out
    assert "Going on from step 10" in out
    steps = [line for line in out.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in steps] == ["20/20"]
    assert "tokens/s" in steps[0]
    assert "left" in steps[0]
    assert "load 0." in steps[0]
    card = checkpoint.card("text-e8")
    assert card["sha256"] != before
    assert card["training"]["steps"] == 20
    _, out, _ = run("models", "--json")
    row = next(r for r in json.loads(out) if r["name"] == "text-e8")
    assert row["metrics"]["bits_per_byte"] > 0


def test_train_again_and_fresh(run, tiny_recipe, text_dir, tmp_path):
    state = tmp_path / "elsewhere"
    argv = ("train", tiny_recipe, "--text-dir", text_dir, "--state", state, "--seed", "4")
    code, out, _ = run(*argv, "--no-ship")
    assert code == 0
    assert (state / "text-e8-4" / "last" / "state.json").exists()
    assert checkpoint.card("text-e8")["metrics"] == {}  # nothing was shipped
    _, out, _ = run(*argv, "--no-ship")
    assert "20 of 20 steps done" in out  # nothing left to do
    assert "tokens/s" not in out
    _, out, _ = run(*argv, "--fresh", "--no-ship")
    assert "0 of 20 steps done" in out
    code, _, _ = run(*argv, "--ship")
    assert code == 0
    assert checkpoint.card("text-e8")["seed"] == 4


def test_what_the_recipe_does_not_ship_stays_with_its_run(run, tiny_recipe, text_dir):
    path = tiny_recipe.rename(tiny_recipe.with_name("mine.toml"))
    path.write_text(path.read_text().replace("ship = true", "ship = false"))
    code, out, err = run("train", path, "--text-dir", text_dir)
    assert (code, err) == (0, "")
    assert "Finished; the weights are in " in out
    assert "mine" not in checkpoint.names()


def test_a_step_of_training_is_traced(run, tiny_recipe, text_dir):
    assert run("train", tiny_recipe, "--text-dir", text_dir)[0] == 0
    _, out, _ = run("models", "--json")
    assert next(r for r in json.loads(out) if r["name"] == "text-e8")["snapshots"] == [0, 10, 20]
    trace = ("trace", "--model", "text-e8", "--text", "a", "--json")
    found = [json.loads(run(*trace, "--step", step)[1]) for step in (0, 10, 20)]
    assert len({json.dumps(trace["layers"]) for trace in found}) == 3
    assert found[2] == json.loads(run(*trace)[1])
    code, _, err = run(*trace, "--step", 7)
    assert code == 2
    assert "'text-e8' has no snapshot of step 7; known are 0, 10, 20." in one_sentence(err)


def test_a_folder_without_text(run, tiny_recipe, tmp_path):
    code, _, err = run("train", tiny_recipe, "--text-dir", tmp_path)
    assert code == 1
    assert "has no de/plain_train.txt" in one_sentence(err)


def test_a_state_folder_that_cannot_be_made(run, tiny_recipe, text_dir, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run("train", tiny_recipe, "--text-dir", text_dir, "--state", tmp_path / "file")
    assert code == 1
    assert "cannot be started" in one_sentence(err)


class Screen:
    def __init__(self, live: bool):
        self.live, self.text = live, ""

    def isatty(self) -> bool:
        return self.live

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_progress_rewrites_one_line_on_a_terminal():
    for live, newlines, returns in ((True, 1, 2), (False, 2, 0)):
        screen = Screen(live)
        meter = cli.Meter(screen, sparse=True)
        for step in (10, 20):
            meter(loop.Progress(step, 20, 1.5, 1234.0, 65.0, 0.5, 0.1))
        assert screen.text.count("\n") == newlines
        assert screen.text.count("\r") == returns
        assert "1,234 tokens/s  1:05 left  load 0.100..0.500" in screen.text
    screen = Screen(False)
    cli.Meter(screen, sparse=False)(loop.Progress(1, 2, 1.5, 1.0, 1.0, 1.0, 1.0))
    assert "load" not in screen.text


def test_where_runs_are_kept(monkeypatch):
    monkeypatch.setenv("MHMOE_STATE", "/somewhere")
    assert cli.state_folder() == Path("/somewhere")
    monkeypatch.delenv("MHMOE_STATE")
    for platform, name in (("linux", "mhmoe"), ("darwin", "mhmoe"), ("win32", "mhmoe")):
        monkeypatch.setattr(sys, "platform", platform)
        assert cli.state_folder().name == name


# ---------------------------------------------------------------------------- as a program


def program(*argv: str, **options) -> subprocess.Popen:
    root = Path(cli.__file__).parents[1]
    env = os.environ | {
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
        "PYTHONIOENCODING": "ascii",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "mhmoe", *argv],
        env=env,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def test_as_a_program():
    out, err = program("trace", "--model", "text-e8", "--text", "今天").communicate()
    assert b"text-e8: " in out  # also where the terminal knows no Chinese
    assert err == b""


def test_help_does_not_wait_for_torch():
    code = "import sys, mhmoe.cli; mhmoe.cli.main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=False,
        cwd=Path(cli.__file__).parents[1],
    )
    assert done.returncode == 0
    assert b"Exit codes" in done.stdout
