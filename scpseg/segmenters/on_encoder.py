"""What segmenters with a head of their own on an encoder of segmentation-models-pytorch share."""

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
    """The encoder and what is known of its maps; a subclass adds decoder and classifier."""

    def __init__(self, params: SegmenterParams) -> None:
        """Build the encoder from a checked section.

        Raises:
            UserError: ImageNet weights could not be fetched.
        """
        super().__init__()
        encoder, self.weights = build_encoder(params, params.encoder, params.output_stride)
        self.encoder = encoder
        self.channels: list[int] = list(encoder.out_channels)
        self.deep_stride, self.deep_channels = params.output_stride, self.channels[-1]
        self.low_stride, self.low_channels = 4, self.channels[2]


class WithStageHead(OnEncoder):
    """Beside it, where asked for, an auxiliary head on the encoder's last map but one (Zhao et al., CVPR 2017)."""

    training_parts = ("stage_head",)

    def __init__(self, params: SegmenterParams, classes: int) -> None:
        """Build encoder and auxiliary head from a checked section.

        Raises:
            UserError: ImageNet weights could not be fetched.
        """
        super().__init__(params)
        channels = self.channels[-2]
        head = nn.Sequential(*block(channels, channels // 4, 3), nn.Conv2d(channels // 4, classes, 1))
        self.stage_head = head if params.auxiliary else None

    def auxiliary(
        self, encoded: list[Tensor], features: Tensor, logits: Tensor, target: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Cross-entropy 'auxiliary' of that head, weight 0.4."""
        if self.stage_head is None:
            return {}
        guess = resize(self.stage_head(encoded[-2]), (target.shape[-2], target.shape[-1]))
        return {"auxiliary": AUXILIARY * cross_entropy(guess, target)}


def block(channels: int, width: int, kernel: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, batch norm, ReLU."""
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
