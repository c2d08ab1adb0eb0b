"""DDRNet (Hong, Pan, Sun, Jia, 2021): a detail branch at stride 8 and a context branch down to stride 64.

The layout is that of the authors' repository. [ours] Cross-entropy replaces their hard-example mining, also in the
auxiliary loss.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from scpseg.contract import Weights
from scpseg.geometry import resize
from scpseg.losses import cross_entropy
from scpseg.params import SegmenterParams
from scpseg.segmenters.base import Segmenter
from scpseg.segmenters.blocks import bottleneck, head, hidden, normed, stage, stem
from scpseg.segmenters.pyramids import DAPPM

AUXILIARY = 0.4
"""Weight of the auxiliary cross-entropy."""
POOLED = 128
"""Channels of each branch of the pooling pyramid."""


@dataclass(frozen=True)
class Variant:
    """Channels: `width` of the stem, `head` of the head's hidden map, whose output are the features."""

    width: int
    head: int


VARIANTS = {"ddrnet-23-slim": Variant(32, 64), "ddrnet-23": Variant(64, 128)}
"""By encoder name, smallest first."""


class DDRNet(Segmenter):
    """64 features (128 in DDRNet-23) at stride 8; starts from random weights.

    Attributes:
        auxiliary_head: classifies the detail map after the first exchange; used in training only.
    """

    training_parts = ("auxiliary_head",)

    def __init__(self, params: SegmenterParams, classes: int) -> None:
        """Build the variant that `params.encoder` names."""
        super().__init__()
        variant = VARIANTS[params.encoder]
        width = variant.width
        self.encoder = DualResolution(width)
        self.decoder = hidden(4 * width, variant.head)
        self.classifier = nn.Conv2d(variant.head, classes, 1)
        self.auxiliary_head = head(2 * width, variant.head, classes) if params.auxiliary else None
        self.weights = Weights("random")
        self.feature_stride, self.feature_channels = 8, variant.head
        self.deep_stride, self.deep_channels = 8, 4 * width
        self.low_stride, self.low_channels = 4, width

    def low(self, encoded: list[Tensor]) -> Tensor:
        """The output of the stem, (B, width, H/4, W/4)."""
        return encoded[0]

    def decode(self, encoded: list[Tensor]) -> Tensor:
        """The head's hidden map, (B, head, H/8, W/8)."""
        features: Tensor = self.decoder(encoded[-1])
        return features

    def auxiliary(
        self, encoded: list[Tensor], features: Tensor, logits: Tensor, target: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """'auxiliary': cross-entropy of the detail map after the first exchange."""
        if self.auxiliary_head is None:
            return {}
        scores = resize(self.auxiliary_head(encoded[1]), (target.shape[-2], target.shape[-1]))
        return {"auxiliary": AUXILIARY * cross_entropy(scores, target)}


class DualResolution(nn.Module):
    """Two branches that exchange their feature maps twice. The sides of deeper maps are rounded up."""

    def __init__(self, width: int) -> None:
        """The stem has `width` channels, the context branch up to 16 times as many."""
        super().__init__()
        self.stem = nn.Sequential(stem(width), stage(width, width, 2), nn.ReLU(inplace=True))
        self.shared = nn.Sequential(stage(width, 2 * width, 2, 2), nn.ReLU(inplace=True))
        self.context = nn.ModuleList(
            [stage(2 * width, 4 * width, 2, 2), stage(4 * width, 8 * width, 2, 2), bottleneck(8 * width, 8 * width, 2)]
        )
        self.detail = nn.ModuleList(
            [stage(2 * width, 2 * width, 2), stage(2 * width, 2 * width, 2), bottleneck(2 * width, 2 * width)]
        )
        self.up = nn.ModuleList([normed(4 * width, 2 * width, 1), normed(8 * width, 2 * width, 1)])
        self.down = nn.ModuleList(
            [
                normed(2 * width, 4 * width, 3, 2),
                nn.Sequential(
                    normed(2 * width, 4 * width, 3, 2), nn.ReLU(inplace=True), normed(4 * width, 8 * width, 3, 2)
                ),
            ]
        )
        self.pyramid = DAPPM(16 * width, POOLED, 4 * width)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Stem output (stride 4), detail map after the first exchange and sum of both branches (stride 8)."""
        low = self.stem(images)
        detail = context = self.shared(low)
        size = (detail.shape[-2], detail.shape[-1])
        exchanged = []
        for step, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            context, detail = self.context[step](context), self.detail[step](detail)
            # Each branch receives the other's map from before the exchange.
            context, detail = (
                F.relu(context + down(F.relu(detail))),
                detail + resize(up(F.relu(context)), size),
            )
            exchanged.append(detail)
            detail = F.relu(detail)
        fused = self.detail[-1](detail) + resize(self.pyramid(self.context[-1](context)), size)
        return [low, exchanged[0], fused]
