"""PIDNet (Xu, Xiong, Bhattacharyya, CVPR 2023): branches for detail (P), context (I) and boundaries (D).

The layout is that of the authors' repository. [ours] Cross-entropy replaces their hard-example mining, also in the
auxiliary losses; boundaries come from the labels (`edges`) instead of an edge filter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scpseg import IGNORE_INDEX, parallel
from scpseg.contract import Weights
from scpseg.geometry import resize
from scpseg.losses import cross_entropy
from scpseg.params import SegmenterParams
from scpseg.segmenters.base import Segmenter
from scpseg.segmenters.blocks import activated, basic, bottleneck, head, hidden, normed, stage, stem
from scpseg.segmenters.pyramids import DAPPM, PAPPM

DETAIL, BORDER = 0.4, 20.0
"""Weights of the losses on P and on the boundaries."""
SURE = 0.8
"""Boundary probability above which a pixel counts in the boundary-aware loss."""
EDGE = 4
"""Width of a boundary in pixels."""


@dataclass(frozen=True)
class Variant:
    """Sizes of a PIDNet.

    Attributes:
        width: channels of the stem.
        blocks: per stage down to stride 8 and in P, and per deeper stage.
        pooled: channels of each branch of the pooling pyramid.
        head: channels of the head's hidden map, which are the features.
        light: D starts narrower, the pooling is parallel, and the branches are fused by 1x1 convolutions.
    """

    width: int
    blocks: tuple[int, int]
    pooled: int
    head: int
    light: bool


VARIANTS = {
    "pidnet-s": Variant(32, (2, 3), 96, 128, light=True),
    "pidnet-m": Variant(64, (2, 3), 96, 128, light=True),
    "pidnet-l": Variant(64, (3, 4), 112, 256, light=False),
}
"""By encoder name, smallest first."""


class PIDNet(Segmenter):
    """128 features (256 in PIDNet-L) at stride 8; starts from random weights.

    Attributes:
        detail_head: classifies P after the first gate; used in training only.
        border_head: classifies D before its last stage; used in training only, since the fusion reads D itself.
    """

    training_parts = ("detail_head", "border_head")

    def __init__(self, params: SegmenterParams, classes: int) -> None:
        """Build the variant that `params.encoder` names."""
        super().__init__()
        variant = VARIANTS[params.encoder]
        width = variant.width
        self.encoder = ThreeBranches(variant)
        self.decoder = hidden(4 * width, variant.head)
        self.classifier = nn.Conv2d(variant.head, classes, 1)
        self.detail_head = head(2 * width, variant.head, classes) if params.auxiliary else None
        self.border_head = head(2 * width, width, 1) if params.auxiliary else None
        self.weights = Weights("random")
        self.feature_stride, self.feature_channels = 8, variant.head
        self.deep_stride, self.deep_channels = 8, 4 * width
        self.low_stride, self.low_channels = 4, width

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K, H, W) of normalised images (B, 3, H, W); does not keep the maps that only other modules use."""
        height, width = images.shape[-2:]
        return self.classify(self.decode(self.encoder(images, taps=False)), (height, width))

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
        """'detail', 'border': losses of P and D; 'at_border': cross-entropy of the output at predicted boundaries."""
        if self.detail_head is None or self.border_head is None:
            return {}
        size = (target.shape[-2], target.shape[-1])
        detail = resize(self.detail_head(encoded[1]), size)
        border = resize(self.border_head(encoded[2]), size).squeeze(1)
        near = torch.where(torch.sigmoid(border) > SURE, target, IGNORE_INDEX)
        return {
            "detail": DETAIL * cross_entropy(detail, target),
            "border": BORDER * balanced(border, edges(target), target != IGNORE_INDEX),
            "at_border": cross_entropy(logits, near),
        }


class ThreeBranches(nn.Module):
    """P and D stay at stride 8 and read from I, which goes down to stride 64. Sides of deeper maps are rounded up."""

    def __init__(self, variant: Variant) -> None:
        """Build the three branches and their fusion."""
        super().__init__()
        width, (few, many) = variant.width, variant.blocks
        double, joined, deep = 2 * width, 4 * width, 8 * width
        self.stem = nn.Sequential(stem(width), stage(width, width, few), nn.ReLU(inplace=True))
        self.shared = nn.Sequential(stage(width, double, few, 2), nn.ReLU(inplace=True))
        last = nn.Sequential(bottleneck(deep, deep, 2), nn.ReLU(inplace=True), bottleneck(2 * deep, deep))
        self.context = nn.ModuleList([stage(double, joined, many, 2), stage(joined, deep, many, 2), last])
        self.detail = nn.ModuleList(
            [stage(double, double, few), stage(double, double, few), bottleneck(double, double)]
        )
        self.compress = nn.ModuleList([normed(joined, double, 1), normed(deep, double, 1)])
        self.gates = nn.ModuleList([Gate(double, width), Gate(double, width)])
        first = width if variant.light else double
        second = bottleneck(width, width) if variant.light else basic(double, double)
        self.border = nn.ModuleList([basic(double, first), second, bottleneck(double, double)])
        self.differences = nn.ModuleList([normed(joined, first, 3), normed(deep, double, 3)])
        self.pyramid = (PAPPM if variant.light else DAPPM)(2 * deep, variant.pooled, joined)
        self.join = LightJoin(joined) if variant.light else Join(joined)

    def forward(self, images: Tensor, taps: bool = True) -> list[Tensor]:
        """Stem output at stride 4, P after a gate, D before its last stage, and the fusion at stride 8.

        Without `taps`, the fusion alone.
        """
        x = self.stem(images)
        kept = [x] if taps else []
        x = self.shared(x)
        detail = border = context = x
        size = (x.shape[-2], x.shape[-1])
        for step, (compress, gate, difference) in enumerate(
            zip(self.compress, self.gates, self.differences, strict=True)
        ):
            context = F.relu(self.context[step](context))
            detail = gate(self.detail[step](detail), compress(context))
            border = self.border[step](border) + resize(difference(context), size)
            if taps:
                kept.append((detail, border)[step])
            detail, border = F.relu(detail), F.relu(border)
        context = resize(self.pyramid(self.context[-1](context)), size)
        # One name each, so that earlier maps are freed: memory peaks in the fusion.
        detail = self.detail[-1](detail)
        border = torch.sigmoid(self.border[-1](border))
        return [*kept, self.join(detail, context, border)]


class Gate(nn.Module):
    """Add I to P where both agree: (1 - s) P + s I with s = sigmoid(<1x1 P, 1x1 I>)."""

    def __init__(self, channels: int, width: int) -> None:
        """Compare the maps in `width` channels."""
        super().__init__()
        self.detail, self.context = normed(channels, width, 1), normed(channels, width, 1)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        """(B, channels, h, w) from a detail map of that size and a smaller context map."""
        size = (detail.shape[-2], detail.shape[-1])
        alike = (self.detail(detail) * resize(self.context(context), size)).sum(dim=1, keepdim=True)
        # In half precision, sums and (on a GPU) interpolations return float32: convert back to the type of the maps.
        share = torch.sigmoid(alike).to(detail.dtype)
        return torch.lerp(detail, resize(context, size).to(detail.dtype), share)


class LightJoin(nn.Module):
    """1x1 (P + (1 - b) I) + 1x1 (I + b P) with b = sigmoid(D), per channel."""

    def __init__(self, channels: int) -> None:
        """P, I and b have `channels` channels."""
        super().__init__()
        self.detail, self.context = normed(channels, channels, 1), normed(channels, channels, 1)

    def forward(self, detail: Tensor, context: Tensor, border: Tensor) -> Tensor:
        """(B, channels, h, w), like each input."""
        joined: Tensor = self.detail(torch.addcmul(detail, 1 - border, context))
        joined = joined + self.context(torch.addcmul(context, border, detail))
        return joined


class Join(nn.Module):
    """3x3 of b P + (1 - b) I with b = sigmoid(D), per channel."""

    def __init__(self, channels: int) -> None:
        """P, I and b have `channels` channels."""
        super().__init__()
        self.mix = activated(channels, channels, 3)

    def forward(self, detail: Tensor, context: Tensor, border: Tensor) -> Tensor:
        """(B, channels, h, w), like each input."""
        joined: Tensor = self.mix(torch.lerp(context.to(detail.dtype), detail, border))
        return joined


def edges(target: Tensor) -> Tensor:
    """Pixels with another class at most EDGE / 2 pixels away along both axes; uint8 labels to (B, H, W) bool.

    These are two pixels on each side of a boundary. Ignored pixels are not boundaries and create none.
    """
    valid = target != IGNORE_INDEX
    ids, reach = target[:, None].float(), EDGE // 2
    highest = F.max_pool2d(torch.where(valid[:, None], ids, -1), 2 * reach + 1, 1, reach)
    lowest = -F.max_pool2d(torch.where(valid[:, None], -ids, -256), 2 * reach + 1, 1, reach)
    return (highest != lowest).squeeze(1) & valid


def balanced(scores: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Mean binary cross-entropy over valid pixels, each weighted by the share of the other class.

    Args:
        scores: (B, H, W) before the sigmoid.
        truth: (B, H, W) bool, false at invalid pixels.
        valid: (B, H, W) bool.

    Returns:
        Scalar; 0 if only one class occurs.
    """
    count = parallel.denominator(valid.sum())
    share = parallel.summed(truth.sum()) / (count * parallel.parts())
    weight = torch.where(truth, 1 - share, share) * valid
    pixel = F.binary_cross_entropy_with_logits(scores.float(), truth.float(), reduction="none")
    return (weight * pixel).sum() / count
