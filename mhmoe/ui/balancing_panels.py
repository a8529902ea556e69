"""The panels of chapter 4: an uneven router, and what pulls it even.

Every panel takes the :class:`Scene` of chapter 3, the token that is followed, and mounts one plate.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import numpy as np
import streamlit as st

from mhmoe.analysis import balance, balancing, routing
from mhmoe.analysis.router import gates
from mhmoe.figures import balancing_plates as plates
from mhmoe.layers import keep_top_k, losses
from mhmoe.layers.choice import expert_choice
from mhmoe.layers.routers import noise_std, noisy
from mhmoe.layers.soft import soft
from mhmoe.models import checkpoint, engine, forces
from mhmoe.trace import LayerTrace
from mhmoe.ui import runs
from mhmoe.ui.kit import t
from mhmoe.ui.plates import plate
from mhmoe.ui.router_panels import Scene, choose, lines
from mhmoe.ui.runs import ModelKey

__all__ = ["Scene", "choose", "lines"]

#: The model that learned its noise; shown where it is shipped.
NOISY = "text-e8-noisy"
SCALES = (0, 0.25, 0.5, 1, 1.5, 2, 3, 4)
CHOOSERS = ("linear", "expert-choice", "soft-moe")
CHOICES = (1, 2, 3, 4)
SHAZEER = "topk-softmax"
STRENGTHS = {"importance": (0.1, 0.3, 1.0), "both": (0.1, 0.3, 1.0), "bias": (0.002, 0.005, 0.05)}
FAMILY, REFERENCE = "text", "text-e8"
#: ST-MoE's example of rounding: ten scores of 128 and one of 128.5.
ROUNDED = (128.0,) * 10 + (128.5,)


def facts(scene: Scene) -> dict[str, object]:
    """Numbers for the sentences around the pictures, from the layer that they show."""
    layer = scene.layer
    given = balancing.gate_sums(layer, layer.gate_convention).sum(0)
    made = balancing.equal_gates()
    one, two = (balancing.variation(values) for values in balancing.GUIDE)
    exact, coarse = forces.rounded_softmax(np.array(ROUNDED))
    return scene.facts | {
        "number": layer.layer + 1,
        "e": layer.experts,
        "s": layer.sub_tokens,
        "busiest": int(given.argmax()) + 1,
        "idlest": int(given.argmin()) + 1,
        "times": f"{given.max() / max(given.min(), 1e-9):.1f}",
        "cv": f"{balancing.variation(given):.2f}",
        "top": f"{np.sqrt(layer.experts - 1):.2f}",
        "cv32": f"{one:.3f}",
        "cv33": f"{two:.3f}",
        "sample32": f"{balancing.variation(balancing.GUIDE[0], sample=True):.3f}",
        "sample33": f"{balancing.variation(balancing.GUIDE[1], sample=True):.3f}",
        "few": int((made > 0).sum(0).min()),
        "many": int((made > 0).sum(0).max()),
        "exact": f"{exact:.3f}",
        "coarse": f"{coarse:.3f}",
        "z": f"{layer.losses['z']:.2f}",
        "draws": f"{forces.DRAWS:,}",
    }


def _draw(name: str, data: dict, figures: Sequence[str], checks: dict[str, bool], experts: int):
    plate(
        f"balancing-{name}",
        data,
        section="load-balancing",
        experts=experts,
        figures=figures,
        checks=checks,
        alt=t(f"load-balancing.alt_{name}"),
    )


# ------------------------------------------------------------------------------- pictures


def importance(scene: Scene) -> None:
    """VG-30: sums of gates, token by token."""
    layer = scene.layer
    names = dict.fromkeys((layer.gate_convention, SHAZEER))
    sums = {key: balancing.gate_sums(layer, key) for key in names}
    chance = {key: balancing.growing_chance(layer, key) for key in names}
    counted = np.bincount(
        layer.expert.ravel(), np.where(layer.kept, layer.gate, 0).ravel(), layer.experts
    )
    checks = {
        t("load-balancing.check_total", n=layer.sub_tokens): np.isclose(
            sums[SHAZEER].sum(), layer.sub_tokens
        ),
        t("load-balancing.check_recorded"): np.allclose(
            sums[layer.gate_convention].sum(0), counted, atol=1e-3
        ),
    }
    data = plates.importance(layer, scene.names, sums, chance)
    _draw("importance", data, ("VG-30",), checks, layer.experts)


def bars(scene: Scene) -> None:
    """VG-31, 32, 33: five bars to drag."""
    given = np.sort(balancing.gate_sums(scene.layer, scene.layer.gate_convention).sum(0))[::-1]
    data = plates.bars(given[: len(balancing.GUIDE[0])])
    stored = {case["key"]: case for case in data["cases"]}
    checks = {
        t("load-balancing.check_guide"): np.allclose(
            [(stored[k]["cv"], stored[k]["sample"]) for k in ("guide32", "guide33")],
            [(1.0048, 1.1234), (0.1884, 0.2107)],
            atol=1e-4,
        ),
        t("load-balancing.check_bounds"): np.allclose(
            [stored["even"]["cv"], stored["one"]["cv"]], (0, 2)
        ),
    }
    _draw("bars", data, ("VG-31", "VG-32", "VG-33"), checks, 5)


@st.cache_resource(max_entries=24, show_spinner=False)
def _descents(key: ModelKey, text: str, index: int) -> dict[str, forces.Descent]:
    layer = runs.text_traces(key, text, None)[None].layers[index]
    return runs._run(
        lambda d: {
            loss: forces.descend(layer.logits, layer.top_k, layer.gate_convention, loss, strengths)
            for loss, strengths in STRENGTHS.items()
        }
    )


def descent(scene: Scene) -> None:
    """VG-34, X-05: pulled even by a loss, or by a bias."""
    layer = scene.layer
    found = _descents(scene.key, scene.text, scene.pick.layer)
    first = [d.load[:, 0] for d in found.values()]
    slope = found["importance"].pull[:, 0].sum(-1)
    checks = {
        t("load-balancing.check_start"): all((load == layer.demand).all() for load in first),
        t("load-balancing.check_kept"): all(
            np.allclose(d.load.sum(-1), layer.sub_tokens * layer.top_k) for d in found.values()
        ),
        t("load-balancing.check_slopes"): np.allclose(slope, 0, atol=1e-4),
    }
    data = plates.descent(found, layer.sub_tokens, layer.top_k)
    _draw("descent", data, ("VG-34", "X-05"), checks, layer.experts)


def equal(scene: Scene) -> None:
    """C-08: equal importance, unequal load."""
    made = balancing.equal_gates()
    checks = {
        t("load-balancing.check_equal"): np.allclose(made.sum(0), made.sum() / 4),
        t("load-balancing.check_tokens"): np.allclose(made.sum(1), 1),
        t("load-balancing.check_demand"): bool(
            (
                (gates(scene.layer.logits, scene.layer.top_k, SHAZEER) > 0).sum(0)
                == scene.layer.demand
            ).all()
        ),
    }
    _draw(
        "equal", plates.equal(scene.layer, SHAZEER), ("VG-30", "C-08"), checks, scene.layer.experts
    )


@st.cache_resource(max_entries=24, show_spinner=False)
def _noise_of(key: ModelKey, text: str, index: int, row: int) -> tuple[LayerTrace, list]:
    """The layer whose scores are shaken, and per source of noise its std and its draws. Where a
    model with learned noise is shipped, its scores and its noise; else fixed noise on the layer's
    own scores."""

    def work(where) -> tuple[LayerTrace, list]:
        layer, learned, s = runs.text_traces(key, text, None)[None].layers[index], None, row
        if NOISY in checkpoint.names():
            loaded = engine.load(NOISY, where)
            trace = engine.trace_text(loaded, text, vectors=True)[0]
            s = row // layer.heads
            layer = trace.layers[min(index, len(trace.layers) - 1)]
            learned = forces.learned_std(loaded, trace, min(index, len(trace.layers) - 1))
        stds = {} if learned is None else {"learned": learned}
        stds |= {"fixed": forces.fixed_std(layer.logits), "first": forces.first_std(layer.logits)}
        found = [
            (name, std[s], forces.redraw(layer.logits, std, s, layer.top_k, SCALES))
            for name, std in stds.items()
        ]
        return layer, [s, *found]

    return runs._run(work)


def noise(scene: Scene) -> None:
    """VG-25: the noise drawn again and again, beside the closed form."""
    layer, (s, *sources) = _noise_of(scene.key, scene.text, scene.pick.layer, scene.sub)
    rest = SCALES.index(1)
    clean = layer.logits[s].astype(float)
    agree = [
        balancing.within_errors(
            found.share[rest],
            balancing.chosen_probability(clean, std.astype(float), layer.top_k),
            forces.DRAWS,
        )
        for _, std, found in sources
    ]
    closed = np.concatenate([found.closed[rest].sum(keepdims=True) for *_, found in sources])
    checks = {
        t("load-balancing.check_draws"): all(agree),
        t("load-balancing.check_closed", k=layer.top_k): np.allclose(
            closed, layer.top_k, atol=0.05
        ),
        t("load-balancing.check_still"): not any(found.moved[0].any() for *_, found in sources),
    }
    data = plates.noise(clean, layer.top_k, SCALES, sources, layer.sub_tokens, forces.DRAWS)
    _draw("noise", data, ("VG-25",), checks, layer.experts)


def noise_is_learned() -> bool:
    return NOISY in checkpoint.names()


def mask(scene: Scene) -> None:
    """VG-26, 27: KeepTopK on all scores, and the softmax of what is left."""
    layer = scene.layer
    ours = gates(layer.logits, layer.top_k, SHAZEER)
    data = plates.mask(layer, scene.names, scene.pick.token, scene.head)
    checks = {
        t("load-balancing.check_mask"): balancing.masks_agree(layer.logits),
        t("load-balancing.check_rest", n=layer.experts - layer.top_k): bool(
            ((ours == 0).sum(1) == layer.experts - layer.top_k).all()
        ),
    }
    _draw("mask", data, ("VG-26", "VG-27"), checks, layer.experts)


@st.cache_resource(max_entries=24, show_spinner=False)
def _weights(key: ModelKey, text: str, index: int) -> dict[str, list[np.ndarray]]:
    layer = runs.text_traces(key, text, None)[None].layers[index]
    return runs._run(
        lambda d: {
            name: [forces.weights_under(name, layer.logits, k) for k in CHOICES]
            if name != "soft-moe"
            else [forces.weights_under(name, layer.logits, 1)]
            for name in CHOOSERS
        }
    )


def choice(scene: Scene) -> None:
    """VG-28, 29: token choice, expert choice and Soft MoE on the same scores."""
    layer = scene.layer
    found = _weights(scene.key, scene.text, scene.pick.layer)
    counts = [(w > 0).sum(0) for w in found["expert-choice"]]
    k = CHOICES.index(layer.top_k) if layer.top_k in CHOICES else 0
    checks = {
        t("load-balancing.check_token", k=layer.top_k): CHOICES[k] != layer.top_k
        or np.array_equal((found["linear"][k] > 0).sum(0), layer.demand),
        t("load-balancing.check_expert"): all((c == c[0]).all() for c in counts),
        t("load-balancing.check_soft"): np.allclose(found["soft-moe"][0].sum(1), 1, atol=1e-5),
    }
    data = plates.choice(layer, scene.names, scene.pick.token, found)
    _draw("choice", data, ("VG-28", "VG-29", "X-04"), checks, layer.experts)


# ------------------------------------------------------------------------------- stored runs


def stored() -> tuple[balancing.Kept, ...]:
    """Runs of the family that differ from the reference in nothing but their balancing; of several
    seeds of the reference the first. None where there are no others, or no file."""
    try:
        names = runs.stored_runs(FAMILY)
        loaded = {name: runs.stored_run(FAMILY, name) for name in names}
    except checkpoint.CheckpointError:
        return ()
    reference = next((f for f, _ in loaded.values() if f["recipe"]["name"] == REFERENCE), None)
    if reference is None:
        return ()
    found: dict[str, balancing.Kept] = {}
    for name, (run, arrays) in loaded.items():
        what = balancing.departs(run["recipe"], reference["recipe"])
        if what is not None and run["recipe"]["name"] not in found:
            found[run["recipe"]["name"]] = balancing.kept(name, what, run, arrays)
    order = sorted(found.values(), key=lambda run: (run.what == "free", run.top_k, run.alpha))
    return tuple(order) if len(order) > 1 else ()


def kept(scene: Scene, compared: Sequence[balancing.Kept]) -> None:
    """What runs with other weights of the loss, or another k, became."""
    checks = {
        t("load-balancing.check_shares"): all(
            np.allclose(run.final.sum(-1), 1, atol=1e-3) for run in compared
        )
    }
    data = plates.kept_runs(compared)
    _draw("kept", data, ("VG-34", "X-05"), checks, data["experts"])


# ------------------------------------------------------------------------------- words


def code_of(step: str) -> str:
    """The source of one step, as it runs here."""
    parts = {
        "importance": (losses.importance, balancing.growing_variation),
        "bars": (losses.variation,),
        "descent": (forces.descend, forces._by_loss, forces._by_bias),
        "equal": (losses.smooth_load,),
        "noise": (noise_std, noisy, losses.smooth_load),
        "mask": (keep_top_k, gates),
        "choice": (expert_choice, soft),
        "z": (losses.z_loss,),
        "kept": (balance.max_violation, balancing.kept),
    }
    return "\n\n".join(inspect.getsource(part) for part in parts[step])


def chance(scene: Scene) -> str:
    """CV of demand that random routing of as many sub-tokens would show."""
    layer = scene.layer
    return f"{routing.variation_chance(layer.experts, layer.top_k, layer.sub_tokens):.2f}"
