"""Crop the box of a patch from a map of the whole image, and stitch window maps to such a map.

`place` (B, 4) is the box relative to the image, as in `scpseg.contract.Views`: top, left, height, width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]


def resize(maps: Tensor, size: Size) -> Tensor:
    """Resize (B, C, h, w) bilinearly to (B, C, *size); maps that already have this size are returned unchanged."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def cells(place: Tensor, size: Size) -> list[tuple[slice, slice]]:
    """Rows and columns of a map of `size` that each box covers: its rounded edges, at least one cell of the map.

    They reach outside the map where the box does, as those of windows that are larger than the image.

    [ours] The authors of GLNet round top and height. Adjacent windows then leave gaps between their cells, and a
    flipped box can be a cell larger or smaller. Rounded edges leave no gaps and follow a flip (on maps of odd size,
    except for boxes whose edge is exactly half-way between cells).
    """
    return [(_span(top, height, size[0]), _span(left, width, size[1])) for top, left, height, width in place.tolist()]


def _span(start: float, length: float, size: int) -> slice:
    # First rounded to four digits, so that float32 errors do not decide which cell gets a half-way edge.
    first, last = (round(round(edge * size, 4)) for edge in (start, start + length))
    first = min(first, size - 1)
    return slice(first, max(last, first + 1, 1))


def _inside(span: slice, size: int) -> slice:
    return slice(max(span.start, 0), min(span.stop, size))


def _part(image: Tensor, rows: slice, columns: slice) -> Tensor:
    """Cells of (C, h, w); those outside repeat the nearest one."""
    for dim, span in ((1, rows), (2, columns)):
        if span == _inside(span, image.shape[dim]):
            image = image.narrow(dim, span.start, span.stop - span.start)
        else:
            index = torch.arange(span.start, span.stop, device=image.device).clamp(0, image.shape[dim] - 1)
            image = image.index_select(dim, index)
    return image


def cut(maps: Tensor, place: Tensor, size: Size) -> Tensor:
    """Crop the box of each patch in whole cells and resize it bilinearly.

    Args:
        maps: (B, C, h, w) of the images of the patches, or (1, C, h, w) if all patches are from one image.
        place: (B, 4).
        size: of the output.

    Returns:
        (B, C, *size).
    """
    boxes = cells(place, (maps.shape[-2], maps.shape[-1]))
    images = maps.expand(len(boxes), -1, -1, -1)
    return torch.cat(
        [resize(_part(image, rows, columns)[None], size) for image, (rows, columns) in zip(images, boxes, strict=True)]
    )


class Stitched:
    """A map of the whole image: the mean of window maps, each resized into its box; 0 where no window is."""

    def __init__(self, like: Tensor) -> None:
        """Start empty, with the shape (1, C, h, w) of `like`."""
        self.sums = torch.zeros_like(like)
        self.counts = torch.zeros_like(like[:, :1])

    def add(self, maps: Tensor, place: Tensor) -> None:
        """Add the maps (B, C, h, w) of windows at `place` (B, 4)."""
        boxes = cells(place, (self.sums.shape[-2], self.sums.shape[-1]))
        for window, (rows, columns) in zip(maps, boxes, strict=True):
            whole = resize(window[None], (rows.stop - rows.start, columns.stop - columns.start))[0]
            down, across = _inside(rows, self.sums.shape[-2]), _inside(columns, self.sums.shape[-1])
            part = whole[:, down.start - rows.start : down.stop - rows.start]
            self.sums[0, :, down, across] += part[..., across.start - columns.start : across.stop - columns.start]
            self.counts[..., down, across] += 1

    def mean(self) -> Tensor:
        """(1, C, h, w): sums divided by counts; overwrites the sums, so call it once."""
        return self.sums.div_(self.counts.clamp(min=1))


def enlarge(maps: Tensor, place: Tensor, size: Size) -> Tensor:
    """Crop the box of each patch from `maps` upsampled bilinearly to the size of the image.

    The upsampled map is never built: only the pixels of the box are interpolated.

    Args:
        maps: (B, C, h, w) of the images of the patches, or (1, C, h, w) if all patches are from one image.
        place: (B, 4).
        size: of a patch in pixels.

    Returns:
        (B, C, *size) float.
    """
    images = maps.expand(len(place), -1, -1, -1)
    down, across = ((torch.arange(side, device=maps.device).double() + 0.5) / side for side in size)
    patches = []
    for image, (top, left, height, width) in zip(images, place.double().unbind(), strict=True):
        rows = _interpolated(image, (top + down * height) * image.shape[1] - 0.5, dim=1)
        patches.append(_interpolated(rows, (left + across * width) * image.shape[2] - 0.5, dim=2))
    return torch.stack(patches)


def _interpolated(image: Tensor, points: Tensor, dim: int) -> Tensor:
    """Interpolate `image` (C, h, w) at fractional indices along `dim`; indices outside are clamped."""
    points = points.clamp(0, image.shape[dim] - 1)
    low = points.floor().long()
    high = (low + 1).clamp(max=image.shape[dim] - 1)
    weight = (points - low).to(image.dtype)
    weight = weight.unsqueeze(1) if dim == 1 else weight
    return torch.lerp(image.index_select(dim, low), image.index_select(dim, high), weight)
