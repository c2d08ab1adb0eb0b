"""Super-resolution decoder (paper, equations 5-6; the layers are ours): reconstructs the patch, in training only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scpseg.method.csm import Sizes, centre
from scpseg.segmenters.base import Segmenter
from scpseg.validation import NonNegative

DEEP, LOW, MIDDLE, LAST = 128, 48, 64, 32
"""Channels of the deep and the low-level map on entry, after an upsampling block, and after the last one."""


@dataclass(frozen=True)
class SRDParams:
    """Section `srd`: `weight` of the loss (0.5 in the paper); 0 disables the decoder."""

    weight: NonNegative


class SuperResolutionDecoder(nn.Module):
    """Reconstructs the patch in full detail from the encoder's maps of the squeezed window.

    The deep map is upsampled by 2 until a cell is two pixels wide, and fused with the low-level map where the strides
    are equal. Then the part that shows the patch is cropped and resized to L/2, and a last learned block upsamples it
    to full resolution.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        """Use the channels and strides of the segmenter.

        Raises:
            ValueError: the strides are not powers of two with 2 < low <= deep.
        """
        super().__init__()
        self.deep_stride, self.low_stride = segmenter.deep_stride, segmenter.low_stride
        if not 2 < self.low_stride <= self.deep_stride or any(
            stride & (stride - 1) for stride in (self.low_stride, self.deep_stride)
        ):
            raise ValueError(f"strides {self.low_stride}, {self.deep_stride} must be powers of 2 with 2 < low <= deep")
        self.deep = _block(nn.Conv2d(segmenter.deep_channels, DEEP, 3, padding=1, bias=False))
        self.low = _block(nn.Conv2d(segmenter.low_channels, LOW, 1, bias=False))
        doublings, channels = [], DEEP
        for step in range(int(math.log2(self.deep_stride)) - 1):
            joins = self.deep_stride >> step == self.low_stride
            doublings.append(_doubling(channels + LOW * joins, MIDDLE))
            channels = MIDDLE
        self.doublings = nn.ModuleList(doublings)
        self.last = _doubling(MIDDLE, LAST)
        self.rgb = nn.Conv2d(LAST, 3, 3, padding=1)

    def features(self, deep: Tensor, low: Tensor, sizes: Sizes) -> Tensor:
        """The last features (B, 32, L, L) of the patch, from maps (B, C, L/stride, L/stride) of the squeezed window."""
        x = self.deep(deep)
        stride = self.deep_stride
        for doubling in self.doublings:
            if stride == self.low_stride:
                x = torch.cat([x, self.low(low)], dim=1)
            x = doubling(x)
            stride //= 2
        half = sizes.patch // 2
        x = F.interpolate(centre(x, sizes), size=(half, half), mode="bilinear", align_corners=False)
        features: Tensor = self.last(x)
        return features

    def forward(self, features: Tensor) -> Tensor:
        """The normalised RGB patch (B, 3, L, L) from `features`."""
        picture: Tensor = self.rgb(features)
        return picture


def _block(layer: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU(inplace=True))


def _doubling(channels: int, out: int) -> nn.Sequential:
    # A kernel of 4 at stride 2 covers every pixel equally often, which avoids checkerboard patterns.
    return _block(nn.ConvTranspose2d(channels, out, 4, stride=2, padding=1, bias=False))
