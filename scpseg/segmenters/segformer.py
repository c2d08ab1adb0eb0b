"""SegFormer (Xie et al., NeurIPS 2021) of segmentation-models-pytorch, with its encoders mit_b0 to mit_b5.

The encoder in that library is under NVIDIA's Source Code License: research and evaluation only.
"""

from __future__ import annotations

from torch import Tensor

from scpseg.params import SegmenterParams
from scpseg.segmenters.base import Segmenter
from scpseg.segmenters.encoders import fetching, library_weights, weights_of

VARIANTS = tuple(f"mit_b{size}" for size in range(6))


class SegFormer(Segmenter):
    """Four transformer maps, projected to one width, resized to stride 4 and fused: 256 features at stride 4."""

    def __init__(self, params: SegmenterParams, classes: int) -> None:
        """Build from a section that passed `check_segmenter`.

        Raises:
            UserError: the ImageNet weights could not be downloaded.
        """
        super().__init__()
        import segmentation_models_pytorch as smp

        with fetching(params):
            model = smp.Segformer(params.encoder, encoder_weights=library_weights(params), classes=classes)
        self.encoder = model.encoder
        self.decoder = model.decoder
        self.classifier = model.segmentation_head[0]
        self.weights = weights_of(params, model.encoder)
        self.feature_stride, self.feature_channels = 4, model.segmentation_head[0].in_channels
        self.deep_stride, self.deep_channels = params.output_stride, model.encoder.out_channels[-1]
        self.low_stride, self.low_channels = 4, model.encoder.out_channels[2]

    def decode(self, encoded: list[Tensor]) -> Tensor:
        """The fused features, (B, 256, H/4, W/4)."""
        features: Tensor = self.decoder(encoded)
        return features
