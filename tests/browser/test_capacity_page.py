"""Chapter 5 in a real browser: what is drawn and said is what the layers' own code decided."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest
from harness import settle
from playwright.sync_api import Page, expect

from mhmoe.analysis import capacity
from mhmoe.models import engine
from mhmoe.ui import language
from mhmoe.ui.capacity_panels import CHIPS, FACTORS, FIRST

SENTENCE = "The bank lent us money by the river bank"
PHONE = (390, 844)
FIGURES = (35, 36, 37, 40, 41, 42, 43)
PLATES = ("board", "places", "demand", "sweep", "balance", "guide")


def opened(visit, url: str, **how) -> Page:
    """The page with its last picture drawn."""
    page = visit(url, **how)
    expect(plate(page, "guide").locator(".seat").first).to_be_attached()
    return page


def plate(page: Page, name: str):
    return page.locator(f".st-key-capacity-{name}")


def said(page: Page, name: str):
    return plate(page, name).locator(".said")


def slide(page: Page, name: str, key: str, times: int = 1, which: int = 0) -> None:
    thumb = plate(page, name).locator("input[type=range]").nth(which)
    thumb.focus()
    for _ in range(times):
        thumb.press(key)


@cache
def layer_of(name: str = "text-e8-h4", index: int = 1):
    return engine.trace_text(engine.load(name), SENTENCE)[0].layers[index]


@cache
def filled(policy: str, name: str = "text-e8-h4", index: int = 1) -> engine.Filled:
    return engine.fill(layer_of(name, index).logits, policy, FACTORS)


def share(value: float) -> str:
    return f"{100 * value:.0f} %"


def test_every_figure_of_the_section_is_named_and_every_check_holds(server, visit):
    page = opened(visit, f"{server}/capacity")
    for figure in FIGURES:
        expect(page.locator(".foot .figures").get_by_text(f"VG-{figure}").first).to_be_attached()
    expect(page.locator(".foot .good")).to_have_count(15)
    expect(page.locator(".foot .bad")).to_have_count(0)
    expect(page.locator("h1")).to_have_text(language.lookup("en", "capacity.claim"))


def test_policies_and_factors_are_scrubbed_without_a_message(server, visit):
    page = opened(visit, f"{server}/capacity")
    page.evaluate(
        """() => {
          const send = WebSocket.prototype.send;
          window.heSent = 0;
          WebSocket.prototype.send = function (data) { window.heSent += 1; send.call(this, data); };
        }"""
    )
    board = plate(page, "board")
    bits = {
        p: engine.bits_by_policy(engine.load("text-e8-h4"), SENTENCE, p, FACTORS)
        for p in engine.POLICIES
    }
    for stop in (FIRST, FIRST - 1):
        for policy in engine.POLICIES:
            dropped = capacity.dropped(filled(policy).kept)[stop]
            card = board.locator(f".policy[data-value={policy}]")
            expect(card).to_contain_text(f"{share(dropped)} dropped")
            expect(card).to_contain_text(f"{bits[policy][stop]:.2f} bits/byte")
        slide(page, "board", "ArrowLeft")
    for policy in engine.POLICIES:
        board.locator(f".policy[data-value={policy}]").click()
        away = int((~filled(policy).kept[FIRST - 2]).sum())
        total = filled(policy).kept[0].size
        expect(said(page, "board")).to_contain_text(f"{away} of {total} choices")
    slide(page, "sweep", "End")
    slide(page, "demand", "Home")
    slide(page, "places", "Home")
    assert page.evaluate("window.heSent") == 0


def test_arrivals_are_stepped_with_the_keyboard(server, visit):
    page = opened(visit, f"{server}/capacity")
    board = plate(page, "board")
    board.locator(".policy[data-value=drop]").click()
    slide(page, "board", "Home", which=1)
    expect(board.locator(".seat[data-shown=true]")).to_have_count(0)
    first, C = filled("drop"), filled("drop").capacity[FIRST]
    step = board.get_by_role("button", name=language.lookup("en", "capacity.plate.step_on"))
    for s in range(3):
        step.press("Enter")
        place = int(first.slot[FIRST, s, 0]) + 1
        text = f"asks for expert {first.ranked[s, 0] + 1} and gets place {place} of {C}."
        expect(said(page, "board")).to_contain_text(text)
        expect(board.locator(".seat[data-shown=true]")).to_have_count(s + 1)
    lost = int(np.flatnonzero(~first.kept[FIRST, :, 0])[0])
    slide(page, "board", "ArrowRight", times=lost + 1 - 3, which=1)
    expect(said(page, "board")).to_contain_text("turned away")


def test_predict_then_reveal(server, visit):
    page = opened(visit, f"{server}/capacity")
    two, first = filled("two"), filled("priority")
    s, rank, rivals = capacity.late_comer(
        two.ranked[:, 0], two.kept[FIRST, :, 0], first.kept[FIRST, :, 0], first.order
    )
    kept = bool(first.kept[FIRST, s, 0])
    assert kept == (rank < first.capacity[FIRST])
    board = plate(page, "board")
    board.locator("[data-answer=false]").click()
    word = "It does keep it" if kept else "Right: still turned away"
    question = board.locator(".question")
    expect(question).to_contain_text(word)
    expect(question).to_contain_text(f"number {rank + 1} of the {rivals}")
    chosen = board.locator(".policy[data-value=priority]")
    expect(chosen).to_have_attribute("aria-checked", "true")
    expect(board.locator(".seat[data-asked=true]")).to_have_count(1)


def test_moving_a_chip_changes_f_and_pushing_scores_changes_p(server, visit):
    page = opened(visit, f"{server}/capacity")
    layer, E = layer_of(), layer_of().experts
    logits = layer.logits[:CHIPS]
    pushes = engine.push_scores(logits, np.array([0.0, 4.0]))
    f = np.bincount(pushes.expert[0, 0], minlength=E) / CHIPS
    P = pushes.mean[0, 0]
    value = plate(page, "balance").locator(".canvas .big")
    expect(value).to_have_text(f"{E * f @ P:.3f}")
    start = int(pushes.expert[0, 0, 0])
    chip = plate(page, "balance").locator("[data-chip='0']")
    chip.focus()
    chip.press("ArrowRight" if start < E - 1 else "ArrowLeft")
    moved = f.copy()
    moved[start] -= 1 / CHIPS
    moved[start + (1 if start < E - 1 else -1)] += 1 / CHIPS
    expect(value).to_have_text(f"{E * moved @ P:.3f}")
    plate(page, "balance").locator(".option[data-value=push]").click()
    slide(page, "balance", "End")
    expect(value).to_have_text(f"{pushes.balance[start, 1]:.3f}")
    for case, text in ((1, "1.000"), (2, "4.000"), (3, "0.934")):
        plate(page, "balance").locator(f".option[data-value='{case}']").click()
        expect(value).to_have_text(text)
        expect(plate(page, "balance").locator(".tag-badge")).to_have_text("preset")


def test_a_link_opens_another_model_and_layer_and_the_choice_goes_into_it(server, visit):
    page = opened(visit, f"{server}/capacity?model=text-e8&layer=2&capacity=0.5")
    stop = FACTORS.index(0.5)
    two = filled("two", "text-e8", 2)
    expect(plate(page, "board").locator(".policy[data-value=two]")).to_contain_text(
        share(capacity.dropped(two.kept)[stop])
    )
    page.locator(".st-key-capacity-layer").get_by_role("radio", name="1", exact=True).click()
    expect(page).to_have_url(re.compile("layer=0"))
    settle(page)
    expect(plate(page, "board").get_by_text("The places of layer 1")).to_be_attached()


def test_numbers_and_pictures_can_be_taken_away(server, visit):
    page = opened(visit, f"{server}/capacity")
    foot = plate(page, "board").locator(".foot")
    with page.expect_download() as got:
        foot.get_by_role("button", name="CSV").click()
    lines = got.value.path().read_text("utf-8-sig").splitlines()
    assert len(lines) == 1 + filled("two").kept[0].size
    assert lines[0].startswith("arrival,token")
    with page.expect_download() as got:
        foot.get_by_role("button", name="SVG").click()
    assert got.value.path().read_text("utf-8").count("<text") > 60
    foot.get_by_role("button", name="Table").click()
    expect(plate(page, "board").locator("tbody tr")).to_have_count(len(lines) - 1)


@pytest.mark.parametrize(("lang", "theme"), [("en", "light"), ("zh", "dark")])
def test_a_phone_shows_every_picture_inside_its_width(server, visit, lang, theme):
    page = opened(visit, f"{server}/capacity?lang={lang}", size=PHONE, theme=theme)
    for name in PLATES:
        wide, room = (
            plate(page, name)
            .locator(".picture")
            .evaluate("e => [e.firstChild.getBBox().width, e.clientWidth]")
        )
        assert wide <= room + 1, name
    sizes = page.locator(".plate .canvas text").evaluate_all(
        "all => all.map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 12
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    claim = language.lookup(lang, "capacity.claim")
    expect(page.locator("h1")).to_have_text(claim)


def test_hostile_text_and_a_single_token_stay_harmless(server, visit):
    page = opened(visit, f"{server}/capacity")
    box = page.locator(".st-key-sentence input")
    for text in ("<img src=x onerror=alert(1)> **b** [[expert]] {x}", "a"):
        box.fill(text)
        box.press("Enter")
        settle(page)
        expect(plate(page, "guide").locator(".seat").first).to_be_attached()
    expect(page.locator("img[src='x']")).to_have_count(0)
    expect(page.locator(".foot .bad")).to_have_count(0)
