"""The trace: one hand-made instance of each kind of routing, and every law it must keep.

The numbers are small enough to check on paper; how they come about is written beside them.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from mhmoe.trace import (
    EXPERT_CHOICE,
    SOFT,
    ImageInput,
    LayerTrace,
    RoutingTrace,
    Source,
    TextInput,
    Token,
    TraceError,
)

SOURCE = Source(name="by-hand", sha256="ab" * 32)


def text(*pieces: str) -> TextInput:
    """One word for each token."""
    ends = np.cumsum([len(p.encode()) for p in pieces]).tolist()
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    return TextInput(
        text="".join(pieces),
        words=tuple(spans),
        tokens=tuple(
            Token(text=p, span=s, word=i)
            for i, (p, s) in enumerate(zip(pieces, spans, strict=True))
        ),
    )


def token_choice() -> RoutingTrace:
    """Three tokens, three experts, k = 2, CF = 1: C = ceil(1 * 2 * 3 / 3) = 2 places each.

    First choices: all three want expert 0, which has two places, so token 2 is turned away.
    Second choices: tokens 0 and 2 take the places 0 and 1 of expert 1, token 1 that of 2.
    """
    probs = np.array([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3], [0.5, 0.4, 0.1]])
    layer = LayerTrace(
        layer=0,
        router="linear",
        experts=3,
        top_k=2,
        heads=1,
        capacity=2,
        logits=np.log(probs),
        probs=probs,
        expert=np.array([[0, 1], [0, 2], [0, 1]]),
        gate=np.array([[0.5, 0.3], [0.6, 0.3], [0.5, 0.4]]),
        slot=np.array([[0, 0], [1, 0], [-1, 1]]),
        kept=np.array([[True, True], [True, True], [False, True]]),
        demand=np.array([3, 2, 1]),
        load=np.array([2, 2, 1]),
        importance=np.array([1.6, 0.7, 0.3]),
        # f = (3, 2, 1) / 6, P = (1.6, .8, .6) / 3: 3 * (3 * 1.6 + 2 * .8 + 1 * .6) / 18 = 7 / 6
        losses={"balance": 7 / 6},
    )
    return RoutingTrace(
        source=SOURCE,
        input=text("a", "bc", "d"),
        heads=1,
        layers=(layer,),
        nats=np.array([np.nan, np.log(8), np.log(4)]),
    )


def multi_head() -> RoutingTrace:
    """Two tokens of two sub-tokens, two experts, k = 1, no limit. Row s = token * 2 + head."""
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
    layer = LayerTrace(
        layer=1,
        router="linear",
        experts=2,
        top_k=1,
        heads=2,
        capacity=None,
        logits=np.log(probs),
        probs=probs,
        expert=np.array([[0], [1], [0], [0]]),
        gate=np.array([[0.9], [0.8], [0.7], [0.6]]),
        slot=np.array([[0], [0], [1], [2]]),
        kept=np.ones((4, 1), bool),
        demand=np.array([3, 1]),
        load=np.array([3, 1]),
        importance=np.array([2.2, 0.8]),
    )
    return RoutingTrace(source=SOURCE, input=text("x", "y"), heads=2, layers=(layer,))


def expert_choice() -> RoutingTrace:
    """Four patches, two experts that take C = 2 patches each; K = 2, the most that one got.

    Expert 0 takes patches 1 (.9) and 0 (.5), expert 1 patches 2 (.9) and 0 (.5): patch 3 ties
    with patch 0, has the higher index, and goes nowhere.
    """
    probs = np.array([[0.5, 0.5], [0.9, 0.1], [0.1, 0.9], [0.5, 0.5]])
    layer = LayerTrace(
        layer=0,
        router="expert-choice",
        assignment=EXPERT_CHOICE,
        experts=2,
        top_k=2,
        heads=1,
        capacity=2,
        logits=np.log(probs),
        probs=probs,
        expert=np.array([[0, 1], [0, -1], [1, -1], [-1, -1]]),
        gate=np.array([[0.5, 0.5], [0.9, 0], [0.9, 0], [0, 0]]),
        slot=np.array([[1, 1], [0, -1], [0, -1], [-1, -1]]),
        kept=np.array([[True, True], [True, False], [True, False], [False, False]]),
        demand=np.array([2, 2]),
        load=np.array([2, 2]),
        importance=np.array([1.4, 1.4]),
    )
    grid = ImageInput(grid=(2, 2), patch=8, crop=(3, 0, 19, 16))
    return RoutingTrace(source=SOURCE, input=grid, heads=1, layers=(layer,))


def rerouted() -> RoutingTrace:
    """Two tokens want expert 0, which has one place; the second finds expert 1. Scores are
    sigmoids, which need not sum to 1."""
    probs = np.array([[0.8, 0.5], [0.9, 0.2]])
    layer = LayerTrace(
        layer=0,
        router="no-token-left-behind",
        score="sigmoid",
        experts=2,
        top_k=1,
        heads=1,
        capacity=1,
        logits=np.log(probs / (1 - probs)),
        probs=probs,
        expert=np.array([[0], [1]]),
        wanted=np.array([[0], [0]]),
        gate=np.array([[0.8], [0.2]]),
        slot=np.array([[0], [0]]),
        kept=np.array([[True], [True]]),
        demand=np.array([2, 0]),
        load=np.array([1, 1]),
        importance=np.array([0.8, 0.2]),
    )
    return RoutingTrace(source=SOURCE, input=text("x", "y"), heads=1, layers=(layer,))


def soft() -> RoutingTrace:
    """Two tokens, two experts of one slot; the only score that is not 0 is ln 2.

    Softmax over tokens (columns): 2/3, 1/3 and 1/2, 1/2. Over slots (rows): the same here.
    """
    logits = np.array([[np.log(2), 0.0], [0.0, 0.0]])
    layer = LayerTrace(
        layer=0,
        router="soft",
        assignment=SOFT,
        experts=2,
        top_k=2,
        heads=1,
        capacity=1,
        logits=logits,
        probs=np.array([[2 / 3, 1 / 3], [1 / 2, 1 / 2]]),
        dispatch=np.array([[2 / 3, 1 / 2], [1 / 3, 1 / 2]]),
        combine=np.array([[2 / 3, 1 / 3], [1 / 2, 1 / 2]]),
        demand=np.array([1, 1]),
        load=np.array([1, 1]),
        importance=np.array([7 / 6, 5 / 6]),
    )
    return RoutingTrace(source=SOURCE, input=text("x", "y"), heads=1, layers=(layer,))


def dense() -> RoutingTrace:
    return RoutingTrace(
        source=SOURCE, input=text("x", "é"), heads=1, layers=(), nats=np.array([np.nan, 1.0])
    )


INSTANCES = [token_choice, multi_head, expert_choice, rerouted, soft, dense]


@pytest.mark.parametrize("make", INSTANCES)
class TestEveryKind:
    def test_keeps_its_laws(self, make):
        make()  # the constructor checks; see the tests below for what it would not let pass

    def test_survives_the_file(self, make, tmp_path):
        trace = make()
        trace.save(tmp_path / "t.safetensors")
        again = RoutingTrace.load(tmp_path / "t.safetensors")
        assert json.dumps(again.to_dict()) == json.dumps(trace.to_dict())
        assert again.source == trace.source
        assert again.input == trace.input
        for a, b in zip(again.layers, trace.layers, strict=True):
            assert a.logits.dtype == b.logits.dtype

    def test_json_holds_what_the_trace_holds(self, make):
        trace = make()
        data = json.loads(json.dumps(trace.to_dict(), allow_nan=False))
        assert data["schema"] == 1
        assert data["heads"] == trace.heads
        for row, layer in zip(data["layers"], trace.layers, strict=True):
            for name in ("layer", "router", "experts", "top_k", "heads", "capacity"):
                assert row[name] == getattr(layer, name)
            for name in ("logits", "probs", "demand", "load", "importance"):
                np.testing.assert_array_equal(np.array(row[name]), getattr(layer, name))

    def test_is_frozen(self, make):
        for layer in make().layers:
            with pytest.raises(ValueError, match="read-only"):
                layer.demand[0] = 7
            with pytest.raises(AttributeError):
                layer.top_k = 1


# ---------------------------------------------------------------------------- broken laws


def broken(make, **changes) -> None:
    trace = make()
    replace(trace, layers=(replace(trace.layers[0], **changes),))


def put(array: np.ndarray, at: tuple[int, int], value: float) -> np.ndarray:
    copy = array.copy()
    copy[at] = value
    return copy


TOKENS, EXPERTS, SOFTLY = (make().layers[0] for make in (token_choice, expert_choice, soft))

BROKEN = {
    "a count too many": (token_choice, {"demand": np.array([3, 2, 2])}, "demand"),
    "a drop that is not told": (token_choice, {"load": np.array([3, 2, 1])}, "load"),
    "importance of kept only": (
        token_choice,
        {"importance": np.array([1.1, 0.7, 0.3])},
        "importance",
    ),
    "a wrong gate": (token_choice, {"gate": put(TOKENS.gate, (0, 0), 0.9)}, "importance"),
    "one expert twice": (
        token_choice,
        {
            "expert": put(TOKENS.expert, (0, 1), 0),
            "slot": put(TOKENS.slot, (0, 1), 3),
            "capacity": 4,
            "demand": np.array([4, 1, 1]),
            "load": np.array([3, 1, 1]),
            "importance": np.array([1.9, 0.4, 0.3]),
        },
        "twice",
    ),
    "an expert that is not there": (
        token_choice,
        {"expert": put(TOKENS.expert, (0, 0), 3)},
        "not below 3",
    ),
    "more than capacity": (token_choice, {"capacity": 1}, "with capacity 1"),
    "a place beyond capacity": (token_choice, {"slot": put(TOKENS.slot, (1, 0), 2)}, "place 2"),
    "two in one place": (token_choice, {"slot": put(TOKENS.slot, (1, 0), 0)}, "share one place"),
    "dropped but placed": (token_choice, {"slot": put(TOKENS.slot, (2, 0), 1)}, "slot"),
    "kept without a place": (token_choice, {"slot": put(TOKENS.slot, (0, 0), -1)}, "slot"),
    "probs that are none": (token_choice, {"probs": put(TOKENS.probs, (0, 0), 0.6)}, "sum to 1"),
    "probs not finite": (token_choice, {"probs": put(TOKENS.probs, (0, 0), np.nan)}, "finite"),
    "scores of other experts": (token_choice, {"logits": TOKENS.logits[:, :2]}, "logits"),
    "one choice missing": (token_choice, {"gate": TOKENS.gate[:, :1]}, r"gate is not \[S, K\]"),
    "no choices at all": (token_choice, {"expert": None}, r"expert is not \[S, K\]"),
    "demand of too few": (token_choice, {"demand": np.array([3, 2])}, "demand has shape"),
    "a demand that re-routing hides": (rerouted, {"demand": np.array([1, 1])}, "demand"),
    "sigmoids called a softmax": (rerouted, {"score": "softmax"}, "sum to 1"),
    "a sigmoid that is none": (rerouted, {"probs": np.array([[1.8, 0.5], [0.9, 0.2]])}, "between"),
    "an unknown score": (rerouted, {"score": "cosine"}, "cosine"),
    "wishes of other tokens": (rerouted, {"wanted": np.array([[0], [0], [0]])}, "wanted"),
    "an unknown assignment": (token_choice, {"assignment": "lottery"}, "lottery"),
    "a layer with other heads": (token_choice, {"heads": 2}, "2 heads"),
    "a sub-token lost": (multi_head, {"heads": 1}, "4 sub-tokens, not 2 tokens x 1"),
    "padding that is kept": (expert_choice, {"kept": put(EXPERTS.kept, (3, 0), True)}, "padded"),
    "padding with a gate": (expert_choice, {"gate": put(EXPERTS.gate, (3, 0), 0.1)}, "padded"),
    "an expert over-full": (expert_choice, {"capacity": 1}, "with capacity 1"),
    "a slot not filled": (soft, {"dispatch": put(SOFTLY.dispatch, (0, 0), 0.5)}, "dispatch column"),
    "a token not filled": (soft, {"combine": put(SOFTLY.combine, (0, 0), 0.5)}, "combine row"),
    "no combine": (soft, {"combine": None}, "combine does not have the shape"),
    "slots that do not divide": (
        soft,
        {"experts": 3, "demand": np.ones(3), "load": np.ones(3), "importance": np.ones(3)},
        "cannot be shared",
    ),
}


@pytest.mark.parametrize(("make", "changes", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_law_is_caught(make, changes, message):
    with pytest.raises(TraceError, match=message):
        broken(make, **changes)


def test_nats_of_other_tokens_are_caught():
    with pytest.raises(TraceError, match="nats"):
        replace(dense(), nats=np.array([1.0]))


# ---------------------------------------------------------------------------- derived numbers


def test_drops_and_their_share():
    layer = token_choice().layers[0]
    assert layer.dropped.tolist() == [1, 0, 0]
    assert layer.dropped_share == pytest.approx(1 / 6)  # one of 3 * 2 choices


def test_re_routing_moves_what_was_turned_away():
    layer = rerouted().layers[0]
    assert layer.dropped.tolist() == [1, -1]  # one turned away, one taken over
    assert layer.dropped_share == 0


def test_files_from_before_there_were_sigmoids_and_re_routing(tmp_path):
    trace = token_choice()
    trace.save(tmp_path / "new.safetensors")
    raw = (tmp_path / "new.safetensors").read_bytes()
    old = raw.replace(b'\\"score\\": \\"softmax\\", ', b"")
    assert len(old) < len(raw)
    size = int.from_bytes(raw[:8], "little") - (len(raw) - len(old))
    (tmp_path / "old.safetensors").write_bytes(size.to_bytes(8, "little") + old[8:])
    again = RoutingTrace.load(tmp_path / "old.safetensors")
    assert again.layers[0].score == "softmax"
    assert again.layers[0].wanted is None


def test_bits_per_byte_counts_predicted_tokens_only():
    # log2 8 + log2 4 = 5 bits for "bc" and "d", three bytes; "a" has nothing before it
    assert token_choice().bits_per_byte == pytest.approx(5 / 3)
    # 1 nat for the two bytes of "é"
    assert dense().bits_per_byte == pytest.approx(1 / np.log(2) / 2)
    assert multi_head().bits_per_byte is None
    assert expert_choice().bits_per_byte is None


def test_an_unlimited_layer_says_so_in_json():
    assert multi_head().to_dict()["layers"][0]["capacity"] is None


# ---------------------------------------------------------------------------- files


def test_a_file_that_is_no_trace(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"not a trace at all")
    with pytest.raises(TraceError, match="not a trace file"):
        RoutingTrace.load(path)
    save_file({"a": np.zeros(1)}, str(path))
    with pytest.raises(TraceError, match="not a trace file"):
        RoutingTrace.load(path)


def edited(path, **changes):
    """The file with its header's JSON changed."""
    trace = token_choice()
    meta = trace.to_dict() | {"nats": None} | changes
    save_file({"nats": trace.nats}, str(path), metadata={"mhmoe.trace": json.dumps(meta)})


def test_a_trace_of_another_schema(tmp_path):
    edited(tmp_path / "x.safetensors", schema=99)
    with pytest.raises(TraceError, match="schema 99; this program reads 1"):
        RoutingTrace.load(tmp_path / "x.safetensors")


def test_a_trace_that_lacks_a_part(tmp_path):
    edited(tmp_path / "x.safetensors", layers=[{"layer": 0, "shared": []}])
    with pytest.raises(TraceError, match="lacks a part"):
        RoutingTrace.load(tmp_path / "x.safetensors")


def test_a_damaged_file_cannot_break_a_law_unseen(tmp_path):
    path = tmp_path / "x.safetensors"
    token_choice().save(path)
    raw = path.read_bytes()
    demand = np.array([3, 2, 1]).tobytes()
    assert raw.count(demand) == 1
    path.write_bytes(raw.replace(demand, np.array([2, 2, 2]).tobytes()))
    with pytest.raises(TraceError, match="demand"):
        RoutingTrace.load(path)
