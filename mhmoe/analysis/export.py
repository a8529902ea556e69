"""Traces as files that people take away."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

from mhmoe.trace import LayerTrace, RoutingTrace


def layer_csv(trace: RoutingTrace, layer: LayerTrace) -> str:
    """One line per sub-token: token, head, every score, then expert, gate, kept per choice.
    Tokens, heads and experts count from 1, as on the screen."""
    out = io.StringIO()
    writer = csv.writer(out)
    choices = [f"{name}_{k + 1}" for k in range(layer.top_k) for name in ("expert", "gate", "kept")]
    writer.writerow(
        [
            "token",
            "text",
            "head",
            *(f"score_{e + 1}" for e in range(layer.experts)),
            *(f"probability_{e + 1}" for e in range(layer.experts)),
            *choices,
        ]
    )
    for s in range(layer.sub_tokens):
        token, head = divmod(s, layer.heads)
        text = trace.input.tokens[token].text if trace.input.kind == "text" else ""
        cells = [
            v
            for k in range(layer.top_k)
            for v in (int(layer.expert[s, k]) + 1, f"{layer.gate[s, k]:.6g}", int(layer.kept[s, k]))
        ]
        writer.writerow(
            [
                token + 1,
                _inert(text),
                head + 1,
                *(f"{v:.6g}" for v in layer.logits[s]),
                *(f"{v:.6g}" for v in layer.probs[s]),
                *cells,
            ]
        )
    return out.getvalue()


def trace_bytes(trace: RoutingTrace) -> bytes:
    """The whole trace as the safetensors file that the command line writes too."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.safetensors"
        trace.save(path)
        return path.read_bytes()


def _inert(text: str) -> str:
    """A visitor's text for a spreadsheet: a leading = + - @ would be run as a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
