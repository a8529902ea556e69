"""What evens out a router, on given scores: noise, losses and their gradients, a bias.

Everything here is the layers' own code (``mhmoe.layers``) on the scores [S, E] of one layer; no
model is run. Numpy in, numpy out, for pages and notebooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mhmoe.layers import MoEConfig, keep_top_k, losses, route, routers
from mhmoe.models.engine import Loaded
from mhmoe.trace import RoutingTrace

#: Draws that a picture can step through, and those that a frequency rests on.
SHOWN, DRAWS = 24, 1000


def learned_std(loaded: Loaded, trace: RoutingTrace, index: int) -> np.ndarray:
    """[S, E] std of the noise that a model with learned noise puts on its scores in training:
    Softplus(x W_noise) (Shazeer 2017, eq. 4), on the input that the trace recorded."""
    layer = loaded.model.moe_layers[index][1]
    x = torch.from_numpy(np.array(trace.layers[index].vectors["wide"])).to(loaded.device)
    with torch.inference_mode():
        return _host(routers.noise_std(layer.router, x.reshape(1, -1, layer.config.d_head))[0])


def fixed_std(scores_SE: np.ndarray) -> np.ndarray:
    """[S, E] 1/E everywhere: V-MoE's fixed noise."""
    return np.full(scores_SE.shape, 1 / scores_SE.shape[1], np.float32)


def first_std(scores_SE: np.ndarray) -> np.ndarray:
    """[S, E] of a router with learned noise before its first step, when W_noise is zero: ln 2."""
    return np.full(scores_SE.shape, np.log(2), np.float32)


@dataclass(frozen=True)
class Redrawn:
    """One sub-token's scores under noise of n scales, drawn again and again.

    noisy   [n, SHOWN, E] its scores in the first draws; chosen [n, SHOWN, K] its experts then
    share   [n, E] part of all draws in which each expert is among its K
    closed  [n, E] the same by eq. 9: Phi((clean_i - kth_excluding(H, k, i)) / std_i), mean of the
            draws
    moved   [n, SHOWN] sub-tokens of the whole layer whose experts differ from those without noise
    """

    noisy: np.ndarray
    chosen: np.ndarray
    share: np.ndarray
    closed: np.ndarray
    moved: np.ndarray


@torch.inference_mode()
def redraw(
    scores_SE: np.ndarray,
    std_SE: np.ndarray,
    row: int,
    top_k: int,
    scales: Sequence[float],
    seed: int = 0,
) -> Redrawn:
    """Every scale multiplies the same draws."""
    clean, std = torch.from_numpy(np.array(scores_SE)), torch.from_numpy(np.array(std_SE))
    E = clean.shape[1]
    found: dict[str, list[Tensor]] = {name: [] for name in Redrawn.__dataclass_fields__}
    calm = _members(clean, top_k)
    for scale in scales:
        one = clean[row].expand(DRAWS, -1)
        wide = scale * std[row].expand(DRAWS, -1)
        noisy = routers.noisy(one, wide, torch.Generator().manual_seed(seed))
        layer = clean.expand(SHOWN, -1, -1)
        rest = routers.noisy(layer, scale * std, torch.Generator().manual_seed(seed + 1))
        rest[:, row] = noisy[:SHOWN]
        chosen = keep_top_k(noisy, top_k)
        found["noisy"].append(noisy[:SHOWN])
        found["chosen"].append(chosen[:SHOWN])
        found["share"].append(losses.demand(chosen, E) / DRAWS)
        found["closed"].append(losses.smooth_load(one, noisy, wide, top_k) / DRAWS)
        found["moved"].append((_members(rest, top_k) != calm).any(-1).sum(-1))
    return Redrawn(**{name: torch.stack(values).numpy() for name, values in found.items()})


def _members(scores: Tensor, top_k: int) -> Tensor:
    """[..., E] True for the K chosen."""
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, keep_top_k(scores, top_k), True)


# --------------------------------------------------------------------------- who chooses whom


@torch.inference_mode()
def weights_under(method: str, scores_SE: np.ndarray, top_k: int) -> np.ndarray:
    """[S, E] weight of each expert for each sub-token under a row of ``METHODS``, 0 where they do
    not meet; Soft MoE's are those of the combining softmax, one slot per expert."""
    E = scores_SE.shape[1]
    given = None if method == "soft-moe" else min(top_k, E)
    config = MoEConfig(d_model=1, d_ff=1, experts=E, router=method, top_k=given)
    routing = route(torch.from_numpy(np.array(scores_SE))[None], config, with_places=True)
    if routing.combine is not None:
        return routing.combine[0].numpy()
    weight = torch.zeros(len(scores_SE), E + 1)  # the first column takes what is padding
    kept = torch.where(routing.kept[0], routing.gate[0], 0)
    return weight.scatter_add(1, routing.expert[0] + 1, kept)[:, 1:].numpy()


# --------------------------------------------------------------------------- pulled even

#: What pulls: Shazeer's importance loss, the same with the load loss, or no loss but a bias.
LOSSES, BIAS = ("importance", "both"), "bias"


@dataclass(frozen=True)
class Descent:
    """One number per expert, added to its score for all sub-tokens, on its way to balance.

    W strengths (weights of the loss, or steps of the bias), N steps after the start.
    added, importance, load, pull [W, N + 1, E]; pull is minus the gradient of the weighted loss by
    each expert's scores (by autograd), or the step that the bias takes next.
    """

    strengths: tuple[float, ...]
    added: np.ndarray
    importance: np.ndarray
    load: np.ndarray
    pull: np.ndarray


def descend(
    scores_SE: np.ndarray,
    top_k: int,
    convention: str,
    loss: str,
    strengths: Sequence[float],
    *,
    steps: int = 40,
    rate: float = 1.0,
) -> Descent:
    """Gradient descent of step size ``rate`` on w CV(importance)^2 ("importance"), on that plus
    w CV(load)^2 with the smooth load of noise 1/E ("both"); or b += u sign(mean load - load)
    ("bias", arXiv 2408.15664), which adds to the probabilities and only where experts are chosen.
    """
    E = scores_SE.shape[1]
    config = MoEConfig(d_model=1, d_ff=1, experts=E, top_k=top_k, gate=convention)
    scores = torch.from_numpy(np.array(scores_SE, np.float32))
    strength = torch.tensor(strengths, dtype=torch.float32)[:, None]
    added = torch.zeros(len(strengths), E)
    found: dict[str, list[Tensor]] = {"added": [], "importance": [], "load": [], "pull": []}
    for _ in range(steps + 1):
        if loss == BIAS:
            counted, pull = _by_bias(scores, added, strength, config)
            rate = 1.0
        else:
            counted, pull = _by_loss(scores, added, strength, config, loss)
        now = (added, counted.importance.detach(), counted.demand.float(), pull)
        for name, value in zip(found, now, strict=True):
            found[name].append(value)
        added = added + rate * pull
    arrays = {name: torch.stack(values, 1).numpy() for name, values in found.items()}
    return Descent(strengths=tuple(strengths), **arrays)


def _by_loss(
    scores: Tensor, added: Tensor, strength: Tensor, config: MoEConfig, loss: str
) -> tuple[losses.Sums, Tensor]:
    added = added.clone().requires_grad_(True)
    moved = scores + added[:, None]  # [W, S, E]
    counted = losses.sums(route(moved, config), config)
    value = losses.variation(counted.importance)
    if loss == "both":
        std = torch.full_like(moved, 1 / config.experts)
        smooth = losses.smooth_load(moved, moved.detach(), std, config.top_k)
        value = value + losses.variation(smooth)
    (slope,) = torch.autograd.grad((strength[:, 0] * value).sum(), added)
    return counted, -slope


def _by_bias(
    scores: Tensor, added: Tensor, strength: Tensor, config: MoEConfig
) -> tuple[losses.Sums, Tensor]:
    each = [
        losses.sums(route(scores[None], config, bias=bias), config) for bias in added
    ]  # the layer takes one bias at a time
    counted = losses.Sums(
        *(
            torch.cat([getattr(sums, name) for sums in each])
            for name in ("demand", "load", "importance")
        )
    )
    asked = counted.demand.float()
    return counted, strength * torch.sign(asked.mean(-1, keepdim=True) - asked)


# --------------------------------------------------------------------------- rounding


def rounded_softmax(scores_E: np.ndarray) -> tuple[float, float]:
    """The largest probability in float32, and after the scores were rounded to bfloat16."""
    exact = torch.from_numpy(np.array(scores_E, np.float32))
    coarse = exact.bfloat16().float()
    top = int(exact.argmax())
    return float(exact.softmax(-1)[top]), float(coarse.softmax(-1)[top])


def z_loss(scores_NE: np.ndarray) -> float:
    """Mean squared log-sum-exp (ST-MoE, eq. 5)."""
    return float(losses.z_loss(torch.from_numpy(np.array(scores_NE, np.float32))))


def _host(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
