"""A method like CASWiT (arXiv 2601.11310, 2026): a patch attends to its surroundings at every stage of the encoder.

Known from the paper: the patch of 512 pixels and its neighbourhood of twice that side, reduced by two, each pass
through a Swin encoder; the patch's maps attend to the neighbourhood's maps, with a gate, at four stages; the second
version uses SegFormer's head; an auxiliary loss trains the neighbourhood's branch. Its code was not available, hence
the suffix -like. [ours]: ConvNeXt-T, which has the widths and the size of Swin-T and accepts inputs of any size; keys
and values are the neighbourhood's maps averaged to stride 32; one attention head per 32 channels; a gate tanh(g) per
stage, with g initialised to 0; the encoders run first, fused maps are not fed back; the auxiliary loss is a 1x1
classifier at stride 32 with weight 0.4; the suite's recipe, because the authors' is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scpseg.contract import Labels, Method, Needs, Setting, Views
from scpseg.geometry import resize
from scpseg.losses import cross_entropy, nearest
from scpseg.params import Params, SegmenterParams
from scpseg.segmenters.base import normalise
from scpseg.segmenters.encoders import build_encoder, check_encoder
from scpseg.segmenters.on_encoder import block
from scpseg.validation import Range

STRIDE = 32
TIMES = 2
"""Side of the neighbourhood relative to the patch, and the factor by which it is reduced."""
STAGES = 4
HEAD_WIDTH = 32
AUXILIARY = 0.4


@dataclass(frozen=True)
class CASWiTParams:
    """Section `caswit_like`.

    Attributes:
        encoder: encoder of both branches; its initial weights are `segmenter.weights`.
        width: channels of the head; 256 is common for encoders of this size.
    """

    encoder: str
    width: Annotated[int, Range(1)]


SECTIONS: dict[str, type] = {"caswit_like": CASWiTParams}


class CASWiTLike(Method):
    """Two encoders, gated cross-attention at four stages, an MLP head."""

    training_parts = ("context_head",)

    def __init__(self, params: CASWiTParams, segmenter: SegmenterParams, classes: int, patch: int) -> None:
        """Build for patches of `patch` pixels."""
        super().__init__()
        self.params = params
        self.needs = Needs(patch=patch, context=TIMES * patch)
        self.encoder, self.weights = build_encoder(segmenter, params.encoder)
        self.context_encoder, _ = build_encoder(segmenter, params.encoder)
        channels = list(self.encoder.out_channels[-STAGES:])
        self.attentions = nn.ModuleList(GatedAttention(count) for count in channels)
        self.levels = nn.ModuleList(nn.Conv2d(count, params.width, 1) for count in channels)
        self.join = block(STAGES * params.width, params.width)
        self.classifier = nn.Conv2d(params.width, classes, 1)
        self.context_head = nn.Conv2d(channels[-1], classes, 1)

    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Logits (B, K, L, L)."""
        logits, _ = self._run(normalise(views.take(), self.weights))
        return logits

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        """Cross-entropy of the patch, and of the reduced neighbourhood with weight 0.4."""
        logits, deep = self._run(normalise(views.context, self.weights))
        patch = self.needs.window.patch
        return {
            "ce": cross_entropy(logits, _centre(labels.context, patch[0])),
            "ce_context": AUXILIARY
            * cross_entropy(resize(self.context_head(deep), patch), nearest(labels.context, patch)),
        }

    def _run(self, window: Tensor) -> tuple[Tensor, Tensor]:
        """The patch's logits and the neighbourhood's deepest map (B, C, L/32, L/32), from normalised windows."""
        own = self.encoder(_centre(window, self.needs.patch))[-STAGES:]
        around = self.context_encoder(F.avg_pool2d(window, TIMES))[-STAGES:]
        cells = around[-1].shape[-1]
        size = (own[0].shape[-2], own[0].shape[-1])
        levels = [
            resize(level(attention(mine, F.avg_pool2d(other, other.shape[-1] // cells))), size)
            for level, attention, mine, other in zip(self.levels, self.attentions, own, around, strict=True)
        ]
        return resize(self.classifier(self.join(torch.cat(levels, dim=1))), self.needs.window.patch), around[-1]

    def describe(self) -> dict[str, str | int | float | bool | None]:
        """Effective sizes, encoder and width."""
        return super().describe() | {"encoder": self.params.encoder, "width": self.params.width}


class GatedAttention(nn.Module):
    """Cross-attention of one map to another, added through a gate that is initialised to 0."""

    def __init__(self, channels: int) -> None:
        """One head per 32 channels, at least one."""
        super().__init__()
        self.heads = max(1, channels // HEAD_WIDTH)
        while channels % self.heads:
            self.heads -= 1
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.query, self.key, self.value, self.output = (nn.Linear(channels, channels) for _ in range(4))
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """`own` (B, C, h, w) with attention to `other` (B, C, h', w')."""
        mine, read = (
            norm(maps.flatten(2).transpose(1, 2)) for norm, maps in zip(self.norms, (own, other), strict=True)
        )
        query, key, value = (
            layer(part).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, part in ((self.query, mine), (self.key, read), (self.value, read))
        )
        weights = torch.softmax((query * query.shape[-1] ** -0.5) @ key.transpose(2, 3), dim=-1)
        found = self.output((weights @ value).transpose(1, 2).flatten(2))
        fused: Tensor = own + torch.tanh(self.gate) * found.transpose(1, 2).reshape(own.shape)
        return fused


def _centre(maps: Tensor, side: int) -> Tensor:
    margin = (maps.shape[-1] - side) // 2
    return maps[..., margin : margin + side, margin : margin + side]


def check(params: Params, benchmark: str) -> None:
    """Check the values of the parameters.

    Raises:
        UserError: the patch is not a multiple of 32 or gives a single cell, or the encoder does not fit.
    """
    caswit, patch = params.section("caswit_like", CASWiTParams), params.benchmark(benchmark).patch
    if patch % STRIDE or patch == STRIDE:
        near = max(2, (patch + STRIDE // 2) // STRIDE) * STRIDE
        why = f"it must be a multiple of {STRIDE} above {STRIDE} for caswit_like; the nearest valid value is {near}"
        raise params.invalid(f"{benchmark}.patch", patch, why)
    check_encoder(params, "caswit_like.encoder", caswit.encoder, STRIDE, patch)


def build(setting: Setting) -> Method:
    """Build the method from checked parameters."""
    params = setting.params.section("caswit_like", CASWiTParams)
    return CASWiTLike(params, setting.segmenter, setting.classes, setting.patch)
