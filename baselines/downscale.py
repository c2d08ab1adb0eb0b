"""Downscale: the whole image reduced and segmented once, the other classic beside the plain patch.

Published "whole image" rows hide how far the image was reduced; here the side is a parameter and stands in every row.
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
    """Section `downscale`: `side` T in pixels, to which the whole image is reduced."""

    side: Annotated[int, Range(32)]


SECTIONS: dict[str, type] = {"downscale": DownscaleParams}


class Downscale(Method):
    """Segments the overview; a patch takes its box of the logits, so that no score map of the image's size exists."""

    def __init__(self, segmenter: Segmenter, side: int, patch: int) -> None:
        """Keep the segmenter; `side` of the overview and `patch` in pixels."""
        super().__init__()
        self.segmenter = segmenter
        self.weights = segmenter.weights
        self.needs = Needs(patch=patch, context=patch, overview=side)

    def begin_image(self, image: ImageViews) -> Tensor:
        """Logits (1, K, h, w) of the whole image at the segmenter's feature stride of the overview."""
        assert self.needs.overview is not None
        overview = normalise(image.overview(self.needs.overview), self.weights)
        features = self.segmenter.decode(self.segmenter.encode(overview))
        return self.segmenter.classify(features, (features.shape[-2], features.shape[-1]))

    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Logits (B, K, L, L): the patch's box of the state, bilinear; the window itself is not looked at."""
        assert isinstance(state, Tensor)
        return enlarge(state, views.place, self.needs.window.patch)

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        """Those of the segmenter on whole overviews; the windows that come with them only choose the images."""
        assert views.overview is not None and labels.overview is not None
        encoded = self.segmenter.encode(normalise(views.overview, self.weights))
        return self.segmenter.losses(encoded, self.segmenter.decode(encoded), labels.overview, progress)

    def phases(self) -> tuple[Phase, ...]:
        """One, on overviews alone."""
        return (Phase("all", sees=("overview",)),)


def check(params: Params, benchmark: str) -> None:
    """Check the values of the parameters.

    Raises:
        UserError: see `check_segmenter`; a side that the segmenter cannot work with.
    """
    segmenter = check_segmenter(params, benchmark)
    side = params.section("downscale", DownscaleParams).side
    problem = side_problem(segmenter, side) or maps_problem(segmenter, side)
    if problem:
        raise params.invalid("downscale.side", side, problem)
    fewest, batch = fewest_windows(segmenter, side), params.benchmark(benchmark).batch
    if batch < fewest:
        why = f"{segmenter.name} needs {fewest} images of that side a step and {benchmark}.batch is {batch}"
        raise params.invalid("downscale.side", side, f"{why}; set {benchmark}.batch to {fewest} or more")


def build(setting: Setting) -> Method:
    """The method from checked parameters."""
    side = setting.params.section("downscale", DownscaleParams).side
    return Downscale(build_segmenter(setting.segmenter, setting.classes), side, setting.patch)
