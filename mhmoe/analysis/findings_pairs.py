"""Findings of models of pictures with captions, by the rules of ``mhmoe.analysis.findings``."""

from __future__ import annotations

from collections.abc import Iterator

from mhmoe.analysis import comparisons, comparisons_pairs, comparisons_pictures
from mhmoe.analysis.findings import order
from mhmoe.analysis.findings_pictures import untrained
from mhmoe.analysis.verdicts import LIMOE, Span, finding, mean, mean_span


def derive(models: dict[str, dict]) -> list[dict]:
    """All findings that only such models have, sorted."""
    rows = [
        row
        for name, entry in models.items()
        if "modality" in entry
        for row in _splits({name: entry})
    ]
    claims = (comparisons_pairs.BETTER, comparisons_pairs.NUMBERS)
    for pair in comparisons.pairs(comparisons.recipes(models, "pairs")):
        rows += comparisons_pictures.of_kinds(pair, *claims)
    return sorted(rows, key=order)


def _splits(one: dict[str, dict]) -> Iterator[dict]:
    """By what a choice tells of the modality, and by the experts that take one alone, each against
    chance and against models that have learned nothing: an untrained router tells words from
    patches, too, because they are embedded apart."""
    (entry,) = one.values()
    layers = entry["modality"]
    alone = [layer["one_sided"] for layer in layers]
    numbers = {
        "explained": (
            "Words and patches go to different experts",
            "share of the modality's information in a choice, mean of layers, less chance",
            mean(layer["explained"] for layer in layers),
            mean_span(layer["explained_interval"] for layer in layers),
            mean_span(_explained_by_chance(layer) for layer in layers),
        ),
        "one_sided": (
            "Experts of one modality alone emerge",
            "share of experts with half a fair share, or more, of one modality's choices and less "
            "of the other's, mean of layers",
            mean(row["value"] for row in alone),
            mean_span(row["interval"] for row in alone),
            mean_span((row["test"]["low"], row["test"]["high"]) for row in alone),
        ),
    }
    for name, (claim, unit, value, interval, chance) in numbers.items():
        key = f"modality-{name.replace('_', '-')}"
        start = untrained([other[name] for other in entry["untrained"]])
        for end, said, null, of in (
            ("chance", claim, chance, "words and patches of a pair exchanged"),
            ("untrained", f"{claim}: they learn to", start, "models that have learned nothing"),
        ):
            yield finding(
                f"{key}-{end}",
                said,
                f"{LIMOE}, abstract",
                "modality-specific experts emerge, no number",
                "above",
                f"{unit}; chance: {of}",
                value,
                interval,
                null,
                one,
            )


def _explained_by_chance(layer: dict) -> Span:
    """What dealing out anew gives, in the parts of the modality's information."""
    test, whole = layer["test"], layer["class_bits"]
    return (test["low"] - test["chance"]) / whole, (test["high"] - test["chance"]) / whole
