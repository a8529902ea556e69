"""What a run learns from: its data, the loss of a step, and its numbers on held-out data.

One class for each kind of data. Everything drawn is a function of the recipe's seed and the step;
``rows`` are those of the batch that this process computes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from mhmoe.models import checkpoint, metrics, tokenizer
from mhmoe.models.metrics import Watch
from mhmoe.models.patches import to_patches
from mhmoe.models.transformer import Run, Transformer
from mhmoe.training.processes import TrainingError
from mhmoe.training.recipe import Recipe
from mhmoe.training.step import Learner, hidden
from mhmoe.training.text import LANGUAGES, TextData, even_sample

VALIDATION = 48  #: windows or pictures, along a run
CLASSIFIED = 144  #: scenes whose class is asked for, along a run
CARD_WINDOWS = 32  #: windows of each language, for the card
CARD_PICTURES = 96  #: pictures, for the card
CARD_CLASSIFIED = 900  #: scenes whose class is asked for, for the card
TOKENIZER_CHARACTERS = 580_000  #: per language; the smallest corpus has about as many

SCENES = {"what": "generated scenes", "licence": "CC0 1.0"}
CAPTIONS = {"what": "generated scenes and captions", "licence": "CC0 1.0"}
PHOTOGRAPHS = {
    "what": "photographs carried by scikit-image",
    "licence": "CC0 1.0 or public domain",
}
SENTENCES = {"what": "sentences collected for the Common Voice project", "licence": "CC0 1.0"}


class Task(Protocol):
    """sources   what the weights were made of, with licences, for the card
    facts     what else the card says of the data
    """

    sources: tuple[dict, ...]
    facts: dict

    def loss(
        self, learner: Learner, step: int, rows: slice, generator: torch.Generator
    ) -> tuple[Tensor, Run]:
        """Of the whole batch of a step, from this process's rows of it."""

    def validate(self, model: Transformer) -> dict:
        """A few numbers on held-out data, along a run."""

    def evaluate(self, model: Transformer, watch: Watch) -> dict:
        """The numbers of the card; ``watch`` sees every pass."""


class Text:
    """Windows of sentences: the next token, or hidden ones."""

    sources = (SENTENCES,)

    def __init__(self, recipe: Recipe, text_dir: Path | None):
        if text_dir is None:
            raise TrainingError(
                f"The recipe {recipe.name} trains on text; name its folder "
                "with --text-dir (the README says what must be in it)."
            )
        self.recipe = recipe
        context, languages = recipe.model.context, recipe.languages
        bpe = open_tokenizer(text_dir, recipe.model.vocabulary)
        self.train, self.dev = (
            TextData(text_dir, split, bpe, context, languages) for split in ("train", "dev")
        )
        self.sizes = tokenizer.byte_sizes(bpe)
        self.held_out = self.dev.batch(0, 0, VALIDATION)
        self.digests = self.train.digests | self.dev.digests
        self.facts = {"languages": list(languages), "sentences_sha256": self.digests}

    def loss(
        self, learner: Learner, step: int, rows: slice, generator: torch.Generator
    ) -> tuple[Tensor, Run]:
        r = self.recipe
        ids = torch.from_numpy(self.train.batch(r.seed, step, r.batch)[rows]).long()
        masked = None if r.model.causal else hidden(r, step)[rows]
        return learner.text(ids, generator, masked)

    def validate(self, model: Transformer) -> dict:
        ratio = self.recipe.mask_ratio
        return metrics.text_metrics(model, self.held_out, self.sizes, mask_ratio=ratio)

    def evaluate(self, model: Transformer, watch: Watch) -> dict:
        """Per language, and their sums. The windows begin with those of the validation curve."""
        names = self.recipe.languages
        windows = self.dev.batch(0, 0, CARD_WINDOWS * len(names))
        languages = {
            language: metrics.text_metrics(
                model, windows[i :: len(names)], self.sizes, watch, self.recipe.mask_ratio
            )
            for i, language in enumerate(names)
        }
        tokens = sum(m["tokens"] for m in languages.values())
        size = sum(m["bytes"] for m in languages.values())
        bits = sum(m["bits_per_byte"] * m["bytes"] for m in languages.values())
        return {
            **metrics.per_byte(bits * np.log(2), tokens, size),
            "windows": len(windows),
            "languages": languages,
        }


class Pictures:
    """Scenes and photographs: hidden patches, and the class of a scene where models have one."""

    sources = (SCENES, PHOTOGRAPHS)

    def __init__(self, recipe: Recipe, text_dir: Path | None):
        from mhmoe.training import scenes  # only image runs need scikit-image

        self.recipe, self.scenes = recipe, scenes
        classes = recipe.model.classes
        if classes not in (0, len(scenes.CLASSES)):
            raise TrainingError(
                f"The scenes have {len(scenes.CLASSES)} classes, the recipe's model "
                f"{classes}; write {len(scenes.CLASSES)}, or 0 for a model without."
            )
        self.held_out = scenes.validation(VALIDATION)
        self.classified = scenes.classified_validation(CLASSIFIED) if classes else None
        self.facts = {"classes": list(scenes.CLASSES)} if classes else {}

    def loss(
        self, learner: Learner, step: int, rows: slice, generator: torch.Generator
    ) -> tuple[Tensor, Run]:
        r, classes = self.recipe, None
        if r.model.classes:
            pictures, known = self.scenes.classified_batch(r.seed, step, r.batch, rows)
            classes = torch.from_numpy(known)
        else:
            pictures = self.scenes.batch(r.seed, step, r.batch, rows=rows)
        patches = to_patches(pictures, r.model.patch)
        return learner.pictures(patches, hidden(r, step)[rows], generator, classes=classes)

    def validate(self, model: Transformer) -> dict:
        numbers = metrics.image_metrics(model, self.held_out, self.recipe.mask_ratio)
        if self.classified:
            numbers |= metrics.class_metrics(model, *self.classified)
        return numbers

    def evaluate(self, model: Transformer, watch: Watch) -> dict:
        pictures = self.scenes.validation(CARD_PICTURES)
        numbers = metrics.image_metrics(model, pictures, self.recipe.mask_ratio, watch=watch)
        if self.recipe.model.classes:
            classified = self.scenes.classified_validation(CARD_CLASSIFIED)
            numbers |= metrics.class_metrics(model, *classified, watch)
        return numbers


class Pairs:
    """Scenes with captions: hidden patches and hidden words, each beside the rest of both."""

    sources = (CAPTIONS, SENTENCES)  # these for the tokenizer

    def __init__(self, recipe: Recipe, text_dir: Path | None):
        from mhmoe.training import captions

        self.recipe, self.captions, self.facts = recipe, captions, {}
        self.bpe = open_tokenizer(text_dir, recipe.model.words)
        self.sizes = tokenizer.byte_sizes(self.bpe)
        self.held_out = captions.paired_validation(VALIDATION)

    def loss(
        self, learner: Learner, step: int, rows: slice, generator: torch.Generator
    ) -> tuple[Tensor, Run]:
        r, shape = self.recipe, self.recipe.model
        pictures, texts = self.captions.paired_batch(r.seed, step, r.batch, rows)
        ids, filled = tokenizer.filled(self.bpe, texts, shape.caption)
        masked = hidden(r, step)[rows]
        masked[:, shape.context :] &= torch.from_numpy(~filled)
        patches = to_patches(pictures, shape.patch)
        return learner.pictures(patches, masked, generator, caption=torch.from_numpy(ids))

    def validate(self, model: Transformer) -> dict:
        return self._numbers(model, *self.held_out)

    def evaluate(self, model: Transformer, watch: Watch) -> dict:
        return self._numbers(model, *self.captions.paired_validation(CARD_PICTURES), watch)

    def _numbers(
        self,
        model: Transformer,
        pictures: np.ndarray,
        texts: list[str],
        watch: Watch = lambda run: None,
    ) -> dict:
        captions = tokenizer.filled(self.bpe, texts, self.recipe.model.caption)
        ratio = self.recipe.mask_ratio
        return metrics.pair_metrics(model, pictures, *captions, self.sizes, ratio, watch=watch)


TASKS: dict[str, type[Task]] = {"text": Text, "image": Pictures, "image-text": Pairs}


def open_tokenizer(text_dir: Path | None, vocabulary: int) -> Tokenizer:
    """The shipped tokenizer; learned from the text and saved if it is not there yet. Raises
    TrainingError, CorpusError."""
    path = checkpoint.tokenizer_path()
    if not path.exists():
        if text_dir is None:
            raise TrainingError(
                f"There is no tokenizer in {path.parent}; name a folder of text with --text-dir "
                f"to learn one from ({', '.join(LANGUAGES)}), or restore the file."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.train(even_sample(text_dir, TOKENIZER_CHARACTERS), vocabulary).save(str(path))
    bpe = tokenizer.load(path)
    if bpe.get_vocab_size() != vocabulary:
        raise TrainingError(
            f"The tokenizer has {bpe.get_vocab_size()} tokens, the recipe's model {vocabulary}."
        )
    return bpe
