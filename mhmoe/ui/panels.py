"""The panels of the Start page: the visitor's sentence and picture, routed by two models."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
import streamlit as st

from mhmoe.analysis import export, routing
from mhmoe.layers import MoELayer, keep_top_k
from mhmoe.models.images import ImageProblem
from mhmoe.trace import LayerTrace, RoutingTrace
from mhmoe.ui import kit, runs
from mhmoe.ui.explorer import (
    Pick,
    Row,
    asked_for_rest,
    explorer,
    jpeg_url,
    latest,
    latest_outcome,
    token_in_word,
)
from mhmoe.ui.kit import Tile, t
from mhmoe.ui.language import ASSETS
from mhmoe.ui.runs import ModelKey

SAMPLES = ASSETS / "samples"
UNLIMITED = "∞"
DEFAULT_SHAPE = {"heads": runs.USUAL_HEADS, "experts": runs.USUAL_EXPERTS}


@dataclass(frozen=True)
class Routed:
    """An input with the two models' traces, one per capacity factor, and what is picked."""

    rows: tuple[Row, Row]
    capacities: tuple[float | None, ...]
    pick: Pick

    @property
    def trace(self) -> RoutingTrace:
        """The picked model at the picked capacity."""
        return self.rows[self.pick.model].traces[self.pick.outcome]

    @property
    def other(self) -> Row:
        """The model that was not picked."""
        return self.rows[1 - self.pick.model]


# ------------------------------------------------------------------------------- inputs


def sentence(default: str) -> str:
    """The text box. Blank text is refused with a sentence and the last good one stays."""
    text = kit.sentence_box(t("start.box"), default=default)
    if not text.strip():
        kit.notice("warning", t("problem.blank"))
        return st.session_state.get("_good_text", default)
    if st.session_state.get("_good_text", text) != text:
        st.session_state["_typed"] = True
    st.session_state["_good_text"] = text
    return text


def picture():
    """The visitor's picture, or the chosen sample: (DecodedImage, checksum).

    A file that cannot be used is named in a sentence, and the last good picture stays.
    """
    dropped = kit.dropzone()
    if dropped is not None:
        try:
            st.session_state["_picture"] = runs.picture(dropped.content)
            st.session_state["_picture_problem"] = None
        except ImageProblem as problem:
            st.session_state["_picture_problem"] = (problem.code, problem.numbers)
    if problem := st.session_state.get("_picture_problem"):
        code, numbers = problem
        kit.notice("error", t(f"problem.image.{code}", **numbers))
    if own := st.session_state.get("_picture"):
        kit.jump("picture", t("start.picture_below"), jpeg_url(own[0].pixels))
        return own
    return sample_picture()


def picture_notes(image) -> None:
    """What was done to the picture before the model saw it, the crop rule among it."""
    if image.notes:
        done = t("link.separator").join(t(f"image_note.{note}") for note in image.notes)
        width, height = image.size
        kit.write(t("start.picture_notes", width=width, height=height, done=done))


def stage_alone() -> None:
    """For lectures (?present=1): the stage of the sentence, or of the picture if it is in view."""
    if (kit.view().model or "").startswith("image"):
        picture_panel(*(st.session_state.get("_picture") or sample_picture()), *stored_shape())
    else:
        text_panel(stored_sentence(t("start.sentence")), *stored_shape())


def sample_picture():
    """The sample named in the view, or the first."""
    names = sorted(path.stem for path in SAMPLES.glob("*.jpg"))
    name = kit.view().sample if kit.view().sample in names else names[0]
    return runs.picture((SAMPLES / f"{name}.jpg").read_bytes())


def examples(names: tuple[str, ...]) -> None:
    """Buttons that put a prepared sentence into the box."""
    with st.container(horizontal=True, gap="small", key="he-examples"):
        for name in names:
            st.button(
                t(f"start.try_{name}"),
                key=f"try-{name}",
                type="tertiary",
                on_click=_put_sentence,
                args=(t(f"start.text_{name}"),),
            )


def _put_sentence(text: str) -> None:
    st.session_state["sentence"] = text


def sample_choice() -> None:
    """Our own pictures; choosing one puts the visitor's own aside."""
    names = sorted(path.stem for path in SAMPLES.glob("*.jpg"))
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="he-samples"):
        st.html(f'<span class="he-muted">{t("start.sample")}</span>', width="content")
        for name in names:
            st.button(
                t(f"sample.{name}"),
                key=f"sample-{name}",
                type="tertiary",
                on_click=_use_sample,
                args=(name,),
            )


def _use_sample(name: str) -> None:
    st.session_state["_picture"] = st.session_state["_picture_problem"] = None
    kit.remember(sample=name)


def stored_sentence(default: str) -> str:
    """The sentence of the link or of this session, without the box."""
    return st.session_state.get("sentence") or kit.view().text or default


def stored_shape() -> tuple[int, int]:
    """Heads and experts as the sliders or the link have them."""
    view = kit.view()
    return (
        st.session_state.get("heads") or _nearest(view.heads, runs.HEADS, DEFAULT_SHAPE["heads"]),
        st.session_state.get("experts")
        or _nearest(view.experts, runs.EXPERTS, DEFAULT_SHAPE["experts"]),
    )


def subtitle() -> kit.Html:
    """What the page shows, with the heads and experts that the visitor has chosen."""
    heads, experts = stored_shape()
    key = ModelKey("text", heads, experts)
    cut = "start.subtitle_plain" if heads == 1 else "start.subtitle_cut"
    sentences = kit.rich(cut, heads=t(f"start.count_{heads}"))
    of = key.whole.experts if key.whole else experts
    return kit.rich(f"start.subtitle_{key.state}", cut=sentences, experts=experts, of=of)


def picture_lead() -> str:
    """As :func:`subtitle`, for the patches."""
    heads, _ = stored_shape()
    key = "start.picture_lead_plain" if heads == 1 else "start.picture_lead"
    return t(key, heads=t(f"start.count_{heads}"))


def shape_was_linked() -> bool:
    """Whether the link that began this session asked for heads or experts: then their drawer
    opens, so that the visitor sees why the picture is not the usual one."""
    view = kit.view()
    asked = view.heads is not None or view.experts is not None
    return st.session_state.setdefault("_shape_linked", asked)


def say_what_was_rounded() -> None:
    """A link may ask for a number of heads or experts between the stops of the sliders."""
    view = kit.view()
    for name, asked, stops in (
        ("heads", view.heads, runs.HEADS),
        ("experts", view.experts, runs.EXPERTS),
    ):
        if asked is not None and asked not in stops:
            near = _nearest(asked, stops, DEFAULT_SHAPE[name])
            kit.notice("info", t(f"start.rounded_{name}", asked=asked, near=near))


def source_of(kind: str, heads: int, experts: int) -> str:
    """The badge that says what the numbers are: live, what-if or untrained."""
    state = ModelKey(kind, heads, experts).state
    if state == "trained":
        return "what-if" if _limited(kind) else "live"
    return {"masked": "what-if", "untrained": "untrained"}[state]


def _limited(kind: str) -> bool:
    """Whether a capacity limit is set; the models were trained without one."""
    values = runs.CAPACITIES if kind == "text" else runs.PICTURE_CAPACITIES
    return values[_outcome(kind, values)] is not None


def notice(routed: Routed) -> None:
    """What to look at, with the numbers of the picked layer."""
    layer = routed.rows[0].traces[routed.pick.outcome].layers[routed.pick.layer]
    if layer.heads == 1:
        kit.what_to_notice(kit.rich("start.notice_plain"), kit.rich("start.notice_2"))
        return
    first = routing.first_choices(layer).mean()
    chance = routing.distinct_chance(routing.open_experts(layer), 1, layer.heads)
    kit.what_to_notice(
        kit.rich(
            "start.notice_1",
            layer=layer.layer + 1,
            heads=layer.heads,
            mean=f"{first:.1f}",
            chance=f"{chance:.1f}",
        ),
        kit.rich("start.notice_2"),
    )


def undecided(routed: Routed) -> None:
    """One sentence where the picked model's router hardly prefers any expert."""
    layer = routed.trace.layers[routed.pick.layer]
    first, even = routing.first_probability(layer), 1 / routing.open_experts(layer)
    if first < routing.UNDECIDED * even < 1:
        kit.write(
            t(
                "start.undecided",
                model=routed.rows[routed.pick.model].name,
                layer=layer.layer + 1,
                first=f"{first:.3f}",
                even=f"{even:.3f}",
                experts=routing.open_experts(layer),
            )
        )


def masked_cost(text: str, heads: int, experts: int) -> None:
    """What switching experts off costs on the visitor's sentence."""
    key = ModelKey("text", heads, experts)
    if key.state == "masked":
        now, full = (runs.text_traces(k, text, None)[None].bits_per_byte for k in (key, key.whole))
        if now is not None:
            numbers = {"now": f"{now:.2f}", "full": f"{full:.2f}"}
            kit.write(t("start.masked_cost", experts=experts, of=key.whole.experts, **numbers))


def shape_controls() -> None:
    """Heads and experts of the upper model: stops with trained weights, and all others."""
    asked = stored_shape()
    columns = kit.columns(1, 1)
    chosen = {}
    for column, name, stops, now in zip(
        columns, ("heads", "experts"), (runs.HEADS, runs.EXPERTS), asked, strict=True
    ):
        with column:
            chosen[name] = st.select_slider(
                t(f"start.{name}"),
                stops,
                key=name,
                value=now,
                persist_state="session",
                help=_stops_help(name, asked[0]),
            )
    # The trained setting is the default and stays out of the link.
    kit.remember(**{n: None if v == DEFAULT_SHAPE[n] else v for n, v in chosen.items()})


def _stops_help(name: str, heads: int) -> str:
    """At which stops of a slider trained models are loaded, for sentences and for pictures."""

    def stops(kind: str) -> str:
        found = runs.trained_heads(kind) if name == "heads" else runs.trained_experts(kind, heads)
        return t("link.separator").join(map(str, found)) or "–"

    return t(
        f"start.{name}_help",
        heads=heads,
        experts=runs.USUAL_EXPERTS,
        text=stops("text"),
        image=stops("image"),
    )


def _nearest(asked: int | None, stops: tuple[int, ...], default: int) -> int:
    return default if asked is None else min(stops, key=lambda stop: abs(stop - asked))


# ------------------------------------------------------------------------------- panels


def text_panel(text: str, heads: int, experts: int) -> Routed:
    """Strips of both models and the stage, for a sentence."""
    source = Source(
        "text",
        text,
        runs.CAPACITIES,
        lambda key, *capacities: runs.text_traces(key, text, *capacities),
    )
    rows, outcome, rest = _pair(source, heads, experts)
    trace = rows[0].any
    say_what_was_cut(text, trace)
    second = min(1, trace.input.count - 1)  # the first token has nothing before it
    return _explore(source, rows, Pick(0, 1, second, outcome), rest)


def picture_panel(image, checksum: str, heads: int, experts: int) -> Routed:
    """Maps of both models and the stage of one patch, for a picture."""
    source = Source(
        "image",
        checksum,
        runs.PICTURE_CAPACITIES,
        lambda key, *capacities: runs.image_traces(key, checksum, image, *capacities),
    )
    rows, outcome, rest = _pair(source, heads, experts)
    trace = rows[0].any
    centre = trace.input.count // 2 + trace.input.grid[1] // 2
    start = Pick(0, len(trace.layers) - 1, centre, outcome)
    return _explore(source, rows, start, rest, picture=image.pixels)


@dataclass(frozen=True)
class Source:
    """Where a panel's traces come from: the family of models, and one input's name. ``traces`` is
    called with a model and the capacity factors that must be among the answers."""

    kind: str
    name: str
    capacities: tuple[float | None, ...]
    traces: Callable[..., runs.Outcomes]

    @property
    def component(self) -> str:
        return f"explorer-{self.kind}"


def _pair(source: Source, heads: int, experts: int) -> tuple[tuple[Row, Row], int, str | None]:
    """The model of the sliders above plain SMoE; the outcome to show; and, where only that one
    was computed, the name by which the browser asks for the others once it is drawn."""
    keys = ModelKey(source.kind, heads, experts), ModelKey(source.kind, 1)
    outcome = _outcome(source.kind, source.capacities)
    name = sha256(repr((keys, source.name)).encode("utf-8", "replace")).hexdigest()[:16]
    every = source.capacities
    whole = asked_for_rest(source.component) == name or all(
        source.traces(key).keys() >= set(every) for key in keys
    )
    wanted = every if whole else (every[outcome],)
    notes = (t("start.one_head") if heads == 1 else "", "")  # tells two rows of SMoE apart
    rows = []
    for key, note in zip(keys, notes, strict=True):
        known = source.traces(key, *wanted)
        rows.append(_row(key, tuple(known[c] if c in wanted else None for c in every), note))
    return tuple(rows), outcome, None if whole else name


def _outcome(kind: str, capacities: tuple[float | None, ...]) -> int:
    """The capacity factor to show, as an index: the one under the thumb, else the link's."""
    latest = latest_outcome(f"explorer-{kind}", len(capacities))
    if latest is not None:
        return latest
    view = kit.view()
    asked = (view.model or "text").startswith(kind) and view.capacity in capacities
    return capacities.index(view.capacity) if asked else len(capacities) - 1


def _explore(
    source: Source,
    rows: tuple[Row, Row],
    start: Pick,
    rest: str | None,
    picture: np.ndarray | None = None,
) -> Routed:
    capacities = source.capacities
    labels = [UNLIMITED if c is None else f"{c:g}" for c in capacities]
    from_view = _from_view(source.kind, rows, start)  # also says what the link asked in vain
    pick = latest(source.component, rows, len(labels)) or from_view
    pick = replace(pick, outcome=start.outcome)
    explorer(
        source.component, rows, labels, pick, picture=picture, present=kit.view().present, rest=rest
    )
    if _touched(source.kind, pick):
        kit.remember(
            model=runs.pair(source.kind)[pick.model],
            layer=pick.layer,
            token=pick.token,
            capacity=capacities[pick.outcome],
            hash=rows[pick.model].any.source.sha256[:8] or None,
        )
    return Routed(rows, capacities, pick)


def _touched(kind: str, pick: Pick) -> bool:
    """Whether the visitor has picked here since the last run; the link follows the last pick."""
    before = st.session_state.get(f"_pick-{kind}")
    st.session_state[f"_pick-{kind}"] = pick
    return before is not None and before != pick


def _from_view(kind: str, rows: tuple[Row, Row], start: Pick) -> Pick:
    """The pick that the link asks for, where it concerns this panel."""
    view = kit.view()
    asked = view.model or "text"
    if not asked.startswith(kind):
        return start
    trace = rows[0].any
    model = int(asked == runs.pair(kind)[1])
    sha = rows[model].any.source.sha256
    if view.hash and sha and not sha.startswith(view.hash):
        kit.notice("info", t("link.stale"))
    forget_lost_token(trace)
    view = kit.fit(layer=(0, len(trace.layers) - 1), token=(0, trace.input.count - 1))
    return Pick(
        model,
        start.layer if view.layer is None else view.layer,
        start.token if view.token is None else view.token,
        start.outcome,
    )


def forget_lost_token(trace: RoutingTrace) -> None:
    """After the visitor typed a shorter sentence: the token in the view belonged to the longer
    one, not to a wrong link, so there is nothing to say about it."""
    if st.session_state.get("_typed") and (kit.view().token or 0) >= trace.input.count:
        kit.remember(token=None)


def _row(key: ModelKey, traces: tuple[RoutingTrace | None, ...], note: str = "") -> Row:
    name = "SMoE" if key.heads == 1 else "MH-MoE"
    badge = "" if key.state == "trained" else t(f"start.{key.state}")
    return Row(name, traces, badge=badge, note=note)


def say_what_was_cut(text: str, trace: RoutingTrace) -> None:
    """A model reads at most so many tokens; what was left out is said."""
    used = trace.input.text
    if len(used.encode("utf-8", "replace")) < len(text.encode("utf-8", "replace")):
        kit.notice(
            "info", t("problem.long", tokens=trace.input.count, used=len(used), given=len(text))
        )


# ------------------------------------------------------------------------------- numbers


def text_tiles(text: str, routed: Routed) -> None:
    """Four numbers of the picked model and layer, beside chance and the other model."""
    kit.tiles((*_layer_tiles(routed), _loss_tile(text, routed)))


def picture_tiles(routed: Routed) -> None:
    """Three numbers of the picked model and layer of the picture."""
    kit.tiles(_layer_tiles(routed))


def _layer_tiles(routed: Routed) -> tuple[Tile, ...]:
    layer = routed.trace.layers[routed.pick.layer]
    other = routed.other.traces[routed.pick.outcome].layers[routed.pick.layer]
    model = routed.rows[routed.pick.model].name
    E, K, S = routing.open_experts(layer), layer.top_k, layer.sub_tokens
    number = layer.layer + 1
    factor = routed.capacities[routed.pick.outcome]
    distinct = routing.distinct_experts(layer).mean()
    return (
        Tile(
            kit.rich("start.tile_distinct", model=model, layer=number),
            f"{distinct:.1f}",
            t(
                "start.tile_distinct_foot",
                experts=E,
                chance=f"{routing.distinct_chance(E, K, layer.heads):.1f}",
                other=routed.other.name,
                value=f"{routing.distinct_experts(other).mean():.1f}",
            ),
        ),
        Tile(
            kit.rich("start.tile_dropped", model=model, layer=number),
            f"{100 * layer.dropped_share:.1f} %",
            t("start.tile_dropless")
            if factor is None
            else t(
                "start.tile_dropped_foot",
                factor=f"{factor:g}",
                places=layer.capacity,
                chance=f"{100 * routing.dropped_chance(E, K, S, layer.capacity):.1f} %",
            ),
        ),
        Tile(
            kit.rich("start.tile_cv", model=model, layer=number),
            f"{routing.variation(layer.demand):.2f}",
            t("start.tile_cv_foot", chance=f"{routing.variation_chance(E, K, S):.2f}", count=S),
        ),
    )


def _loss_tile(text: str, routed: Routed) -> Tile:
    other = routed.other.traces[routed.pick.outcome]
    shown = [
        "–" if b is None else f"{b:.2f}"
        for b in (routed.trace.bits_per_byte, other.bits_per_byte, runs.dense_bits(text))
    ]
    return Tile(
        kit.rich("start.tile_loss", model=routed.rows[routed.pick.model].name),
        shown[0],
        t("start.tile_loss_foot", other=routed.other.name, value=shown[1], dense=shown[2]),
    )


def cost_line(kind: str) -> None:
    """What the pair has in common and what it costs, and how well each does on held-out data."""
    names = dict(zip(("mhmoe", "smoe", "dense"), (*runs.pair(kind), runs.dense(kind)), strict=True))
    facts = {name: runs.card(model) for name, model in names.items()}
    measure = "bits_per_byte" if kind == "text" else "relative_error"
    numbers = {name: f"{card['metrics'][measure]:.3f}" for name, card in facts.items()}
    ratio = facts["mhmoe"]["macs_per_token"] / facts["smoe"]["macs_per_token"]
    kit.write(
        kit.rich(
            f"start.cost_{kind}",
            params=f"{facts['mhmoe']['params_total'] / 1e6:.2f}",
            params_smoe=f"{facts['smoe']['params_total'] / 1e6:.2f}",
            ratio=f"{ratio:.1f}",
            **numbers,
        )
    )


def text_table(routed: Routed) -> None:
    """The table twin of the strips: every choice of the picked layer."""
    layer = routed.trace.layers[routed.pick.layer]
    caption = t("table.routing", layer=layer.layer + 1)
    kit.table("text", lambda: _text_rows(routed.trace, layer), caption=caption)


def picture_table(routed: Routed) -> None:
    """The table twin of the maps: first choices of every patch in the picked layer."""
    layer = routed.trace.layers[routed.pick.layer]
    caption = t("table.routing", layer=layer.layer + 1)
    columns = routed.trace.input.grid[1]
    kit.table("picture", lambda: _picture_rows(layer, columns), caption=caption)


def _text_rows(trace: RoutingTrace, layer: LayerTrace) -> list[dict]:
    names = [t("table.token"), t("table.head")]
    for k in range(layer.top_k):
        names += [t(f"table.{what}", choice=k + 1) for what in ("expert", "gate", "kept")]
    rows = []
    for s in range(layer.sub_tokens):
        token, head = divmod(s, layer.heads)
        cells = [token_in_word(trace.input, token), head + 1]
        for k in range(layer.top_k):
            cells.append(int(layer.expert[s, k]) + 1)
            cells.append(round(float(layer.gate[s, k]), 3))
            cells.append(bool(layer.kept[s, k]))
        rows.append(dict(zip(names, cells, strict=True)))
    return rows


def _picture_rows(layer: LayerTrace, columns: int) -> list[dict]:
    first = layer.expert[:, 0].reshape(-1, layer.heads) + 1
    distinct = routing.distinct_experts(layer)
    heads = [t("table.head_n", head=h + 1) for h in range(layer.heads)]
    names = [t("table.row"), t("table.column"), *heads, t("table.distinct")]
    rows = []
    for p in range(len(first)):
        cells = (p // columns + 1, p % columns + 1, *first[p].tolist(), int(distinct[p]))
        rows.append(dict(zip(names, cells, strict=True)))
    return rows


def text_downloads(text: str, routed: Routed) -> None:
    """The picked model's trace as one file, and the picked layer's numbers as a table."""
    trace, layer = routed.trace, routed.trace.layers[routed.pick.layer]
    kit.downloads(
        "text",
        (
            kit.Download(
                t("kit.download_csv"),
                f"layer-{layer.layer + 1}.csv",
                lambda: export.layer_csv(trace, layer),
                "text/csv",
            ),
            kit.Download(
                t("kit.download_trace"),
                "routing.trace.safetensors",
                lambda: export.trace_bytes(trace),
                "application/octet-stream",
            ),
        ),
    )


def code_of(step: str) -> str:
    """The source of one step, as it runs here."""
    return inspect.getsource({"layer": MoELayer.run, "choice": keep_top_k}[step])


def checks(routed: Routed) -> None:
    """The identities of the drawn trace, as one line a reader can verify."""
    kit.identity_line(routing.identities(routed.trace.layers[routed.pick.layer]))
