"""Pictures with captions in the results file: what is hidden, who takes words, and verdicts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import PAIRS, TINY, VOCABULARY, written

from mhmoe import cli
from mhmoe.analysis import findings_pairs, nulls, report, report_pairs, results
from mhmoe.models import checkpoint, metrics, tokenizer
from mhmoe.models.transformer import Transformer
from mhmoe.training import captions, measure, measure_images, measure_pairs

SPARSE = replace(PAIRS, moe=TINY["image-e8"].moe)
DENSE = replace(PAIRS, moe=None, d_ff=64)
T, L = PAIRS.context, PAIRS.caption


@pytest.fixture(autouse=True)
def _quick(monkeypatch, models):
    monkeypatch.setenv("MHMOE_DEVICE", "cpu")
    for name, value in dict(PAIRS=8, ROUTED=6, FEW=4).items():
        monkeypatch.setattr(measure_pairs, name, value)
    monkeypatch.setattr(measure_images, "UNTRAINED", (0, 1))
    monkeypatch.setattr(report, "BOOTSTRAP", 50)
    monkeypatch.setattr(report, "SHUFFLES", 10)


@pytest.fixture
def pairs() -> measure_pairs.Pairs:
    return measure_pairs.drawn(PAIRS)


# ---------------------------------------------------------------------------- the pairs


def test_the_pairs_are_those_of_the_evaluation_and_fillings_are_neither(pairs):
    pixels, texts = captions.paired_validation(8)
    np.testing.assert_array_equal(pairs.pixels, pixels)
    ids, filled = tokenizer.filled(checkpoint.load_tokenizer(), texts, L)
    np.testing.assert_array_equal(pairs.caption, ids)
    np.testing.assert_array_equal(pairs.filled, filled)
    short = replace(pairs, filled=np.arange(L) >= 5 + np.zeros((8, 1), int))
    label = short.label(T)
    assert label.shape == (8, T + L)
    assert [np.bincount(row + 1).tolist() for row in label] == [[L - 5, T, 5]] * 8
    assert (label[:, :T] == 0).all()
    facts = pairs.facts(PAIRS)
    assert (facts["pairs"], facts["routed"], facts["tokens"]) == (8, 6, 6 * (T + L))
    other = replace(pairs, caption=pairs.caption + 1)
    assert other.facts(PAIRS)["sha256"] != facts["sha256"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"patch": 16}, "the model sees 64"), ({"words": 99}, "has 320 tokens, the model 99")],
)
def test_other_pictures_or_tokens_are_one_sentence(changes, message):
    with pytest.raises(measure.MeasureError, match=message):
        measure_pairs.drawn(replace(PAIRS, **changes))


# ---------------------------------------------------------------------------- the runs


def test_quality_is_that_of_the_card(pairs):
    model = Transformer(PAIRS, seed=3).eval()
    found = measure_pairs.quality(model, pairs, 0.25)
    data = (pairs.pixels, pairs.caption, pairs.filled, pairs.sizes)
    expected = metrics.pair_metrics(model, *data, mask_ratio=0.25)
    for key in ("relative_error", "masked_error", "caption_bits_per_byte"):
        assert found[key] == pytest.approx(expected[key], rel=1e-5), key
    assert found["caption_tokens"] == expected["caption_tokens"]
    assert found["caption_bytes"] == expected["caption_bytes"] == sum(found["pair_bytes"])
    other = expected["caption_bits_per_byte_other_picture"] - expected["caption_bits_per_byte"]
    assert found["next_picture"]["rise"] == pytest.approx(other, rel=1e-3)
    bits = sum(found["pair_bits"]) / sum(found["pair_bytes"])
    assert found["caption_bits_per_byte"] == pytest.approx(bits)
    low, high = found["caption_interval"]
    assert low < bits < high


def test_every_pair_has_the_bits_of_its_own_hidden_words(pairs):
    model = Transformer(PAIRS).eval()
    torch.nn.init.zeros_(model.embed_caption.weight)  # tied: all tokens are equally likely
    hidden = np.arange(L) < np.arange(8)[:, None]  # 0 words of the first pair, 7 of the last
    nats = metrics.caption_nats(model, pairs.pixels, pairs.caption, hidden)
    assert nats == pytest.approx(np.arange(8) * np.log(VOCABULARY), rel=1e-5)


def test_a_layers_trace_is_that_of_whole_pairs(pairs):
    model = Transformer(PAIRS, seed=3).eval()
    layers = measure_pairs.routed(model, pairs)
    alone = measure_pairs.routed(model, pairs.part(1))
    for layer, one in zip(layers, alone, strict=True):
        assert layer.sub_tokens == 8 * (T + L) * 4
        assert (layer.expert[: (T + L) * 4] == one.expert).all()
    model.mask_token.data.fill_(100.0)  # nobody meets it
    again = measure_pairs.routed(model, pairs)
    assert all((a.expert == b.expert).all() for a, b in zip(layers, again, strict=True))


# ---------------------------------------------------------------------------- who takes words


def modality(expert: np.ndarray, label: np.ndarray, experts: int = 4) -> dict:
    """Of choices [N, T] of one expert each."""

    class Layer:
        heads, top_k, sub_tokens = 1, 1, expert.size

    Layer.experts, Layer.expert = experts, expert.reshape(-1, 1)
    group = np.zeros(len(expert), int)
    r = report.Routed(Layer, group, nulls.resampled(group, report.BOOTSTRAP))
    return report_pairs.of_modality(r, label)


def test_experts_are_counted_by_what_they_take():
    """Six patches and two words a pair: expert 0 takes patches, 1 both, 2 words, 3 nothing."""
    label = np.tile([0, 0, 0, 0, 0, 0, 1, 1, -1], (5, 1))
    expert = np.tile([0, 0, 0, 1, 1, 1, 1, 2, 3], (5, 1))
    found = modality(expert, label)
    assert found["takes"] == {"both": 1, "patch": 1, "word": 1, "neither": 1}
    assert found["choices"] == {"patch": 30, "word": 10}
    # half of the patches and half of the words are expert 1's: counted alike, it takes as many
    assert found["words"] == pytest.approx([0, 0.5, 1, 0])
    assert found["one_sided"]["value"] == 0.5
    assert found["one_sided"]["interval"] == (0.5, 0.5)  # all pairs are alike


def test_a_split_is_told_from_chance(monkeypatch):
    monkeypatch.setattr(report, "SHUFFLES", 50)
    rng = np.random.default_rng(0)
    label = np.tile(np.repeat([0, 1], [40, 20]), (30, 1))
    whole = modality(2 * label + rng.integers(0, 2, label.shape), label)
    assert whole["explained"] == pytest.approx(1, abs=0.01)
    assert whole["one_sided"]["value"] == 1
    assert whole["one_sided"]["test"]["high"] == 0
    none = modality(rng.integers(0, 4, label.shape), label)
    assert none["explained"] == pytest.approx(0, abs=0.01)
    assert none["one_sided"]["value"] == 0
    assert none["takes"]["both"] == 4


# ---------------------------------------------------------------------------- entries


def test_runs_become_entries_and_findings(tmp_path, pairs, capsys):
    family = {"dense": DENSE, "sparse": SPARSE, "heads": PAIRS}
    for name, config in family.items():
        written(tmp_path / "runs", name, config, mask_ratio=0.25, snapshots=())
    written(tmp_path / "runs", "heads", PAIRS, seed=2, mask_ratio=0.25, snapshots=(1,))
    path = tmp_path / "r.json"
    asked = ["measure", "--runs", str(tmp_path / "runs"), "--out", str(path)]
    assert cli.main(asked) == 0
    assert "8 generated scenes with captions" in capsys.readouterr().out
    content = results.load(path)
    dense, sparse, heads = (content["models"][f"{name}-1"] for name in family)
    assert set(dense) == {"command", "facts", "pairs", "quality"}
    assert dense["facts"]["mask_ratio"] == 0.25
    assert dense["command"] == "python -m mhmoe measure dense-1 --runs RUNS"
    assert "diversity" in heads
    assert "diversity" not in sparse
    assert len(heads["modality"]) == len(heads["balance"]) == 2
    assert len(heads["untrained"]) == 2
    assert "over_time" in content["models"]["heads-2"]
    keys = {(row["key"], *row["models"]) for row in content["findings"]}
    for end in ("chance", "untrained"):
        assert (f"modality-explained-{end}", "sparse-1") in keys
        assert (f"modality-one-sided-{end}", "heads-1") in keys
    assert ("distinct-experts", "heads-1") in keys
    for row in content["findings"]:
        assert row["verdict"] in ("reproduced", "not reproduced")
        assert row["tokens"] == 6 * (T + L)
    before = path.read_bytes()
    assert cli.main(asked) == 0
    assert path.read_bytes() == before
    json.loads(before)


# ---------------------------------------------------------------------------- findings


def entry(name: str, error: list[float], bits: list[float], **facts) -> dict:
    """Of four pairs; a picture's baseline is 10, a caption has 10 bytes."""
    shape = dict(experts=4, top_k=2, heads=1, d_ff=8, router="linear", losses={"balance": 0.1})
    shape |= dict(params_total=100, params_active=50, macs_per_token=60, recipe=name, seed=1)
    quality = {"picture_error": error, "picture_baseline": [10.0] * 4}
    return {
        "command": "",
        "pairs": {"tokens": 8},
        "facts": shape | facts,
        "quality": quality | {"pair_bits": bits, "pair_bytes": [10] * 4},
    }


def test_kinds_meet_where_budgets_match():
    models = {
        "d": entry("ffn", [4, 6, 4, 6], [20, 30, 20, 30], experts=0, params_total=50),
        "s": entry("smoe", [3, 5, 3, 5], [20, 30, 20, 30]),
        "m": entry("heads", [3, 5, 3, 5], [18, 28, 18, 28], heads=4, macs_per_token=90),
    }
    rows = {row["key"]: row for row in findings_pairs.derive(models)}
    names = ("pairs-smoe-dense", "pairs-mhmoe-smoe-parameters")
    assert set(rows) == {f"{name}-{what}" for name in names for what in ("error", "caption")}
    row = rows["pairs-smoe-dense-error"]
    assert (row["models"], row["verdict"]) == (["d", "s"], "reproduced")
    assert (row["ours"], row["interval"]) == (pytest.approx(-0.1), pytest.approx((-0.1, -0.1)))
    assert rows["pairs-smoe-dense-caption"]["verdict"] == "not reproduced"  # equal is not better
    row = rows["pairs-mhmoe-smoe-parameters-caption"]
    assert (row["models"], row["verdict"]) == (["m", "s"], "reproduced")
    assert (row["ours"], row["interval"]) == (pytest.approx(-0.2), pytest.approx((-0.2, -0.2)))
    assert rows["pairs-mhmoe-smoe-parameters-error"]["verdict"] == "not reproduced"
    models["d"]["pairs"] = {"tokens": 9}
    assert {row["key"] for row in findings_pairs.derive(models)} == set(rows) - {
        "pairs-smoe-dense-error",
        "pairs-smoe-dense-caption",
    }


def test_a_split_that_untrained_models_have_is_not_learned():
    test = {"low": 0.0, "high": 0.02, "chance": 0.01}
    layer = {
        "explained": 0.5,
        "explained_interval": [0.45, 0.55],
        "class_bits": 0.5,
        "test": test,
        "one_sided": {"value": 0.75, "interval": [0.7, 0.8], "test": test},
    }
    start = [{"explained": value, "one_sided": 0.0} for value in (0.45, 0.5, 0.55)]
    one = entry("smoe", [1.0] * 4, [1.0] * 4) | {"modality": [layer, layer], "untrained": start}
    rows = {row["key"]: row for row in findings_pairs.derive({"s": one})}
    assert {key: row["verdict"] for key, row in rows.items()} == {
        "modality-explained-chance": "reproduced",
        "modality-explained-untrained": "not reproduced",
        "modality-one-sided-chance": "reproduced",
        "modality-one-sided-untrained": "reproduced",
    }
    assert rows["modality-explained-chance"]["null"] == pytest.approx((-0.02, 0.02))
