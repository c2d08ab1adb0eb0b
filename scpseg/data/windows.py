"""Crop square windows from large arrays, mirrored at the border by index, without a padded copy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scpseg import IGNORE_INDEX

Bytes = NDArray[np.uint8]


def mirror_index(start: int, length: int, size: int) -> NDArray[np.int64]:
    """Indices `start`..`start + length - 1` reflected into 0..size-1 without repeating the edge, as often as needed."""
    if size == 1:
        return np.zeros(length, dtype=np.int64)
    period = 2 * (size - 1)
    index = np.arange(start, start + length) % period
    return np.minimum(index, period - index)


def cut_image(image: Bytes, top: int, left: int, height: int, width: int) -> Bytes:
    """A (3, height, width) copy of (H, W, 3) `image` from row `top`, column `left`; mirrored outside the image."""
    return np.ascontiguousarray(_cut(image, top, left, (height, width)).transpose(2, 0, 1))


def cut_label(label: Bytes, top: int, left: int, side: int) -> Bytes:
    """A (side, side) copy of (H, W) `label`; 255 outside the image."""
    height, width = label.shape
    window = np.full((side, side), IGNORE_INDEX, dtype=np.uint8)
    rows = slice(max(top, 0), min(top + side, height))
    columns = slice(max(left, 0), min(left + side, width))
    if rows.start < rows.stop and columns.start < columns.stop:
        window[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = label[rows, columns]
    return window


def _cut(image: Bytes, top: int, left: int, size: tuple[int, int]) -> Bytes:
    height, width = image.shape[:2]
    if top >= 0 and left >= 0 and top + size[0] <= height and left + size[1] <= width:
        return image[top : top + size[0], left : left + size[1]]
    rows, columns = mirror_index(top, size[0], height), mirror_index(left, size[1], width)
    # Read a contiguous block first: fancy indexing into a memory-mapped file reads pixels one by one.
    block = np.asarray(image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    return block[np.ix_(rows - rows.min(), columns - columns.min())]


def starts(length: int, side: int, overlap: float, least: int = 0) -> list[int]:
    """First rows (or columns) of windows of `side` that cover `length`; the last one is shifted inwards.

    Neighbours overlap by at least `overlap` of a side (0..0.9), and by at least `least` pixels, less than `side`. A
    length below `side` gives one window at 0.
    """
    step = max(1, min(round(side * (1 - overlap)), side - least))
    last = max(length - side, 0)
    return [*range(0, last, step), last]
