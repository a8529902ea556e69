"""Chapter 6 in a real browser: the picture's patches, their experts, and who is left out."""

from __future__ import annotations

import re

import pytest
from harness import ROOT
from playwright.sync_api import Page, expect

from mhmoe.models import engine
from mhmoe.models.images import decode
from mhmoe.ui import language, runs

PHONE = (390, 844)
CAT = ROOT / "assets" / "samples" / "cat.jpg"


def words(key: str, lang: str = "en", **values: object) -> str:
    return language.lookup(lang, f"vision.{key}", **values)


def plate(page: Page, name: str):
    return page.locator(f".st-key-vision-{name}")


def opened(visit, url: str, **how) -> Page:
    page = visit(url, **how)
    expect(plate(page, "mixing").locator(".said")).not_to_be_empty()
    return page


def test_the_claim_the_figures_and_every_check(server, visit):
    page = opened(visit, f"{server}/vision")
    expect(page.get_by_role("heading", level=1)).to_have_text(words("claim"))
    for number in range(44, 54):
        expect(page.get_by_text(re.compile(rf"VG-{number}\b")).first).to_be_attached()
    expect(page.locator(".foot .good").first).to_be_attached()
    expect(page.locator(".foot .bad")).to_have_count(0)


def test_every_patch_wears_its_first_choice(server, visit):
    page = opened(visit, f"{server}/vision")
    (trace,) = engine.trace_image(engine.load(runs.pair("image")[0]), decode(CAT.read_bytes()))
    heads, grid = trace.layers[-1].heads, trace.input.grid[0]
    drawn = plate(page, "tints").locator(".canvas g[data-expert]:not(.one):has(> .tinted)")
    expect(drawn).to_have_count(grid**2)
    found = drawn.evaluate_all("cells => cells.map((cell) => Number(cell.dataset.expert))")
    assert found == trace.layers[-1].expert[::heads, 0].tolist()


def test_predict_then_see_who_keeps_a_place(server, visit):
    page = opened(visit, f"{server}/vision")
    priority = plate(page, "priority")
    asked = words("plate.guess")
    expect(priority).to_contain_text(asked)
    priority.get_by_role("button", name=words("plate.guess_show")).click()
    expect(priority).not_to_contain_text(asked)
    before = priority.locator(".said").inner_text()
    priority.locator("input[type=range]").first.press("ArrowLeft")
    expect(priority.locator(".said")).not_to_have_text(before)


@pytest.mark.parametrize(("theme", "lang"), [("light", "en"), ("dark", "zh")])
def test_a_phone(server, visit, theme, lang):
    page = opened(visit, f"{server}/vision?lang={lang}", theme=theme, size=PHONE)
    expect(page.get_by_role("heading", level=1)).to_have_text(words("claim", lang))
    wider = page.evaluate(
        "() => { const m = document.querySelector('[data-testid=stMain]');"
        " return m.scrollWidth - m.clientWidth; }"
    )
    assert wider <= 0
