"""The store: every image decoded once to a memory-mapped array, one file per image and one per label."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scpseg.errors import UserError
from scpseg.files import read_json, replacing

INDEX = "index.json"
HEADER = 128
"""Bytes before the data of the store's .npy files."""


def image_path(folder: Path, split: str, id: str) -> Path:
    """Where an image's array lies, (H, W, 3) uint8."""
    return folder / split / f"{id}.image.npy"


def label_path(folder: Path, split: str, id: str) -> Path:
    """Where a label's array lies, (H, W) uint8."""
    return folder / split / f"{id}.label.npy"


def save_array(path: Path, array: NDArray[np.uint8]) -> str:
    """Write an array as .npy, whole or not at all, and return the SHA-256 of its data.

    Raises:
        OSError: with its number, such as ENOSPC; np.save would lose that on a full disk.
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
    """A prepared benchmark, read window by window."""

    def __init__(self, folder: Path) -> None:
        """Open `folder`.

        Raises:
            UserError: it holds no finished store, or its index is damaged.
        """
        self.folder = folder
        if not (folder / INDEX).is_file():
            raise UserError(
                f"{folder.as_posix()} holds no prepared benchmark ({INDEX} is missing); run `dvc repro` first"
            )
        self.index: dict[str, Any] = read_json(folder / INDEX, "benchmark", "ids", "images")

    def ids(self, split: str) -> tuple[str, ...]:
        """Ids of the images in 'train', 'val' or 'test', in the order of the split's list."""
        return tuple(self.index["ids"][split])

    def image(self, split: str, id: str) -> np.memmap[Any, np.dtype[np.uint8]]:
        """(H, W, 3) uint8 RGB, read-only.

        Raises:
            UserError: the file is missing, or not what the index says.
        """
        height, width = self._size(split, id)
        return self._open(image_path(self.folder, split, id), (height, width, 3))

    def label(self, split: str, id: str) -> np.memmap[Any, np.dtype[np.uint8]]:
        """(H, W) uint8 training ids, 255 = ignored, read-only.

        Raises:
            UserError: the file is missing, or not what the index says.
        """
        return self._open(label_path(self.folder, split, id), self._size(split, id))

    def _size(self, split: str, id: str) -> tuple[int, int]:
        record = self.index["images"][f"{split}/{id}"]
        return record["height"], record["width"]

    def _open(self, path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.uint8]]:
        remedy = f"run `dvc repro -f prepare@{self.index['benchmark']}`"
        try:
            array = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path.as_posix()} is missing or damaged; {remedy}") from error
        if array.shape != shape or array.dtype != np.uint8:
            raise UserError(f"{path.as_posix()} is {array.dtype} of {array.shape}, the index says {shape}; {remedy}")
        opened: np.memmap[Any, np.dtype[np.uint8]] = array
        return opened
