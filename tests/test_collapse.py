"""Representation collapse: RC by hand, of planted clusters, and of routing that knows nothing."""

from __future__ import annotations

import numpy as np
import pytest

from mhmoe.analysis import collapse, report
from mhmoe.analysis.collapse import Moments, moments, rc


def all_of(x_NRD: np.ndarray, expert_NR: np.ndarray, experts: int) -> Moments:
    return moments(x_NRD, expert_NR, experts).drawn(np.ones(len(x_NRD)))


def clusters(spread: float, seed: int = 0, tokens: int = 4000, experts: int = 5, width: int = 8):
    """Tokens around the means of their experts, in 10 windows."""
    rng = np.random.default_rng(seed)
    expert = rng.integers(0, experts, tokens)
    means = 3 * np.eye(experts, width)
    x = means[expert] + spread * rng.standard_normal((tokens, width))
    return x.reshape(10, -1, width), expert.reshape(10, -1)


def test_rc_by_hand():
    # two experts on a line, means -2 and 2, tokens 1 to either side: W = 1, B = 4
    x = np.array([[[-3.0], [-1.0], [1.0], [3.0]]])
    assert rc(all_of(x, np.array([[0, 0, 1, 1]]), 2)) == pytest.approx(0.25)
    # the same in a plane, where what lies across the means does not count; and scaled and moved
    plane = np.stack([x[..., 0], np.array([[5.0, -5.0, 5.0, -5.0]])], -1)
    assert rc(all_of(plane, np.array([[0, 0, 1, 1]]), 2)) == pytest.approx(0.25)
    assert rc(all_of(7 * x + 100, np.array([[0, 0, 1, 1]]), 2)) == pytest.approx(0.25)


def test_every_expert_counts_once_and_an_unused_one_not():
    x = np.array([[[-3.0], [-1.0], [1.0], [3.0]]])
    few = all_of(x, np.array([[0, 0, 1, 1]]), 2)
    assert rc(all_of(x, np.array([[0, 0, 3, 3]]), 5)) == pytest.approx(float(rc(few)))
    # expert 1 has twice the tokens: W is still 1, B is that of two means
    more = np.concatenate([x, x[:, 2:]], 1)
    assert rc(all_of(more, np.array([[0, 0, 1, 1, 1, 1]]), 2)) == pytest.approx(0.25)
    assert np.isnan(rc(all_of(x, np.zeros((1, 4), int), 2)))


def test_rc_is_that_of_numpys_covariances():
    x, expert = clusters(1.0)
    flat, of = x.reshape(-1, 8), expert.ravel()
    means = np.stack([flat[of == e].mean(0) for e in range(5)])
    within = np.cov((flat - means[of]).T, bias=True)
    between = np.cov(means.T, bias=True)
    expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-9))
    assert rc(all_of(x, expert, 5)) == pytest.approx(expected)


def test_windows_drawn_twice_count_twice():
    x, expert = clusters(1.0)
    twice = np.concatenate([x, x[:3]]), np.concatenate([expert, expert[:3]])
    weights = np.array([2] * 3 + [1] * 7)
    found = rc(moments(x, expert, 5).drawn(np.stack([weights, np.ones(10)])))
    assert found == pytest.approx([float(rc(all_of(*twice, 5))), float(rc(all_of(x, expert, 5)))])


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_tighter_clusters_are_more_collapsed(scale):
    plain, other = (rc(all_of(*clusters(spread), 5)) for spread in (1.0, scale))
    # the same draws, scaled: W grows with the square, the means hardly move
    assert other / plain == pytest.approx(scale**2, rel=0.05)


def test_planted_clusters_lie_far_below_chance_and_no_clusters_do_not():
    x, expert = clusters(1.0)
    dealt = collapse.by_chance(x, expert, 5, draws=50)
    assert rc(all_of(x, expert, 5)) < 0.05 * dealt.min()
    noise = np.random.default_rng(1).standard_normal(x.shape)
    low, high = np.quantile(collapse.by_chance(noise, expert, 5, draws=200), [0.001, 0.999])
    assert low < rc(all_of(noise, expert, 5)) < high


def test_the_interval_of_a_layer_holds_its_number():
    x, expert = clusters(1.0)
    found = report.collapsed(x, expert, 5, np.arange(2).repeat(5))
    low, high = found["interval"]
    assert found["value"] == pytest.approx(float(rc(all_of(x, expert, 5))))
    assert 0 < low < found["value"] < high < found["test"]["low"]
    assert found["test"]["p"] < 0.05
