"""Findings of image models, by the rules and in the rows of ``mhmoe.analysis.findings``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from statistics import stdev

from mhmoe.analysis import comparisons, comparisons_pictures
from mhmoe.analysis.findings import order
from mhmoe.analysis.verdicts import MHMOE, STUDENT, V_MOE, Span, finding, mean, mean_span


def derive(models: dict[str, dict]) -> list[dict]:
    """All findings that only image models have, sorted."""
    pictures = {name: entry for name, entry in models.items() if "pictures" in entry}
    rows = [row for name in pictures for row in _of_one({name: pictures[name]})]
    pairs = comparisons.pairs(comparisons.recipes(models, "pictures"))
    rows += [row for pair in pairs for row in comparisons_pictures.of_kinds(pair)]
    return sorted(rows, key=order)


def _of_one(one: dict[str, dict]) -> Iterator[dict]:
    (entry,) = one.values()
    if "complexity" in entry:  # only of several heads
        yield from _attributes(one)
        what, start = "texture (entropy of their grey levels)", entry["untrained"]
        yield from _busy(one, "texture", what, entry["complexity"], [o["texture"] for o in start])
    if "photographs" in entry:
        what, start = "boundaries that people marked", entry["photographs"]["untrained"]
        layers = entry["photographs"]["boundary"]
        yield from _busy(one, "boundaries", what, layers, [o["boundary"] for o in start])
    if "texture" in entry.get("over_time", {}):
        yield _grows(one)
    if "capacity" in entry:
        yield from _priority(one)


def untrained(values: Sequence[float]) -> Span:
    """Where another model that has learned nothing would lie with 95 %, given the numbers of some:
    their mean and Student's t times their deviation times sqrt(1 + 1 / n)."""
    n, middle = len(values), mean(values)
    wide = STUDENT[n - 1] * stdev(values) * (1 + 1 / n) ** 0.5
    return middle - wide, middle + wide


def _attributes(one: dict[str, dict]) -> Iterator[dict]:
    (entry,) = one.values()
    rows = [layer["spread"] for layer in entry["attributes"]]
    exchanged = mean_span((row["test"]["low"], row["test"]["high"]) for row in rows)
    start = untrained([other["spread"] for other in entry["untrained"]])
    for key, claim, chance, null in (
        (
            "exchanged",
            "Different heads attend to different attributes: shape, texture, colour, position",
            "heads exchanged in each picture",
            exchanged,
        ),
        ("untrained", "They have learned to do so", "models that have learned nothing", start),
    ):
        yield finding(
            f"heads-attributes-{key}",
            claim,
            f"{MHMOE}, abstract (heads attend to various representation spaces)",
            "no number",
            "above",
            "what one profile of attributes for all heads leaves of their shares of information, "
            f"root mean square, mean of layers; chance: {chance}",
            mean(row["value"] for row in rows),
            mean_span(row["interval"] for row in rows),
            null,
            one,
        )


def _busy(
    one: dict[str, dict], key: str, what: str, layers: Sequence[dict], start: Sequence[float]
) -> Iterator[dict]:
    """``layers`` of ``report_pictures.of_complexity``, and the mean of those of untrained
    models."""
    rows = [layer["distinct"] for layer in layers]
    nulls = {
        null: mean_span((row[null]["low"], row[null]["high"]) for row in rows)
        for null in ("shift", "picture")
    }
    for null, claim, chance in (
        ("shift", f"Patches with more {what} visit more distinct experts", "maps shifted"),
        ("picture", "They do so for what they show, not for where they are", "pictures exchanged"),
        ("untrained", "They have learned to do so", "models that have learned nothing"),
    ):
        yield finding(
            f"diversity-{key}-{null}",
            claim,
            f"{MHMOE}, figures 1b, 8 and 10",
            "brighter where there is texture, no number",
            "above",
            f"rank correlation within a picture, mean of pictures and layers; chance: {chance}",
            mean(row["value"] for row in rows),
            mean_span(row["interval"] for row in rows),
            nulls[null] if null in nulls else untrained(start),
            one,
        )


def _grows(one: dict[str, dict]) -> dict:
    (entry,) = one.values()
    rows = entry["over_time"]["texture"]
    step = entry["over_time"]["layers"][0][0]["step"]
    return finding(
        "diversity-texture-grows",
        "In training, patches with texture come to visit more distinct experts, plain ones fewer",
        f"{MHMOE}, figure 8",
        "textured patches grow brighter from 100,000 to 250,000 steps, no number",
        "above",
        f"rank correlation of distinct experts with texture, at the end less at step {step}, mean "
        "of pictures and layers",
        mean(row["value"] for row in rows),
        mean_span(row["interval"] for row in rows),
        (0.0, 0.0),
        one,
    )


def _priority(one: dict[str, dict]) -> Iterator[dict]:
    (entry,) = one.values()
    orders = {
        "position": (
            "With few places, serving the surest patches first keeps",
            "in the order of position",
        ),
        "random": (
            "For whom it serves, not only for serving no part of a picture last, it keeps",
            "in random order",
        ),
    }
    kept = {
        "accuracy": ("accuracy", "accuracy more than"),
        "error": ("the prediction of hidden patches", "their relative error less than"),
    }
    for (over, (claim, other)), (name, (what, unit)) in product(orders.items(), kept.items()):
        low = entry["capacity"]["gain"][over][name]["low"]
        yield finding(
            f"priority-{over}-{name}",
            f"{claim} {what}",
            f"{V_MOE}, Batch Priority Routing",
            "clear advantage in accuracy at capacity factors up to 0.5",
            "above",
            f"{unit} {other}, mean of the capacity factors up to 0.5, places shared by a picture",
            low["value"],
            low["interval"],
            (0.0, 0.0),
            one,
        )
