"""The panels of chapter 6: the visitor's picture as patches, experts, places and slots."""

from __future__ import annotations

import base64
import inspect
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image

from mhmoe.analysis import results, routing, vision
from mhmoe.figures import vision_plates as plates
from mhmoe.layers import soft
from mhmoe.layers.buffers import places
from mhmoe.layers.choice import token_choice
from mhmoe.models import checkpoint
from mhmoe.models.images import DecodedImage
from mhmoe.models.patches import to_patches
from mhmoe.models.transformer import Transformer
from mhmoe.trace import LayerTrace
from mhmoe.ui import kit, language, panels, runs
from mhmoe.ui.explorer import jpeg_url
from mhmoe.ui.kit import t
from mhmoe.ui.plates import plate
from mhmoe.ui.runs import ModelKey

KEYS = (ModelKey("image"), ModelKey("image", heads=1))
NAMES = ("MH-MoE", "SMoE")
SOFT = "image-e8-soft"
SCENES = language.ASSETS / "samples" / "scenes"
#: Stops of the capacity factor; None is unlimited.
FACTORS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, None)
HALF = FACTORS.index(0.5)


@dataclass(frozen=True)
class Scene:
    """What the chapter looks at: a picture under its name."""

    image: DecodedImage
    checksum: str

    @property
    def src(self) -> str:
        return jpeg_url(self.image.pixels)

    @property
    def grid(self) -> int:
        return runs.image_traces(KEYS[0], self.checksum, self.image, None)[None].input.grid[0]

    def layers(self, key: ModelKey) -> tuple[LayerTrace, ...]:
        return runs.image_traces(key, self.checksum, self.image, None)[None].layers

    @property
    def facts(self) -> dict[str, object]:
        layer, plain = self.layers(KEYS[0])[0], self.layers(KEYS[1])[0]
        side = self.image.pixels.shape[0]
        return {
            "side": side,
            "patch": side // self.grid,
            "grid": self.grid,
            "t": self.grid**2,
            "values": 3 * (side // self.grid) ** 2,
            "h": layer.heads,
            "s": layer.sub_tokens,
            "k": plain.top_k,
            "e": plain.experts,
            "layers": len(self.layers(KEYS[1])),
            "fair": self.grid**2 * plain.top_k // plain.experts,
            "half": self.grid**2 * plain.top_k // plain.experts // 2,
        }


def choose() -> Scene:
    """The visitor's picture, or a sample; the same as on the Start page."""
    drop, rest = kit.columns(1, 2)
    with drop:
        image, checksum = panels.picture()
    with rest:
        panels.sample_choice()
        panels.picture_notes(image)
    return Scene(image, checksum)


def _draw(name: str, data: dict, figures: Sequence[str], checks: dict[str, bool], experts: int):
    plate(
        f"vision-{name}",
        data,
        section="vision",
        experts=experts,
        figures=figures,
        checks=checks,
        alt=t(f"vision.alt_{name}"),
    )


def patches(scene: Scene) -> None:
    """VG-44, 45: cut, flattened, projected, told where it lies."""
    _, embedding = runs.named_image(KEYS[1].name, scene.checksum, scene.image)
    grid, size = scene.grid, scene.image.pixels.shape[0] // scene.grid
    sheet = _png(_filters(embedding.filters, size))
    data = plates.patches(scene.src, sheet, grid, size, embedding)
    side = scene.image.pixels.shape[0]
    like = vision.similarity(embedding.position)
    checks = {
        t("vision.check_count"): len(embedding.patches) == (side // size) ** 2,
        t("vision.check_values"): embedding.patches.shape[1] == 3 * size**2,
        t("vision.check_self"): np.allclose(np.diag(like), 1, atol=1e-5),
    }
    _draw("patches", data, ("VG-44", "VG-45"), checks, 8)


def _filters(weight: np.ndarray, size: int) -> np.ndarray:
    """The 32 strongest filters as small pictures, 16 in a row, each stretched to its range."""
    strong = np.argsort(-np.linalg.norm(weight, axis=1), kind="stable")[:32]
    shown = weight[strong].reshape(-1, size, size, 3)
    top = np.abs(shown).max((1, 2, 3), keepdims=True)
    return _sheet(127.5 + 127.5 * shown / top, 16)


def _sheet(tiles: np.ndarray, columns: int) -> np.ndarray:
    """[N, size, size, 3] 0..255 -> uint8 [rows*size, columns*size, 3]."""
    n, size = tiles.shape[:2]
    board = tiles.reshape(n // columns, columns, size, size, 3).swapaxes(1, 2)
    return np.clip(board.reshape(n // columns * size, columns * size, 3), 0, 255).astype(np.uint8)


def _png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def tints(scene: Scene) -> None:
    """VG-46: which expert takes which patch, per layer and per head."""
    grid = (scene.grid, scene.grid)
    rows, good = [], True
    for name, key in zip(NAMES, KEYS, strict=True):
        layers = scene.layers(key)
        h, k, e = layers[0].heads, layers[0].top_k, layers[0].experts
        alike = [
            [
                [round(v, 4) for v in vision.neighbours_alike(one.expert[j::h, 0], grid)]
                for j in range(h)
            ]
            for one in layers
        ]
        rows.append(
            {
                "name": name,
                "layers": layers,
                "distinct": [routing.distinct_experts(one) for one in layers],
                "chance": routing.distinct_chance(e, k, h),
                "alike": alike,
            }
        )
        good &= all(one.demand.sum() == one.sub_tokens * k for one in layers)
    data = plates.tints(scene.src, scene.grid, rows)
    _draw("tints", data, ("VG-46",), {t("vision.check_demand"): good}, e)


def scene_choice(own: Scene) -> tuple[Scene, str | None]:
    """The visitor's picture, or a generated scene, whose class is known."""
    files = {path.stem: path for path in sorted(SCENES.glob("*.jpg"))}
    name = kit.choice(
        t("vision.picture"),
        ["own", *files],
        default="own",
        key="vision-scene",
        show=lambda n: t("vision.own") if n == "own" else t("vision.scene", n=_number(n)),
    )
    if name == "own":
        return own, None
    return Scene(*runs.picture(files[name].read_bytes())), name.split("-")[1]


def _number(stem: str) -> int:
    return sorted(path.stem for path in SCENES.glob("*.jpg")).index(stem) + 1


def priority(scene: Scene, truth: str | None) -> None:
    """VG-47, 48, 49: who keeps a place, in two orders."""
    found = runs.image_orders(KEYS[1], scene.checksum, scene.image, FACTORS)
    names = ("position", "priority", "random")
    orders = {n: [list(one.layers) for one in found[n][0]] for n in names}
    last = len(orders["position"][0]) - 1
    masks = [vision.kept_choices(orders[n][HALF][last].kept, 1) for n in names[:2]]
    question = vision.survivor_question(*masks, scene.grid)
    data = plates.priority(
        scene.src,
        scene.grid,
        FACTORS,
        orders,
        _classes(found, names, truth),
        question,
        HALF,
        last,
    )
    limits = [
        (one.load <= one.capacity).all() for n in names for runs_ in orders[n][:-1] for one in runs_
    ]
    tight = orders["priority"][0]
    checks = {
        t("vision.check_places"): all(limits),
        t("vision.check_full"): all(
            one.load.sum() == np.minimum(one.demand, one.capacity).sum() for one in tight
        ),
        t("vision.check_free"): all(one.kept.all() for one in orders["priority"][-1]),
    }
    _draw("priority", data, ("VG-47", "VG-48", "VG-49"), checks, tight[0].experts)


def _classes(found: dict, names: Sequence[str], truth: str | None) -> dict | None:
    """Only for a scene: the classifier has seen nothing else."""
    if truth is None or found[names[0]][1] is None:
        return None
    labels = runs.card(KEYS[1].name)["classes"]
    return {
        "names": [t(f"vision.colour_{label}") for label in labels],
        "truth": labels.index(truth),
        "probs": [np.round(found[n][1], 3).tolist() for n in names],
    }


def curve() -> None:
    """VG-49: accuracy over the capacity factor, measured earlier on scenes nobody trained on."""
    entry = _measured()
    if entry is None:
        kit.notice("info", t("vision.curve_missing", model=KEYS[1].name))
        return
    limited = entry["capacity"]
    chance = 1 / len(runs.card(KEYS[1].name)["classes"])
    data = plates.curve(limited["rows"], limited["scenes"], chance)
    inside = all(r["low"] <= r["accuracy"] <= r["high"] for r in limited["rows"])
    _draw("curve", data, ("VG-49",), {t("vision.check_interval"): inside}, 8)


def _measured() -> dict | None:
    """The results file's entry of the plain model, if it has its capacity measured."""
    try:
        models = _results(language.ASSETS / "results.json")["models"]
    except (results.ResultsError, OSError):
        return None
    runs_of = re.compile(rf"{re.escape(KEYS[1].name)}(-\d+)?")  # whatever seed was measured
    for name, entry in models.items():
        if runs_of.fullmatch(name) and entry.get("capacity"):
            return entry
    return None


@st.cache_data(show_spinner=False)
def _results(path: Path) -> dict:
    return results.load(path)


def soft_layer(scene: Scene) -> LayerTrace | None:
    """One layer of Soft MoE on the picture, or None and a sentence why."""
    try:
        trace, _ = runs.named_image(SOFT, scene.checksum, scene.image)
    except checkpoint.CheckpointError as error:
        kit.notice("error", t("vision.soft_missing", reason=str(error)))
        return None
    index = kit.choice(
        t("vision.layer"),
        range(len(trace.layers)),
        default=len(trace.layers) - 1,
        key="vision-layer",
        show=lambda i: str(trace.layers[i].layer + 1),
    )
    return trace.layers[int(index)]


def slots(scene: Scene, layer: LayerTrace) -> None:
    """VG-52, 53: what each slot blends, what each patch reads."""
    size = scene.image.pixels.shape[0] // scene.grid
    per = layer.dispatch.shape[1] // layer.experts
    pick = np.linspace(0, per - 1, plates.SLOTS).round().astype(int)
    shown = (np.arange(layer.experts)[:, None] * per + pick).ravel()
    squares = scene.image.pixels.reshape(scene.grid, size, scene.grid, size, 3).swapaxes(1, 2)
    rows = squares.reshape(scene.grid**2, -1).astype(float)
    mixed = vision.blends(layer.dispatch[:, shown], rows).reshape(-1, size, size, 3)
    data = plates.slots(scene.src, jpeg_url(_sheet(mixed, plates.SLOTS)), scene.grid, layer, shown)
    read = vision.reads(layer.dispatch, layer.combine)
    checks = {
        t("vision.check_columns"): np.allclose(layer.dispatch.sum(0), 1, atol=1e-4),
        t("vision.check_reads"): np.allclose(read.sum(1), 1, atol=1e-4),
        t("vision.check_all"): bool((read > 0).all()),
    }
    _draw("slots", data, ("VG-52", "VG-53"), checks, layer.experts)


def mixing(layer: LayerTrace) -> None:
    """VG-50, 51: one matrix, two softmaxes."""
    scores = layer.logits.astype(float)
    by_token = np.exp(scores - scores.max(0)) / np.exp(scores - scores.max(0)).sum(0)
    checks = {
        t("vision.check_columns"): np.allclose(layer.dispatch.sum(0), 1, atol=1e-4),
        t("vision.check_rows"): np.allclose(layer.combine.sum(1), 1, atol=1e-4),
        t("vision.check_same"): np.allclose(by_token, layer.dispatch, atol=1e-5),
    }
    _draw("mixing", plates.mixing(layer), ("VG-50", "VG-51"), checks, layer.experts)


def soft_facts(layer: LayerTrace) -> dict[str, object]:
    T, P = layer.dispatch.shape
    return {
        "t": T,
        "slots": P,
        "per": P // layer.experts,
        "e": layer.experts,
        "effective": f"{vision.effective(layer.dispatch, 0).mean():.0f}",
        "layer": layer.layer + 1,
    }


def code_of(step: str) -> str:
    """The source of one step, as it runs here."""
    parts = {
        "patches": (to_patches, Transformer.forward),
        "tints": (token_choice,),
        "priority": (places, vision.priority),
        "slots": (soft.mix, vision.reads),
        "mixing": (soft.soft,),
    }
    return "\n\n".join(inspect.getsource(part) for part in parts[step])
