"""FCN-8s as its field uses the name [ours]: a dilated encoder at stride 8 and three 1x1 convolutions, no skips."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from scpseg.params import SegmenterParams
from scpseg.segmenters.base import Segmenter
from scpseg.segmenters.encoders import fetching, library_weights, weights_of

WIDTH = 128


class FCN8s(Segmenter):
    """128 features at stride 8, enlarged bilinearly."""

    def __init__(self, params: SegmenterParams, classes: int) -> None:
        """Build from a checked section.

        Raises:
            UserError: ImageNet weights could not be fetched.
        """
        super().__init__()
        import segmentation_models_pytorch as smp

        with fetching(params):
            encoder: Any = smp.encoders.get_encoder(
                params.encoder, weights=library_weights(params), output_stride=params.output_stride
            )
        self.encoder = encoder
        self.weights = weights_of(params, encoder)
        self.deep_stride, self.deep_channels = params.output_stride, encoder.out_channels[-1]
        self.low_stride, self.low_channels = 4, encoder.out_channels[2]
        self.feature_stride, self.feature_channels = self.deep_stride, WIDTH
        self.decoder = nn.Sequential(*_block(self.deep_channels), *_block(WIDTH))
        self.classifier = nn.Conv2d(WIDTH, classes, 1)

    def decode(self, encoded: list[Tensor]) -> Tensor:
        """The last features, (B, 128, H/8, W/8)."""
        features: Tensor = self.decoder(encoded[-1])
        return features


def _block(channels: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return nn.Conv2d(channels, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True)
