"""MagNet and MagNet-Fast (Huynh, Tran, Luu, Hoai; CVPR 2021): a coarse map of the whole image, refined in crops.

A segmenter that is trained on all scales labels the reduced image; at half and at full size, crops refine its map
where it is uncertain and the refinement is certain. Training has two phases: the segmenter on crops of three scales,
then the refiner. [ours], where the released code contradicts the paper: the least certain crops come first, coarse and
fine maps have the same order in training and inference, and overlapping crops are averaged. Also [ours]: the finest
crops are drawn anywhere (the released code always takes the top left corner); images of any size are refined at half
and at full size; gradients are clipped with recipe 'suite'.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.parts.fpn import FPN
from scpseg import IGNORE_INDEX, parallel
from scpseg.contract import ImageViews, Labels, Method, Needs, Phase, Predictor, Recipe, Setting, Views, Weights, Window
from scpseg.geometry import enlarge, resize
from scpseg.losses import cross_entropy, nearest
from scpseg.params import Params, SegmenterParams
from scpseg.segmenters.base import normalise
from scpseg.segmenters.encoders import build_encoder, check_encoder
from scpseg.validation import Range

STRIDE = 32
LEVELS = (2, 1)
"""Reduction factors at which the map is refined, in this order. [ours] Halves of any image."""
SHARE, FAST_SHARE, FAST_CROPS = 0.75, 0.9, 3
"""Number of points that take the refined value; in Fast mode, on this number of crops only."""
MEDIAN = 11
"""Side of the filter that smooths the scores, in cells of the segmenter's input."""
ROWS = 16
"""Number of rows that the median filter processes at once, to bound its memory."""
SURE = 0.7
HARDEST = 100_000 / (8 * 508**2)
"""Hard example mining: pixels whose class has a probability below `SURE`, but at least this share of them."""
MOMENTUM = 0.01
"""Momentum of the refiner's batch norms."""
CLIP = 5.0
"""[ours] Maximum gradient norm with recipe 'suite': the pyramid has no normalisation."""
EPOCHS = {"base": 484, "refiner": 50}
CHECKS = 44
"""How often recipe 'author' scores the validation split for the base's best state: each eleventh epoch [ours]."""


@dataclass(frozen=True)
class MagNetParams:
    """Section `magnet`.

    Attributes:
        encoder: encoder of the segmenter; resnet50 in the paper. Its initial weights are `segmenter.weights`.
        width: channels of its pyramid; 256 in the paper.
        side: side of the segmenter's input in pixels; 508 in the paper, 512 with the encoders used here.
        crop: side of a crop in pixels of the half or full size image, resized to `side`; 612 in the paper.
        fast: refine only the 3 least certain crops at each size.
        recipe: 'suite' trains like every method; 'author' uses their optimiser, learning rates, batches and epochs.
    """

    encoder: str
    width: Annotated[int, Range(2)]
    side: Annotated[int, Range(2 * STRIDE)]
    crop: Annotated[int, Range(16)]
    fast: bool
    recipe: Literal["suite", "author"]


SECTIONS: dict[str, type] = {"magnet": MagNetParams}


class MagNet(Method):
    """A segmenter `base` and a `refiner`; a training window is a crop at half size, with twice the crop's side."""

    def __init__(self, params: MagNetParams, segmenter: SegmenterParams, classes: int) -> None:
        """Build segmenter and refiner."""
        super().__init__()
        self.params, self.crop = params, params.crop
        self.needs = Needs(patch=2 * params.crop, context=2 * params.crop, overview=params.side)
        self.base = Base(segmenter, params, classes)
        self.weights = self.base.weights
        self.refiner = Refiner(classes)
        self.phase = "base"

    def needs_at(self, height: int, width: int) -> Window:
        """One window for the whole image, at least as large as a crop at half size."""
        return Window.whole(height, width, max(LEVELS), least=max(LEVELS) * self.crop)

    def begin_image(self, image: ImageViews) -> Tensor:
        """Probabilities (1, K, T, T) of the reduced image."""
        assert self.needs.overview is not None
        return torch.softmax(self.base(normalise(image.overview(self.needs.overview), self.weights)), dim=1)

    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Log probabilities (B, K, H, W)."""
        assert isinstance(state, Tensor)
        return torch.stack(
            [
                self._refine(window, place, state).clamp_(min=torch.finfo(torch.float32).tiny).log_()
                for window, place in zip(views.context, torch.split(views.place, 1), strict=True)
            ]
        )

    def _refine(self, window: Tensor, place: Tensor, coarse: Tensor) -> Tensor:
        """Probabilities (K, H, W) of one window (3, H, W) uint8."""
        height, width = window.shape[-2:]
        likely: Tensor | None = None
        for level in LEVELS:
            size = (height // level, width // level)
            likely = enlarge(coarse, place, size)[0] if likely is None else resize(likely[None], size)[0]
            likely = self._refine_level(window, likely, level)
        assert likely is not None
        return likely

    def _refine_level(self, window: Tensor, likely: Tensor, level: int) -> Tensor:
        """Refine `likely` (K, h, w) at its most certain points; the window is `level` times as large."""
        height, width = likely.shape[-2:]
        crop, device = self.crop, likely.device
        unsure = 1 - margin(likely)
        corners = [(top, left) for top in spread(height, crop) for left in spread(width, crop)]
        places = torch.tensor(corners, device=device)
        count, share = len(corners), SHARE
        if self.params.fast and count > FAST_CROPS:
            means = torch.stack([unsure[top : top + crop, left : left + crop].mean() for top, left in corners])
            places, share = places[means.topk(FAST_CROPS).indices], FAST_SHARE
        points = round(share * height * width * len(places) / count)
        sums, scores = torch.zeros_like(likely), torch.zeros_like(unsure)
        counts = torch.zeros_like(unsure)
        cells, pixels = torch.arange(crop, device=device), torch.arange(level * crop, device=device)
        # Indices stay on the device, because they depend on computed values.
        for top, left in places.unbind():
            rows, columns = (top + cells)[:, None], left + cells
            seen = window[:, (level * top + pixels)[:, None], level * left + pixels]
            refined, score = self._refine_crop(seen, likely[:, rows, columns], unsure[rows, columns])
            sums[:, rows, columns] = sums[:, rows, columns] + refined
            scores[rows, columns] = scores[rows, columns] + score
            counts[rows, columns] = counts[rows, columns] + 1
        del unsure  # as large as the image, as all that is deleted here
        inside = counts > 0
        counts.clamp_(min=1)
        ranked = torch.where(inside, scores.div_(counts), -1.0).flatten()
        del scores
        # Unsorted: sorting millions of values takes several times their memory on CUDA, and the order is not used.
        chosen = torch.zeros_like(inside).flatten()
        chosen = chosen.scatter_(0, ranked.topk(points, sorted=False).indices, True).view_as(inside)
        del ranked
        chosen &= inside
        for refined, before in zip(sums.div_(counts), likely, strict=True):  # one map in addition, not all
            refined.copy_(torch.where(chosen, refined, before))
        return sums

    def _refine_crop(self, pixels: Tensor, likely: Tensor, unsure: Tensor) -> tuple[Tensor, Tensor]:
        """Refined probabilities (K, c, c) and scores (c, c) of uint8 `pixels`, given `likely` (K, c, c)."""
        size = (self.params.side, self.params.side)
        fine = torch.softmax(self.base(reduced(pixels[None], self.weights, size)), dim=1)
        refined = torch.softmax(self.refiner(resize(likely[None], size), fine), dim=1)
        score = F.interpolate(unsure[None, None], size=size, mode="nearest")[0, 0] * margin(refined[0])
        smooth = F.interpolate(median(score)[None, None], size=unsure.shape, mode="nearest")[0, 0]
        return resize(refined, (likely.shape[-2], likely.shape[-1]))[0], smooth

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        """Cross-entropy of the segmenter at one of three scales, or of the refiner on hard pixels at one of two."""
        assert views.overview is not None and labels.overview is not None
        size = (self.params.side, self.params.side)
        # Drawn for the whole batch, of which this process may have a slice.
        whole = len(views.context) * parallel.parts()
        levels = [int(torch.randint(3 if self.phase == "base" else 2, ())) for _ in range(whole)]
        # The corner of each crop in its window; an overview is used whole.
        corners = [
            [int(torch.randint(level * self.crop + 1, ())) for _ in range(2 if level < 2 else 0)] for level in levels
        ]
        inputs, targets, boxes = [], [], []
        for index, position in enumerate(parallel.slice_of(whole)):
            level = levels[position]
            if level == 2:
                inputs.append(normalise(views.overview[index, None], self.weights))
                targets.append(labels.overview[index, None])
                continue
            # The window itself is a crop at half size; a crop at full size is at a random place in it.
            side, (top, left) = (2 - level) * self.crop, corners[position]
            part = (slice(top, top + side), slice(left, left + side))
            inputs.append(reduced(views.context[index, None, :, *part], self.weights, size))
            targets.append(nearest(labels.context[index, None, *part], size))
            boxes.append(box_in(views.place[index], (top, left, side, side), self.needs.patch))
        pixels, target = torch.cat(inputs), torch.cat(targets)
        if self.phase == "base":
            return {"ce": cross_entropy(self.base(pixels), target)}
        with torch.no_grad():
            fine = torch.softmax(self.base(pixels), dim=1)
            coarse = torch.softmax(self.base(normalise(views.overview, self.weights)), dim=1)
            seen = torch.cat([enlarge(coarse[i : i + 1], place[None], size) for i, place in enumerate(boxes)])
        return {"ce": hard_cross_entropy(self.refiner(seen, fine), target)}

    def phases(self) -> tuple[Phase, ...]:
        """The segmenter, then the refiner; both are used at test time, so neither phase is limited."""
        author = self.params.recipe == "author"
        base = Recipe("sgd", 1e-3, 5e-4, 12, EPOCHS["base"], power=0.9, drop_last=True) if author else None
        # The learning rate is divided by 10 after 10, 20, 30, 40 and 45 epochs.
        drops = (0.2, 0.4, 0.6, 0.8, 0.9)
        refiner = Recipe("sgd", 1e-3, 5e-4, 8, EPOCHS["refiner"], drops=drops) if author else None
        clip = None if author else CLIP
        return (
            Phase("base", ("base",), recipe=base, clip=clip, checks=CHECKS if author else 0),
            Phase("refiner", ("refiner",), recipe=refiner, clip=clip),
        )

    def begin_phase(self, name: str, fresh: bool) -> None:
        """Store which part is trained."""
        self.phase = name

    def branches(self) -> dict[str, Predictor]:
        """The coarse map alone, to show what refinement adds."""
        return {"base": _Coarse(self).eval()}

    def describe(self) -> dict[str, str | int | float | bool | None]:
        """Effective sizes, mode and recipe; `patch` is the side of a training window."""
        return super().describe() | {
            "encoder": self.params.encoder,
            "width": self.params.width,
            "crop": self.crop,
            "fast": self.params.fast,
            "recipe": self.params.recipe,
            "clip": None if self.params.recipe == "author" else CLIP,
            "whole_image": True,
        }


class _Coarse(Predictor):
    """A MagNet without refinement, with the same weights."""

    def __init__(self, whole: MagNet) -> None:
        super().__init__()
        self.whole = whole
        self.needs, self.weights = whole.needs, whole.weights

    def needs_at(self, height: int, width: int) -> Window:
        """As with refinement."""
        return self.whole.needs_at(height, width)

    def begin_image(self, image: ImageViews) -> Tensor:
        """As with refinement."""
        return self.whole.begin_image(image)

    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Probabilities (B, K, H, W)."""
        return enlarge(state, views.place, (views.context.shape[-2], views.context.shape[-1]))


class Base(nn.Module):
    """An encoder with GLNet's pyramid, not shared; logits at the size of the input."""

    def __init__(self, segmenter: SegmenterParams, params: MagNetParams, classes: int) -> None:
        """Build encoder and pyramid."""
        super().__init__()
        self.encoder, self.weights = build_encoder(segmenter, params.encoder)
        self.fpn = FPN(list(self.encoder.out_channels[-4:]), classes, params.width, shared=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of normalised (B, 3, H, W)."""
        for stage in self.fpn.stages(self.encoder(pixels)[-4:]):
            maps = stage
        logits: Tensor = self.fpn.classifier(maps[0])
        return resize(logits, (pixels.shape[-2], pixels.shape[-1]))


class Refiner(nn.Module):
    """Refined logits from coarse and fine probabilities."""

    def __init__(self, classes: int) -> None:
        """Build for K classes."""
        super().__init__()
        self.layers = nn.Sequential(
            _norm(2 * classes),
            *_activated(2 * classes, 64, 3),
            *_activated(64, 64, 3),
            Bottleneck(64, 32, 128),
            Bottleneck(128, 32, 128),
            nn.Conv2d(128, classes, 1, bias=False),
        )

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Both inputs and the logits are (B, K, T, T)."""
        logits: Tensor = self.layers(torch.cat([coarse, fine], dim=1))
        return logits


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut, which is projected if the number of channels changes."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        """`width` is the number of channels inside."""
        super().__init__()
        self.body = nn.Sequential(
            *_activated(inputs, width, 1),
            *_activated(width, width, 3),
            nn.Conv2d(width, outputs, 1, bias=False),
            _norm(outputs),
        )
        projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), _norm(outputs))
        self.shortcut = nn.Identity() if inputs == outputs else projection

    def forward(self, x: Tensor) -> Tensor:
        """From (B, inputs, h, w) to (B, outputs, h, w)."""
        total: Tensor = self.body(x) + self.shortcut(x)
        return F.relu(total)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, momentum=MOMENTUM)


def _activated(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return [convolution, _norm(outputs), nn.ReLU(inplace=True)]


def margin(likely: Tensor) -> Tensor:
    """Certainty of probabilities (K, h, w): the highest minus the second highest, (h, w)."""
    first, second = likely.topk(2, dim=0).values
    sure: Tensor = first - second
    return sure


def median(score: Tensor) -> Tensor:
    """The median of the 11 x 11 cells around each cell of (h, w); borders are replicated."""
    half = MEDIAN // 2
    padded = F.pad(score[None, None], [half] * 4, mode="replicate")[0, 0]
    bands = []
    for top in range(0, score.shape[0], ROWS):
        windows = padded[top : top + ROWS + 2 * half].unfold(0, MEDIAN, 1).unfold(1, MEDIAN, 1).flatten(2)
        # The smallest value of the upper half, because torch's median has no deterministic CUDA kernel.
        bands.append(windows.topk(MEDIAN**2 // 2 + 1, dim=-1, sorted=False).values.amin(dim=-1))
    return torch.cat(bands)


def spread(length: int, side: int) -> list[int]:
    """First rows of the smallest number of crops of `side` that cover `length`, evenly spaced."""
    count = math.ceil(length / side)
    return [round(number * (length - side) / max(count - 1, 1)) for number in range(count)]


def reduced(pixels: Tensor, weights: Weights, size: tuple[int, int]) -> Tensor:
    """Normalise and reduce uint8 crops (B, 3, c, c) to (B, 3, *size), with an antialiased bilinear kernel."""
    images = normalise(pixels, weights)
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)


def box_in(place: Tensor, box: tuple[int, int, int, int], side: int) -> Tensor:
    """The place (4,) in the image of a box (top, left, height, width) in pixels of a window of `side` at `place`."""
    top, left, height, width = (part / side for part in box)
    scale = torch.stack([place[2], place[3]])
    corner = place[:2] + torch.tensor([top, left]) * scale
    return torch.cat([corner, torch.tensor([height, width]) * scale])


def hard_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over valid pixels whose class has a probability below 0.7, but at least the hardest 4.8 %.

    Args:
        logits: (B, K, h, w).
        labels: (B, h, w) uint8 training ids, 255 = ignore.
    """
    valid = labels != IGNORE_INDEX
    target = torch.where(valid, labels, 0).long().unsqueeze(1)
    logits = logits.float()
    log_likely = logits.gather(1, target).squeeze(1) - torch.logsumexp(logits, dim=1)
    # Ignored pixels are sorted last; the number of valid ones stays on the device.
    likely = torch.where(valid, log_likely.detach().exp(), 2.0)
    every = parallel.whole_of(likely)
    fewest = math.ceil(HARDEST * every.numel())
    last = (parallel.summed(valid.sum()).clamp(max=fewest) - 1).clamp(min=0)
    limit = every.flatten().sort().values.gather(0, last[None]).clamp(min=SURE)
    hard = valid & (likely <= limit)
    return torch.where(hard, -log_likely, 0.0).sum() / parallel.denominator(hard.sum())


def check(params: Params, benchmark: str) -> None:
    """Check the values of the parameters.

    Raises:
        UserError: the segmenter does not support the input side or width, a crop is larger than the image, or the
            encoder does not fit.
    """
    magnet = params.section("magnet", MagNetParams)
    for key, step in (("side", STRIDE), ("width", 2)):
        value = getattr(magnet, key)
        if value % step:
            near = (value + step // 2) // step * step
            why = f"it must be a multiple of {step}; the nearest valid value is {near}"
            raise params.invalid(f"magnet.{key}", value, why)
    side = params.image_side(benchmark)
    if magnet.crop > side:
        why = f"{benchmark}'s images have {side} pixels a side; the nearest valid value is {side}"
        raise params.invalid("magnet.crop", magnet.crop, why)
    check_encoder(params, "magnet.encoder", magnet.encoder, STRIDE, magnet.side)


def build(setting: Setting) -> Method:
    """Build the method from checked parameters."""
    params = setting.params.section("magnet", MagNetParams)
    return MagNet(params, setting.segmenter, setting.classes)
