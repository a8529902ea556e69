"""Two runs' experts matched: by hand, unrelated, and alike in another numbering."""

from __future__ import annotations

import numpy as np
import pytest

from mhmoe.analysis import matching, nulls


def choices(seed: int, tokens: int = 600, experts: int = 6) -> np.ndarray:
    return np.eye(experts)[np.random.default_rng(seed).integers(0, experts, tokens)]


def test_correlations_by_hand():
    first = np.array([[1.0, 0, 2], [0, 1, 2], [1, 0, 2], [0, 1, 2]])  # the last tells nothing
    found = matching.correlations(first, first)
    assert found == pytest.approx(np.array([[1, -1, 0], [-1, 1, 0], [0, 0, 0]]))


def test_every_expert_has_one_partner_and_their_sum_is_the_largest():
    """Tokens of two runs' experts by how many they share: alone, the first expert would take the
    first partner (50), and leave 10 to the second; the best are 40 and 40."""
    shared = [(0, 0, 50), (0, 1, 40), (1, 0, 40), (1, 1, 10)]
    first, second = (np.concatenate([[row[i]] * row[2] for row in shared]) for i in (0, 1))
    other = np.eye(3)[np.append(second, [2] * 100)]
    assert matching.matched(np.eye(3)[np.append(first, [2] * 100)], other).tolist() == [1, 0, 2]


def alike(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    return matching.agreement(first, second, matching.matched(first, second))


def test_the_same_routing_in_another_numbering_is_wholly_consistent():
    first = choices(0)
    assert alike(first, first[:, [3, 1, 5, 0, 2, 4]]) == pytest.approx((1, 1))


def test_loads_are_compared_in_the_order_of_the_partners():
    first = np.repeat(np.eye(3), [10, 20, 60], axis=0)
    # partners have 60, 20 and 10 tokens in the other's own order
    partner = np.array([2, 1, 0])
    assert matching.agreement(first, first[:, partner], partner)[1] == pytest.approx(1)
    straight = matching.agreement(first, first[:, partner], np.arange(3))[1]
    # loads 10, 20, 60 and 60, 20, 10 around 30: -600 - ... over 1400
    assert straight == pytest.approx((-20 * 30 + 100 - 20 * 30) / 1400)


def test_unrelated_runs_are_as_consistent_as_chance():
    first, second = choices(0), choices(1)
    observed = alike(first, second)
    assert observed[0] > 0  # a best match always finds something
    chance = matching.by_chance(first, second)
    assert abs(nulls.against(observed[0], chance[:, 0]).z) < 4
    assert chance[:, 1].min() <= observed[1] <= chance[:, 1].max()


def test_runs_that_share_some_of_their_routing_are_found():
    first = choices(0)
    some = np.random.default_rng(2).random(600) < 0.2
    second = np.where(some[:, None], first, choices(1))[:, ::-1]
    found = nulls.against(alike(first, second)[0], matching.by_chance(first, second)[:, 0])
    assert found.z > 5
    assert found.observed == pytest.approx(0.2, abs=0.1)


def test_windows_add_up_to_the_correlation_of_all_of_them():
    rng = np.random.default_rng(3)
    first, second = (rng.integers(0, 3, (4, 50, 2)) for _ in range(2))
    first[..., 1] = 2  # tells nothing
    sums = matching.per_window(first, second)
    for weights in ([1, 1, 1, 1], [2, 0, 1, 1]):
        rows = np.repeat(np.arange(4), weights)
        flat = [runs[rows].reshape(-1, 2) for runs in (first, second)]
        expected = np.diagonal(matching.correlations(*flat))
        assert matching.correlated(np.array(weights) @ sums) == pytest.approx(expected)
    assert matching.correlated(np.ones(4) @ sums)[1] == 0
