"""Numbers on held-out data, the same for the card, the command line and the training log."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mhmoe.layers import TRAINED, WhatIf
from mhmoe.models.patches import SPREAD, random_mask, to_patches
from mhmoe.models.transformer import Run, Transformer

BATCH = 16

#: Called with every forward pass of an evaluation, for those who count what it routed.
Watch = Callable[[Run], None]


@torch.inference_mode()
def text_metrics(
    model: Transformer,
    windows: np.ndarray,
    sizes: np.ndarray,
    watch: Watch = lambda run: None,
    mask_ratio: float = 0.5,
    seed: int = 0,
) -> dict:
    """windows [N, context] token ids; sizes [vocabulary] UTF-8 bytes of each token.

    Tokens and bytes count the predicted tokens, so bits_per_byte = log2(perplexity) * tokens /
    bytes: in a decoder all but the first of a window, which has nothing before it; in an encoder
    the hidden ones.
    """
    if not len(windows):
        raise ValueError(
            f"The text is shorter than one full window of "
            f"{model.config.context} tokens; give more text."
        )
    nats, tokens, size = 0.0, 0, 0
    for number, chunk in enumerate(chunks(model, windows)):
        masked = None
        if not model.config.causal:
            masked = random_mask(*chunk.shape, mask_ratio, [seed, number * BATCH])
            masked = masked.to(chunk.device)
        run = model(chunk, masked=masked)
        watch(run)
        nats += float(token_nats(run.output, chunk, masked).sum())
        targets = (chunk[:, 1:] if masked is None else chunk[masked]).cpu().numpy()
        tokens, size = tokens + targets.size, size + int(sizes[targets].sum())
    hidden = {} if model.config.causal else {"mask_ratio": mask_ratio}
    return hidden | per_byte(nats, tokens, size)


def per_byte(nats: float, tokens: int, size: int) -> dict:
    """The numbers of a text of so many predicted tokens and ``size`` bytes, from its nats."""
    return {
        "bits_per_byte": float(nats / np.log(2) / size),
        "perplexity": float(np.exp(nats / tokens)),
        "tokens": tokens,
        "bytes": size,
    }


def token_nats(output_BTV: Tensor, ids_BT: Tensor, masked_BT: Tensor | None = None) -> Tensor:
    """[B, T-1] cross-entropy of each token after the first; of each hidden token [n] where some
    were hidden."""
    if masked_BT is not None:
        return F.cross_entropy(output_BTV[masked_BT], ids_BT[masked_BT].long(), reduction="none")
    return F.cross_entropy(
        output_BTV[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten().long(), reduction="none"
    ).view(len(ids_BT), ids_BT.shape[1] - 1)


def image_metrics(
    model: Transformer,
    pictures: np.ndarray,
    mask_ratio: float = 0.5,
    seed: int = 0,
    watch: Watch = lambda run: None,
    what_if: WhatIf = TRAINED,
    captions: np.ndarray | None = None,
) -> dict:
    """Of :func:`picture_errors` the means over all pictures, and their ratio."""
    error, baseline = picture_errors(
        model, pictures, mask_ratio, seed, watch, what_if, captions=captions
    )
    return {
        "masked_error": float(error.mean()),
        "baseline_error": float(baseline.mean()),
        "relative_error": float(error.sum() / baseline.sum()),
        "images": len(pictures),
        "patches": len(pictures) * round(mask_ratio * model.config.context),
        "mask_ratio": mask_ratio,
    }


@torch.inference_mode()
def picture_errors(
    model: Transformer,
    pictures: np.ndarray,
    mask_ratio: float = 0.5,
    seed: int = 0,
    watch: Watch = lambda run: None,
    what_if: WhatIf = TRAINED,
    only_block: int | None = None,
    captions: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """pictures [N, side, side, 3] uint8 -> [N] mean squared error of each one's hidden patches, in
    units of the pixel range 0..1, and [N] the same for predicting its mean visible colour.
    ``captions`` [N, L] token ids stand beside their pictures, whole."""
    found = []
    for at in range(0, len(pictures), BATCH):
        chunk = pictures[at : at + BATCH]
        patches = to_patches(chunk, model.config.patch).to(next(model.parameters()).device)
        masked = random_mask(len(chunk), model.config.context, mask_ratio, [seed, at])
        masked = masked.to(patches.device)
        caption, every = None, masked
        if captions is not None:
            caption = torch.from_numpy(captions[at : at + BATCH]).to(patches.device).long()
            every = F.pad(masked, (0, caption.shape[1]))
        run = model(patches, caption, masked=every, what_if=what_if, only_block=only_block)
        watch(run)
        visible = (~masked)[..., None].float()
        colours = patches.unflatten(-1, (-1, 3))
        mean = (colours.mean(2) * visible).sum(1) / visible.sum(1)  # [B, 3]
        flat = (colours - mean[:, None, None]).square().flatten(2).mean(-1)
        both = torch.stack([(run.output - patches).square().mean(-1), flat]) * masked
        found.append(both.sum(-1).cpu().numpy() / masked[0].sum().item())
    error, baseline = np.concatenate(found, 1).astype(float) * SPREAD**2
    return error, baseline


def class_metrics(
    model: Transformer,
    pictures: np.ndarray,
    classes: np.ndarray,
    watch: Watch = lambda run: None,
    what_if: WhatIf = TRAINED,
) -> dict:
    """pictures [N, side, side, 3] uint8 and the class of each [N]: how many of the whole pictures
    get their class, and the share that guessing one class at random would get."""
    correct = int((class_guesses(model, pictures, watch, what_if) == classes).sum())
    return {
        "class_accuracy": correct / len(pictures),
        "class_chance": 1 / model.config.classes,
        "classified": len(pictures),
        "classified_correctly": correct,
    }


@torch.inference_mode()
def caption_metrics(
    model: Transformer,
    pictures: np.ndarray,
    captions: np.ndarray,
    filled: np.ndarray,
    sizes: np.ndarray,
    mask_ratio: float = 0.5,
    seed: int = 0,
    watch: Watch = lambda run: None,
) -> dict:
    """Bits per byte of hidden tokens of captions, each beside its own whole picture, and beside the
    next one of the set: what the picture is worth to the caption.

    pictures [N, side, side, 3] uint8; captions [N, L] token ids; filled [N, L] bool, where a
    caption is over and nothing is hidden; sizes [words] UTF-8 bytes of each token.
    """
    hidden = random_mask(*captions.shape, mask_ratio, [seed, 0]).numpy() & ~filled
    size = int(sizes[captions[hidden]].sum())
    bits = []
    for shown in (pictures, np.roll(pictures, -1, axis=0)):
        nats = 0.0
        for at in range(0, len(shown), BATCH):
            rows = slice(at, at + BATCH)
            patches = _patches(model, shown[rows])
            caption = torch.from_numpy(captions[rows]).to(patches.device).long()
            tokens = torch.from_numpy(hidden[rows]).to(patches.device)
            masked = F.pad(tokens, (patches.shape[1], 0))
            run = model(patches, caption, masked=masked)
            watch(run)
            nats += float(token_nats(run.caption, caption, tokens).sum())
        bits.append(nats / np.log(2) / size)
    return {
        "caption_bits_per_byte": bits[0],
        "caption_bits_per_byte_other_picture": bits[1],
        "caption_tokens": int(hidden.sum()),
        "caption_bytes": size,
    }


def pair_metrics(
    model: Transformer,
    pictures: np.ndarray,
    captions: np.ndarray,
    filled: np.ndarray,
    sizes: np.ndarray,
    mask_ratio: float = 0.5,
    watch: Watch = lambda run: None,
) -> dict:
    """Hidden patches beside whole captions, and hidden tokens of captions beside whole pictures;
    arguments as in :func:`caption_metrics`."""
    numbers = image_metrics(model, pictures, mask_ratio, watch=watch, captions=captions)
    return numbers | caption_metrics(
        model, pictures, captions, filled, sizes, mask_ratio, watch=watch
    )


@torch.inference_mode()
def class_guesses(
    model: Transformer,
    pictures: np.ndarray,
    watch: Watch = lambda run: None,
    what_if: WhatIf = TRAINED,
    only_block: int | None = None,
) -> np.ndarray:
    """[N] the class that the model gives each whole picture."""
    found = []

    def guess(run: Run) -> None:
        watch(run)
        found.append(run.classes.argmax(-1).cpu().numpy())

    whole_pictures(model, pictures, guess, what_if, only_block)
    return np.concatenate(found)


@torch.inference_mode()
def whole_pictures(
    model: Transformer,
    pictures: np.ndarray,
    watch: Watch,
    what_if: WhatIf = TRAINED,
    only_block: int | None = None,
) -> None:
    """Run the model on pictures of which nothing is hidden, for what ``watch`` makes of it."""
    for at in range(0, len(pictures), BATCH):
        patches = _patches(model, pictures[at : at + BATCH])
        watch(model(patches, what_if=what_if, only_block=only_block))


def _patches(model: Transformer, pictures: np.ndarray) -> Tensor:
    """On the model's device."""
    return to_patches(pictures, model.config.patch).to(next(model.parameters()).device)


def chunks(model: Transformer, windows: np.ndarray) -> Iterator[Tensor]:
    """Token ids of ``BATCH`` windows at a time, on the model's device."""
    device = next(model.parameters()).device
    for at in range(0, len(windows), BATCH):
        yield torch.from_numpy(windows[at : at + BATCH]).to(device).long()
