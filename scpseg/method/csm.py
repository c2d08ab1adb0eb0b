"""Context squeezing module (paper, equations 1-4): squeeze a context window into a frame around the reduced patch.

The borders of the patch divide the window into 3 x 3 tiles; each is resized separately and keeps its place:

    o x o -> f x f   o x L -> f x D   o x o -> f x f
    L x o -> D x f   L x L -> D x D   L x o -> D x f
    o x o -> f x f   o x L -> f x D   o x o -> f x f
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from scpseg.validation import Range, invalid

SMALLEST = 32
"""Minimum side, in pixels, of the reduced patch [ours]."""


@dataclass(frozen=True)
class CSMParams:
    """Section `csm`.

    Attributes:
        ratio: D / L, the side of the reduced patch relative to the patch; 1 = no frame.
        context: G / L, the side of the window relative to the patch.
        kernel: interpolation kernel; 'antialias' is bilinear with a kernel as wide as the reduction [ours].
        supervise: cross-entropy on the whole 'frame' (paper), or on its 'centre' only [ours].
    """

    ratio: float
    context: Annotated[float, Range(high=64)]
    kernel: Literal["antialias", "bilinear"]
    supervise: Literal["frame", "centre"]


@dataclass(frozen=True)
class Sizes:
    """Sides in pixels of the window (G), the patch in its centre (L) and the reduced patch (D)."""

    context: int
    patch: int
    squeezed: int

    @property
    def surround(self) -> int:
        """o, the width of the context on each side of the patch."""
        return (self.context - self.patch) // 2

    @property
    def frame(self) -> int:
        """f, the width of the frame that contains the squeezed context."""
        return (self.patch - self.squeezed) // 2

    @property
    def tiles(self) -> tuple[tuple[slice, slice], ...]:
        """Slices along one axis of each tile in the window and in the network's input, without empty tiles."""
        o, f = self.surround, self.frame
        middle = (slice(o, o + self.patch), slice(f, f + self.squeezed))
        if f == 0:
            return (middle,)
        before = (slice(0, o), slice(0, f))
        after = (slice(o + self.patch, self.context), slice(f + self.squeezed, self.patch))
        return (before, middle, after)


def sizes(patch: int, ratio: float, context: float, stride: int, file: str = "params.yaml") -> Sizes:
    """Effective sizes for a patch of L pixels.

    f is rounded to a multiple of `stride`, at least one, so that a decoder's crop starts on a cell; G is rounded so
    that G - L is even. Ratio 1 has no frame, so the context is not used and G = L.

    Args:
        patch: L in pixels.
        ratio: requested D / L.
        context: requested G / L.
        stride: feature stride of the segmenter, in pixels.
        file: parameter file, for messages.

    Raises:
        UserError: a value is not valid; the message has the nearest valid one.
    """
    widest = (patch - SMALLEST) // (2 * stride) * stride
    lowest = (patch - 2 * widest) / patch
    if not 0 < ratio <= 1:
        why = f"it must be above 0 and at most 1; the nearest valid value is {1 if ratio > 1 else lowest:g}"
        raise invalid(file, "csm.ratio", ratio, why)
    frame = 0 if ratio == 1 else stride * max(1, math.floor(patch * (1 - ratio) / 2 / stride + 0.5))
    if frame > widest:
        why = f"it reduces the patch of {patch} pixels to {patch - 2 * frame}, below {SMALLEST}"
        raise invalid(file, "csm.ratio", ratio, f"{why}; the nearest valid value is {lowest:g}")
    surround = math.floor(patch * (context - 1) / 2 + 0.5)
    if context < 1 or (frame and not surround):
        why = f"the window must be {'larger than' if frame else 'at least as large as'} the patch"
        near = (patch + 2) / patch if frame else 1
        raise invalid(file, "csm.context", context, f"{why}; the nearest valid value is {near:g}, the paper has 2")
    if frame == 0:
        return Sizes(patch, patch, patch)
    return Sizes(patch + 2 * surround, patch, patch - 2 * frame)


def squeeze(windows: Tensor, sizes: Sizes, kernel: Literal["antialias", "bilinear"]) -> Tensor:
    """Squeeze windows (B, 3, G, G), uint8, to squeezed patches (B, 3, L, L), float32, 0..255.

    Nine interpolations are the fastest exact form on a CPU, where products with the equivalent matrices take 2 to 3
    times as long; on a GPU they are deterministic, because no gradient flows into an image. Only one tile at a time is
    converted to float.
    """
    if sizes.frame == 0:
        return patch_of(windows, sizes).float()
    squeezed = windows.new_empty((*windows.shape[:-2], sizes.patch, sizes.patch), dtype=torch.float32)
    for rows, rows_to in sizes.tiles:
        for columns, columns_to in sizes.tiles:
            squeezed[..., rows_to, columns_to] = F.interpolate(
                windows[..., rows, columns].float(),
                size=(rows_to.stop - rows_to.start, columns_to.stop - columns_to.start),
                mode="bilinear",
                align_corners=False,
                antialias=kernel == "antialias",
            )
    return squeezed


def squeeze_labels(labels: Tensor, sizes: Sizes) -> Tensor:
    """Squeeze labels (B, G, G) with the same tiles to (B, L, L); each pixel takes the label below its centre."""
    index = torch.tensor(nearest_index(sizes), device=labels.device)
    return labels.index_select(-2, index).index_select(-1, index)


def nearest_index(sizes: Sizes) -> list[int]:
    """For each of the L positions along an axis, the position in G below its centre ('nearest-exact' per tile)."""
    index: list[int] = []
    for source, target in sizes.tiles:
        n, m = source.stop - source.start, target.stop - target.start
        index += [source.start + (2 * i + 1) * n // (2 * m) for i in range(m)]
    return index


def patch_of(windows: Tensor, sizes: Sizes) -> Tensor:
    """The unreduced patch: the centre (..., L, L) of windows (..., G, G), as a view."""
    middle = slice(sizes.surround, sizes.surround + sizes.patch)
    return windows[..., middle, middle]


def centre(maps: Tensor, sizes: Sizes) -> Tensor:
    """The part of a map of the squeezed window (..., h, h) that shows the patch, as a view; h divides L."""
    frame = sizes.frame * maps.shape[-1] // sizes.patch
    middle = slice(frame, maps.shape[-1] - frame)
    return maps[..., middle, middle]
