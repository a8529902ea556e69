"""From measured numbers to findings: a claim of a paper, our number, chance, and a verdict.

The numbers come from the models' entries in the results file (``mhmoe.analysis.results``), so
findings are derived anew whenever it changes. Here are those of one model; those of several stand
in ``mhmoe.analysis.comparisons``.
"""

from __future__ import annotations

from collections.abc import Iterator

from mhmoe.analysis import comparisons, comparisons_encoders, components, sweeps
from mhmoe.analysis.verdicts import (
    MHMOE,
    MIXTRAL,
    NEGLIGIBLE,
    OLMOE,
    ST_MOE,
    X_MOE,
    active,
    finding,
    is_encoder,
    mean,
    mean_span,
)

SENTINELS = "entropy of routing sentinel tokens in the {} {} of at most 3.47 nats"
#: What ST-MoE reports of the classes by which experts may split, by the rule of the claim.
THEIRS = {
    ("language", "negligible"): "experts do not split by language, no number",
    ("token_class", "negligible"): SENTINELS.format("decoder", "3.4"),
    ("token_class", "above"): SENTINELS.format("encoder", "1.2 to 2.2"),
    ("word_class", "negligible"): SENTINELS.format("decoder", "3.4"),
    ("word_class", "above"): "experts for articles, verbs, proper names, chosen by hand; no number",
}


def derive(models: dict[str, dict]) -> list[dict]:
    """All findings of all models, sorted; those of pictures alone, and of pictures with captions,
    are in ``mhmoe.analysis.findings_pictures`` and ``mhmoe.analysis.findings_pairs``."""
    rows = [row for name in models for row in _of_one({name: models[name]})]
    recipes = comparisons.recipes(models)
    together = list(comparisons.pairs(recipes))
    rows += [row for pair in together for row in comparisons.of_kinds(pair)]
    rows += sweeps.of(together)
    rows += components.of(together)
    rows += comparisons_encoders.of(recipes)
    return sorted(rows, key=order)


def order(row: dict) -> tuple[str, list[str]]:
    """The key by which findings are sorted."""
    return row["key"], row["models"]


# ------------------------------------------------------------------------ one model


def _of_one(one: dict[str, dict]) -> Iterator[dict]:
    (entry,) = one.values()
    if "balance" not in entry:
        return
    sparse = entry["facts"]["heads"] == 1
    yield from ([_unused(one)] if sparse else [_diverse(one)])
    if "coactivation" in entry:
        yield _pairs_up(one)
    if comparisons.has_rc(entry):
        yield _collapses(one)
    if "over_time" in entry:
        yield _saturates(one)
        yield _fluctuates(one)
    if "other_seeds" in entry:
        yield _consistent(one)
    if "text" in entry:
        yield from _of_text(one)


def _of_text(one: dict[str, dict]) -> Iterator[dict]:
    (entry,) = one.values()
    if "language" in entry:
        yield _split(one, "language", "Experts of a multilingual model do not split by language")
    for key, what in (("token_class", "kinds of tokens"), ("word_class", "word classes")):
        if key not in entry:
            continue
        if is_encoder(entry):
            yield _split(one, key, f"Experts of an encoder specialise in {what}", "above")
        else:
            yield _split(one, key, f"Experts of a decoder do not specialise in {what}")
    if "meanings" in entry:
        yield from _meanings(one)
    yield from _repeats(one)
    yield _capacity(one)


def _unused(one: dict[str, dict]) -> dict:
    (entry,) = one.values()
    value, interval, null = active(entry, "sub_tokens", 0.5)
    return finding(
        "unused-experts",
        "A plain sparse MoE leaves most of its experts unused",
        f"{MHMOE}, figure 1a",
        "8.33 % of the experts activated, threshold not given",
        "below",
        "share of experts above half the fair share",
        value,
        interval,
        null,
        one,
    )


def _diverse(one: dict[str, dict]) -> dict:
    (entry,) = one.values()
    rows = [layer["distinct"] for layer in entry["diversity"]]
    return finding(
        "distinct-experts",
        "The sub-tokens of one token go to different experts, more than by chance",
        f"{MHMOE}, figures 1b, 2 and 7",
        "no number",
        "above",
        "distinct experts per token, mean of layers; chance: tokens dealt out anew in each head",
        mean(row["value"] for row in rows),
        mean_span(row["interval"] for row in rows),
        mean_span((row["heads"]["low"], row["heads"]["high"]) for row in rows),
        one,
    )


def _meanings(one: dict[str, dict]) -> Iterator[dict]:
    (entry,) = one.values()
    for name, found in entry["meanings"].items():
        yield finding(
            f"meanings-{name.replace('_', '-')}",
            "Words of two meanings visit more distinct experts than other words as frequent "
            f"({name.replace('_', ' ')})",
            f"{MHMOE}, figure 7",
            "shifted to more experts, no number and no control",
            "above",
            "distinct experts per token more than ordinary words of the same language, length and "
            "frequency, mean of layers; chance: labels dealt out anew among these",
            found and found["excess"],
            found and found["interval"],
            found and (found["test"]["low"], found["test"]["high"]),
            one,
        )


def _split(one: dict[str, dict], key: str, claim: str, rule: str = "negligible") -> dict:
    (entry,) = one.values()
    most = max(entry[key], key=lambda layer: layer["explained"])
    name = key.replace("_", "-")
    return finding(
        f"no-split-{name}" if rule == "negligible" else f"split-{name}",
        claim,
        f"{ST_MOE}, tables 13 and 14 and their discussion",
        THEIRS[key, rule],
        rule,
        "share of the classes' information in a choice, the layer with most, less chance; "
        f"margin {NEGLIGIBLE:g}",
        most["explained"],
        most["explained_interval"],
        (-NEGLIGIBLE, NEGLIGIBLE),
        one,
    )


def _repeats(one: dict[str, dict]) -> Iterator[dict]:
    (entry,) = one.values()
    last = entry["repetition"][-1]["first"]
    for within, claim in (
        ("layer", "Neighbouring tokens share their first expert more often than by chance"),
        ("window", "They do so because they are neighbours, not only because of their text"),
    ):
        yield finding(
            f"repetition-{within}",
            claim + " (last layer)",
            f"{MIXTRAL}, table 5",
            "25.3 % in layer 31 on Wikipedia, chance 12.5 %",
            "above",
            f"share of neighbours; chance: tokens dealt out anew in the {within}",
            last["value"],
            last["interval"],
            (last[within]["low"], last[within]["high"]),
            one,
        )


def _pairs_up(one: dict[str, dict]) -> dict:
    (entry,) = one.values()
    rows = entry["coactivation"]
    limit = 2 * rows[0]["uniform"]
    return finding(
        "coactivation",
        "Experts are seldom chosen together",
        f"{OLMOE}, co-activation",
        "little co-activation, no number",
        "below",
        "share of an expert's sub-tokens that go with its most frequent partner, mean of layers; "
        "limit: twice uniform chance",
        mean(row["strongest"] for row in rows),
        mean_span(row["interval"] for row in rows),
        (limit, limit),
        one,
    )


def _saturates(one: dict[str, dict]) -> dict:
    (entry,) = one.values()
    rows = [layer[0]["saturation"] for layer in entry["over_time"]["layers"]]
    step, steps = entry["over_time"]["layers"][0][0]["step"], entry["over_time"]["steps"]
    return finding(
        "saturation",
        f"Routing settles early: it resembles the end's already at {step / steps:.0%} of training",
        f"{OLMOE}, router saturation",
        "about 60 % at 0.4 % of training, 80 % at 40 %",
        "above",
        "share of experts as at the end, mean of layers; chance: the same demands, dealt out anew",
        mean(row["value"] for row in rows),
        mean_span(row["interval"] for row in rows),
        mean_span((row["demand"], row["demand"]) for row in rows),
        one,
    )


def _fluctuates(one: dict[str, dict]) -> dict:
    (entry,) = one.values()
    rows = [layer[-1]["changed_next"] for layer in entry["over_time"]["layers"]]
    step, steps = entry["over_time"]["at"][-1], entry["over_time"]["steps"]
    return finding(
        "fluctuation",
        f"Routing fluctuates late in training: from {step / steps:.0%} of it to its end",
        f"{X_MOE}, routing fluctuation",
        "a curve",
        "above",
        "share of sub-tokens with another first choice, mean of layers; margin "
        f"{NEGLIGIBLE:g}; for the same demands dealt out anew it is "
        f"{mean(row['demand'] for row in rows):.3f}",
        mean(row["value"] for row in rows),
        mean_span(row["interval"] for row in rows),
        (0.0, NEGLIGIBLE),
        one,
    )


def _collapses(one: dict[str, dict]) -> dict:
    (entry,) = one.values()
    value, interval = comparisons.log_fall(entry)
    return finding(
        "collapse",
        "Training draws the representations of an expert's tokens together",
        f"{X_MOE}, RC metric",
        "RC falls, a curve",
        "below",
        "logarithm of RC over that of the untrained model, mean of layers",
        value,
        interval,
        (0.0, 0.0),
        one,
    )


def _consistent(one: dict[str, dict]) -> dict:
    (entry,) = one.values()
    rows = [layer for layers in entry["other_seeds"]["runs"].values() for layer in layers]
    return finding(
        "consistency",
        "Runs with other seeds divide the same input alike, up to the numbering of the experts",
        f"{X_MOE}, inter-run consistency",
        "correlation of the experts' loads, a figure",
        "above",
        "correlation of matched experts' choices, mean of layers and other seeds; chance: the "
        "tokens of one run dealt out anew",
        mean(row["value"] for row in rows),
        mean_span(row["interval"] for row in rows),
        mean_span((row["test"]["low"], row["test"]["high"]) for row in rows),
        one,
    )


def _capacity(one: dict[str, dict]) -> dict:
    (entry,) = one.values()
    factors = entry["capacity"]["factors"]
    near = min(factors, key=lambda row: abs(row["dropped"] - 0.125))
    plain = entry["quality"]["bits_per_byte"]
    fits = abs(near["dropped"] - 0.125) <= 0.05
    return finding(
        "capacity",
        "Losing 10 to 15 % of the choices to full experts hardly hurts",
        f"{ST_MOE}, fine-tuning with dropped tokens",
        "SuperGLUE 86.5 with 10.6 % dropped, 86.7 with 0.3 %",
        "negligible",
        f"bits per byte more, relative, with {near['dropped']:.1%} dropped (capacity factor "
        f"{near['factor']:g}); margin {NEGLIGIBLE:g}",
        near["rise"] / plain,
        (near["interval"][0] / plain, near["interval"][1] / plain) if fits else None,
        (-NEGLIGIBLE, NEGLIGIBLE),
        one,
    )
