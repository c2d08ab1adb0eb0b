"""Training ids as the colour pictures that upstreams publish, with the faults that some of theirs have. All ours."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from scpseg import IGNORE_INDEX
from scpseg.benchmarks.base import Benchmark
from scpseg.synthetic.canvas import Mask
from scpseg.synthetic.scenes import Bytes

BORDER = 2.0
"""Pixels eroded on each side of a class border; upstream's 3 would leave little of the miniature's cars."""


def palette(spec: Benchmark) -> Bytes:
    """(256, 3) the colour of each training id in the label files; 255 is the ignored colour."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(spec.classes)] = [cls.colour for cls in spec.classes]
    return table


def without_borders(label: Bytes) -> Bytes:
    """`label` (H, W) with every pixel within `BORDER` pixels of another class ignored."""
    inner = np.full_like(label, IGNORE_INDEX)
    if label.min() == label.max():
        return label.copy()
    for index in np.unique(label):
        depth = ndimage.distance_transform_edt(np.pad(label == index, 1, mode="edge"))[1:-1, 1:-1]
        inner[depth > BORDER] = index
    return inner


def lossy(colours: Bytes, seed: int) -> Bytes:
    """A label picture (H, W, 3) as lossy compression leaves it: thousands of colours, each channel 40 clear of 128."""
    squeezed = np.asarray(Image.open(io.BytesIO(encoded(colours, "JPEG", quality=60)))).astype(np.int16)
    noise = np.random.default_rng(seed).integers(-9, 10, colours.shape)
    low, high = np.where(colours < 128, 0, 168), np.where(colours < 128, 87, 255)
    result: Bytes = np.clip(squeezed + noise, low, high).astype(np.uint8)
    return result


def miscoded(colours: Bytes, cars: Mask) -> Bytes:
    """`colours` with all but every tenth car, from the tenth on, as (252, 255, 0); `cars` is an (H, W) mask."""
    single, _ = ndimage.label(cars)
    result = colours.copy()
    result[(single > 0) & (single % 10 != 0)] = (252, 255, 0)
    return result


def encoded(picture: Bytes, kind: str, **options: Any) -> bytes:
    """`picture` as a file of `kind`, PNG or JPEG, without metadata."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind, **options)
    return stream.getvalue()
