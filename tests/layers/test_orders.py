"""Who is served first, asked as a what-if: by position, by priority, or at random."""

from __future__ import annotations

import pytest
import torch
from moe_cases import build, config, hand, tokens
from test_by_hand import CROWD

from mhmoe.layers import ConfigError, WhatIf


def kept(scores=CROWD, what_if: WhatIf | None = None, **changes) -> list[bool]:
    routing = hand(scores, what_if=what_if, top_k=1, capacity_factor=1.0, **changes)
    return routing.kept[0, :, 0].tolist()


def test_an_order_that_is_asked_for_replaces_the_layer_s_own():
    # all want expert 0, which has one place: the first in line, or the surest, the last
    assert kept() == kept(what_if=WhatIf(order="position")) == [True, False, False]
    assert kept(what_if=WhatIf(order="priority")) == [False, False, True]
    assert kept(order="priority") == [False, False, True]
    assert kept(what_if=WhatIf(order="position"), order="priority") == [True, False, False]


def test_chance_prefers_nobody_and_follows_its_seed():
    served = torch.zeros(3)
    for seed in range(300):
        found = kept(what_if=WhatIf(order="random", seed=seed))
        assert found == kept(what_if=WhatIf(order="random", seed=seed))
        assert sum(found) == 1
        served += torch.tensor(found)
    # 100 each, standard deviation 8.2
    assert (served - 100).abs().max() < 4 * 8.2, served


def test_first_choices_come_before_second_ones_in_any_order():
    for seed in range(20):
        what_if = WhatIf(order="random", seed=seed)
        routing = hand(
            [[4.0, 2.0]] * 3 + [[2.0, 4.0]], top_k=2, capacity_factor=0.5, what_if=what_if
        )
        assert routing.capacity == (2,)
        # expert 0 has first choices for both of its places; expert 1 one of each kind
        first, second = routing.kept[0].T
        assert first.tolist()[3]
        assert first[:3].sum() == 2
        assert second[:3].sum() == 1
        assert not second[3]


@pytest.mark.parametrize("router", ["linear", "v-moe", "v-moe-priority", "no-token-left-behind"])
@pytest.mark.parametrize("order", ["position", "priority", "random"])
def test_without_a_limit_the_order_plays_no_part(router, order):
    layer = build(config(router, capacity_factor=None))
    x = tokens(2, 9, 8)
    with torch.inference_mode():
        assert torch.equal(layer(x), layer(x, what_if=WhatIf(order=order, seed=3)))


def test_heads_and_experts_that_choose_take_it_too():
    many = build(config(heads=4, d_ff=8))
    what_ifs = [
        WhatIf(capacity_factors=(0.5,), order=o) for o in ("position", "priority", "random")
    ]
    x = tokens(2, 9, 8)
    with torch.inference_mode():
        outputs = [many(x, what_if=w) for w in what_ifs]
        loads = [many.run(x, what_if=w)[1].kept.sum() for w in what_ifs]
        assert len({y.numpy().tobytes() for y in outputs}) == 3
        assert len({int(n) for n in loads}) == 1
        choosing = build(config("expert-choice"))
        assert torch.equal(choosing(x), choosing(x, what_if=WhatIf(order="random")))


@pytest.mark.parametrize("wrong", [{"order": "alphabet"}, {"seed": -1}, {"seed": 1.5}])
def test_an_order_that_is_none(wrong):
    with pytest.raises(ConfigError, match=r"is none of position, priority, random$|^seed must be"):
        WhatIf(**wrong)
