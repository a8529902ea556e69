"""Chapter 7 in a real browser: what is drawn and said is what was counted."""

from __future__ import annotations

import json
import re

import pytest
from harness import settle
from playwright.sync_api import Page, expect

from mhmoe.analysis import budget, parity
from mhmoe.analysis.parameters import count, presets
from mhmoe.models import engine
from mhmoe.ui import language
from mhmoe.ui import parameters_panels as panels
from mhmoe.ui.runs import ModelKey

TEXT = "The bank lent us money by the river bank"
PHONE = (390, 844)
PLATES = ("treemap", "batch", "budget", "costs", "parity")


def words(key: str, lang: str = "en", **values: object) -> str:
    return language.lookup(lang, f"parameters.{key}", **values)


def opened(visit, url: str, **how) -> Page:
    page = visit(url, **how)
    expect(page.locator(".st-key-parameters-parity .said")).not_to_be_empty()
    return page


def plate(page: Page, name: str):
    return page.locator(f".st-key-parameters-{name}")


def said(page: Page, name: str):
    return plate(page, name).locator(".said")


def edit(page: Page, text: str) -> None:
    box = page.locator(".st-key-parameters-config textarea")
    box.fill(text)
    box.press("Control+Enter")
    settle(page)


def test_the_claim_the_figures_and_every_check(server, visit):
    page = opened(visit, f"{server}/parameters")
    expect(page.get_by_role("heading", level=1)).to_have_text(words("claim"))
    for figure in ("VG-54", "VG-55", "VG-56"):
        expect(page.get_by_text(re.compile(rf"{figure}\b")).first).to_be_attached()
    expect(page.locator(".foot .good")).to_have_count(10)
    expect(page.locator(".foot .bad")).to_have_count(0)
    canvas = plate(page, "budget").locator(".canvas")
    for exact in ("46,702,792,704", "12,879,925,248"):
        expect(canvas.get_by_text(exact, exact=True)).to_be_attached()


def test_a_token_greys_what_it_leaves_idle(server, visit):
    page = opened(visit, f"{server}/parameters?model=text-e8&token=3")
    own = panels.held.__wrapped__(ModelKey("text", heads=1), "SMoE", TEXT)
    for k in (own.trained, own.trained + 1):
        visited = own.visits[k - 1, :, 3] > 0
        idle = plate(page, "treemap").locator("g[data-idle=true]")
        expect(idle).to_have_count(int((~visited).sum()))
        expect(said(page, "treemap")).to_contain_text(f"{visited.sum()} of {visited.size} experts")
        plate(page, "treemap").locator("input[type=range]").press("ArrowRight")
    expect(page.locator(".st-key-router-strip .row[data-model='1'] .token")).not_to_have_count(0)
    page.locator(".st-key-router-strip .row[data-model='0'] .token[data-token='5']").click()
    expect(said(page, "treemap")).to_contain_text("sub-tokens")
    expect(page).to_have_url(re.compile("token=5"))


def test_predict_then_scrub_without_a_message(server, visit):
    page = opened(visit, f"{server}/parameters")
    page.evaluate(
        """() => {
          const send = WebSocket.prototype.send;
          window.heSent = 0;
          WebSocket.prototype.send = function (data) { window.heSent += 1; send.call(this, data); };
        }"""
    )
    trace = engine.trace_text(engine.load("text-e8"), TEXT)[0]
    touched = budget.touched(budget.first_seen(trace.layers), trace.input.count)
    batch = plate(page, "batch")
    thumb = batch.get_by_role("slider", name=words("plate.batch_label"))
    expect(thumb).to_be_hidden()
    batch.get_by_role("slider", name=words("plate.guess_label")).press("Home")
    batch.get_by_role("button", name=words("plate.reveal")).press("Enter")
    ask = min(panels.ASKED, trace.input.count)
    answer = batch.locator(".question")
    expect(answer).to_contain_text(f"first {ask} tokens touch {touched[ask - 1]} of the 32")
    expect(thumb).to_be_focused()
    thumb.press("Home")
    for _ in range(3):
        thumb.press("ArrowRight")
    expect(said(page, "batch")).to_contain_text(f"4 tokens touch {touched[3]} of 32")
    expect(batch.locator("g[data-idle=false]")).to_have_count(int(touched[3]))
    plate(page, "parity").locator("input[type=range]").press("End")
    member = parity.members(panels.START, 16)
    ratio = member["code"].macs / member["smoe"].macs
    expect(said(page, "parity")).to_contain_text(f"{ratio:.2f} times")
    plate(page, "costs").locator("input[type=range]").press("End")
    expect(said(page, "costs")).to_contain_text("16,384 tokens")
    assert page.evaluate("window.heSent") == 0


def test_any_config_is_counted_and_a_wrong_one_is_named(server, visit):
    page = opened(visit, f"{server}/parameters?preset=olmoe-1b-7b")
    own = presets()["OLMoE 1B-7B"]
    expect(said(page, "budget")).to_contain_text("OLMoE 1B-7B")
    half = own | {"num_experts": 32}
    edit(page, json.dumps(half))
    total = plate(page, "budget").locator(".canvas").get_by_text(f"{count(half).total:,}")
    expect(total.first).to_be_attached()
    edit(page, json.dumps(half | {"num_experts_per_tok": 33}))
    wrong = words("config_chosen", chosen=33, experts=32)
    expect(page.get_by_role("alert")).to_have_text(wrong)
    expect(total.first).to_be_attached()  # the last good config stays
    page.get_by_role("button", name=words("restore", name="OLMoE 1B-7B")).click()
    settle(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    file = page.locator(".st-key-parameters-file input[type=file]")
    sent = json.dumps(presets()["DeepSeek-V3"]).encode()
    file.set_input_files({"name": "config.json", "mimeType": "application/json", "buffer": sent})
    expect(said(page, "budget")).to_contain_text("671 B")
    expect(page).to_have_url(re.compile("preset=olmoe-1b-7b"))


def test_layers_are_built_and_timed_when_asked(server, visit):
    page = opened(visit, f"{server}/parameters")
    expect(plate(page, "parity").locator(".canvas").get_by_text(" ms")).to_have_count(0)
    page.locator(".st-key-parity-time button").click()
    expect(plate(page, "parity").locator(".canvas").get_by_text(" ms").first).to_be_attached()
    chosen = page.locator(".st-key-parity-chosen input")
    chosen.fill("9")
    chosen.press("Enter")
    expect(page.get_by_role("alert")).to_have_text(words("config_chosen", chosen=9, experts=8))


def test_a_link_to_no_preset_says_so(server, visit):
    page = opened(visit, f"{server}/parameters?preset=nothing")
    expect(page.locator(".he-notice-warning")).to_contain_text("preset")
    expect(said(page, "budget")).to_contain_text("Mixtral 8x7B")


def test_numbers_and_pictures_can_be_taken_away(server, visit):
    page = opened(visit, f"{server}/parameters")
    foot = plate(page, "budget").locator(".foot")
    with page.expect_download() as got:
        foot.get_by_role("button", name="CSV").click()
    lines = got.value.path().read_text("utf-8-sig").splitlines()
    assert lines[0] == "part,total,active"
    assert lines[-1] == "sum,46702792704,12879925248"
    with page.expect_download() as got:
        plate(page, "treemap").locator(".foot").get_by_role("button", name="SVG").click()
    assert got.value.path().read_text("utf-8").count("<text") > 30
    plate(page, "parity").get_by_role("button", name=words("plate.table")).click()
    expect(plate(page, "parity").locator("tbody tr")).to_have_count(6 * len(panels.START.heads))


@pytest.mark.parametrize("lang", list(language.LANGUAGES))
def test_a_phone_shows_every_picture_inside_its_width(server, visit, lang):
    page = opened(visit, f"{server}/parameters?lang={lang}", size=PHONE, theme="dark")
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
