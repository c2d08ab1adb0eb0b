"""Losses that are also deterministic on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from scpseg import IGNORE_INDEX, parallel


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over valid pixels.

    Computed as logsumexp minus gather, because torch's cross-entropy on maps has no deterministic CUDA kernel.

    Args:
        logits: (B, K, H, W) float.
        labels: (B, H, W) uint8 training ids; 255 is ignored.

    Returns:
        Scalar: sum over valid pixels / max(1, number of valid pixels), so that an all-ignored batch gives 0.
    """
    valid = labels != IGNORE_INDEX
    target = torch.where(valid, labels, 0).long().unsqueeze(1)
    logits = logits.float()
    pixel = torch.logsumexp(logits, dim=1) - logits.gather(1, target).squeeze(1)
    return torch.where(valid, pixel, 0.0).sum() / parallel.denominator(valid.sum())


def focal(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Mean focal loss (Lin et al., ICCV 2017, without class weights) over valid pixels.

    Args:
        logits: (B, K, h, w) float.
        labels: (B, H, W) uint8 training ids, sampled at the centres of the h x w cells; 255 is ignored.
        gamma: focusing parameter; 0 gives the cross-entropy.

    Returns:
        Scalar: sum of (1 - p)^gamma * -log p over valid cells / max(1, number of valid cells).
    """
    height, width = logits.shape[-2:]
    labels = nearest(labels, (height, width))
    valid = labels != IGNORE_INDEX
    target = torch.where(valid, labels, 0).long().unsqueeze(1)
    logits = logits.float()
    log_likely = logits.gather(1, target).squeeze(1) - torch.logsumexp(logits, dim=1)
    # expm1 keeps 1 - p exact near p = 1; clamped because rounding can give values below 0, where the gradient is NaN.
    unsure = (-torch.expm1(log_likely)).clamp(min=0)
    return torch.where(valid, -(unsure**gamma) * log_likely, 0.0).sum() / parallel.denominator(valid.sum())


def nearest(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (B, H, W) at the centres of the cells of `size`, as nearest-exact interpolation selects them."""
    rows, columns = (
        ((torch.arange(cells, device=labels.device) + 0.5) * side / cells).long()
        for cells, side in zip(size, labels.shape[-2:], strict=True)
    )
    return labels[:, rows[:, None], columns]
