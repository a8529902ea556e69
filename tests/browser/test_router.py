"""Chapter 3 in a real browser: what is drawn and said is what the model computed."""

from __future__ import annotations

import re

import numpy as np
import pytest
from harness import settle
from playwright.sync_api import Page, expect

from mhmoe.analysis import router
from mhmoe.models import engine
from mhmoe.ui import language
from mhmoe.ui.explorer import token_in_word
from mhmoe.ui.runs import stored_run

TEXT = "The bank lent us money by the river bank"
PHONE = (390, 844)
FIGURES = [f"VG-{n}" for n in range(16, 25)]


def words(key: str, lang: str = "en", **values: object) -> str:
    return language.lookup(lang, f"router.plate.{key}", **values)


def opened(visit, url: str, **how) -> Page:
    """The page with its last picture drawn."""
    page = visit(url, **how)
    expect(page.locator(".st-key-router-collapse .band").first).to_be_attached()
    return page


def plate(page: Page, name: str):
    return page.locator(f".st-key-router-{name}")


def said(page: Page, name: str):
    return plate(page, name).locator(".said")


def layer_of(name: str = "text-e8-h4", index: int = 1):
    return engine.trace_text(engine.load(name), TEXT, vectors=True)[0].layers[index]


def name_of(token: int) -> str:
    (trace,) = engine.trace_text(engine.load("text-e8"), TEXT)
    return token_in_word(trace.input, token)


def number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def slide(page: Page, name: str, key: str, times: int = 1) -> None:
    thumb = plate(page, name).locator("input[type=range]")
    thumb.focus()
    for _ in range(times):
        thumb.press(key)


def test_every_figure_of_the_section_is_named_and_every_check_holds(server, visit):
    page = opened(visit, f"{server}/router")
    for figure in FIGURES:
        expect(page.get_by_text(re.compile(rf"{figure}\b")).first).to_be_attached()
    expect(page.locator(".foot .good")).to_have_count(12)
    expect(page.locator(".foot .bad, .he-check-bad")).to_have_count(0)


def test_the_conventions_switch_the_gates_and_not_the_choice(server, visit):
    page = opened(visit, f"{server}/router")
    layer = layer_of()
    row, k = layer.logits[layer.heads], layer.top_k  # the first sub-token of the default token
    for code in ("topk-softmax", "renormalised", "softmax-topk"):
        plate(page, "gates").locator(f".convention[data-value={code}]").click()
        weights = router.gates(row, k, code)
        expect(said(page, "gates")).to_contain_text(number(weights.max()))
        chips = plate(page, "gates").locator(f".convention[data-value={code}] .chip")
        drawn = chips.evaluate_all("all => all.map(e => Number(e.dataset.expert))")
        assert drawn == layer.expert[layer.heads].tolist()


def test_arrow_keys_read_the_matrix_product(server, visit):
    page = opened(visit, f"{server}/router")
    layer = layer_of()
    surface = plate(page, "product").get_by_role("application")
    surface.focus()
    surface.press("ArrowDown")
    e = int(layer.expert[layer.heads, 0])
    score = number(float(layer.logits[layer.heads + 1, e]))
    expect(said(page, "product")).to_contain_text(score)
    slide(page, "product", "Home")
    thumb = plate(page, "product").locator("input[type=range]")
    expect(thumb).to_have_attribute("aria-valuetext", re.compile(r"^0 "))


def test_scrubbing_sends_nothing_and_says_what_it_shows(server, visit):
    page = opened(visit, f"{server}/router")
    traffic: list[int] = []
    page.on("request", lambda request: traffic.append(1))
    page.evaluate(
        """() => {
          const send = WebSocket.prototype.send;
          window.heSent = 0;
          WebSocket.prototype.send = function (data) { window.heSent += 1; send.call(this, data); };
        }"""
    )
    layer = layer_of()
    found = router.by_shift(layer.logits[layer.heads].astype(float), layer.top_k)
    plate(page, "softmax").locator(".option[data-value=shift]").click()
    slide(page, "softmax", "End")
    expect(said(page, "softmax")).to_contain_text(number(float(found.lse[-1])))
    bars = plate(page, "softmax").locator(".canvas .halo").all_text_contents()
    (digits,) = {len(bar.partition(".")[2]) for bar in bars[8:16]}
    drawn = np.array([float(bar) for bar in bars[8:16]])
    probs = layer.probs[layer.heads]
    assert drawn == pytest.approx(probs, abs=0.6 * 10.0**-digits)
    # As many digits as it takes: the last chosen and the first masked must not look alike.
    last, first = np.argsort(-probs)[layer.top_k - 1 : layer.top_k + 1]
    assert drawn[last] > drawn[first]

    slide(page, "mixture", "End")
    bits = engine.bits_by_k(engine.load("text-e8-h4"), TEXT)
    expect(said(page, "mixture")).to_contain_text(number(float(bits[-1])))

    facts, arrays = stored_run.__wrapped__("collapse-free")
    run = router.replay("x", facts["recipe"]["balance"], arrays["loss"], arrays["demand"])
    slide(page, "collapse", "ArrowLeft", 3)
    dead = int(run.dead[-4].sum())
    text = f"Step {run.step[-4]}: without a balance loss {dead} of 32 experts are dead"
    expect(said(page, "collapse")).to_contain_text(text)

    slide(page, "flow", "Home")
    expect(said(page, "flow")).to_contain_text(
        words("flow_say_tokens", tokens=layer.sub_tokens // layer.heads)
    )
    assert page.evaluate("window.heSent") == 0
    assert not traffic


def test_predict_then_reveal(server, visit):
    page = opened(visit, f"{server}/router")
    layer = layer_of()
    experts = router.touched(layer, 1)
    probs = engine.next_without(engine.load("text-e8-h4"), TEXT, 1, 1, experts)
    shift = router.missed(probs)
    ask = plate(page, "stack").locator(".question")
    expect(ask).to_have_text(words("guess"))
    worst = int(shift.argmin())
    plate(page, "stack").locator(".remove").nth(worst).click()
    expect(ask).to_contain_text(f"{100 * shift.max():.1f} %")
    expect(said(page, "stack")).to_contain_text(f"{100 * shift[worst]:.1f} %")
    plate(page, "stack").get_by_role("button", name=words("put_back")).click()
    expect(said(page, "stack")).to_have_text(words("stack_rest"))


def test_another_token_and_model_move_every_picture(server, visit):
    page = opened(visit, f"{server}/router")
    strip = page.locator(".st-key-router-strip .row[data-model='1']")
    strip.locator(".token[data-token='3']").click()
    settle(page)
    layer = layer_of("text-e8")
    gates = page.locator(".st-key-he-card-gates")
    expect(gates.get_by_text(f"“{name_of(3)}”")).to_be_visible()
    chips = plate(page, "gates").locator(".convention[data-value=softmax-topk] .chip")
    expect(chips.first).to_have_attribute("data-expert", str(int(layer.expert[3, 0])))
    expect(page).to_have_url(re.compile(r"model=text-e8.*token=3"))
    expect(plate(page, "zoom").locator(".foot .good")).to_contain_text(
        language.lookup("en", "router.check_parameters_plain")
    )
    page.locator(".st-key-router-stage .token[data-token='5']").click()
    expect(gates.get_by_text(f"“{name_of(5)}”")).to_be_visible()
    expect(page).to_have_url(re.compile(r"token=5"))


@pytest.mark.parametrize("query", ["", "?model=text-e8", "?token=4"])
def test_the_even_line_strikes_through_no_label(server, visit, query):
    page = opened(visit, f"{server}/router{query}")
    for name in ("gates", "softmax"):
        struck = plate(page, name).evaluate(
            """host => {
              const root = host.querySelector('.canvas') ?? [...host.querySelectorAll('*')]
                .find(e => e.shadowRoot).shadowRoot.querySelector('.canvas');
              const lines = [...root.querySelectorAll('line.threshold')]
                .map(l => l.getBoundingClientRect()).filter(b => b.height < 2 && b.width > 60);
              const labels = [...root.querySelectorAll('text.halo')]
                .map(t => t.getBoundingClientRect());
              return [lines.length, labels.filter(t => lines.some(l =>
                l.left < t.right && t.left < l.right
                && t.top + 3 < l.top && l.top < t.bottom - 3)).length];
            }"""
        )
        assert struck == [1, 0], name


def test_a_picture_of_two_sources_says_so(server, visit):
    page = opened(visit, f"{server}/router")
    for name in ("mixture", "stack"):
        badge = page.locator(f".st-key-he-card-{name} .he-badge")
        badge.focus()
        expect(badge.locator(".he-tip")).to_have_text(language.lookup("en", f"router.{name}_badge"))
    dots = plate(page, "mixture").locator(".mark.pickable")
    expect(dots.first).to_have_attribute("aria-label", re.compile(words("tip_frozen")))
    expect(dots.last).to_have_attribute("aria-label", re.compile(words("tip_rerun")))


def test_a_shorter_sentence_drops_the_token_without_a_word(server, visit):
    page = opened(visit, f"{server}/router")
    page.locator(".st-key-router-strip .row[data-model='0'] .token[data-token='11']").click()
    expect(page).to_have_url(re.compile("token=11"))
    box = page.locator(".st-key-sentence input")
    box.fill("The bank")
    box.press("Enter")
    expect(page.locator(".st-key-router-strip .token[data-token='11']")).to_have_count(0)
    settle(page)
    expect(page.locator(".he-notice")).to_have_count(0)
    box.fill("Donaudampfschifffahrtsgesellschaft " * 40)
    box.press("Enter")
    expect(page.locator(".he-notice-info")).to_contain_text("128 tokens")


def test_numbers_and_pictures_can_be_taken_away(server, visit):
    page = opened(visit, f"{server}/router")
    foot = plate(page, "gates").locator(".foot")
    with page.expect_download() as got:
        foot.get_by_role("button", name="CSV").click()
    lines = got.value.path().read_text("utf-8-sig").splitlines()
    assert len(lines) == 9
    assert lines[0].startswith("expert,score,probability")
    with page.expect_download() as got:
        foot.get_by_role("button", name="SVG").click()
    assert got.value.path().read_text("utf-8").count("<text") > 20
    foot.get_by_role("button", name=words("table")).click()
    expect(plate(page, "gates").locator("tbody tr")).to_have_count(8)


@pytest.mark.parametrize("lang", list(language.LANGUAGES))
def test_a_phone_shows_every_picture_inside_its_width(server, visit, lang):
    page = opened(visit, f"{server}/router?lang={lang}", size=PHONE, theme="dark")
    for name in ("zoom", "gates", "product", "softmax", "mixture", "stack", "flow", "collapse"):
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


def test_hostile_text_stays_text(server, visit):
    page = opened(visit, f"{server}/router")
    box = page.locator(".st-key-sentence input")
    box.fill("<img src=x onerror=alert(1)> **b** [[expert]]")
    box.press("Enter")
    settle(page)
    expect(plate(page, "product").get_by_text("<", exact=True).first).to_be_attached()
    expect(page.locator("img[src='x']")).to_have_count(0)
