"""What ``python -m mhmoe measure`` measures, and what it does alike with text, pictures and both.

A subject is a model that is shipped, or a finished run with its snapshots and its other seeds.
``measure_text``, ``measure_images`` and ``measure_pairs`` run them; what their routing amounts to
is computed in ``mhmoe.analysis``. Every number stands beside its interval and its chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mhmoe.analysis import report
from mhmoe.layers import WhatIf
from mhmoe.layers.moe import traces
from mhmoe.layers.routers import Routing
from mhmoe.models import checkpoint
from mhmoe.models.config import ModelConfig
from mhmoe.models.transformer import Run, Transformer
from mhmoe.trace import TOKEN_CHOICE, LayerTrace
from mhmoe.training import loop
from mhmoe.training.recipe import Recipe
from mhmoe.training.text import LANGUAGES

LOSSES = ("balance", "importance", "smooth_load", "z")  #: weights in a recipe
REMOVALS = 32  #: runs over a few inputs that removing one expert at a time may cost

#: From a model to one trace of each MoE layer, all held-out inputs end to end.
Route = Callable[[Transformer], list[LayerTrace]]


class MeasureError(ValueError):
    """A model or data that cannot be measured."""


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
    def languages(self) -> tuple[str, ...]:
        """Of a text model, on whose held-out text it is measured."""
        return tuple(self.facts.get("languages", LANGUAGES))

    @property
    def mask_ratio(self) -> float:
        """Share of its tokens or patches that is hidden where it guesses hidden ones."""
        return self.facts.get("mask_ratio") or Recipe.mask_ratio

    @property
    def command(self) -> str:
        """What measures it again; TEXT, RUNS stand for the reader's own folders."""
        runs = " --runs RUNS" if self.weights.parent.name == "last" else ""
        text = " --text-dir TEXT" if self.config.kind == "text" else ""
        return f"python -m mhmoe measure {self.name}{runs}{text}"

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
    """The models of these names, or all: shipped ones, or the finished runs in ``runs``, where
    a name is a run's folder or a recipe (all its seeds). Raises UnknownModel."""
    found = finished(runs) if runs else shipped()
    asked = [
        [s for s in found if name in (s.name, s.facts.get("recipe") if runs else s.name)]
        for name in names
    ]
    if unknown := [name for name, those in zip(names, asked, strict=True) if not those]:
        where = f"finished runs in {runs}" if runs else "models"
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
    return [_of_card(card) for card in cards]


def _of_card(card: dict) -> Subject:
    folder, known = checkpoint.folder(), {"recipe": card["name"], "seed": None}
    if "recipe" in card:
        known = trained(Recipe.from_dict(card["recipe"]))
    return Subject(
        card["name"],
        ModelConfig.from_dict(card["config"]),
        folder / card["file"],
        known,
        tuple((row["step"], folder / row["file"]) for row in card.get("snapshots", ())),
    )


def finished(runs: Path) -> list[Subject]:
    """The runs in a folder that have come to their end. Raises TrainingError."""
    found = []
    for folder, recipe, _ in loop.finished(runs):
        saved = sorted((folder / "snapshots").glob("*.safetensors"))
        found.append(
            Subject(
                folder.name,
                recipe.model,
                folder / "last" / "state.safetensors",
                trained(recipe),
                tuple((int(one.stem), one) for one in saved),
            )
        )
    return [
        replace(s, seeds=tuple(o for o in found if o is not s and _same_recipe(s, o)))
        for s in found
    ]


def trained(recipe: Recipe) -> dict:
    """What a comparison has to know of a recipe."""
    weights = {name: getattr(recipe, name) for name in LOSSES}
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "losses": weights,
        "steps": recipe.steps,
        "languages": list(recipe.languages),
        "mask_ratio": None if recipe.model.predicts_next else recipe.mask_ratio,
    }


def _same_recipe(a: Subject, b: Subject) -> bool:
    same = all(a.facts[name] == b.facts[name] for name in a.facts if name != "seed")
    return same and a.config == b.config


# ------------------------------------------------------------------------ of every kind


class Routes:
    """Keeps the routing of every pass of an evaluation, as its ``watch``."""

    def __init__(self, model: Transformer):
        self.moe_layers = model.moe_layers
        self.kept: list[list[Routing]] = [[] for _ in self.moe_layers]

    def __call__(self, run: Run) -> None:
        for those, one in zip(self.kept, run.routing, strict=True):
            those.append(one.on_host())

    def layers(self) -> list[LayerTrace]:
        """Of every MoE layer one trace of all passes end to end."""
        every = [Routing.joined(those).as_one() for those in self.kept]
        return [
            traces([layer], [routing], [{}])[0][0]
            for layer, routing in zip(self.moe_layers, every, strict=True)
        ]


def facts(subject: Subject, model: Transformer) -> dict:
    c, moe = model.config, model.config.moe
    return subject.facts | {
        **model.counts(),
        "kind": c.kind,
        "router": c.router,
        "gate": moe.gate if moe else "none",
        "score": moe.score if moe else "none",
        "shared": moe.shared if moe else 0,
        "projections": int(moe.projections) if moe else 0,
        "blocks": c.blocks,
        "d_model": c.d_model,
        "experts": moe.experts if moe else 0,
        "top_k": moe.top_k if moe else 0,
        "heads": c.heads,
        "d_ff": moe.d_ff if moe else c.d_ff,
        "weights": checkpoint.digest(checkpoint.weights(model)),
    }


def has_choice(model: Transformer) -> bool:
    """Whether its layers have experts to choose from: a single one is a dense layer."""
    moe = model.config.moe
    return moe is not None and moe.experts > 1


def of_routing(opened: Sequence[report.Routed]) -> dict:
    """What any layers in which tokens, or patches, choose their experts have to tell."""
    first = opened[0].layer
    entry = {
        "layers": [r.layer.layer for r in opened],
        "balance": [report.balanced(r) for r in opened],
        "activation": report.activation(opened),
    }
    if first.heads > 1:
        entry["diversity"] = [report.diverse(r) for r in opened]
    if first.top_k > 1:
        entry["coactivation"] = [report.pairs(r) for r in opened]
    return entry


def moments(
    subject: Subject, route: Route, device: torch.device | str = "cpu"
) -> list[list[LayerTrace]]:
    """The layers at every snapshot, and at the end."""
    paths = [path for _, path in subject.snapshots] + [subject.weights]
    return [route(subject.model(path, device)) for path in paths]


def over_time(subject: Subject, layers: list[list[LayerTrace]], group: np.ndarray) -> dict:
    """Saturation and fluctuation of each layer between ``moments``."""
    *earlier, final = layers
    steps = [step for step, _ in subject.snapshots]
    return {
        "steps": subject.facts["steps"],
        "at": steps,
        "tokens": final[0].sub_tokens // final[0].heads,
        "layers": [
            report.over_time(steps, [then[i].expert for then in earlier], r)
            for i, r in enumerate(report.opened(final, group))
        ],
    }


def other_seeds(
    subject: Subject, route: Route, group: np.ndarray, device: torch.device | str = "cpu"
) -> dict:
    """How alike this run and each other seed divide the same inputs. Raises MeasureError."""
    if find_spec("scipy") is None:
        raise MeasureError(
            "Seeds are compared with scipy, which is not installed: pip install scipy==1.17.1"
        )

    def layers(one: Subject) -> list[report.Routed]:
        return report.opened(route(one.model(device=device)), group)

    mine = layers(subject)
    return {
        "tokens": mine[0].tokens,
        "runs": {
            other.name: [report.alike(r, s) for r, s in zip(mine, layers(other), strict=True)]
            for other in subject.seeds
        },
    }


def relatives(
    subject: Subject,
    route: Route,
    group: np.ndarray,
    device: torch.device | str,
    say: Callable[[str], None],
) -> dict:
    """``over_time`` and ``other_seeds``, of a subject that has snapshots and seeds."""
    entry = {}
    if subject.snapshots:
        say(f"{subject.name}: {len(subject.snapshots)} snapshots")
        entry["over_time"] = over_time(subject, moments(subject, route, device), group)
    if subject.seeds:
        say(f"{subject.name}: against {len(subject.seeds)} other seeds")
        entry["other_seeds"] = other_seeds(subject, route, group, device)
    return entry


def affordable(model: Transformer, few: int) -> int:
    """Of ``few`` inputs those that are left when every expert is removed in turn: models with more
    than ``REMOVALS`` experts in all layers get fewer."""
    runs = model.config.moe.experts * len(model.moe_layers)
    return max(1, min(few, few * REMOVALS // runs))


def removed(model: Transformer, rise: Callable[[WhatIf, int], dict]) -> list[list[dict]]:
    """Per layer and expert what ``rise`` makes of the model without it, given the change and its
    block; the expert's sub-tokens go to their next best. Empty where there is none."""
    moe = model.config.moe
    if moe.assignment == TOKEN_CHOICE and moe.experts - 1 < moe.top_k:
        return []
    return [
        [rise(WhatIf(experts_off=(e,)), block) for e in range(moe.experts)]
        for block, _ in model.moe_layers
    ]
