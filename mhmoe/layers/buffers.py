"""Places: how many each expert has, who stands where in its queue, and who must go on asking."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mhmoe.layers.config import MoEConfig, WhatIf

#: How a number of places becomes whole.
ROUNDING = {
    "ceil": math.ceil,
    "floor": math.floor,
    "nearest": lambda places: math.floor(places + 0.5),
    "share": math.floor,
}


def capacity(
    factor: float | None,
    top_k: int,
    sub_tokens: int,
    experts: int,
    *,
    rounding: str = "ceil",
    multiple: int = 1,
    minimum: int = 0,
) -> int | None:
    """C = ceil(CF * K * S / E) places per expert and group; None is unlimited.

    rounding  "ceil"; "floor" (Mesh-TensorFlow); "nearest" (V-MoE's text); "share": floor(CF * K
              * ceil(S / E)) (torchscale, tutel)
    multiple  C is raised to a multiple of it (V-MoE's code: 4)
    minimum   at least so many (Mesh-TensorFlow: 4)
    """
    if factor is None:
        return None
    share = -(-sub_tokens // experts) if rounding == "share" else sub_tokens / experts
    # rounding first: 0.28 * 2 * 100 / 4 is 14.000000000000002 in floating point, not 15 places
    exact = round(factor * top_k * share, 9)
    places = ROUNDING[rounding]
    return max(minimum, -(-places(exact) // multiple) * multiple)


@dataclass(frozen=True)
class Rooms:
    """Who shares places with whom: groups of sub-tokens, with C places per expert in each.

    group   [B, S] the group of each sub-token; None: its sequence
    bound   [B, S] C of that group, or one C for all; None is unlimited
    before  [B, S] places in earlier groups of the same sequence, from which a trace counts on
    limits  per sequence: places per expert in all of its groups; None is unlimited
    """

    limits: tuple[int | None, ...]
    bound: Tensor | int | None = None
    group: Tensor | None = None
    before: Tensor | None = None


def rooms(
    shape: tuple[int, int],
    top_k: int,
    config: MoEConfig,
    what_if: WhatIf,
    mask: Tensor | None,
    device: torch.device,
) -> Rooms:
    """The groups of a batch of [B, S] sub-tokens; padding (mask False) needs no place, and experts
    that are off leave theirs to the others: E counts those that are open.

    Raises ValueError for capacity factors that do not fit the batch.
    """
    B, S = shape
    factors = what_if.capacity_factors or (config.capacity_factor,)
    if len(factors) not in (1, B):
        raise ValueError(f"{len(factors)} capacity factors were given for {B} sequences")
    if all(factor is None for factor in factors):
        return Rooms((None,) * B)
    if mask is None and config.group == "sequence" and len(factors) == 1:
        C = _capacity(config, what_if, factors[0], top_k, S)
        return Rooms((C,) * B, C)
    if config.group == "batch":
        if len(set(factors)) > 1:
            raise ValueError(f"a batch that shares its places has one capacity factor: {factors}")
        factors, per = factors[:1], 1
        group = torch.zeros(B, S, dtype=torch.long, device=device)
    else:
        factors = factors * B if len(factors) == 1 else factors
        size = max(1, S if config.group == "sequence" else config.group)
        per = max(1, -(-S // size))
        piece = torch.arange(S, device=device) // size
        group = torch.arange(B, device=device)[:, None] * per + piece
    return _shared(group, per, factors, top_k, config, what_if, mask)


def _shared(
    group: Tensor,
    per: int,
    factors: tuple[float | None, ...],
    top_k: int,
    config: MoEConfig,
    what_if: WhatIf,
    mask: Tensor | None,
) -> Rooms:
    """Rooms of ``per`` groups a sequence; a group's capacity follows its real sub-tokens."""
    real = group.flatten() if mask is None else group[mask]
    sizes = torch.bincount(real, minlength=len(factors) * per).tolist()
    each = [_capacity(config, what_if, factors[g // per], top_k, n) for g, n in enumerate(sizes)]
    endless = group.numel() * top_k + 1
    bound = torch.tensor([endless if c is None else c for c in each], device=group.device)
    before = bound.view(-1, per).cumsum(1).flatten() - bound
    limits = [None if each[g] is None else sum(each[g : g + per]) for g in range(0, len(each), per)]
    shared_by = len(group) // len(limits)
    return Rooms(tuple(limits * shared_by), bound[group], group, before[group])


def _capacity(
    config: MoEConfig, what_if: WhatIf, factor: float | None, top_k: int, n: int
) -> int | None:
    return capacity(
        factor,
        top_k,
        n,
        max(1, config.experts - len(set(what_if.experts_off))),
        rounding=config.capacity_rounding,
        multiple=config.capacity_multiple,
        minimum=config.capacity_minimum,
    )


def places(
    expert: Tensor, experts: int, group: Tensor | None = None, order: Tensor | None = None
) -> Tensor:
    """[B, S, K] rank of each choice in its expert's queue: all first choices in order of
    position, then all second choices, ... (GShard, algorithm 1; V-MoE). Padding (-1) stands in a
    queue of its own.

    group  [B, S] who shares queues; default: the sequence
    order  [B*S] sub-tokens in the order in which they are served; default: by position
    """
    B, S, K = expert.shape
    queue = expert
    if group is not None or B > 1:
        if group is None:
            group = torch.arange(B, device=expert.device)[:, None]
        queue = queue + group[..., None] * (experts + 1)
    queue = queue.reshape(B * S, K)
    if order is None:
        rank = rank_among_equals(queue.t().flatten()).view(K, B * S).t()
    else:
        ranked = rank_among_equals(queue[order].t().flatten()).view(K, B * S).t()
        rank = torch.empty_like(queue).index_copy_(0, order, ranked)
    return rank.reshape(B, S, K)


def rank_among_equals(key: Tensor) -> Tensor:
    """[n] how many equal keys stand before each: 5 7 5 5 7 -> 0 0 1 2 1."""
    ordered, order = torch.sort(key, stable=True)
    start = torch.searchsorted(ordered, ordered)
    return torch.empty_like(key).scatter_(
        0, order, torch.arange(len(key), device=key.device) - start
    )


def served(order: str, probs: Tensor, seed: int) -> Tensor | None:
    """[B, S, E] -> [B*S] sub-tokens in an order of ``mhmoe.layers.config.ORDERS``; None is by
    position."""
    if order == "priority":
        return by_priority(probs)
    if order == "random":
        return by_chance(probs.shape[:2], seed).to(probs.device)
    return None


def by_chance(shape: tuple[int, int], seed: int) -> Tensor:
    """[B*S] all sub-tokens of [B, S] in an order that has nothing to do with them."""
    return torch.randperm(shape[0] * shape[1], generator=torch.Generator().manual_seed(seed))


def by_priority(probs: Tensor) -> Tensor:
    """[B, S, E] -> [B*S] sub-tokens by their largest probability, largest first, ties by position:
    the order of Batch Priority Routing (V-MoE, arXiv 2106.05974, section 4 and released code).

    Before any renormalisation, as V-MoE and torchscale do: a single renormalised gate is always 1.
    """
    return torch.sort(probs.amax(-1).flatten(), descending=True, stable=True).indices


def cascade(
    ranked: Tensor, top_k: int, room: Rooms, order: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Every sub-token asks its experts from the best down until K have taken it.

    ranked [B, S, E] experts, best first, -1 for none -> expert, slot [B, S, K], -1 where nobody
    had room. In round r all that still look ask their r-th best; so first choices are served
    before second ones, and nobody displaces anybody (No-Token-Left-Behind, Switch, appendix B).
    """
    B, S, E = ranked.shape
    expert = ranked.new_full((B, S, top_k + 1), -1)  # the last column catches what is not granted
    slot, found = expert.clone(), ranked.new_zeros(B, S)
    group = room.group
    if group is None:
        group = torch.arange(B, device=ranked.device)[:, None].expand(B, S)
    used = ranked.new_zeros(B * max(1, S) * E)  # there are at most as many groups as sub-tokens
    for r in range(E):
        ask = torch.where(found < top_k, ranked[..., r], -1)
        if not (ask >= 0).any():
            break
        desk = group * E + ask.clamp_min(0)
        place = places(ask[..., None], E, group, order)[..., 0] + used[desk]
        granted = ask >= 0 if room.bound is None else (ask >= 0) & (place < room.bound)
        column = torch.where(granted, found, top_k)[..., None]
        expert.scatter_(-1, column, ask[..., None])
        slot.scatter_(-1, column, place[..., None])
        found = found + granted
        used = used.index_add(0, desk.flatten(), granted.flatten().to(used.dtype))
    return expert[..., :top_k], slot[..., :top_k]
