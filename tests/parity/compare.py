"""Two layers, one input: how far apart their answers are, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import weights
from oracles import BATCH, TOKENS, WIDTH, Answer, Control, Oracle
from torch import Tensor, nn

from mhmoe.layers import MoELayer, Routing
from mhmoe.trace import SOFT

#: Largest difference over largest value of theirs; float32 sums in another order give about 3e-7.
TOLERANCE = 1e-5


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens() -> Tensor:
    """[B, T, D] the input of every comparison. The second sequence lies to one side, so that its
    experts overflow and sequences, taken one by one, lose more than the batch."""
    x = random(BATCH, TOKENS, WIDTH)
    x[1] += random(WIDTH, seed=2)
    return x.requires_grad_()


def build(oracle: Oracle, control: Control | None = None) -> tuple[nn.Module, MoELayer]:
    """Their layer, and ours with its weights; for a control, with its one deliberate change."""
    theirs = oracle.build()
    config, state = oracle.config, oracle.weights(theirs)
    if control is not None:
        config, state = replace(config, **control.changes), control.weights(state)
    layer = MoELayer(config)
    layer.load_state_dict(state)
    return theirs, layer


def answers(oracle: Oracle, theirs: nn.Module, layer: MoELayer, x: Tensor) -> tuple[Answer, Answer]:
    """What both say about x, with the same random numbers where some are drawn."""
    if oracle.seed is None:
        return oracle.run(theirs, x), ours(layer, x)
    torch.manual_seed(oracle.seed)  # they know no other generator than torch's own
    return oracle.run(theirs, x), ours(layer, x, torch.Generator().manual_seed(oracle.seed))


def ours(layer: MoELayer, x_BTD: Tensor, generator: torch.Generator | None = None) -> Answer:
    """The answer of a MoELayer in the form of the oracles'."""
    y, routing, _ = layer.run(x_BTD, generator=generator)
    if layer.config.assignment == SOFT:
        return Answer({"output": y, "slots": routing.dispatch.transpose(1, 2) @ x_BTD})
    return Answer({"output": y, "gates": gates(routing)}, layer.losses(routing))


def gates(routing: Routing) -> Tensor:
    """[B, S, E] weight of every expert in the output; zero if it was not chosen, or was full."""
    taken = routing.expert >= 0 if routing.kept is None else routing.kept
    return torch.zeros_like(routing.probs).scatter_add(
        -1, routing.expert.clamp_min(0), torch.where(taken, routing.gate, 0)
    )


def dropped(layer: MoELayer, x_BTD: Tensor) -> int:
    """How many choices found no place."""
    routing = layer.run(x_BTD)[1]
    return 0 if routing.kept is None else int((~routing.kept & (routing.expert >= 0)).sum())


def far(theirs: Tensor, our: Tensor) -> float:
    """max |theirs - ours| / max |theirs|; where theirs is all zero ours must be."""
    theirs, our = theirs.detach(), our.detach()
    return float((theirs - our).abs().max() / theirs.abs().max().clamp_min(1e-30))


def forward_errors(oracle: Oracle, theirs: Answer, our: Answer) -> dict[str, float]:
    """Output, gates (or slots) and losses, each theirs = factor * ours."""
    found = {name: far(part, our.parts[name]) for name, part in theirs.parts.items()}
    for name, loss in theirs.losses.items():
        found[name] = far(loss, oracle.loss_factor.get(name, 1) * our.losses[name])
    return found


def gradient_errors(
    oracle: Oracle, module: nn.Module, layer: MoELayer, x: Tensor, theirs: Answer, our: Answer
) -> dict[str, float]:
    """Of a random projection of the output, and of every loss, by x and all weights."""
    probe = random(*x.shape, seed=1)
    goals = {"output": [(answer.parts["output"] * probe).sum() for answer in (theirs, our)]}
    for name, loss in theirs.losses.items():
        goals[name] = [loss, oracle.loss_factor.get(name, 1) * our.losses[name]]
    found = {}
    for name, (a, b) in goals.items():
        from_theirs = gradients(a, x, module, oracle.weights)
        from_ours = gradients(b, x, layer, named)
        if name == "output":  # or else two silences would agree
            assert all(from_theirs[key].any() for key in from_ours)
        found |= {f"d {name} / d {key}": far(from_theirs[key], g) for key, g in from_ours.items()}
    return found


def gradients(
    goal: Tensor, x: Tensor, module: nn.Module, layout: Callable[..., dict[str, Tensor]]
) -> dict[str, Tensor]:
    """By our parameter names, and by ``x``."""
    x.grad = None
    module.zero_grad()
    goal.backward(retain_graph=True)
    return layout(module, weights.gradient) | {"x": x.grad.clone()}


def named(layer: MoELayer, get: weights.Get) -> dict[str, Tensor]:
    return {name: get(parameter) for name, parameter in layer.named_parameters()}
