"""The family of picture models: what its members share, and that each of them trains."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import IMAGE, Cut, cut_at

from mhmoe.models.transformer import Transformer
from mhmoe.training import loop, tasks
from mhmoe.training.loop import Job
from mhmoe.training.recipe import FAMILIES, Recipe, members

NAMES = members(FAMILIES / "image.toml")


def small(name: str) -> Recipe:
    """The member's recipe on pictures of 4 x 4 patches and a model of width 16."""
    found = Recipe.load(name)
    shape = replace(found.model, **IMAGE | {"attention_width": 0}, d_ff=found.model.d_ff and 8)
    if shape.moe:
        moe = replace(shape.moe, d_model=16, d_ff=8, slots=min(shape.moe.slots, 2))
        shape = replace(shape, moe=moe)
    return replace(found, model=shape, steps=3, batch=4, snapshots=(1,), warmup=1)


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY", 2)
    monkeypatch.setattr(loop, "REPORT_EVERY", 1)
    monkeypatch.setattr(tasks, "VALIDATION", 2)
    monkeypatch.setattr(tasks, "CLASSIFIED", 2)


@pytest.mark.parametrize("name", NAMES)
def test_every_member_trains_and_goes_on_bit_for_bit(name, tmp_path):
    whole = Job(small(name), tmp_path / "a")
    whole.run()
    assert len(whole.loss_log) == 3
    assert whole.snapshot(1).exists()
    moved = Transformer(whole.recipe.model, whole.recipe.seed).state_dict()
    for weight, value in whole.model.state_dict().items():
        assert not torch.equal(value, moved[weight]), weight

    with pytest.raises(Cut):
        Job(small(name), tmp_path / "b").run(cut_at(2))
    again = Job(small(name), tmp_path / "b")
    assert again.resume()
    again.run()
    assert again.loss_log == whole.loss_log
    assert again.validation == whole.validation
    for weight, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[weight]), weight


def test_members_differ_from_the_smoe_only_in_what_they_name():
    base = Recipe.load("image-e8")
    for heads in (4, 8):
        many = Recipe.load(f"image-e8-h{heads}")
        assert many.model == replace(base.model, moe=base.model.moe.matched(heads))
        assert replace(many, name="", model=base.model, snapshots=base.snapshots) == replace(
            base, name=""
        )
    flops = Recipe.load("image-flops-h4").model.moe
    assert flops == base.model.moe.matched(4, sizing="flops")
    dense = Recipe.load("image-ffn").model
    assert dense == replace(base.model, moe=None, d_ff=base.model.moe.d_ff * base.model.moe.top_k)
    soft = Recipe.load("image-e8-soft")
    assert soft.loss_weights == dict.fromkeys(base.loss_weights, 0.0)
    assert soft.model.moe.slots * soft.model.moe.experts == base.model.context


def test_sizes_are_equal_where_they_are_said_to_be_and_small():
    counted = {name: Transformer(Recipe.load(name).model).counts() for name in NAMES}
    base = counted["image-e8"]
    for name, counts in counted.items():
        assert 2 * counts["params_total"] < 3e6, name  # bytes in float16
        if name != "image-ffn":
            assert abs(counts["params_total"] / base["params_total"] - 1) < 0.02, name
    for name in ("image-ffn", "image-flops-h4"):
        assert abs(counted[name]["macs_per_token"] / base["macs_per_token"] - 1) < 0.1, name


def test_sparse_members_train_without_a_limit_of_places():
    for name in NAMES:
        moe = Recipe.load(name).model.moe
        assert moe is None or moe.capacity_factor is None


def test_headline_members_keep_four_snapshots():
    """With the untrained start and the end, six points."""
    assert {n: len(Recipe.load(n).snapshots) for n in NAMES if Recipe.load(n).snapshots} == {
        "image-e8": 4,
        "image-e8-h4": 4,
    }
