"""The image that both sides read: aerial in its statistics, so that codecs compress it as they compress photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scpseg.data.store import image_path, label_path, save_array, save_image
from scpseg.data.windows import Bytes
from scpseg.files import write_json

CLASSES = 6
OCTAVES = (8, 32, 128, 512, 2048)
"""Cells along a side of the noise whose sum is the scene."""
NOISE = 3
"""Standard deviation of the sensor's noise, of 0..255."""


def scene(side: int) -> tuple[Bytes, Bytes]:
    """(H, W, 3) uint8 of smooth shapes in several sizes with some noise, and (H, W) uint8 classes in patches."""
    random = np.random.default_rng(0)
    image = np.zeros((side, side, 3), dtype=np.float32)
    for cells in OCTAVES:
        coarse = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        image += np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32) / len(OCTAVES)
    image += random.standard_normal((side, side, 1), dtype=np.float32) * NOISE
    labels = Image.fromarray(random.integers(0, CLASSES, (side // 40, side // 40), dtype=np.uint8))
    label = np.array(labels.resize((side, side), Image.Resampling.NEAREST))
    label[: side // 50] = 255
    return image.clip(0, 255).astype(np.uint8), label


def write_store(folder: Path, image: Bytes, label: Bytes, copies: int = 1) -> None:
    """A prepared benchmark of `copies` training images."""
    names = [str(number) for number in range(copies)]
    images = {}
    for name in names:
        images[f"train/{name}"] = {
            "height": image.shape[0],
            "width": image.shape[1],
            "image_sha256": save_image(image_path(folder, "train", name), image),
            "label_sha256": save_array(label_path(folder, "train", name), label),
        }
    index: dict[str, Any] = {
        "benchmark": "bench",
        "classes": [str(k) for k in range(CLASSES)],
        "split": "",
        "source": "bench",
    }
    index |= {"labels": None, "synthetic": True, "expected": {"train": copies}, "warnings": [], "images": images}
    write_json(folder / "index.json", {**index, "folds": [], "ids": {"train": names, "val": [], "test": []}})
