"""The panels of chapter 5: full experts, on one layer of the visitor's sentence.

Every panel takes the :class:`Scene`, the layer that is looked at, and mounts one plate.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st

from mhmoe.analysis import balance as evenness
from mhmoe.analysis import capacity as counted
from mhmoe.analysis import routing
from mhmoe.analysis.router import softmax
from mhmoe.figures import capacity_plates as plates
from mhmoe.layers.buffers import capacity as places_of
from mhmoe.layers.buffers import cascade, served
from mhmoe.layers.buffers import places as seats
from mhmoe.layers.losses import balance as balance_loss
from mhmoe.layers.losses import demand as demand_of
from mhmoe.models import engine
from mhmoe.trace import LayerTrace, RoutingTrace
from mhmoe.ui import kit, panels, runs
from mhmoe.ui.explorer import token_in_word, token_name
from mhmoe.ui.kit import t
from mhmoe.ui.plates import plate
from mhmoe.ui.runs import ModelKey

KEYS = (ModelKey("text"), ModelKey("text", heads=1))
NAMES = ("MH-MoE", "SMoE")
#: Stops of the capacity factor on the board; None is unlimited.
FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, None)
FIRST = FACTORS.index(1.0)
#: Sub-tokens that can be dragged between experts, at most: whole tokens of them.
CHIPS = 24
SHIFTS = np.linspace(-4, 4, 33)
ALPHA = 0.01


@dataclass(frozen=True)
class Scene:
    """What the chapter looks at: a text, a model, and one of its MoE layers by index."""

    text: str
    model: int
    index: int

    @property
    def key(self) -> ModelKey:
        return KEYS[self.model]

    @property
    def trace(self) -> RoutingTrace:
        return runs.text_traces(self.key, self.text, None)[None]

    @property
    def layer(self) -> LayerTrace:
        return self.trace.layers[self.index]

    @property
    def names(self) -> list[str]:
        return [token_name(token.text) for token in self.trace.input.tokens]

    @property
    def facts(self) -> dict[str, object]:
        """Numbers for the sentences around the pictures, from the layer that they show."""
        layer = self.layer
        return {
            "model": NAMES[self.model],
            "layer": layer.layer + 1,
            "s": layer.sub_tokens,
            "t": self.trace.input.count,
            "h": layer.heads,
            "e": layer.experts,
            "k": layer.top_k,
            "choices": layer.sub_tokens * layer.top_k,
            "fair": f"{layer.sub_tokens * layer.top_k / layer.experts:.1f}",
            "most": int(layer.demand.max()),
            "least": int(layer.demand.min()),
            "busiest": int(layer.demand.argmax()) + 1,
            "idlest": int(layer.demand.argmin()) + 1,
            "maxvio": f"{routing.max_violation(layer):.2f}",
            "balance": f"{layer.losses['balance']:.3f}",
            "alpha": ALPHA,
        }


def choose(text: str) -> Scene:
    """The lead, and beside it model and layer as two rows of buttons. What another chapter or a
    link put into the view comes first; a choice made here goes into it."""
    first = runs.text_traces(KEYS[0], text, None)[None]
    panels.say_what_was_cut(text, first)
    model, index = _from_view(first)
    lead, here, there = kit.columns(2.4, 0.8, 0.8)
    with here:
        model = kit.choice(
            t("capacity.model"), range(2), default=model, key=MODEL, show=lambda m: NAMES[m]
        )
    with there:
        index = kit.choice(
            t("capacity.layer"),
            range(len(first.layers)),
            default=index,
            key=LAYER,
            show=lambda i: str(first.layers[i].layer + 1),
        )
    scene = Scene(text, int(model), int(index))
    if (scene.model, scene.index) != (_usual_model(), _usual_layer(first)):
        sha = scene.trace.source.sha256
        kit.remember(model=runs.pair("text")[scene.model], layer=scene.index, hash=sha[:8] or None)
    st.session_state[SEEN] = (kit.view().model, kit.view().layer)
    with lead:
        whole = "capacity.board_lead_plain" if scene.layer.heads == 1 else "capacity.board_lead"
        kit.write(kit.rich(whole, **scene.facts))
    return scene


MODEL, LAYER, SEEN = "capacity-model", "capacity-layer", "_capacity-seen"


def _usual_model() -> int:
    """Which model the view names; the upper one if it names none of the two."""
    return int(kit.view().model == runs.pair("text")[1])


def _usual_layer(trace: RoutingTrace) -> int:
    last = len(trace.layers) - 1
    asked = kit.view().layer
    return min(1, last) if asked is None else min(asked, last)


def _from_view(trace: RoutingTrace) -> tuple[int, int]:
    """The view's model and layer. Where it changed since this page was drawn, a link or another
    chapter changed it, and the buttons follow."""
    view = kit.view()
    if (view.model or "text").startswith("text"):
        sha = runs.text_traces(KEYS[_usual_model()], trace.input.text, None)[None].source.sha256
        if view.hash and sha and not sha.startswith(view.hash):
            kit.notice("info", t("link.stale"))
        panels.forget_lost_token(trace)
        kit.fit(layer=(0, len(trace.layers) - 1), token=(0, trace.input.count - 1))
    model, layer = _usual_model(), _usual_layer(trace)
    now = (kit.view().model, kit.view().layer)
    if SEEN in st.session_state and st.session_state[SEEN] != now:
        st.session_state[MODEL], st.session_state[LAYER] = model, layer
    return model, layer


# ------------------------------------------------------------------------------- pictures


def _draw(name: str, data: dict, figures: Sequence[str], checks: dict[str, bool], experts: int):
    plate(
        f"capacity-{name}",
        data,
        section="capacity",
        experts=experts,
        figures=figures,
        checks=checks,
        alt=t(f"capacity.alt_{name}"),
    )


def board(scene: Scene) -> None:
    """VG-36, 40, 42: one layer's scores, placed by every policy at every capacity factor."""
    layer = scene.layer
    filled = runs.fillings(scene.key, scene.text, scene.index, FACTORS)
    bits = runs.bits_by_policy(scene.key, scene.text, FACTORS)
    outcomes = [
        plates.Outcome(p, f, _error(scene, f), _chance(p, f), bits[p]) for p, f in filled.items()
    ]
    case = plates.board_case(
        "live",
        scene.names,
        layer.heads,
        outcomes,
        full=[token_in_word(scene.trace.input, i) for i in range(scene.trace.input.count)],
        trained=scene.trace.bits_per_byte,
        start=_start(),
        ask=_question(scene, filled),
    )
    token = kit.view().token
    data = plates.board([case], FACTORS, layer.layer + 1, token=token, chosen="two")
    _draw(
        "board",
        data,
        ("VG-36", "VG-37", "VG-40", "VG-42"),
        _board_checks(layer, filled),
        layer.experts,
    )


def _start() -> int:
    """The factor of the link, if it is one of the stops, else 1."""
    asked = kit.view().capacity
    return FACTORS.index(asked) if asked in FACTORS[:-1] else FIRST


def _error(scene: Scene, filled: engine.Filled) -> np.ndarray:
    opened = runs.opened_layer(scene.key, scene.text, scene.index)
    weight = np.where(filled.kept, filled.gate, 0)
    return counted.output_error(
        filled.expert, weight, opened.expert_out, scene.trace.input.count, opened.merge
    )


def _chance(policy: str, filled: engine.Filled) -> np.ndarray:
    S, E = filled.probs.shape
    by_chance = counted.reroute_chance if policy == "reroute" else counted.drop_chance
    return by_chance(E, filled.top_k, S, filled.capacity)


def _question(scene: Scene, filled: dict[str, engine.Filled]) -> dict | None:
    """Who is turned away when first come is first served, and what priority makes of them: at
    factor 1, or below it where nobody is turned away there."""
    two, first = filled["two"], filled["priority"]
    for stop in range(FIRST, -1, -1):
        found = counted.late_comer(
            two.ranked[:, 0], two.kept[stop, :, 0], first.kept[stop, :, 0], first.order
        )
        if found is None:
            continue
        s, rank, rivals = found
        token, head = divmod(s, scene.layer.heads)
        return {
            "stop": stop,
            "sub": s,
            "name": token_in_word(scene.trace.input, token),
            "head": head + 1,
            "expert": int(two.ranked[s, 0]),
            "kept": bool(first.kept[stop, s, 0]),
            "rank": rank + 1,
            "rivals": rivals,
            "prob": round(float(two.probs[s].max()), 3),
            "places": two.capacity[stop],
        }
    return None


def _board_checks(layer: LayerTrace, filled: dict[str, engine.Filled]) -> dict[str, bool]:
    two, again, priority = filled["two"], filled["reroute"], filled["priority"]
    S, E = layer.sub_tokens, layer.experts
    load = {p: counted.loads(f.expert, f.kept, E) for p, f in filled.items()}
    limits = {p: [np.inf if c is None else c for c in f.capacity] for p, f in filled.items()}
    places_kept = all((load[p].max(1) <= limits[p]).all() for p in filled)
    model = two.top_k != layer.top_k or (
        np.array_equal(two.expert[-1], layer.expert) and np.array_equal(two.slot[-1], layer.slot)
    )
    found = [min(S, E * c) if c is not None else S for c in again.capacity]
    return {
        t("capacity.check_places"): places_kept,
        t("capacity.check_model"): model,
        t("capacity.check_equal"): np.array_equal(load["two"], load["priority"]),
        t("capacity.check_reroute"): load["reroute"].sum(1).tolist() == found,
        t("capacity.check_order"): sorted(priority.order.tolist()) == list(range(S)),
    }


def guide_board(scene: Scene) -> None:
    """VG-36, 37, 41, 42: the guide's own tokens, with scores set so that they choose as drawn."""
    cases, good = [], True
    for key, (names, experts, wanted, factor) in GUIDE.items():
        logits = _scores_for(wanted, experts)
        filled = {p: engine.fill(logits, p, FACTORS) for p in engine.POLICIES}
        outcomes = [plates.Outcome(p, f, None, _chance(p, f), None) for p, f in filled.items()]
        start = FACTORS.index(factor)
        cases.append(
            plates.board_case(key, names, 1, outcomes, start=start, note=t(f"capacity.{key}"))
        )
        good &= filled["drop"].ranked[:, 0].tolist() == [row[0] for row in wanted]
        good &= filled["drop"].capacity[start] == places_of(factor, 1, len(names), experts)
    data = plates.board(cases, FACTORS, 0, chosen="drop")
    figures = ("VG-36", "VG-37", "VG-41", "VG-42")
    _draw("guide", data, figures, {t("capacity.check_guide"): good}, 4)


_WORDS = ("What", "is", "Mixture", "of", "Experts", "?")
#: Guide's figure -> tokens, experts, their choices from the best down (0-based), factor.
GUIDE = {
    "vg36": (_WORDS, 4, [(0, 3)] * 5 + [(3, 0)], 1.5),
    "vg37": ((*_WORDS, "Summarize"), 4, [(0, 3)] * 5 + [(3, 0), (0, 3)], 1.5),
    "vg42": (_WORDS, 3, [(0, 1), (0, 2), (0, 1), (1, 2), (2, 1), (2, 0)], 1.0),
}


def _scores_for(wanted: Sequence[Sequence[int]], experts: int) -> np.ndarray:
    """[S, E] scores under which every token ranks the experts as said; the rest by number."""
    scores = np.tile(-0.1 * np.arange(experts, dtype=np.float32), (len(wanted), 1))
    for row, (first, second) in zip(scores, wanted, strict=True):
        row[first], row[second] = 2.0, 1.0
    return scores


def demand(scene: Scene) -> None:
    """VG-35: who is wanted, in the first 1 .. T tokens, beside chance."""
    layer = scene.layer
    growing = counted.growing_demand(layer.expert, layer.heads, layer.experts)
    live = plates.demand_case("live", scene.names, growing, counted.growing_chance(layer))
    words, experts, wanted, _ = GUIDE["vg36"]
    first = np.array([[row[0]] for row in wanted])
    guide = plates.demand_case("guide", words, counted.growing_demand(first, 1, experts), None)
    checks = {
        t("capacity.check_demand"): np.array_equal(growing[-1], layer.demand),
        t("capacity.check_sum"): bool(
            (growing.sum(1) == np.arange(1, len(growing) + 1) * layer.heads * layer.top_k).all()
        ),
    }
    data = plates.demand([live, guide], layer.layer + 1)
    _draw("demand", data, ("VG-35",), checks, layer.experts)


TOKENS = tuple(range(1, 33))
AXES = {
    "heads": (1, 2, 4),
    "experts": (2, 3, 4, 8),
    "choices": (1, 2),
    "factors": (0.5, 0.75, 1.0, 1.25, 1.5, 2.0),
}


def places(scene: Scene) -> None:
    """VG-40, 41: how many places, for any sizes; all computed with the layers' own function."""
    heads, experts, choices, factors = AXES.values()
    table = np.array(
        [
            [
                [[[places_of(cf, k, n * h, e) for n in TOKENS] for cf in factors] for k in choices]
                for e in experts
            ]
            for h in heads
        ]
    )
    layer = scene.layer
    start = {
        "heads": heads.index(layer.heads) if layer.heads in heads else 0,
        "experts": experts.index(layer.experts) if layer.experts in experts else 0,
        "choices": choices.index(layer.top_k) if layer.top_k in choices else 0,
        "factors": factors.index(1.0),
        "tokens": min(scene.trace.input.count, TOKENS[-1]) - 1,
    }
    guide = {"heads": 0, "experts": experts.index(3), "choices": 0, "factors": factors.index(1.0)}
    guide["tokens"] = 5
    six = table[0, experts.index(3), 0, :, 5]
    checks = {
        t("capacity.check_guide_c"): six[factors.index(1.0)] == 2 and six[factors.index(1.5)] == 3
    }
    data = plates.places(TOKENS, heads, experts, choices, factors, table, start, guide)
    _draw("places", data, ("VG-40", "VG-41"), checks, max(experts))


def sweep(scene: Scene) -> None:
    """VG-42: dropped choices and empty places of every layer, the whole model run per factor."""
    factors = runs.CAPACITIES
    outcomes = runs.text_traces(scene.key, scene.text, *factors)
    traces = [outcomes[factor] for factor in factors]
    layers = [[trace.layers[i] for trace in traces] for i in range(len(scene.trace.layers))]
    layer = scene.layer
    limits = [run.capacity for run in layers[0]]
    chance = counted.drop_chance(layer.experts, layer.top_k, layer.sub_tokens, limits)
    checks = {
        t("capacity.check_load"): all(
            routing.identities(run)["load"] for runs_ in layers for run in runs_
        ),
        t("capacity.check_unlimited"): not any(runs_[-1].dropped.any() for runs_ in layers),
    }
    bits = [trace.bits_per_byte for trace in traces]
    data = plates.sweep(layers, factors, chance, bits, scene.index)
    _draw("sweep", data, ("VG-42",), checks, layer.experts)


def sweep_facts(scene: Scene) -> dict[str, object]:
    """The loss without a limit and at factor 1, of the picture's own runs."""
    outcomes = runs.text_traces(scene.key, scene.text, *runs.CAPACITIES)
    bits = {f: outcomes[f].bits_per_byte for f in (None, 1.0)}
    said = {f: "–" if b is None else f"{b:.2f}" for f, b in bits.items()}
    return {"free": said[None], "tight": said[1.0]}


def balance(scene: Scene) -> None:
    """VG-43: f, P and their products; chips to move, scores to push, and the guide's case."""
    layer = scene.layer
    tokens = max(1, min(CHIPS // layer.heads, scene.trace.input.count))
    cases = [_balance_case("live", scene.names[:tokens], layer.heads, layer.logits)]
    for key, (probs, chips) in PRESETS.items():
        names = _WORDS if key == "guide" else [str(i + 1) for i in range(len(probs))]
        logits = np.log(np.maximum(np.array(probs, np.float32), 1e-12))
        cases.append(_balance_case(key, names, 1, logits, chips))
    found = {case["key"]: _value(case) for case in cases}
    checks = {
        t("capacity.check_even"): np.isclose(found["even"], 1, atol=1e-4),
        t("capacity.check_collapse"): np.isclose(found["collapse"], 4, atol=1e-3),
        t("capacity.check_below"): np.isclose(found["below"], 0.934, atol=1e-3),
        t("capacity.check_slope"): _slopes_agree(layer.logits[: tokens * layer.heads]),
    }
    _draw("balance", plates.balance(cases, ALPHA), ("VG-43",), checks, layer.experts)


#: Probabilities set by hand, and where the chips lie at first if not with the largest.
_EVEN = [[0.28 if e == i % 4 else 0.24 for e in range(4)] for i in range(8)]
PRESETS = {
    "even": (_EVEN, None),
    "collapse": ([[1.0, 0.0, 0.0, 0.0]] * 8, None),
    "below": ([[0.51, 0.49]] * 9 + [[0.0, 1.0]], None),
    "guide": (
        [[0.6 if e == i else 0.2 for e in range(3)] for i in (0, 1, 2, 0, 2, 0)],
        (0, 1, 0, 0, 1, 0),
    ),
}


def _balance_case(key, names, heads, logits, chips=None) -> dict:
    count = len(names) * heads
    pushes = engine.push_scores(logits[:count], SHIFTS)
    rest = int(np.abs(SHIFTS).argmin())
    expert = pushes.expert[0, rest] if chips is None else np.array(chips)
    probs = softmax(logits[:count])
    return plates.balance_case(key, names, heads, probs, pushes, expert)


def _value(case: dict) -> float:
    share = evenness.shares(np.bincount(case["expert"], minlength=case["experts"]))
    return float(case["experts"] * (share * np.array(case["mean"])).sum())


def _slopes_agree(logits: np.ndarray) -> bool:
    """Autograd's slope at rest is E f J: none of it comes from f."""
    E = logits.shape[1]
    pushes = engine.push_scores(logits, np.zeros(1))
    share = evenness.shares(np.bincount(pushes.expert[0, 0], minlength=E))
    slope = E * share @ counted.mean_jacobian(softmax(logits))
    return np.allclose(slope, pushes.slope[0, 0], atol=1e-4)


# ------------------------------------------------------------------------------- words


def code_of(step: str) -> str:
    """The source of one step, as it runs here."""
    parts = {
        "board": (seats, served, cascade),
        "places": (places_of,),
        "demand": (evenness.max_violation, counted.growing_chance),
        "sweep": (engine.trace_text, counted.empty),
        "balance": (demand_of, balance_loss),
        "policies": (engine.fill, engine.bits_by_policy),
    }
    return "\n\n".join(inspect.getsource(part) for part in parts[step])
