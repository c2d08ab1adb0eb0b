"""PSPNet (Zhao et al., CVPR 2017): a dilated encoder at stride 8 and pyramid pooling on four grids."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scpseg.geometry import resize
from scpseg.params import SegmenterParams
from scpseg.segmenters.on_encoder import WithStageHead, block

BINS = (1, 2, 3, 6)
"""Sides of the pooled grids (paper)."""
WIDE, NARROW = 512, 128
"""Features if the deep map has more than 512 channels, as in ResNet-50, and otherwise, as in ResNet-18."""


class PSPNet(WithStageHead):
    """512 or 128 features at stride 8; without the published dropout before the classifier [ours]."""

    def __init__(self, params: SegmenterParams, classes: int) -> None:
        """Build from a section that passed `check_segmenter`.

        Raises:
            UserError: the ImageNet weights could not be downloaded.
        """
        super().__init__(params, classes)
        width = WIDE if self.deep_channels > 512 else NARROW
        self.feature_stride, self.feature_channels = self.deep_stride, width
        self.levels = nn.ModuleList(block(self.deep_channels, width) for _ in BINS)
        self.join = block(self.deep_channels + len(BINS) * width, width, 3)
        self.classifier = nn.Conv2d(width, classes, 1)

    def decode(self, encoded: list[Tensor]) -> Tensor:
        """The features, (B, 512 or 128, H/8, W/8)."""
        deep = encoded[-1]
        views = [deep]
        for bins, level in zip(BINS, self.levels, strict=True):
            views.append(resize(level(grid_means(deep, bins)), (deep.shape[-2], deep.shape[-1])))
        features: Tensor = self.join(torch.cat(views, dim=1))
        return features


def grid_means(maps: Tensor, bins: int) -> Tensor:
    """Average maps (B, C, h, w) of any size over the cells of a grid: (B, C, bins, bins).

    Equals adaptive average pooling, whose gradient has no deterministic CUDA kernel; the products with constant
    matrices used here have one.
    """
    rows, columns = (_bin_weights(side, bins, maps) for side in maps.shape[-2:])
    # The constant matrix is on the right: each product is one matrix product, without copies per channel.
    return ((maps @ columns.mT).mT @ rows.mT).mT


def _bin_weights(side: int, bins: int, like: Tensor) -> Tensor:
    """(bins, side): weight of each cell in the mean of a bin; bins overlap if `bins` does not divide `side`."""
    first = torch.arange(bins, device=like.device)
    start, stop = first * side // bins, ((first + 1) * side + bins - 1) // bins
    place = torch.arange(side, device=like.device)
    inside = (place >= start[:, None]) & (place < stop[:, None])
    return inside.to(like.dtype) / (stop - start)[:, None]
