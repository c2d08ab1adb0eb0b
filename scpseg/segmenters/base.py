"""What a base segmenter is: an encoder, a decoder and a classifier that can be tapped in between."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scpseg.contract import Weights
from scpseg.losses import cross_entropy


class Segmenter(nn.Module, ABC):
    """An encoder, a decoder and a 1x1 classifier; strides are counted in input pixels.

    Attributes:
        encoder: gives its feature maps from full size to the deepest.
        classifier: `feature_channels` to K.
        feature_stride: of what `decode` returns.
        feature_channels: of what `decode` returns.
        deep_stride: of the encoder's last map.
        deep_channels: of the encoder's last map.
        low_stride: of the low-level map that a second decoder may use.
        low_channels: of that map.
        weights: what the encoder started from.
        training_parts: names of children that only training uses, such as an auxiliary head; None when testing.
    """

    encoder: nn.Module
    classifier: nn.Module
    feature_stride: int
    feature_channels: int
    deep_stride: int
    deep_channels: int
    low_stride: int
    low_channels: int
    weights: Weights
    training_parts: tuple[str, ...] = ()

    def encode(self, images: Tensor) -> list[Tensor]:
        """Feature maps of normalised images (B, 3, H, W); H and W are multiples of `deep_stride`."""
        encoded: list[Tensor] = self.encoder(images)
        return encoded

    @abstractmethod
    def decode(self, encoded: list[Tensor]) -> Tensor:
        """The last features before the classifier, (B, feature_channels, H / feature_stride, W / feature_stride)."""

    def classify(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (B, K, *size): the classifier, then bilinear enlargement."""
        return F.interpolate(self.classifier(features), size=size, mode="bilinear", align_corners=False)

    def deep(self, encoded: list[Tensor]) -> Tensor:
        """The encoder's last map, (B, deep_channels, H / deep_stride, W / deep_stride)."""
        return encoded[-1]

    def low(self, encoded: list[Tensor]) -> Tensor:
        """The low-level map, (B, low_channels, H / low_stride, W / low_stride)."""
        return encoded[2]

    def losses(self, encoded: list[Tensor], features: Tensor, target: Tensor, progress: float) -> dict[str, Tensor]:
        """What training minimises: 'ce', plain cross-entropy for every segmenter [paper], and auxiliary losses.

        Args:
            encoded: from `encode`.
            features: from `decode`.
            target: (B, H, W) uint8 training ids at the size of the images, 255 = ignore.
            progress: 0..1 of the training's phase.
        """
        height, width = target.shape[-2:]
        logits = self.classify(features, (height, width))
        main = cross_entropy(logits, target)
        return {"ce": main, **self.auxiliary(encoded, features, logits, target, progress)}

    def auxiliary(
        self, encoded: list[Tensor], features: Tensor, logits: Tensor, target: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Weighted losses by name beside the main one, where the published segmenter has any; `logits` (B, K, H, W)."""
        return {}

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K, H, W) of normalised images (B, 3, H, W)."""
        height, width = images.shape[-2:]
        return self.classify(self.decode(self.encode(images)), (height, width))


def normalise(windows: Tensor, weights: Weights) -> Tensor:
    """Windows (B, 3, H, W), uint8 or float, 0..255, normalised to float as the encoder's weights expect.

    Plain numbers instead of a constant tensor: nothing has to be copied to the device.
    """
    channels = zip(windows.unbind(1), weights.mean, weights.std, strict=True)
    return torch.stack([channel * (1 / (255 * std)) - mean / std for channel, mean, std in channels], dim=1)
