"""TopFormer (Zhang et al., CVPR 2022): a transformer on tokens pooled from a pyramid, injected back into its levels.

The layout is that of the authors' repository, without dropout and stochastic depth [ours]; the authors use AdamW.
The loss is cross-entropy alone, as in the original.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scpseg.contract import Weights
from scpseg.geometry import Size, resize
from scpseg.params import SegmenterParams
from scpseg.segmenters.base import Segmenter
from scpseg.segmenters.blocks import conv, normed

TOKEN = 64
"""Side, in pixels, of the area of one token."""
DEPTH = 4
"""Number of transformer blocks."""
KEY, VALUE, WIDEN = 16, 32, 2
"""Channels of the keys and values of a head, and expansion ratio of the MLP."""


@dataclass(frozen=True)
class Variant:
    """Sizes of a TopFormer.

    Attributes:
        widths: channels of the pyramid levels at strides 4, 8, 16 and 32.
        last: number of blocks in the deepest level.
        heads: attention heads.
        features: channels of the fused features.
    """

    widths: tuple[int, int, int, int]
    last: int
    heads: int
    features: int


VARIANTS = {
    "topformer-t": Variant((16, 32, 64, 96), 2, 4, 128),
    "topformer-s": Variant((24, 48, 96, 128), 3, 6, 192),
    "topformer-b": Variant((32, 64, 128, 160), 3, 8, 256),
}
"""By encoder name, smallest first."""
STEM = 16
LEVELS = ((3, 4, 3), (5, 3, 3), (3, 3, 3), (5, 6, 6))
"""Per level: kernel size, expansion ratio of the first block, expansion ratio of the other blocks."""


class TopFormer(Segmenter):
    """256 features (S 192, T 128) at stride 8; starts from random weights."""

    def __init__(self, params: SegmenterParams, classes: int) -> None:
        """Build the variant that `params.encoder` names."""
        super().__init__()
        variant = VARIANTS[params.encoder]
        self.encoder = TokenPyramid(variant)
        self.decoder = Injected(variant)
        self.classifier = nn.Conv2d(variant.features, classes, 1)
        self.weights = Weights("random")
        self.feature_stride, self.feature_channels = 8, variant.features
        self.deep_stride, self.deep_channels = 32, variant.widths[-1]
        self.low_stride, self.low_channels = 4, variant.widths[0]

    def low(self, encoded: list[Tensor]) -> Tensor:
        """The first level, (B, widths[0], H/4, W/4)."""
        return encoded[0]

    def decode(self, encoded: list[Tensor]) -> Tensor:
        """The fused features, (B, features, H/8, W/8)."""
        features: Tensor = self.decoder(encoded)
        return features


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise, 1x1 projection without activation; plus the input if the shape is unchanged."""

    def __init__(self, inputs: int, outputs: int, kernel: int, widen: int, stride: int) -> None:
        """`widen` is the expansion ratio; 1 omits the first 1x1 convolution."""
        super().__init__()
        inside = widen * inputs
        before = (*normed(inputs, inside, 1), nn.ReLU(inplace=True)) if widen > 1 else ()
        depthwise = normed(inside, inside, kernel, stride, groups=inside)
        self.body = nn.Sequential(*before, *depthwise, nn.ReLU(inplace=True), *normed(inside, outputs, 1))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """From (B, inputs, h, w) to (B, outputs, ceil(h / stride), ceil(w / stride))."""
        y: Tensor = self.body(x)
        return x + y if self.adds else y


class TokenPyramid(nn.Module):
    """Stages of inverted residuals; returns the levels at strides 4, 8, 16 and 32."""

    def __init__(self, variant: Variant) -> None:
        """Two blocks per level, `last` blocks in the deepest."""
        super().__init__()
        self.stem = nn.Sequential(
            *normed(3, STEM, 3, 2), nn.ReLU(inplace=True), InvertedResidual(STEM, STEM, 3, widen=1, stride=1)
        )
        levels, inputs = [], STEM
        for (kernel, first, later), width, count in zip(LEVELS, variant.widths, (2, 2, 2, variant.last), strict=True):
            blocks = [InvertedResidual(inputs, width, kernel, first, stride=2)]
            blocks += [InvertedResidual(width, width, kernel if step == 1 else 3, later, 1) for step in range(1, count)]
            levels.append(nn.Sequential(*blocks))
            inputs = width
        self.levels = nn.ModuleList(levels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Four levels of images (B, 3, H, W), deepest last."""
        x = self.stem(images)
        levels = []
        for level in self.levels:
            x = level(x)
            levels.append(x)
        return levels


class Attention(nn.Module):
    """Multi-head self-attention; scores are not scaled."""

    def __init__(self, channels: int, heads: int) -> None:
        """Each head has KEY channels for keys and VALUE channels for values."""
        super().__init__()
        self.heads = heads
        self.query, self.key = normed(channels, heads * KEY, 1), normed(channels, heads * KEY, 1)
        self.value = normed(channels, heads * VALUE, 1)
        self.project = nn.Sequential(nn.ReLU6(inplace=True), *normed(heads * VALUE, channels, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, channels, h, w) to the same shape."""
        # (B, heads, channels per head, h w)
        query, key, value = (
            part(tokens).unflatten(1, (self.heads, -1)).flatten(3) for part in (self.query, self.key, self.value)
        )
        seen = value @ (query.mT @ key).softmax(dim=-1).mT
        projected: Tensor = self.project(seen.flatten(1, 2).unflatten(2, tokens.shape[-2:]))
        return projected


class Block(nn.Module):
    """Attention, then an MLP with a depthwise 3x3, each with a residual connection."""

    def __init__(self, channels: int, heads: int) -> None:
        """The batch norms need more than one token in a training step."""
        super().__init__()
        inside = WIDEN * channels
        self.attention = Attention(channels, heads)
        self.mlp = nn.Sequential(
            *normed(channels, inside, 1),
            conv(inside, inside, 3, groups=inside, bias=True),
            nn.ReLU6(inplace=True),
            *normed(inside, channels, 1),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, channels, h, w) to the same shape."""
        tokens = tokens + self.attention(tokens)
        output: Tensor = tokens + self.mlp(tokens)
        return output


class Injection(nn.Module):
    """Inject tokens into a level: 1x1 level * hard-sigmoid(1x1 tokens) + 1x1 tokens, the tokens upsampled."""

    def __init__(self, channels: int, features: int) -> None:
        """From `channels` to `features` channels."""
        super().__init__()
        self.local, self.gate, self.add = (normed(channels, features, 1) for _ in range(3))

    def forward(self, level: Tensor, tokens: Tensor) -> Tensor:
        """(B, features, h, w) from a level (B, channels, h, w) and its tokens (B, channels, h', w')."""
        size = (level.shape[-2], level.shape[-1])
        gated = self.local(level) * resize(F.hardsigmoid(self.gate(tokens)), size)
        injected: Tensor = gated + resize(self.add(tokens), size)
        return injected


class Injected(nn.Module):
    """Tokens of all levels, the transformer, injections at strides 8 to 32, and their sum at stride 8."""

    def __init__(self, variant: Variant) -> None:
        """Tokens have as many channels as all levels together."""
        super().__init__()
        self.widths = variant.widths
        channels = sum(variant.widths)
        self.blocks = nn.Sequential(*(Block(channels, variant.heads) for _ in range(DEPTH)))
        self.injections = nn.ModuleList(Injection(width, variant.features) for width in variant.widths[1:])
        self.fuse = nn.Sequential(*normed(variant.features, variant.features, 1), nn.ReLU(inplace=True))

    def forward(self, levels: list[Tensor]) -> Tensor:
        """(B, features, H/8, W/8) from the four levels of (B, 3, H, W)."""
        rows, columns = (-(-cells * 4 // TOKEN) for cells in levels[0].shape[-2:])
        tokens = self.blocks(torch.cat([area(level, (rows, columns)) for level in levels], dim=1))
        _, *split = tokens.split(self.widths, dim=1)
        size = (levels[1].shape[-2], levels[1].shape[-1])
        injected = [inject(*pair) for inject, *pair in zip(self.injections, levels[1:], split, strict=True)]
        fused: Tensor = self.fuse(injected[0] + resize(injected[1], size) + resize(injected[2], size))
        return fused


def area(maps: Tensor, size: Size) -> Tensor:
    """Average (B, C, h, w) to (B, C, *size); each output cell covers exactly its share of the map.

    Computed as two products with constant matrices, which are deterministic on a GPU, unlike adaptive pooling. If the
    sizes do not divide, a cell that is cut by an edge counts with the part inside.
    """
    rows, columns = (_shares(maps.shape[axis], size[axis], maps) for axis in (-2, -1))
    averaged: Tensor = rows @ maps @ columns.T
    return averaged


def _shares(cells: int, parts: int, like: Tensor) -> Tensor:
    """Weight of every cell in each part, (parts, cells); rows sum to 1."""
    edges = torch.arange(parts + 1, device=like.device, dtype=torch.float32)[:, None] * (cells / parts)
    start = torch.arange(cells, device=like.device, dtype=torch.float32)
    overlap = torch.minimum(edges[1:], start + 1) - torch.maximum(edges[:-1], start)
    return F.relu(overlap).mul_(parts / cells).to(like.dtype)
