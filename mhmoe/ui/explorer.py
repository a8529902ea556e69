"""The explorer: token strips or patch maps, and the stage. Here its data are packed from traces.

The browser receives the choices of every sub-token in every layer at every capacity factor
(bytes), and the activations of the one chosen token; at most about 100 KB. It answers with one
small dict per click.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st
from PIL import Image

from mhmoe.analysis.routing import MASKED, distinct_chance, open_experts
from mhmoe.figures.palette import SEQUENTIAL, expert_colours
from mhmoe.models.tokenizer import visible
from mhmoe.trace import LayerTrace, RoutingTrace, TextInput
from mhmoe.ui import language
from mhmoe.ui.session import lang, remember, t

NONE, DROPPED = 255, 128

_PARTS = sorted((language.ASSETS / "explorer").glob("*.js"))
_component = st.components.v2.component(
    "he_explorer",
    css=(language.ASSETS / "explorer.css").read_text("utf-8"),
    js="\n".join(part.read_text("utf-8") for part in _PARTS),
)


@dataclass(frozen=True)
class Row:
    """One model's row: its name and one trace per outcome of the scrubbed control; None where it
    is not computed yet."""

    name: str
    traces: tuple[RoutingTrace | None, ...]
    badge: str = ""
    note: str = ""

    @property
    def any(self) -> RoutingTrace:
        """A trace for what all outcomes share: the input, the layers' shapes."""
        return next(trace for trace in self.traces if trace is not None)


@dataclass(frozen=True)
class Pick:
    """What the visitor is looking at; indices into rows, MoE layers, tokens and outcomes."""

    model: int = 0
    layer: int = 0
    token: int = 0
    outcome: int = 0


def explorer(
    key: str,
    rows: Sequence[Row],
    labels: Sequence[str],
    pick: Pick,
    *,
    picture: np.ndarray | None = None,
    present: bool = False,
    stage: bool = True,
    rest: str | None = None,
) -> None:
    """Draw it at ``pick``.

    ``rest`` names what is drawn while some outcomes are still missing. Once the browser has
    painted the others it asks for these, and :func:`asked_for_rest` then says that name.
    """
    data = payload(rows, labels, pick, picture=picture, present=present, stage=stage)
    data["rest"] = rest
    data["say"] = language.section(lang(), "explorer") | _definitions()
    answer = _component(
        key=key,
        data=data,
        on_pick_change=lambda: None,
        on_rest_change=lambda: None,
        on_leave_change=lambda: None,
    )
    if answer.leave:  # the lecture view is over, and the page comes back with its text
        remember(present=False)
        st.rerun()


def asked_for_rest(key: str) -> str | None:
    """The name of what the browser wants the missing outcomes of."""
    return (st.session_state.get(key) or {}).get("rest")


def latest_outcome(key: str, outcomes: int) -> int | None:
    """The outcome the visitor scrubbed to last, whatever the input is now."""
    sent = (st.session_state.get(key) or {}).get("pick")
    value = sent.get("outcome") if hasattr(sent, "get") else None
    return int(value) if isinstance(value, int | float) and 0 <= value < outcomes else None


def _definitions() -> dict[str, str]:
    """The glossary words that the explorer explains itself."""
    words = ("layer", "capacity-factor", "bits-per-byte", "first-choice")
    return {f"define_{word}": language.glossary()[word][lang()]["definition"] for word in words}


def latest(key: str, rows: Sequence[Row], outcomes: int) -> Pick | None:
    """What the visitor clicked last, if it fits what is drawn now: stale clicks do arrive."""
    sent = (st.session_state.get(key) or {}).get("pick")
    if not hasattr(sent, "get"):
        return None
    trace = rows[0].any
    bounds = {
        "model": len(rows),
        "layer": len(trace.layers),
        "token": trace.input.count,
        "outcome": outcomes,
    }
    values = {name: sent.get(name) for name in bounds}
    fits = all(
        isinstance(v, int | float) and 0 <= int(v) < bounds[name] for name, v in values.items()
    )
    return Pick(**{name: int(v) for name, v in values.items()}) if fits else None


def payload(
    rows: Sequence[Row],
    labels: Sequence[str],
    pick: Pick,
    *,
    picture: np.ndarray | None = None,
    present: bool = False,
    stage: bool = True,
) -> dict:
    """Everything the browser draws, without the words."""
    first = rows[0].any
    data = {
        "kind": first.input.kind,
        "present": present,
        "scale": list(SEQUENTIAL),
        "palette": expert_colours(max(row.any.layers[0].experts for row in rows)),
        "model": pick.model,
        "layer": pick.layer,
        "token": pick.token,
        "outcome": pick.outcome,
        "layers": [layer.layer for layer in first.layers],
        "outcomes": [
            {"label": label, "ready": trace is not None}
            for label, trace in zip(labels, rows[0].traces, strict=True)
        ],
        "models": [_model(row) for row in rows],
        "stage": _stage(rows, pick) if stage else None,
    }
    if first.input.kind == "text":
        data["text"] = _text(first)
    else:
        rows_, cols = first.input.grid
        data["image"] = {"src": jpeg_url(picture), "rows": rows_, "cols": cols}
    return data


def jpeg_url(pixels: np.ndarray) -> str:
    """uint8 [side, side, 3] as a data address."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _text(trace: RoutingTrace) -> dict:
    raw = trace.input.text.encode("utf-8", "surrogateescape")
    members: list[list[int]] = [[] for _ in trace.input.words]
    for i, token in enumerate(trace.input.tokens):
        members[token.word].append(i)
    words = [
        {
            "text": visible(raw[a:b].decode("utf-8", "replace").removeprefix(" ") or "␣"),
            "tokens": tokens,
        }
        for (a, b), tokens in zip(trace.input.words, members, strict=True)
    ]
    return {"words": words, "tokens": [{"text": token_name(t.text)} for t in trace.input.tokens]}


def token_in_word(source: TextInput, token: int) -> str:
    """``bank › ank`` for a part of a word, ``bank`` for a whole one."""
    a, b = source.words[source.tokens[token].word]
    raw = source.text.encode("utf-8", "surrogateescape")[a:b]
    whole = token_name(raw.decode("utf-8", "replace"))
    part = token_name(source.tokens[token].text)
    return part if part == whole else f"{whole} › {part}"


def token_name(text: str) -> str:
    """A token for the screen: its leading space left away unless it is all there is."""
    return visible(text.removeprefix(" ") or "␣")


def _model(row: Row) -> dict:
    layer = row.any.layers[0]
    choices = [[_choice(layer) for layer in trace.layers] for trace in row.traces if trace]
    return {
        "name": row.name,
        "badge": row.badge,
        "note": row.note,
        "heads": layer.heads,
        "experts": layer.experts,
        "k": layer.top_k,
        "choice": _b64(np.stack(choices)),
        "readings": [None if trace is None else _reading(trace) for trace in row.traces],
    }


def _choice(layer: LayerTrace) -> np.ndarray:
    """uint8 [S, K]: expert, +128 where dropped, 255 where there is none."""
    packed = np.where(layer.kept, layer.expert, layer.expert + DROPPED)
    return np.where(layer.expert < 0, NONE, packed).astype(np.uint8)


def _reading(trace: RoutingTrace) -> dict:
    demand = sum(int(layer.demand.sum()) for layer in trace.layers)
    dropped = sum(int(layer.dropped.sum()) for layer in trace.layers) / max(1, demand)
    bits = trace.bits_per_byte
    first = trace.layers[0]
    chance = distinct_chance(open_experts(first), first.top_k, first.heads)
    return {
        "bits": "" if bits is None else f"{bits:.2f}",
        "dropped": f"{100 * dropped:.1f} %",
        "chance": f"{chance:.1f}",
        "open": open_experts(first),
    }


def _stage(rows: Sequence[Row], pick: Pick) -> dict:
    model = rows[pick.model]
    layer = model.any.layers[pick.layer]
    source = model.any.input
    if source.kind == "text":
        name = token_in_word(source, pick.token)
    else:
        row, col = divmod(pick.token, source.grid[1])
        name = t("explorer.patch", row=row + 1, col=col + 1)
    return {
        "model": pick.model,
        "layer": pick.layer,
        "token": pick.token,
        "name": name,
        "heads": layer.heads,
        "experts": layer.experts,
        "k": layer.top_k,
        "width": layer.vectors["x"].shape[1],
        "outcomes": [
            None if trace is None else _journey(trace.layers[pick.layer], pick.token)
            for trace in model.traces
        ],
    }


def _journey(layer: LayerTrace, token: int) -> dict:
    """One token through one layer, as the stage draws it."""
    rows = slice(token * layer.heads, (token + 1) * layer.heads)
    vectors = layer.vectors
    return {
        "x": _vector(vectors["x"][token]),
        "out": _vector(vectors["out"][token]),
        "combined": _vector(vectors["combined"][token]),
        "head": None if layer.heads == 1 else _vector(vectors["wide"][token]),
        "logits": _scores(layer.logits[rows]),
        "probs": _rounded(layer.probs[rows]),
        "expert": layer.expert[rows].tolist(),
        "gate": _rounded(layer.gate[rows]),
        "kept": layer.kept[rows].tolist(),
        "slot": layer.slot[rows].tolist(),
        "capacity": layer.capacity,
        "demand": layer.demand.tolist(),
        "load": layer.load.tolist(),
    }


def _scores(logits: np.ndarray) -> list:
    """Scores [H, E] for the browser; None where an expert is switched off."""
    return [[round(float(v), 4) if v > MASKED else None for v in row] for row in logits]


def _rounded(values: np.ndarray) -> list:
    return np.round(values.astype(float), 4).tolist()


def _vector(values: np.ndarray) -> dict:
    top = float(np.abs(values).max()) or 1.0
    return {"q": _b64(np.round(values / top * 127).astype(np.int8)), "max": round(top, 4)}


def _b64(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
