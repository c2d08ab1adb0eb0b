"""FCN with the wide head of mmsegmentation, the other interpretation of the paper's 'FCN-8s ResNet-50'."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scpseg.params import SegmenterParams
from scpseg.segmenters.on_encoder import WithStageHead, block

WIDTH = 512


class FCN(WithStageHead):
    """Two 3x3 convolutions, concatenation with their input, a third 3x3 convolution: 512 features at stride 8."""

    def __init__(self, params: SegmenterParams, classes: int) -> None:
        """Build from a section that passed `check_segmenter`.

        Raises:
            UserError: the ImageNet weights could not be downloaded.
        """
        super().__init__(params, classes)
        self.feature_stride, self.feature_channels = self.deep_stride, WIDTH
        self.decoder = nn.Sequential(block(self.deep_channels, WIDTH, 3), block(WIDTH, WIDTH, 3))
        self.join = block(self.deep_channels + WIDTH, WIDTH, 3)
        self.classifier = nn.Conv2d(WIDTH, classes, 1)

    def decode(self, encoded: list[Tensor]) -> Tensor:
        """The features, (B, 512, H/8, W/8)."""
        features: Tensor = self.join(torch.cat([encoded[-1], self.decoder(encoded[-1])], dim=1))
        return features
