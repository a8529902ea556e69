"""The parity table, printed after ``pytest -v tests/parity``."""

from __future__ import annotations

import pytest

ROWS: dict[str, dict[str, str]] = {}


@pytest.fixture
def table():
    """table(oracle, column, text) fills one cell."""

    def fill(oracle: str, column: str, text: str) -> None:
        ROWS.setdefault(oracle, {})[column] = text

    return fill


def pytest_terminal_summary(terminalreporter, config):
    if not ROWS or config.get_verbosity() < 0:
        return
    terminalreporter.section("parity: largest relative difference; and after a deliberate change")
    for oracle, cells in ROWS.items():
        terminalreporter.write_line(f"{oracle}")
        for column, text in cells.items():
            terminalreporter.write_line(f"    {column:<48}{text}")
