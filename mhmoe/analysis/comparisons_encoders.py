"""Findings about encoders beside decoders of the same shape, training and text: how much of what a
token is its experts tell. Their predictions are never compared: a hidden token between others is
another question than the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mhmoe.analysis.comparisons import BASE, Pair, Recipe, apart, over_seeds, pairs
from mhmoe.analysis.verdicts import (
    NEGLIGIBLE,
    ST_MOE,
    Span,
    finding,
    is_encoder,
    mean,
    mean_span,
    seen,
)

#: What both have in common.
ALIKE = (
    *(*BASE, "projections", "experts", "top_k", "heads", "d_ff"),
    *("blocks", "d_model", "losses", "steps"),
)
#: Of each kind of classes the claim, its rule, what ST-MoE reports, and the margin around nothing.
CLASSES = {
    "token_class": (
        "Experts of an encoder specialise in kinds of tokens more than those of a decoder",
        "above",
        "entropy of routing sentinel tokens 1.2 to 2.2 nats in the encoder, 3.4 in the decoder, "
        "of at most 3.47",
        0.0,
    ),
    "word_class": (
        "Experts of an encoder specialise in word classes more than those of a decoder",
        "above",
        "experts for articles, verbs, proper names in the encoder, chosen by hand, none seen in "
        "the decoder; no number",
        0.0,
    ),
    "language": (
        "Experts of an encoder split by language no more than those of a decoder",
        "negligible",
        "experts split by language in neither, no number",
        NEGLIGIBLE,
    ),
}


def of(found: Sequence[Recipe]) -> Iterator[dict]:
    """All rows of every decoder, first, with its encoder."""
    for pair in pairs(found, _turned):
        if pair.same(*ALIKE):
            for key in CLASSES:
                if all(_asked(key, *two) for two in pair.entries):
                    yield _more_split(key, pair)


def _turned(decoder: dict, encoder: dict) -> bool:
    """The same windows, of one of the two in part hidden."""
    first, second = ({**seen(e), "hidden": 0, "predicted": 0} for e in (decoder, encoder))
    return first == second and is_encoder(encoder) and not is_encoder(decoder)


def _asked(key: str, decoder: dict, encoder: dict) -> bool:
    """Whether both have these classes; those of words may be of other treebanks."""
    both = key in decoder and key in encoder
    return both and (key != "word_class" or decoder["treebanks"] == encoder["treebanks"])


def _more_split(key: str, pair: Pair) -> dict:
    def explained(entry: dict) -> tuple[float, Span]:
        rows = entry[key]
        value = mean(row["explained"] for row in rows)
        return value, mean_span(row["explained_interval"] for row in rows)

    claim, rule, theirs, margin = CLASSES[key]
    value, interval, of = over_seeds([apart(*map(explained, two)) for two in pair.entries])
    return finding(
        f"encoder-decoder-{key.replace('_', '-')}",
        claim,
        f"{ST_MOE}, tables 13 and 14 and their discussion",
        theirs,
        rule,
        "difference in the share of the classes' information in a choice, encoder less decoder, "
        f"mean of layers; margin {margin:g}; interval over {of}",
        value,
        interval,
        (-margin, margin),
        pair.used,
    )
