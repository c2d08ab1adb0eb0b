"""GLNet's feature pyramid (Chen et al., CVPR 2019), alone or connected to the pyramid of another branch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from scpseg.geometry import Size, resize

LEVELS = 4
RESNET50 = (256, 512, 1024, 2048)
WIDTH = 256
"""Channels of the encoder maps C2..C5 and of the pyramid in the paper."""

Partner = Callable[[int, int, Size], Tensor]
"""(stage 0..3, level 0..3, size) -> the other branch's map of that stage and level, resized to that size."""


class FPN(nn.Module):
    """Four levels, five stages. Every convolution has a bias; neither normalisation nor activation follows it.

    Stage 0: the encoder's C2..C5. Stage 1: 1x1 to `width` channels and top-down sums. Stage 2: 3x3. Stage 3: 3x3 to
    width / 2. Stage 4: all levels resized to C2 and concatenated (`joined` channels). If the branches share features,
    each convolution reads the concatenation with the other branch's map, and a last 3x3 reduces to `joined` channels.
    """

    def __init__(self, channels: list[int], classes: int, width: int, shared: bool) -> None:
        """Build for C2..C5 with `channels` channels; the paper has width 256; `shared` connects two equal pyramids."""
        super().__init__()
        twice = 2 if shared else 1
        half = width // 2
        self.joined = LEVELS * half
        self.shared = shared
        self.lateral = nn.ModuleList(nn.Conv2d(twice * count, width, 1) for count in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(twice * width, width, 3, padding=1) for _ in channels)
        self.narrow = nn.ModuleList(nn.Conv2d(twice * width, half, 3, padding=1) for _ in channels)
        self.join = nn.Conv2d(2 * self.joined, self.joined, 3, padding=1) if shared else nn.Identity()
        self.classifier = nn.Conv2d(self.joined, classes, 3, padding=1)
        for part, count, original in zip(self.lateral, channels, RESNET50, strict=True):
            initialise(part, original / count)
        for part in (*self.smooth, *self.narrow, self.join, self.classifier):
            initialise(part, WIDTH / width)

    def stages(self, encoded: list[Tensor], partner: Partner | None = None) -> Iterator[list[Tensor]]:
        """Yield the five stages in order: four lists of four maps, then a list with the concatenated map.

        A stage is freed once the caller drops it, so a branch that needs the last stage only uses little memory.

        Args:
            encoded: C2..C5, each (B, channels, h, w).
            partner: returns the other branch's maps one by one; given if and only if the pyramid is shared.
        """
        assert (partner is not None) == self.shared

        def met(maps: list[Tensor], stage: int, level: int) -> Tensor:
            if partner is None:
                return maps[level]
            size = (maps[level].shape[-2], maps[level].shape[-1])
            return torch.cat([maps[level], partner(stage, level, size)], dim=1)

        maps = encoded
        yield maps
        maps = [lateral(met(maps, 0, level)) for level, lateral in enumerate(self.lateral)]
        for level in range(LEVELS - 2, -1, -1):
            maps[level] = maps[level] + resize(maps[level + 1], (maps[level].shape[-2], maps[level].shape[-1]))
        yield maps
        maps = [smooth(met(maps, 1, level)) for level, smooth in enumerate(self.smooth)]
        yield maps
        maps = [narrow(met(maps, 2, level)) for level, narrow in enumerate(self.narrow)]
        yield maps
        size = (maps[0].shape[-2], maps[0].shape[-1])
        yield [self.join(torch.cat([resize(met(maps, 3, level), size) for level in range(LEVELS)], dim=1))]


def initialise(layer: nn.Module, original: float) -> None:
    """Initialise a convolution from N(0, 0.01) with bias 0; other layers are unchanged.

    Args:
        layer: the convolution.
        original: the paper's number of input channels divided by the layer's. [ours] The standard deviation is
            multiplied by its square root, so that a narrow pyramid, which has no normalisation, keeps the signal's
            scale.
    """
    if isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight, std=0.01 * math.sqrt(original))
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
