"""Records what the app sends, so that the floor pages can send the same.

    python tests/bench/record.py OUT < sentences.json

The record is one JSON object: ``components`` (name -> html, css, js), ``sentences`` (text ->
heads -> the explorer), ``samples`` (name -> heads -> the explorer), ``pages`` (slug -> elements).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).resolve().parents[2]
#: What belongs to the frame or takes input, not to the pictures.
NO_PICTURES = {"he_page", "he_copy_link", "he_dropzone"}
HEADS = (2, 4, 8)
SAMPLE = "sample-"


def recorded(sentences: list[str]) -> dict:
    """Walk through the app as the benches do, without a browser; only its pages if there are no
    sentences."""
    record = {"components": {}, "sentences": {}, "samples": {}, "pages": {}}
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=600).run()
    _no_exception(app)
    buttons = [b.key for b in app.button if (b.key or "").startswith(SAMPLE)]
    for button in buttons if sentences else ():
        app.button(key=button).click()
        record["samples"][button.removeprefix(SAMPLE)] = _by_heads(app, "explorer-image", record)
    for text in sentences:
        app.text_input(key="sentence").set_value(text)
        record["sentences"][text] = _by_heads(app, "explorer-text", record)
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=600).run()
    _no_exception(app)
    record["pages"]["start"] = _elements(app, record)
    app.switch_page("pages/router.py").run()
    _no_exception(app)
    record["pages"]["router"] = _elements(app, record)
    return record


def _by_heads(app: AppTest, key: str, record: dict) -> dict:
    found = {}
    for heads in HEADS:
        app.select_slider(key="heads").set_value(heads)
        app.run()
        _no_exception(app)
        drawn = [item for item in _elements(app, record) if item.get("key") == key]
        found[str(heads)] = drawn[0]
    return found


def _no_exception(app: AppTest) -> None:
    if app.exception:
        raise SystemExit(f"the app failed: {app.exception[0].message}")


def _elements(app: AppTest, record: dict) -> list[dict]:
    """The texts, components and charts of the page, in order."""
    return [item for leaf in _leaves(app.main) if (item := _item(leaf, record)) is not None]


def _leaves(block) -> list:
    return [
        leaf
        for child in block.children.values()
        for leaf in (_leaves(child) if hasattr(child, "children") else [child])
    ]


def _item(element, record: dict) -> dict | None:
    proto = element.proto
    if element.type == "html":
        return {"type": "html", "body": proto.body}
    if element.type == "plotly_chart":
        return {
            "type": "plotly",
            "key": _key(proto.id),
            "spec": json.loads(proto.spec),
            "theme": proto.theme,
            "config": json.loads(proto.config or "{}"),
        }
    if element.type != "bidi_component":
        return None
    name = _key(proto.component_name)
    if name in NO_PICTURES:
        return None
    record["components"][name] = {
        "html": proto.html_content or None,
        "css": proto.css_content or None,
        "js": proto.js_content or None,
    }
    return {
        "type": "component",
        "name": name,
        "key": _key(proto.id),
        "data": json.loads(proto.json),
    }


def _key(identity: str) -> str:
    """What was given as key= : $$ID-<hash>-<key>; other names stay as they are."""
    return identity.split("-", 2)[2] if identity.startswith("$$ID-") else identity


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(recorded(json.load(sys.stdin))), encoding="utf-8")
