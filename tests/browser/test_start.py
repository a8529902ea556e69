"""The first minute in a real browser: what is drawn is what the models computed."""

from __future__ import annotations

import io
import re
import shutil

import pytest
from harness import ROOT, running_server, settle
from PIL import Image
from playwright.sync_api import Page, expect

from mhmoe.analysis import routing
from mhmoe.layers import WhatIf
from mhmoe.models import checkpoint, engine
from mhmoe.models.images import decode
from mhmoe.ui import language
from mhmoe.ui.runs import CAPACITIES

TEXT = "La camera da letto. The camera 银行"
STAGE = ".st-key-explorer-text .stage"
PILL = f"{STAGE} [data-shown=true] .pill"  # the drawings of other capacities are hidden


def words(lang: str, key: str, **values: object) -> str:
    return language.lookup(lang, key, **values)


def opened(visit, url: str) -> Page:
    """The page with its sentence drawn: the component arrives after the script is idle."""
    page = visit(url)
    expect(page.locator(STAGE)).to_have_attribute("data-ready", "true")
    return page


def box(page: Page):
    return page.locator(".st-key-sentence input")


def type_text(page: Page, text: str) -> None:
    box(page).fill(text)
    box(page).press("Enter")


def chips(page: Page, model: int, kind: str = "text") -> list[int]:
    """First choices of a model's row as drawn, one per sub-token in order."""
    found = page.locator(f".st-key-explorer-{kind} .chip[data-model='{model}']")
    return [int(e) for e in found.evaluate_all("all => all.map(e => e.dataset.expert)")]


def pills(page: Page) -> list[tuple[int, int, float]]:
    """(head, expert, gate) of every gate on the stage of the sentence."""
    rows = page.locator(PILL).evaluate_all(
        "all => all.map(e => [e.dataset.head, e.dataset.expert, e.dataset.gate])"
    )
    return [(int(head), int(expert), float(gate)) for head, expert, gate in rows]


def trace_of(name: str, text: str, factor: float | None = None):
    return engine.trace_text(engine.load(name), text, WhatIf(capacity_factors=(factor,)))[0]


def gates_of(layer, token: int) -> list[tuple[int, int, float]]:
    return [
        (head, int(layer.expert[token * layer.heads + head, k]),
         float(layer.gate[token * layer.heads + head, k]))
        for head in range(layer.heads) for k in range(layer.top_k)
    ]  # fmt: skip


def same_gates(drawn, computed) -> bool:
    return [d[:2] for d in drawn] == [c[:2] for c in computed] and all(
        abs(d[2] - c[2]) < 1e-3 for d, c in zip(drawn, computed, strict=True)
    )


def test_the_first_minute(server, visit):
    page = opened(visit, server)
    type_text(page, TEXT)
    upper, lower = trace_of("text-e8-h4", TEXT), trace_of("text-e8", TEXT)
    drawn = page.locator(".st-key-explorer-text .chip[data-model='0']")
    expect(drawn).to_have_count(upper.layers[1].sub_tokens)
    settle(page)
    assert chips(page, 0) == upper.layers[1].expert[:, 0].tolist()
    assert chips(page, 1) == lower.layers[1].expert[:, 0].tolist()
    shown = page.locator(".st-key-explorer-text .who")
    expect(shown.nth(0)).to_contain_text(f"{upper.bits_per_byte:.2f}")
    expect(shown.nth(1)).to_contain_text(f"{lower.bits_per_byte:.2f}")


def test_a_click_on_a_token_and_a_layer_moves_the_stage(server, visit):
    page = opened(visit, server)
    type_text(page, TEXT)
    layer = trace_of("text-e8-h4", TEXT).layers[3]
    expect(page.locator(".st-key-explorer-text .chip[data-model='0']")).to_have_count(
        layer.sub_tokens
    )
    page.locator(".st-key-explorer-text .row[data-model='0'] .token[data-token='4']").click()
    page.locator(".st-key-explorer-text").get_by_role("radio", name="layer 4").click()
    expect(page.locator(f"{STAGE} .title")).to_contain_text("layer 4")
    expect(page.locator(STAGE)).to_have_attribute("data-ready", "true")
    settle(page)
    assert same_gates(pills(page), gates_of(layer, 4))
    page.locator(".st-key-explorer-text .row[data-model='1'] .token[data-token='4']").click()
    expect(page.locator(PILL)).to_have_count(2)
    plain = trace_of("text-e8", TEXT).layers[3]
    assert same_gates(pills(page), gates_of(plain, 4))
    expect(page).to_have_url(re.compile("model=text-e8"))
    expect(page).to_have_url(re.compile("layer=3"))


def test_stepping_and_scrubbing_send_nothing_and_show_the_rerun(server, visit):
    page = opened(visit, server)
    type_text(page, TEXT)
    tight = trace_of("text-e8-h4", TEXT, CAPACITIES[0])
    expect(page.locator(".st-key-explorer-text .chip[data-model='0']")).to_have_count(
        tight.layers[1].sub_tokens
    )
    settle(page)
    page.evaluate(
        "() => { window.sent = 0; const send = WebSocket.prototype.send;"
        "WebSocket.prototype.send = function (...all)"
        "{ window.sent++; return send.apply(this, all) } }"
    )
    stage = page.locator(STAGE)
    stage.get_by_role("button", name=words("en", "explorer.first")).click()
    expect(stage).to_have_attribute("data-step", "1")
    for step in range(2, 8):
        stage.get_by_role("button", name=words("en", "explorer.next"), exact=True).click()
        expect(stage).to_have_attribute("data-step", str(step))
    slider = page.locator(".st-key-explorer-text .capacity input[type=range]")
    slider.evaluate("e => { e.value = 0; e.dispatchEvent(new Event('input', {bubbles: true})) }")
    dropped = page.locator(".st-key-explorer-text .chip[data-model='0'][data-dropped='true']")
    layer = tight.layers[1]
    expect(dropped).to_have_count(int((~layer.kept[:, 0]).sum()))
    assert chips(page, 0) == layer.expert[:, 0].tolist()
    assert page.evaluate("window.sent") == 0


#: Counts what a script reads that makes the browser lay the page out at once.
COUNT_LAYOUTS = """() => {
  window.layouts = [];
  for (const name of ["scrollWidth", "scrollHeight", "scrollLeft", "scrollTop", "clientWidth", "clientHeight"]) {
    const { get, set } = Object.getOwnPropertyDescriptor(Element.prototype, name);
    Object.defineProperty(Element.prototype, name,
      { get() { window.layouts.push(name); return get.call(this); }, set, configurable: true });
  }
  const box = Element.prototype.getBoundingClientRect;
  Element.prototype.getBoundingClientRect = function () { window.layouts.push("box"); return box.call(this); };
}"""  # noqa: E501


def test_a_scrubbed_value_forces_no_layout(server, visit):
    page = opened(visit, server)
    slider = page.locator(".st-key-explorer-text .capacity input[type=range]")
    expect(slider).to_be_enabled()
    slider.hover()
    expect(page.locator(STAGE)).to_have_attribute("data-stocked", "true")
    settle(page)
    page.evaluate(COUNT_LAYOUTS)
    for value in (0, 3, 6):
        slider.evaluate(
            "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); "
            "return new Promise((done) => requestAnimationFrame(() => setTimeout(done))) }",
            value,
        )
    layer = trace_of("text-e8-h4", words("en", "start.sentence"), CAPACITIES[6]).layers[1]
    assert chips(page, 0) == layer.expert[:, 0].tolist()
    assert page.evaluate("window.layouts") == []


def test_a_shared_view_opens_at_the_same_token(server, visit):
    first = opened(visit, server)
    first.locator(".st-key-explorer-text .row[data-model='0'] .token[data-token='5']").click()
    expect(first).to_have_url(re.compile("token=5"))
    settle(first)
    before = pills(first)
    second = opened(visit, first.url)
    assert pills(second) == before


@pytest.mark.parametrize("lang", list(language.LANGUAGES))
def test_blank_text_keeps_the_last_good_result(server, visit, lang):
    page = opened(visit, f"{server}/?lang={lang}")
    before = chips(page, 0)
    type_text(page, "   ")
    expect(page.get_by_text(words(lang, "problem.blank"))).to_be_visible()
    assert chips(page, 0) == before


def test_a_long_text_says_how_much_was_used(server, visit):
    page = opened(visit, server)
    type_text(page, "Donaudampfschifffahrtsgesellschaft " * 40)
    said = page.locator(".he-notice-info")
    expect(said).to_contain_text("128 tokens")
    expect(page.locator(".st-key-explorer-text .chip[data-model='1']")).to_have_count(128)


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script> **bold** [x](y)", "مرحبا بالعالم", "e\u0301\u0301 a\u200bb\u202e",
     "🙂👩‍👩‍👧 🇨🇭", "tab\there\x07", "a"],
)  # fmt: skip
def test_any_text_is_shown_as_text(server, visit, text):
    page = opened(visit, server)
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    type_text(page, text)
    used = box(page).input_value()  # a one-line input drops what it cannot hold
    trace = trace_of("text-e8-h4", used)
    expect(page.locator(".st-key-explorer-text .chip[data-model='0']")).to_have_count(
        trace.layers[1].sub_tokens
    )
    settle(page)
    assert chips(page, 0) == trace.layers[1].expert[:, 0].tolist()
    assert dialogs == []


def upload(page: Page, data: bytes, name: str) -> None:
    page.locator(".st-key-picture input").set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": data}
    )


def test_an_uploaded_picture_is_routed(server, visit):
    page = opened(visit, server)
    data = (ROOT / "assets" / "samples" / "coffee.jpg").read_bytes()
    upload(page, data, "mine.png")  # renamed: the contents decide
    settle(page)
    layer = engine.trace_image(engine.load("image-e8"), decode(data))[0].layers[3]
    tints = page.locator(".st-key-explorer-image [data-model='1'] .tint[data-patch='17']").first
    page.locator(".st-key-explorer-image [data-patch='17']").first.click()
    stage = page.locator(".st-key-explorer-image .stage")
    expect(stage).to_have_attribute("data-ready", "true")
    expect(tints).to_have_attribute("data-expert", str(layer.expert[17, 0]))
    page.locator(".st-key-sentence").scroll_into_view_if_needed()
    card = page.locator("#he-card-picture")
    expect(card).not_to_be_in_viewport()
    jump = page.locator(".he-jump a")
    assert jump.locator("img").evaluate("e => e.naturalWidth") > 0
    jump.press("Enter")
    expect(card).to_be_in_viewport()


def test_a_broken_picture_is_named_and_the_last_one_stays(server, visit):
    page = opened(visit, server)
    source = page.locator(".st-key-explorer-image image").first
    before = source.get_attribute("href")
    upload(page, b"no picture at all", "fake.png")
    sentence = words("en", "problem.image.not-an-image", bytes=17)
    expect(page.get_by_text(sentence)).to_be_visible()
    assert source.get_attribute("href") == before
    good = io.BytesIO()
    Image.new("CMYK", (60, 90), (10, 200, 30, 0)).save(good, "JPEG")
    upload(page, good.getvalue(), "print.jpg")
    expect(page.get_by_text(sentence)).to_have_count(0)
    settle(page)
    assert source.get_attribute("href") != before


@pytest.mark.parametrize("lang", list(language.LANGUAGES))
def test_damaged_weights_give_a_sentence(visit, tmp_path, monkeypatch, lang):
    models = tmp_path / "assets" / "models"
    shutil.copytree(ROOT / "assets" / "models", models)
    weights = models / "text-e8-h4.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    monkeypatch.setenv("MHMOE_MODELS", str(models))
    with running_server(tmp_path) as url:
        page = visit(f"{url}/?lang={lang}")
        said = page.locator(".he-notice-error")
        numbers = {
            "file": weights.name,
            "found": checkpoint.digest(weights)[:12],
            "expected": checkpoint.card("text-e8-h4")["sha256"][:12],
        }
        expect(said).to_have_text(words(lang, "problem.model.damaged", **numbers))
        page.close()  # before its server, which it would miss aloud


def test_heads_and_experts_always_run_and_say_what_they_are(server, visit):
    page = opened(visit, f"{server}/?heads=8&experts=16")
    expect(page.locator(".st-key-he-card-sentence .he-badge-untrained")).to_be_visible()
    assert set(chips(page, 0)) <= set(range(16))
    hero = page.locator(".he-hero p")
    expect(hero).to_contain_text(words("en", "start.count_8"))
    expect(hero).to_contain_text("untrained")
    ends = page.locator(".st-key-experts [data-testid=stSliderTickBar]")
    expect(ends).to_be_visible()  # the link opened the drawer
    expect(ends).to_have_css("opacity", "1")
    expect(ends).to_have_text("132")  # from 1 to 32
    masked = opened(visit, f"{server}/?experts=5")
    expect(masked.locator(".he-hero p")).to_contain_text("5 of its 8 experts")
    expect(masked.locator(".st-key-he-card-sentence .he-badge-what-if")).to_be_visible()
    assert set(chips(masked, 0)) <= set(range(5))


def test_the_keyboard_alone_picks_a_token_and_steps(server, visit):
    page = opened(visit, server)
    stage = page.locator(STAGE)
    page.locator(".st-key-explorer-text .row[data-model='0'] .token[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("token=2"))
    expect(stage).to_have_attribute("data-ready", "true")
    stage.get_by_role("button", name=words("en", "explorer.first")).focus()
    page.keyboard.press("Enter")
    expect(stage).to_have_attribute("data-step", "1")


def test_present_mode_shows_the_stage_alone(server, visit):
    page = opened(visit, f"{server}/?present=1&token=3")
    stage = page.locator(STAGE)
    size = stage.bounding_box()
    assert size["width"] > 1300
    assert size["height"] > 700
    page.keyboard.press("ArrowLeft")
    expect(stage).to_have_attribute("data-step", "6")
    page.keyboard.press("ArrowRight")
    expect(stage).to_have_attribute("data-step", "7")


@pytest.mark.parametrize("lang", list(language.LANGUAGES))
def test_a_lecture_begins_and_ends_with_the_visitors_own_text(server, visit, lang):
    page = opened(visit, f"{server}/?lang={lang}")
    type_text(page, TEXT)
    title = page.locator(f"{STAGE} .title")
    expect(title).to_contain_text("camera")
    button = page.get_by_role("button", name=words(lang, "link.present"), exact=True)
    button.focus()
    hint = page.get_by_text(words(lang, "link.present_hint"))
    expect(hint).to_be_visible()
    button.press("Enter")
    expect(page).to_have_url(re.compile("present=1"))
    assert page.locator(STAGE).bounding_box()["width"] > 1300
    expect(title).to_contain_text("camera")
    settle(page)
    page.keyboard.press("Escape")
    expect(box(page)).to_have_value(TEXT)
    expect(page).not_to_have_url(re.compile("present"))


def test_the_tiles_speak_of_the_picked_model(server, visit):
    page = opened(visit, server)
    text = words("en", "start.sentence")
    first = page.locator(".he-tile").first
    for model, name in ((0, "MH-MoE"), (1, "SMoE")):
        row = page.locator(f".st-key-explorer-text .row[data-model='{model}']")
        row.locator(".token[data-token='2']").click()
        layer = trace_of(("text-e8-h4", "text-e8")[model], text).layers[1]
        expect(first.locator("dt")).to_contain_text(f"{name}, layer")
        expect(first.locator("dd b")).to_have_text(f"{routing.distinct_experts(layer).mean():.1f}")
        expect(page.locator(".he-tile dt", has_text=f"{name}")).to_have_count(4 + 3 * (not model))


def test_a_router_that_hardly_prefers_anything_says_so_and_looks_so(server, visit):
    page = opened(visit, server)
    layer = engine.trace_image(
        engine.load("image-e8-h4"), decode((ROOT / "assets/samples/cat.jpg").read_bytes())
    )[0].layers[3]
    numbers = {"first": f"{routing.first_probability(layer):.3f}", "even": "0.125", "experts": 8}
    said = words("en", "start.undecided", model="MH-MoE", layer=4, **numbers)
    expect(page.locator(".st-key-he-card-picture").get_by_text(said)).to_be_visible()
    expect(page.locator(".st-key-he-card-sentence").get_by_text("undecided")).to_have_count(0)
    stage = page.locator(".st-key-explorer-image .stage")
    drawing = stage.locator("[data-shown=true]")
    expect(drawing.locator(".heading", has_text="router scores")).to_contain_text("(−1 to 1)")
    tall = drawing.locator(".score .bar").evaluate_all(
        "bars => bars.map(bar => Number(bar.getAttribute('height')))"
    )
    hit = drawing.locator(".score .hit").first
    room = hit.evaluate("hit => Number(hit.getAttribute('height'))")
    assert max(tall) < 0.05 * room
    expect(drawing.locator(".even.mark")).to_have_count(layer.heads)


def test_a_cut_strip_fades_and_counts_what_is_out_of_sight(server, visit):
    page = opened(visit, server)
    type_text(page, "one two three four five six seven eight nine ten " * 6)
    row = page.locator(".st-key-explorer-text .row[data-model='0']")
    flow, more = row.locator(".words"), row.locator(".more")
    expect(more).to_have_text(re.compile(r"^\+\d+ tokens$"))
    expect(flow).to_have_attribute("data-below", "true")
    expect(flow).to_have_css("mask-image", re.compile("gradient"))
    row.locator(".token[tabindex='0']").focus()
    page.keyboard.press("End")
    expect(flow).to_have_attribute("data-above", "true")
    expect(flow).to_have_attribute("data-below", "false")
    more.press("Enter")
    expect(more).to_have_text(words("en", "explorer.fewer_tokens"))
    expect(flow).to_have_css("mask-image", "none")
    assert flow.evaluate("e => e.scrollHeight - e.clientHeight") <= 2
    expect(page.locator(".st-key-router-strip .more:visible")).to_have_count(0)


@pytest.mark.parametrize("width", [360, 390])
def test_a_phone_shows_the_stage_without_scrolling_sideways(server, visit, width):
    page = visit(server, size=(width, 780))
    expect(page.locator(STAGE)).to_have_attribute("data-ready", "true")
    expect(page.locator(f"{STAGE} .scroller")).to_have_attribute("data-below", "false")


@pytest.mark.parametrize("lang", list(language.LANGUAGES))
def test_one_head_is_called_plain_smoe(server, visit, lang):
    page = opened(visit, f"{server}/?lang={lang}&heads=1")
    expect(page.locator(".st-key-explorer-text .note")).to_have_text(words(lang, "start.one_head"))
    said = page.locator(".he-notice-this p").first
    expect(said.locator(".he-term")).to_have_count(1)
    expect(page.locator("body")).not_to_contain_text("[[")


def test_words_of_the_controls_explain_themselves(server, visit):
    page = opened(visit, server)
    for term in ("capacity-factor", "layer", "bits-per-byte"):
        definition = language.glossary()[term]["en"]["definition"]
        word = page.locator(".st-key-explorer-text .term", has_text=definition).first
        word.focus()
        word.press("Shift")  # focus that a key has moved shows the tooltip
        expect(word).to_be_focused()
        expect(page.locator(".st-key-explorer-text .tip")).to_have_text(definition)


def test_the_trace_can_be_taken_away(server, visit, tmp_path):
    from mhmoe.trace import RoutingTrace

    page = opened(visit, server)
    with page.expect_download() as waiting:
        page.get_by_role("button", name=words("en", "kit.download_trace")).first.click()
    path = tmp_path / "trace.safetensors"
    waiting.value.save_as(path)
    text = words("en", "start.sentence")
    taken, own = RoutingTrace.load(path), trace_of("text-e8-h4", text)
    assert taken.input == own.input
    assert (taken.layers[2].expert == own.layers[2].expert).all()


def test_the_tables_are_drawn_when_opened_and_say_what_the_trace_says(server, visit):
    page = opened(visit, server)
    frames = page.locator("[data-testid=stDataFrame]")
    expect(frames).to_have_count(0)
    page.locator(".st-key-he-table-text summary").click()
    rows = frames.locator("canvas [role=row]")
    first = rows.nth(1).locator("[role=gridcell]")
    layer = trace_of("text-e8-h4", words("en", "start.sentence")).layers[1]
    expect(first.nth(2)).to_have_text(str(layer.expert[0, 0] + 1))
    assert abs(float(first.nth(3).text_content()) - layer.gate[0, 0]) < 1e-3
    page.locator(".st-key-he-table-text summary").click()
    expect(frames).to_have_count(0)
