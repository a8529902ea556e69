"""Words of two meanings against words as frequent: by hand, without and with an effect."""

from __future__ import annotations

import numpy as np

from mhmoe.analysis import words


def many(effect: float, seed: int = 0) -> tuple[words.Types, np.ndarray]:
    """200 words; frequent ones are higher for being frequent, and more often special."""
    rng = np.random.default_rng(seed)
    bins = rng.integers(0, 5, 200)
    special = rng.random(200) < 0.1 + 0.15 * bins
    value = bins + rng.normal(0, 0.3, 200) + effect * special
    return (
        words.Types(
            form=tuple(map(str, range(200))),
            language=np.zeros(200, int),
            count=2**bins,
            pieces=np.ones(200, int),
            value=value,
        ),
        special,
    )


def test_types_by_hand():
    value = np.array([1.0, 2, 3, 4, 5])
    found = words.types([(1, "die", [0]), (1, "die", [3]), (0, "die", [1, 2])], value)
    assert found.form == ("die", "die")
    assert found.language.tolist() == [0, 1]
    assert found.count.tolist() == [1, 2]
    assert found.pieces.tolist() == [2, 1]
    assert found.value.tolist() == [2.5, 2.5]


def test_strata_part_language_length_and_frequency():
    found = words.Types(
        form=tuple("abcdefg"),
        language=np.array([0, 1, 0, 0, 0, 0, 0]),
        count=np.array([2, 2, 2, 3, 4, 2, 2]),
        pieces=np.array([1, 1, 2, 1, 1, 3, 9]),
        value=np.zeros(7),
    )
    a, b, c, d, e, f, g = found.stratum
    assert a == d  # 2 and 3 occurrences are about as many
    assert f == g  # three tokens and more
    assert len({a, b, c, e, f}) == 5


def test_excess_by_hand():
    value = np.array([3.0, 1, 2, 10, 8])
    special = np.array([True, False, False, True, False])
    # 3 above the mean 1.5 of its stratum, 10 above 8
    found = words.excess(value, special, np.array([0, 0, 0, 1, 1]))
    assert found.tolist() == [1.5, 2]


def test_words_that_are_only_more_frequent_have_no_excess():
    found, special = many(0.0)
    assert found.value[special].mean() - found.value[~special].mean() > 0.5  # the naive picture
    result = words.compared(found, special)
    assert abs(result["test"]["z"]) < 4
    assert result["interval"][0] < 0 < result["interval"][1]


def test_a_planted_excess_is_found_with_its_size():
    result = words.compared(*many(0.4))
    assert result["test"]["z"] > 4
    assert result["interval"][0] < 0.4 < result["interval"][1]
    assert result["special"] + result["ordinary"] <= 200


def test_words_without_an_equal_are_not_compared():
    found, _ = many(0.0)
    assert words.compared(found, np.ones(200, bool)) is None
