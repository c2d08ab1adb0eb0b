"""Crop square windows from large arrays, mirrored at the border by index, without a padded copy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from scpseg import IGNORE_INDEX

Bytes = NDArray[np.uint8]


def mirrored(start: int, length: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Indices `start`..`start + length - 1` reflected into 0..size-1 without repeating the edge, as often as needed.

    Yields them in runs: the slice of the `length` that a run fills, and the slice of `size`, forwards or backwards.
    """
    period, done = 2 * (size - 1), 0
    while done < length:
        phase = (start + done) % period if period else 0
        if phase < size - 1 or not period:
            run = slice(phase, min(phase + length - done, size))
            many = run.stop - phase
        else:
            first = period - phase  # size - 1 to 1, backwards
            many = min(first, length - done)
            run = slice(first, first - many, -1)
        yield slice(done, done + many), run
        done += many


def cut_image(image: Bytes, top: int, left: int, height: int, width: int) -> Bytes:
    """A (3, height, width) copy of (H, W, 3) `image` from row `top`, column `left`; mirrored outside the image."""
    return np.ascontiguousarray(window_of(image, top, left, height, width).transpose(2, 0, 1))


def window_of(image: Bytes, top: int, left: int, height: int, width: int) -> Bytes:
    """A (height, width, 3) window as in `cut_image`; a view of `image` if it is inside."""
    rows, columns = image.shape[:2]
    if top >= 0 and left >= 0 and top + height <= rows and left + width <= columns:
        return image[top : top + height, left : left + width]
    window = np.empty((height, 3, width), dtype=np.uint8).transpose(0, 2, 1)
    for down, source in mirrored(top, height, rows):
        for across, line in mirrored(left, width, columns):
            window[down, across] = image[source, line]
    return window


def cut_label(label: Bytes, top: int, left: int, side: int) -> Bytes:
    """The (side, side) window of (H, W) `label`, 255 outside the image; a view of `label` if it is inside."""
    height, width = label.shape
    if top >= 0 and left >= 0 and top + side <= height and left + side <= width:
        return label[top : top + side, left : left + side]
    window = np.full((side, side), IGNORE_INDEX, dtype=np.uint8)
    rows = slice(max(top, 0), min(top + side, height))
    columns = slice(max(left, 0), min(left + side, width))
    if rows.start < rows.stop and columns.start < columns.stop:
        window[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = label[rows, columns]
    return window


def starts(length: int, side: int, overlap: float, least: int = 0) -> list[int]:
    """First rows (or columns) of windows of `side` that cover `length`; the last one is shifted inwards.

    Neighbours overlap by at least `overlap` of a side (0..0.9), and by at least `least` pixels, less than `side`. A
    length below `side` gives one window at 0.
    """
    step = max(1, min(round(side * (1 - overlap)), side - least))
    last = max(length - side, 0)
    return [*range(0, last, step), last]
