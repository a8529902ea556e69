"""``python -m mhmoe bench train``: whole steps of training, each beside a dense model's.

ours   a step of a family's member as its recipe has it: forward, losses, backward, optimiser, on
       random tokens or patches, so that no data is needed
floor  a step of the family's dense member with an FFN so wide (``d_ff`` in the row's name) that a
       token costs as many multiplications as in ours

and the SMoE's step with bfloat16 autocast (emulated by processors without such instructions) and
with all of its model compiled but the experts, whose grouped products torch.compile takes in
bfloat16 alone, each beside the plain step in float32. Medians, interleaved; one thread unless asked
otherwise. Tokens per second are those of the medians; the goal, at least 0.6 of the dense model's,
is a ratio of at most 1 / 0.6 of the times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import count
from statistics import median

import torch

from mhmoe.bench import BenchUsage, Row, interleaved
from mhmoe.bench.layer import milliseconds
from mhmoe.training.recipe import Recipe
from mhmoe.training.step import Learner, hidden

SMOE = "text-e8"
MEMBERS = (
    SMOE,
    "text-e8-xmoe",
    "text-e16-fine",
    "text-e8-h2",
    "text-e8-h4",
    "text-e8-h8",
    "text-flops-h4",
    "image-e8-soft",
)
DENSE = {"text": "text-ffn", "image": "image-ffn"}
WAYS = ("bfloat16", "compiled")
GOAL = round(1 / 0.6, 3)  # for the SMoE, on a CPU
#: What a row has besides the fields of every bench's.
RATES = ("tokens_per_second", "floor_tokens_per_second")
#: No pair is timed for longer than this (but three rounds at least).
SECONDS = 90.0

#: One step of training.
Step = Callable[[], object]


def measure(
    names: Sequence[str] | None = None, runs: int = 15, threads: int = 1, device: str = "cpu"
) -> Iterator[dict]:
    """One row per member or way of computing, each as it is measured. Raises BenchUsage."""
    unknown = [name for name in names or () if name not in MEMBERS + WAYS]
    if unknown:
        raise BenchUsage(
            f"unknown {', '.join(map(repr, unknown))}; known are {', '.join(MEMBERS + WAYS)}"
        )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name in names or MEMBERS + WAYS:
            yield (way if name in WAYS else member)(name, runs, torch.device(device))
    finally:
        torch.set_num_threads(before)


def member(name: str, runs: int, device: torch.device) -> dict:
    """A member beside its dense model."""
    recipe = Recipe.load(name)
    dense = equal_cost(recipe)
    goal = GOAL if (name, device.type) == (SMOE, "cpu") else None
    said = f"{name}: dense, d_ff {dense.model.d_ff}"
    return _row(said, step_of(recipe, device), step_of(dense, device), goal, recipe, runs, device)


def way(name: str, runs: int, device: torch.device) -> dict:
    """The SMoE computed in another way, beside float32 as it is; empty where this machine cannot,
    for lack of a compiler."""
    recipe = Recipe.load(SMOE)
    if name == "bfloat16":
        ours = step_of(recipe, device, partial(torch.autocast, device.type, torch.bfloat16))
    else:
        ours = step_of(recipe, device, compiled=True)
    said = f"{SMOE}, {name}: float32"
    try:
        return _row(said, ours, step_of(recipe, device), None, recipe, runs, device)
    except RuntimeError as error:  # what torch's compilers raise
        said = f"{said} (not here: {type(error).__name__})"
        return Row(said, None).to_dict() | dict.fromkeys(RATES)


def equal_cost(recipe: Recipe) -> Recipe:
    """The family's dense member with as many multiplications per token, to the nearest width."""
    dense = Recipe.load(DENSE[recipe.data])
    shape = recipe.model
    width = round(shape.moe.macs_per_token / (2 * shape.d_model))
    return replace(dense, model=replace(dense.model, d_ff=width))


def step_of(
    recipe: Recipe,
    device: torch.device,
    around: Callable[[], AbstractContextManager] = nullcontext,
    compiled: bool = False,
) -> Step:
    """Steps of training on one random batch; ``around`` the forward pass and the task's loss."""
    learner, c = Learner(recipe, device), recipe.model
    if compiled:
        for _, layer in learner.model.moe_layers:
            layer.visit = torch.compiler.disable(layer.visit)
        learner.model.compile()
    generator = torch.Generator().manual_seed(0)
    if recipe.data == "text":
        ids = torch.randint(c.vocabulary, (recipe.batch, c.context), generator=generator)
        forward = partial(learner.text, ids.to(device))
    else:
        patches = torch.randn(recipe.batch, c.context, c.vocabulary, generator=generator)
        classes = torch.randint(c.classes, (recipe.batch,), generator=generator)
        batch = (part.to(device) for part in (patches, hidden(recipe, 0)))
        forward = partial(learner.pictures, *batch, classes=classes.to(device))
    noise, number = torch.Generator(device).manual_seed(0), count()

    def step() -> None:
        with around():
            task, run = forward(noise)
        learner.advance(next(number), task, run)

    return step


def _row(
    name: str,
    ours: Step,
    floor: Step,
    goal: float | None,
    recipe: Recipe,
    runs: int,
    device: torch.device,
) -> dict:
    actions = [partial(milliseconds, step, device) for step in (ours, floor)]
    interleaved(1, actions)  # what is built at the first step is not timed
    row = Row(name, *map(median, interleaved(runs, actions, SECONDS)), goal)
    tokens = recipe.batch * recipe.model.context
    rates = [round(1000 * tokens / ms) for ms in (row.ours_ms, row.floor_ms)]
    return row.to_dict() | dict(zip(RATES, rates, strict=True))
