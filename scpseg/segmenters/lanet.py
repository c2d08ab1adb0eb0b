"""LANet (Ding et al., TGRS 2021): a low and a deep map, each weighed by the means of its own surroundings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scpseg.geometry import resize
from scpseg.losses import cross_entropy
from scpseg.params import SegmenterParams
from scpseg.segmenters.on_encoder import OnEncoder, block

LOW, HIGH = 64, 128
"""Channels of the two maps."""
LOW_WINDOW, HIGH_WINDOW, EMBEDDING_WINDOW = 20, 4, 7
"""Sides in cells of the windows whose means give the attention."""


class LANet(OnEncoder):
    """192 features at stride 4: the low map and, enlarged, the high one.

    The published network classifies each map at its own stride and adds the enlarged scores; enlarging first gives
    the same up to the two steps of the enlargement, and one map that can be tapped [ours].
    """

    classifier: TwoClassifiers

    def __init__(self, params: SegmenterParams, classes: int) -> None:
        """Build from a checked section.

        Raises:
            UserError: ImageNet weights could not be fetched.
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
        """The two maps, low before high, (B, 64 + 128, H/4, W/4)."""
        high = self.high_attention(self.high_block(encoded[-1]))
        low = self.low_attention(self.low_block(encoded[2]))
        means = F.avg_pool2d(high.detach(), EMBEDDING_WINDOW, 1, EMBEDDING_WINDOW // 2, count_include_pad=False)
        size = (low.shape[-2], low.shape[-1])
        return torch.cat([low * resize(self.embedding(means), size), resize(high, size)], dim=1)

    def auxiliary(
        self, encoded: list[Tensor], features: Tensor, logits: Tensor, target: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Cross-entropy 'high' of the high map alone, whose weight falls as (1 - progress)^2."""
        if not self.with_auxiliary:
            return {}
        guess = resize(self.classifier.high(features[:, LOW:]), (target.shape[-2], target.shape[-1]))
        return {"high": (1 - progress) ** 2 * cross_entropy(guess, target)}


class TwoClassifiers(nn.Module):
    """The sum of a classifier of the low and one of the high map: features (B, 192, h, w) to scores (B, K, h, w)."""

    def __init__(self, classes: int) -> None:
        """Build both."""
        super().__init__()
        self.low, self.high = nn.Conv2d(LOW, classes, 1), nn.Conv2d(HIGH, classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Add the scores."""
        scores: Tensor = self.low(features[:, :LOW]) + self.high(features[:, LOW:])
        return scores


class PatchAttention(nn.Module):
    """x + x * attention, the attention of a window coming from the means of its channels.

    Windows of `window` x `window` cells lie side by side from the top left corner; at the right and at the bottom
    edge a window that does not fit holds the cells that are left [ours].
    """

    def __init__(self, channels: int, reduction: int, window: int) -> None:
        """Build for maps of `channels`; the attention has channels / reduction hidden values."""
        super().__init__()
        self.window = window
        self.attention = _attention(channels, channels // reduction, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, C, h, w) of any size, weighed."""
        height, width = maps.shape[-2:]
        means = F.avg_pool2d(maps, self.window, ceil_mode=True)
        weights = self.attention(means)
        whole = (weights.shape[-2] * self.window, weights.shape[-1] * self.window)
        return maps + maps * resize(weights, whole)[..., :height, :width]


def undilate(encoder: nn.Module) -> None:
    """Make dilated convolutions plain ones, in place; maps keep their size.

    The library reaches a lower output stride by dilation instead of strides, LANet only by fewer strides.
    """
    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d) and layer.dilation != (1, 1):
            assert isinstance(layer.padding, tuple)
            row, column = (pad // step for pad, step in zip(layer.padding, layer.dilation, strict=True))
            layer.padding, layer.dilation = (row, column), (1, 1)


def _attention(channels: int, hidden: int, out: int) -> nn.Sequential:
    # Without batch norm, which a map of one window could not pass in a step on one patch [ours].
    return nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, out, 1), nn.Sigmoid())
