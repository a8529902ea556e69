"""Findings across models of pictures with captions: who guesses hidden patches and hidden words
better at which equal budget, the third task of MH-MoE's table 1.
"""

from __future__ import annotations

from mhmoe.analysis.comparisons import DENSE, HEADED, SMOE, Better
from mhmoe.analysis.comparisons_pictures import NUMBERS as OF_PICTURES
from mhmoe.analysis.comparisons_pictures import Number
from mhmoe.analysis.verdicts import MHMOE

BETTER = (
    Better(
        "pairs-smoe-dense",
        DENSE,
        SMOE,
        ("params_active",),
        "A sparse MoE does better on pictures with captions than a dense model with equal active "
        "parameters",
        f"{MHMOE}, table 1",
        "perplexity of masked pictures and text 16.34 (X-MoE) against 17.95",
    ),
    Better(
        "pairs-mhmoe-smoe-parameters",
        SMOE,
        HEADED,
        ("params_total",),
        "MH-MoE does better on pictures with captions than SMoE at equal experts and equal "
        "parameters",
        f"{MHMOE}, table 1",
        "perplexity of masked pictures and text 14.73 against 16.34 (base X-MoE)",
        dearer=True,
    ),
)
NUMBERS = (
    *(number for number in OF_PICTURES if number.name == "error"),
    Number("caption", "below", "bits per byte of hidden words", "pair_bits", "pair_bytes"),
)
