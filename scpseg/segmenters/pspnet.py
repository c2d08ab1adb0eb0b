"""PSPNet (Zhao et al., CVPR 2017): a dilated encoder at stride 8, its last map seen at four coarser grids as well."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scpseg.geometry import resize
from scpseg.params import SegmenterParams
from scpseg.segmenters.on_encoder import WithStageHead, block

BINS = (1, 2, 3, 6)
"""Sides of the pooled grids (paper)."""
WIDE, NARROW = 512, 128
"""Features on deep maps of more than 512 channels, as of ResNet-50, and of fewer, as of ResNet-18."""


class PSPNet(WithStageHead):
    """512 or 128 features at stride 8; the published dropout before the classifier is left out [ours]."""

    def __init__(self, params: SegmenterParams, classes: int) -> None:
        """Build from a checked section.

        Raises:
            UserError: ImageNet weights could not be fetched.
        """
        super().__init__(params, classes)
        width = WIDE if self.deep_channels > 512 else NARROW
        self.feature_stride, self.feature_channels = self.deep_stride, width
        self.levels = nn.ModuleList(block(self.deep_channels, width) for _ in BINS)
        self.join = block(self.deep_channels + len(BINS) * width, width, 3)
        self.classifier = nn.Conv2d(width, classes, 1)

    def decode(self, encoded: list[Tensor]) -> Tensor:
        """The last features, (B, 512 or 128, H/8, W/8)."""
        deep = encoded[-1]
        views = [deep]
        for bins, level in zip(BINS, self.levels, strict=True):
            views.append(resize(level(grid_means(deep, bins)), (deep.shape[-2], deep.shape[-1])))
        features: Tensor = self.join(torch.cat(views, dim=1))
        return features


def grid_means(maps: Tensor, bins: int) -> Tensor:
    """Means (B, C, bins, bins) over the cells of a grid laid on maps (B, C, h, w) of any size.

    The same means as adaptive average pooling, whose gradient has no deterministic CUDA kernel: two products with
    constant matrices have one.
    """
    rows, columns = (_bin_weights(side, bins, maps) for side in maps.shape[-2:])
    # Constant on the right: each product is then one matrix product, and nothing is copied per channel.
    return ((maps @ columns.mT).mT @ rows.mT).mT


def _bin_weights(side: int, bins: int, like: Tensor) -> Tensor:
    """(bins, side): what each of `side` places weighs in the mean of a bin; bins overlap where they do not divide."""
    first = torch.arange(bins, device=like.device)
    start, stop = first * side // bins, ((first + 1) * side + bins - 1) // bins
    place = torch.arange(side, device=like.device)
    inside = (place >= start[:, None]) & (place < stop[:, None])
    return inside.to(like.dtype) / (stop - start)[:, None]
