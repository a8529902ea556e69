"""What ``python -m mhmoe measure`` does: models over held-out text, every number with its chance.

The text is fixed: of each language the first ``WINDOWS`` windows of plain_dev that do not overlap.
This module runs the models; what their routing amounts to is computed in ``mhmoe.analysis.report``.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer

from mhmoe.analysis import nulls, report, routing
from mhmoe.analysis import words as meanings
from mhmoe.layers import TRAINED, WhatIf
from mhmoe.layers.moe import traces
from mhmoe.layers.routers import Routing
from mhmoe.models import checkpoint, metrics, tokenizer
from mhmoe.models.config import ModelConfig
from mhmoe.models.transformer import Run, Transformer
from mhmoe.trace import TOKEN_CHOICE, LayerTrace
from mhmoe.training import costs, probes, treebanks, wordlists
from mhmoe.training.text import LANGUAGES, TextData

WINDOWS = 32  #: windows of each language
FEW = 8  #: of these, where a model runs many times
REMOVALS = 32  #: runs over FEW windows that removing one expert at a time may cost
LOSSES = ("balance", "importance", "smooth_load", "z")  #: weights in a recipe
FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  #: of capacity
CLASSES = (
    "punctuation",
    "number",
    "line break",
    "start of word",
    "rest of word",
    "part of a character",
)


class MeasureError(ValueError):
    """A model or text that cannot be measured."""


class UnknownModel(MeasureError):
    """A model that does not exist."""


# ------------------------------------------------------------------------ models


@dataclass(frozen=True, eq=False)
class Subject:
    """A model to measure: one that is shipped, or the end of a training run.

    weights    the file whose float16 values are measured
    snapshots  (step, file) of earlier weights of the same run
    seeds      finished runs of the same recipe with other seeds
    facts      what the results file says of it: recipe, seed, steps
    """

    name: str
    config: ModelConfig
    weights: Path
    facts: dict
    snapshots: tuple[tuple[int, Path], ...] = ()
    seeds: tuple[Subject, ...] = ()

    @property
    def command(self) -> str:
        """What measures it again; TEXT, RUNS stand for the reader's own folders."""
        runs = " --runs RUNS" if "steps" in self.facts else ""
        return f"python -m mhmoe measure {self.name}{runs} --text-dir TEXT"

    def model(self, path: Path | None = None, device: torch.device | str = "cpu") -> Transformer:
        """Of ``weights``, or of a snapshot. Rounded to float16 as what is shipped is, so that a
        run and the checkpoint made of it measure the same. Raises MeasureError."""
        path = path or self.weights
        model = Transformer(self.config)
        try:
            tensors = load_file(str(path))
            if path.parent.name == "last":  # a run's whole state: optimiser and all
                tensors = {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}
            model.load_state_dict({k: v.half().float() for k, v in tensors.items()})
        except (OSError, RuntimeError, SafetensorError) as error:
            raise MeasureError(f"The weights {path} cannot be read: {error}") from None
        return model.to(device).eval()


def subjects(names: Sequence[str], runs: Path | None = None) -> list[Subject]:
    """The text models of these names, or all: shipped ones, or the finished runs in ``runs``, where
    a name is a run's folder or a recipe (all its seeds). Raises UnknownModel."""
    found = finished(runs) if runs else shipped()
    asked = [
        [s for s in found if name in (s.name, s.facts.get("recipe") if runs else s.name)]
        for name in names
    ]
    if unknown := [name for name, those in zip(names, asked, strict=True) if not those]:
        where = f"finished text runs in {runs}" if runs else "text models"
        raise UnknownModel(
            f"Unknown {', '.join(map(repr, unknown))}; known {where} are "
            f"{', '.join(s.name for s in found) or 'none'}."
        )
    chosen = {s.name: s for those in asked for s in those} if names else {s.name: s for s in found}
    if not chosen:
        raise MeasureError(f"There is nothing to measure in {runs or checkpoint.folder()}.")
    return [chosen[name] for name in sorted(chosen)]


def shipped() -> list[Subject]:
    cards = [checkpoint.card(name) for name in checkpoint.names()]
    return [
        Subject(
            card["name"],
            ModelConfig.from_dict(card["config"]),
            checkpoint.folder() / card["file"],
            {"recipe": card["name"], "seed": card.get("seed"), **_trained(card.get("recipe"))},
        )
        for card in cards
        if card["config"]["kind"] == "text"
    ]


def finished(runs: Path) -> list[Subject]:
    """The runs of text models in a folder that have come to their end. Raises MeasureError."""
    found = []
    for path in sorted(runs.glob("*/last/state.json")):
        try:
            state = json.loads(path.read_text("utf-8"))
            recipe = state["recipe"]
            if recipe["data"] != "text" or state["step"] < recipe["steps"]:
                continue
            config = ModelConfig.from_dict(recipe["model"])
        except FileNotFoundError:  # a run that is just being saved, so it has not come to its end
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MeasureError(f"The state {path} cannot be read: {error}") from None
        folder = path.parents[1]
        saved = sorted((folder / "snapshots").glob("*.safetensors"))
        found.append(
            Subject(
                folder.name,
                config,
                path.parent / "state.safetensors",
                {**_trained(recipe), "steps": recipe["steps"]},
                tuple((int(one.stem), one) for one in saved),
            )
        )
    return [
        replace(s, seeds=tuple(o for o in found if o is not s and _same_recipe(s, o)))
        for s in found
    ]


def _trained(recipe: dict | None) -> dict:
    """What a comparison has to know of a recipe, if it is known."""
    if not recipe:
        return {}
    weights = {name: recipe.get(name, 0.0) for name in LOSSES}
    return {"recipe": recipe["name"], "seed": recipe["seed"], "losses": weights}


def _same_recipe(a: Subject, b: Subject) -> bool:
    return a.facts["recipe"] == b.facts["recipe"] and a.config == b.config


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


@torch.inference_mode()
def routed(model: Transformer, windows: np.ndarray) -> tuple[np.ndarray, list[LayerTrace]]:
    """[N] nats, and of every MoE layer one trace of all windows end to end."""
    kept: list[list[Routing]] = [[] for _ in model.moe_layers]

    def watch(run: Run) -> None:
        for those, one in zip(kept, run.routing, strict=True):
            those.append(one.on_host())

    nats = window_nats(model, windows, watch=watch)
    every = [Routing.joined(those).as_one() for those in kept]
    found = [
        traces([layer], [routing], [{}])[0][0]
        for layer, routing in zip(model.moe_layers, every, strict=True)
    ]
    return nats, found


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
        "facts": subject.facts | shape(model) | {"weights": checkpoint.digest(subject.weights)},
        "text": text.facts,
        "quality": quality(nats, text),
        "probes": probes.of(model, seed, text, words),
    }
    if with_costs:
        entry["costs"] = costs.costs(model, text.windows)
        entry["command"] += " --costs"
    if not layers or layers[0].assignment != TOKEN_CHOICE:
        return entry
    opened = report.opened(layers, text.language)
    entry["layers"] = [layer.layer for layer in layers]
    entry["balance"] = [report.balanced(r) for r in opened]
    entry["collapse"] = probes.collapse(model, seed, text.windows, text.language)
    entry["activation"] = report.activation(opened)
    if layers[0].heads > 1:
        entry["diversity"] = [report.diverse(r) for r in opened]
        if lists:
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
    if layers[0].top_k > 1:
        entry["coactivation"] = [report.pairs(r) for r in opened]
    if subject.snapshots:
        say(f"{subject.name}: {len(subject.snapshots)} snapshots")
        entry["over_time"] = over_time(subject, text, device)
    if subject.seeds:
        say(f"{subject.name}: against {len(subject.seeds)} other seeds")
        entry["other_seeds"] = other_seeds(subject, text, device)
    say(f"{subject.name}: every expert removed, and {len(FACTORS)} capacities")
    entry["removal"] = removal(model, text)
    entry["capacity"] = capacity(model, text)
    return entry


def shape(model: Transformer) -> dict:
    c = model.config
    moe = c.moe
    return {
        **model.counts(),
        "router": c.router,
        "gate": moe.gate if moe else "none",
        "score": moe.score if moe else "none",
        "shared": moe.shared if moe else 0,
        "blocks": c.blocks,
        "d_model": c.d_model,
        "experts": moe.experts if moe else 0,
        "top_k": moe.top_k if moe else 0,
        "heads": c.heads,
        "d_ff": moe.d_ff if moe else c.d_ff,
    }


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


def over_time(subject: Subject, text: HeldOut, device: torch.device | str = "cpu") -> dict:
    """Saturation and fluctuation of each layer between snapshots, on a part of the windows."""
    rows = text.part(FEW)
    windows = text.windows[rows]
    choices = []
    for _, path in (*subject.snapshots, (0, subject.weights)):
        _, layers = routed(subject.model(path, device), windows)
        choices.append(layers)
    *earlier, final = choices
    steps = [step for step, _ in subject.snapshots]
    return {
        "steps": subject.facts["steps"],
        "at": steps,
        "tokens": int(windows.size),
        "layers": [
            report.over_time(steps, [layers[i].expert for layers in earlier], r)
            for i, r in enumerate(report.opened(final, text.language[rows]))
        ],
    }


def other_seeds(subject: Subject, text: HeldOut, device: torch.device | str = "cpu") -> dict:
    """How alike this run and each other seed divide the text, on a part of the windows. Raises
    MeasureError."""
    if find_spec("scipy") is None:
        raise MeasureError(
            "Seeds are compared with scipy, which is not installed: pip install scipy==1.17.1"
        )
    rows = text.part(FEW)
    windows = text.windows[rows]

    def layers(one: Subject) -> list[report.Routed]:
        return report.opened(routed(one.model(device=device), windows)[1], text.language[rows])

    mine = layers(subject)
    return {
        "tokens": int(windows.size),
        "runs": {
            other.name: [report.alike(r, s) for r, s in zip(mine, layers(other), strict=True)]
            for other in subject.seeds
        },
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
    """Bits per byte more when one expert of one layer is off; its sub-tokens go to their next.
    Models with more than ``REMOVALS`` experts in all layers get fewer windows."""
    E, K = model.config.moe.experts, model.config.moe.top_k
    runs = E * len(model.moe_layers)
    rows = text.part(max(1, min(FEW, FEW * REMOVALS // runs)))
    if E - 1 < K:
        return {"tokens": 0, "layers": []}
    plain = window_nats(model, text.windows[rows])
    found = []
    for block, _ in model.moe_layers:
        rise = [
            _rise(
                window_nats(model, text.windows[rows], WhatIf(experts_off=(e,)), block),
                plain,
                rows,
                text,
            )
            for e in range(E)
        ]
        found.append(rise)
    return {"tokens": len(rows) * text.windows.shape[1], "layers": found}


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
