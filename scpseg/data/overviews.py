"""Whole images reduced once, for methods that look at an overview."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from scpseg.data.store import Store
from scpseg.data.windows import Bytes


@dataclass(frozen=True)
class Overview:
    """One whole image at side T: `image` (3, T, T) uint8 reduced by area, `label` (T, T) uint8 nearest."""

    image: Bytes
    label: Bytes


def reduce_image(image: Bytes, side: int) -> Bytes:
    """(H, W, 3) uint8 reduced by area to (3, side, side); enlarged bilinearly where the image is smaller."""
    height, width = image.shape[:2]
    kernel = Image.Resampling.BOX if min(height, width) >= side else Image.Resampling.BILINEAR
    reduced = Image.fromarray(np.ascontiguousarray(image)).resize((side, side), kernel)
    return np.ascontiguousarray(np.asarray(reduced).transpose(2, 0, 1))


def reduce_label(label: Bytes, side: int) -> Bytes:
    """(H, W) labels taken at the centres of side x side cells (the rule of nearest-exact)."""
    rows, columns = (((np.arange(side) + 0.5) * size / side).astype(np.int64) for size in label.shape)
    return np.ascontiguousarray(label[np.ix_(rows, columns)])


def overviews(store: Store, split: str, side: int) -> dict[str, Overview]:
    """The overviews of every image of a split, by id; T x T x 4 bytes of memory each."""
    made = {}
    for name in store.ids(split):
        image, label = store.image(split, name), store.label(split, name)
        made[name] = Overview(reduce_image(image, side), reduce_label(label, side))
    return made
