"""Downscale: the whole image is reduced and segmented once; with the plain patch, the usual baseline of the field.

Published "whole image" rows often omit the reduced size; here it is a parameter and is included in every result row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from scpseg.contract import ImageViews, Labels, Method, Needs, Phase, Setting, Views
from scpseg.geometry import enlarge
from scpseg.params import Params
from scpseg.segmenters.base import Segmenter, normalise
from scpseg.segmenters.build import (
    build_segmenter,
    check_segmenter,
    fewest_windows,
    maps_problem,
    side_problem,
)
from scpseg.validation import Range


@dataclass(frozen=True)
class DownscaleParams:
    """Section `downscale`: `side` T of the overview in pixels."""

    side: Annotated[int, Range(32)]


SECTIONS: dict[str, type] = {"downscale": DownscaleParams}


class Downscale(Method):
    """Segments the overview; a patch crops its box from the logits, so the full-size logits are never stored."""

    def __init__(self, segmenter: Segmenter, side: int, patch: int) -> None:
        """Store the segmenter; `side` of the overview and `patch` are in pixels."""
        super().__init__()
        self.segmenter = segmenter
        self.weights = segmenter.weights
        self.needs = Needs(patch=patch, context=patch, overview=side)

    def begin_image(self, image: ImageViews) -> Tensor:
        """Logits (1, K, h, w) of the overview at the segmenter's feature stride."""
        assert self.needs.overview is not None
        overview = normalise(image.overview(self.needs.overview), self.weights)
        features = self.segmenter.decode(self.segmenter.encode(overview))
        return self.segmenter.classify(features, (features.shape[-2], features.shape[-1]))

    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Logits (B, K, L, L): the patch's box of the state, upsampled bilinearly; the window itself is not used."""
        assert isinstance(state, Tensor)
        return enlarge(state, views.place, self.needs.window.patch)

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        """The segmenter's losses on overviews; the windows in the batch only determine the images."""
        assert views.overview is not None and labels.overview is not None
        encoded = self.segmenter.encode(normalise(views.overview, self.weights))
        return self.segmenter.losses(encoded, self.segmenter.decode(encoded), labels.overview, progress)

    def phases(self) -> tuple[Phase, ...]:
        """One phase, on overviews only."""
        return (Phase("all", sees=("overview",)),)


def check(params: Params, benchmark: str) -> None:
    """Check the values of the parameters.

    Raises:
        UserError: see `check_segmenter`; the segmenter does not support the side.
    """
    segmenter = check_segmenter(params, benchmark)
    side = params.section("downscale", DownscaleParams).side
    problem = side_problem(segmenter, side) or maps_problem(segmenter, side)
    if problem:
        raise params.invalid("downscale.side", side, problem)
    fewest, batch = fewest_windows(segmenter, side), params.benchmark(benchmark).batch
    if batch < fewest:
        why = f"{segmenter.name} needs at least {fewest} images of that side per step, but {benchmark}.batch is {batch}"
        raise params.invalid("downscale.side", side, f"{why}; set {benchmark}.batch to {fewest} or more")


def build(setting: Setting) -> Method:
    """Build the method from checked parameters."""
    side = setting.params.section("downscale", DownscaleParams).side
    return Downscale(build_segmenter(setting.segmenter, setting.classes), side, setting.patch)
