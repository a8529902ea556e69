"""Start the app: a warmed server, then the visitor's browser. ``python -m mhmoe.ui.launch``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120


def main(arguments: list[str] | None = None) -> int:
    """Run the app until it is stopped; returns the server's exit code."""
    parser = argparse.ArgumentParser(prog="python -m mhmoe.ui.launch", description=__doc__)
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "8501")))
    parser.add_argument("--address", default="127.0.0.1", help="0.0.0.0 to serve a network")
    parser.add_argument("--device", help="cpu, cuda or mps; the best one when not given")
    parser.add_argument("--no-browser", action="store_true")
    options = parser.parse_args(arguments)
    environment = os.environ | ({"MHMOE_DEVICE": options.device} if options.device else {})
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless", "true"]
    command += ["--server.port", str(options.port), "--server.address", options.address]
    with subprocess.Popen(command, cwd=ROOT, env=environment) as server:
        url = f"http://localhost:{options.port}"
        try:
            if warm(url, server) and not options.no_browser:
                webbrowser.open(url)
            return server.wait()
        except KeyboardInterrupt:
            server.terminate()
            return server.wait()


def warm(url: str, server: subprocess.Popen) -> bool:
    """Wait for the server, then let it run app.py once, so that the first visitor meets loaded
    modules and a registered navigation. False when the server ended or never answered."""
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/script-health-check", timeout=60) as answer:
                return answer.status == 200
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    return False


if __name__ == "__main__":
    sys.exit(main())
