"""Resize: the context window, uniformly reduced to the size of the patch; the control for SCPSeg's squeezing.

It uses the same context at the same input size, but the patch in the centre loses as much detail as its surroundings.
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
    """Section `resize`: `context`, the ratio G / L of window and patch; G is rounded so that G - L is even."""

    context: Annotated[float, Range(1, 16)]


SECTIONS: dict[str, type] = {"resize": ResizeParams}


class Resize(Method):
    """Segments reduced windows; the logits of a patch are the centre of the result."""

    def __init__(self, segmenter: Segmenter, patch: int, context: int) -> None:
        """Store the segmenter; `patch` and `context` are in pixels."""
        super().__init__()
        self.segmenter = segmenter
        self.weights = segmenter.weights
        self.needs = Needs(patch=patch, context=context)

    def forward(self, views: Views, state: Any = None) -> Tensor:
        """Logits (B, K, L, L): the centre of the reduced window's logits, upsampled bilinearly."""
        logits: Tensor = self.segmenter(self._reduced(views.take()))
        share = self.needs.patch / self.needs.context
        centre = torch.tensor([[(1 - share) / 2, (1 - share) / 2, share, share]]).expand(len(logits), 4)
        return enlarge(logits, centre, self.needs.window.patch)

    def losses(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        """The segmenter's losses on the reduced window, with labels reduced by nearest neighbour."""
        encoded = self.segmenter.encode(self._reduced(views.context))
        target = nearest(labels.context, self.needs.window.patch)
        return self.segmenter.losses(encoded, self.segmenter.decode(encoded), target, progress)

    def describe(self) -> dict[str, str | int | float | bool | None]:
        """Effective sizes; `squeezed` is the side of the reduced patch in pixels."""
        return super().describe() | {"squeezed": round(self.needs.patch**2 / self.needs.context)}

    def _reduced(self, context: Tensor) -> Tensor:
        """Normalised (B, 3, L, L), reduced with an antialiasing filter as with `csm.kernel: antialias`."""
        size = self.needs.window.patch
        pixels = F.interpolate(context.float(), size=size, mode="bilinear", antialias=True, align_corners=False)
        return normalise(pixels, self.weights)


def check(params: Params, benchmark: str) -> None:
    """Check the values of the parameters.

    Raises:
        UserError: see `check_segmenter`; the context is out of range.
    """
    params.section("resize", ResizeParams)
    check_segmenter(params, benchmark)


def build(setting: Setting) -> Method:
    """Build the method from checked parameters."""
    margin = round(setting.patch * (setting.params.section("resize", ResizeParams).context - 1) / 2)
    return Resize(build_segmenter(setting.segmenter, setting.classes), setting.patch, setting.patch + 2 * margin)
