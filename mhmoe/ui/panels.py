"""The panels of the Start page: the visitor's sentence and picture, routed by two models."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import numpy as np
import streamlit as st

from mhmoe.analysis import export, routing
from mhmoe.layers import MoELayer, keep_top_k
from mhmoe.models.images import ImageProblem
from mhmoe.trace import RoutingTrace
from mhmoe.ui import kit, runs
from mhmoe.ui.explorer import Pick, Row, explorer
from mhmoe.ui.kit import Tile, t
from mhmoe.ui.language import ASSETS
from mhmoe.ui.runs import ModelKey

SAMPLES = ASSETS / "samples"
UNLIMITED = "∞"


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


# ------------------------------------------------------------------------------- inputs


def sentence(default: str) -> str:
    """The text box. Blank text is refused with a sentence and the last good one stays."""
    text = kit.sentence_box(t("start.box"), default=default)
    if not text.strip():
        kit.notice("warning", t("problem.blank"))
        return st.session_state.get("_good_text", default)
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
    return st.session_state.get("_picture") or sample_picture()


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
    with st.container(horizontal=True, gap="small", key="he-samples"):
        st.html(f'<span class="he-muted">{t("start.sample")}</span>')
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
        st.session_state.get("heads") or _nearest(view.heads, runs.HEADS, 4),
        st.session_state.get("experts") or _nearest(view.experts, runs.EXPERTS, 8),
    )


def source_of(heads: int, experts: int) -> str:
    """The badge that says what the numbers are: live, what-if or untrained."""
    state = ModelKey("text", heads, experts).state
    return {"trained": "live", "masked": "what-if", "untrained": "untrained"}[state]


def masked_cost(text: str, heads: int, experts: int) -> None:
    """What switching experts off costs on the visitor's sentence."""
    key = ModelKey("text", heads, experts)
    if key.state == "masked":
        now, full = (
            runs.text_traces(k, text)[-1].bits_per_byte for k in (key, ModelKey("text", heads))
        )
        if now is not None:
            kit.write(t("start.masked_cost", experts=experts, now=f"{now:.2f}", full=f"{full:.2f}"))


def shape_controls() -> tuple[int, int]:
    """Heads and experts of the upper model: stops with trained weights, and all others."""
    view = kit.view()
    left, right = kit.columns(1, 1)
    with left:
        heads = st.select_slider(
            t("start.heads"),
            runs.HEADS,
            key="heads",
            value=_nearest(view.heads, runs.HEADS, 4),
            persist_state="session",
            help=t("start.heads_help"),
        )
    with right:
        experts = st.select_slider(
            t("start.experts"),
            runs.EXPERTS,
            key="experts",
            value=_nearest(view.experts, runs.EXPERTS, 8),
            persist_state="session",
            help=t("start.experts_help"),
        )
    kit.remember(heads=None if heads == 4 else heads, experts=None if experts == 8 else experts)
    return heads, experts


def _nearest(asked: int | None, stops: tuple[int, ...], default: int) -> int:
    return default if asked is None else min(stops, key=lambda stop: abs(stop - asked))


# ------------------------------------------------------------------------------- panels


def text_panel(text: str, heads: int, experts: int) -> Routed:
    """Strips of both models and the stage, for a sentence."""
    upper, lower = ModelKey("text", heads, experts), ModelKey("text", 1)
    rows = (_row(upper, runs.text_traces(upper, text)), _row(lower, runs.text_traces(lower, text)))
    _say_what_was_cut(text, rows[0].traces[0])
    return _explore("text", rows, runs.CAPACITIES, Pick(0, 1, 1, len(runs.CAPACITIES) - 1))


def picture_panel(image, checksum: str, heads: int, experts: int) -> Routed:
    """Maps of both models, for a picture; the stage opens with the first click on a patch."""
    upper, lower = ModelKey("image", heads, experts), ModelKey("image", 1)
    rows = (
        _row(upper, runs.image_traces(upper, checksum, image)),
        _row(lower, runs.image_traces(lower, checksum, image)),
    )
    centre = rows[0].traces[0].input.count // 2 + rows[0].traces[0].input.grid[1] // 2
    start = Pick(0, len(rows[0].traces[0].layers) - 1, centre, len(runs.PICTURE_CAPACITIES) - 1)
    return _explore("image", rows, runs.PICTURE_CAPACITIES, start, picture=image.pixels)


def _explore(
    kind: str,
    rows: tuple[Row, Row],
    capacities: tuple[float | None, ...],
    start: Pick,
    picture: np.ndarray | None = None,
) -> Routed:
    labels = [UNLIMITED if c is None else f"{c:g}" for c in capacities]
    pick = explorer(
        f"explorer-{kind}",
        rows,
        labels,
        _from_view(kind, rows, capacities, start),
        picture=picture,
        present=kit.view().present,
    )
    if _touched(kind, pick):
        kit.remember(
            model=f"{kind}-{'mhmoe' if pick.model == 0 else 'smoe'}",
            layer=pick.layer,
            token=pick.token,
            capacity=capacities[pick.outcome],
            hash=rows[pick.model].traces[0].source.sha256[:8] or None,
        )
    return Routed(rows, capacities, pick)


def _touched(kind: str, pick: Pick) -> bool:
    """Whether the visitor has picked here since the last run; the link follows the last pick."""
    before = st.session_state.get(f"_pick-{kind}")
    st.session_state[f"_pick-{kind}"] = pick
    return before is not None and before != pick


def _from_view(
    kind: str, rows: tuple[Row, Row], capacities: tuple[float | None, ...], start: Pick
) -> Pick:
    """The pick that the link asks for, where it concerns this panel."""
    view = kit.view()
    if view.model is None or not view.model.startswith(kind):
        return start
    trace = rows[0].traces[0]
    sha = rows[int(view.model.endswith("-smoe"))].traces[0].source.sha256
    if view.hash and sha and not sha.startswith(view.hash):
        kit.notice("info", t("link.stale"))
    view = kit.fit(layer=(0, len(trace.layers) - 1), token=(0, trace.input.count - 1))
    outcome = capacities.index(view.capacity) if view.capacity in capacities else start.outcome
    return Pick(
        int(view.model.endswith("-smoe")),
        start.layer if view.layer is None else view.layer,
        start.token if view.token is None else view.token,
        outcome,
    )


def _row(key: ModelKey, traces: tuple[RoutingTrace, ...]) -> Row:
    name = "SMoE" if key.heads == 1 else "MH-MoE"
    badge = "" if key.state == "trained" else t(f"start.{key.state}")
    return Row(name, traces, badge=badge)


def _say_what_was_cut(text: str, trace: RoutingTrace) -> None:
    used = trace.input.text
    if len(used.encode("utf-8", "replace")) < len(text.encode("utf-8", "replace")):
        kit.notice(
            "info", t("problem.long", tokens=trace.input.count, used=len(used), given=len(text))
        )


# ------------------------------------------------------------------------------- numbers


def text_tiles(text: str, routed: Routed) -> None:
    """Four numbers of the picked layer, each beside its chance level."""
    upper, lower = (row.traces[routed.pick.outcome] for row in routed.rows)
    layer, plain = upper.layers[routed.pick.layer], lower.layers[routed.pick.layer]
    kit.tiles((*_layer_tiles(layer, plain, routed), _loss_tile(text, upper, lower)))


def picture_tiles(routed: Routed) -> None:
    """Three numbers of the picked layer of the picture's models."""
    upper, lower = (row.traces[routed.pick.outcome] for row in routed.rows)
    kit.tiles(
        _layer_tiles(upper.layers[routed.pick.layer], lower.layers[routed.pick.layer], routed)
    )


def _layer_tiles(layer, plain, routed: Routed) -> tuple[Tile, ...]:
    E, K, S = layer.experts, layer.top_k, layer.sub_tokens
    number = layer.layer + 1
    factor = routed.capacities[routed.pick.outcome]
    distinct = routing.distinct_experts(layer).mean()
    return (
        Tile(
            kit.rich("start.tile_distinct", layer=number),
            f"{distinct:.1f}",
            t(
                "start.tile_distinct_foot",
                experts=E,
                chance=f"{routing.distinct_chance(E, K, layer.heads):.1f}",
                plain=f"{routing.distinct_experts(plain).mean():.1f}",
            ),
        ),
        Tile(
            kit.rich("start.tile_dropped", layer=number),
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
            kit.rich("start.tile_cv", layer=number),
            f"{routing.variation(layer.demand):.2f}",
            t("start.tile_cv_foot", chance=f"{routing.variation_chance(E, K, S):.2f}", count=S),
        ),
    )


def _loss_tile(text: str, upper: RoutingTrace, lower: RoutingTrace) -> Tile:
    shown = [
        "–" if b is None else f"{b:.2f}"
        for b in (upper.bits_per_byte, lower.bits_per_byte, runs.dense_bits(text))
    ]
    return Tile(
        kit.rich("start.tile_loss"),
        shown[0],
        t("start.tile_loss_foot", smoe=shown[1], dense=shown[2]),
    )


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
