"""Numbers on held-out data, the same for the card, the command line and the training log."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mhmoe.layers import TRAINED, WhatIf
from mhmoe.models.patches import random_mask, to_patches
from mhmoe.models.transformer import Run, Transformer

BATCH = 16

#: Called with every forward pass of an evaluation, for those who count what it routed.
Watch = Callable[[Run], None]


@torch.inference_mode()
def text_metrics(
    model: Transformer, windows: np.ndarray, sizes: np.ndarray, watch: Watch = lambda run: None
) -> dict:
    """windows [N, context] token ids; sizes [vocabulary] UTF-8 bytes of each token.

    The first token of a window has nothing before it and is not predicted; tokens and bytes
    count the predicted ones, so bits_per_byte = log2(perplexity) * tokens / bytes.
    """
    if not len(windows):
        raise ValueError(
            f"The text is shorter than one full window of "
            f"{model.config.context} tokens; give more text."
        )
    nats = 0.0
    for chunk in chunks(model, windows):
        run = model(chunk)
        watch(run)
        nats += float(token_nats(run.output, chunk).sum())
    targets = windows[:, 1:]
    return per_byte(nats, int(targets.size), int(sizes[targets].sum()))


def per_byte(nats: float, tokens: int, size: int) -> dict:
    """The numbers of a text of so many predicted tokens and ``size`` bytes, from its nats."""
    return {
        "bits_per_byte": float(nats / np.log(2) / size),
        "perplexity": float(np.exp(nats / tokens)),
        "tokens": tokens,
        "bytes": size,
    }


def token_nats(output_BTV: Tensor, ids_BT: Tensor) -> Tensor:
    """[B, T-1] cross-entropy of each token after the first."""
    return F.cross_entropy(
        output_BTV[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten().long(), reduction="none"
    ).view(len(ids_BT), ids_BT.shape[1] - 1)


@torch.inference_mode()
def image_metrics(
    model: Transformer,
    pictures: np.ndarray,
    mask_ratio: float = 0.5,
    seed: int = 0,
    watch: Watch = lambda run: None,
    what_if: WhatIf = TRAINED,
) -> dict:
    """pictures [N, side, side, 3] uint8. Mean squared error of hidden patches, in units of the
    pixel range 0..1, and the same for predicting each picture's mean visible colour."""
    error = baseline = 0.0
    hidden = 0
    for at in range(0, len(pictures), BATCH):
        chunk = pictures[at : at + BATCH]
        patches = to_patches(chunk, model.config.patch).to(next(model.parameters()).device)
        masked = random_mask(len(chunk), model.config.context, mask_ratio, [seed, at])
        masked = masked.to(patches.device)
        run = model(patches, masked=masked, what_if=what_if)
        watch(run)
        guess = run.output
        visible = (~masked)[..., None].float()
        colours = patches.unflatten(-1, (-1, 3))
        mean = (colours.mean(2) * visible).sum(1) / visible.sum(1)  # [B, 3]
        flat = (colours - mean[:, None, None]).square().flatten(2).mean(-1)
        error += float((guess - patches).square().mean(-1)[masked].sum())
        baseline += float(flat[masked].sum())
        hidden += int(masked.sum())
    scale = 0.25**2  # patches are in units of 0.25 of the pixel range
    return {
        "masked_error": error / hidden * scale,
        "baseline_error": baseline / hidden * scale,
        "relative_error": error / baseline,
        "images": len(pictures),
        "patches": hidden,
        "mask_ratio": mask_ratio,
    }


@torch.inference_mode()
def class_metrics(
    model: Transformer,
    pictures: np.ndarray,
    classes: np.ndarray,
    watch: Watch = lambda run: None,
    what_if: WhatIf = TRAINED,
) -> dict:
    """pictures [N, side, side, 3] uint8 and the class of each [N]: how many of the whole pictures
    get their class, and the share that guessing one class at random would get."""
    correct = 0
    for at in range(0, len(pictures), BATCH):
        patches = to_patches(pictures[at : at + BATCH], model.config.patch)
        run = model(patches.to(next(model.parameters()).device), what_if=what_if)
        watch(run)
        correct += int((run.classes.argmax(-1).cpu().numpy() == classes[at : at + BATCH]).sum())
    return {
        "class_accuracy": correct / len(pictures),
        "class_chance": 1 / model.config.classes,
        "classified": len(pictures),
        "classified_correctly": correct,
    }


def chunks(model: Transformer, windows: np.ndarray) -> Iterator[Tensor]:
    """Token ids of ``BATCH`` windows at a time, on the model's device."""
    device = next(model.parameters()).device
    for at in range(0, len(windows), BATCH):
        yield torch.from_numpy(windows[at : at + BATCH]).to(device).long()
