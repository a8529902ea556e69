"""What experts answer to: mutual information between experts and classes of tokens.

N windows of T tokens; a class is that of a whole window (its language) or of each token (word
class, punctuation). Even without any relation the information counted from a finite sample is
above zero, so it is always given beside what permuted labels have.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mhmoe.analysis import balance


def table(count_NE: np.ndarray, label_N: np.ndarray, classes: int) -> np.ndarray:
    """[classes, E] choices of each expert by the tokens of each class; label -1 is left out."""
    which = (label_N[:, None] == np.arange(classes)).astype(float)
    return which.T @ count_NE


def mutual_information(count_CE: np.ndarray) -> np.ndarray:
    """[...] bits that a choice tells about the class, of counts [..., C, E]."""
    count_CE = np.asarray(count_CE, float)
    classes, experts = count_CE.sum(-1), count_CE.sum(-2)
    joint = count_CE.reshape(*count_CE.shape[:-2], -1)
    nats = balance.entropy(classes) + balance.entropy(experts) - balance.entropy(joint)
    return nats / np.log(2)


def class_entropy(count_CE: np.ndarray) -> float:
    """Bits of the classes themselves: all that a choice could tell."""
    return float(balance.entropy(np.asarray(count_CE).sum(1)) / np.log(2))


def of_windows(
    count_NE: np.ndarray, label_N: np.ndarray, classes: int, draws: int = 1000, seed: int = 0
) -> np.ndarray:
    """[draws] mutual information when the labels of whole windows (or whole objects of a picture)
    are permuted: their tokens depend on each other, so they move together."""
    rng = np.random.default_rng(seed)
    return np.array(
        [
            mutual_information(table(count_NE, rng.permutation(label_N), classes))
            for _ in range(draws)
        ]
    )


def of_tokens(
    count_NTE: np.ndarray, label_NT: np.ndarray, classes: int, draws: int = 200, seed: int = 0
) -> np.ndarray:
    """[draws] mutual information when labels are permuted within each window: what remains is not
    the windows' language or subject."""
    return np.array(
        [
            mutual_information(dealt)
            for dealt in dealt_out(count_NTE, label_NT, classes, draws, seed)
        ]
    )


def dealt_out(
    count_NTE: np.ndarray, label_NT: np.ndarray, classes: int, draws: int, seed: int = 0
) -> Iterator[np.ndarray]:
    """Tables [classes, E] of labels permuted within each window. Tokens labelled -1 take no part
    and stay where they are."""
    rng = np.random.default_rng(seed)
    flat = count_NTE.reshape(-1, count_NTE.shape[-1]).astype(float)
    kept = np.flatnonzero(label_NT.ravel() >= 0)
    window = kept // label_NT.shape[1]
    label, rows = label_NT.ravel()[kept], flat[kept]
    for _ in range(draws):
        # sorted by window, then by chance: a permutation inside every window
        order = np.lexsort((rng.random(len(kept)), window))
        yield table(rows, label[order], classes)
