"""The browser of the benches and of the browser tests, and a clock inside its pages."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Playwright

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CLOCK = Path(__file__).with_name("clock.js")
#: Longest wait for anything in a page, in milliseconds.
PATIENCE = 60_000
#: Streamlit's sign that a run is over and the connection stands.
IDLE = (
    '[data-testid="stApp"][data-test-script-state="notRunning"]'
    '[data-test-connection-state="CONNECTED"]'
)


class NoBrowser(Exception):
    """Neither the system nor Playwright has a Chromium; the message says how to get one."""


def launch(playwright: Playwright) -> Browser:
    """The system's Chromium where there is one, else the one Playwright installed; headless."""
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None and not Path(playwright.chromium.executable_path).exists():
        raise NoBrowser(
            "no browser: install chromium with the system's package manager, or run "
            f"`{sys.executable} -m playwright install chromium`"
        )
    # A container's root user has no sandbox to use.
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return playwright.chromium.launch(executable_path=found, args=arguments)


def visitor(browser: Browser) -> BrowserContext:
    """A person who was never here before, with the clock in every page they open."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-US")
    context.set_default_timeout(PATIENCE)
    context.add_init_script(path=CLOCK)
    return context


def opened(page: Page, url: str, conditions: list[dict]) -> float:
    """Milliseconds from the start of the navigation until all conditions hold and are painted."""
    page.goto(url, wait_until="commit")
    return page.evaluate("conditions => benchClock.until(conditions)", conditions)


def timed(page: Page, event: str, act, conditions: list[dict]) -> float:
    """Milliseconds from the DOM event that ``act`` causes until all conditions are painted.

    The page must be at rest before, so that what the last action left is not counted here.
    """
    page.bring_to_front()
    page.evaluate("([event, conditions]) => benchClock.arm(event, conditions)", [event, conditions])
    act()
    return page.evaluate("() => benchClock.answer")


def rest(page: Page) -> None:
    """Wait until the script is over and the page has idled: nothing of the past is left to do.

    Twice, because what was drawn first may ask for more.
    """
    for _ in range(2):
        page.locator(IDLE).wait_for()
        page.evaluate("() => benchClock.idle()")
