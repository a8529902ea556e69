"""Plain helpers of the browser tests: a real server, and when a page is ready."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

ROOT = Path(__file__).resolve().parents[2]
#: Longest wait for the page, in milliseconds, and for the server, in seconds: generous, because
#: a slow machine is no defect of the app.
PATIENCE = 60_000
START_SECONDS = 180
IDLE = (
    '[data-testid="stApp"][data-test-script-state="notRunning"]'
    '[data-test-connection-state="CONNECTED"]'
)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _await_health(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the server ended with {process.returncode}:\n{log.read_text()}")
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2) as answer:
                if answer.read() == b"ok":
                    return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            # Not listening yet; a short pause between polls keeps two cores free for the server.
            time.sleep(0.1)
    pytest.fail(f"the server was not healthy within {START_SECONDS} s:\n{log.read_text()}")


@contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """The app on a free port, as a visitor's ``streamlit run`` starts it, without any warm-up."""
    port = _free_port()
    log = folder / f"server-{port}.log"
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    command += ["--server.address", "127.0.0.1", "--server.headless", "true"]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        _await_health(url, process, log)
        yield url
        errors = [line for line in log.read_text().splitlines() if "Traceback" in line]
        assert not errors, f"the server logged an exception:\n{log.read_text()}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def settle(page: Page) -> None:
    """Wait until the page is drawn inside its frame and the script is idle."""
    # Set by the frame's last component: a run outside the frame would end idle without it.
    page.locator("html[data-he-page]").wait_for(state="attached")
    page.locator(IDLE).wait_for()
    expect(page.locator('[data-testid="stException"]')).to_have_count(0)
