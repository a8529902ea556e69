"""What is shipped in assets/: every model, replay and number is what its card and recipe say."""

from __future__ import annotations

import json

import pytest

from mhmoe.analysis import findings, results
from mhmoe.models import checkpoint
from mhmoe.training import recipe
from mhmoe.training.recipe import Recipe

NAMES = checkpoint.names()
RESULTS = checkpoint.ASSETS / "results.json"


def plain(value: object) -> object:
    """As JSON has it: tuples are lists there."""
    return json.loads(json.dumps(value))


def test_what_is_shipped_is_what_the_recipes_ship():
    assert [name for name in recipe.known() if Recipe.load(name).ship] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_that_of_its_recipe_and_weights(name):
    model, card = checkpoint.load(name)  # raises where the checksum differs
    known = Recipe.load(name)
    assert card["recipe"] | {"ship": True} == plain(known.to_dict()) | {"ship": True}
    assert card["seed"] == known.seed
    assert card["training"]["steps"] == known.steps
    assert f"train {name} --seed {known.seed}" in card["reproduce"]
    assert card["licence"] == "CC0 1.0"
    assert card["data"]
    assert {key: card[key] for key in model.counts()} == model.counts()
    assert card["sha256"] == checkpoint.digest(checkpoint.weights(model))


@pytest.mark.parametrize("name", NAMES)
def test_snapshots_are_those_of_the_recipe(name):
    card = checkpoint.card(name)
    known = Recipe.load(name)
    kept = [0, *known.snapshots, known.steps]
    assert checkpoint.steps(card) == kept
    for step in kept:
        checkpoint.load(name, step=step)


def test_nothing_in_the_folder_belongs_to_no_card():
    cards = [checkpoint.card(name) for name in NAMES]
    files = {card["file"] for card in cards}
    files |= {row["file"] for card in cards for row in card.get("snapshots", [])}
    assert {path.name for path in checkpoint.folder().glob("*.safetensors")} == files


def test_the_assets_are_small():
    size = sum(path.stat().st_size for path in checkpoint.ASSETS.rglob("*") if path.is_file())
    assert size < 100_000_000


# ------------------------------------------------------------------------------- results


@pytest.fixture(scope="module")
def content() -> dict:
    return results.load(RESULTS)


def test_every_finding_follows_from_the_numbers_beside_it(content):
    assert content["findings"]
    assert results.merged(content, {})["findings"] == content["findings"]
    assert content["findings"] == sorted(content["findings"], key=findings.order)


def test_every_entry_is_that_of_its_recipe(content):
    for name, entry in content["models"].items():
        facts = entry["facts"]
        known = Recipe.load(facts["recipe"], facts["seed"])
        assert name == f"{known.name}-{known.seed}"
        assert facts["steps"] == known.steps
        assert facts["experts"] == (known.model.moe.experts if known.model.moe else 0)
        assert facts["heads"] == known.model.heads


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shipped_is_what_was_measured(content, name):
    card = checkpoint.card(name)
    assert content["models"][f"{name}-{card['seed']}"]["facts"]["weights"] == card["sha256"]
