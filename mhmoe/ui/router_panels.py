"""The panels of chapter 3: one token, one layer, one router, step by step.

Every panel takes the :class:`Scene`, the token that is being followed, and mounts one plate.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import streamlit as st

from mhmoe.analysis import router as arithmetic
from mhmoe.analysis import routing
from mhmoe.figures import plates
from mhmoe.layers import METHODS, Experts, Method, MoELayer, gates, keep_top_k
from mhmoe.layers.choice import token_choice
from mhmoe.layers.losses import balance, demand
from mhmoe.layers.routers import LinearRouter
from mhmoe.models import engine
from mhmoe.models.checkpoint import CheckpointError
from mhmoe.trace import LayerTrace, RoutingTrace
from mhmoe.ui import kit, panels, runs
from mhmoe.ui.explorer import Pick, Row, explorer, latest, token_in_word, token_name
from mhmoe.ui.kit import Html, t
from mhmoe.ui.language import to_html
from mhmoe.ui.plates import plate
from mhmoe.ui.runs import ModelKey

KEYS = (ModelKey("text"), ModelKey("text", heads=1))
NAMES = ("MH-MoE", "SMoE")
STRIP, STAGE = "router-strip", "router-stage"
RUNS = ("collapse-free", "collapse-balanced")


@dataclass(frozen=True)
class Scene:
    """What the chapter follows: a text, both models' traces, and the pick in them."""

    text: str
    rows: tuple[Row, Row]
    pick: Pick
    head: int = 0

    @property
    def key(self) -> ModelKey:
        return KEYS[self.pick.model]

    @property
    def trace(self) -> RoutingTrace:
        return self.rows[self.pick.model].any

    @property
    def layer(self) -> LayerTrace:
        return self.trace.layers[self.pick.layer]

    @property
    def sub(self) -> int:
        """The row of the followed sub-token."""
        return self.pick.token * self.layer.heads + self.head

    @property
    def opened(self) -> engine.OpenedLayer:
        return runs.opened_layer(self.key, self.text, self.pick.layer)

    @property
    def name(self) -> str:
        return token_in_word(self.trace.input, self.pick.token)

    @property
    def names(self) -> list[str]:
        return [token_name(token.text) for token in self.trace.input.tokens]

    @property
    def facts(self) -> dict[str, object]:
        """Numbers for the sentences around the pictures, from the layer that they show."""
        layer, parameters = self.layer, self.opened.parameters
        return {
            "name": self.name,
            "model": NAMES[self.pick.model],
            "layer": f"{parameters['layer']:,}",
            "router": f"{parameters['router']:,}",
            "k": layer.top_k,
            "experts": layer.experts,
            "s": layer.sub_tokens,
            "d": self.opened.sub.shape[1],
            "e": layer.experts,
        }


# ------------------------------------------------------------------------------- choosing


def follow(text: str) -> Scene:
    """Strips of both models: a click chooses model, layer and token."""
    rows = tuple(
        Row(name, (runs.text_traces(key, text, None)[None],))
        for name, key in zip(NAMES, KEYS, strict=True)
    )
    panels.say_what_was_cut(text, rows[0].any)
    pick = _latest_pick(rows)
    explorer(STRIP, rows, ("",), pick, stage=False)
    return Scene(text, rows, pick)


def choose(text: str) -> Scene:
    """As :func:`follow`, with the sub-token beside it, and a sentence that says all."""
    scene = follow(text)
    pick = scene.pick
    if scene.layer.heads > 1:
        scene = replace(scene, head=_subtoken(scene.layer.heads))
    said = "router.following_head" if scene.layer.heads > 1 else "router.following"
    number = scene.layer.layer + 1
    model = NAMES[pick.model]
    kit.write(t(said, name=scene.name, layer=number, model=model, head=scene.head + 1))
    return scene


def _subtoken(heads: int) -> int:
    """Which of the token's sub-tokens the single-row pictures show."""
    asked = kit.choice(
        t("router.subtoken"),
        range(heads),
        default=0,
        key="router-head",
        show=lambda h: str(h + 1),
    )
    return int(asked)


def _latest_pick(rows: Sequence[Row]) -> Pick:
    """The visitor's newest click in the strips or above the stage, else what the view says."""
    pick = _from_view(rows)
    for key, shown in ((STRIP, rows), (STAGE, rows[pick.model : pick.model + 1])):
        sent, seen = latest(key, shown, 1), st.session_state.get(f"_sent-{key}")
        st.session_state[f"_sent-{key}"] = sent
        if sent is None or sent == seen:
            continue
        pick = sent if key == STRIP else replace(sent, model=pick.model)
        kit.remember(
            model=runs.pair("text")[pick.model],
            layer=pick.layer,
            token=pick.token,
            hash=rows[pick.model].any.source.sha256[:8] or None,
        )
    return pick


def _from_view(rows: Sequence[Row]) -> Pick:
    view, trace = kit.view(), rows[0].any
    start = Pick(0, min(1, len(trace.layers) - 1), min(1, trace.input.count - 1))
    asked = view.model or "text"
    if not asked.startswith("text"):
        return start
    model = int(asked == runs.pair("text")[1])
    sha = rows[model].any.source.sha256
    if view.hash and sha and not sha.startswith(view.hash):
        kit.notice("info", t("link.stale"))
    panels.forget_lost_token(trace)
    view = kit.fit(layer=(0, len(trace.layers) - 1), token=(0, trace.input.count - 1))
    return Pick(
        model,
        start.layer if view.layer is None else view.layer,
        start.token if view.token is None else view.token,
    )


# ------------------------------------------------------------------------------- pictures


def _draw(
    name: str, data: dict, figures: Sequence[str], checks: dict[str, bool], experts: int
) -> None:
    plate(
        f"router-{name}",
        data,
        section="router",
        experts=experts,
        figures=figures,
        checks=checks,
        alt=t(f"router.alt_{name}"),
    )


def zoom(scene: Scene) -> None:
    """VG-17: model, block, layer, expert."""
    layer, opened = scene.layer, scene.opened
    first = int(layer.expert[scene.sub, 0])
    active = runs.neurons(scene.key, scene.text, scene.pick.layer, first, scene.sub)
    p, width = opened.parameters, opened.sub.shape[1] * layer.heads
    square = 0 if opened.merge is None else 2 * width * width
    whole = p["router"] + layer.experts * p["expert"] + square == p["layer"]
    data = plates.zoom(layer, len(scene.trace.layers), opened, scene.pick.token, scene.head, active)
    said = "router.check_parameters" if square else "router.check_parameters_plain"
    _draw("zoom", data, ("VG-17",), {t(said): whole}, layer.experts)


def gate_conventions(scene: Scene) -> None:
    """VG-16 and 38: scores, probabilities, gates."""
    layer, s = scene.layer, scene.sub
    weights = {
        name: arithmetic.gates(layer.logits[s], layer.top_k, name) for name in arithmetic.GATES
    }
    chosen = [set(np.flatnonzero(w)) for w in weights.values()]
    ours = weights[layer.gate_convention][layer.expert[s]]
    checks = {
        t("router.check_same"): all(c == set(layer.expert[s].tolist()) for c in chosen),
        t("router.check_ac"): np.allclose(weights["topk-softmax"], weights["renormalised"]),
        t("router.check_model"): np.allclose(ours, layer.gate[s], atol=1e-5),
    }
    data = plates.gates(layer, scene.pick.token, scene.head)
    _draw("gates", data, ("VG-16", "VG-38"), checks, layer.experts)


def product(scene: Scene) -> None:
    """VG-19 and 39: x W = H."""
    layer, opened = scene.layer, scene.opened
    good = arithmetic.checks_of_product(opened.sub, opened.router, layer.logits)
    data = plates.product(layer, opened, scene.names, scene.pick.token, scene.head)
    _draw("product", data, ("VG-19", "VG-39"), {t("router.check_product"): good}, layer.experts)


def softmax(scene: Scene) -> None:
    """VG-20: temperature, one score, all scores."""
    layer = scene.layer
    shifted = arithmetic.by_shift(layer.logits[scene.sub].astype(float), layer.top_k)
    moved = float(np.abs(shifted.probs - shifted.probs[0]).max())
    checks = {
        t("router.check_sum"): np.allclose(shifted.probs.sum(1), 1),
        t("router.check_shift", d=f"{moved:.0e}" if moved else "0"): moved < 1e-12,
    }
    data = plates.scrubbed(layer, scene.pick.token, scene.head)
    _draw("softmax", data, ("VG-20",), checks, layer.experts)


def mixture(scene: Scene) -> None:
    """VG-18: dense and sparse."""
    layer, opened = scene.layer, scene.opened
    tokens = scene.trace.input.count
    y = arithmetic.mixtures(
        layer.logits, opened.expert_out, layer.gate_convention, tokens, opened.merge
    )
    dense = np.einsum("se,sed->sd", arithmetic.softmax(layer.logits), opened.expert_out)
    checks = {
        t("router.check_dense", e=layer.experts): np.allclose(
            y[-1], arithmetic.merged(dense, tokens, opened.merge), atol=1e-5
        ),
        t("router.check_trained", k=layer.top_k): np.allclose(
            y[layer.top_k - 1], layer.vectors["out"], atol=1e-4
        ),
    }
    bits = runs.bits_by_k(scene.key, scene.text)
    error = arithmetic.relative_error(y)
    data = plates.mixture(layer, error, opened.macs, bits, scene.pick.token, scene.head)
    _draw("mixture", data, ("VG-18",), checks, layer.experts)


def contributions(scene: Scene) -> None:
    """VG-21: what each expert adds, and the model without it."""
    layer, token = scene.layer, scene.pick.token
    parts = arithmetic.contributions(layer, scene.opened.expert_out, scene.opened.merge)
    out = layer.vectors["out"]
    experts = arithmetic.touched(layer, token)
    probs = runs.next_without(scene.key, scene.text, scene.pick.layer, token, tuple(experts))
    order = [*range(1, len(experts) + 1), 0]
    predictions = [
        [
            {
                "text": token_name(engine.spell(int(i))),
                "before": round(float(probs[0, i]), 5),
                "after": round(float(probs[row, i]), 5),
            }
            for i in arithmetic.likely(probs, row)
        ]
        for row in order
    ]
    data = plates.stack(
        parts[:, token],
        out[token],
        experts,
        arithmetic.gate_sums(layer, token)[experts],
        predictions,
        arithmetic.missed(probs),
    )
    good = np.allclose(parts.sum(0), out, atol=1e-4)
    _draw("stack", data, ("VG-21",), {t("router.check_stack"): good}, layer.experts)


def stage(scene: Scene) -> None:
    """VG-22: the explorer's stage, for the model that is followed."""
    row = (scene.rows[scene.pick.model],)
    here = replace(scene.pick, model=0)
    explorer(STAGE, row, ("",), here)
    st.html('<p class="he-muted"><b>VG-22</b></p>')
    kit.identity_line(routing.identities(scene.layer))


def methods(scene: Scene) -> None:
    """Every router of the literature on the followed layer's scores."""
    layer = scene.layer
    found = runs.under_methods(scene.key, scene.text, scene.pick.layer)
    rows = [_method_row(method, found[key]) for key, method in METHODS.items()]
    kit.grid(rows)
    kit.identity_line({"methods": np.array_equal(found[layer.router].load, layer.load)})


def _method_row(method: Method, seen: engine.UnderMethod | None) -> dict[str, str]:
    numbers = ("–",) * 4
    if seen is not None:
        numbers = (
            f"{seen.choices:.2f}",
            f"{100 * seen.dropped:.1f} %",
            f"{seen.gate:.2f}",
            f"{100 * seen.load.max() / max(seen.load.sum(), 1e-12):.0f} %",
        )
    names = ("methods_k", "methods_dropped", "methods_gate", "methods_busiest")
    particular, paper = t(f"methods.{method.key}"), to_html(method.paper)
    return {
        t("router.methods_name"): method.title,
        **dict(zip((t(f"router.{name}") for name in names), numbers, strict=True)),
        t("router.methods_particular"): Html(f"{to_html(particular)} <small>{paper}</small>"),
    }


def flow(scene: Scene) -> None:
    """VG-23: gather, experts, scatter."""
    layer = scene.layer
    data = plates.flow(layer, scene.names, scene.pick.token)
    checks = {t("router.check_queue"): arithmetic.scattered_back(layer)}
    _draw("flow", data, ("VG-23",), checks, layer.experts)


def replays() -> tuple[arithmetic.Replay, ...]:
    """The two stored runs, or none and a sentence why."""
    found = []
    try:
        for name in RUNS:
            facts, arrays = runs.stored_run(name)
            recipe = facts["recipe"]
            run = arithmetic.replay(
                name,
                float(recipe["balance"]),
                arrays["loss"],
                arrays["demand"],
                top_k=recipe["model"]["moe"]["top_k"],
            )
            found.append(run)
    except CheckpointError as error:
        kit.notice("error", t("router.collapse_missing", reason=str(error)))
        return ()
    return tuple(found)


def collapse(stored: Sequence[arithmetic.Replay], scene: Scene) -> None:
    """VG-24: two stored runs, scrubbed."""
    sums = all(np.allclose(run.share.sum(-1), 1, atol=1e-6) for run in stored)
    experts = stored[0].share.shape[2]
    data = plates.collapse(stored)
    _draw("collapse", data, ("VG-24",), {t("router.check_shares"): sums}, experts)


def collapse_facts(stored: Sequence[arithmetic.Replay]) -> dict[str, object]:
    _, layers, experts = stored[0].share.shape
    return {
        "steps": int(stored[0].step[-1]),
        "layers": layers,
        "experts": experts,
        "k": stored[0].top_k,
        "threshold": f"{100 * arithmetic.DEAD:.0f} %",
        "window": arithmetic.WINDOW,
    }


# ------------------------------------------------------------------------------- words


def lines(title: str, entries: Sequence[str | Html]) -> None:
    """A short titled list."""
    items = "".join(f"<li>{to_html(entry)}</li>" for entry in entries)
    body = f"<ol>{items}</ol>" if len(entries) > 1 else f"<p>{to_html(entries[0])}</p>"
    st.html(f'<div class="he-notice-this"><h2>{to_html(title)}</h2>{body}</div>')


def code_of(step: str) -> str:
    """The source of one step, as it runs here."""
    parts = {
        "router": (LinearRouter,),
        "gates": (keep_top_k, gates),
        "softmax": (arithmetic.softmax, arithmetic.log_sum_exp),
        "mixture": (arithmetic.mixtures, arithmetic.relative_error),
        "stack": (arithmetic.contributions, engine.next_without),
        "layer": (MoELayer.run,),
        "experts": (Experts.forward,),
        "balance": (demand, balance),
        "methods": (token_choice,),
    }
    return "\n\n".join(inspect.getsource(part) for part in parts[step])
