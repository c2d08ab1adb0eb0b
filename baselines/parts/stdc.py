"""Stem of STDC (Fan et al., CVPR 2021): cheap high-resolution features down to stride 16.

ISDNet and RUE both use it; it is in the library because rivals do not import each other. It starts from random
weights: no library that this project uses has the authors' ImageNet weights [ours].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scpseg.segmenters.blocks import normed


class STDCStem(nn.Module):
    """Two 3x3 with stride 2 (32 and 64 channels), two blocks of 256 at stride 8, two of 512 at stride 16."""

    channels = (256, 512)

    def __init__(self, inputs: int) -> None:
        """Build for images with `inputs` channels."""
        super().__init__()
        self.start = nn.Sequential(*_activated(inputs, 32, 3, 2), *_activated(32, 64, 3, 2))
        self.stages = nn.ModuleList(
            nn.Sequential(DetailBlock(before, width, 2), DetailBlock(width, width, 1))
            for before, width in zip((64, *self.channels), self.channels, strict=False)
        )

    def forward(self, images: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """From (B, inputs, H, W) to (B, 256, H/8, W/8) and (B, 512, H/16, W/16), sides rounded up.

        `images` makes the input, because whoever passes a tensor keeps it, and only the first layer needs it.
        """
        x = self.start[0](images())
        for layer in self.start[1:]:
            x = layer(x)
        fine = self.stages[0](x)
        del x
        return fine, self.stages[1](fine)


class DetailBlock(nn.Module):
    """1x1 to half of the channels, then 3x3 to a quarter, an eighth and an eighth; all four are concatenated."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """With stride 2, average pooling halves the first part, and a depthwise 3x3 the input of the others."""
        super().__init__()
        half, quarter, eighth = outputs // 2, outputs // 4, outputs // 8
        self.first = nn.Sequential(*_activated(inputs, half, 1))
        self.halve = normed(half, half, 3, 2, groups=half) if stride == 2 else None
        self.rest = nn.ModuleList(
            nn.Sequential(*_activated(before, after, 3))
            for before, after in ((half, quarter), (quarter, eighth), (eighth, eighth))
        )

    def forward(self, x: Tensor) -> Tensor:
        """From (B, inputs, h, w) to (B, outputs, h / stride, w / stride), rounded up."""
        x = self.first(x)
        maps = [x]
        if self.halve is not None:
            maps = [F.avg_pool2d(x, 3, 2, 1)]
            x = self.halve(x)
        for convolution in self.rest:
            x = convolution(x)
            maps.append(x)
        return torch.cat(maps, dim=1)


def _activated(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [*normed(inputs, outputs, kernel, stride), nn.ReLU(inplace=True)]
