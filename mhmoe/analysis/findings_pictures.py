"""Findings of image models, by the rules and in the rows of ``mhmoe.analysis.findings``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mhmoe.analysis.findings import MHMOE, finding, mean, mean_span, order

V_MOE = "2106.05974"


def derive(models: dict[str, dict]) -> list[dict]:
    """All findings that only image models have, sorted."""
    pictures = {name: entry for name, entry in models.items() if "pictures" in entry}
    return sorted((row for name in pictures for row in _of_one({name: pictures[name]})), key=order)


def _of_one(one: dict[str, dict]) -> Iterator[dict]:
    (entry,) = one.values()
    if "complexity" in entry:  # only of several heads
        yield _attributes(one)
        texture = "texture (entropy of their grey levels)"
        yield from _busy(one, "texture", texture, entry["complexity"])
    if "photographs" in entry:
        photos = entry["photographs"]["boundary"]
        yield from _busy(one, "boundaries", "boundaries that people marked in photographs", photos)
    if "texture" in entry.get("over_time", {}):
        yield _grows(one)
    if "capacity" in entry:
        yield from _priority(one)


def _attributes(one: dict[str, dict]) -> dict:
    (entry,) = one.values()
    rows = [layer["spread"] for layer in entry["attributes"]]
    return finding(
        "heads-attributes",
        "Different heads attend to different attributes: shape, texture, colour, position",
        f"{MHMOE}, abstract (heads attend to various representation spaces)",
        "no number",
        "above",
        "what one profile of attributes for all heads leaves of their shares of information, root "
        "mean square, mean of layers; chance: heads exchanged in each picture",
        mean(row["value"] for row in rows),
        mean_span(row["interval"] for row in rows),
        mean_span((row["test"]["low"], row["test"]["high"]) for row in rows),
        one,
    )


def _busy(
    one: dict[str, dict], key: str, what: str, layers: Sequence[dict[str, dict]]
) -> Iterator[dict]:
    """``layers`` of ``report_pictures.of_complexity``."""
    rows = [layer["distinct"] for layer in layers]
    for null, claim, chance in (
        ("shift", f"Patches with more {what} visit more distinct experts", "maps shifted"),
        ("picture", "They do so for what they show, not for where they are", "pictures exchanged"),
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
            mean_span((row[null]["low"], row[null]["high"]) for row in rows),
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
    for over, claim in (
        ("position", "With few places, serving the surest patches first keeps accuracy"),
        ("random", "It does so for whom it serves, not only for serving no part of a picture last"),
    ):
        low = entry["capacity"]["gain"][over]["low"]
        yield finding(
            f"priority-{over}",
            claim,
            f"{V_MOE}, Batch Priority Routing",
            "clear advantage at capacity factors up to 0.5",
            "above",
            "accuracy more than in "
            + ("the order of position" if over == "position" else "random order")
            + ", mean of the capacity factors up to 0.5, places shared by a picture",
            low["value"],
            low["interval"],
            (0.0, 0.0),
            one,
        )
