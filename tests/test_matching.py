"""Two runs' experts matched: by hand, unrelated, and alike in another numbering."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from mhmoe.analysis import matching, nulls


def choices(seed: int, tokens: int = 600, experts: int = 6) -> np.ndarray:
    return np.eye(experts)[np.random.default_rng(seed).integers(0, experts, tokens)]


def test_an_assignment_by_hand():
    # greedily row 0 takes column 0 (5) and leaves 1: 6; the best is 4 + 4
    assert matching.assignment(np.array([[5, 4], [4, 1]])).tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"square table .* \(2, 3\)"):
        matching.assignment(np.ones((2, 3)))


@pytest.mark.parametrize("seed", range(20))
def test_no_permutation_is_better(seed):
    rng = np.random.default_rng(seed)
    gain = rng.integers(-3, 4, (5, 5)) if seed % 2 else rng.normal(size=(5, 5))
    found = matching.assignment(gain)
    assert sorted(found) == list(range(5))
    rows = np.arange(5)
    best = max(gain[rows, list(p)].sum() for p in permutations(range(5)))
    assert gain[rows, found].sum() == pytest.approx(best)


def test_correlations_by_hand():
    first = np.array([[1.0, 0, 2], [0, 1, 2], [1, 0, 2], [0, 1, 2]])  # the last tells nothing
    found = matching.correlations(first, first)
    assert found == pytest.approx(np.array([[1, -1, 0], [-1, 1, 0], [0, 0, 0]]))


def test_the_same_routing_in_another_numbering_is_wholly_consistent():
    first = choices(0)
    assert matching.consistency(first, first[:, [3, 1, 5, 0, 2, 4]]) == pytest.approx(1)


def test_unrelated_runs_are_as_consistent_as_chance():
    first, second = choices(0), choices(1)
    observed = matching.consistency(first, second)
    assert observed > 0  # a best match always finds something
    assert abs(nulls.against(observed, matching.by_chance(first, second)).z) < 4


def test_runs_that_share_some_of_their_routing_are_found():
    first = choices(0)
    some = np.random.default_rng(2).random(600) < 0.2
    second = np.where(some[:, None], first, choices(1))[:, ::-1]
    found = nulls.against(matching.consistency(first, second), matching.by_chance(first, second))
    assert found.z > 5
    assert found.observed == pytest.approx(0.2, abs=0.1)
