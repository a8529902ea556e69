"""What is measured of the routing of pictures with captions beyond ``mhmoe.analysis.report``: which
experts take patches, which words, and which both.

A layer is a LayerTrace of N pairs end to end; intervals draw whole pairs again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mhmoe.analysis import balance, nulls, report, specialisation
from mhmoe.analysis.report import Routed

MODALITIES = ("patch", "word")
#: An expert takes a modality if it has this part of its fair share of that modality's choices, as
#: it counts as used by this part of its fair share of all.
TAKEN = 0.5


def of_modality(r: Routed, label_NT: np.ndarray) -> dict:
    """Experts against patches and words, label -1 for neither: the numbers of ``report.of_tokens``,
    and of every expert the ``words`` among its choices, where both modalities are counted alike:
    there are more patches than words. ``takes`` counts the experts by what they take, and
    ``one_sided`` is the share of those that take one modality alone; chance: labels dealt out anew
    within each pair."""
    per_pair = report.tables(r, label_NT, len(MODALITIES))
    table = per_pair.sum(0)
    shares = balance.shares(table)
    patches, words = taken(table)
    dealt = np.stack([*specialisation.dealt_out(r.hits, label_NT, 2, report.SHUFFLES, report.SEED)])
    value = float(one_sided(table))
    bits = specialisation.mutual_information(dealt)
    return {
        **report.information(per_pair, bits, MODALITIES, r),
        "words": (shares[1] / np.maximum(shares.sum(0), 1e-12)).tolist(),
        "takes": {
            "both": int((patches & words).sum()),
            "patch": int((patches & ~words).sum()),
            "word": int((words & ~patches).sum()),
            "neither": int((~words & ~patches).sum()),
        },
        "one_sided": {
            "value": value,
            "interval": nulls.interval(one_sided(np.tensordot(r.draws, per_pair, 1))),
            "test": report.tested(value, one_sided(dealt)),
        },
    }


def in_short(opened: Sequence[Routed], label_NT: np.ndarray) -> dict:
    """Means over the layers, for models that only serve to be compared with."""
    layers = [of_modality(r, label_NT) for r in opened]
    return {
        "explained": float(np.mean([layer["explained"] for layer in layers])),
        "one_sided": float(np.mean([layer["one_sided"]["value"] for layer in layers])),
    }


def taken(count_CE: np.ndarray) -> np.ndarray:
    """[..., 2, E] whether each expert takes each modality, of counts [..., 2, E]."""
    return balance.shares(count_CE) * count_CE.shape[-1] >= TAKEN


def one_sided(count_CE: np.ndarray) -> np.ndarray:
    """[...] share of the experts that take one modality alone, of counts [..., 2, E]."""
    return (taken(count_CE).sum(-2) == 1).mean(-1)
