"""What a page's main thread did, read from a trace that Chromium recorded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CATEGORIES = ("devtools.timeline", "disabled-by-default-devtools.timeline")
#: Everything that runs script, with what the script makes the browser do at once (forced layout).
SCRIPT = {
    "EvaluateScript",
    "EventDispatch",
    "FireAnimationFrame",
    "FireIdleCallback",
    "FunctionCall",
    "RunMicrotasks",
    "TimerFire",
}


@dataclass(frozen=True)
class Frames:
    """``script_ms``: of every drawn frame that ran script; ``longest_ms``: the longest task."""

    script_ms: tuple[float, ...]
    longest_ms: float


def read(events: Sequence[dict]) -> Frames:
    """Script between two commits of a frame counts for the later one, timers included."""
    own = _main_thread(events)
    commits = sorted(e["ts"] + e["dur"] for e in own if e["name"] == "Commit")
    spans = _merged((e["ts"], e["ts"] + e["dur"]) for e in own if e["name"] in SCRIPT)
    tasks = [e["dur"] for e in own if e["name"] == "RunTask"]
    script = [0.0] * len(commits)
    at = 0
    for begin, end in spans:
        while at < len(commits) and commits[at] < end:
            at += 1
        if at == len(commits):
            break
        script[at] += (end - begin) / 1000
    return Frames(tuple(ms for ms in script if ms), max(tasks, default=0) / 1000)


def _main_thread(events: Sequence[dict]) -> list[dict]:
    """The complete events of the one page that was traced: the busiest renderer's main thread."""
    threads = {
        (e["pid"], e["tid"])
        for e in events
        if e["name"] == "thread_name" and e["args"]["name"] == "CrRendererMain"
    }
    by_thread = {thread: [] for thread in threads}
    for event in events:
        if event.get("ph") == "X" and "dur" in event:
            thread = (event["pid"], event["tid"])
            if thread in by_thread:
                by_thread[thread].append(event)
    return max(by_thread.values(), key=len, default=[])


def _merged(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without overlaps: script called by script is one span."""
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged
