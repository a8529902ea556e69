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
    hidden = None if model.config.causal else hidden_tokens(*windows.shape, mask_ratio, seed)
    for number, chunk in enumerate(chunks(model, windows)):
        masked = None
        if hidden is not None:
            masked = hidden[number * BATCH :][: len(chunk)].to(chunk.device)
        run = model(chunk, masked=masked)
        watch(run)
        nats += float(token_nats(run.output, chunk, masked).sum())
        targets = (chunk[:, 1:] if masked is None else chunk[masked]).cpu().numpy()
        tokens, size = tokens + targets.size, size + int(sizes[targets].sum())
    asked = {} if hidden is None else {"mask_ratio": mask_ratio}
    return asked | per_byte(nats, tokens, size)


def hidden_tokens(windows: int, context: int, mask_ratio: float = 0.5, seed: int = 0) -> Tensor:
    """[windows, context] True where an evaluation hides a token, as many in every window."""
    return torch.cat(
        [
            random_mask(min(BATCH, windows - at), context, mask_ratio, [seed, at])
            for at in range(0, windows, BATCH)
        ]
    )


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
        return _Nats.apply(output_BTV[masked_BT], ids_BT[masked_BT].long())
    following = ids_BT.long().roll(-1, 1)  # the last row predicts nothing, and is cut off
    nats = _Nats.apply(output_BTV.flatten(0, 1), following.flatten())
    return nats.view(ids_BT.shape)[:, :-1]


class _Nats(torch.autograd.Function):
    """Cross-entropy of each row of logits [N, V], in pieces that stay in the cache: with torch's
    own, which goes through all logits in several passes, it was two fifths of a training step."""

    PIECE = 2**18  #: logits

    @staticmethod
    def forward(ctx, logits_NV: Tensor, target_N: Tensor) -> Tensor:
        rows = max(1, _Nats.PIECE // logits_NV.shape[1])
        total = torch.cat([piece.logsumexp(1) for piece in logits_NV.split(rows)])
        ctx.save_for_backward(logits_NV, target_N, total)
        return total - logits_NV.gather(1, target_N[:, None])[:, 0]

    @staticmethod
    def backward(ctx, grad_N: Tensor) -> tuple[Tensor, None]:
        logits_NV, target_N, total = ctx.saved_tensors
        grad_NV = torch.empty_like(logits_NV)
        rows = max(1, _Nats.PIECE // logits_NV.shape[1])
        parts = (t.split(rows) for t in (grad_NV, logits_NV, total[:, None], grad_N[:, None]))
        for out, logits, norm, grad in zip(*parts, strict=True):
            torch.sub(logits, norm, out=out).exp_().mul_(grad)
        return grad_NV.scatter_add_(1, target_N[:, None], -grad_N[:, None]), None


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
        patches = _patches(model, pictures[at : at + BATCH])
        masked = random_mask(len(patches), model.config.context, mask_ratio, [seed, at])
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
    hidden = hidden_words(filled, mask_ratio, seed)
    size = int(sizes[captions[hidden]].sum())
    own, other = (
        float(caption_nats(model, shown, captions, hidden, watch).sum() / np.log(2) / size)
        for shown in (pictures, np.roll(pictures, -1, axis=0))
    )
    return {
        "caption_bits_per_byte": own,
        "caption_bits_per_byte_other_picture": other,
        "caption_tokens": int(hidden.sum()),
        "caption_bytes": size,
    }


def hidden_words(filled: np.ndarray, mask_ratio: float = 0.5, seed: int = 0) -> np.ndarray:
    """[N, L] True where an evaluation hides a token of a caption."""
    return random_mask(*filled.shape, mask_ratio, [seed, 0]).numpy() & ~filled


@torch.inference_mode()
def caption_nats(
    model: Transformer,
    pictures: np.ndarray,
    captions: np.ndarray,
    hidden: np.ndarray,
    watch: Watch = lambda run: None,
) -> np.ndarray:
    """[N] cross-entropy of the ``hidden`` tokens of each caption, in nats, summed, beside whole
    pictures; arguments as in :func:`caption_metrics`."""
    found = []
    for at in range(0, len(pictures), BATCH):
        rows = slice(at, at + BATCH)
        patches = _patches(model, pictures[rows])
        caption = torch.from_numpy(captions[rows]).to(patches.device).long()
        tokens = torch.from_numpy(hidden[rows]).to(patches.device)
        run = model(patches, caption, masked=F.pad(tokens, (patches.shape[1], 0)))
        watch(run)
        nats = token_nats(run.caption, caption, tokens).double()
        found += [float(own.sum()) for own in nats.split(tokens.sum(1).tolist())]
    return np.array(found)


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
    captions: np.ndarray | None = None,
    with_vectors: bool = False,
) -> None:
    """Run the model on pictures, or pictures and ``captions`` [N, L], of which nothing is hidden,
    for what ``watch`` makes of it."""
    for at in range(0, len(pictures), BATCH):
        patches, caption = _patches(model, pictures[at : at + BATCH]), None
        if captions is not None:
            caption = torch.from_numpy(captions[at : at + BATCH]).to(patches.device).long()
        asked = {"what_if": what_if, "only_block": only_block, "with_vectors": with_vectors}
        watch(model(patches, caption, **asked))


def _patches(model: Transformer, pictures: np.ndarray) -> Tensor:
    """On the model's device."""
    return to_patches(pictures, model.config.patch).to(next(model.parameters()).device)


def chunks(model: Transformer, windows: np.ndarray) -> Iterator[Tensor]:
    """Token ids of ``BATCH`` windows at a time, on the model's device."""
    device = next(model.parameters()).device
    for at in range(0, len(windows), BATCH):
        yield torch.from_numpy(windows[at : at + BATCH]).to(device).long()
