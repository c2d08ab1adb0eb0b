"""Pooling pyramids of the context branches: DAPPM (DDRNet, PIDNet-L) and PAPPM (PIDNet-S, -M)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scpseg.geometry import resize
from scpseg.segmenters.blocks import activated

POOLS = ((5, 2), (9, 4), (17, 8))
"""Window and stride, in cells, of the average pooling; padding zeros count, as in the authors' networks."""


class Pyramid(nn.Module, ABC):
    """The map and its averages over windows of 5, 9 and 17 cells and over all cells, each reduced by 1x1 to `width`.

    Subclasses combine these five; then all are concatenated, reduced by 1x1 to `outputs`, and a 1x1 shortcut is added.
    """

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        """The pooled branches are normalised first, so a training step needs more than one window."""
        super().__init__()
        self.branches = nn.ModuleList(activated(inputs, width, 1) for _ in range(len(POOLS) + 2))
        self.fuse = activated((len(POOLS) + 2) * width, outputs, 1)
        self.shortcut = activated(inputs, outputs, 1)

    @abstractmethod
    def meet(self, own: Tensor, pooled: list[Tensor]) -> list[Tensor]:
        """Combine the map's own branch and the four pooled, upsampled ones into five maps (B, width, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        """From (B, inputs, h, w) to (B, outputs, h, w)."""
        averages = [F.avg_pool2d(x, window, stride, window // 2) for window, stride in POOLS]
        averages.append(x.mean(dim=(2, 3), keepdim=True))
        own, *others = self.branches
        size = (x.shape[-2], x.shape[-1])
        pooled = [resize(branch(average), size) for branch, average in zip(others, averages, strict=True)]
        fused: Tensor = self.fuse(torch.cat(self.meet(own(x), pooled), dim=1)) + self.shortcut(x)
        return fused


class DAPPM(Pyramid):
    """Stepwise: each average is added to the previous result, then 3x3 (Hong et al., 2021)."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        """One 3x3 convolution per average."""
        super().__init__(inputs, width, outputs)
        self.steps = nn.ModuleList(activated(width, width, 3) for _ in range(len(POOLS) + 1))

    def meet(self, own: Tensor, pooled: list[Tensor]) -> list[Tensor]:
        """Add each average to the previous result."""
        results = [own]
        for step, average in zip(self.steps, pooled, strict=True):
            results.append(step(average + results[-1]))
        return results


class PAPPM(Pyramid):
    """Parallel: each average is added to the map, then one 3x3 convolution in four groups (Xu et al., CVPR 2023)."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        """One grouped 3x3 convolution for all averages."""
        super().__init__(inputs, width, outputs)
        count = len(POOLS) + 1
        self.step = activated(count * width, count * width, 3, groups=count)

    def meet(self, own: Tensor, pooled: list[Tensor]) -> list[Tensor]:
        """Add each average to the map."""
        return [own, self.step(torch.cat([average + own for average in pooled], dim=1))]
