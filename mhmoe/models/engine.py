"""From an input to traces: what the app, the command line and notebooks call.

Nothing here keeps state about a visitor; models are loaded once per device and only read.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from mhmoe.layers import METHODS, TRAINED, Method, MoEConfig, WhatIf, keep_top_k, losses, route
from mhmoe.layers.buffers import served
from mhmoe.layers.moe import traces
from mhmoe.models import checkpoint, metrics, tokenizer
from mhmoe.models.images import DecodedImage
from mhmoe.models.patches import to_patches
from mhmoe.models.transformer import Run, Transformer
from mhmoe.trace import ImageInput, Input, PairInput, RoutingTrace, Source, TextInput

Result = TypeVar("Result")

#: Set once a GPU had no memory left and the CPU computed instead; app and command line say so.
FELL_BACK = threading.Event()


class InputProblem(ValueError):
    """An input that cannot be routed; ``code`` names the sentence, ``numbers`` fill it."""

    def __init__(self, code: str, message: str, **numbers):
        super().__init__(message)
        self.code, self.numbers = code, numbers


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model ready to run. ``trained`` is False for a layer that was built, not learned."""

    name: str
    model: Transformer
    card: dict
    trained: bool = True

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def source(self) -> Source:
        return Source(name=self.name, sha256=self.card["sha256"])


@lru_cache(maxsize=16)
def load(name: str, device: torch.device | str = "cpu", step: int | None = None) -> Loaded:
    """A shipped model, or its snapshot of a step, read once. Raises checkpoint.CheckpointError."""
    model, card = checkpoint.load(name, device, step)
    return Loaded(name, model, card)


@lru_cache(maxsize=8)
def variant(
    name: str, heads: int, experts: int, seed: int = 0, device: torch.device | str = "cpu"
) -> Loaded:
    """A shipped plain SMoE with MoE layers of another shape, freshly initialised: untrained.

    Everything else keeps its trained weights. Experts are as wide as the shipped ones, and heads
    follow the parameter-matched sizing.
    """
    base = load(name, device)
    config = base.model.config
    plain = replace(config.moe, experts=experts, top_k=min(config.moe.top_k, experts))
    moe = plain.matched(heads) if heads > 1 else plain
    model = Transformer(replace(config, moe=moe), seed)
    own = {k: v for k, v in base.model.state_dict().items() if ".ffn." not in k}
    model.load_state_dict(own, strict=False)
    return Loaded(
        f"{name} h={heads} E={experts}",
        model.to(device).eval(),
        base.card | {"sha256": "", "trained": False} | model.counts(),
        trained=False,
    )


def on_device(work: Callable[[torch.device], Result], device: torch.device) -> Result:
    """work(device), or work(CPU) when the device has no memory left; then FELL_BACK is set."""
    try:
        return work(device)
    except torch.OutOfMemoryError:
        FELL_BACK.set()
    return work(torch.device("cpu"))  # outside the handler, which would keep the tensors alive


def trace_text(
    loaded: Loaded, text: str, what_if: WhatIf = TRAINED, *, vectors: bool = False
) -> list[RoutingTrace]:
    """One trace per capacity factor in ``what_if`` (one if there is none).

    The whole model runs for every value. Text beyond the context is left out: compare
    ``trace.input.text`` with what was given. Raises InputProblem for blank text.
    """
    ids, source = encode(loaded, text)
    copies = max(1, len(what_if.capacity_factors))
    inputs = torch.tensor([ids] * copies, device=loaded.device)
    run = _forward(loaded, (inputs,), what_if, vectors)
    nats = None
    if loaded.model.config.causal:
        nats = np.full((copies, len(ids)), np.nan, np.float32)
        nats[:, 1:] = metrics.token_nats(run.output, inputs).cpu().numpy()
    return _traces(loaded, run, source, nats, vectors)


def trace_image(
    loaded: Loaded, image: DecodedImage, what_if: WhatIf = TRAINED, *, vectors: bool = False
) -> list[RoutingTrace]:
    """One trace per capacity factor; no patch is hidden. Row s = patch * heads + head."""
    config = loaded.model.config
    patches = to_patches(image.pixels[None], config.patch).to(loaded.device)
    copies = max(1, len(what_if.capacity_factors))
    run = _forward(loaded, (patches.expand(copies, -1, -1),), what_if, vectors)
    source = ImageInput(grid=(config.grid, config.grid), patch=config.patch, crop=image.crop)
    return _traces(loaded, run, source, None, vectors)


def read_image(
    loaded: Loaded, image: DecodedImage, what_if: WhatIf = TRAINED
) -> tuple[list[RoutingTrace], np.ndarray | None]:
    """As ``trace_image``, and [values, classes] the probability of each class of the whole
    picture; None where the model has no classes."""
    config = loaded.model.config
    patches = to_patches(image.pixels[None], config.patch).to(loaded.device)
    copies = max(1, len(what_if.capacity_factors))
    run = _forward(loaded, (patches.expand(copies, -1, -1),), what_if, False)
    source = ImageInput(grid=(config.grid, config.grid), patch=config.patch, crop=image.crop)
    classes = None if run.classes is None else _host(run.classes.softmax(-1))
    return _traces(loaded, run, source, None, False), classes


@dataclass(frozen=True, eq=False)
class Embedding:
    """How an image model takes in a picture: patches [T, V], embedded [T, D] = patches @ filters.T
    + bias, filters [D, V], position [T, D], added to it."""

    patches: np.ndarray
    embedded: np.ndarray
    filters: np.ndarray
    position: np.ndarray


@torch.inference_mode()
def embed_image(loaded: Loaded, image: DecodedImage) -> Embedding:
    model = loaded.model
    patches = to_patches(image.pixels[None], model.config.patch).to(loaded.device)
    return Embedding(
        patches=_host(patches[0]),
        embedded=_host(model.embed(patches)[0]),
        filters=_host(model.embed.weight),
        position=_host(model.position),
    )


def trace_pair(
    loaded: Loaded,
    text: str,
    image: DecodedImage,
    what_if: WhatIf = TRAINED,
    *,
    vectors: bool = False,
) -> list[RoutingTrace]:
    """A picture and its caption in one sequence, patches first; otherwise as ``trace_image``.
    Raises InputProblem for blank text."""
    config = loaded.model.config
    ids, caption = encode(loaded, text)
    patches = to_patches(image.pixels[None], config.patch).to(loaded.device)
    copies = max(1, len(what_if.capacity_factors))
    inputs = (
        patches.expand(copies, -1, -1),
        torch.tensor([ids] * copies, device=loaded.device),
    )
    run = _forward(loaded, inputs, what_if, vectors)
    picture = ImageInput(grid=(config.grid, config.grid), patch=config.patch, crop=image.crop)
    source = PairInput(picture=picture, caption=caption)
    return _traces(loaded, run, source, None, vectors)


def encode(loaded: Loaded, text: str) -> tuple[list[int], TextInput]:
    """Token ids and the word map, cut to the model's context. Raises InputProblem."""
    if not text.strip():
        raise InputProblem(
            "blank", "There is no text to route: type at least one character that is not a space."
        )
    bpe = checkpoint.load_tokenizer()
    config = loaded.model.config
    return tokenizer.encode(bpe, text, config.caption or config.context)


def count_tokens(text: str) -> int:
    """Tokens of the whole text, whatever part of it a model can use."""
    return len(checkpoint.load_tokenizer().encode(text).ids)


# ----------------------------------------------------------- one layer opened, and reruns


@dataclass(frozen=True, eq=False)
class OpenedLayer:
    """One MoE layer on the frozen input that a trace recorded, with what routing left out.

    sub         [S, D/H]     what the router and the experts read
    router      [E, D/H]     the router's weights, one row per expert
    expert_out  [S, E, D/H]  the output of every expert, chosen or not
    merge       [D, D]       the merge layer, y = merge @ combined; None where there is none
    macs        [E]          multiplications per token of this layer with k = 1..E
    hidden      F            neurons of one expert
    parameters  weights by part: router, expert (one), layer, block, model
    """

    sub: np.ndarray
    router: np.ndarray
    expert_out: np.ndarray
    merge: np.ndarray | None
    macs: np.ndarray
    hidden: int
    parameters: dict[str, int]


def open_layer(loaded: Loaded, trace: RoutingTrace, index: int) -> OpenedLayer:
    """The ``index``-th MoE layer of a trace that was made with ``vectors=True``."""
    block, layer = loaded.model.moe_layers[index]
    c = layer.config
    x = torch.from_numpy(np.array(trace.layers[index].vectors["x"])).to(loaded.device)
    with torch.inference_mode():
        wide = layer.head(x) if c.projections else x
        sub = wide.reshape(-1, c.d_head)
        every = torch.arange(c.experts, device=sub.device).expand(len(sub), -1)
        out = layer.experts(sub, every)
    return OpenedLayer(
        sub=_host(sub),
        router=_host(layer.router.weight),
        expert_out=_host(out),
        merge=_host(layer.merge.weight) if c.projections else None,
        macs=np.array([replace(c, top_k=k).macs_per_token for k in range(1, c.experts + 1)]),
        hidden=c.d_ff,
        parameters={
            "router": layer.router.weight.numel(),
            "expert": 2 * c.d_head * c.d_ff,
            "layer": c.parameters,
            "block": sum(p.numel() for p in loaded.model.blocks[block].parameters()),
            "model": sum(p.numel() for p in loaded.model.parameters()),
        },
    )


@dataclass(frozen=True)
class UnderMethod:
    """What one method of the literature does with given scores; over S sub-tokens.

    load     [E] choices kept (Soft MoE: how much the sub-tokens read from each expert)
    choices  per sub-token, before capacity; dropped: the share of them that found no place
    gate     mean over the sub-tokens of the sum of their kept gates
    """

    load: np.ndarray
    choices: float
    dropped: float
    gate: float


def under_methods(logits: np.ndarray, top_k: int) -> dict[str, UnderMethod | None]:
    """[S, E] scores of one layer under every row of ``METHODS``, as one sequence, without the
    random parts. K is the method's own, but at most ``top_k``; None where the scores themselves
    would need other weights (X-MoE's cosines, normalised Soft MoE)."""
    scores = torch.from_numpy(np.array(logits))[None]
    return {key: _under(method, scores, top_k) for key, method in METHODS.items()}


def _under(method: Method, scores: torch.Tensor, top_k: int) -> UnderMethod | None:
    S, E = scores.shape[1:]
    own = method.position("top_k")
    config = MoEConfig(
        d_model=1,
        d_ff=1,
        experts=E,
        router=method.key,
        top_k=None if own == "all" else min(own, top_k, E),
    )
    if config.cosine != "none" or config.normalised:
        return None
    routing = route(scores, config, with_places=True)
    sums = losses.sums(routing, config)
    if routing.expert is None:  # every sub-token reads from all slots, and the shares are 1
        return UnderMethod(_host(sums.importance[0]), float(E), 0.0, 1.0)
    asked, took = float(sums.demand.sum()), float(sums.load.sum())
    gate = torch.where(routing.kept, routing.gate, 0).sum(-1)
    return UnderMethod(
        load=_host(sums.load[0]),
        choices=asked / S,
        dropped=1 - took / asked if asked else 0.0,
        gate=float(gate.mean()),
    )


# ------------------------------------------------------------------ full experts: who stays

#: Four answers to "an expert is full": the rows of METHODS whose papers give them. Only what
#: decides about places is taken from a row: how many choices, who is served first, and whether
#: a choice that is turned away may ask elsewhere.
POLICIES = {
    "drop": "switch",
    "two": "gshard",
    "reroute": "no-token-left-behind",
    "priority": "v-moe-priority",
}


@dataclass(frozen=True, eq=False)
class Filled:
    """Given scores under one policy, once for each of n capacity factors.

    top_k       K, of the policy
    capacity    n times C, the places of every expert; None is unlimited
    order       [S] sub-tokens in the order in which they are served
    ranked      [S, E] experts, best first; the first K are what a sub-token wants
    probs       [S, E]
    expert      [n, S, K] -1 where re-routing found nothing; slot -1 and kept False without place
    gate        [n, S, K] weight of each choice before the drop
    """

    top_k: int
    capacity: tuple[int | None, ...]
    order: np.ndarray
    ranked: np.ndarray
    probs: np.ndarray
    expert: np.ndarray
    slot: np.ndarray
    kept: np.ndarray
    gate: np.ndarray


def _placing(policy: str, experts: int) -> dict:
    """The switches of :data:`POLICIES` that decide about places."""
    method = METHODS[POLICIES[policy]]
    return {
        "top_k": min(method.position("top_k"), experts),
        "order": method.position("order"),
        "overflow": method.position("overflow"),
    }


def fill(logits: np.ndarray, policy: str, factors: Sequence[float | None]) -> Filled:
    """[S, E] scores of one layer, as one sequence, placed by ``policy`` at every factor."""
    E = logits.shape[1]
    config = MoEConfig(d_model=1, d_ff=1, experts=E, **_placing(policy, E))
    scores = torch.from_numpy(np.array(logits))[None]
    routing = route(
        scores.expand(len(factors), -1, -1),
        config,
        WhatIf(capacity_factors=tuple(factors)),
        with_places=True,
    )
    order = served(config.order, routing.probs[:1], 0)
    return Filled(
        top_k=config.top_k,
        capacity=routing.capacity,
        order=np.arange(len(logits)) if order is None else order.numpy(),
        ranked=keep_top_k(scores[0], E).numpy(),
        probs=_host(routing.probs[0]),
        expert=routing.expert.numpy(),
        slot=routing.slot.numpy(),
        kept=routing.kept.numpy(),
        gate=_host(routing.gate),
    )


def bits_by_policy(
    loaded: Loaded, text: str, policy: str, factors: Sequence[float | None]
) -> np.ndarray:
    """[n] bits per byte of a text if every layer placed its choices by ``policy`` at each factor,
    the whole model run for every one; NaN for a single token."""
    ids, source = encode(loaded, text)
    size = sum(t.span[1] - t.span[0] for t in source.tokens[1:])
    if not size:
        return np.full(len(factors), np.nan)
    placing = _placing(policy, loaded.model.config.moe.experts)
    model = _overflowing(loaded.model, placing.pop("overflow"))
    inputs = torch.tensor([ids] * len(factors), device=loaded.device)
    with torch.inference_mode():
        output = model(inputs, what_if=WhatIf(capacity_factors=tuple(factors), **placing)).output
        nats = metrics.token_nats(output, inputs).sum(1)
    return _host(nats).astype(np.float64) / np.log(2) / size


def _overflowing(model: Transformer, overflow: str) -> Transformer:
    """The same weights, shared, in layers where a full expert does as ``overflow`` says."""
    if model.config.moe.overflow == overflow:
        return model
    weights = {id(value): value for value in (*model.parameters(), *model.buffers())}
    other = copy.deepcopy(model, weights)
    for _, layer in other.moe_layers:
        layer.config = replace(layer.config, overflow=overflow)
    return other


@dataclass(frozen=True, eq=False)
class Pushes:
    """The balance loss of N first choices while the scores of one expert are shifted for all.

    Axis 0 is the expert that is shifted, axis 1 the shift.
    expert   [E, n, N] first choices       mean   [E, n, E] P, mean probabilities
    balance  [E, n] the loss, unweighted   slope  [E, n, E] its derivative by a shift of each
                                                  expert's scores, from autograd
    """

    shifts: np.ndarray
    expert: np.ndarray
    mean: np.ndarray
    balance: np.ndarray
    slope: np.ndarray


def push_scores(logits: np.ndarray, shifts: np.ndarray) -> Pushes:
    """[N, E] scores, K = 1 as in Switch, under every shift of every expert."""
    E = logits.shape[1]
    shift = torch.as_tensor(np.array(shifts), dtype=torch.float32)
    step = torch.eye(E)[:, None] * shift[None, :, None]  # [E, n, E]
    step.requires_grad_(True)
    scores = torch.from_numpy(np.array(logits, np.float32)) + step[..., None, :]  # [E, n, N, E]
    expert = keep_top_k(scores.detach(), 1)
    mean = losses.mean(scores.softmax(-1), None)
    loss = losses.balance(mean, losses.demand(expert, E))
    (slope,) = torch.autograd.grad(loss.sum(), step)
    return Pushes(
        shifts=np.asarray(shifts),
        expert=expert[..., 0].numpy(),
        mean=_host(mean),
        balance=_host(loss),
        slope=_host(slope),
    )


def neurons(loaded: Loaded, index: int, expert: int, row: np.ndarray) -> np.ndarray:
    """[F] activations of one expert's neurons for one sub-token."""
    experts = loaded.model.moe_layers[index][1].experts
    with torch.inference_mode():
        x = torch.from_numpy(np.array(row)).to(loaded.device)
        return _host(experts.activation(x @ experts.w_in[expert]))


def bits_by_k(loaded: Loaded, text: str) -> np.ndarray:
    """[E] bits per byte of a text if every layer used k = 1..E; NaN for a single token."""
    ids, source = encode(loaded, text)
    size = sum(t.span[1] - t.span[0] for t in source.tokens[1:])
    if not size:
        return np.full(loaded.model.config.moe.experts, np.nan)
    inputs = torch.tensor([ids], device=loaded.device)
    with torch.inference_mode():
        outputs = (
            loaded.model(inputs, what_if=WhatIf(top_k=k)).output
            for k in range(1, loaded.model.config.moe.experts + 1)
        )
        totals = [float(metrics.token_nats(output, inputs).sum()) for output in outputs]
    return np.array(totals) / np.log(2) / size


def next_without(
    loaded: Loaded, text: str, index: int, position: int, experts: Sequence[int]
) -> np.ndarray:
    """[1 + len(experts), V] probabilities of the token after ``position``.

    Row 0 is the model as trained; row i the whole model run again on the whole text with
    experts[i - 1] switched off in the ``index``-th MoE layer, so that all sub-tokens which
    chose it there take their next best expert instead.
    """
    ids, _ = encode(loaded, text)
    block = loaded.model.moe_layers[index][0]
    inputs = torch.tensor([ids], device=loaded.device)
    changes = [TRAINED, *(WhatIf(experts_off=(e,)) for e in experts)]
    with torch.inference_mode():
        rows = [
            loaded.model(inputs, what_if=change, only_block=block).output[0, position].softmax(-1)
            for change in changes
        ]
        return _host(torch.stack(rows))


def spell(token: int) -> str:
    """The text of a token id."""
    return tokenizer.spell(checkpoint.load_tokenizer(), token)


def _host(values: torch.Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


def evaluate_text(loaded: Loaded, text: str) -> dict:
    """bits_per_byte, perplexity, tokens, bytes over non-overlapping full windows; an encoder's
    are those of tokens hidden as in its training.

    Raises InputProblem for a text that does not fill one.
    """
    bpe = checkpoint.load_tokenizer()
    size = loaded.model.config.context
    ids = np.asarray(bpe.encode(text).ids, np.int32)
    if len(ids) < size:
        raise InputProblem(
            "short",
            f"The text has {len(ids)} tokens; a full window of {size} is "
            "needed to evaluate. Give more text.",
            tokens=len(ids),
            window=size,
        )
    windows = ids[: len(ids) // size * size].reshape(-1, size)
    ratio = (
        {} if loaded.model.config.causal else {"mask_ratio": loaded.card["recipe"]["mask_ratio"]}
    )
    return metrics.text_metrics(loaded.model, windows, tokenizer.byte_sizes(bpe), **ratio)


def evaluate_images(loaded: Loaded, pictures: Sequence[DecodedImage]) -> dict:
    """Masked-patch error and the mean-colour baseline, fixed mask seed."""
    stack = np.stack([p.pixels for p in pictures])
    return metrics.image_metrics(loaded.model, stack)


def evaluate_scenes(loaded: Loaded, pictures: np.ndarray, classes: np.ndarray) -> dict:
    """The same of generated pictures [N, side, side, 3] uint8; where the model has classes, also
    how many of the whole pictures get theirs [N]."""
    numbers = metrics.image_metrics(loaded.model, pictures)
    if loaded.model.config.classes:
        numbers |= metrics.class_metrics(loaded.model, pictures, classes)
    return numbers


def evaluate_pairs(loaded: Loaded, pictures: np.ndarray, texts: Sequence[str]) -> dict:
    """Hidden patches [N, side, side, 3] uint8 beside whole captions, and hidden tokens of captions
    beside whole pictures."""
    bpe = checkpoint.load_tokenizer()
    captions = tokenizer.filled(bpe, texts, loaded.model.config.caption)
    return metrics.pair_metrics(loaded.model, pictures, *captions, tokenizer.byte_sizes(bpe))


def _forward(
    loaded: Loaded, inputs: tuple[torch.Tensor, ...], what_if: WhatIf, vectors: bool
) -> Run:
    with torch.inference_mode():  # gradient mode is per thread, so it is set here
        return loaded.model(*inputs, what_if=what_if, with_places=True, with_vectors=vectors)


@torch.inference_mode()
def _traces(
    loaded: Loaded,
    run: Run,
    source: Input,
    nats: np.ndarray | None,
    vectors: bool,
) -> list[RoutingTrace]:
    layers = loaded.model.moe_layers
    per_layer = traces(layers, run.routing, run.vectors if vectors else [{}] * len(layers))
    return [
        RoutingTrace(
            source=loaded.source,
            input=source,
            heads=loaded.model.config.heads,
            layers=tuple(layer[b] for layer in per_layer),
            nats=None if nats is None else nats[b],
        )
        for b in range(len(run.output))
    ]


def read_text(path: Path) -> str:
    """A UTF-8 file, undecodable bytes replaced. Raises InputProblem with the reason."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise InputProblem("unreadable", f"{path} cannot be read: {error.strerror}.") from None
