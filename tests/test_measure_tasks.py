"""Text models beside the others: encoders, which guess hidden tokens, and models of English."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from entries import entry
from tiny import TINY, written

from mhmoe import cli
from mhmoe.analysis import comparisons, findings, report, results
from mhmoe.layers import WhatIf
from mhmoe.models import metrics
from mhmoe.models.transformer import Transformer
from mhmoe.training import measure, measure_text, questions

DECODER = TINY["text-e8"]
ENCODER = replace(DECODER, causal=False)


@pytest.fixture(autouse=True)
def _quick(monkeypatch, models):
    monkeypatch.setenv("MHMOE_DEVICE", "cpu")
    monkeypatch.setattr(questions, "WINDOWS", 3)
    monkeypatch.setattr(measure_text, "FEW", 2)
    monkeypatch.setattr(measure, "REMOVALS", 8)
    monkeypatch.setattr(measure_text, "FACTORS", (0.5, 2.0))
    monkeypatch.setattr(report, "BOOTSTRAP", 50)
    monkeypatch.setattr(report, "SHUFFLES", 10)


@pytest.fixture
def held(text_dir):
    return questions.held_out(text_dir, DECODER)


@pytest.fixture
def trees(tmp_path):
    """One sentence, many times."""
    words = (("The", "DET"), ("dog", "NOUN"), ("sleeps", "VERB"), (".", "PUNCT"))
    rows = [f"{i + 1}\t{w}\t_\t{kind}" + "\t_" * 6 for i, (w, kind) in enumerate(words)]
    folder = tmp_path / "trees"
    folder.mkdir()
    for language in ("de", "en"):
        (folder / f"{language}.conllu").write_text(("\n".join(rows) + "\n\n") * 20, "utf-8")
    return folder


# ---------------------------------------------------------------------------- what is asked


def test_an_encoder_is_asked_what_its_evaluation_hides(held):
    model = Transformer(ENCODER, seed=3).eval()
    asked = questions.Question.of(held, ENCODER, 0.25)
    assert (asked.asked.sum(1) == 4).all()
    expected = metrics.text_metrics(model, held.windows, held.sizes, mask_ratio=0.25)
    found = asked.quality(asked.nats(model))
    for key in ("bits_per_byte", "perplexity", "tokens", "bytes"):
        assert found[key] == pytest.approx(expected[key], rel=1e-5), key
    assert asked.facts["predicted"] == found["tokens"] == 18 * 4
    assert (asked.facts["hidden"], asked.facts["tokens"]) == (0.25, 18 * 16)


def test_a_decoder_is_asked_all_tokens_after_the_first(held):
    asked = questions.Question.of(held, DECODER, 0.25)
    assert not asked.asked[:, 0].any()
    assert asked.asked[:, 1:].all()
    assert (asked.hidden, asked.facts["predicted"]) == (0, 18 * 15)


def test_a_part_is_asked_the_same(held):
    model = Transformer(ENCODER, seed=3).eval()
    asked = questions.Question.of(held, ENCODER, 0.25)
    part, rows = asked.part(2), held.first(2)
    assert part.nats(model) == pytest.approx(asked.nats(model)[rows], rel=1e-5)
    assert (part.size == asked.size[rows]).all()
    off = WhatIf(experts_off=(0,))
    rise = part.rise(part.nats(model, off, 1), part.nats(model))
    more = (part.nats(model, off, 1) - part.nats(model)).sum() / np.log(2) / part.size.sum()
    assert rise["rise"] == pytest.approx(more)


# ---------------------------------------------------------------------------- entries


def measured(folder, held) -> dict[str, dict]:
    return {s.name: measure_text.measure(s, held) for s in measure.subjects([], folder)}


def test_an_encoder_is_measured_as_a_decoder_and_not_compared_in_quality(tmp_path, held):
    for name, config in (("decoder", DECODER), ("encoder", ENCODER)):
        written(tmp_path, name, config, mask_ratio=0.25)
    dense = replace(ENCODER, moe=None, d_ff=64)
    written(tmp_path, "dense", replace(dense, causal=True))
    found = measured(tmp_path, held)
    encoder = found["encoder-1"]
    assert set(encoder) == set(found["decoder-1"])
    assert encoder["facts"]["mask_ratio"] == encoder["text"]["hidden"] == 0.25
    assert found["decoder-1"]["facts"]["mask_ratio"] is None
    assert encoder["quality"]["tokens"] == 18 * 4
    assert json.dumps(results.rounded(encoder), allow_nan=False)
    rows = results.merged({"models": {}}, found)["findings"]
    mine = {row["key"] for row in rows if row["models"] == ["encoder-1"]}
    assert {"split-token-class", "no-split-language", "saturation", "capacity"} <= mine
    assert "no-split-token-class" not in mine
    both = {row["key"] for row in rows if row["models"] == ["decoder-1", "encoder-1"]}
    assert both == {"encoder-decoder-token-class", "encoder-decoder-language"}
    with_dense = {row["key"]: row["models"] for row in rows if "dense-1" in row["models"]}
    assert {tuple(names) for names in with_dense.values()} <= {("decoder-1", "dense-1")}


def test_whole_windows_are_routed(held):
    """Of an encoder whose mask is loud: nobody meets it."""
    model = Transformer(ENCODER, seed=3).eval()
    before = measure_text.routed(model, held.windows)
    model.mask_token.data.fill_(100.0)
    after = measure_text.routed(model, held.windows)
    assert all((a.expert == b.expert).all() for a, b in zip(before, after, strict=True))


def test_a_model_of_english_is_measured_on_english(tmp_path, text_dir, trees, capsys):
    sizes = (("english", {"languages": ("en",)}), ("both", {"languages": ("de", "en")}))
    for name, changes in sizes:
        written(tmp_path / "runs", name, TINY["text-e8-h4"], data="text", **changes)
    path = tmp_path / "r.json"
    asked = ["--text-dir", text_dir, "--treebanks", trees, "--runs", tmp_path / "runs"]
    assert cli.main(["measure", *map(str, asked), "--out", str(path)]) == 0
    assert "english-1: 48 tokens of en" in capsys.readouterr().out
    content = results.load(path)
    english, both = (content["models"][name] for name in ("english-1", "both-1"))
    assert english["text"]["languages"] == ["en"]
    assert english["text"]["tokens"] == english["treebanks"]["tokens"] == 3 * 16
    assert list(english["quality"]["languages"]) == ["en"]
    quality = english["quality"]
    assert quality["languages"]["en"]["bits_per_byte"] == quality["bits_per_byte"]
    assert both["text"]["tokens"] == both["treebanks"]["tokens"] == 6 * 16
    assert set(both) - set(english) == {"language"}
    assert set(english["probes"]) == {"word_class"}
    assert set(both["probes"]) == {"language", "word_class"}
    keys = {name: set() for name in content["models"]}
    for row in content["findings"]:
        keys[row["models"][0]].add(row["key"])
        assert len(row["models"]) == 1  # other text is never compared
    assert keys["both-1"] - keys["english-1"] == {"no-split-language"}
    assert keys["english-1"] >= {"no-split-token-class", "no-split-word-class", "distinct-experts"}


def test_english_windows_are_those_of_the_common_text(text_dir, held):
    english = questions.held_out(text_dir, DECODER, ["en"])
    assert (english.windows == held.windows[held.language == 1]).all()
    assert not english.language.any()
    assert english.facts["sha256"] != held.facts["sha256"]


# ---------------------------------------------------------------------------- findings


def test_english_has_the_papers_own_numbers():
    models = {
        "d": entry("dense", 1, [20.0] * 4, experts=0),
        "s": entry("sparse", 1, [19.0] * 4),
        "m": entry("heads", 1, [18.0] * 4, heads=4, macs_per_token=90),
    }
    for one in models.values():
        one["activation"] = {}  # would be asked for if the text were XNLI's
        one["text"]["languages"] = ["en"]
        one["quality"]["languages"] = {"en": {}}
    rows = {row["key"]: row for row in findings.derive(models)}
    assert set(rows) == {"smoe-dense-english", "mhmoe-smoe-parameters-english"}
    assert rows["smoe-dense-english"]["theirs"] == "English perplexity 14.82 against 16.23 (X-MoE)"
    row = rows["mhmoe-smoe-parameters-english"]
    assert row["theirs"].startswith("English perplexity 12.72 against 14.82")
    assert row["claim"].endswith("(English alone)")
    assert (row["ours"], row["verdict"]) == (pytest.approx(-0.1), "reproduced")
    models["m"]["text"]["languages"] = ["de"]
    assert {row["key"] for row in findings.derive(models)} == {"smoe-dense-english"}


def split(name: str, seed: int, explained: float, hidden: float = 0.0, **facts) -> dict:
    """Of two layers, as much apart from ``explained`` in each direction, each 0.02 wide."""
    layers = [
        {"explained": value, "explained_interval": [value - 0.01, value + 0.01]}
        for value in (explained - 0.1, explained + 0.1)
    ]
    found = entry(name, seed, [20.0] * 4, **facts)
    found["text"] = {"tokens": 8, "hidden": hidden, "predicted": 6 - 10 * hidden}
    return found | {"token_class": layers, "word_class": layers, "treebanks": {"sha256": "a"}}


def compared(models: dict[str, dict]) -> dict[str, dict]:
    rows = findings.comparisons_encoders.of(comparisons.recipes(models))
    return {row["key"]: row for row in rows}


def test_an_encoder_is_compared_with_its_decoder_by_seed():
    models = {
        "d1": split("decoder", 1, 0.2),
        "d2": split("decoder", 2, 0.3),
        "e1": split("encoder", 1, 0.5, hidden=0.3),
        "d3": split("decoder", 3, 0.9),
    }
    rows = compared(models)
    assert set(rows) == {"encoder-decoder-token-class", "encoder-decoder-word-class"}
    row = rows["encoder-decoder-token-class"]
    assert row["models"] == ["d1", "e1"]
    assert row["ours"] == pytest.approx(0.3)
    assert row["interval"] == (pytest.approx(0.28), pytest.approx(0.32))
    assert row["verdict"] == "reproduced"
    again = compared(models | {"e2": split("encoder", 2, 0.6, hidden=0.3)})
    assert again["encoder-decoder-token-class"]["unit"].endswith("interval over 2 seeds")
    assert again["encoder-decoder-token-class"]["interval"] == (pytest.approx(0.3),) * 2
    less = compared({"d": models["d1"], "e": split("encoder", 1, 0.2, hidden=0.3)})
    assert less["encoder-decoder-word-class"]["verdict"] == "not reproduced"


def test_language_is_a_claim_of_no_difference():
    def both(more: float) -> dict:
        models = {"d": split("decoder", 1, 0.2), "e": split("encoder", 1, 0.2, hidden=0.3)}
        for name, by in (("d", 0.0), ("e", more)):
            number = 0.2 + by
            span = [number - 0.001, number + 0.001]
            models[name]["language"] = [{"explained": number, "explained_interval": span}]
        return compared(models)["encoder-decoder-language"]

    assert both(0.005)["verdict"] == "reproduced"
    assert both(0.02)["verdict"] == "not reproduced"


def test_what_differs_besides_is_not_compared():
    decoder = split("decoder", 1, 0.2)
    assert compared({"d": decoder, "e": split("encoder", 1, 0.5, hidden=0.3)})
    for changed in ({"heads": 2}, {"experts": 8}, {"losses": {}}, {"projections": 1}):
        assert not compared({"d": decoder, "e": split("encoder", 1, 0.5, hidden=0.3, **changed)})
    assert not compared({"d": decoder, "e": split("other", 1, 0.5)})  # two decoders
    elsewhere = split("encoder", 1, 0.5, hidden=0.3)
    elsewhere["treebanks"] = {"sha256": "b"}
    assert set(compared({"d": decoder, "e": elsewhere})) == {"encoder-decoder-token-class"}
    elsewhere["text"]["tokens"] = 9
    assert not compared({"d": decoder, "e": elsewhere})


def test_encoders_and_decoders_are_no_pair():
    models = {
        "d": split("dense", 1, 0.2, experts=0),
        "e": split("encoder", 1, 0.5, hidden=0.3),
        "s": split("decoder", 1, 0.5),
    }
    found = {pair.recipes for pair in comparisons.pairs(comparisons.recipes(models))}
    assert found == {("dense", "decoder"), ("decoder", "dense")}
