"""Balance, intervals and chance levels: by hand, where nothing is, and where something was put."""

from __future__ import annotations

import numpy as np
import pytest

from mhmoe.analysis import balance, nulls, routing


def test_numbers_of_one_count_by_hand():
    count = np.array([4, 4, 0, 0])  # shares 1/2, 1/2, 0, 0: mean 2, std 2
    assert balance.entropy(count) == pytest.approx(np.log(2))
    assert balance.effective(count) == pytest.approx(2)
    assert balance.variation(count) == pytest.approx(1)
    assert balance.max_violation(count) == pytest.approx(1)
    assert balance.dead(balance.shares(count)) == 2


def test_many_counts_are_as_each_alone():
    rows = np.array([[4, 4, 0, 0], [2, 2, 2, 2], [0, 0, 0, 0]])
    for number in (balance.effective, balance.variation, balance.max_violation, balance.entropy):
        assert number(rows).tolist() == [float(number(row)) for row in rows]
    assert balance.effective(rows).tolist() == pytest.approx([2, 4, 0])


def test_counts_by_chance_have_the_variation_of_chance():
    E, K, S = 8, 2, 4096
    draws = balance.by_chance(E, K, S, draws=4000)
    assert draws.sum(1) == pytest.approx(np.full(4000, S * K))
    found = np.sqrt((balance.variation(draws) ** 2).mean())
    assert found == pytest.approx(routing.variation_chance(E, K, S), rel=0.05)


def test_counts_by_chance_are_those_of_a_simulation():
    E, K, S = 4, 2, 500
    rng = np.random.default_rng(5)
    order = rng.random((400, S, E)).argsort(-1)[..., :K].reshape(400, -1)
    real = np.stack([np.bincount(row, minlength=E) for row in order])
    drawn = balance.by_chance(E, K, S, draws=4000)
    for number in (balance.max_violation, balance.effective):
        assert number(drawn).mean() == pytest.approx(number(real).mean(), rel=0.1)


def test_active_share_by_hand():
    # K/E = 1/2; choices / 4 tokens = 1, 0.5, 0.25, 0.25: in fair shares 2, 1, 0.5, 0.5
    found = balance.active_share(np.array([4, 2, 1, 1]), 2, 4, np.array([0, 0.4, 0.5, 1.5, 2]))
    assert found.tolist() == [1, 1, 0.5, 0.25, 0]


def test_dividing_by_tokens_activates_balanced_heads_by_counting_alone():
    tokens, H, E, K = 64, 4, 8, 1
    even = np.full(E, tokens * H * K / E)
    by_token = balance.active_share(even, K, tokens)
    by_sub_token = balance.active_share(even, K, tokens * H)
    assert by_token.min() == 1  # four fair shares exceed every threshold of the sweep
    assert by_sub_token[balance.THRESHOLDS >= 1].max() == 0


# ---------------------------------------------------------------------------- intervals, nulls


def test_every_resampling_keeps_the_size_of_every_group():
    counts = nulls.resampled(np.array([0, 0, 0, 1, 1]), draws=50)
    assert (counts[:, :3].sum(1) == 3).all()
    assert (counts[:, 3:].sum(1) == 2).all()
    assert len(np.unique(counts, axis=0)) > 5


def test_the_interval_of_a_mean_covers_it_about_as_often_as_it_says():
    rng = np.random.default_rng(0)  # 200 samples of 30: the share that covers 0 is near 0.95
    counts = nulls.resampled(np.zeros(30, int), draws=400)
    limits = [nulls.mean_interval(rng.normal(size=30), counts) for _ in range(200)]
    assert 0.88 < np.mean([low < 0 < high for low, high in limits]) <= 0.99


def test_a_number_like_those_of_chance_is_not_found():
    draws = np.random.default_rng(1).normal(size=999)
    assert nulls.against(0.3, draws).p > 0.5
    assert nulls.against(1.0, np.ones(99)).p == 1
    assert nulls.against(1.0, np.ones(99)).z == 0


def test_a_number_far_from_chance_is_found_on_either_side():
    draws = np.random.default_rng(1).normal(size=999)
    for far in (8.0, -8.0):
        found = nulls.against(far, draws)
        assert found.p == pytest.approx(2 / 1000)
        assert found.z == pytest.approx(far, rel=0.1)
