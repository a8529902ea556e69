"""Choice: given the scores of S sub-tokens for E experts, who goes where with what weight.

Pure functions, the same for every method; the switches of ``MoEConfig`` say which parts act.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mhmoe.layers import buffers
from mhmoe.layers.config import TRAINED, ConfigError, MoEConfig, WhatIf
from mhmoe.layers.routers import MASKED, Routing, full, uniform
from mhmoe.layers.soft import soft
from mhmoe.trace import EXPERT_CHOICE, GATES, SOFT

TINY = torch.finfo(torch.float32).tiny


def route(
    logits: Tensor,
    config: MoEConfig,
    what_if: WhatIf = TRAINED,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    generator: torch.Generator | None = None,
    with_places: bool = False,
) -> Routing:
    """Scores [B, S, E] (Soft MoE: [B, S, E*P]) -> decisions.

    mask         [B, S] True for real sub-tokens; padding chooses no expert and uses no place
    bias         [E] added for the choice alone (loss-free balancing)
    generator    for a random second expert; without one every choice is deterministic
    with_places  compute slots also when nothing can be dropped (a trace wants them)
    """
    what_if.check(config.experts)
    logits = full(logits)
    if config.assignment == SOFT:
        return soft(logits, config, what_if, mask)
    if what_if.temperature != 1:
        logits = logits / what_if.temperature
    if what_if.experts_off:
        off = torch.tensor(what_if.experts_off, device=logits.device)
        logits = logits.index_fill(-1, off, MASKED)
    probs = logits.sigmoid() if config.score == "sigmoid" else logits.softmax(-1)
    if config.assignment == EXPERT_CHOICE:
        return expert_choice(logits, probs, config, what_if, mask)
    return token_choice(logits, probs, config, what_if, mask, bias, generator, with_places)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """[..., K] indices of the k largest scores, best first; ties go to the lower index.

    (``torch.topk`` does not say which of equals it takes.) Among many experts k rounds of "who
    is largest?" are several times faster than sorting all of them.
    """
    if k == 1:
        return logits.max(-1, keepdim=True).indices
    if k <= 8 and logits.shape[-1] > 16:
        return _largest_in_turn(logits, k)
    return torch.sort(logits, dim=-1, descending=True, stable=True).indices[..., :k]


def _largest_in_turn(logits: Tensor, k: int) -> Tensor:
    rest = logits.detach().clamp_min(MASKED)  # above -inf, which marks what is taken
    found = [rest.max(-1, keepdim=True).indices]
    while len(found) < k:
        rest.scatter_(-1, found[-1], -torch.inf)
        found.append(rest.max(-1, keepdim=True).indices)
    return torch.cat(found, -1)


def gates(logits: Tensor, probs: Tensor, expert: Tensor, convention: str) -> Tensor:
    """[..., K] weights of the chosen experts under a convention of ``mhmoe.trace.GATES``."""
    if convention not in GATES:
        raise ConfigError(f"gate {convention!r} is none of {', '.join(GATES)}")
    if convention == "topk-softmax":
        return logits.gather(-1, expert).softmax(-1)
    gate = probs.gather(-1, expert)
    if convention == "renormalised":
        return gate / gate.sum(-1, keepdim=True).clamp_min(TINY)
    return gate


# ---------------------------------------------------------------------------- tokens choose


def token_choice(
    logits: Tensor,
    probs: Tensor,
    config: MoEConfig,
    what_if: WhatIf,
    mask: Tensor | None,
    bias: Tensor | None,
    generator: torch.Generator | None,
    with_places: bool,
) -> Routing:
    """Each sub-token takes its K best experts: choose, weigh, give up some second choices, leave
    out padding and experts that are off, find places."""
    K = config.top_k if what_if.top_k is None else what_if.top_k
    rank_by = preference(logits, probs, config, bias)
    ranked = keep_top_k(rank_by, config.experts if config.overflow == "reroute" else K)
    expert = ranked[..., :K]
    gate = gates(logits, probs, expert, config.gate)
    if config.second != "all" and generator is not None:
        expert, gate = give_up(expert, gate, config.second, generator)
    if config.gate_scale != 1:
        gate = gate * config.gate_scale
    if mask is not None or what_if.experts_off or config.expert_groups > 1:
        closed = rank_by.gather(-1, ranked) <= MASKED
        if mask is not None:
            closed = closed | ~mask[..., None]
        ranked = ranked.masked_fill(closed, -1)
        lost = closed[..., :K]
        expert, gate = expert.masked_fill(lost, -1), gate.masked_fill(lost, 0)
    room = buffers.rooms(logits.shape[:2], K, config, what_if, mask, logits.device)
    routing = Routing(
        logits=logits, probs=probs, expert=expert, gate=gate, mask=mask, capacity=room.limits
    )
    if room.bound is None and not with_places and not config.renormalise_after_drop:
        return routing
    return seated(routing, ranked, room, config, what_if)


def seated(
    routing: Routing,
    ranked: Tensor,
    room: buffers.Rooms,
    config: MoEConfig,
    what_if: WhatIf = TRAINED,
) -> Routing:
    """The same choices with places in the experts' buffers, as far as there is room."""
    expert, gate, wanted = routing.expert, routing.gate, None
    order = buffers.served(what_if.order or config.order, routing.probs, what_if.seed)
    if config.overflow == "reroute":
        wanted = expert
        expert, slot = buffers.cascade(ranked, expert.shape[-1], room, order)
        gate = regate(routing, expert, config)
        kept = expert >= 0
    else:
        slot = buffers.places(expert, config.experts, room.group, order)
        kept = expert >= 0
        if room.bound is not None:
            kept = kept & (slot < _column(room.bound))
    if config.renormalise_after_drop:
        total = (gate * kept).sum(-1, keepdim=True).clamp_min(TINY)
        gate = torch.where(kept, gate / total, gate)
    if room.before is not None:
        slot = slot + room.before[..., None]
    slot = torch.where(kept, slot, -1)
    return replace(routing, expert=expert, gate=gate, slot=slot, kept=kept, wanted=wanted)


def _column(value: Tensor | int) -> Tensor | int:
    """[B, S] as [B, S, 1], so that it meets every choice; a number stays one."""
    return value[..., None] if isinstance(value, Tensor) else value


def preference(logits: Tensor, probs: Tensor, config: MoEConfig, bias: Tensor | None) -> Tensor:
    """[B, S, E] what experts are ranked by: the scores themselves; with a bias the normalised
    scores plus the bias, s + b (arXiv 2408.15664, eq. 3); outside the best groups nothing."""
    if bias is None and config.expert_groups == 1:
        return logits
    value = probs if bias is None else probs + bias
    if config.expert_groups > 1:
        value = keep_groups(value, config.expert_groups, config.groups_kept, config.group_score)
    return value.masked_fill(logits <= MASKED, MASKED)


def keep_groups(value: Tensor, groups: int, kept: int, score: str) -> Tensor:
    """[..., E] masked outside the ``kept`` best groups of neighbouring experts. A group counts
    as the sum of its two best (DeepSeek-V3) or as its best (DeepSeek-V2: "max")."""
    in_groups = value.unflatten(-1, (groups, -1))
    best = in_groups.sort(-1, descending=True).values[..., : 1 if score == "max" else 2].sum(-1)
    open_ = torch.zeros_like(best, dtype=torch.bool)
    open_ = open_.scatter(-1, keep_top_k(best, kept), True)
    return in_groups.masked_fill(~open_[..., None], MASKED).flatten(-2)


def give_up(
    expert: Tensor, gate: Tensor, rule: str, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choices after the first stay with probability 2 g (GShard, algorithm 1, line 17) or
    min(1, g / 0.2) (Mesh-TensorFlow, ST-MoE); the others become -1."""
    later = gate[..., 1:]
    u = uniform(later.shape, 0, 1, generator).to(later.device)
    out = (2 * later if rule == "random" else later / 0.2) <= u
    out = torch.cat([torch.zeros_like(gate[..., :1], dtype=torch.bool), out], -1)
    return expert.masked_fill(out, -1), gate.masked_fill(out, 0)


def regate(routing: Routing, expert: Tensor, config: MoEConfig) -> Tensor:
    """[B, S, K] gates of experts that were found by re-routing; where none was, 0."""
    found, at = expert >= 0, expert.clamp_min(0)
    if config.gate == "topk-softmax":
        gate = routing.logits.gather(-1, at).masked_fill(~found, MASKED).softmax(-1)
    else:
        gate = routing.probs.gather(-1, at)
    gate = gate.masked_fill(~found, 0)
    if config.gate == "renormalised":
        gate = gate / gate.sum(-1, keepdim=True).clamp_min(TINY)
    return gate * config.gate_scale


# ---------------------------------------------------------------------------- experts choose


def expert_choice(
    logits: Tensor, probs: Tensor, config: MoEConfig, what_if: WhatIf, mask: Tensor | None
) -> Routing:
    """Each expert takes the C sub-tokens that give it the largest share of their softmax; the
    gate is that share, not renormalised (Zhou et al. 2022, arXiv 2202.09368, section 3.2).

    C = ceil(capacity_factor * top_k * S / E); ties go to the earlier sub-token. The lists are
    turned around: per sub-token the experts that took it, best first, K the most that one has.
    """
    K = config.top_k if what_if.top_k is None else what_if.top_k
    room = buffers.rooms(logits.shape[:2], K, config, what_if, mask, logits.device)
    can = logits > MASKED
    if mask is not None:
        can = can & mask[..., None]
    rank = expert_ranks(torch.where(can, probs, -1), room.group)
    taken = can if room.bound is None else can & (rank < _column(room.bound))
    if room.before is not None:
        rank = rank + room.before[..., None]
    most = max(1, int(taken.sum(-1).max())) if taken.numel() else 1
    ranked = keep_top_k(torch.where(taken, probs, -1), most)
    kept = taken.gather(-1, ranked)
    return Routing(
        logits=logits,
        probs=probs,
        expert=ranked.masked_fill(~kept, -1),
        gate=probs.gather(-1, ranked).masked_fill(~kept, 0),
        slot=rank.gather(-1, ranked).masked_fill(~kept, -1),
        kept=kept,
        mask=mask,
        capacity=room.limits,
    )


def expert_ranks(value: Tensor, group: Tensor | None) -> Tensor:
    """[B, S, E] place of each sub-token in each expert's list: largest value first, ties by
    position, within its group [B, S] (None: its sequence)."""
    B, S, E = value.shape
    if group is None:
        order = torch.sort(value, dim=1, descending=True, stable=True).indices
        position = torch.arange(S, device=value.device)[:, None].expand_as(order)
        return torch.empty_like(order).scatter_(1, order, position)
    flat, group = value.reshape(B * S, E), group.reshape(B * S)
    order = torch.sort(flat, dim=0, descending=True, stable=True).indices
    queue = torch.stack([buffers.rank_among_equals(g) for g in group[order].unbind(1)], 1)
    return torch.empty_like(order).scatter_(0, order, queue).view(B, S, E)
