"""The link: what it carries comes back, and what it must not carry is ignored with a reason."""

from __future__ import annotations

import base64
import zlib
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhmoe.ui.state import (
    BOUNDS,
    TEXT_LIMIT,
    Ignored,
    ViewState,
    decode_text,
    encode_text,
    fit,
    read_query,
    text_fits,
    to_query,
)

EVERYTHING = ViewState(
    lang="zh",
    page="router",
    model="text-e8-h4",
    hash="0123abcd",
    layer=2,
    token=0,
    expert=7,
    sample="bank",
    preset="mixtral-8x7b",
    seed=42,
    capacity=1.25,
    heads=4,
    experts=8,
    present=True,
    text="银行 🙂 <b>&=#",
)


def reread(view: ViewState, **options: bool) -> ViewState:
    params = dict(parse_qsl(to_query(view, **options)))
    again, ignored = read_query(params, page=view.page)
    assert ignored == ()
    return again


def test_everything_comes_back():
    assert reread(EVERYTHING, with_text=True) == EVERYTHING


def test_the_text_goes_in_only_when_asked_for():
    assert "text=" not in to_query(EVERYTHING)
    assert reread(EVERYTHING).text is None


def test_a_default_view_is_a_short_link():
    assert to_query(ViewState()) == "lang=en"


@given(st.text(min_size=1, max_size=120))
def test_any_text_survives(text):
    expected = text.encode("utf-8", "replace").decode()
    assert decode_text(encode_text(text)) == (expected if text_fits(text) else None)


def test_the_longest_text_fits_and_one_byte_more_does_not():
    longest = "x" * TEXT_LIMIT
    assert decode_text(encode_text(longest)) == longest
    assert decode_text(encode_text(longest + "x")) is None
    assert "text" not in to_query(ViewState(text=longest + "x"), with_text=True)


def test_a_text_is_measured_in_bytes():
    assert text_fits("银" * 166)
    assert not text_fits("银" * 167)
    assert not text_fits("")
    assert not text_fits(None)


def test_a_small_link_cannot_unfold_into_a_large_text():
    bomb = base64.urlsafe_b64encode(zlib.compress(b"\0" * 50_000_000)).decode().rstrip("=")
    assert decode_text(bomb) is None


@pytest.mark.parametrize("damaged", ["", "A", "AAAA", "not base64!", "eJw", "银行", "A" * 4000])
def test_a_damaged_text_is_none(damaged):
    assert decode_text(damaged) is None


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_truncated_text_is_none(cut):
    assert decode_text(encode_text("a text that is long enough to cut")[:-cut]) is None


@pytest.mark.parametrize(
    ("name", "raw", "value", "reason"),
    [
        ("layer", "3", 3, None),
        ("layer", "-1", 0, "range"),
        ("layer", "64", 63, "range"),
        ("layer", "2.5", None, "invalid"),
        ("layer", "", None, "invalid"),
        ("token", "9" * 5000, None, "invalid"),
        ("seed", "0x10", None, "invalid"),
        ("capacity", "1.25", 1.25, None),
        ("capacity", "nan", None, "invalid"),
        ("capacity", "inf", None, "invalid"),
        ("capacity", "1e300", 16.0, "range"),
        ("model", "text-e8-h4", "text-e8-h4", None),
        ("model", "../../etc/passwd", None, "invalid"),
        ("hash", "ABCD", None, "invalid"),
        ("sample", "a b", None, "invalid"),
        ("text", "AAAA", None, "text"),
    ],
)
def test_one_parameter(name, raw, value, reason):
    view, ignored = read_query({name: raw})
    assert getattr(view, name) == value
    assert [problem.reason for problem in ignored] == ([reason] if reason else [])


def test_present_and_lang_take_only_their_words():
    view, ignored = read_query({"present": "yes", "lang": "fr"}, lang="zh")
    assert (view.present, view.lang) == (False, "zh")
    assert ignored == (Ignored("present", "invalid"), Ignored("lang", "invalid"))


def test_unknown_names_are_shortened_and_printable():
    _, ignored = read_query({"\x07" + "x" * 90: "1"})
    assert ignored == (Ignored("?" + "x" * 22 + "…", "unknown"),)


def test_page_is_the_path_and_embed_is_streamlits():
    view, ignored = read_query({"page": "papers", "embed": "true"}, page="router")
    assert view.page == "router"
    assert ignored == (Ignored("page", "unknown"),)


@given(st.dictionaries(st.sampled_from([*BOUNDS, "model", "hash", "text", "lang"]), st.text()))
def test_no_link_raises_or_leaves_the_bounds(params):
    view, _ = read_query(params)
    for name, (low, high) in BOUNDS.items():
        value = getattr(view, name)
        assert value is None or low <= value <= high


def test_fit_moves_to_the_nearest_and_says_so():
    view, moved = fit(ViewState(layer=9, token=2), layer=(0, 3), token=(0, 8), expert=(0, 7))
    assert (view.layer, view.token, view.expert) == (3, 2, None)
    assert moved == (Ignored("layer", "range", 0, 3),)
