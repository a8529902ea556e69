"""Every method on three tokens, small enough to be checked on paper.

Scores are given as what softmax would divide by its sum: 4 2 1 becomes 4/7 2/7 1/7.
"""

from __future__ import annotations

import math

import pytest
import torch
from moe_cases import build, config, hand, seeded, tokens

from mhmoe.layers import ConfigError, MoELayer, WhatIf, capacity, places, route
from mhmoe.layers.choice import give_up, keep_groups
from mhmoe.layers.routers import CosineRouter
from mhmoe.layers.soft import SoftRouter, mix, soft

#: All three want expert 0 most, then 1; the last is the surest.
CROWD = [[4.0, 2.0, 1.0], [4.0, 2.0, 1.0], [8.0, 2.0, 1.0]]


def close(found: torch.Tensor, expected: list) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype))


# ---------------------------------------------------------------------------- weights


def test_shazeer_and_mixtral_weigh_by_a_softmax_of_the_kept():
    for router in ("shazeer", "mixtral"):
        # every row loses its own worst (C-01): 4 2 -> 2/3 1/3, and 4 4 -> 1/2 1/2
        routing = hand([[4, 2, 1], [1, 4, 4]], router, top_k=2)
        assert routing.expert[0].tolist() == [[0, 1], [1, 2]]
        close(routing.gate[0], [[2 / 3, 1 / 3], [1 / 2, 1 / 2]])


def test_switch_and_v_moe_weigh_by_the_softmax_of_all():
    close(hand([[4, 2, 1]], "switch").gate[0], [[4 / 7]])
    close(hand([[4, 2, 1]], "v-moe").gate[0], [[4 / 7, 2 / 7]])
    close(hand([[4, 2, 1]], "dense").gate[0], [[4 / 7, 2 / 7, 1 / 7]])


def test_gshard_divides_by_the_sum_of_the_two():
    close(hand([[4, 2, 1]], "gshard", capacity_factor=None).gate[0], [[2 / 3, 1 / 3]])


def test_sigmoid_scores_are_judged_each_alone():
    # sigmoid(log v) = v / (1 + v): 4/5, 2/3, 1/2, of which the two best sum to 22/15
    plain = hand([[4, 2, 1]], score="sigmoid", top_k=2)
    close(plain.probs[0], [[4 / 5, 2 / 3, 1 / 2]])
    close(plain.gate[0], [[4 / 5, 2 / 3]])
    v3 = hand([[4, 2, 1]], "deepseek-v3", top_k=2)
    close(v3.gate[0], [[2.5 * 12 / 22, 2.5 * 10 / 22]])


def test_a_bias_takes_part_in_the_choice_alone():
    # scores 4/5, 2/3, 1/2; with b = (-1/2, 0, 1/4) they rank 3/10, 2/3, 3/4
    logits = torch.tensor([[[4.0, 2.0, 1.0]]]).log()
    c = config("deepseek-v3", experts=3, top_k=2, gate_scale=1.0)
    routing = route(logits, c, bias=torch.tensor([-1 / 2, 0, 1 / 4]))
    assert routing.expert.tolist() == [[[2, 1]]]
    close(routing.gate[0, 0], [3 / 7, 4 / 7])  # 1/2 and 2/3, divided by their sum 7/6


def test_no_bias_and_no_group_brings_back_an_expert_that_is_off():
    logits = torch.zeros(1, 1, 4)
    off = WhatIf(experts_off=(1,))
    c = config("deepseek-v3", top_k=2)
    routing = route(logits, c, off, bias=torch.tensor([0.0, 9.0, 0.0, 1.0]))
    assert routing.expert.tolist() == [[[3, 0]]]
    c = config(expert_groups=2, groups_kept=1, top_k=2)
    assert route(logits, c, off).expert.tolist() == [[[2, 3]]]


@pytest.mark.parametrize(("off", "places"), [((), 2), ((1,), 2), ((1, 2), 3), ((0, 1, 2), 6)])
def test_experts_that_are_off_leave_their_places_to_the_others(off, places):
    # six sub-tokens, k = 1, factor 1: ceil(6 / 4), 6 / 3, 6 / 2 and 6 / 1 places
    asked = WhatIf(experts_off=off, capacity_factors=(1.0,))
    for group in ("sequence", "batch", 6):
        routing = route(torch.zeros(1, 6, 4), config(top_k=1, group=group), asked)
        assert routing.capacity == (places,)


def test_the_bias_rises_for_the_idle_and_falls_for_the_busy():
    layer = build(config("deepseek-v3", bias_update=0.25))
    before = layer.router.bias.clone()
    layer.update_bias(torch.tensor([5, 1, 3, 3]))  # the mean is 3
    close(layer.router.bias - before, [-0.25, 0.25, 0.0, 0.0])


def test_a_layer_without_a_bias_says_so():
    with pytest.raises(ConfigError, match="no bias to update"):
        build(config()).update_bias(torch.ones(4))


def test_only_the_best_groups_may_be_chosen_from():
    # groups (0 1), (2 3), (4 5): two best together 5, 6, 7; best alone 5, 3, 4
    value = torch.tensor([[5.0, 0.0, 3.0, 3.0, 4.0, 3.0]])
    sums = keep_groups(value, 3, 1, "top2")
    assert sums.argmax().item() == 4
    assert (sums > -1e30).tolist() == [[False, False, False, False, True, True]]
    best = keep_groups(value, 3, 1, "max")
    assert (best > -1e30).tolist() == [[True, True, False, False, False, False]]
    # a choice of two from one group of two takes both, though expert 0 scores higher
    routing = hand([[9.0, 0.1, 4.0, 4.0]], expert_groups=2, groups_kept=1, group_score="top2")
    assert routing.expert[0].tolist() == [[0, 1]]
    routing = hand([[4.2, 0.1, 4.0, 4.0]], expert_groups=2, groups_kept=1, group_score="top2")
    assert routing.expert[0].tolist() == [[2, 3]]


def test_cosines_of_x_moe():
    # W x = (3, 4) of length 5; experts (1, 0) and (0, 2): cosines 3/5 and 4/5, divided by 0.3
    for c, expected in (
        (config("x-moe", experts=2, d_model=2, embedding=2), [2.0, 8 / 3]),
        # the code leaves the token's length in and has no temperature
        (config("x-moe-code", experts=2, d_model=2, embedding=2), [3.0, 4.0]),
    ):
        router = CosineRouter(c)
        with torch.no_grad():
            router.project.copy_(torch.eye(2))
            router.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
            close(router(torch.tensor([[[3.0, 4.0]]]))[0, 0], expected)
            router.keep_norm()  # the scores do not notice
            close(router(torch.tensor([[[3.0, 4.0]]]))[0, 0], expected)


# ---------------------------------------------------------------------------- randomness


def test_learned_noise_starts_at_the_logarithm_of_two():
    # softplus(0) = ln 2 = 0.693 for every token and expert (F-03), and the scores start at zero
    layer = MoELayer(config("shazeer"), seeded(0))
    routing = layer.decide(tokens(50, 100, 8), generator=seeded(1))
    assert not routing.clean.any()
    torch.testing.assert_close(routing.std, torch.full((50, 100, 4), math.log(2)))
    assert routing.logits.std().item() == pytest.approx(math.log(2), rel=0.02)
    assert abs(routing.logits.mean().item()) < 0.02


def test_learned_noise_depends_on_token_and_expert():
    layer = MoELayer(config("shazeer", experts=2, d_model=2), seeded(0))
    with torch.no_grad():
        layer.router.noise.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        std = layer.decide(torch.tensor([[[1.0, 1.0], [0.0, 3.0]]]), generator=seeded(1)).std
    soft_plus = [[math.log1p(math.exp(v)) for v in row] for row in ([1, 2], [0, 6])]
    close(std[0], soft_plus)


def test_v_moe_noise_has_a_standard_deviation_of_one_over_e():
    layer = build(config("v-moe", experts=16))
    routing = layer.decide(tokens(20, 100, 8), generator=seeded(1))
    noise = routing.logits - routing.clean
    assert noise.std().item() == pytest.approx(1 / 16, rel=0.02)
    torch.testing.assert_close(routing.std, torch.full_like(noise, 1 / 16))


def test_jitter_multiplies_the_input_or_is_added_to_the_scores():
    x = tokens(4, 100, 8)
    for where in ("input", "scores"):
        layer = build(config("switch", jitter=0.1, jitter_on=where))
        layer.router.weight = torch.nn.Parameter(torch.eye(8)[:4])  # scores are inputs 0 to 3
        plain, _, _ = layer.scores(x)
        shaken, _, std = layer.scores(x, seeded(1))
        assert std is None  # it is not the noise that the load loss knows
        moved = shaken / plain if where == "input" else shaken - plain
        assert 0.9 - 1e-5 <= moved.min().item() < 0.91
        assert 1.09 < moved.max().item() <= 1.1 + 1e-5


# ---------------------------------------------------------------------------- second choices


def test_gshard_gives_up_a_second_choice_by_chance():
    # kept with probability 2 * 0.2; of 20,000 draws 8,000 +- 70 (one standard deviation)
    expert = torch.tensor([[[0, 1]]]).expand(1, 20_000, 2)
    gate = torch.tensor([0.8, 0.2]).expand(1, 20_000, 2)
    kept, weight = give_up(expert, gate, "random", seeded(0))
    assert (kept[..., 0] == 0).all()  # the first never goes
    assert abs((kept[..., 1] == 1).sum().item() - 8_000) < 350
    assert torch.equal(kept[..., 1] < 0, weight[..., 1] == 0)
    assert torch.equal(weight[..., 0], gate[..., 0])  # and gets no more than it had


@pytest.mark.parametrize(("rule", "gate"), [("random", 0.5), ("threshold", 0.2)])
def test_from_some_weight_on_it_is_always_kept(rule, gate):
    weights = torch.tensor([1 - gate, gate]).expand(1, 5_000, 2)
    kept, _ = give_up(torch.tensor([[[0, 1]]]).expand(1, 5_000, 2), weights, rule, seeded(0))
    assert (kept >= 0).all()


def test_the_threshold_of_mesh_tensorflow():
    weights = torch.tensor([0.95, 0.05]).expand(1, 20_000, 2)  # kept with 0.05 / 0.2 = 1/4
    kept, _ = give_up(
        torch.tensor([[[0, 1]]]).expand(1, 20_000, 2), weights, "threshold", seeded(0)
    )
    assert abs((kept[..., 1] == 1).sum().item() - 5_000) < 310


# ---------------------------------------------------------------------------- places


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # T = 50, k = 2, E = 8, CF = 1.25: ours 15.625 up
        ({"factor": 1.25}, 16),
        ({"factor": 1.25, "rounding": "nearest"}, 16),
        ({"factor": 1.25, "rounding": "floor"}, 15),
        # mixture-of-experts: int(50 * 1.25 / 8), no factor k, at least 4
        ({"factor": 1.25 / 2, "rounding": "floor", "minimum": 4}, 7),
        ({"factor": 0.25 / 2, "rounding": "floor", "minimum": 4}, 4),
        # vmoe: raised to a multiple of 4
        ({"factor": 1.25, "multiple": 4}, 16),
        ({"factor": 1.3, "multiple": 4}, 20),
        # torchscale and tutel: k * ceil(50 / 8)
        ({"factor": 1.0, "rounding": "share"}, 14),
    ],
)
def test_the_rules_of_capacity(rule, expected):
    factor = rule.pop("factor")
    assert capacity(factor, 2, 50, 8, **rule) == expected


def test_switch_drops_who_comes_late():
    # C = 1: token 0 gets the place, the others' outputs are zero
    routing = hand(CROWD, "switch", capacity_factor=1.0)
    assert routing.expert[0].tolist() == [[0], [0], [0]]
    assert routing.kept[0].tolist() == [[True], [False], [False]]
    assert routing.slot[0].tolist() == [[0], [-1], [-1]]


def test_priority_serves_the_surest_first():
    # largest probabilities 4/7, 4/7, 8/11: token 2, then 0 before 1
    routing = hand(CROWD, order="priority", top_k=1, capacity_factor=2.0)
    assert routing.capacity == (2,)
    assert routing.slot[0].tolist() == [[1], [-1], [0]]
    # first choices of all before any second: expert 1 gets its seconds in the same order
    routing = hand(CROWD, order="priority", top_k=2, capacity_factor=0.5)
    assert routing.slot[0].tolist() == [[-1, -1], [-1, -1], [0, 0]]


def test_priority_looks_at_probabilities_though_the_gate_is_one():
    routing = hand(CROWD, "mixtral", order="priority", top_k=1, capacity_factor=1.0)
    assert torch.equal(routing.gate, torch.ones(1, 3, 1))
    assert routing.kept[0, :, 0].tolist() == [False, False, True]


def test_no_token_is_left_behind():
    # C = 1. Round 1: all ask expert 0, token 0 gets in. Round 2: both ask expert 1, token 1 gets
    # in. Round 3: token 2 finds expert 2. Its gate is what expert 2 has: 1/11
    routing = hand(CROWD, "no-token-left-behind", capacity_factor=1.0)
    assert routing.expert[0].tolist() == [[0], [1], [2]]
    assert routing.wanted[0].tolist() == [[0], [0], [0]]
    close(routing.gate[0], [[4 / 7], [2 / 7], [1 / 11]])
    assert routing.kept.all()


def test_a_gate_that_was_re_routed_is_scaled_like_any_other():
    routing = hand(CROWD, "no-token-left-behind", capacity_factor=1.0, gate_scale=2.5)
    close(routing.gate[0], [[2.5 * 4 / 7], [2.5 * 2 / 7], [2.5 * 1 / 11]])


def test_who_finds_nobody_is_dropped_after_all():
    # six places for two choices each of four tokens: all four have their first round, then
    # seconds, in order; the last looks in vain
    scores = [[4.0, 2.0, 1.0]] * 4
    routing = hand(scores, overflow="reroute", top_k=2, capacity_factor=0.75)
    assert routing.capacity == (2,)
    # round 1: 0 1 at expert 0. Round 2: 0 1 at expert 1. Round 3: 2 3 at expert 2
    assert routing.expert[0].tolist() == [[0, 1], [0, 1], [2, -1], [2, -1]]
    assert routing.slot[0].tolist() == [[0, 0], [1, 1], [0, -1], [1, -1]]
    assert routing.gate[0, 2].tolist() == [pytest.approx(1 / 7), 0]


def test_priority_and_re_routing_together():
    routing = hand(CROWD, overflow="reroute", order="priority", top_k=1, capacity_factor=1.0)
    assert routing.expert[0].tolist() == [[1], [2], [0]]


def test_groups_cut_a_sequence_into_pieces_with_places_of_their_own():
    # pairs (0 1) (2 3) (4), C = ceil(1 * 1 * 2 / 2) = 1 each, and 1 for the lone last
    scores = [[3.0, 1.0]] * 5
    routing = hand(scores, top_k=1, capacity_factor=1.0, group=2)
    assert routing.kept[0, :, 0].tolist() == [True, False, True, False, True]
    assert routing.slot[0, :, 0].tolist() == [0, -1, 1, -1, 2]  # a trace counts on
    assert routing.capacity == (3,)


def test_a_batch_can_share_its_places():
    logits = torch.tensor([[[3.0, 1.0]] * 2, [[1.0, 3.0], [3.0, 1.0]]]).log()
    alone = route(logits, config(experts=2, top_k=1, capacity_factor=1.0))
    assert alone.kept[..., 0].tolist() == [[True, False], [True, True]]  # C = 1 each
    shared = route(logits, config(experts=2, top_k=1, capacity_factor=1.0, group="batch"))
    assert shared.capacity == (2, 2)
    assert shared.kept[..., 0].tolist() == [[True, True], [True, False]]
    with pytest.raises(ValueError, match="shares its places has one capacity factor"):
        route(
            logits,
            config(experts=2, top_k=1, group="batch"),
            WhatIf(capacity_factors=(1.0, 2.0)),
        )


def test_places_with_an_order():
    expert = torch.tensor([[[0, 1], [0, 1], [1, 0]]])
    # served 2, 0, 1: firsts: expert 1 takes 2, expert 0 takes 0 and 1; then seconds
    found = places(expert, 2, order=torch.tensor([2, 0, 1]))
    assert found.tolist() == [[[0, 1], [1, 2], [0, 2]]]


def test_torchscale_divides_by_what_found_a_place():
    # gates 4/7 2/7 and, after expert 1's only place is gone, the first choice alone weighs 1
    routing = hand(
        [[4, 2, 1], [4, 2, 1]], top_k=2, capacity_factor=1.5, renormalise_after_drop=True
    )
    assert routing.capacity == (2,)
    close(routing.gate[0], [[2 / 3, 1 / 3], [2 / 3, 1 / 3]])
    routing = hand(
        [[4, 2, 1], [1, 4, 2]], top_k=2, capacity_factor=0.75, renormalise_after_drop=True
    )
    # C = 1: expert 1 belongs to the first choice of token 1
    assert routing.kept[0].tolist() == [[True, False], [True, True]]
    close(routing.gate[0], [[1.0, 2 / 7], [2 / 3, 1 / 3]])


# ---------------------------------------------------------------------------- experts choose


def test_expert_choice_by_hand():
    # C = ceil(1 * 1 * 4 / 2) = 2. Expert 0 takes tokens 1 (.9) and 0 (.5, before token 3);
    # expert 1 takes 2 (.9) and 0 (.5): token 0 has two, token 3 none
    routing = hand([[5, 5], [9, 1], [1, 9], [5, 5]], "expert-choice", top_k=1)
    assert routing.capacity == (2,)
    assert routing.expert[0].tolist() == [[0, 1], [0, -1], [1, -1], [-1, -1]]
    assert routing.slot[0].tolist() == [[1, 1], [0, -1], [0, -1], [-1, -1]]
    close(routing.gate[0], [[0.5, 0.5], [0.9, 0], [0.9, 0], [0, 0]])


def test_expert_choice_takes_no_more_tokens_than_there_are():
    routing = hand([[5, 5], [9, 1]], "expert-choice", top_k=2, capacity_factor=10.0)
    assert routing.expert[0].tolist() == [[0, 1], [0, 1]]
    assert routing.capacity == (20,)


# ---------------------------------------------------------------------------- averages


def test_soft_moe_by_hand():
    # scores ln 2 0 / 0 0: over tokens 2/3 1/3 and 1/2 1/2, over slots the same numbers
    logits = torch.tensor([[[math.log(2), 0.0], [0.0, 0.0]]])
    c = config("soft-moe", experts=2, d_model=1)
    routing = soft(logits, c, WhatIf(), None)
    close(routing.dispatch[0], [[2 / 3, 1 / 2], [1 / 3, 1 / 2]])
    close(routing.combine[0], [[2 / 3, 1 / 3], [1 / 2, 1 / 2]])

    # tokens 3 and 6: the slots read 2/3 * 3 + 1/3 * 6 = 4 and 4.5; experts add 1 and 2
    class Adds:
        w_in = torch.zeros(2, 1, 1)

        def slots(self, x_EPD):
            close(x_EPD, [[[4.0]], [[4.5]]])
            return x_EPD + torch.tensor([1.0, 2.0])[:, None, None]

    y, out = mix(Adds(), torch.tensor([[[3.0], [6.0]]]), routing)
    close(out[0], [[5.0], [6.5]])
    close(y[0], [[2 / 3 * 5 + 1 / 3 * 6.5], [(5 + 6.5) / 2]])


def test_slot_j_belongs_to_expert_j_over_p():
    # VG-50..53: m = 4 tokens of d = 3, n = 2 experts of p = 2 slots
    layer = build(config("soft-moe", d_model=3, experts=2, slots=2))
    with torch.no_grad():
        layer.experts.w_out[1] = 0  # expert 1 says nothing: its slots 2 and 3 are zero
        _, routing, vectors = layer.run(tokens(1, 4, 3))
    assert routing.dispatch.shape == routing.combine.shape == (1, 4, 4)
    assert vectors["slot_out"][0, :2].abs().min() > 0
    assert not vectors["slot_out"][0, 2:].any()


def test_normalised_scores_are_cosines_times_a_scale():
    router = SoftRouter(config("soft-moe-normalised", d_model=2, experts=1, slots=2))
    with torch.no_grad():
        router.weight.copy_(torch.tensor([[5.0, 0.0], [0.0, 0.1]]))
        router.scale.fill_(10.0)
        close(router(torch.tensor([[[3.0, 4.0], [30.0, 40.0]]]))[0], [[6.0, 8.0], [6.0, 8.0]])
