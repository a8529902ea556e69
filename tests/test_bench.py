"""The benches: their arithmetic, what they put beside each other, and that floors are fair.

No test here looks at how long anything took.
"""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import streamlit as st
import torch
from streamlit.testing.v1 import AppTest
from tiny import TINY

from mhmoe import bench
from mhmoe.bench import app, frames, goals, layer, peers, train
from mhmoe.cli import main
from mhmoe.layers import DenseFFN, MoEConfig, MoELayer
from mhmoe.models.transformer import Transformer
from mhmoe.training.recipe import Recipe
from mhmoe.training.step import Learner

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ROOT / "tests" / "bench"
SOURCES = sorted((ROOT / "mhmoe" / "bench").glob("*.py"))


# ------------------------------------------------------------------------------- arithmetic


def test_the_ratio_is_of_medians_and_the_goal_is_for_it():
    row = bench.compared("x", [30.0, 10.0, 1000.0], [20.0, 19.0, 500.0], 1.5)
    assert (row.ours_ms, row.floor_ms, row.ratio, row.met) == (30.0, 20.0, 1.5, True)
    assert not bench.compared("x", [31.0], [20.0], 1.5).met


@pytest.mark.parametrize(("ours", "met"), [(8.0, True), (8.1, False), (None, None)])
def test_without_a_floor_the_goal_is_for_the_number_itself(ours, met):
    row = bench.Row("x", ours, goal=8)
    assert row.ratio is None
    assert row.met is met


def test_no_goal_is_neither_met_nor_missed():
    assert bench.Row("x", 5.0).met is None


def test_a_row_has_exactly_the_five_fields():
    row = bench.Row("x", 2.0, 3.0, 1.3).to_dict()
    assert row == {"name": "x", "ours_ms": 2.0, "floor_ms": 3.0, "ratio": 0.667, "goal": 1.3}
    assert list(row) == ["name", "ours_ms", "floor_ms", "ratio", "goal"]


def test_runs_are_interleaved_and_the_first_one_changes():
    order = []
    actions = [lambda name=name: order.append(name) or len(order) for name in "ab"]
    assert bench.interleaved(2, actions) == [[1, 4], [2, 3]]
    assert order == ["a", "b", "b", "a"]


def test_a_slow_action_is_still_run_three_times():
    assert [len(found) for found in bench.interleaved(9, [lambda: 1.0], seconds=0)] == [3]


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [(range(1, 21), 0.95, 19), (range(1, 101), 0.95, 95), ([7], 0.95, 7), ([1, 2], 0.5, 1)],
)
def test_percentile_is_the_nearest_rank(values, share, expected):
    assert bench.percentile(list(values), share) == expected


def test_percentile_of_nothing_is_nothing():
    assert bench.percentile([], 0.95) == 0


def test_the_table_shows_what_was_not_measured():
    lines = bench.table([bench.Row("cold open", 1234.5, goal=8).to_dict()]).splitlines()
    assert lines[0].split() == ["name", "ours_ms", "floor_ms", "ratio", "goal"]
    assert lines[1].split() == ["cold", "open", "1234", "-", "-", "8"]


# ------------------------------------------------------------------------------- frames


def event(name: str, begin: float, milliseconds: float, tid: int = 1) -> dict:
    span = {"ts": 1000 * begin, "dur": 1000 * milliseconds}
    return {"name": name, "ph": "X", "pid": 1, "tid": tid, **span}


def thread(name: str, tid: int) -> dict:
    return {"name": "thread_name", "ph": "M", "pid": 1, "tid": tid, "args": {"name": name}}


def test_script_counts_once_and_for_the_frame_that_shows_it():
    seen = frames.read(
        [
            thread("CrRendererMain", 1),
            thread("Compositor", 2),
            event("EventDispatch", 0, 4),
            event("FunctionCall", 1, 2),  # inside the event
            event("TimerFire", 6, 1),
            event("Commit", 9, 1),
            event("Commit", 25, 1),  # a frame without script
            event("FireAnimationFrame", 30, 3),
            event("Commit", 40, 1),
            event("FunctionCall", 50, 9),  # never shown
            event("FunctionCall", 0, 70, tid=2),  # not the page's thread
            event("RunTask", 0, 12),
            event("RunTask", 30, 11),
        ]
    )
    assert seen.script_ms == (5.0, 3.0)
    assert seen.longest_ms == 12


def test_a_trace_of_nothing_has_no_frames():
    assert frames.read([]) == frames.Frames((), 0)


# ------------------------------------------------------------------------------- layers


def tiny_rows(heads: int = 1) -> list[dict]:
    return list(layer.measure(layer.parse_sizes("6/4/2/8/16"), [heads], runs=1))


@pytest.fixture
def no_peers(monkeypatch):
    """As where the tests' requirements are not installed."""
    monkeypatch.setattr(layer, "installed", lambda name: False)


@pytest.mark.usefixtures("no_peers")
def test_layer_rows_have_the_fields_of_the_issue():
    rows = tiny_rows(heads=2)
    expected = "tokens experts top_k heads d_model d_ff pass impl ms ratio_to_floor"
    assert all(list(row) == expected.split() for row in rows)
    assert {(row["tokens"], row["experts"], row["top_k"], row["heads"]) for row in rows} == {
        (6, 4, 2, 2)
    }
    assert [(row["pass"], row["impl"]) for row in rows] == [
        (which, impl)
        for which in ("forward", "both")
        for impl in ("ours", "floor", "dense", "dense_total")
    ]
    assert all(row["ms"] > 0 for row in rows)


def test_every_installed_peer_has_its_rows():
    found = {row["impl"] for row in tiny_rows()}
    assert found == {*layer.OURS, "floor", "floor swiglu", "dense", "dense_total", *peers.PEERS}


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_answers_every_token_and_stands_beside_its_own_matrices(name):
    """Its experts hold as many weights as those of ours beside it; some have biases, too."""
    peer = peers.PEERS[name]
    case = layer.Case.of(MoEConfig(d_model=8, d_ff=16, experts=4, top_k=2), 6)
    assert peer.fits(case.config, case.tokens)
    module, call = peer.build(case.config, case.tokens)
    assert call(case.x_TD).shape == case.x_TD.shape
    ours = MoELayer(layer.OURS[peer.beside](case.config, case.tokens)).experts
    named = [(n, p.numel()) for n, p in module.named_parameters() if p.dim() > 1]
    assert sum(n for name, n in named if "expert" in name) == sum(
        p.numel() for p in ours.parameters()
    )


def test_peers_do_not_take_heads_or_hours():
    two = MoEConfig(d_model=8, d_ff=16, experts=4, top_k=2)
    eager = peers.PEERS["transformers eager"]
    assert eager.fits(two, 4096)
    assert not eager.fits(replace(two, heads=2), 4096)
    assert not eager.fits(replace(two, experts=128), 4096)
    assert not peers.PEERS["mixture-of-experts"].fits(replace(two, top_k=1), 16)


def test_a_missing_package_is_left_out(monkeypatch):
    monkeypatch.setattr(
        peers, "find_spec", lambda package: None if package == "transformers" else 1
    )
    assert not peers.installed("transformers eager")
    assert peers.installed("torchscale")


@pytest.fixture
def told(monkeypatch) -> dict[str, float]:
    """Implementations that take as long as this says."""
    ms = {"ours": 9.0, "floor: products": 2.0, "floor: weights": 3.0, "dense": 1.5}
    monkeypatch.setattr(layer, "implementations", lambda case: {n: lambda case, n=n: n for n in ms})
    monkeypatch.setattr(layer, "_milliseconds", lambda step, which, case: ms[step])
    return ms


def told_rows() -> dict[str, float]:
    case = layer.Case.of(MoEConfig(d_model=8, d_ff=8, experts=2, top_k=1), 4)
    rows = list(layer.rows(case, 1))
    return {row["impl"]: row["ratio_to_floor"] for row in rows if row["pass"] == "both"}


@pytest.mark.usefixtures("told")
def test_the_floor_is_the_larger_of_its_two_parts():
    assert told_rows() == {"ours": 3.0, "floor": 1.0, "dense": 0.5}


def test_three_matrices_have_a_floor_of_their_own(told):
    told |= {"floor swiglu: products": 4.5, "floor swiglu: weights": 1.0}
    told |= {"ours swiglu": 9.0, "transformers": 18.0}
    found = told_rows()
    assert (found["ours"], found["ours swiglu"], found["transformers"]) == (3.0, 2.0, 4.0)


def test_what_takes_very_long_is_timed_once():
    calls = {"slow": [], "fast": []}

    def call(name: str, ms: float) -> float:
        calls[name].append(ms)
        return ms

    found = layer.medians(
        {"slow": lambda: call("slow", 10_000.0), "fast": lambda: call("fast", 60.0)}, runs=4
    )
    assert found == {"slow": 10_000.0, "fast": 60.0}
    assert {name: len(seen) for name, seen in calls.items()} == {"slow": 1, "fast": 5}


@pytest.mark.usefixtures("no_peers")
def test_dense_layers_have_the_parameters_they_are_compared_by():
    config = MoEConfig(d_model=8, d_ff=16, experts=4, top_k=2, heads=2)
    found = layer.implementations(layer.Case.of(config, 6))
    for name, parameters in (
        ("dense", config.active_parameters),
        ("dense_total", config.parameters),
    ):
        assert found[name].keywords == {"parameters": parameters}
        step = layer.dense(layer.Case.of(config, 6), parameters)
        cells = [cell.cell_contents for cell in step.__closure__]
        ffn = next(cell for cell in cells if isinstance(cell, DenseFFN))
        assert abs(sum(p.numel() for p in ffn.parameters()) - parameters) <= config.d_model


def test_what_would_take_minutes_is_left_out():
    small, huge = (
        layer.Case.of(MoEConfig(d_model=256, d_ff=1024, experts=E, top_k=1), 4096) for E in (8, 128)
    )
    assert "dense_total" in layer.implementations(small)
    assert "dense_total" not in layer.implementations(huge)
    assert "ours" in layer.implementations(huge)


def test_the_default_covers_the_sizes_of_the_issue():
    sizes = layer.parse_sizes(layer.SIZES)
    grid = {(t, c.experts, c.top_k) for t, c in sizes if (c.d_model, c.d_ff) == (256, 1024)}
    assert grid == set(product((256, 4096, 16384), (8, 32, 128), (1, 2)))
    small = [(t, c) for t, c in sizes if c.d_model < 256]
    assert {t for t, _ in small} == {16, 64, 256}
    assert {c.d_model for _, c in small} == {32, 64, 128}
    assert {c.experts for _, c in small} == {8, 32, 64}


@pytest.mark.usefixtures("told")
def test_one_size_of_the_default_is_cut_into_heads():
    sizes = layer.parse_sizes("4096/32/2,64/8/2/64/256")
    found = [(row["tokens"], row["heads"]) for row in layer.measure(sizes) if row["impl"] == "ours"]
    assert list(dict.fromkeys(found)) == [(4096, 1), (4096, 2), (4096, 4), (4096, 8), (64, 1)]


# ------------------------------------------------------------------------------- goals


def measured(ms: float, impl: str = "ours", which: str = "forward", **size) -> dict:
    sizes = {"tokens": 4096, "experts": 32, "top_k": 2, "heads": 1, "d_model": 256, "d_ff": 1024}
    return sizes | size | {"pass": which, "impl": impl, "ms": ms, "ratio_to_floor": ms}


@pytest.mark.parametrize(
    ("size", "which", "goal"),
    [
        ({}, "forward", 1.3),
        ({}, "both", 1.4),
        ({"heads": 2}, "both", 1.05),
        ({"experts": 128, "tokens": 256}, "forward", 2.0),
    ],
)
def test_each_size_has_its_goal_beside_the_floor(size, which, goal):
    rows = [measured(3.0, which=which, **size), measured(2.0, "floor", which, **size)]
    (row,) = goals.reached(rows)
    assert (row.ratio, row.goal) == (1.5, goal)


def test_the_explainer_has_a_goal_in_milliseconds():
    rows = [measured(0.3, tokens=64, experts=8, d_model=64), measured(0.2, "floor", tokens=64)]
    (row,) = goals.reached(rows)
    assert (row.ours_ms, row.ratio, row.goal) == (0.3, None, 0.4)


def test_growth_is_from_8_to_128_experts():
    rows = [measured(ms, tokens=16384, experts=e) for ms, e in ((100.0, 8), (130.0, 128))]
    rows += [measured(100.0, "floor", tokens=16384, experts=e) for e in (8, 128)]
    (row,) = [row for row in goals.reached(rows) if row.name.endswith("growth")]
    assert (row.ratio, row.met) == (1.3, True)


def test_peers_are_judged_where_they_are_best_and_on_the_whole():
    rows = []
    for tokens, ours, theirs in ((16, 1.0, 4.0), (256, 2.0, 2.0)):
        size = {"tokens": tokens, "experts": 8, "d_model": 128}
        rows += [measured(ours, "ours swiglu", **size), measured(theirs, "transformers", **size)]
    worst, mean = goals.reached(rows)
    assert (worst.name, worst.ratio, worst.met) == (
        "transformers, forward: worst, 256/8/2",
        1,
        True,
    )
    assert (mean.ours_ms, mean.met) == (0.5, True)


def test_kernels_are_counted_without_views():
    x = torch.zeros(2, 3)
    with goals.Kernels() as counted:
        (x.t().reshape(3, 2)[0] + 1).view(2).unsqueeze(0).sum()
    assert counted.names == ["add", "sum"]


def test_a_small_layer_runs_few_kernels():
    """The count is of operations, the same on every machine."""
    for row in goals.kernel_rows():
        assert row.met, row


def test_the_trace_is_put_beside_the_bare_pass():
    row = goals.trace_row(runs=1, tokens=8)
    assert row.goal == 1.1
    assert row.ratio > 0


def test_the_costs_are_kept_small_and_whole(tmp_path):
    rows = tiny_rows()
    goals.write(tmp_path / "new" / "costs.json", rows, goals.reached(rows), threads=1)
    kept = json.loads((tmp_path / "new" / "costs.json").read_text("utf-8"))
    assert [dict(zip(kept["columns"], row, strict=True)) for row in kept["rows"]] == rows
    assert {"schema", "processor", "torch", "threads", "goals"} <= set(kept)


def test_sizes_are_read_with_and_without_widths():
    (first, one), (second, two) = layer.parse_sizes("4096/32/2,16/8/1/64/128")
    assert (first, one.experts, one.top_k, one.d_model, one.d_ff) == (4096, 32, 2, 256, 1024)
    assert (second, two.experts, two.top_k, two.d_model, two.d_ff) == (16, 8, 1, 64, 128)


@pytest.mark.parametrize(
    "arguments",
    [
        ["layer", "--sizes", "4096/32"],
        ["layer", "--sizes", "0/8/1"],
        ["layer", "--sizes", "16/2/4"],
        ["layer", "--sizes", "16/2/1", "--heads", "0"],
        ["layer", "--sizes", "16/2/1", "--heads", "7"],
        ["app", "--only", "nothing"],
        ["app", "--runs", "0"],
        ["nothing"],
    ],
)
def test_wrong_usage_is_said_and_ends_with_2(arguments, capsys):
    assert main(["bench", *arguments]) == 2
    assert capsys.readouterr().err


@pytest.mark.usefixtures("no_peers")
def test_the_command_line_prints_the_rows_as_json(tmp_path, capsys):
    kept = tmp_path / "costs.json"
    command = "bench layer --sizes 6/4/2/8/16 --heads 1 --runs 1 --json --write"
    assert main([*command.split(), str(kept)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == len(json.loads(kept.read_text("utf-8"))["rows"]) == 8


def test_a_gpu_that_is_not_there_is_said(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "layer", "--sizes", "6/4/2/8/16", "--device", "cuda"]) == 2
    assert "CUDA" in capsys.readouterr().err


# ------------------------------------------------------------------------------- the app


# ------------------------------------------------------------------------------- training


@pytest.fixture
def small(monkeypatch):
    """Recipes whose models are tiny."""
    real = Recipe.load

    def load(name):
        found = real(name)
        shape = TINY[f"{found.data}-{'e8' if found.model.moe else 'ffn'}"]
        classes = found.model.classes
        return replace(found, model=replace(shape, classes=classes), batch=2)

    monkeypatch.setattr(train.Recipe, "load", load)
    monkeypatch.setattr(train, "SECONDS", 0)


@pytest.mark.parametrize("name", train.MEMBERS)
def test_members_of_a_family_train_beside_as_many_multiplications(name):
    ours = Recipe.load(name)
    dense = train.equal_cost(ours)
    assert dense.model == replace(ours.model, moe=None, d_ff=dense.model.d_ff)
    assert dense.batch == ours.batch
    macs = [Transformer(one.model).counts()["macs_per_token"] for one in (ours, dense)]
    assert macs[0] == pytest.approx(macs[1], rel=1e-3)


def test_the_goal_of_training_is_the_smoes_on_a_cpu(small):
    smoe, many = train.measure(["text-e8", "text-e8-h4"], runs=3)
    assert list(smoe) == [
        "name", "ours_ms", "floor_ms", "ratio", "goal",
        "tokens_per_second", "floor_tokens_per_second",
    ]  # fmt: skip
    assert smoe["name"].startswith("text-e8: dense, d_ff ")
    assert smoe["goal"] == pytest.approx(1 / 0.6, abs=1e-3)
    assert many["goal"] is None
    assert smoe["tokens_per_second"] == pytest.approx(1000 * 2 * 16 / smoe["ours_ms"], rel=0.02)


@pytest.mark.parametrize("name", ["text-e8", "image-e8-soft"])
def test_what_is_timed_trains(name, small, monkeypatch):
    seen = []
    real = Learner.advance

    def advance(learner, number, task, run):
        seen.append((number, real(learner, number, task, run).loss))

    monkeypatch.setattr(Learner, "advance", advance)
    step = train.step_of(replace(train.Recipe.load(name), warmup=1), torch.device("cpu"))
    for _ in range(6):
        step()
    assert [number for number, _ in seen] == list(range(6))
    assert seen[-1][1] < seen[0][1]


def test_other_ways_stand_beside_float32(small, monkeypatch):
    compiled, dtypes = [], []
    monkeypatch.setattr(Transformer, "compile", lambda model: compiled.append(model))
    real = Learner.text

    def text(learner, ids, generator):
        task, run = real(learner, ids, generator)
        dtypes.append(run.output.dtype)
        return task, run

    monkeypatch.setattr(Learner, "text", text)
    names = [row["name"] for row in train.measure(train.WAYS, runs=3)]
    assert names == ["text-e8, bfloat16: float32", "text-e8, compiled: float32"]
    assert len(compiled) == 1
    assert dtypes[:8].count(torch.bfloat16) == 4
    assert set(dtypes[8:]) == {torch.float32}


def test_a_machine_without_a_compiler_leaves_its_row_empty(small, monkeypatch):
    def forward(*inputs, **named):
        raise RuntimeError("no compiler")

    # as torch does, which compiles at the first call
    monkeypatch.setattr(Transformer, "compile", lambda model: setattr(model, "forward", forward))
    (row,) = train.measure(["compiled"], runs=1)
    assert row.pop("name") == "text-e8, compiled: float32 (not here: RuntimeError)"
    assert set(row.values()) == {None}


def test_an_unknown_row_lists_the_known(capsys):
    assert main(["bench", "train", "--only", "cake"]) == 2
    assert "unknown 'cake'; known are text-e8, " in capsys.readouterr().err


def test_the_cheapest_case_runs(models, capsys):
    assert main(["bench", "app", "--only", "trace", "--runs", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    names = [f"forward with full trace, 16 tokens, {name}" for name in ("text-e8-h4", "text-e8")]
    assert [row["name"] for row in rows] == names
    for row in rows:
        assert row["goal"] == 1.25
        assert row["ratio"] == pytest.approx(row["ours_ms"] / row["floor_ms"], abs=0.01)


def test_every_sentence_is_new_and_told_apart_by_one_word():
    texts = app.sentences(40)
    assert len({app.number_of(text) for text in texts}) == len(texts) == 40
    assert len({len(text) for text in texts}) == 1


def test_a_missing_playwright_is_said_in_a_sentence(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "playwright.sync_api", None)
    assert main(["bench", "app", "--only", "play", "--runs", "1"]) == 1
    assert "tests/requirements.txt" in capsys.readouterr().err


@pytest.fixture
def record(models, tmp_path, monkeypatch) -> dict:
    """What the app sends with tiny models, in the file that the floors read."""
    monkeypatch.syspath_prepend(str(FLOORS))
    import record as recorder

    for card in models.glob("*-*.json"):  # the pages print how good each model is
        facts = json.loads(card.read_text("utf-8"))
        facts["metrics"] = {"bits_per_byte": 8.0, "relative_error": 1.0}
        card.write_text(json.dumps(facts), encoding="utf-8")
    st.cache_resource.clear()
    found = recorder.recorded(app.sentences(2))
    path = tmp_path / "record.json"
    path.write_text(json.dumps(found), encoding="utf-8")
    monkeypatch.setenv("MHMOE_BENCH_RECORD", str(path))
    yield found
    st.cache_resource.clear()


def explorers(at: AppTest) -> dict[str, object]:
    sent = [element.proto for element in at.get("bidi_component")]
    return {proto.id.split("-", 2)[2]: proto for proto in sent if "explorer" in proto.id}


def test_the_floor_of_the_controls_sends_the_apps_own_bytes(record):
    text, sample = list(record["sentences"])[1], list(record["samples"])[1]
    sides = []
    for script in (ROOT / "app.py", FLOORS / "floor_control.py"):
        at = AppTest.from_file(str(script), default_timeout=60).run()
        at.text_input(key="sentence").set_value(text).run()
        at.button(key=f"sample-{sample}").click().run()
        at.select_slider(key="heads").set_value(8).run()
        assert not at.exception
        sides.append(explorers(at))
    ours, floor = sides
    assert set(ours) == set(floor) == {"explorer-text", "explorer-image"}
    for key in ours:
        assert floor[key].json == ours[key].json
        assert floor[key].js_content == ours[key].js_content
        assert floor[key].css_content == ours[key].css_content


def pictures(at: AppTest) -> list[str]:
    """The components and charts of a page in order, as they go over the wire."""
    kinds = {"bidi_component": "json", "plotly_chart": "spec"}
    return [
        getattr(element.proto, kinds[element.type])
        for element in at.main
        if element.type in kinds and not element.proto.id.endswith(FRAME)
    ]


FRAME = ("he_page", "he_copy_link", "picture")  # and the drop zone, which takes input


@pytest.mark.parametrize("slug", ["start", "router"])
def test_the_floor_of_the_page_switch_sends_the_apps_own_charts(record, slug):
    draw_all = f"import replay\nfor item in replay.record()['pages'][{slug!r}]: replay.draw(item)"
    floor = AppTest.from_string(draw_all, default_timeout=60).run()
    ours = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    if slug != "start":
        ours.switch_page(f"pages/{slug}.py").run()
    assert not floor.exception
    assert not ours.exception
    assert pictures(floor) == pictures(ours) != []


def test_the_floor_of_the_page_switch_opens_with_the_start_page(record):
    at = AppTest.from_file(str(FLOORS / "floor_pages.py"), default_timeout=60).run()
    assert not at.exception
    assert set(explorers(at)) == {"explorer-text", "explorer-image"}


def test_the_floor_of_the_cold_open_is_one_chart_and_torch():
    at = AppTest.from_file(str(FLOORS / "floor_open.py"), default_timeout=60).run()
    assert not at.exception
    assert [element.type for element in at.main][1:] == ["plotly_chart"]
    assert "\nimport torch\n" in (FLOORS / "floor_open.py").read_text("utf-8")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_benches_know_no_streamlit_and_their_functions_are_short(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("streamlit") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("streamlit")
        elif isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name


def test_the_kept_costs_cover_every_size_and_their_ratios_follow_from_the_times():
    kept = json.loads((ROOT / "assets" / "layer-costs.json").read_text("utf-8"))
    ms = {tuple(row[:8]): row[8] for row in kept["rows"]}
    assert kept["columns"][:8] == [
        "tokens", "experts", "top_k", "heads", "d_model", "d_ff", "pass", "impl",
    ]  # fmt: skip
    tokens, experts, top_k, width = layer.HEADED
    headed = [(tokens, experts, top_k, heads, width, 4 * width) for heads in layer.HEADS]
    plain = [
        (tokens, c.experts, c.top_k, c.heads, c.d_model, c.d_ff)
        for tokens, c in layer.parse_sizes(layer.SIZES)
    ]
    for size, which in product(plain + headed, layer.PASSES):
        assert {(*size, which, name) in ms for name in ("ours", "floor", "dense")} == {True}
    for *case, milliseconds, ratio in kept["rows"]:
        if case[-1] == "ours":
            floor = ms[*case[:-1], "floor"]
            assert ratio == pytest.approx(milliseconds / floor, rel=0.01)
