"""Pictures as rows of patches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: Pixels 0..1 are shifted and scaled to about zero mean and unit variance.
CENTRE, SPREAD = 0.45, 0.25


def to_patches(pictures: np.ndarray, patch: int) -> Tensor:
    """[B, side, side, 3] uint8 -> [B, T, patch*patch*3], patches row by row."""
    B, side, _, channels = pictures.shape
    n = side // patch
    x = torch.tensor(pictures).float().div(255).sub(CENTRE).div(SPREAD)
    x = x.view(B, n, patch, n, patch, channels).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(B, n * n, patch * patch * channels)


def from_patches(patches: Tensor, patch: int) -> np.ndarray:
    """The inverse of :func:`to_patches`, clipped to the pixel range."""
    B, T, values = patches.shape
    n = int(T**0.5)
    x = patches.reshape(B, n, n, patch, patch, values // patch**2).permute(0, 1, 3, 2, 4, 5)
    x = x.reshape(B, n * patch, n * patch, -1).mul(SPREAD).add(CENTRE)
    return x.clamp(0, 1).mul(255).round().to(torch.uint8).cpu().numpy()


def random_mask(batch: int, patches: int, ratio: float, seed: int | list[int]) -> Tensor:
    """[B, T] True for hidden patches, exactly round(ratio * T) in each row."""
    order = np.random.default_rng(seed).random((batch, patches)).argsort(1).argsort(1)
    return torch.from_numpy(order < round(ratio * patches))
