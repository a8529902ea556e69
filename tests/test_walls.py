"""The walls of the house: who may import what, read from the source, not from running it."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mhmoe"
ROOMS = ("trace", "layers", "models", "training", "analysis", "figures", "ui")

#: room -> rooms of this package that it may import besides itself.
MAY_USE = {
    "trace": set(),
    "layers": {"trace"},
    "models": {"layers", "trace"},
    "training": {"models", "layers", "trace", "analysis"},
    "analysis": {"trace"},
    "figures": {"trace", "analysis"},
    "ui": set(ROOMS),
}
#: room -> the only packages from outside the standard library that it may import.
OUTSIDE = {"trace": {"numpy", "safetensors.numpy"}, "layers": {"torch", "numpy"}}
#: Parameter counting builds real modules, so these may know torch and the layers.
COUNTING = {"mhmoe/analysis/parameters.py", "mhmoe/analysis/parity.py"}


def sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> set[str]:
    """Full dotted names of everything a file imports, wherever in the file it does so."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = absolute(path, node)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def absolute(path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = path.relative_to(ROOT).parts[: -node.level]
    return ".".join([*package, node.module] if node.module else package)


def top(name: str) -> str:
    return name.split(".")[0]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_used(path: Path) -> set[str]:
    inside = {name.split(".")[1] for name in imports(path) if name.startswith("mhmoe.")}
    return inside & set(ROOMS)


IN_ROOMS = [path for path in sources(PACKAGE) if room(path) in ROOMS]
BELOW_UI = [path for path in IN_ROOMS if room(path) != "ui"]
PAGES = sources(ROOT / "pages")
OWN = [*sources(PACKAGE), *PAGES, ROOT / "app.py"]


def test_the_house_was_found():
    assert PAGES
    assert {"trace", "ui"} <= {room(path) for path in IN_ROOMS}


@pytest.mark.parametrize("path", IN_ROOMS, ids=relative)
def test_a_room_uses_only_the_rooms_below_it(path):
    extra = {"layers", "models"} if relative(path) in COUNTING else set()
    assert rooms_used(path) - {room(path)} <= MAY_USE[room(path)] | extra


@pytest.mark.parametrize("path", IN_ROOMS, ids=relative)
def test_a_room_uses_only_its_packages(path):
    allowed = OUTSIDE.get(room(path))
    if allowed is None:
        return
    for name in imports(path):
        if top(name) == "mhmoe" or is_standard(name):
            continue
        assert any(name == one or name.startswith(f"{one}.") for one in allowed), name


def is_standard(name: str) -> bool:
    return top(name) in sys.stdlib_module_names


@pytest.mark.parametrize("path", BELOW_UI, ids=relative)
def test_only_the_ui_knows_streamlit(path):
    assert "streamlit" not in {top(name) for name in imports(path)}


@pytest.mark.parametrize(
    "path", [path for path in IN_ROOMS if room(path) in ("analysis", "figures")], ids=relative
)
def test_analysis_and_figures_know_no_torch(path):
    if relative(path) not in COUNTING:
        assert "torch" not in {top(name) for name in imports(path)}


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_a_page_imports_the_ui_alone(path):
    for name in imports(path):
        assert name.startswith("mhmoe.ui.") or name == "__future__.annotations", name


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_a_page_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("name", ["language", "state", "chapters"])
def test_the_pure_parts_of_the_ui_know_no_streamlit(name):
    assert "streamlit" not in {top(used) for used in imports(PACKAGE / "ui" / f"{name}.py")}


@pytest.mark.parametrize("path", OWN, ids=relative)
def test_no_dangerous_call(path):
    text = path.read_text(encoding="utf-8")
    assert "unsafe_allow_html" not in text
    assert "unsafe_allow_javascript" not in text
    assert not {"pickle", "cloudpickle", "dill", "joblib"} & {top(name) for name in imports(path)}
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if is_call(node)}
    assert not {"torch.load", "eval", "exec"} & calls


def is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call)


@pytest.mark.parametrize("path", sorted((ROOT / "assets").glob("*.js")), ids=relative)
def test_scripts_never_make_html_of_text_or_reach_out(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)
    assert not re.search(r"https?://(?!www\.w3\.org/)", text)
    assert not re.search(r"\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon", text)


@pytest.mark.parametrize("path", [*PAGES, *sources(PACKAGE / "ui"), ROOT / "app.py"], ids=relative)
def test_functions_fit_on_a_screen(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name
