"""Base classes of segmenters that put their own head on an encoder of segmentation-models-pytorch."""

from __future__ import annotations

from torch import Tensor, nn

from scpseg.geometry import resize
from scpseg.losses import cross_entropy
from scpseg.params import SegmenterParams
from scpseg.segmenters.base import Segmenter
from scpseg.segmenters.encoders import build_encoder

AUXILIARY = 0.4
"""Weight of the auxiliary cross-entropy (Zhao et al., CVPR 2017)."""


class OnEncoder(Segmenter):
    """The encoder and the properties of its maps; subclasses add decoder and classifier."""

    def __init__(self, params: SegmenterParams) -> None:
        """Build the encoder from a section that passed `check_segmenter`.

        Raises:
            UserError: the ImageNet weights could not be downloaded.
        """
        super().__init__()
        encoder, self.weights = build_encoder(params, params.encoder, params.output_stride)
        self.encoder = encoder
        self.channels: list[int] = list(encoder.out_channels)
        self.deep_stride, self.deep_channels = params.output_stride, self.channels[-1]
        self.low_stride, self.low_channels = 4, self.channels[2]


class WithStageHead(OnEncoder):
    """Adds, if `auxiliary` is set, an auxiliary head on the encoder's second last map (Zhao et al., CVPR 2017)."""

    training_parts = ("stage_head",)

    def __init__(self, params: SegmenterParams, classes: int) -> None:
        """Build encoder and auxiliary head from a section that passed `check_segmenter`.

        Raises:
            UserError: the ImageNet weights could not be downloaded.
        """
        super().__init__(params)
        channels = self.channels[-2]
        head = nn.Sequential(*block(channels, channels // 4, 3), nn.Conv2d(channels // 4, classes, 1))
        self.stage_head = head if params.auxiliary else None

    def auxiliary(
        self, encoded: list[Tensor], features: Tensor, logits: Tensor, target: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """'auxiliary': cross-entropy of the auxiliary head, with weight 0.4."""
        if self.stage_head is None:
            return {}
        guess = resize(self.stage_head(encoded[-2]), (target.shape[-2], target.shape[-1]))
        return {"auxiliary": AUXILIARY * cross_entropy(guess, target)}


def block(channels: int, width: int, kernel: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, batch norm, ReLU."""
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
