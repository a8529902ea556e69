"""Findings across models: what is compared, at which budget, and with which interval."""

from __future__ import annotations

import numpy as np
import pytest
from entries import entry

from mhmoe.analysis import comparisons, findings, sweeps, verdicts

# ---------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("rule", "interval", "word"),
    [
        ("above", (1.1, 2.0), "reproduced"),
        ("above", (0.9, 2.0), "not reproduced"),
        ("below", (-3.0, -1.1), "reproduced"),
        ("below", (-3.0, 0.0), "not reproduced"),
        ("negligible", (-0.5, 0.9), "reproduced"),
        ("negligible", (-0.5, 1.1), "not reproduced"),
        ("above", None, "not testable here"),
    ],
)
def test_a_verdict_follows_from_interval_and_null(rule, interval, word):
    assert verdicts.verdict(rule, interval, (-1.0, 1.0)) == word


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="'better' is none of"):
        verdicts.verdict("better", (0, 1), (0, 1))


# ---------------------------------------------------------------------------- intervals


def test_a_difference_of_one_seed_rests_on_its_windows():
    a, b = (entry("r", 1, bits) for bits in ([20, 30, 20, 30], [19, 29, 19, 29]))
    found = comparisons.bits([(1, b), (-1, a)])
    # each window of 10 bytes has one bit less
    assert found == (pytest.approx(-0.1), pytest.approx((-0.1, -0.1)))
    assert comparisons.over_seeds([found]) == (*found, "windows of one seed")


def test_a_difference_of_seeds_has_students_interval():
    # -0.1, -0.2, -0.3: mean -0.2, deviation 0.1, t of two degrees 4.303; their own are not used
    value, (low, high), of = comparisons.over_seeds([(-0.1 - s / 10, (-9, 9)) for s in range(3)])
    assert value == pytest.approx(-0.2)
    assert [value - low, high - value] == pytest.approx([4.303 * 0.1 / 3**0.5] * 2)
    assert of == "3 seeds"


def test_the_interval_of_a_difference_is_as_wide_as_both_can_lie_apart():
    value, interval = comparisons.apart((1.0, (0.5, 1.25)), (3.0, (2.0, 3.5)))
    assert (value, interval) == (2.0, (0.75, 3.0))


# ---------------------------------------------------------------------------- who with whom


def derived(models: dict[str, dict]) -> dict[str, dict]:
    return {row["key"]: row for row in findings.derive(models)}


def test_comparisons_are_made_where_budgets_match():
    models = {
        "d": entry("dense", 1, [20, 21, 20, 21], experts=0, params_total=50),
        "s": entry("sparse", 1, [19, 20, 19, 20]),
        "f": entry("flops", 1, [18, 19, 18, 19], heads=2, experts=9, params_total=101),
        "x": entry("other", 1, [18, 19, 18, 19], heads=2, router="x-moe", macs_per_token=90),
        "t": entry("late", 2, [18, 19, 18, 19], heads=2, macs_per_token=61),
    }
    rows = derived(models)
    # x differs from s in its base router and from d in its cost, t in its seed
    assert set(rows) == {"smoe-dense", "mhmoe-dense", "mhmoe-smoe-flops"}
    assert rows["smoe-dense"]["models"] == ["d", "s"]
    assert rows["mhmoe-smoe-flops"]["models"] == ["f", "s"]
    assert rows["smoe-dense"]["verdict"] == "reproduced"
    models["d"] = entry("dense", 1, [19, 20, 19, 20], experts=0, params_total=50)
    assert derived(models)["smoe-dense"]["verdict"] == "not reproduced"  # equal is not better


def test_runs_are_paired_by_seed_and_counted_once():
    """Seeds differ much from each other, pairs of one seed hardly; a checkpoint made of a run is
    no second draw of its seed."""
    models = {}
    for seed in (1, 2, 3):
        models[f"d-{seed}"] = entry("dense", seed, [20.0 + 5 * seed] * 4, experts=0)
        models[f"s-{seed}"] = entry("sparse", seed, [19.0 + 5 * seed - seed / 10] * 4)
    row = derived(models)["smoe-dense"]
    # -0.11, -0.12, -0.13
    assert row["ours"] == pytest.approx(-0.12)
    assert row["interval"][1] == pytest.approx(-0.12 + 4.303 * 0.01 / 3**0.5)
    assert row["unit"].endswith("interval over 3 seeds")
    again = derived(models | {"a shipped copy": models["s-2"]})["smoe-dense"]
    assert again["interval"] == pytest.approx(row["interval"])
    assert derived(models | {"z": models["s-2"]})["smoe-dense"]["models"] == row["models"]


def test_only_what_both_have_is_compared():
    models = {
        "d1": entry("dense", 1, [20.0] * 4, experts=0),
        "d2": entry("dense", 2, [20.0] * 4, experts=0),
        "s1": entry("sparse", 1, [19.0] * 4),
        "s2": entry("sparse", 2, [10.0] * 4) | {"text": {"tokens": 9}},
    }
    row = derived(models)["smoe-dense"]
    assert row["models"] == ["d1", "s1"]
    assert row["ours"] == pytest.approx(-0.1)
    assert row["unit"].endswith("interval over windows of one seed")


def test_finely_cut_experts_are_known_by_their_widths():
    models = {
        "s": entry("sparse", 1, [19.0] * 4, experts=4, top_k=2, d_ff=8),
        "fine": entry("fine", 1, [18.0] * 4, experts=8, top_k=4, d_ff=4),
        "more": entry("more", 1, [18.0] * 4, experts=8, top_k=2, d_ff=8, params_total=180),
        "mh": entry("heads", 1, [17.0] * 4, experts=30, top_k=2, d_ff=3, heads=2),
    }
    rows = derived(models)
    assert rows["fine-smoe"]["models"] == ["fine", "s"]
    assert rows["mhmoe-fine-flops"]["models"] == ["fine", "mh"]
    assert rows["mhmoe-smoe-flops"]["models"] == ["mh", "s"]
    assert rows["experts-smoe-4-8"]["models"] == ["more", "s"]
    assert rows["mhmoe-fine-flops"]["ours"] == pytest.approx(-0.1)
    assert "at 1.00 times the multiplications" in rows["mhmoe-fine-flops"]["unit"]


def test_other_losses_gates_or_shared_experts_are_another_question():
    base = {"d": entry("dense", 1, [20.0] * 4, experts=0), "s": entry("sparse", 1, [19.0] * 4)}
    assert set(derived(base)) == {"smoe-dense"}
    other = entry("free", 1, [18.0] * 4, losses={"balance": 0.0})
    assert "smoe-dense" not in derived({"d": base["d"], "s": other})
    for changed in ({"gate": "renormalised"}, {"shared": 1}, {"score": "sigmoid"}):
        mh = entry("heads", 1, [18.0] * 4, heads=2, **changed)
        assert not derived({"s": base["s"], "mh": mh})
    assert "mhmoe-smoe-flops" in derived({"s": base["s"], "mh": entry("h", 1, [18.0] * 4, heads=2)})


# ---------------------------------------------------------------------------- X-MoE's claims


def x_moe(**parts) -> dict[str, dict]:
    """A plain SMoE, and X-MoE with these parts in its entry; (first, second) each."""
    plain, other = entry("sparse", 1, [19.0] * 4), entry("x", 1, [19.0] * 4, router="x-moe")
    for name, (first, second) in parts.items():
        plain[name], other[name] = first, second
    return {"s": plain, "x": other}


def number(value: float, wide: float = 0.0) -> dict:
    return {"value": value, "interval": [value - wide, value + wide]}


def test_collapse_is_compared_as_a_ratio():
    def layers(*values: float, wide: float = 0.0, start: float = 8.0) -> list[dict]:
        return [number(value, wide) | {"untrained": number(start)} for value in values]

    plain, other = layers(8.0, 2.0, wide=1), layers(16.0, 8.0, wide=1, start=64.0)
    rows = derived(x_moe(collapse=(plain, other)))
    row = rows["xmoe-smoe-collapse"]
    assert row["ours"] == pytest.approx(np.log([2, 4]).mean())
    assert row["verdict"] == "reproduced"
    assert row["interval"][0] == pytest.approx(np.log([15 / 9, 7 / 3]).mean())
    # from 8 to 8 and 2, but from 64 to 16 and 8: it has fallen more
    fall = rows["xmoe-smoe-collapse-training"]
    assert fall["ours"] == pytest.approx(np.log([2 / 8, 4 / 8]).mean())
    assert fall["verdict"] == "not reproduced"
    same = derived(x_moe(collapse=(plain, plain)))["xmoe-smoe-collapse"]
    assert (same["ours"], same["verdict"]) == (0, "not reproduced")


def test_what_falls_in_training_is_told_from_what_was_low_before():
    def value(entry: dict) -> tuple:
        value, (low, high) = comparisons.log_fall({"collapse": [entry]})
        return value, low, high

    start = {"untrained": number(8.0, 1)}
    assert value(number(4.0, 1) | start) == pytest.approx(np.log([4 / 8, 3 / 9, 5 / 7]))
    assert value(number(8.0) | {"untrained": number(8.0)}) == (0, 0, 0)


def test_fluctuation_is_compared_at_the_same_snapshots():
    def times(*shares: float, at=(1, 2)) -> dict:
        return {"at": list(at), "layers": [[{"changed_next": number(s, 0.01)} for s in shares]]}

    row = derived(x_moe(over_time=(times(0.5, 0.3), times(0.3, 0.1))))["xmoe-smoe-fluctuation"]
    assert row["ours"] == pytest.approx(-0.2)
    assert row["interval"] == pytest.approx((-0.22, -0.18))
    other = times(0.3, 0.1, at=(1, 3))
    assert "xmoe-smoe-fluctuation" not in derived(x_moe(over_time=(times(0.5, 0.3), other)))


def test_consistency_of_seeds_is_compared():
    plain, other = ({"runs": {"r": [number(v, 0.02)]}} for v in (0.4, 0.45))
    row = derived(x_moe(other_seeds=(plain, other)))["xmoe-smoe-consistency"]
    assert row["ours"] == pytest.approx(0.05)
    assert row["interval"] == pytest.approx((0.01, 0.09))
    assert row["verdict"] == "reproduced"


def test_a_probe_is_compared_window_by_window_where_both_have_it():
    def probes(**correct: list[int]) -> dict:
        """Of ten tokens in each of four windows."""
        return {
            task: {
                "accuracy": {"value": sum(right) / 40},
                "window_correct": right,
                "window_tokens": [10] * 4,
            }
            for task, right in correct.items()
        }

    first = probes(language=[2, 8, 2, 8], word_class=[5, 5, 5, 5])
    rows = derived(x_moe(probes=(first, probes(language=[3, 9, 3, 9]))))
    row = rows["xmoe-smoe-probe-language"]
    # the windows differ much, but each has one right answer more
    assert (row["ours"], row["interval"]) == (pytest.approx(0.1), pytest.approx((0.1, 0.1)))
    assert row["verdict"] == "reproduced"
    assert "xmoe-smoe-probe-word-class" not in rows
    other = probes(language=[2, 8, 2, 8], word_class=[9, 2, 9, 2])
    rows = derived(x_moe(probes=(first, other)))
    assert rows["xmoe-smoe-probe-word-class"]["ours"] == pytest.approx(0.05)
    assert rows["xmoe-smoe-probe-word-class"]["verdict"] == "not reproduced"
    assert rows["xmoe-smoe-probe-language"]["interval"] == (0, 0)


# ---------------------------------------------------------------------------- sweeps


def test_heads_are_compared_at_equal_parameters():
    models = {
        f"h{h}": entry(f"h{h}", 1, [bits] * 4, heads=h, d_ff=h)
        for h, bits in ((2, 20.0), (4, 19.0), (8, 18.0))
    }
    rows = derived(models)
    assert set(rows) == {"heads-2-4", "heads-4-8"}
    assert rows["heads-2-4"]["verdict"] == "reproduced"
    assert rows["heads-4-8"]["ours"] == pytest.approx(-0.1)  # better with 8, against the paper
    assert rows["heads-4-8"]["verdict"] == "not reproduced"


def test_the_lead_grows_or_does_not():
    """4 experts: 20 and 19 bits of 10 bytes; 8: 19 and 18; 16: 18 and 16."""
    models = {}
    for experts, plain, headed in ((4, 20.0, 19.0), (8, 19.0, 18.0), (16, 18.0, 16.0)):
        size = dict(experts=experts, params_total=25 * experts)
        models[f"s{experts}"] = entry(f"s{experts}", 1, [plain] * 4, **size)
        models[f"m{experts}"] = entry(f"m{experts}", 1, [headed] * 4, heads=4, d_ff=5, **size)
    rows = derived({name: models[name] for name in ("s4", "s8", "m4", "m8")})
    assert rows["experts-gap"]["ours"] == pytest.approx(0)
    assert rows["experts-gap"]["verdict"] == "not reproduced"
    rows = derived({name: models[name] for name in ("s4", "s16", "m4", "m16")})
    assert rows["experts-gap"]["ours"] == pytest.approx(-0.1)
    assert rows["experts-gap"]["verdict"] == "reproduced"
    every = findings.derive(models)
    (gap,) = (row for row in every if row["key"] == "experts-gap")
    assert gap["models"] == ["m16", "m4", "s16", "s4"]
    steps = {row["key"] for row in every if row["key"].startswith("experts-")}
    assert steps == {
        *("experts-smoe-4-8", "experts-smoe-8-16"),
        *("experts-mhmoe-4-8", "experts-mhmoe-8-16", "experts-gap"),
    }


def test_alpha_is_judged_by_what_it_evens_and_what_it_costs():
    def one(alpha: float, bits: float, cv: float) -> dict:
        found = entry(f"a{alpha}", 1, [bits] * 4, losses={"balance": alpha, "z": 0.0})
        return found | {"balance": [{"cv": number(cv, 0.1)}]}

    free, weak, strong = one(0.0, 20.0, 1.0), one(0.01, 20.1, 0.3), one(0.1, 21.0, 0.9)
    rows = {row["key"]: row for row in _of_pairs({"f": free, "w": weak, "s": strong})}
    assert set(rows) == {f"alpha-{a}-{what}" for a in ("0.01", "0.1") for what in WHATS}
    assert rows["alpha-0.01-balance"]["ours"] == pytest.approx(-0.7)
    assert rows["alpha-0.01-balance"]["verdict"] == "reproduced"
    assert rows["alpha-0.1-balance"]["verdict"] == "not reproduced"  # 0.9 within 0.2 of 1
    assert rows["alpha-0.01-quality"]["ours"] == pytest.approx(0.005)
    assert rows["alpha-0.01-quality"]["verdict"] == "reproduced"
    assert rows["alpha-0.1-quality"]["verdict"] == "not reproduced"
    noisy = one(0.01, 20.0, 0.1)
    noisy["facts"]["losses"]["z"] = 0.1
    assert _of_pairs({"f": free, "n": noisy}) == []


WHATS = ("balance", "quality")


def _of_pairs(models: dict[str, dict]) -> list[dict]:
    return list(sweeps.of(list(comparisons.pairs(comparisons.recipes(models)))))
