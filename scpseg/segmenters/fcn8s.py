"""FCN-8s as its field uses the name [ours]: a dilated encoder at stride 8 and three 1x1 convolutions, no skips."""

from __future__ import annotations

from torch import Tensor, nn

from scpseg.params import SegmenterParams
from scpseg.segmenters.on_encoder import OnEncoder, block

WIDTH = 128


class FCN8s(OnEncoder):
    """128 features at stride 8, upsampled bilinearly."""

    def __init__(self, params: SegmenterParams, classes: int) -> None:
        """Build from a section that passed `check_segmenter`.

        Raises:
            UserError: the ImageNet weights could not be downloaded.
        """
        super().__init__(params)
        self.feature_stride, self.feature_channels = self.deep_stride, WIDTH
        self.decoder = nn.Sequential(*block(self.deep_channels, WIDTH), *block(WIDTH, WIDTH))
        self.classifier = nn.Conv2d(WIDTH, classes, 1)

    def decode(self, encoded: list[Tensor]) -> Tensor:
        """The features, (B, 128, H/8, W/8)."""
        features: Tensor = self.decoder(encoded[-1])
        return features
