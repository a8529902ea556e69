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


# ---------------------------------------------------------------------------- probes


def probed(recipe: str, right: dict[str, list[int]], seed: int = 1, **facts) -> dict:
    """Asked about ten objects in each of four pictures."""
    rows = {
        name: {
            "accuracy": {"value": sum(each) / 40},
            "picture_correct": each,
            "picture_objects": [10] * 4,
        }
        for name, each in right.items()
    }
    return entry(recipe, [5.0] * 4, [1] * 4, seed, **facts) | {"probes": rows}


def test_probes_are_compared_picture_by_picture_at_both_sizings():
    sparse = {"shape": [2, 8, 2, 8], "texture": [5] * 4, "colour": [5] * 4, "position": [9] * 4}
    headed = {"shape": [3, 9, 3, 9], "texture": [9, 2, 9, 2], "colour": [5] * 4}
    models = {
        "d": probed("ffn", sparse, experts=0, params_total=50),
        "s": probed("smoe", sparse),
        "m": probed("heads", headed | {"position": [10] * 4}, heads=4, macs_per_token=90),
        "f": probed("flops", headed, heads=4, experts=9),
    }
    rows = derived(models)
    for key in ("mhmoe-smoe-parameters", "mhmoe-smoe-flops"):
        row = rows[f"{key}-probe-shape"]
        # the pictures differ much, but each has one right answer more
        assert (row["ours"], row["interval"]) == (pytest.approx(0.1), pytest.approx((0.1, 0.1)))
        assert row["verdict"] == "reproduced"
        assert row["unit"].endswith("interval over pictures of one seed")
        assert rows[f"{key}-probe-texture"]["ours"] == pytest.approx(0.05)
        assert rows[f"{key}-probe-texture"]["verdict"] == "not reproduced"
        assert rows[f"{key}-probe-colour"]["interval"] == (0, 0)
        assert rows[f"{key}-probe-colour"]["verdict"] == "not reproduced"  # equal is not better
    # where an object lies is given to all, and no claim is made of dense models
    assert len([key for key in rows if "-probe-" in key]) == 6


def test_probes_of_several_seeds_have_students_interval():
    models = {}
    for seed in (1, 2, 3):
        models[f"s-{seed}"] = probed("smoe", {"shape": [2, 4, 2, 4]}, seed)
        more = [2 + seed, 4 + seed, 2 + seed, 4 + seed]
        models[f"m-{seed}"] = probed("heads", {"shape": more}, seed, heads=4, macs_per_token=90)
    row = derived(models)["mhmoe-smoe-parameters-probe-shape"]
    # 0.1, 0.2, 0.3: mean 0.2, deviation 0.1, t of two degrees 4.303
    assert row["ours"] == pytest.approx(0.2)
    assert row["interval"][0] == pytest.approx(0.2 - 4.303 * 0.1 / 3**0.5)
    assert row["verdict"] == "not reproduced"
    assert row["unit"].endswith("interval over 3 seeds")
    assert row["models"] == ["m-1", "m-2", "m-3", "s-1", "s-2", "s-3"]


def test_a_probe_that_one_model_lacks_is_not_compared():
    with_probes = probed("heads", {"shape": [9] * 4}, heads=4, macs_per_token=90)
    rows = derived({"s": entry("smoe", [5.0] * 4, [1] * 4), "m": with_probes})
    assert set(rows) == {"mhmoe-smoe-parameters-error", "mhmoe-smoe-parameters-accuracy"}
    rows = derived({"s": probed("smoe", {"colour": [9] * 4}), "m": with_probes})
    assert not [key for key in rows if "-probe-" in key]
