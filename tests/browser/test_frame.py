"""The frame in a real browser: links, languages, Back, themes, phone width, keyboard."""

from __future__ import annotations

import re
import tomllib

import pytest
from harness import ROOT, settle
from playwright.sync_api import Page, expect

from mhmoe.ui import language
from mhmoe.ui.chapters import written

PHONE = (390, 844)
SLUGS = [chapter.slug for chapter in written()]
CONFIG = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())


def words(lang: str, key: str, **values: object) -> str:
    return language.lookup(lang, key, **values)


def path(slug: str) -> str:
    return "/" if slug == "start" else f"/{slug}"


def claim(page: Page, lang: str, slug: str) -> None:
    expect(page.locator("h1")).to_have_text(words(lang, f"{slug}.claim"))


def sentence(page: Page):
    return page.locator(".st-key-sentence input")


def switch_language(page: Page, name: str) -> None:
    page.locator(".st-key-lang").get_by_role("radio", name=name).click()


def copied_link(page: Page, lang: str) -> str:
    page.get_by_role("button", name=words(lang, "link.copy")).click()
    expect(page.get_by_text(words(lang, "link.copied"))).to_be_visible()
    return page.evaluate("navigator.clipboard.readText()")


def test_cold_deep_link_on_a_fresh_server(fresh_server, visit):
    page = visit(f"{fresh_server}/router?lang=zh")
    claim(page, "zh", "router")
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page).to_have_title(re.compile(f"^{words('zh', 'chapters.router')} "))
    expect(page).to_have_url(f"{fresh_server}/router?lang=zh")
    current = page.get_by_role("navigation", name=words("zh", "frame.navigation")).locator(
        "[aria-current=page]"
    )
    expect(current).to_have_text(re.compile(words("zh", "chapters.router")))
    expect(page.get_by_role("dialog")).to_have_count(0)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("lang", list(language.LANGUAGES))
@pytest.mark.parametrize("slug", SLUGS)
def test_every_page_in_every_language_and_theme(server, visit, slug, lang, theme):
    page = visit(f"{server}{path(slug)}?lang={lang}", theme=theme)
    claim(page, lang, slug)
    background = page.locator('[data-testid="stApp"]').evaluate(
        "element => getComputedStyle(element).backgroundColor"
    )
    assert background == rgb(CONFIG["theme"][theme]["backgroundColor"])
    for selector in (".he-hero h1", ".he-hero p", ".he-status", ".st-key-he-nav p"):
        ink = page.locator(selector).first.evaluate("element => getComputedStyle(element).color")
        assert contrast(ink, background) >= 4.5, (selector, ink, background)


def rgb(hex_colour: str) -> str:
    red, green, blue = (int(hex_colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgb({red}, {green}, {blue})"


def contrast(first: str, second: str) -> float:
    """WCAG contrast ratio of two ``rgb(r, g, b)`` colours."""
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_browser_decides_the_first_language(server, visit):
    page = visit(server, locale="zh-TW")
    claim(page, "zh", "start")
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")


def test_language_switch_keeps_place_and_text(server, visit):
    page = visit(f"{server}/?layer=2")
    sentence(page).fill("the visitor's own words")
    sentence(page).press("Enter")
    switch_language(page, "中文")
    claim(page, "zh", "start")
    expect(sentence(page)).to_have_value("the visitor's own words")
    expect(page).to_have_url(re.compile(r"layer=2.*lang=zh|lang=zh.*layer=2"))
    page.get_by_role("link", name=words("zh", "chapters.router")).first.click()
    claim(page, "zh", "router")
    switch_language(page, "English")
    claim(page, "en", "router")
    page.get_by_role("link", name=words("en", "chapters.start")).click()
    expect(sentence(page)).to_have_value("the visitor's own words")


def test_copied_link_restores_the_view_and_the_text(server, visit):
    text = "银行 lends 🙂 <b>money</b> & more"
    first = visit(f"{server}/?layer=1&token=3&lang=zh")
    sentence(first).fill(text)
    # Not sent with Enter: the click on the button must take along what was only typed.
    link = copied_link(first, "zh")
    assert "text=" in link
    assert "text=" not in first.url
    second = visit(link)
    claim(second, "zh", "start")
    expect(sentence(second)).to_have_value(text)
    expect(second).to_have_url(re.compile(r"layer=1.*token=3"))
    second.reload()
    expect(sentence(second)).to_have_value(text)


def test_a_long_text_stays_out_of_the_link_and_this_is_said(server, visit):
    page = visit(server)
    sentence(page).fill("long " * 120)
    sentence(page).press("Enter")
    page.get_by_role("button", name=words("en", "link.copy")).click()
    expect(page.get_by_text(words("en", "link.text_left_out"))).to_be_visible()
    assert "text=" not in page.evaluate("navigator.clipboard.readText()")


def test_back_and_forward(server, visit):
    page = visit(f"{server}/?lang=zh&token=2")
    page.get_by_role("link", name=words("zh", "chapters.router")).first.click()
    claim(page, "zh", "router")
    expect(page).to_have_url(re.compile(r"/router\?.*lang=zh"))
    page.go_back()
    claim(page, "zh", "start")
    expect(page).to_have_url(re.compile(r"/\?.*token=2"))
    page.go_forward()
    claim(page, "zh", "router")


def test_the_menu_offers_the_other_theme(server, visit):
    page = visit(server, theme="light")
    page.get_by_test_id("stMainMenuButton").click()
    page.get_by_role("menuitemradio", name="Dark").click()
    expect(page.locator('[data-testid="stApp"]')).to_have_css(
        "background-color", rgb(CONFIG["theme"]["dark"]["backgroundColor"])
    )
    expect(page.locator(".he-hero h1")).to_have_css(
        "color", rgb(CONFIG["theme"]["dark"]["textColor"])
    )


@pytest.mark.parametrize("lang", list(language.LANGUAGES))
@pytest.mark.parametrize("slug", SLUGS)
def test_a_phone_scrolls_in_one_direction_only(server, visit, slug, lang):
    page = visit(f"{server}{path(slug)}?lang={lang}", size=PHONE)
    claim(page, lang, slug)
    for selector in ("html", '[data-testid="stMain"]'):
        wide, room = page.locator(selector).evaluate(
            "element => [element.scrollWidth, element.clientWidth]"
        )
        assert wide <= room, selector


def test_a_phone_reaches_navigation_and_language(server, visit):
    page = visit(server, size=PHONE)
    page.get_by_test_id("stExpandSidebarButton").click()
    switch_language(page, "中文")
    claim(page, "zh", "start")
    page.get_by_role("link", name=words("zh", "chapters.router")).first.click()
    claim(page, "zh", "router")


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until ``selector`` has the focus, as a keyboard user would; 40 times at most."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.locator(selector).evaluate_all(
            "elements => elements.some(element => element === document.activeElement)"
        ):
            return
    pytest.fail(f"Tab never reached {selector}")


def test_keyboard_alone_reaches_navigation_and_language(server, visit):
    page = visit(server)
    tab_to(page, '.st-key-he-nav a[href="router"]')
    page.keyboard.press("Enter")
    claim(page, "en", "router")
    tab_to(page, ".st-key-lang [role=radio]")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    claim(page, "zh", "router")


HOSTILE = [
    "token=-5",
    "layer=1e999",
    "token=%F0%9F%99%82&capacity=nan",
    "%3Cscript%3Ealert(1)%3C/script%3E=1",
    "text=AAAA&model=../../etc/passwd",
    "lang=%3Cimg%20src=x%3E",
    "seed=" + "9" * 4400,
]


@pytest.mark.parametrize("query", HOSTILE)
def test_a_hostile_link_gives_a_sentence(server, visit, query):
    page = visit(f"{server}/router?{query}")
    claim(page, "en", "router")
    said = page.locator(".he-notice-warning")
    expect(said).to_have_count(1)
    expect(said).to_contain_text(words("en", "link.ignored", parts="").rstrip("."))
    expect(page.locator("script:has-text('alert(1)')")).to_have_count(0)


def test_a_definition_appears_on_focus_and_leaves_on_escape(server, visit):
    page = visit(server)
    word = page.locator(".he-hero .he-term").first
    tip = word.locator(".he-tip")
    expect(tip).to_be_hidden()
    word.focus()
    expect(tip).to_be_visible()
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    word.hover()
    expect(tip).to_be_visible()


def test_the_drop_zone_takes_a_picture_once_and_refuses_a_huge_one(server, visit, tmp_path):
    page = visit(server)
    sent: list[int] = []
    page.on("request", lambda request: sent.append(len(request.post_data_buffer or b"")))
    zone = page.locator(".st-key-picture")
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(20_500_000)
    zone.locator("input").set_input_files(huge)
    refusal = words("en", "drop.too_large", size="20.5", limit=20)
    expect(zone.get_by_text(refusal)).to_be_visible()
    small = tmp_path / "small.png"
    small.write_bytes((ROOT / "assets" / "favicon.png").read_bytes())
    zone.locator("input").set_input_files(small)
    expect(zone.get_by_text("small.png")).to_be_visible()
    settle(page)
