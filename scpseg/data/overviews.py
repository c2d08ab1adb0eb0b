"""Overviews: whole images reduced once, for the methods that need them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scpseg.data.store import Store
from scpseg.data.windows import Bytes

BAND = 8
"""Number of rows, and of columns, of an overview that are computed at once."""


@dataclass(frozen=True)
class Overview:
    """The overview of an image at side T: `image` (3, T, T) uint8 reduced by area, `label` (T, T) uint8 nearest."""

    image: Bytes
    label: Bytes


def reduce_image(image: Bytes, side: int) -> Bytes:
    """Reduce (H, W, 3) uint8 by area to (3, side, side); upsample bilinearly if the image is smaller.

    A pixel on the border of two cells counts in each by the area inside (Pillow's box filter assigns it to one of
    them). Computed in bands, because a second copy of the whole image would count in the memory of its method.
    """
    height, width = image.shape[:2]
    if min(height, width) < side:
        enlarged = Image.fromarray(np.ascontiguousarray(image)).resize((side, side), Image.Resampling.BILINEAR)
        return np.ascontiguousarray(np.asarray(enlarged).transpose(2, 0, 1))
    reduced = np.empty((3, side, side), dtype=np.uint8)
    columns = [_cells(first, width, side) for first in range(0, side, BAND)]
    for first in range(0, side, BAND):
        rows, weights = _cells(first, height, side)
        band = torch.from_numpy(np.ascontiguousarray(image[rows].transpose(0, 2, 1), dtype=np.float32))
        sums = (weights @ band.flatten(1)).reshape(-1, 3, width).permute(1, 0, 2)
        cells = torch.cat([sums[..., part] @ across.T for part, across in columns], dim=-1)
        # Weights are integers except at borders, and sums are small, so that a mean of half a level is exact.
        means = cells / (height / side * (width / side))
        reduced[:, first : first + BAND] = (means + 0.5).floor_().to(torch.uint8).numpy()
    return reduced


def _cells(first: int, size: int, side: int) -> tuple[slice, Tensor]:
    """Pixels of `size` below cells `first` to `first` + BAND of `side`, and the share of each in each cell."""
    edges = np.arange(first, min(first + BAND, side) + 1) * (size / side)
    low, high = int(edges[0]), min(int(np.ceil(edges[-1])), size)
    pixels = np.arange(low, high)
    inside = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return slice(low, high), torch.from_numpy(inside.clip(0, 1).astype(np.float32))


def reduce_label(label: Bytes, side: int) -> Bytes:
    """Labels (H, W) at the centres of side x side cells, as nearest-exact interpolation selects them."""
    rows, columns = (((np.arange(side) + 0.5) * size / side).astype(np.int64) for size in label.shape)
    return np.ascontiguousarray(label[np.ix_(rows, columns)])


def overviews(store: Store, split: str, side: int) -> dict[str, Overview]:
    """The overviews of all images of a split, by id; each needs T x T x 4 bytes of memory."""
    made = {}
    for name in store.ids(split):
        image, label = store.image(split, name), store.label(split, name)
        made[name] = Overview(reduce_image(image, side), reduce_label(label, side))
    return made
