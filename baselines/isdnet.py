"""ISDNet (Guo, Liu, Gan, Wang, Yang, Zhang, Ouyang; CVPR 2022): a shallow and a deep network on the whole image.

The deep network processes the image at a quarter of its sides, the shallow one two Laplacian residuals at full size;
two relation-aware fusions combine them. In training, super-resolution and structure distillation guide the deep
network. Training uses crops, inference whole images. As in the authors' code, not their text: learning rate 0.01,
similarity normalised over space. [ours]: the encoder is ResNet-18 with the shortcuts of variant D instead of C (equal
parameters), for which weights exist; the shallow stem starts from random weights; the augmentation is the suite's;
similarity uses the decoder's last 64 channels, which the paper does not specify.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.parts.stdc import STDCStem
from scpseg.contract import Labels, Method, Needs, Phase, Recipe, Setting, Views, Window
from scpseg.geometry import resize
from scpseg.losses import cross_entropy
from scpseg.params import Params, SegmenterParams
from scpseg.segmenters.base import normalise
from scpseg.segmenters.blocks import normed
from scpseg.segmenters.encoders import build_encoder, check_encoder
from scpseg.segmenters.on_encoder import block
from scpseg.validation import Range

STRIDE = 32
"""Sides are multiples of this: a quarter for the deep branch, an eighth of that in its encoder."""
REDUCTION = 4
DEEP = 128
"""Channels of the deep map and of both fusions."""
DILATIONS = (12, 24, 36)
ROWS = 16
"""Number of rows to which the vector of each input is reshaped before the two are multiplied."""
DROPOUT = 0.1
AUXILIARY, SUPER_RESOLUTION = 0.4, 0.1
"""Weights of the cross-entropy of the encoder's second last stage, and of the predicted residuals."""
STEPS, BATCH = {"inria": 40_000}, {"inria": 4}
"""The authors' values where they differ from 80,000 steps of 8 crops."""


@dataclass(frozen=True)
class ISDNetParams:
    """Section `isdnet`.

    Attributes:
        encoder: encoder of the deep branch, at stride 8; its initial weights are `segmenter.weights`.
        crop: side of a training crop relative to the benchmark's patch, rounded to a multiple of 32 pixels.
        recipe: 'suite' trains like every method; 'author' uses their optimiser, learning rate, batch size and steps,
            and crops with half of the image's sides (theirs on Inria, from images reduced to 0.8, have half of those).
    """

    encoder: str
    crop: Annotated[float, Range(0.5, 64)]
    recipe: Literal["suite", "author"]


SECTIONS: dict[str, type] = {"isdnet": ISDNetParams}


class ISDNet(Method):
    """Processes whole images at test time; every output is upsampled bilinearly to the size of the input."""

    training_parts = ("deep_classifier", "enlarged_heads", "stage_head", "decoder")

    def __init__(
        self, params: ISDNetParams, segmenter: SegmenterParams, classes: int, crop: int, benchmark: str
    ) -> None:
        """Build both branches; `crop` is in pixels."""
        super().__init__()
        self.params, self.benchmark = params, benchmark
        self.needs = Needs(patch=crop, context=crop)
        self.encoder, self.weights = build_encoder(segmenter, params.encoder, output_stride=8)
        channels = self.encoder.out_channels
        self.pyramid = ASPP(channels[-1])
        self.shallow = STDCStem(6)
        self.coarse_fusion, self.fine_fusion = (RelationAwareFusion(count) for count in reversed(STDCStem.channels))
        self.dropout = nn.Dropout2d(DROPOUT)
        self.head = _head(DEEP, classes)
        self.deep_classifier = nn.Conv2d(DEEP, classes, 1)
        self.enlarged_heads = nn.ModuleList(_head(DEEP, classes) for _ in range(2))
        self.stage_head = nn.Sequential(*block(channels[-2], channels[-2] // 4, 3), nn.Dropout2d(DROPOUT),
                                        nn.Conv2d(channels[-2] // 4, classes, 1))  # fmt: skip
        self.decoder = SuperResolution()

    def needs_at(self, height: int, width: int) -> Window:
        """One window for the whole image, at least as large as a training crop: some encoders need that much."""
        return Window.whole(height, width, STRIDE, least=self.needs.patch)

    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Logits (B, K, H, W)."""
        images = normalise(views.take(), self.weights)
        size = (images.shape[-2], images.shape[-1])
        deep = self._deep(images)[-1]
        whole = [images]
        del images  # as large as the whole image: nobody keeps it while the shallow branch runs
        fine, coarse = self.shallow(lambda: torch.cat(residuals(whole.pop()), dim=1))
        fused, _ = self.coarse_fusion(coarse, deep)
        fused, _ = self.fine_fusion(fine, fused)
        return resize(self.head(fused), size)

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        """Cross-entropy of five outputs, loss of the predicted residuals, and structure distillation loss."""
        images = normalise(views.context, self.weights)
        size = (images.shape[-2], images.shape[-1])
        detail = residuals(images)
        stage, deep = self._deep(images)
        fine, coarse = self.shallow(lambda: torch.cat(detail, dim=1))
        fused, first = self.coarse_fusion(coarse, deep)
        fused, second = self.fine_fusion(fine, fused)
        outputs = {
            "ce": self.head(self.dropout(fused)),
            "ce_deep": self.deep_classifier(self.dropout(deep)),
            "ce_coarse": self.enlarged_heads[0](first),
            "ce_fine": self.enlarged_heads[1](second),
        }
        losses = {key: cross_entropy(resize(logits, size), labels.context) for key, logits in outputs.items()}
        losses["ce_stage"] = AUXILIARY * cross_entropy(resize(self.stage_head(stage), size), labels.context)
        rebuilt, features = self.decoder(deep)
        losses["detail"] = SUPER_RESOLUTION * F.mse_loss(resize(rebuilt.float(), size), detail[0] + detail[1])
        small = resize(features.detach(), (deep.shape[-2], deep.shape[-1]))
        losses["structure"] = F.l1_loss(similarity(deep), similarity(small))
        return losses

    def _deep(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's second last stage, and the deep map (B, 128, H/32, W/32)."""
        encoded = self.encoder(images[..., ::REDUCTION, ::REDUCTION])
        return encoded[-2], self.pyramid(encoded[-1])

    def phases(self) -> tuple[Phase, ...]:
        """One phase, with the suite's or the authors' recipe."""
        recipe = None
        if self.params.recipe == "author":
            steps, batch = STEPS.get(self.benchmark, 80_000), BATCH.get(self.benchmark, 8)
            recipe = Recipe("sgd", 0.01, 5e-4, batch, steps=steps, power=0.9, end=1e-4)
        return (Phase("all", recipe=recipe),)

    def describe(self) -> dict[str, str | int | float | bool | None]:
        """Effective sizes, encoder and recipe; `patch` is the side of a training crop."""
        return super().describe() | {"encoder": self.params.encoder, "recipe": self.params.recipe, "whole_image": True}


class ASPP(nn.Module):
    """Atrous pyramid of DeepLabv3: image pooling, 1x1, three dilated 3x3, fused by a 3x3 to 128 channels."""

    def __init__(self, inputs: int) -> None:
        """From `inputs` channels. Batch norm of the pooled values needs at least two images per step."""
        super().__init__()
        self.pool, self.point = block(inputs, DEEP), block(inputs, DEEP)
        self.dilated = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, DEEP, 3, padding=rate, dilation=rate, bias=False),
                nn.BatchNorm2d(DEEP),
                nn.ReLU(inplace=True),
            )
            for rate in DILATIONS
        )
        self.join = block((len(DILATIONS) + 2) * DEEP, DEEP, 3)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, inputs, h, w) to (B, 128, h, w)."""
        pooled = self.pool(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        joined: Tensor = self.join(torch.cat([pooled, self.point(x), *(part(x) for part in self.dilated)], dim=1))
        return joined


class RelationAwareFusion(nn.Module):
    """Weight the channels of a shallow and a deep map by their relation, and add the maps (paper, section 3.3)."""

    def __init__(self, shallow: int) -> None:
        """For `shallow` channels. Batch norm of the vectors needs at least two images per step."""
        super().__init__()
        self.reduce = nn.ModuleList([block(shallow, DEEP, 3), block(DEEP, DEEP, 3)])
        self.vectors = nn.ModuleList(normed(DEEP, DEEP, 1) for _ in range(2))
        self.relations = nn.ModuleList(
            nn.Sequential(nn.Linear(ROWS**2, DEEP), nn.ReLU(), nn.Linear(DEEP, DEEP), nn.ReLU()) for _ in range(2)
        )
        self.gains = nn.Parameter(torch.zeros(2))
        self.enlarge, self.join = block(DEEP, DEEP, 3), normed(DEEP, DEEP, 3)

    def forward(self, shallow: Tensor, deep: Tensor) -> tuple[Tensor, Tensor]:
        """Fused and upsampled deep maps (B, 128, h, w) at the size of `shallow`."""
        maps = [reduce(side) for reduce, side in zip(self.reduce, (shallow, deep), strict=True)]
        vectors = [
            vector(side.mean(dim=(2, 3), keepdim=True)).flatten(1)
            for vector, side in zip(self.vectors, maps, strict=True)
        ]
        rows = [vector.unflatten(1, (ROWS, -1)) for vector in vectors]
        relation = (rows[0] @ rows[1].transpose(1, 2)).flatten(1)
        parts = zip(maps, vectors, self.relations, self.gains, strict=True)
        first, second = (
            side * torch.sigmoid(vector + gain * mlp(relation))[..., None, None] for side, vector, mlp, gain in parts
        )
        enlarged = self.enlarge(resize(second, (first.shape[-2], first.shape[-1])))
        return self.join(first + enlarged), enlarged


class SuperResolution(nn.Module):
    """Predict the residuals from the deep map, at half of the image's sides."""

    def __init__(self) -> None:
        """Three upsampling steps, by 4, 2 and 2."""
        super().__init__()
        self.scales = (4, 2, 2)
        self.steps = nn.ModuleList([block(DEEP, 64, 3), block(64, 64, 3), block(64, DEEP, 3)])
        self.features, self.last = block(DEEP, 64, 3), nn.Conv2d(64, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From (B, 128, h, w) to (B, 3, 16 h, 16 w), and the 64 features before that."""
        for scale, step in zip(self.scales, self.steps, strict=True):
            x = step(F.interpolate(x, scale_factor=scale, mode="nearest"))
        features = self.features(x)
        return self.last(features), features


def residuals(images: Tensor) -> tuple[Tensor, Tensor]:
    """The two finest levels of the Laplacian pyramid of (B, 3, H, W), the second resized to H x W."""
    half = _reduce(images)
    quarter = _reduce(half)
    second = half - _expand(quarter, half)
    return images - _expand(half, images), resize(second, (images.shape[-2], images.shape[-1]))


def _reduce(images: Tensor) -> Tensor:
    """Blur with the 5 x 5 binomial kernel, then take every second pixel."""
    return _blur(images)[..., ::2, ::2]


def _expand(small: Tensor, like: Tensor) -> Tensor:
    """Insert zeros between the pixels, then blur with four times the kernel."""
    spread = like.new_zeros(like.shape)
    spread[..., ::2, ::2] = small
    return 4 * _blur(spread)


def _blur(images: Tensor) -> Tensor:
    """The binomial 1 4 6 4 1 along both axes, with reflected borders."""
    weights = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=images.device) / 16
    kernel = weights.outer(weights).expand(images.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(images, [2] * 4, mode="reflect"), kernel, groups=images.shape[1])


def similarity(maps: Tensor) -> Tensor:
    """Products (B, N, N) of all pairs of the N positions of (B, C, h, w), each channel normalised over space."""
    flat = F.normalize(maps.float().flatten(2), dim=2)
    return flat.transpose(1, 2) @ flat


def _head(inputs: int, classes: int) -> nn.Sequential:
    return nn.Sequential(*block(inputs, 64, 3), nn.Conv2d(64, classes, 1))


def _crop(params: Params, benchmark: str, patch: int) -> int:
    isdnet = params.section("isdnet", ISDNetParams)
    side = params.image_side(benchmark) / 2 if isdnet.recipe == "author" else patch * isdnet.crop
    return max(1, round(side / STRIDE)) * STRIDE


def check(params: Params, benchmark: str) -> None:
    """Check the values of the parameters.

    Raises:
        UserError: fewer than two crops per step, crops of one cell, or an encoder that does not fit.
    """
    isdnet, sizes = params.section("isdnet", ISDNetParams), params.benchmark(benchmark)
    if isdnet.recipe == "suite" and sizes.batch < 2:
        why = "isdnet normalises single values of each crop and needs at least 2 crops per step"
        raise params.invalid(f"{benchmark}.batch", sizes.batch, f"{why}; set it to 2 or more")
    check_encoder(params, "isdnet.encoder", isdnet.encoder, 8, _crop(params, benchmark, sizes.patch) // REDUCTION)


def build(setting: Setting) -> Method:
    """Build the method from checked parameters."""
    params, crop = setting.params, _crop(setting.params, setting.benchmark, setting.patch)
    isdnet = params.section("isdnet", ISDNetParams)
    return ISDNet(isdnet, setting.segmenter, setting.classes, crop, setting.benchmark)
