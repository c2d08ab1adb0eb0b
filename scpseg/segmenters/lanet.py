"""LANet (Ding et al., TGRS 2021): patch attention on a low-level and a high-level feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scpseg.geometry import resize
from scpseg.losses import cross_entropy
from scpseg.params import SegmenterParams
from scpseg.segmenters.on_encoder import OnEncoder, block

LOW, HIGH = 64, 128
"""Channels of the low-level and the high-level map."""
LOW_WINDOW, HIGH_WINDOW, EMBEDDING_WINDOW = 20, 4, 7
"""Sides, in cells, of the windows over which the attention averages."""


class LANet(OnEncoder):
    """192 features at stride 4: the low-level map and the upsampled high-level map.

    The published network classifies each map at its own stride and adds the upsampled logits. Upsampling first is the
    same up to the two steps of the interpolation, and gives a single feature map for other modules to use [ours].
    """

    classifier: TwoClassifiers

    def __init__(self, params: SegmenterParams, classes: int) -> None:
        """Build from a section that passed `check_segmenter`.

        Raises:
            UserError: the ImageNet weights could not be downloaded.
        """
        super().__init__(params)
        undilate(self.encoder)
        self.feature_stride, self.feature_channels = self.low_stride, LOW + HIGH
        self.low_block, self.low_attention = block(self.low_channels, LOW), PatchAttention(LOW, 8, LOW_WINDOW)
        self.high_block, self.high_attention = block(self.deep_channels, HIGH), PatchAttention(HIGH, 16, HIGH_WINDOW)
        self.embedding = _attention(HIGH, HIGH // 16, LOW)
        self.classifier = TwoClassifiers(classes)
        self.with_auxiliary = params.auxiliary

    def decode(self, encoded: list[Tensor]) -> Tensor:
        """Both maps, the low-level one first, (B, 64 + 128, H/4, W/4)."""
        high = self.high_attention(self.high_block(encoded[-1]))
        low = self.low_attention(self.low_block(encoded[2]))
        means = F.avg_pool2d(high.detach(), EMBEDDING_WINDOW, 1, EMBEDDING_WINDOW // 2, count_include_pad=False)
        size = (low.shape[-2], low.shape[-1])
        return torch.cat([low * resize(self.embedding(means), size), resize(high, size)], dim=1)

    def auxiliary(
        self, encoded: list[Tensor], features: Tensor, logits: Tensor, target: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """'high': cross-entropy of the high-level map, with weight (1 - progress)^2."""
        if not self.with_auxiliary:
            return {}
        guess = resize(self.classifier.high(features[:, LOW:]), (target.shape[-2], target.shape[-1]))
        return {"high": (1 - progress) ** 2 * cross_entropy(guess, target)}


class TwoClassifiers(nn.Module):
    """The sum of one classifier for each map: features (B, 192, h, w) to logits (B, K, h, w)."""

    def __init__(self, classes: int) -> None:
        """Build both classifiers."""
        super().__init__()
        self.low, self.high = nn.Conv2d(LOW, classes, 1), nn.Conv2d(HIGH, classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Add the logits."""
        scores: Tensor = self.low(features[:, :LOW]) + self.high(features[:, LOW:])
        return scores


class PatchAttention(nn.Module):
    """x + x * attention, with the attention of a window computed from its channel means.

    Windows of `window` x `window` cells start at the top left corner; those at the right and bottom edges contain the
    remaining cells [ours].
    """

    def __init__(self, channels: int, reduction: int, window: int) -> None:
        """Build for maps with `channels` channels; the attention has channels / reduction hidden units."""
        super().__init__()
        self.window = window
        self.attention = _attention(channels, channels // reduction, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Weight maps (B, C, h, w) of any size."""
        height, width = maps.shape[-2:]
        means = F.avg_pool2d(maps, self.window, ceil_mode=True)
        weights = self.attention(means)
        whole = (weights.shape[-2] * self.window, weights.shape[-1] * self.window)
        return maps + maps * resize(weights, whole)[..., :height, :width]


def undilate(encoder: nn.Module) -> None:
    """Replace dilated convolutions by plain ones, in place; the maps keep their size.

    The library lowers the output stride by removing strides and adding dilation; LANet removes strides only.
    """
    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d) and layer.dilation != (1, 1):
            assert isinstance(layer.padding, tuple)
            row, column = (pad // step for pad, step in zip(layer.padding, layer.dilation, strict=True))
            layer.padding, layer.dilation = (row, column), (1, 1)


def _attention(channels: int, hidden: int, out: int) -> nn.Sequential:
    # No batch norm: it fails on a map of one window in a training step with one patch [ours].
    return nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, out, 1), nn.Sigmoid())
