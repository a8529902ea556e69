"""Time and memory of a pass: of equal sizes, counted right, and never part of a verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from entries import entry
from tiny import TINY

from mhmoe import cli
from mhmoe.analysis import findings, results
from mhmoe.models.transformer import Transformer
from mhmoe.training import costs

CPU = torch.device("cpu")
WINDOWS = np.random.default_rng(0).integers(0, 320, (20, 16))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setenv("MHMOE_DEVICE", "cpu")
    monkeypatch.setattr(costs, "ROUNDS", 3)


@pytest.mark.parametrize("size", ["params_active", "params_total"])
@pytest.mark.parametrize("name", ["text-e8", "text-e8-h4"])
def test_dense_models_have_as_many_parameters(name, size):
    config = TINY[name]
    asked = Transformer(config).counts()[size]
    found = costs.dense(config, asked)
    one = 2 * config.d_model * config.blocks  # one neuron more in every block
    assert abs(found.counts()["params_total"] - asked) <= one / 2
    assert found.config == replace(config, moe=None, d_ff=found.config.d_ff)


def test_bytes_that_live_at_once_by_hand():
    def step() -> None:
        first = torch.zeros(1000)  # 4,000 bytes
        second = torch.zeros(3000)  # 16,000 live
        del first
        third = torch.zeros(500)  # 14,000 live
        del second, third
        torch.zeros(2000)  # 8,000

    assert costs.peak_bytes(step, CPU) == 16_000
    assert costs.peak_bytes(lambda: None, CPU) == 0


def test_a_batch_twice_as_large_takes_twice_the_memory():
    model = Transformer(TINY["text-e8"]).eval()

    def peak(rows: int) -> int:
        ids = torch.zeros(rows, 16, dtype=torch.long)
        return costs.peak_bytes(lambda: costs._forward(model, ids), CPU)

    logits = 4 * 320 * 16 * 4  # the least that a pass over 4 windows leaves
    assert peak(4) > logits
    assert peak(8) == pytest.approx(2 * peak(4), rel=0.1)


def test_every_model_stands_beside_two_dense_ones():
    model = Transformer(TINY["text-e8-h4"]).eval()
    found = costs.costs(model, WINDOWS)
    assert found["tokens"] == 16 * 16  # one batch
    assert set(found["models"]) == {"own", "dense_active", "dense_total"}
    own, total = found["models"]["own"], found["models"]["dense_total"]
    assert own["weight_bytes"] == 4 * own["parameters"]
    assert own["weight_bytes"] == pytest.approx(total["weight_bytes"], rel=0.02)
    assert set(found["ratios"]) == {"dense_active", "dense_total"}


def test_ratios_are_those_within_a_round(monkeypatch):
    """The machine is ten times slower in the second round: 3/1, 40/10, 5/1 of the first dense."""
    series = [[3.0, 40.0, 5.0], [1.0, 10.0, 1.0], [2.0, 20.0, 2.0]]
    monkeypatch.setattr(costs, "interleaved", lambda rounds, calls, *limit: series)
    found = costs.costs(Transformer(TINY["text-e8"]).eval(), WINDOWS)
    assert found["rounds"] == 3
    assert found["ratios"]["dense_active"] == {"value": 4, "middle_half": [3.5, 4.5]}
    assert found["ratios"]["dense_total"]["value"] == 2
    assert found["models"]["own"]["microseconds_per_token"] == pytest.approx(5e6 / 256)


def test_a_dense_model_stands_alone():
    found = costs.costs(Transformer(TINY["text-ffn"]).eval(), WINDOWS)
    assert list(found["models"]) == ["own"]
    assert found["ratios"] == {}


def test_the_command_measures_costs_when_asked_and_no_verdict_knows(tmp_path, text_dir, models):
    path = tmp_path / "r.json"
    asked = ["measure", "text-ffn", "--text-dir", str(text_dir), "--out", str(path)]
    assert cli.main([*asked, "--costs"]) == 0
    (found,) = results.load(path)["models"].values()
    assert found["costs"]["depends_on_machine"] is True
    assert set(found["costs"]["machine"]) == {"device", "processor", "threads", "torch"}
    assert found["command"].endswith("--costs")
    two = {"d": entry("dense", 1, [20.0] * 4, experts=0), "s": entry("sparse", 1, [19.0] * 4)}
    rows = findings.derive(two)
    two["s"]["costs"] = found["costs"]
    assert findings.derive(two) == rows
    assert cli.main(asked) == 0
    assert "costs" not in results.load(path)["models"]["text-ffn"]
