"""The panels of chapter 7: what a model holds, what a token uses, and what both cost."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import streamlit as st

from mhmoe.analysis import budget, parity
from mhmoe.analysis.parameters import Config, ConfigError, Counted, count, presets
from mhmoe.bench import layer as bench
from mhmoe.figures import parameters_plates as plates
from mhmoe.figures.parameters_plates import ModelHeld
from mhmoe.layers import MoEConfig, WhatIf
from mhmoe.models import engine
from mhmoe.ui import kit, runs
from mhmoe.ui.explorer import token_name
from mhmoe.ui.kit import t
from mhmoe.ui.language import ASSETS
from mhmoe.ui.plates import plate
from mhmoe.ui.router_panels import KEYS, NAMES, Scene, follow, lines
from mhmoe.ui.runs import ModelKey

__all__ = ["Scene", "follow", "lines"]

#: So many tokens the visitor guesses for, or all of a shorter text.
ASKED = 16
#: The model that is asked about first, plain SMoE: of MH-MoE one token alone touches most.
ASKED_OF = 1
#: The measured size that is shown first: tokens, experts, k, heads, d, F.
SHOWN_FIRST = (256, 32, 2, 1, 256, 1024)
FIRST_PRESET = "Mixtral 8x7B"
CONFIG_MB = 0.1
_PRESET, _TEXT, _GOOD = "parameters-preset", "parameters-config", "_parameters_good"
#: The layer that the calculator starts with: the first paper's experts, at our models' width.
START = parity.Asked(d=128, inner=512, experts=8, chosen=2)


# ------------------------------------------------------------------------------- our models


@st.cache_resource(max_entries=24, show_spinner=False)
def held(key: ModelKey, name: str, text: str) -> ModelHeld:
    """A shipped model with all that the text uses of it, the whole model run with every k."""

    def work(where) -> ModelHeld:
        loaded = key.load(where)
        moe = loaded.model.config.moe
        E, L = moe.experts, len(loaded.model.moe_layers)
        found = [engine.trace_text(loaded, text, WhatIf(top_k=k))[0] for k in range(1, E + 1)]
        extra = [replace(moe, top_k=k).macs_per_token - moe.macs_per_token for k in range(1, E + 1)]
        bits = [np.nan if trace.bits_per_byte is None else trace.bits_per_byte for trace in found]
        return ModelHeld(
            name=name,
            parts=budget.anatomy({n: p.numel() for n, p in loaded.model.named_parameters()}),
            heads=moe.heads,
            trained=moe.top_k,
            visits=np.array([[budget.visitors(layer) for layer in tr.layers] for tr in found]),
            bits=np.array(bits, float),
            macs=loaded.card["macs_per_token"] + L * np.array(extra),
            first=budget.first_seen(found[moe.top_k - 1].layers),
        )

    return runs._run(work)


def pair(scene: Scene) -> tuple[ModelHeld, ModelHeld]:
    return tuple(held(key, name, scene.text) for key, name in zip(KEYS, NAMES, strict=True))


def facts(scene: Scene) -> dict[str, object]:
    """Numbers for the sentences around the pictures, from the followed model."""
    own = pair(scene)[scene.pick.model]
    mixtral = count(presets()[FIRST_PRESET])
    used = int((own.visits[own.trained - 1, :, scene.pick.token] > 0).sum())
    touched = budget.touched(own.first, scene.trace.input.count)
    return {
        "name": scene.name,
        "model": own.name,
        "k": own.trained,
        "experts": own.experts,
        "layers": own.layers,
        "units": own.layers * own.experts,
        "one": used,
        "all": int(touched[-1]),
        "tokens": scene.trace.input.count,
        "total": f"{mixtral.total:,}",
        "active": f"{mixtral.active:,}",
        "ask": min(ASKED, scene.trace.input.count),
    }


def _draw(name: str, data: dict, figures: tuple[str, ...], checks: dict[str, bool]) -> None:
    experts = data["models"][0]["experts"] if "models" in data else 8
    plate(
        f"parameters-{name}",
        data,
        section="parameters",
        experts=experts,
        figures=figures,
        checks=checks,
        alt=t(f"parameters.alt_{name}"),
    )


def treemap(scene: Scene) -> None:
    """VG-54: all weights of the model, idle experts grey."""
    models = pair(scene)
    cards = [runs.card(key.name) for key in KEYS]
    checks = {
        t("parameters.check_numel"): all(
            m.parts.total == c["params_total"] for m, c in zip(models, cards, strict=True)
        ),
        t("parameters.check_active", k=models[0].trained): all(
            m.active(m.layers * m.trained) == c["params_active"]
            for m, c in zip(models, cards, strict=True)
        ),
        t("parameters.check_all_k"): all(
            m.active((m.visits[-1, :, scene.pick.token] > 0).sum()) == m.parts.total for m in models
        ),
    }
    data = plates.treemap(models, scene.pick.model, scene.pick.token, scene.name)
    _draw("treemap", data, ("VG-54",), checks)


def batch(scene: Scene) -> None:
    """VG-54: experts touched by the first n tokens, guessed first."""
    models = pair(scene)
    tokens = [token_name(token.text) for token in scene.trace.input.tokens]
    data = plates.batch(models, ASKED_OF, tokens, min(ASKED, len(tokens)))
    one = all(
        m["touched"][0] == int((held_.visits[held_.trained - 1, :, 0] > 0).sum())
        for m, held_ in zip(data["models"], models, strict=True)
    )
    never_less = all((np.diff(m["touched"]) >= 0).all() for m in data["models"])
    checks = {t("parameters.check_first"): one, t("parameters.check_grows"): never_less}
    _draw("batch", data, ("VG-54",), checks)


# ------------------------------------------------------------------------------- any config


@dataclass(frozen=True)
class Chosen:
    """A config that can be counted, and whether it is a preset as it is."""

    name: str
    values: dict
    preset: bool


def slug(name: str) -> str:
    """A preset's name as a link writes it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _linked_preset() -> None:
    """When the editor first opens, the preset that the link names is chosen."""
    if _TEXT in st.session_state:
        return
    known = {slug(name): name for name in presets()}
    linked = kit.view().preset
    if linked and linked not in known:
        part = t("link.part_invalid", name="preset")
        kit.notice("warning", t("link.ignored", parts=part))
        kit.remember(preset=None)
    st.session_state[_PRESET] = known.get(linked, FIRST_PRESET)
    _put_preset()


def config() -> Chosen:
    """The editor: presets, a text to change, a place for a file. What cannot be counted is named in
    a sentence, and the last good config stays."""
    _linked_preset()
    editor, below = st.container(), st.container()
    with below:  # run first: a file that came is put into the text before that is drawn
        dropped = kit.dropzone(
            "parameters-file",
            accept=".json,application/json",
            limit=CONFIG_MB,
            texts="parameters.drop",
        )
    if dropped is not None:
        st.session_state[_TEXT] = dropped.content.decode("utf-8", "replace")
    with editor:
        name = st.selectbox(
            t("parameters.preset"),
            list(presets()),
            key=_PRESET,
            on_change=_put_preset,
            persist_state="session",
        )
        kit.remember(preset=None if name == FIRST_PRESET else slug(name))
        text = st.text_area(t("parameters.config"), key=_TEXT, height=318, persist_state="session")
        try:
            values = budget.read_config(text)
            count(values)
        except ConfigError as error:
            kit.notice("error", t(f"parameters.config_{error.code}", **error.numbers))
            values = None
        same = values == presets()[name]
        st.html(f'<p class="he-muted">{t("parameters.config_hint")}</p>')
        if not same:
            label = t("parameters.restore", name=name)
            st.button(label, key="parameters-restore", type="tertiary", on_click=_put_preset)
    if values is not None:
        shown = name if same else t("parameters.your_config")
        st.session_state[_GOOD] = Chosen(shown, values, same)
    return st.session_state.get(_GOOD) or Chosen(FIRST_PRESET, presets()[FIRST_PRESET], True)


def _put_preset() -> None:
    chosen = st.session_state.get(_PRESET, FIRST_PRESET)
    st.session_state[_TEXT] = _written(chosen)


def _written(name: str) -> str:
    return json.dumps(presets()[name], indent=2)


def config_badge() -> kit.Html:
    """Whose config is counted: a preset as it is, or what the visitor made of it."""
    text = st.session_state.get(_TEXT)
    name = st.session_state.get(_PRESET, FIRST_PRESET)
    source = "preset" if text is None or text == _written(name) else "live"
    return kit.badge(source, t(f"parameters.budget_badge_{source}"))


def calculator(chosen: Chosen) -> None:
    """VG-55, 56: total and active, part by part."""
    stops, counted = budget.by_chosen(chosen.values)
    own = count(chosen.values)
    checks = {t("parameters.check_sum"): sum(p.total for p in own.parts) == own.total}
    if stops:
        checks[t("parameters.check_every")] = counted[-1].active == own.total
    data = plates.calculator(chosen.name, stops, counted, own)
    _draw("budget", data, ("VG-55", "VG-56"), checks)


def expert_size(chosen: Chosen) -> dict[str, object]:
    """One expert of the config, for the sentence that relates it to an FFN (VG-06)."""
    own = count(chosen.values)
    d = Config(chosen.values.get("text_config") or chosen.values).whole("hidden_size", default=1)
    experts = next((part for part in own.parts if part.name == "experts"), None)
    each = experts.total // own.units[0] if experts else 0
    return {"each": f"{each:,}", "d": f"{d:,}", "units": f"{own.units[0]:,}"}


# ------------------------------------------------------------------------------- measured


@cache
def measured() -> dict:
    """The stored measurement of our layers."""
    return json.loads((ASSETS / "layer-costs.json").read_text("utf-8"))


def machine() -> dict[str, object]:
    table = measured()
    return {name: table[name] for name in ("processor", "torch", "threads")}


def costs(scene: Scene) -> None:
    """Time and memory beside dense layers of equal active and equal total size."""
    sizes: dict[tuple, dict[str, budget.Cost]] = {}
    for cost in budget.costs(measured()):
        size = (cost.tokens, cost.experts, cost.top_k, cost.heads, cost.d_model, cost.d_ff)
        sizes.setdefault(size, {})[cost.which] = cost
    sizes = {size: found for size, found in sorted(sizes.items()) if len(found) == 2}
    weights = {size: _weights(size) for size in sizes}
    close = all(abs(total - ours) <= size[4] for size, (_, ours, total) in weights.items())
    data = plates.costs(sizes, weights)
    data["start"] = list(sizes).index(SHOWN_FIRST)
    _draw("costs", data, ("VG-56",), {t("parameters.check_costs"): close})


def _weights(size: tuple) -> tuple[int, int, int]:
    """Of the dense layer with as many active parameters, of ours, of the dense one with all."""
    _, experts, k, heads, d, inner = size
    ours = bench.with_heads(MoEConfig(d_model=d, d_ff=inner, experts=experts, top_k=k), heads)
    wide = [2 * d * max(1, round(n / (2 * d))) for n in (ours.active_parameters, ours.parameters)]
    return wide[0], ours.parameters, wide[1]


# ------------------------------------------------------------------------------- parity


def asked() -> parity.Asked | None:
    """The visitor's layer; None and a sentence where more experts are chosen than there are."""
    columns = kit.columns(1, 1, 1, 1, 1.1)
    found = {}
    bounds = {
        "d": (8, parity.MOST["d"], START.d),
        "inner": (8, parity.MOST["inner"], START.inner),
        "experts": (1, parity.MOST["experts"], START.experts),
        "chosen": (1, parity.MOST["experts"], START.chosen),
    }
    for column, (name, (least, most, start)) in zip(columns, bounds.items(), strict=False):
        with column:
            found[name] = st.number_input(
                t(f"parameters.ask_{name}"),
                least,
                most,
                start,
                key=f"parity-{name}",
                help=t("parameters.ask_bounds", least=f"{least:,}", most=f"{most:,}"),
                persist_state="session",
            )
    with columns[-1]:
        words = {2: t("parameters.ask_two"), 3: t("parameters.ask_three")}
        matrices = kit.choice(
            t("parameters.ask_gated"), words, default=2, key="parity-matrices", show=words.get
        )
    layer = parity.Asked(**found, gated=matrices == 3)
    if layer.chosen > layer.experts:
        numbers = {"chosen": layer.chosen, "experts": layer.experts}
        kit.notice("error", t("parameters.config_chosen", **numbers))
        return None
    return layer


@st.cache_resource(max_entries=24, show_spinner=False)
def timed(layer: parity.Asked) -> dict[tuple[str, int], float]:
    return runs._run(lambda d: parity.timed(layer, d))


def calculate(layer: parity.Asked) -> None:
    """Every design at every number of heads, counted on layers that are really built."""
    heads = layer.heads
    stops = [parity.members(layer, h) for h in heads]
    built = [member for found in stops for member in found.values() if member]
    times = timed(layer) if _time_asked(layer) else None
    start = heads.index(4) if 4 in heads else len(heads) - 1
    data = plates.parity(heads, stops, times, tuple(parity.SIZINGS), start)
    checks = {
        t("parameters.check_built", n=len(built)): all(m.built == m.parameters for m in built),
        t("parameters.check_one"): all(
            stops[0][design] == stops[0]["smoe"] for design in parity.SIZINGS
        ),
    }
    _draw("parity", data, ("VG-55", "X-09"), checks)


def _time_asked(layer: parity.Asked) -> bool:
    """A button that builds and times; where that would take long, a sentence instead."""
    if not parity.affordable(layer):
        kit.write(t("parameters.time_large"))
        return False
    if st.session_state.get("_parity_timed") == layer:
        kit.write(t("parameters.time_done", tokens=parity.TOKENS, device=runs.device_name()))
        return True
    pressed = st.button(t("parameters.time_button"), key="parity-time")
    if pressed:
        st.session_state["_parity_timed"] = layer
        st.rerun()
    return False


# ------------------------------------------------------------------------------- code


def code_of(step: str) -> str:
    """The source of one step, as it runs here."""
    parts = {
        "treemap": (budget.anatomy, budget.visitors),
        "batch": (budget.first_seen, budget.touched, budget.touched_chance),
        "budget": (count, Counted),
        "costs": (bench.rows, bench.dense),
        "parity": (MoEConfig.matched, MoEConfig.fine_grained, parity.build),
    }
    return "\n\n".join(inspect.getsource(part) for part in parts[step])
