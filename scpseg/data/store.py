"""The store: every image decoded once to a memory-mapped array, with one file per image and one per label."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scpseg.errors import UserError
from scpseg.files import damaged, read_json, replacing

INDEX = "index.json"
HEADER = 128
"""Bytes of the header of the store's .npy files."""
_SPLITS = ("train", "val", "test")
_IMAGE = {"height": int, "width": int, "image_sha256": str, "label_sha256": str}
_INDEX = {
    "benchmark": str,
    "classes": [str],
    "split": str,
    "source": str,
    "labels": (str, None),
    "synthetic": bool,
    "expected": {str: int},
    "ids": {split: [str] for split in _SPLITS},
    "images": {str: _IMAGE},
    "warnings": [str],
}


def image_path(folder: Path, split: str, id: str) -> Path:
    """Path of an image's array, (H, W, 3) uint8."""
    return folder / split / f"{id}.image.npy"


def label_path(folder: Path, split: str, id: str) -> Path:
    """Path of a label's array, (H, W) uint8."""
    return folder / split / f"{id}.label.npy"


def save_array(path: Path, array: NDArray[np.uint8]) -> str:
    """Write an array as .npy atomically, and return the SHA-256 of its data.

    Raises:
        OSError: with its errno, such as ENOSPC, which np.save would lose.
    """
    array = np.ascontiguousarray(array)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
        stream.write(array.data)
    return hashlib.sha256(array.reshape(-1).data).hexdigest()


def array_hash(path: Path) -> str:
    """SHA-256 of the data of an array in the store."""
    with path.open("rb") as stream:
        stream.seek(HEADER)
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Store:
    """A prepared benchmark, which is read window by window.

    The SHA-256 of each array is compared with the index when this object, or the process from which it was copied,
    opens
    it first: about one second per gigabyte and core, in addition to reading it from the disk.
    """

    def __init__(self, folder: Path) -> None:
        """Open the store in `folder`.

        Raises:
            UserError: the folder does not contain a finished store, or its index is damaged.
        """
        self.folder = folder
        self._checked: dict[Path, tuple[int, int]] = {}
        if not (folder / INDEX).is_file():
            raise UserError(
                f"{folder.as_posix()} does not contain a prepared benchmark ({INDEX} is missing); run `dvc repro` first"
            )
        self.index: dict[str, Any] = read_json(folder / INDEX, _INDEX)
        lacking = [f"images.{split}/{id}" for split in _SPLITS for id in self.ids(split)]
        lacking = [name for name in lacking if name.removeprefix("images.") not in self.index["images"]]
        if lacking:
            raise damaged(folder / INDEX, f"lacks {lacking[0]}")

    def ids(self, split: str) -> tuple[str, ...]:
        """Ids of the images in 'train', 'val' or 'test', in the order of the split's list."""
        return tuple(self.index["ids"][split])

    def expect_classes(self, names: Sequence[str]) -> None:
        """Check that the store has the benchmark's present classes, which the user can change in classes.csv.

        Raises:
            UserError: the store was prepared with other classes, or in another order.
        """
        if self.index["classes"] != list(names):
            raise UserError(
                f"{self.folder.as_posix()} was prepared with classes {', '.join(self.index['classes'])}, but "
                f"the benchmark has {', '.join(names)}; run `dvc repro -f download@{self.index['benchmark']}`"
            )

    def sizes(self, split: str) -> str:
        """Height x width in pixels of the images of a split; if more than three sizes, the smallest and the largest."""
        found = sorted({self._size(split, id) for id in self.ids(split)}, key=lambda size: (size[0] * size[1], size))
        texts = [f"{height} x {width}" for height, width in found]
        return ", ".join(texts) if len(texts) < 4 else f"{texts[0]} to {texts[-1]}"

    def check(self, split: str) -> None:
        """Check all arrays of a split on all cores, so that data loading processes do not need to.

        Raises:
            UserError: a file is missing, or differs from the index.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for open_array in (self.image, self.label):
                list(pool.map(partial(open_array, split), self.ids(split)))

    def image(self, split: str, id: str) -> np.memmap[Any, np.dtype[np.uint8]]:
        """(H, W, 3) uint8 RGB, read-only.

        Raises:
            UserError: the file is missing, or differs from the index.
        """
        shape = (*self._size(split, id), 3)
        return self._open(image_path(self.folder, split, id), shape, self._record(split, id)["image_sha256"])

    def label(self, split: str, id: str) -> np.memmap[Any, np.dtype[np.uint8]]:
        """(H, W) uint8 training ids, 255 = ignored, read-only.

        Raises:
            UserError: the file is missing, or differs from the index.
        """
        shape = self._size(split, id)
        return self._open(label_path(self.folder, split, id), shape, self._record(split, id)["label_sha256"])

    def _record(self, split: str, id: str) -> dict[str, Any]:
        record: dict[str, Any] = self.index["images"][f"{split}/{id}"]
        return record

    def _size(self, split: str, id: str) -> tuple[int, int]:
        record = self._record(split, id)
        return record["height"], record["width"]

    def _open(self, path: Path, shape: tuple[int, ...], digest: str) -> np.memmap[Any, np.dtype[np.uint8]]:
        remedy = f"run `dvc repro -f prepare@{self.index['benchmark']}`"
        try:
            array = np.lib.format.open_memmap(path, mode="r")
            state = path.stat()
            version = state.st_size, state.st_mtime_ns
            found = digest if self._checked.get(path) == version else array_hash(path)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path.as_posix()} is missing or damaged; {remedy}") from error
        if array.shape != shape or array.dtype != np.uint8:
            raise UserError(f"{path.as_posix()} is {array.dtype} of {array.shape}, but the index has {shape}; {remedy}")
        if found != digest:
            raise UserError(f"{path.as_posix()} has changed since it was prepared (its SHA-256 differs); {remedy}")
        self._checked[path] = version
        return array
