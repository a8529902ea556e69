"""Diversity, specialisation, repetition, pairs and change over time: by hand, where there is
nothing to find, and where something was planted."""

from __future__ import annotations

import numpy as np
import pytest

from mhmoe.analysis import diversity, nulls, order, routing, specialisation


def random_choices(rows: int, experts: int, top_k: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((rows, experts)).argsort(1)[:, :top_k]


# ---------------------------------------------------------------------------- diversity

#: Two tokens of two heads, K = 2: the first token's heads share expert 0, the second's both.
PAIRS = np.array([[0, 1], [0, 2], [3, 1], [1, 3]])


def test_heads_of_a_token_by_hand():
    found = diversity.numbers(PAIRS, np.array([[3, 1], [3, 1], [1, 1], [1, 1]]), 2, 4)
    assert found["distinct"].tolist() == [3, 2]
    assert found["agreement"].tolist() == [0.5, 1]
    # gates 6, 1, 1 of 8, and 2, 2 of 4
    assert found["effective"][0] == pytest.approx(
        np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(1 / 8)))
    )
    assert found["effective"][1] == pytest.approx(2)


def test_padding_is_no_expert():
    assert diversity.per_token(np.array([[0, -1], [-1, -1]]), 2, 3).tolist() == [[1, 0, 0]]


def test_one_head_agrees_with_nobody():
    with pytest.raises(ValueError, match="two heads, not 1"):
        diversity.agreement(np.ones((1, 3)), 1, 1)


def test_random_heads_are_as_diverse_as_chance():
    choices = random_choices(4000, 8, 2)
    found = diversity.numbers(choices, np.ones(choices.shape), 4, 8)
    assert found["distinct"].mean() == pytest.approx(routing.distinct_chance(8, 2, 4), rel=0.02)
    assert found["agreement"].mean() == pytest.approx(2 / 8, rel=0.05)
    for null in diversity.NULLS:
        draws = diversity.null_means(choices, np.ones(choices.shape), 4, 8, null)
        for name, values in found.items():
            assert abs(nulls.against(values.mean(), draws[name]).z) < 4, (null, name)


def test_heads_that_follow_their_token_agree_more_than_chance():
    rng = np.random.default_rng(1)
    token = rng.integers(0, 8, 1000).repeat(4)
    choices = np.where(rng.random(4000) < 0.3, token, rng.integers(0, 8, 4000))[:, None]
    found = diversity.numbers(choices, np.ones(choices.shape), 4, 8)
    for null in diversity.NULLS:
        draws = diversity.null_means(choices, np.ones(choices.shape), 4, 8, null)
        assert nulls.against(found["agreement"].mean(), draws["agreement"]).z > 5
        assert nulls.against(found["distinct"].mean(), draws["distinct"]).z < -5


def test_heads_with_fixed_habits_differ_from_the_layer_but_not_from_their_heads():
    choices = np.tile(np.arange(4), 500)[:, None]  # head j always takes expert j
    gates = np.ones(choices.shape)
    distinct = diversity.numbers(choices, gates, 4, 4)["distinct"].mean()
    layer = diversity.null_means(choices, gates, 4, 4, "layer")["distinct"]
    heads = diversity.null_means(choices, gates, 4, 4, "heads")["distinct"]
    assert nulls.against(distinct, layer).z > 5
    assert nulls.against(distinct, heads).p == 1


def test_dealing_anew_keeps_each_heads_demand():
    order = diversity.dealt_anew(40, 4, "heads", np.random.default_rng(0))
    assert sorted(order) == list(range(40))
    assert (order % 4 == np.arange(40) % 4).all()
    assert (order != np.arange(40)).any()
    with pytest.raises(ValueError, match="'tokens' is none of layer, heads"):
        diversity.dealt_anew(40, 4, "tokens", np.random.default_rng(0))


# ---------------------------------------------------------------------------- specialisation


def test_information_by_hand():
    assert specialisation.mutual_information(np.eye(4)) == pytest.approx(2)  # bits: all of it
    assert specialisation.mutual_information(np.ones((4, 4))) == pytest.approx(0, abs=1e-12)
    # one bit about which half, nothing within it
    halves = np.kron(np.eye(2), np.ones((2, 2)))
    assert specialisation.mutual_information(halves) == pytest.approx(1)
    assert specialisation.class_entropy(halves) == pytest.approx(2)


def test_table_counts_by_label_and_leaves_the_rest_out():
    counts = np.array([[1, 0], [0, 2], [5, 5]])
    assert specialisation.table(counts, np.array([1, 1, -1]), 2).tolist() == [[0, 0], [1, 2]]


def test_windows_without_a_habit_tell_nothing():
    rng = np.random.default_rng(2)
    # every window has subjects of its own, none of them its language
    counts = np.stack([rng.multinomial(200, share) for share in rng.dirichlet(np.ones(8), 36)])
    label = np.arange(36) % 6
    observed = specialisation.mutual_information(specialisation.table(counts, label, 6))
    found = nulls.against(observed, specialisation.of_windows(counts, label, 6))
    assert found.p > 0.05
    # tokens as units would have called the same windows clearly specialised
    tokens = np.repeat(np.tile(np.arange(8), 36), counts.ravel())
    each = np.eye(8)[tokens]
    owner = label.repeat(200)
    free = specialisation.of_windows(each, owner, 6, draws=50)
    assert nulls.against(observed, free).z > 5


def test_windows_with_an_expert_per_language_are_found():
    rng = np.random.default_rng(3)
    label = np.arange(36) % 6
    counts = rng.multinomial(200, np.full(8, 1 / 8), 36)
    counts[np.arange(36), label] += 20
    observed = specialisation.mutual_information(specialisation.table(counts, label, 6))
    found = nulls.against(observed, specialisation.of_windows(counts, label, 6))
    assert found.p == pytest.approx(2 / 1001)
    assert found.z > 5


def test_classes_of_tokens_are_compared_within_their_window():
    rng = np.random.default_rng(4)
    label = rng.integers(-1, 3, (12, 50))
    habit = np.eye(4)[np.maximum(label, 0)]
    window = np.eye(4)[np.broadcast_to(np.arange(12)[:, None] % 4, (12, 50))]

    def test_of(counts):
        flat = specialisation.table(counts.reshape(-1, 4), label.ravel(), 3)
        draws = specialisation.of_tokens(counts, label, 3)
        return nulls.against(specialisation.mutual_information(flat), draws)

    assert test_of(habit).z > 5
    assert test_of(window).p > 0.05  # a window's own expert is no habit of its words


def test_permuting_tokens_keeps_every_windows_labels():
    label = np.array([[0, 0, 1, -1], [1, 1, 1, 1]])
    counts = np.zeros((2, 4, 2))
    counts[0, :, 0] = counts[1, :, 1] = 1  # the expert is the window
    draws = specialisation.of_tokens(counts, label, 2, draws=20)
    flat = specialisation.table(counts.reshape(-1, 2), label.ravel(), 2)
    assert draws == pytest.approx(specialisation.mutual_information(flat))


# ---------------------------------------------------------------------------- neighbours


def test_repetition_by_hand():
    # one window, one head: tokens choose {0,1}, {0,2}, {2,0}, {3,1}
    expert = np.array([[0, 1], [0, 2], [2, 0], [3, 1]]).reshape(1, 4, 1, 2)
    first, shared = order.repeated(expert)
    assert first.tolist() == [pytest.approx(1 / 3)]  # 0 0 2 3
    assert shared.tolist() == [pytest.approx(2 / 3)]


def test_random_neighbours_repeat_as_chance_says():
    expert = random_choices(6000, 8, 2).reshape(6, 250, 4, 2)
    first, shared = order.repeated(expert)
    assert first.mean() == pytest.approx(1 / 8, rel=0.1)
    assert shared.mean() == pytest.approx(routing.repetition_chance(8, 2), rel=0.05)
    for within in ("layer", "window"):
        draws = order.repeated_shuffled(expert, within)
        assert abs(nulls.against(first.mean(), draws[0]).z) < 4
        assert abs(nulls.against(shared.mean(), draws[1]).z) < 4


def test_a_windows_subject_is_no_repetition_within_it():
    expert = np.repeat(np.arange(6), 40).reshape(6, 40, 1, 1)  # window n always takes expert n
    observed = order.repeated(expert)[0].mean()
    assert nulls.against(observed, order.repeated_shuffled(expert, "layer")[0]).z > 5
    assert nulls.against(observed, order.repeated_shuffled(expert, "window")[0]).p == 1


def test_planted_neighbours_are_found_within_the_window():
    expert = random_choices(1200, 8, 1).reshape(6, 100, 2, 1).repeat(2, axis=1)  # each twice
    draws = order.repeated_shuffled(expert, "window")
    assert nulls.against(order.repeated(expert)[0].mean(), draws[0]).z > 5
    with pytest.raises(ValueError, match="not in 'text'"):
        order.repeated_shuffled(expert, "text")


# ---------------------------------------------------------------------------- pairs and times


def test_coactivation_by_hand():
    found = order.coactivation(np.array([[0, 1], [1, 0], [0, 2], [0, 2]]), 4)
    assert found.tolist() == [[0, 0.5, 0.5, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_random_pairs_are_as_chance_says():
    found = order.coactivation(random_choices(20000, 8, 3), 8)
    assert found[~np.eye(8, dtype=bool)] == pytest.approx(np.full(56, 2 / 7), rel=0.1)


def test_pairing_anew_keeps_every_columns_demand_and_nobody_twice():
    choices = np.array([[0, 1], [1, 0], [2, 3], [3, 2]] * 100)  # two pairs, never apart
    drawn = order.unpaired(choices, np.random.default_rng(0))
    assert (drawn[:, 0] != drawn[:, 1]).all()
    for k in (0, 1):
        assert (np.bincount(drawn[:, k]) == np.bincount(choices[:, k])).all()
    assert order.coactivation(choices, 4)[0].tolist() == [0, 1, 0, 0]
    assert order.coactivation(drawn, 4)[0] == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3], abs=0.1)


def test_choices_that_cannot_be_paired_are_said_to():
    with pytest.raises(ValueError, match="cannot be paired anew"):
        order.unpaired(np.array([[0, 1], [0, 0]]), np.random.default_rng(0))


def test_times_by_hand():
    before, after = np.array([[0, 1], [2, 3]]), np.array([[1, 0], [2, 0]])
    assert order.overlap(before, after).tolist() == [1, 0.5]
    assert order.changed(before, after).tolist() == [True, False]
    # first choices 0, 2 and 1, 2: dealt out anew, one pair in four is 2 and 2
    assert order.changed_chance(before, after, 4) == pytest.approx(0.75)
    # shares 1/4 each, and 1/2, 1/4, 1/4, 0
    assert order.overlap_chance(before, after, 4) == pytest.approx(2 * 0.25)


def test_unrelated_times_overlap_as_chance_says_and_equal_ones_wholly():
    a, b = random_choices(8000, 8, 2, 0), random_choices(8000, 8, 2, 1)
    assert order.overlap(a, b).mean() == pytest.approx(order.overlap_chance(a, b, 8), rel=0.05)
    assert order.overlap_chance(a, b, 8) == pytest.approx(2 / 8, rel=0.05)
    assert (order.overlap(a, a) == 1).all()
    assert not order.changed(a, a).any()
    assert order.changed(a, b).mean() == pytest.approx(order.changed_chance(a, b, 8), rel=0.05)
