"""The results file: one JSON file of everything that was measured, which the pages read.

schema    1
models    name -> facts, text, pictures or pairs, and the numbers of ``mhmoe.analysis.report``,
          ``mhmoe.analysis.report_pictures`` and ``mhmoe.analysis.report_pairs``
findings  rows of ``mhmoe.analysis.findings``, ``mhmoe.analysis.findings_pictures`` and
          ``mhmoe.analysis.findings_pairs``, derived from the models
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from mhmoe.analysis import findings, findings_pairs, findings_pictures

SCHEMA = 1
DIGITS = 6


class ResultsError(ValueError):
    """A file that is no results file."""


def load(path: Path) -> dict:
    """The file's content; without a file, one without models. Raises ResultsError, OSError."""
    if not path.exists():
        return {"schema": SCHEMA, "models": {}, "findings": []}
    try:
        content = json.loads(path.read_text("utf-8"))
        schema = content["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{path} is no results file: {error!r}.") from None
    if schema != SCHEMA:
        raise ResultsError(f"{path} has schema {schema}; this program reads {SCHEMA}.")
    return content


def merged(content: dict, entries: dict[str, dict]) -> dict:
    """``content`` with these models in place of those of the same names; findings derived anew."""
    models = content["models"] | {name: rounded(entry) for name, entry in entries.items()}
    models = {name: models[name] for name in sorted(models)}
    rows = [
        row for of in (findings, findings_pictures, findings_pairs) for row in of.derive(models)
    ]
    rows.sort(key=findings.order)
    return {"schema": SCHEMA, "models": models, "findings": rounded(rows)}


def save(content: dict, path: Path) -> None:
    """Sorted models, one number list per line: a change shows as the lines that changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(dumped(content), "utf-8")
    new.replace(path)


def dumped(content: dict) -> str:
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    plain = re.compile(r"\[\s+([-+\d.eE,\s]+?)\s+\]")
    return plain.sub(lambda m: "[" + re.sub(r"\s+", " ", m.group(1)) + "]", text) + "\n"


def sentence(row: dict) -> str:
    """A finding in one line."""
    ours = "not measured" if row["ours"] is None else f"{row['ours']:.4g}"
    spans = [
        f"{name} {row[name][0]:.4g} to {row[name][1]:.4g}"
        for name in ("interval", "null")
        if row[name]
    ]
    return f"{row['key']}: {row['verdict']} ({'; '.join([ours, *spans])})"


def rounded(value):
    """Numbers to six digits that count, so that another machine's last bits are no change.
    A number that is none becomes null."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
