"""Text models over held-out text: what ``python -m mhmoe measure`` does with them.

The text is fixed: of each language the first ``WINDOWS`` windows of plain_dev that do not overlap.
This module runs the models; what their routing amounts to is computed in ``mhmoe.analysis.report``.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from mhmoe.analysis import nulls, report, routing
from mhmoe.analysis import words as meanings
from mhmoe.layers import TRAINED, WhatIf
from mhmoe.models import checkpoint, metrics, tokenizer
from mhmoe.models.config import ModelConfig
from mhmoe.models.transformer import Run, Transformer
from mhmoe.trace import TOKEN_CHOICE, LayerTrace
from mhmoe.training import costs, probes, treebanks, wordlists
from mhmoe.training.measure import (
    MeasureError,
    Routes,
    Subject,
    affordable,
    facts,
    has_choice,
    moments,
    of_routing,
    other_seeds,
    over_time,
    removed,
)
from mhmoe.training.text import LANGUAGES, TextData

WINDOWS = 32  #: windows of each language
FEW = 8  #: of these, where a model runs many times
FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  #: of capacity
CLASSES = (
    "punctuation",
    "number",
    "line break",
    "start of word",
    "rest of word",
    "part of a character",
)


# ------------------------------------------------------------------------ text


@dataclass(frozen=True, eq=False)
class HeldOut:
    """windows, kind [N, T] token ids and their classes, indices into ``classes``, -1 for none;
    language [N]; sizes [vocabulary] bytes."""

    windows: np.ndarray
    language: np.ndarray
    kind: np.ndarray
    sizes: np.ndarray
    classes: tuple[str, ...] = CLASSES

    def part(self, per_language: int) -> np.ndarray:
        """Indices of the first windows of each language."""
        each = [np.flatnonzero(self.language == i)[:per_language] for i in range(len(LANGUAGES))]
        return np.sort(np.concatenate(each))

    @property
    def facts(self) -> dict:
        N, T = self.windows.shape
        return {
            "windows": N,
            "tokens": N * T,
            "predicted": N * (T - 1),
            "languages": list(LANGUAGES),
            "sha256": hashlib.sha256(self.windows.astype("<i4").tobytes()).hexdigest(),
        }


def held_out(text_dir: Path, config: ModelConfig) -> HeldOut:
    """As many windows of every language, at most ``WINDOWS``. Raises MeasureError, CorpusError."""
    bpe = tokenizer_of(config)
    data = TextData(text_dir, "dev", bpe, config.context)
    every = [corpus.apart(config.context) for corpus in data.corpora]
    count = min(WINDOWS, *(len(windows) for windows in every))
    windows = np.concatenate([windows[:count] for windows in every])
    kinds = np.array([token_class(tokenizer.spell(bpe, i)) for i in range(config.vocabulary)])
    return HeldOut(
        windows=windows,
        language=np.arange(len(LANGUAGES)).repeat(count),
        kind=kinds[windows],
        sizes=tokenizer.byte_sizes(bpe),
    )


def labelled(folder: Path, config: ModelConfig) -> HeldOut:
    """Treebanks in the same way; the classes are those of words. Raises MeasureError,
    CorpusError."""
    bpe = tokenizer_of(config)
    windows, labels, language = treebanks.windows(folder, bpe, config.context, WINDOWS)
    sizes = tokenizer.byte_sizes(bpe)
    return HeldOut(windows, language, labels, sizes, treebanks.CLASSES)


def tokenizer_of(config: ModelConfig) -> Tokenizer:
    """The tokenizer of the models' folder, if it is the model's own. Raises MeasureError."""
    bpe = checkpoint.load_tokenizer()
    if (found := bpe.get_vocab_size()) != config.vocabulary:
        raise MeasureError(
            f"The tokenizer in {checkpoint.folder()} has {found} tokens, the model "
            f"{config.vocabulary}; set MHMOE_MODELS to the folder with the model's own."
        )
    return bpe


def token_class(text: str) -> int:
    """Index into CLASSES of a token's text as ``tokenizer.spell`` gives it; -1 for spaces alone and
    for what is of several kinds."""
    if re.search(r"\\x[0-9a-f]{2}", text):
        return 5
    bare = text.strip(" ")
    if "\n" in bare:
        return 2 if not bare.strip() else -1
    groups = {unicodedata.category(c)[0] for c in bare}
    if groups and groups <= {"P", "S"}:
        return 0
    if groups == {"N"}:
        return 1
    if groups and groups <= {"L", "M"}:
        return 3 if text.startswith(" ") else 4
    return -1


# ------------------------------------------------------------------------ runs


@torch.inference_mode()
def window_nats(
    model: Transformer,
    windows: np.ndarray,
    what_if: WhatIf = TRAINED,
    only_block: int | None = None,
    watch: Callable[[Run], None] = lambda run: None,
) -> np.ndarray:
    """[N] cross-entropy of each window's tokens after the first, in nats, summed."""
    device = next(model.parameters()).device
    found = []
    for at in range(0, len(windows), metrics.BATCH):
        ids = torch.from_numpy(windows[at : at + metrics.BATCH]).to(device).long()
        run = model(ids, what_if=what_if, only_block=only_block)
        watch(run)
        found.append(metrics.token_nats(run.output, ids).double().sum(1).cpu().numpy())
    return np.concatenate(found)


def routed(model: Transformer, windows: np.ndarray) -> tuple[np.ndarray, list[LayerTrace]]:
    """[N] nats, and of every MoE layer one trace of all windows end to end."""
    routes = Routes(model)
    nats = window_nats(model, windows, watch=routes)
    return nats, routes.layers()


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
    say(f"{subject.name}: {text.windows.size:,} tokens of {len(LANGUAGES)} languages")
    nats, layers = routed(model, text.windows)
    entry = {
        "command": subject.command,
        "facts": facts(subject, model),
        "text": text.facts,
        "quality": quality(nats, text),
        "probes": probes.of(model, seed, text, words),
    }
    if with_costs:
        entry["costs"] = costs.costs(model, text.windows)
        entry["command"] += " --costs"
    if not has_choice(model) or layers[0].assignment != TOKEN_CHOICE:
        return entry
    opened = report.opened(layers, text.language)
    entry |= of_routing(opened)
    entry["collapse"] = probes.collapse(model, seed, text.windows, text.language)
    if lists and layers[0].heads > 1:
        entry["meanings"] = two_meanings(layers, text, lists)
        entry["command"] += " --words WORDS"
    entry["language"] = [report.of_windows(r, LANGUAGES) for r in opened]
    entry["token_class"] = [report.of_tokens(r, text.kind, text.classes) for r in opened]
    if words:
        say(f"{subject.name}: word classes of {words.windows.size:,} tokens of treebanks")
        _, others = routed(model, words.windows)
        entry["word_class"] = [
            report.of_tokens(r, words.kind, words.classes)
            for r in report.opened(others, words.language)
        ]
        entry["treebanks"] = words.facts
        entry["command"] += " --treebanks TREEBANKS"
    entry["repetition"] = [report.repetition(r) for r in opened]
    entry |= relatives(subject, text, device, say)
    say(f"{subject.name}: every expert removed, and {len(FACTORS)} capacities")
    entry["removal"] = removal(model, text)
    entry["capacity"] = capacity(model, text)
    return entry


def relatives(
    subject: Subject, text: HeldOut, device: torch.device | str, say: Callable[[str], None]
) -> dict:
    """Against its own snapshots and its other seeds, where it has any, on a part of the windows."""
    few = text.part(FEW)
    group = text.language[few]

    def route(one: Transformer) -> list[LayerTrace]:
        return routed(one, text.windows[few])[1]

    entry = {}
    if subject.snapshots:
        say(f"{subject.name}: {len(subject.snapshots)} snapshots")
        entry["over_time"] = over_time(subject, moments(subject, route, device), group)
    if subject.seeds:
        say(f"{subject.name}: against {len(subject.seeds)} other seeds")
        entry["other_seeds"] = other_seeds(subject, route, group, device)
    return entry


def quality(nats: np.ndarray, text: HeldOut) -> dict:
    """Bits per byte and perplexity of all and of each language; bits [N] of every window are kept,
    so that models can be compared window by window."""
    size = text.sizes[text.windows[:, 1:]].sum(1)
    tokens = text.windows.shape[1] - 1
    bits = nats / np.log(2)

    def numbers(rows: np.ndarray) -> dict:
        draws = nulls.resampled(text.language[rows], report.BOOTSTRAP, report.SEED)
        return {
            **metrics.per_byte(nats[rows].sum(), len(rows) * tokens, int(size[rows].sum())),
            "interval": nulls.interval(draws @ bits[rows] / (draws @ size[rows])),
        }

    return {
        **numbers(np.arange(len(nats))),
        "languages": {
            language: numbers(np.flatnonzero(text.language == i))
            for i, language in enumerate(LANGUAGES)
        },
        "window_bits": bits.tolist(),
        "window_bytes": size.tolist(),
    }


def two_meanings(layers: Sequence[LayerTrace], text: HeldOut, folder: Path) -> dict:
    """Distinct experts per token, mean of layers, of false friends and of polysemous English words,
    each against words as frequent; None where there is nothing to compare."""
    value = np.mean([routing.distinct_experts(layer) for layer in layers], axis=0)
    found = meanings.types(occurrences(text), value)
    keys = list(zip((LANGUAGES[i] for i in found.language), found.form, strict=True))
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


def removal(model: Transformer, text: HeldOut) -> dict:
    """Bits per byte more without each expert of each layer."""
    rows = text.part(affordable(model, FEW))
    plain = window_nats(model, text.windows[rows])

    def rise(what_if: WhatIf, block: int) -> dict:
        return _rise(window_nats(model, text.windows[rows], what_if, block), plain, rows, text)

    return {"tokens": len(rows) * text.windows.shape[1], "layers": removed(model, rise)}


def capacity(model: Transformer, text: HeldOut) -> dict:
    """Bits per byte more, and the share of choices turned away, when experts hold at most
    factor * K * S / E sub-tokens of a window. In a left-to-right model with K > 1 such a limit lets
    later tokens push out earlier ones' second choices, which is part of what is measured."""
    rows = text.part(FEW)
    plain = window_nats(model, text.windows[rows])
    found = []
    for factor in FACTORS:
        turned: list[tuple[int, int]] = []

        def watch(run: Run, turned: list = turned) -> None:
            for one in run.routing:
                turned.append((int((one.taken < 0).sum()), one.taken.numel()))

        limited = WhatIf(capacity_factors=(factor,))
        nats = window_nats(model, text.windows[rows], limited, watch=watch)
        away, of = np.array(turned).sum(0)
        found.append({"factor": factor, "dropped": away / of, **_rise(nats, plain, rows, text)})
    return {"tokens": len(rows) * text.windows.shape[1], "factors": found}


def _rise(nats: np.ndarray, plain: np.ndarray, rows: np.ndarray, text: HeldOut) -> dict:
    """Bits per byte more than ``plain``, with the interval over the same windows."""
    size = text.sizes[text.windows[rows, 1:]].sum(1)
    more = (nats - plain) / np.log(2)
    draws = nulls.resampled(text.language[rows], report.BOOTSTRAP, report.SEED)
    return {
        "rise": float(more.sum() / size.sum()),
        "interval": nulls.interval(draws @ more / (draws @ size)),
    }
