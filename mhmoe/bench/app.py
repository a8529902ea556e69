"""``python -m mhmoe bench app``: the app in a real browser, beside bare pages that do the least.

Each floor is a Streamlit script of tests/bench, served and opened as the app is:

cold open      A server process and a visitor that are both new; from the start of the navigation
               until the page is drawn and takes input. Floor: imports torch, one Plotly chart.
controls       The heads slider (new text, another picture: two models run anew) and Enter after
               new text, from the key to the painted pictures. Floor: the same explorer, sent the
               same bytes, which were recorded before.
page switch    From the click on Start's link to the router until its pictures are painted. Floor:
               two bare pages that send the same texts, components and charts.
play, scrub    Script time of each frame while the stage plays and the capacity thumb moves.
full trace     ``engine.trace_text`` with activations, beside the bare forward pass; one thread.
visitors       Thirty at once, without browsers: see tests/bench/visitors.py.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mhmoe.bench import BenchError, BenchUsage, Row, compared, frames, interleaved, percentile
from mhmoe.bench.browser import IDLE, NoBrowser, launch, opened, rest, timed, visitor
from mhmoe.bench.servers import ROOT, Server, serving, surroundings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

APP = ROOT / "app.py"
FLOORS = ROOT / "tests" / "bench"
VISITORS = 30
SWEEPS, POSITIONS = 6, 40
#: A text of more tokens than any context here, so that a trace of it is full.
LONG_TEXT = "The bank by the river lent us money, and the river ran past the old stone bank. " * 12

EXPLORER = ".st-key-explorer-text"
READY = '.stage[data-ready="true"]'
START_DRAWN = [
    {"key": "explorer-text", "selector": READY},
    {"key": "explorer-image", "selector": READY},
    {"selector": IDLE},
]
CHART_DRAWN = [{"selector": ".js-plotly-plot .main-svg"}, {"selector": IDLE}]


@dataclass(frozen=True)
class Bench:
    """What the cases share: how often, and the browser."""

    runs: int
    browser: Browser | None


def measure(runs: int, only: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of the chosen cases, of all where none is named, each case's as it is done."""
    unknown = set(only or ()) - set(CASES)
    if unknown:
        raise BenchUsage(f"no case {', '.join(sorted(unknown))}: there are {', '.join(CASES)}")
    if not FLOORS.is_dir():
        raise BenchError("the floor pages are in tests/bench of the repository, which is not here")
    chosen = {name: case for name, case in CASES.items() if not only or name in only}
    with nullcontext() if set(chosen) <= WITHOUT_BROWSER else _browser() as browser:
        for case in chosen.values():
            yield from case(Bench(runs, browser))


@contextmanager
def _browser() -> Iterator[Browser]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise BenchError(
            "the bench of the app drives a browser with playwright, which is not installed: "
            "install tests/requirements.txt"
        ) from None
    with sync_playwright() as playwright:
        try:
            browser = launch(playwright)
        except NoBrowser as error:
            raise BenchError(str(error)) from None
        yield browser
        browser.close()


# ------------------------------------------------------------------------------- cold open


def cold_open(bench: Bench) -> list[Row]:
    """A fresh visitor of a fresh server process, ours and the bare page in turns."""
    actions = [
        lambda: _fresh_open(bench, APP, START_DRAWN),
        lambda: _fresh_open(bench, FLOORS / "floor_open.py", CHART_DRAWN),
    ]
    interleaved(1, actions)  # reads every file into the system's cache once
    ours, floor = interleaved(bench.runs, actions)
    with serving(APP) as server:
        megabytes, strangers = _traffic(bench.browser, server.url)
    return [
        compared("cold open of Start to a live model", ours, floor, 1.3),
        Row("cold open: transferred, MB", megabytes, goal=8),
        Row("cold open: requests to other hosts", strangers, goal=0),
    ]


def _fresh_open(bench: Bench, script: Path, conditions: list[dict]) -> float:
    with serving(script) as server, visitor(bench.browser) as context:
        return opened(context.new_page(), server.url, conditions)


def _traffic(browser: Browser, url: str) -> tuple[float, int]:
    """Megabytes that a first opening transfers, the WebSocket's included; foreign requests."""
    sizes: list[int] = []
    strangers: list[str] = []
    with visitor(browser) as context:
        page = context.new_page()
        network = context.new_cdp_session(page)
        network.send("Network.enable")
        network.on("Network.loadingFinished", lambda e: sizes.append(e["encodedDataLength"]))
        page.on("websocket", lambda s: s.on("framereceived", lambda data: sizes.append(len(data))))
        page.on("request", lambda request: strangers.append(request.url))
        opened(page, url, START_DRAWN)
        rest(page)
    host = urlsplit(url).netloc
    foreign = [
        address
        for address in strangers
        if urlsplit(address).scheme not in ("data", "blob") and urlsplit(address).netloc != host
    ]
    return sum(sizes) / 1e6, len(foreign)


# ------------------------------------------------------------------------------- controls


def controls(bench: Bench) -> list[Row]:
    """The heads slider and the text box; the first round is a rehearsal."""
    texts = sentences(bench.runs + 1)
    with ExitStack() as stack:
        record, environment = stack.enter_context(recording(texts))
        ours = stack.enter_context(serving(APP))
        floor = stack.enter_context(serving(FLOORS / "floor_control.py", environment))
        sides = [_Controls(stack, bench.browser, server, record) for server in (ours, floor)]
        for run, text in enumerate(texts):
            for side in sides if run % 2 else reversed(sides):
                side.round(run, text)
    ours_taken, floor_taken = (side.taken for side in sides)
    rows = [
        ("heads slider 4 to 8: new model runs to pictures", "heads 8", 1.5),
        ("heads slider 4 to 2: new model runs to pictures", "heads 2", 1.5),
        ("text and Enter to routing drawn", "text", 2.0),
    ]
    return [
        compared(name, ours_taken[key][1:], floor_taken[key][1:], goal) for name, key, goal in rows
    ]


class _Controls:
    """One visitor of the app or of its floor, who repeats the same steps."""

    def __init__(self, stack: ExitStack, browser: Browser, server: Server, record: dict) -> None:
        self.record = record
        self.taken: dict[str, list[float]] = {"text": [], "heads 8": [], "heads 2": []}
        self.page = stack.enter_context(visitor(browser)).new_page()
        opened(self.page, server.url, START_DRAWN)
        rest(self.page)
        drawer = self.page.locator(".st-key-he-drawer-shape summary")
        if drawer.count():
            drawer.click()

    def round(self, run: int, text: str) -> None:
        """New text; another picture; the slider to 8 and back, to 2 and back. That is more
        pictures than the app keeps traces of, so the fifth round finds none of the first."""
        samples = list(self.record["samples"])
        self._type(text)
        self._pick(samples[(run + 1) % len(samples)])
        for heads, there, back in ((8, "ArrowRight", "ArrowLeft"), (2, "ArrowLeft", "ArrowRight")):
            self.taken[f"heads {heads}"].append(self._move(there, heads))
            self._move(back, 4)

    def _type(self, text: str) -> None:
        rest(self.page)
        box = self.page.locator(".st-key-sentence input")
        box.fill(text)
        drawn = {"key": "explorer-text", "selector": NUMBER_WORD, "text": number_of(text)}
        conditions = [drawn, START_DRAWN[0]]
        took = timed(self.page, "keydown", lambda: box.press("Enter"), conditions)
        self.taken["text"].append(took)

    def _pick(self, sample: str) -> None:
        end = self.record["samples"][sample]["4"]["data"]["image"]["src"][-64:]
        drawn = {"key": "explorer-image", "selector": f'image[href$="{end}"]'}
        button = self.page.locator(f".st-key-sample-{sample} button")
        rest(self.page)
        timed(self.page, "click", button.click, [drawn])

    def _move(self, key: str, heads: int) -> float:
        rest(self.page)
        thumb = self.page.locator('.st-key-heads input[type="range"]')
        thumb.focus()
        return timed(self.page, "keydown", lambda: thumb.press(key), pictures(heads))


def pictures(heads: int) -> list[dict]:
    """Both explorers of the Start page show the upper model with so many heads."""
    chips = '.row[data-model="0"] .token[data-token="0"] .chip'
    maps = '.panel[data-model="0"] .small-map'
    return [
        {"key": "explorer-text", "selector": chips, "count": heads},
        {"key": "explorer-image", "selector": maps, "count": heads},
        *START_DRAWN[:2],
    ]


NUMBER_WORD = '.row[data-model="0"] [data-word="3"] .text'


def sentences(count: int) -> list[str]:
    """As many different sentences of one length; the fourth word tells them apart."""
    return [
        f"The bank raised {number} rates and we walked along the river bank."
        for number in range(101, 101 + count)
    ]


def number_of(sentence: str) -> str:
    return sentence.split()[3]


@contextmanager
def recording(texts: Sequence[str]) -> Iterator[tuple[dict, dict[str, str]]]:
    """What the app sends for these texts, and the variable that tells the floors where it is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        _output_of("record.py", str(path), given=json.dumps(texts))
        yield json.loads(path.read_text("utf-8")), {"MHMOE_BENCH_RECORD": str(path)}


def _output_of(script: str, *arguments: str, given: str = "") -> str:
    """What a script of tests/bench prints; these know Streamlit, so they run on their own."""
    done = subprocess.run(
        [sys.executable, str(FLOORS / script), *arguments],
        cwd=ROOT,
        env=surroundings(),
        input=given,
        capture_output=True,
        text=True,
        timeout=900,
    )
    if done.returncode:
        raise BenchError(f"{script} failed:\n{done.stderr[-2000:]}")
    return done.stdout


# ------------------------------------------------------------------------------- page switch


def page_switch(bench: Bench) -> list[Row]:
    """Start to the router and back, both pages visited before."""
    with ExitStack() as stack:
        record, environment = stack.enter_context(recording([]))
        servers = [
            stack.enter_context(serving(APP)),
            stack.enter_context(serving(FLOORS / "floor_pages.py", environment)),
        ]
        actions = []
        for server in servers:
            page = stack.enter_context(visitor(bench.browser)).new_page()
            opened(page, server.url, START_DRAWN)
            actions.append(_switcher(page, record))
        interleaved(1, actions)
        ours, floor = interleaved(bench.runs, actions)
    return [compared("page switch, Start to router", ours, floor, 1.3)]


def _switcher(page: Page, record: dict) -> Callable[[], float]:
    there, back = (drawn(record["pages"][slug]) for slug in ("router", "start"))

    def switch() -> float:
        rest(page)
        took = timed(page, "click", page.locator('.st-key-he-nav a[href*="router"]').click, there)
        rest(page)
        timed(page, "click", page.locator(".st-key-he-nav a").first.click, back)
        return took

    return switch


def drawn(items: Sequence[dict]) -> list[dict]:
    """The conditions under which a recorded page is on screen: its heading and every picture."""
    heading = next(item["body"] for item in items if "<h1>" in item.get("body", ""))
    title = html.unescape(re.sub("<[^>]+>", "", re.search("<h1>(.*?)</h1>", heading, re.S)[1]))
    conditions = [{"selector": "h1", "text": title}]
    for item in items:
        if item["type"] == "component":
            conditions.append({"key": item["key"], "selector": "* > *"})
        elif item["type"] == "plotly":
            chart = f".st-key-{item['key']} .js-plotly-plot .main-svg"
            conditions.append({"selector": chart})
    return conditions


# ------------------------------------------------------------------------------- play and scrub


def play(bench: Bench) -> list[Row]:
    """The stage plays while the thumb of the capacity factor is drawn to and fro, not let go."""
    messages: list[object] = []
    with serving(APP) as server, visitor(bench.browser) as context:
        page = context.new_page()
        page.on("websocket", lambda s: s.on("framesent", lambda data: messages.append(data)))
        opened(page, server.url, START_DRAWN)
        page.locator(f"{EXPLORER} .capacity input.slider").hover()
        page.locator(f'{EXPLORER} .stage[data-stocked="true"]').wait_for()  # before it is dragged
        rest(page)
        trace = _play_and_scrub(bench.browser, page, messages)
    seen = frames.read(trace)
    return [
        Row("play and scrub: p95 of script per frame", percentile(seen.script_ms, 0.95), goal=8),
        Row("play and scrub: longest task", seen.longest_ms, goal=50),
        Row("play and scrub: messages to the server", len(messages), goal=0),
    ]


def _play_and_scrub(browser: Browser, page: Page, messages: list[object]) -> list[dict]:
    explorer = page.locator(EXPLORER)
    thumb = explorer.locator(".capacity input.slider")
    # Near the top, so that the stage below is in view, too.
    thumb.evaluate("n => { n.style.scrollMarginTop = '80px'; n.scrollIntoView(); }")
    rest(page)
    box = thumb.bounding_box()
    low, high = box["x"] + 8, box["x"] + box["width"] - 8
    height = box["y"] + box["height"] / 2
    messages.clear()
    browser.start_tracing(page=page, categories=list(frames.CATEGORIES))
    for name in (".first", ".play"):  # no click of the mouse: it would scroll the page
        explorer.locator(f".controls button:has({name})").evaluate("n => n.click()")
    page.mouse.move(high, height)
    page.mouse.down()
    shown = set()
    for sweep in range(SWEEPS):
        for i in range(POSITIONS):
            share = i / (POSITIONS - 1)
            page.mouse.move(high + (low - high) * (1 - share if sweep % 2 else share), height)
        shown.add(thumb.input_value())
    trace = json.loads(browser.stop_tracing())["traceEvents"]
    if len(shown) < 2:
        raise BenchError("the thumb did not follow the mouse, so nothing was measured")
    return trace


# ------------------------------------------------------------------------------- engine


def full_trace(bench: Bench) -> list[Row]:
    return [trace_row(name, 10 * bench.runs) for name in ("text-e8-h4", "text-e8")]


def trace_row(name: str, runs: int) -> Row:
    """A full trace of a text as long as the context, beside the same forward pass without."""
    import torch

    from mhmoe.models import engine

    loaded = engine.load(name, "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def traced() -> None:
        engine.trace_text(loaded, LONG_TEXT, vectors=True)

    def bare() -> None:
        ids, _ = engine.encode(loaded, LONG_TEXT)
        with torch.inference_mode():
            loaded.model(torch.tensor([ids]))

    actions = [lambda: _milliseconds(traced), lambda: _milliseconds(bare)]
    try:
        interleaved(3, actions)
        ours, floor = interleaved(runs, actions)
    finally:
        torch.set_num_threads(threads)
    tokens = engine.encode(loaded, LONG_TEXT)[1].count
    return compared(f"forward with full trace, {tokens} tokens, {name}", ours, floor, 1.25)


def _milliseconds(action: Callable[[], None]) -> float:
    begin = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - begin)


# ------------------------------------------------------------------------------- visitors


def visitors(bench: Bench) -> list[Row]:
    """Thirty visitors at once; a server of its own, so that the memory is theirs."""
    with serving(APP) as server:
        said = _output_of("visitors.py", server.url, str(server.pid), str(VISITORS))
    seen = json.loads(said)
    return [
        Row(f"{VISITORS} visitors: p95 of a click", percentile(seen["click_ms"], 0.95)),
        Row(f"{VISITORS} visitors: median of a click", percentile(seen["click_ms"], 0.5)),
        Row(f"{VISITORS} visitors: p95 of opening Start", percentile(seen["open_ms"], 0.95)),
        Row(f"{VISITORS} visitors: memory of each, MB", seen["mb_per_visitor"]),
    ]


#: Every case by the name that --only takes.
CASES: dict[str, Callable[[Bench], list[Row]]] = {
    "open": cold_open,
    "controls": controls,
    "pages": page_switch,
    "play": play,
    "trace": full_trace,
    "visitors": visitors,
}
WITHOUT_BROWSER = {"trace", "visitors"}
