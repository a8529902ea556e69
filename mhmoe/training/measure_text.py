"""Text models over held-out text: what ``python -m mhmoe measure`` does with them.

The text, and what a model is asked about it, are those of ``mhmoe.training.questions``. Routing is
that of whole windows, of which nothing is hidden. This module runs the models; what their routing
amounts to is computed in ``mhmoe.analysis.report``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mhmoe.analysis import report, routing
from mhmoe.analysis import words as meanings
from mhmoe.layers import WhatIf
from mhmoe.models import checkpoint, metrics, tokenizer
from mhmoe.models.transformer import Run, Transformer
from mhmoe.trace import TOKEN_CHOICE, LayerTrace
from mhmoe.training import costs, probes, wordlists
from mhmoe.training.measure import (
    Routes,
    Subject,
    affordable,
    facts,
    has_choice,
    of_routing,
    relatives,
    removed,
)
from mhmoe.training.questions import CLASSES, HeldOut, Question

FEW = 8  #: windows of each language, where a model runs many times
FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  #: of capacity


# ------------------------------------------------------------------------ one model


def measure(
    subject: Subject,
    text: HeldOut,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda sentence: None,
    words: HeldOut | None = None,
    lists: Path | None = None,
    with_costs: bool = False,
) -> dict:
    """Everything about one model; ``words``: treebanks, for the classes of words; ``lists``: the
    folder of ``mhmoe.training.wordlists``; ``with_costs``: time and memory, too. Raises
    MeasureError, CorpusError."""
    model, seed = subject.model(device=device), subject.facts["seed"] or 0
    asked = Question.of(text, model.config, subject.mask_ratio)
    say(f"{subject.name}: {text.windows.size:,} tokens of {', '.join(text.languages)}")
    entry = {
        "command": subject.command,
        "facts": facts(subject, model),
        "text": asked.facts,
        "quality": asked.quality(asked.nats(model)),
        "probes": probes.of(model, seed, text, words),
    }
    if with_costs:
        entry["costs"] = costs.costs(model, text.windows)
        entry["command"] += " --costs"
    if not has_choice(model) or model.config.moe.assignment != TOKEN_CHOICE:
        return entry
    layers = routed(model, text.windows)
    opened = report.opened(layers, text.language)
    entry |= of_routing(opened)
    entry["collapse"] = probes.collapse(model, seed, text.windows, text.language)
    if lists and layers[0].heads > 1:
        entry["meanings"] = two_meanings(layers, text, lists)
        entry["command"] += " --words WORDS"
    if len(text.languages) > 1:
        entry["language"] = [report.of_windows(r, text.languages) for r in opened]
    entry["token_class"] = [report.of_tokens(r, text.kind, text.classes) for r in opened]
    if words:
        say(f"{subject.name}: word classes of {words.windows.size:,} tokens of treebanks")
        entry["word_class"] = [
            report.of_tokens(r, words.kind, words.classes)
            for r in report.opened(routed(model, words.windows), words.language)
        ]
        entry["treebanks"] = words.facts
        entry["command"] += " --treebanks TREEBANKS"
    entry["repetition"] = [report.repetition(r) for r in opened]
    few = text.part(FEW)
    entry |= relatives(subject, partial(routed, windows=few.windows), few.language, device, say)
    say(f"{subject.name}: every expert removed, and {len(FACTORS)} capacities")
    entry["removal"] = removal(model, asked)
    entry["capacity"] = capacity(model, asked)
    return entry


@torch.inference_mode()
def routed(model: Transformer, windows: np.ndarray) -> list[LayerTrace]:
    """Of every MoE layer one trace of all windows end to end."""
    routes = Routes(model)
    for ids in metrics.chunks(model, windows):
        routes(model(ids))
    return routes.layers()


def two_meanings(layers: Sequence[LayerTrace], text: HeldOut, folder: Path) -> dict:
    """Distinct experts per token, mean of layers, of false friends and of polysemous English words,
    each against words as frequent; None where there is nothing to compare."""
    value = np.mean([routing.distinct_experts(layer) for layer in layers], axis=0)
    found = meanings.types(occurrences(text), value)
    keys = list(zip((text.languages[i] for i in found.language), found.form, strict=True))
    false, listed = wordlists.same_spelling(folder)
    many, few = wordlists.by_senses(folder)
    known = {language for language, _ in listed}
    kinds = {
        "false_friends": [
            1 if key in false else 0 if key[0] in known and key not in listed else -1
            for key in keys
        ],
        "polysemous": [
            -1 if key[0] != "en" else 1 if key[1] in many else 0 if key[1] in few else -1
            for key in keys
        ],
    }
    return {name: meanings.compared_kinds(found, np.array(kind)) for name, kind in kinds.items()}


def occurrences(text: HeldOut) -> Iterator[tuple[int, str, list[int]]]:
    """Language, form in small letters and token indices of every word of letters in ``text``. A
    window's last word may be cut, and is left out."""
    bpe = checkpoint.load_tokenizer()
    begin, rest = CLASSES.index("start of word"), CLASSES.index("rest of word")
    size = text.windows.shape[1]
    for n, (ids, kinds) in enumerate(zip(text.windows, text.kind, strict=True)):
        word: list[int] = []
        for t, kind in enumerate(kinds):
            if word and kind != rest:
                form = "".join(tokenizer.spell(bpe, int(ids[i])) for i in word)
                yield int(text.language[n]), form.strip().lower(), [n * size + i for i in word]
                word = []
            if kind in (begin, rest):
                word.append(t)


def removal(model: Transformer, asked: Question) -> dict:
    """Bits per byte more without each expert of each layer."""
    few = asked.part(affordable(model, FEW))
    plain = few.nats(model)

    def rise(what_if: WhatIf, block: int) -> dict:
        return few.rise(few.nats(model, what_if, block), plain)

    return {"tokens": few.text.windows.size, "layers": removed(model, rise)}


def capacity(model: Transformer, asked: Question) -> dict:
    """Bits per byte more, and the share of choices turned away, when experts hold at most
    factor * K * S / E sub-tokens of a window. In a left-to-right model with K > 1 such a limit lets
    later tokens push out earlier ones' second choices, which is part of what is measured."""
    few = asked.part(FEW)
    plain = few.nats(model)
    found = []
    for factor in FACTORS:
        turned: list[tuple[int, int]] = []

        def watch(run: Run, turned: list = turned) -> None:
            for one in run.routing:
                turned.append((int((one.taken < 0).sum()), one.taken.numel()))

        nats = few.nats(model, WhatIf(capacity_factors=(factor,)), watch=watch)
        away, of = np.array(turned).sum(0)
        found.append({"factor": factor, "dropped": away / of, **few.rise(nats, plain)})
    return {"tokens": few.text.windows.size, "factors": found}
