"""The stage as a file: what a visitor saves stands alone and holds the numbers of the screen."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mhmoe.ui import language

SVG = "{http://www.w3.org/2000/svg}"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def saved(page, stage, label: str) -> tuple[str, bytes]:
    """The name and content of the file that the stage's button saves."""
    button = stage.get_by_role("button", name=label, exact=True)
    with page.expect_download() as download:
        button.click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_the_saved_stage_shows_the_gates_of_the_trace(server, visit):
    page = visit(server)
    stage = page.locator(".st-key-explorer-text .stage[data-ready=true]")
    stage.wait_for()
    drawing = stage.locator("[data-shown=true]")
    gates = drawing.locator(".pill").evaluate_all("pills => pills.map(p => p.dataset.gate)")
    shown = drawing.locator(".pill .gate").all_text_contents()
    experts = drawing.locator(".card .name").all_text_contents()
    assert gates
    for gate, said in zip(gates, shown, strict=True):
        digits = len(said.partition(".")[2])
        assert float(said) == pytest.approx(float(gate), abs=0.6 * 10.0**-digits)
    name, content = saved(page, stage, language.lookup("en", "explorer.save_svg"))
    assert re.fullmatch(r"[\w-]+\.svg", name)
    root = ElementTree.fromstring(content)
    texts = [node.text for node in root.iter(f"{SVG}text")]
    assert set(shown) <= set(texts)
    assert all(texts.count(name) == experts.count(name) for name in experts)  # no unseen drawing
    style = b"".join(re.findall(rb"<style>.*?</style>", content, re.DOTALL))
    rest = content.replace(style, b"") if style else content
    assert b"var(" not in rest
    assert not re.search(rb"""(href|src)=["']https?:""", rest)
    assert b"url(http" not in style


def test_the_saved_stage_as_png_has_two_pixels_for_each_of_the_screen(server, visit):
    page = visit(server)
    stage = page.locator(".st-key-explorer-text .stage[data-ready=true]")
    width = stage.evaluate("node => Math.ceil(node.getBoundingClientRect().width)")
    name, content = saved(page, stage, language.lookup("en", "explorer.save_png"))
    assert name.endswith(".png")
    assert content.startswith(PNG_SIGNATURE)
    assert int.from_bytes(content[16:20], "big") == 2 * width
