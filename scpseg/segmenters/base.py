"""Base class of the segmenters: an encoder, a decoder and a classifier, each of which can be called alone."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scpseg.contract import Weights
from scpseg.losses import cross_entropy


class Segmenter(nn.Module, ABC):
    """An encoder, a decoder and a 1x1 classifier. Strides are in input pixels.

    Attributes:
        encoder: returns its feature maps, from full resolution to the deepest.
        classifier: maps `feature_channels` channels to K logits.
        feature_stride: stride of the output of `decode`.
        feature_channels: channels of the output of `decode`.
        deep_stride: stride of the encoder's last feature map.
        deep_channels: channels of the encoder's last feature map.
        low_stride: stride of the low-level feature map that a second decoder may use.
        low_channels: channels of that map.
        weights: the encoder's initial weights.
        training_parts: names of children that only training uses, such as an auxiliary head, which are None otherwise.
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
        """The features before the classifier, (B, feature_channels, H / feature_stride, W / feature_stride)."""

    def classify(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Classify the features and upsample bilinearly to logits (B, K, *size)."""
        return F.interpolate(self.classifier(features), size=size, mode="bilinear", align_corners=False)

    def deep(self, encoded: list[Tensor]) -> Tensor:
        """The encoder's last feature map, (B, deep_channels, H / deep_stride, W / deep_stride)."""
        return encoded[-1]

    def low(self, encoded: list[Tensor]) -> Tensor:
        """The low-level feature map, (B, low_channels, H / low_stride, W / low_stride)."""
        return encoded[2]

    def losses(self, encoded: list[Tensor], features: Tensor, target: Tensor, progress: float) -> dict[str, Tensor]:
        """Training losses by name: 'ce', the same cross-entropy for every segmenter [paper], and auxiliary losses.

        Args:
            encoded: output of `encode`.
            features: output of `decode`.
            target: (B, H, W) uint8 training ids at the size of the images, 255 = ignore.
            progress: 0..1, position in the current phase of training.
        """
        height, width = target.shape[-2:]
        logits = self.classify(features, (height, width))
        main = cross_entropy(logits, target)
        return {"ce": main, **self.auxiliary(encoded, features, logits, target, progress)}

    def auxiliary(
        self, encoded: list[Tensor], features: Tensor, logits: Tensor, target: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Weighted auxiliary losses by name, if the published segmenter has any; `logits` are (B, K, H, W)."""
        return {}

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K, H, W) of normalised images (B, 3, H, W)."""
        height, width = images.shape[-2:]
        return self.classify(self.decode(self.encode(images)), (height, width))


def normalise(windows: Tensor, weights: Weights) -> Tensor:
    """Normalise windows (B, 3, H, W), uint8 or float in 0..255, as the encoder's weights expect.

    Uses Python numbers instead of a constant tensor, so that nothing is copied to the device.
    """
    channels = zip(windows.unbind(1), weights.mean, weights.std, strict=True)
    return torch.stack([channel * (1 / (255 * std)) - mean / std for channel, mean, std in channels], dim=1)
