"""Streamlit servers of our own: on free ports of this machine, always stopped."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mhmoe.bench import BenchError

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 180


@dataclass(frozen=True)
class Server:
    url: str
    pid: int


@contextmanager
def serving(script: Path, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """``script`` served by a new process that no visitor has seen yet."""
    port = _free_port()
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.port", str(port)]
    command += ["--server.address", "127.0.0.1", "--server.headless", "true"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=surroundings() | dict(environment or {}),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _await_health(url, process)
            yield Server(url, process.pid)
            log.seek(0)
            if b"Traceback" in (said := log.read()):
                raise BenchError(f"{script.name} failed:\n{said.decode('utf-8', 'replace')}")
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def surroundings() -> dict[str, str]:
    """Our environment, in which a script of any folder finds this package."""
    return os.environ | {"PYTHONPATH": str(ROOT)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _await_health(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BenchError(f"the server ended with {process.returncode} before it answered")
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2) as answer:
                if answer.read() == b"ok":
                    return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.05)  # not listening yet
    raise BenchError(f"the server was not healthy within {START_SECONDS} s")


def resident_mb(pid: int) -> float | None:
    """Memory of a process that is really in use, in megabytes; None where it cannot be asked."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return None
    lines = status.read_text().splitlines()
    found = next((line for line in lines if line.startswith("VmRSS:")), None)
    return int(found.split()[1]) * 1.024 / 1000 if found else None
