"""Findings across image models: by hand, planted, and where nothing may be compared."""

from __future__ import annotations

import pytest

from mhmoe.analysis import comparisons_pictures, findings_pictures


def entry(recipe: str, error: list[float], correct: list[int], seed: int = 1, **facts) -> dict:
    """Of four pictures whose baseline is 10."""
    shape = dict(experts=4, top_k=2, heads=1, d_ff=8, router="linear", losses={"importance": 0.1})
    shape |= dict(params_total=100, params_active=50, macs_per_token=60)
    quality = {"picture_error": error, "picture_baseline": [10.0] * 4, "picture_correct": correct}
    return {
        "command": "",
        "pictures": {"tokens": 8},
        "facts": dict(recipe=recipe, seed=seed) | shape | facts,
        "quality": quality,
    }


def derived(models: dict[str, dict]) -> dict[str, dict]:
    return {row["key"]: row for row in findings_pictures.derive(models)}


def test_differences_by_hand():
    a, b = entry("a", [4, 6, 4, 6], [1, 0, 0, 0]), entry("b", [3, 5, 3, 5], [1, 1, 1, 1])
    error, accuracy = comparisons_pictures.NUMBERS
    # every picture has one less of ten
    less = (pytest.approx(-0.1), pytest.approx((-0.1, -0.1)))
    assert comparisons_pictures.difference(error, a, b) == less
    value, (low, high) = comparisons_pictures.difference(accuracy, a, b)
    assert value == 0.75
    assert 0 <= low < value < high == 1


def test_kinds_meet_where_budgets_match():
    better = [3.0, 5, 3, 5], [1, 1, 1, 1]
    models = {
        "d": entry("ffn", [4, 6, 4, 6], [0] * 4, experts=0, params_total=50),
        "s": entry("smoe", *better),
        "m": entry("heads", *better, heads=4, macs_per_token=90),
        "f": entry("flops", *better, heads=4, experts=9),
        "o": entry("soft", [2.0, 4, 2, 4], [1] * 4, router="soft-moe", losses={}),
        "l": entry("late", *better, heads=4, macs_per_token=90, seed=2),
    }
    rows = derived(models)
    keys = ("smoe-dense", "soft-smoe", "mhmoe-smoe-flops", "mhmoe-smoe-parameters")
    assert set(rows) == {f"{key}-{name}" for key in keys for name in ("error", "accuracy")}
    assert rows["smoe-dense-error"]["models"] == ["d", "s"]
    assert rows["smoe-dense-error"]["verdict"] == "reproduced"
    assert rows["smoe-dense-accuracy"]["verdict"] == "reproduced"
    assert rows["soft-smoe-error"]["verdict"] == "reproduced"
    assert rows["soft-smoe-accuracy"]["verdict"] == "not reproduced"  # equal is not better
    assert rows["mhmoe-smoe-parameters-error"]["models"] == ["m", "s"]
    assert rows["mhmoe-smoe-parameters-error"]["verdict"] == "not reproduced"
    assert "pictures of one seed" in rows["soft-smoe-error"]["unit"]


def test_models_without_classes_have_no_accuracy_to_compare():
    models = {name: entry(name, [1.0] * 4, [0] * 4) for name in ("ffn", "smoe")}
    models["ffn"]["facts"] |= dict(experts=0, params_total=50)
    for one in models.values():
        del one["quality"]["picture_correct"]
    assert set(derived(models)) == {"smoe-dense-error"}


def test_other_scenes_are_not_compared():
    models = {name: entry(name, [1.0] * 4, [0] * 4) for name in ("ffn", "smoe")}
    models["ffn"]["facts"] |= dict(experts=0, params_total=50)
    models["ffn"]["pictures"] = {"tokens": 9}
    assert derived(models) == {}
