"""RUE (CVPR 2025; Qinrong-NKU/RUE): detail features are computed only for patches of the image that need them.

A network labels the image at a quarter of its sides and estimates where it is uncertain and where the low resolution
loses detail. Both measures rank the patches of a grid; the first `rue.share` of them pass through ISDNet's shallow
stem one by one, and are blended into the coarse features by the same measures. The parts shared with ISDNet are in
`baselines.parts.stdc`. Training uses crops, inference whole images. [ours]: grids whose patches are multiples of 16
pixels, so that every pixel is in a patch; the suite's augmentation and ImageNet statistics; the shortcuts of variant
D in the encoder; with recipe 'suite' the weights of the loss are divided by their mean, so that its scale, and with it
the best learning rate, is that of the other methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from baselines.parts.stdc import STDCStem
from scpseg import IGNORE_INDEX, parallel
from scpseg.contract import Labels, Method, Needs, Phase, Recipe, Setting, Views, Window
from scpseg.geometry import resize
from scpseg.losses import cross_entropy
from scpseg.params import Params, SegmenterParams
from scpseg.segmenters.base import normalise
from scpseg.segmenters.encoders import build_encoder, check_encoder
from scpseg.segmenters.on_encoder import block
from scpseg.segmenters.pyramids import DAPPM
from scpseg.validation import Range

STRIDE, CELL = 32, 16
"""Sides of images, and of patches of the grid, are multiples of these."""
REDUCTION = 4
DEEP, DETAIL = 128, 64
DROPOUT, AUXILIARY = 0.1, 0.4
TEMPERATURE, POWER = 0.7, 6
"""The entropy is divided by the first; the second is the exponent of the loss weight (1 + w) of a pixel."""


@dataclass(frozen=True)
class RUEParams:
    """Section `rue`.

    Attributes:
        encoder: encoder of the low-resolution network, at stride 8; its initial weights are `segmenter.weights`.
        crop: side of a training crop relative to the benchmark's patch, rounded so that grid and encoder fit.
        train_grid: patches per side of the grid in training; 10 in the paper's code.
        grid: patches per side at test time; 20 in the paper's code.
        share: K, the share of patches that get detail; 1 in the released code and for the paper's main scores.
        clamp: whether the blending weight is clamped to 0..1; the released code does not do it.
        recipe: 'suite' trains like every method; 'author' uses their optimiser, learning rate, batch size and steps,
            and crops with half of the image's sides, rounded as for `crop`: with a `train_grid` of 10 they have 1280
            pixels on DeepGlobe and 2560 on Inria (the authors' 1224 and 2500).
    """

    encoder: str
    crop: Annotated[float, Range(0.5, 64)]
    train_grid: Annotated[int, Range(1, 64)]
    grid: Annotated[int, Range(1, 64)]
    share: Annotated[float, Range(0, 1, above=True)]
    clamp: bool
    recipe: Literal["suite", "author"]


SECTIONS: dict[str, type] = {"rue": RUEParams}


@dataclass(frozen=True)
class Found:
    """Logits at stride 8, coarse logits and encoder stage 3 at stride 32, and blending weight (B, 1, H/8, W/8)."""

    logits: Tensor
    coarse: Tensor
    stage: Tensor
    weight: Tensor


class RUE(Method):
    """Low-resolution network, estimator, selector, detail network and ensembler."""

    training_parts = ("stage_head",)

    def __init__(self, params: RUEParams, segmenter: SegmenterParams, classes: int, crop: int, benchmark: str) -> None:
        """Build all parts; `crop` is in pixels."""
        super().__init__()
        self.params, self.benchmark = params, benchmark
        self.needs = Needs(patch=crop, context=crop)
        self.encoder, self.weights = build_encoder(segmenter, params.encoder, output_stride=8)
        channels = self.encoder.out_channels
        self.pyramid = DAPPM(channels[-1], DEEP, DEEP)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.coarse_classifier = nn.Conv2d(DEEP, classes, 1)
        self.estimator = Estimator(channels[-3], channels[-4])
        self.stem = STDCStem(3)
        self.reduce = nn.ModuleList(block(count, DETAIL) for count in (*STDCStem.channels, DEEP))
        self.head = nn.Sequential(*block(DETAIL, DETAIL // 2, 3), nn.Conv2d(DETAIL // 2, classes, 1))
        self.stage_head = nn.Sequential(*block(channels[-2], channels[-2] // 4, 3), nn.Dropout2d(DROPOUT),
                                        nn.Conv2d(channels[-2] // 4, classes, 1))  # fmt: skip

    def needs_at(self, height: int, width: int) -> Window:
        """One window for the whole image, at least as large as a training crop: some encoders need that much."""
        return Window.whole(height, width, multiple(self.params.grid), least=self.needs.patch)

    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Logits (B, K, H, W)."""
        size = (views.context.shape[-2], views.context.shape[-1])
        # A crop, also alone at test time, has the patches of training.
        grid = self.params.train_grid if size == (self.needs.patch, self.needs.patch) else self.params.grid
        found = self._run(normalise(views.take(), self.weights), grid)
        return resize(found.logits, size)

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        """Cross-entropy weighted by (1 + w)^6, and cross-entropy of the coarse logits and of encoder stage 3.

        The authors do not divide by the weights, which reach several hundred: Adam, their optimiser on DeepGlobe, is
        invariant to the scale of a loss, but SGD, which they have on Inria, is not.
        """
        found = self._run(normalise(views.context, self.weights), self.params.train_grid)
        size = (views.context.shape[-2], views.context.shape[-1])
        truth = labels.context
        valid = truth != IGNORE_INDEX
        target = torch.where(valid, truth, 0).long().unsqueeze(1)
        logits = resize(found.logits, size).float()
        pixel = torch.logsumexp(logits, dim=1) - logits.gather(1, target).squeeze(1)
        heavy = torch.where(valid, (1 + resize(found.weight.detach(), size).squeeze(1).float()) ** POWER, 0.0)
        pixels = valid.sum() if self.params.recipe == "author" else heavy.sum()
        return {
            "ce": (heavy * pixel).sum() / parallel.denominator(pixels),
            "ce_coarse": cross_entropy(resize(found.coarse, size), truth),
            "ce_stage": AUXILIARY * cross_entropy(resize(self.stage_head(found.stage), size), truth),
        }

    def _run(self, images: Tensor, grid: int) -> Found:
        encoded = self.encoder(images[..., ::REDUCTION, ::REDUCTION])[1:]  # the first map is its input, a view
        tiles = [tiled(images, grid)]  # taken out where they are used, so that nobody keeps them
        batch = len(images)
        del images  # as large as the whole image, and no longer needed
        deep = self.pyramid(encoded[-1])
        coarse = self.coarse_classifier(self.dropout(deep))
        unsure = entropy(coarse.detach()) / TEMPERATURE
        lost = self.estimator(encoded[-3], encoded[-4])
        score = torch.sigmoid(resize(lost, (grid, grid))) + resize(unsure, (grid, grid))
        chosen = select(score.detach().flatten(1), self.params.share)
        index = (chosen + grid**2 * torch.arange(batch, device=chosen.device)[:, None]).flatten()
        detail, taken = self._detail(lambda: tiles.pop().index_select(0, index), index, batch, grid)
        size = (detail.shape[-2], detail.shape[-1])
        weight = (resize(torch.sigmoid(lost), size) + resize(unsure, size)) / 2
        if self.params.clamp:
            weight = weight.clamp(0, 1)
        smooth = resize(self.reduce[2](deep), size)
        blended = torch.where(taken, (1 - weight) * smooth + weight * detail, smooth)
        return Found(self.head(blended), coarse, encoded[-2], weight)

    def _detail(self, patches: Callable[[], Tensor], index: Tensor, batch: int, grid: int) -> tuple[Tensor, Tensor]:
        """Features (B, 64, H/8, W/8) of the patches, 0 elsewhere, and a mask of the patches (B, 1, H/8, W/8).

        Each patch passes through the stem alone, without its neighbours.

        Args:
            patches: makes (N, 3, h, w) of all images, which only the stem's first layer needs.
            index: (N,) indices among the `grid` x `grid` patches of the `batch` images, one image after another.
            batch: B.
            grid: patches per side.
        """
        fine, coarse = self.stem(patches)
        fine, coarse = self.reduce[0](fine), self.reduce[1](coarse)
        features = fine + resize(coarse, (fine.shape[-2], fine.shape[-1]))
        count = batch * grid**2
        empty = features.new_zeros((count, *features.shape[1:]))
        maps = empty.index_copy(0, index, features).view(batch, grid, grid, *features.shape[1:])
        rows, columns = features.shape[-2:]
        taken = torch.zeros(count, dtype=torch.bool, device=index.device).index_fill_(0, index, True)
        where = taken.view(batch, 1, grid, 1, grid, 1).expand(-1, -1, -1, rows, -1, columns)
        return maps.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3), where.flatten(4, 5).flatten(2, 3)

    def phases(self) -> tuple[Phase, ...]:
        """One phase, with the suite's or the authors' recipe."""
        if self.params.recipe == "suite":
            return (Phase("all"),)
        recipe = (
            Recipe("sgd", 0.01, 5e-4, 2, steps=40_000, power=0.9, end=1e-4)
            if self.benchmark == "inria"
            else Recipe("adam", 5e-5, 5e-4, 4, steps=80_000, power=0.9, end=1e-5)
        )
        return (Phase("all", recipe=recipe),)

    def describe(self) -> dict[str, str | int | float | bool | None]:
        """Effective sizes, grids, share and recipe; `patch` is the side of a training crop."""
        return super().describe() | {
            "encoder": self.params.encoder,
            "train_grid": self.params.train_grid,
            "grid": self.params.grid,
            "share": self.params.share,
            "clamp": self.params.clamp,
            "recipe": self.params.recipe,
            "whole_image": True,
        }


class Estimator(nn.Module):
    """Estimates where the deeper stage of the coarse network disagrees with the finer one before it."""

    def __init__(self, deeper: int, finer: int) -> None:
        """Build for maps with this number of channels at strides 8 and 4."""
        super().__init__()
        self.align = block(deeper, finer, 3)
        self.join = nn.Conv2d(2, 1, 1)

    def forward(self, deeper: Tensor, finer: Tensor) -> Tensor:
        """(B, 1, h, w) at the size of `finer`."""
        gap = (self.align(resize(deeper, (finer.shape[-2], finer.shape[-1]))) - finer).abs()
        bias: Tensor = self.join(torch.cat([gap.mean(dim=1, keepdim=True), gap.amax(dim=1, keepdim=True)], dim=1))
        return bias


def tiled(images: Tensor, grid: int) -> Tensor:
    """Split (B, C, H, W) into (B * grid * grid, C, H / grid, W / grid), row by row, one image after another."""
    batch, channels, height, width = images.shape
    tiles = images.view(batch, channels, grid, height // grid, grid, width // grid)
    return tiles.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def entropy(logits: Tensor) -> Tensor:
    """Entropy (B, 1, h, w) in nats."""
    logs = torch.log_softmax(logits.float(), dim=1)
    return -(logs.exp() * logs).sum(dim=1, keepdim=True)


def select(scores: Tensor, share: float) -> Tensor:
    """Indices (B, k) of the patches with the highest `scores` (B, P * P); k is `share` of them, at least one."""
    return scores.topk(max(1, round(share * scores.shape[1])), dim=1).indices


def multiple(grid: int) -> int:
    """The number of which sides must be multiples for the encoder and a grid of `grid` patches per side."""
    return math.lcm(STRIDE, CELL * grid)


def _crop(params: Params, benchmark: str, patch: int) -> int:
    rue = params.section("rue", RUEParams)
    side = params.image_side(benchmark) / 2 if rue.recipe == "author" else patch * rue.crop
    step = multiple(rue.train_grid)
    return max(1, round(side / step)) * step


def check(params: Params, benchmark: str) -> None:
    """Check the values of the parameters.

    Raises:
        UserError: fewer than two crops per step, or an encoder that does not fit.
    """
    rue, sizes = params.section("rue", RUEParams), params.benchmark(benchmark)
    if rue.recipe == "suite" and sizes.batch < 2:
        why = "rue normalises single values of each crop and needs at least 2 crops per step"
        raise params.invalid(f"{benchmark}.batch", sizes.batch, f"{why}; set it to 2 or more")
    check_encoder(params, "rue.encoder", rue.encoder, 8, _crop(params, benchmark, sizes.patch) // REDUCTION)


def build(setting: Setting) -> Method:
    """Build the method from checked parameters."""
    params, crop = setting.params, _crop(setting.params, setting.benchmark, setting.patch)
    return RUE(params.section("rue", RUEParams), setting.segmenter, setting.classes, crop, setting.benchmark)
