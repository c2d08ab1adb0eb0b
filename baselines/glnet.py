"""GLNet (Chen, Jiang, Wang, Cui, Qian; CVPR 2019): a global branch on the overview and a local branch on the patch.

Each branch is an encoder with a feature pyramid (`baselines.parts.fpn`), and uses the other's maps of the same area
at every stage. Training has phases: the overview branch alone; the local branch with maps cropped from the overview
branch; and, with direction 'both', a second overview branch with the stitched maps of all local windows. [ours]:
ImageNet statistics, the library's windows, bilinear instead of nearest upsampling of the logits, ignored pixels
excluded from the loss, batch norm over single overviews in phase 'mutual'; with recipe 'suite', gradients averaged
instead of summed over windows, and clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from baselines.parts.fpn import FPN, WIDTH, Partner, initialise
from scpseg.contract import ImageViews, Labels, Method, Needs, Phase, Predictor, Recipe, Setting, Views, Weights
from scpseg.geometry import Stitched, cut, enlarge, resize
from scpseg.losses import focal
from scpseg.params import Params, SegmenterParams
from scpseg.segmenters.base import normalise
from scpseg.segmenters.encoders import build_encoder, encoder_problem, weights_problem
from scpseg.validation import Positive, Range

STRIDE = 32
GAMMA = 3.0
AGREEMENT = 0.15
"""Weight of the squared difference between the last local features and those cropped from the overview's."""
CLIP = 5.0
"""[ours] Maximum gradient norm with recipe 'suite': without it the pyramids, which have no normalisation, diverge
within 30 steps of SGD at learning rate 0.01 (observed with ResNet-50 and width 256)."""
EPOCHS = {"overview": 120, "local": 50, "mutual": 120}
RATES = {"overview": 5e-5, "local": 2e-5, "mutual": 5e-5}
IMAGES = 6
"""Images per step in the authors' code."""
LEARNS = {
    "overview": ("overview_branch",),
    "local": ("local_branch", "aggregation"),
    "mutual": ("mutual_branch", "aggregation"),
}


@dataclass(frozen=True)
class GLNetParams:
    """Section `glnet`.

    Attributes:
        overview: side T of the overview in pixels; 508 in the paper, 512 with the encoders used here.
        encoder: encoder of every branch; its initial weights are `segmenter.weights`.
        width: channels of the pyramids; 256 in the paper.
        direction: 'to_local' (phases overview, local) or 'both' (also phase mutual).
        recipe: 'suite' trains the local branch like every method, and the overview branches for at most their authors'
            epochs; 'author' uses their optimiser, learning rates, batches, summed losses and epochs, and ignores
            `train.iterations`.
        windows: number computed at once where a phase takes all windows of an image; 6 in the paper.
        patch: side of the windows in pixels, 508 in the paper (536 on Inria); null = the benchmark's.
        overlap: minimum overlap of neighbouring windows in pixels, 50 in the paper.
    """

    overview: Annotated[int, Range(2 * STRIDE)]
    encoder: str
    width: Annotated[int, Range(2)]
    direction: Literal["to_local", "both"]
    recipe: Literal["suite", "author"]
    windows: Positive
    patch: Annotated[int, Range(STRIDE + 1)] | None
    overlap: Annotated[int, Range(0)]

    def patch_of(self, benchmark: int) -> int:
        """The side of the windows, given the benchmark's patch side."""
        return benchmark if self.patch is None else self.patch


SECTIONS: dict[str, type] = {"glnet": GLNetParams}


@dataclass(frozen=True)
class GlobalFeatures:
    """Features of the whole image: stages 0..3 of the overview branch, and the features for the aggregation."""

    stages: list[list[Tensor]]
    joined: Tensor


class Branch(nn.Module):
    """An encoder with its pyramid."""

    def __init__(self, encoder: nn.Module, fpn: FPN, weights: Weights) -> None:
        """Combine both; the pyramid uses the last four maps of the encoder, which was initialised from `weights`."""
        super().__init__()
        self.encoder, self.fpn, self.weights = encoder, fpn, weights

    def stages(self, pixels: Tensor, partner: Partner | None = None) -> Iterator[list[Tensor]]:
        """Yield the stages of the pyramid for uint8 pixels (B, 3, H, W)."""
        return self.fpn.stages(self.encoder(normalise(pixels, self.weights))[-4:], partner)

    def joined(self, pixels: Tensor, partner: Partner | None = None) -> Tensor:
        """The last stage only."""
        for stage in self.stages(pixels, partner):
            maps = stage
        return maps[0]

    def classify(self, joined: Tensor) -> Tensor:
        """Logits (B, K, h, w) at the resolution of the last stage."""
        logits: Tensor = self.fpn.classifier(joined)
        return logits


class GLNet(Method):
    """Two or three branches; `forward` needs the state that `begin_image` returns."""

    def __init__(self, params: GLNetParams, segmenter: SegmenterParams, classes: int, patch: int) -> None:
        """Build the branches; `segmenter.encoder` is already GLNet's own, `patch` is in pixels."""
        super().__init__()
        self.params = params
        self.needs = Needs(patch, patch, params.overview, params.overlap)
        self.overview_branch = _branch(segmenter, classes, params.width, shared=False)
        self.weights = self.overview_branch.weights
        self.local_branch = _branch(segmenter, classes, params.width, shared=True)
        both = params.direction == "both"
        self.mutual_branch = _branch(segmenter, classes, params.width, shared=True) if both else None
        self.aggregation = nn.Conv2d(2 * self.local_branch.fpn.joined, classes, 3, padding=1)
        initialise(self.aggregation, WIDTH / params.width)
        self.phase = "overview"

    def begin_image(self, image: ImageViews) -> GlobalFeatures:
        """Encode the overview; with direction 'both', also process all windows once.

        This pass stores sums of the size of the overview's maps only; `forward` computes the local features again.
        """
        return self._global(image.overview(self.params.overview), image.windows)

    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Aggregated logits (B, K, L, L)."""
        assert isinstance(state, GlobalFeatures)
        return resize(self._aggregate(self._local(views, state), views, state), (self.needs.patch, self.needs.patch))

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        """Focal losses of the phase's outputs at stride 4; in phase 'local' also the disagreement of the branches."""
        assert views.overview is not None and labels.overview is not None
        if self.phase == "overview":
            logits = self.overview_branch.classify(self.overview_branch.joined(views.overview))
            return {"overview": focal(logits, labels.overview, GAMMA)}
        if self.phase == "mutual":
            return self._mutual_losses(views, labels, views.overview, labels.overview)
        with torch.no_grad():
            features = self._overview(views.overview)
        local = self._local(views, features)
        crop = cut(features.joined, views.place, (local.shape[-2], local.shape[-1]))
        return {
            "local": focal(self.local_branch.classify(local), labels.context, GAMMA),
            "aggregate": focal(self._aggregate(local, views, features), labels.context, GAMMA),
            "agreement": AGREEMENT * F.mse_loss(local, crop),
        }

    def _mutual_losses(self, views: Views, labels: Labels, overview: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Losses of all windows of an image; the backward pass recomputes their features instead of storing them.

        The authors average over the overviews of their images and sum over all sub-batches of windows.
        """
        assert self.mutual_branch is not None
        author = self.params.recipe == "author"
        parts = [slice(first, first + self.params.windows) for first in range(0, len(views.place), self.params.windows)]
        portions = [Views(views.context[part], views.place[part]) for part in parts]
        features = self._global(overview, lambda: iter(portions))

        def aggregate(joined: Tensor, portion: Views, target: Tensor) -> Tensor:
            with torch.no_grad():
                local = self._local(portion, features)
            logits = self._aggregate(local, portion, replace(features, joined=joined))
            return focal(logits, target, GAMMA) * (1.0 if author else len(portion.place) / len(views.place))

        portions_loss = [
            checkpoint(aggregate, features.joined, portion, labels.context[part], use_reentrant=False)
            for portion, part in zip(portions, parts, strict=True)
        ]
        return {
            "overview": focal(self.mutual_branch.classify(features.joined), truth, GAMMA) / (IMAGES if author else 1),
            "aggregate": torch.stack(portions_loss).sum(),
        }

    def phases(self) -> tuple[Phase, ...]:
        """Overview, local and, with direction 'both', mutual; the last state of each is kept, as the authors do."""
        return tuple(self._phase(name) for name in self._names())

    def _names(self) -> list[str]:
        return [name for name in EPOCHS if name != "mutual" or self.mutual_branch is not None]

    def _phase(self, name: str) -> Phase:
        author = self.params.recipe == "author"
        # The authors train the local branch on all windows of their images; the suite samples windows for every method.
        all_windows = name == "mutual" or (author and name == "local")
        return Phase(
            name,
            LEARNS[name],
            "image" if all_windows else "window",
            self.params.windows if all_windows and name == "local" else None,
            Recipe("adam", RATES[name], 5e-4, IMAGES, EPOCHS[name], power=0.9) if author else None,
            None if author else CLIP,
            None if name == "local" else EPOCHS[name],
            ("overview",) if name == "overview" else ("window", "overview"),
            summed=author and all_windows,
        )

    def branches(self) -> dict[str, Predictor]:
        """Each branch alone, with the features that it receives from the others."""
        return {name: _Alone(self, name).eval() for name in self._names()}

    def begin_phase(self, name: str, fresh: bool) -> None:
        """Copy the trained encoder and classifier to the second overview branch, whose pyramid starts untrained."""
        self.phase = name
        if name == "mutual" and fresh:
            assert self.mutual_branch is not None
            for own, known in (
                (self.mutual_branch.encoder, self.overview_branch.encoder),
                (self.mutual_branch.fpn.classifier, self.overview_branch.fpn.classifier),
            ):
                own.load_state_dict(known.state_dict())

    def describe(self) -> dict[str, str | int | float | bool | None]:
        """Effective sizes, direction and recipe."""
        author = self.params.recipe == "author"
        return super().describe() | {
            "encoder": self.params.encoder,
            "width": self.params.width,
            "direction": self.params.direction,
            "recipe": self.params.recipe,
            "overlap": self.params.overlap,
            "clip": None if author else CLIP,
            "epochs": ":".join(str(EPOCHS[name]) for name in self._names()),
            "adam_rates": ":".join(f"{RATES[name]:g}" for name in self._names()) if author else None,
        }

    def _overview(self, overview: Tensor) -> GlobalFeatures:
        """Global features of overviews (B, 3, T, T) from the first overview branch."""
        stages = self.overview_branch.stages(overview)
        return GlobalFeatures(list(islice(stages, 4)), next(stages)[0])

    def _global(self, overview: Tensor, windows: Callable[[], Iterator[Views]]) -> GlobalFeatures:
        """Global features of an image, from its overview (1, 3, T, T) and, with direction 'both', its windows."""
        if self.mutual_branch is None:
            return self._overview(overview)
        with torch.no_grad():
            stages = list(islice(self.overview_branch.stages(overview), 4))
            stitched = self._stitched(stages, windows())
        joined = self.mutual_branch.joined(overview, lambda stage, level, size: stitched[stage][level])
        return GlobalFeatures(stages, joined)

    def _stitched(self, stages: list[list[Tensor]], windows: Iterator[Views]) -> list[list[Tensor]]:
        """Stages 0..3 of the local branch on all windows, stitched to maps of the overview's sizes."""
        stitched = [[Stitched(map_) for map_ in stage] for stage in stages]
        for views in windows:
            local = self.local_branch.stages(views.context, _crop(stages, views.place))
            for empty, filled in zip(stitched, local, strict=False):
                for target, map_ in zip(empty, filled, strict=True):
                    target.add(map_, views.place)
        return [[target.mean() for target in stage] for stage in stitched]

    def _local(self, views: Views, features: GlobalFeatures) -> Tensor:
        return self.local_branch.joined(views.context, _crop(features.stages, views.place))

    def _aggregate(self, local: Tensor, views: Views, features: GlobalFeatures) -> Tensor:
        crop = cut(features.joined, views.place, (local.shape[-2], local.shape[-1]))
        logits: Tensor = self.aggregation(torch.cat([local, crop], dim=1))
        return logits


class _Alone(Predictor):
    """One branch of a GLNet, which labels images with its own classifier."""

    def __init__(self, glnet: GLNet, name: str) -> None:
        super().__init__()
        self.glnet, self.name = glnet, name
        self.needs, self.weights = glnet.needs, glnet.weights

    def begin_image(self, image: ImageViews) -> GlobalFeatures | Tensor:
        """Logits (1, K, h, w) of the whole image; for the local branch, the global features."""
        glnet = self.glnet
        if self.name == "local":
            return glnet.begin_image(image)
        if self.name == "overview":
            assert glnet.needs.overview is not None
            overview = image.overview(glnet.needs.overview)
            return glnet.overview_branch.classify(glnet.overview_branch.joined(overview))
        assert glnet.mutual_branch is not None
        return glnet.mutual_branch.classify(glnet.begin_image(image).joined)

    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Logits (B, K, L, L)."""
        size = self.needs.window.patch
        if isinstance(state, Tensor):
            return enlarge(state, views.place, size)
        return resize(self.glnet.local_branch.classify(self.glnet._local(views, state)), size)


def _crop(stages: list[list[Tensor]], place: Tensor) -> Partner:
    """Crop the overview's maps at `place`."""
    return lambda stage, level, size: cut(stages[stage][level], place, size)


def _branch(params: SegmenterParams, classes: int, width: int, shared: bool) -> Branch:
    encoder, weights = build_encoder(params, params.encoder)
    return Branch(encoder, FPN(encoder.out_channels[-4:], classes, width, shared), weights)


def check(params: Params, benchmark: str) -> None:
    """Check the values of the parameters.

    Raises:
        UserError: the branches do not support the overview, width or patch side, the encoder is unknown, or it has no
            ImageNet weights.
    """
    glnet = params.section("glnet", GLNetParams)
    for key, step in (("overview", STRIDE), ("width", 2)):
        value = getattr(glnet, key)
        if value % step:
            near = (value + step // 2) // step * step
            raise params.invalid(
                f"glnet.{key}", value, f"it must be a multiple of {step}; the nearest valid value is {near}"
            )
    patch = glnet.patch_of(params.benchmark(benchmark).patch)
    if glnet.overlap >= patch:
        why = f"it must be less than the side of a window; the nearest valid value is {patch - 1}"
        raise params.invalid("glnet.overlap", glnet.overlap, why)
    if patch <= STRIDE:
        why = f"batch norm needs more than one cell at stride {STRIDE}; the nearest valid value is {STRIDE + 1}"
        raise params.invalid(f"{benchmark}.patch", patch, why)
    problem = encoder_problem(glnet.encoder, STRIDE, glnet.overview)
    if not problem and params.section("segmenter", SegmenterParams).weights == "imagenet":
        problem = weights_problem(glnet.encoder)
    if problem:
        raise params.invalid("glnet.encoder", glnet.encoder, problem)


def build(setting: Setting) -> Method:
    """Build the method from checked parameters."""
    params = setting.params.section("glnet", GLNetParams)
    segmenter = replace(setting.segmenter, encoder=params.encoder)
    return GLNet(params, segmenter, setting.classes, params.patch_of(setting.patch))
