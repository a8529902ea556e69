"""The browser harness: a real server, a real Chromium, and no tolerance for noise.

``visit`` opens a page of the app in a browser of a given theme, size and locale. When the test
ends it fails on any console error, any uncaught exception and any request to another host.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from harness import PATIENCE, running_server, settle
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from mhmoe.bench.browser import NoBrowser, launch

#: On a deep link Streamlit's own client first looks for the server below the page's path.
PROBE = re.compile(r"/[a-z-]+/_stcore/(health|host-config)$")

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for all tests that do not care what others did to it."""
    with running_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
def fresh_server(tmp_path: Path) -> Iterator[str]:
    """A server that no visitor has seen yet."""
    with running_server(tmp_path) as url:
        yield url


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium where there is one, else the one Playwright installed."""
    with sync_playwright() as playwright:
        try:
            browser = launch(playwright)
        except NoBrowser as error:
            pytest.fail(str(error))
        yield browser
        browser.close()


def _watch(page: Page, host: str, complaints: list[str]) -> None:
    def on_console(message) -> None:
        if message.type == "error" and not PROBE.search(message.location.get("url", "")):
            complaints.append(f"console: {message.text} {message.location}")

    def on_request(request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.netloc != host:
            complaints.append(f"request to another host: {request.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: complaints.append(f"uncaught: {error}"))
    page.on("request", on_request)


Visit = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """``visit(url, theme="dark", size=(390, 844), locale="zh-CN")`` opens the app and waits."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_page(
        url: str,
        *,
        theme: str = "light",
        size: tuple[int, int] = (1440, 900),
        locale: str = "en-US",
    ) -> Page:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=theme,
            locale=locale,
            reduced_motion="reduce",
            permissions=["clipboard-read", "clipboard-write"],
        )
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        _watch(page, urlsplit(url).netloc, complaints)
        page.goto(url)
        settle(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints, "\n".join(complaints)
