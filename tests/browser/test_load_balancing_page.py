"""Chapter 4 in a real browser: what is drawn and said is what was computed."""

from __future__ import annotations

import re

import pytest
from harness import settle
from playwright.sync_api import Page, expect

from mhmoe.analysis import balance, balancing
from mhmoe.models import engine, forces
from mhmoe.ui import language

TEXT = "The bank lent us money by the river bank"
FIGURES = [f"VG-{n}" for n in range(25, 35)]


def words(key: str, lang: str = "en", **values: object) -> str:
    return language.lookup(lang, f"load-balancing.plate.{key}", **values)


def opened(visit, url: str, **how) -> Page:
    """The page with its last picture drawn."""
    page = visit(url, **how)
    expect(plate(page, "choice").locator(".ribbon-line").first).to_be_attached()
    return page


def plate(page: Page, name: str):
    return page.locator(f".st-key-balancing-{name}")


def said(page: Page, name: str):
    return plate(page, name).locator(".said")


def layer_of(name: str = "text-e8-h4", index: int = 1):
    return engine.trace_text(engine.load(name), TEXT, vectors=True)[0].layers[index]


def test_every_figure_is_named_and_every_check_holds(server, visit):
    page = opened(visit, f"{server}/load-balancing")
    expect(page.get_by_role("heading", level=1)).to_have_text(
        language.lookup("en", "load-balancing.claim")
    )
    for figure in FIGURES:
        expect(page.get_by_text(re.compile(rf"{figure}\b")).first).to_be_attached()
    expect(page.locator(".foot .good").nth(17)).to_be_attached()
    expect(page.locator(".foot .bad, .he-check-bad")).to_have_count(0)


def test_bars_follow_the_keys_and_both_conventions_are_exact(server, visit):
    page = opened(visit, f"{server}/load-balancing")
    here = plate(page, "bars")
    expect(said(page, "bars")).to_contain_text("CV = 1.005")
    here.locator(".option[data-value=yes]").click()
    expect(said(page, "bars")).to_contain_text("CV = 1.123")
    here.locator(".option[data-value=guide33]").click()
    expect(said(page, "bars")).to_contain_text("CV = 0.211")
    here.locator("[data-bar='0']").focus()
    page.keyboard.press("ArrowUp")
    moved = balancing.variation([0.31, 0.3, 0.2, 0.2, 0.3], sample=True)
    expect(said(page, "bars")).to_contain_text(f"CV = {moved:.3f}")


def test_scrubbing_sends_nothing_and_says_what_it_shows(server, visit):
    page = opened(visit, f"{server}/load-balancing")
    page.evaluate(
        """() => {
          const send = WebSocket.prototype.send;
          window.heSent = 0;
          WebSocket.prototype.send = function (data) { window.heSent += 1; send.call(this, data); };
        }"""
    )
    layer = layer_of()
    thumb = plate(page, "descent").locator("input[type=range]")
    thumb.focus()
    thumb.press("End")
    way = forces.descend(layer.logits, 2, layer.gate_convention, "importance", (0.1, 0.3, 1.0))
    after = float(balance.variation(way.importance)[1, -1])
    expect(said(page, "descent")).to_contain_text(f"to {after:.2f}, of load")

    plate(page, "noise").get_by_role("button", name=words("noise_again")).click()
    expect(said(page, "noise")).to_contain_text("Draw 2")

    keep = plate(page, "mask").locator("input[type=range]")
    keep.focus()
    keep.press("Home")
    expect(said(page, "mask")).to_contain_text("its gate is 1.00")
    assert page.evaluate("window.heSent") == 0


@pytest.mark.parametrize(("answer", "begins"), [("no", "equal_right"), ("yes", "equal_wrong")])
def test_predict_then_reveal(server, visit, answer, begins):
    page = opened(visit, f"{server}/load-balancing")
    here = plate(page, "equal")
    expect(said(page, "equal")).to_be_hidden()
    here.locator(f".option[data-value={answer}]").click()
    expect(said(page, "equal")).to_contain_text(words(begins))
    expect(said(page, "equal")).to_contain_text("from 5 to 11")


def test_a_phone_at_night_in_chinese_with_a_link_and_a_download(server, visit):
    url = f"{server}/load-balancing?lang=zh&model=text-e8&layer=0"
    page = opened(visit, url, size=(390, 844), theme="dark", locale="zh-CN")
    expect(page.get_by_role("heading", level=1)).to_have_text(
        language.lookup("zh", "load-balancing.claim")
    )
    layer = layer_of("text-e8", 0)
    total = balancing.gate_sums(layer, layer.gate_convention).sum()
    expect(said(page, "importance")).to_contain_text(f"合计 {total:.1f}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    with page.expect_download() as got:
        plate(page, "importance").get_by_role("button", name="CSV").click()
    assert got.value.suggested_filename.endswith(".csv")
    settle(page)
