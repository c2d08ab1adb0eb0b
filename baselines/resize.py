"""Resize: the window round the patch reduced as a whole to the patch's size; the control of SCPSeg's squeezing.

It sees the same surroundings through the same input size, but the patch in the centre loses as much detail as they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from scpseg.contract import Labels, Method, Needs, Setting, Views
from scpseg.geometry import enlarge
from scpseg.losses import nearest
from scpseg.params import Params
from scpseg.segmenters.base import Segmenter, normalise
from scpseg.segmenters.build import build_segmenter, check_segmenter
from scpseg.validation import Range


@dataclass(frozen=True)
class ResizeParams:
    """Section `resize`: `context`, the window's side G over the patch L, G rounded so that G - L is even."""

    context: Annotated[float, Range(1, 16)]


SECTIONS: dict[str, type] = {"resize": ResizeParams}


class Resize(Method):
    """Segments reduced windows; a patch takes the centre of the logits."""

    def __init__(self, segmenter: Segmenter, patch: int, context: int) -> None:
        """Keep the segmenter; `patch` and `context` in pixels."""
        super().__init__()
        self.segmenter = segmenter
        self.weights = segmenter.weights
        self.needs = Needs(patch=patch, context=context)

    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Logits (B, K, L, L): those of the reduced window, its centre enlarged bilinearly."""
        logits: Tensor = self.segmenter(self._reduced(views.context))
        share = self.needs.patch / self.needs.context
        centre = torch.tensor([[(1 - share) / 2, (1 - share) / 2, share, share]]).expand(len(logits), 4)
        return enlarge(logits, centre, self.needs.window.patch)

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        """Those of the segmenter on the whole reduced window, labels nearest."""
        encoded = self.segmenter.encode(self._reduced(views.context))
        target = nearest(labels.context, self.needs.window.patch)
        return self.segmenter.losses(encoded, self.segmenter.decode(encoded), target, progress)

    def describe(self) -> dict[str, str | int | float | bool | None]:
        """Effective sizes; the patch is reduced to `squeezed` pixels."""
        return super().describe() | {"squeezed": round(self.needs.patch**2 / self.needs.context)}

    def _reduced(self, context: Tensor) -> Tensor:
        """(B, 3, L, L) normalised, with an anti-aliasing filter, as `csm.kernel: antialias`."""
        size = self.needs.window.patch
        pixels = F.interpolate(context.float(), size=size, mode="bilinear", antialias=True, align_corners=False)
        return normalise(pixels, self.weights)


def check(params: Params, benchmark: str) -> None:
    """Check the values of the parameters.

    Raises:
        UserError: see `check_segmenter`; a context out of range.
    """
    params.section("resize", ResizeParams)
    check_segmenter(params, benchmark)


def build(setting: Setting) -> Method:
    """The method from checked parameters."""
    margin = round(setting.patch * (setting.params.section("resize", ResizeParams).context - 1) / 2)
    return Resize(build_segmenter(setting.segmenter, setting.classes), setting.patch, setting.patch + 2 * margin)
