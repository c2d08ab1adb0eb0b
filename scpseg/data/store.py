"""The store: every image decoded once to a memory-mapped array, with one file per image and one per label."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
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
ROWS = 64
"""Rows that are written at a time."""
KEPT = 128
"""Arrays that a store keeps mapped. Each holds a file descriptor, of which a process often has 1,024."""
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
    "folds": [{split: [str] for split in _SPLITS}],
    "images": {str: _IMAGE},
    "warnings": [str],
}


PathOf = Callable[[Path, str, str], Path]
Version = tuple[int, int]
"""Size and time of the last change of a file."""


def image_path(folder: Path, split: str, id: str) -> Path:
    """Path of an image's array, (H, 3, W) uint8: the row of each channel is contiguous, as in a batch."""
    return folder / split / f"{id}.image.npy"


def label_path(folder: Path, split: str, id: str) -> Path:
    """Path of a label's array, (H, W) uint8."""
    return folder / split / f"{id}.label.npy"


def save_array(path: Path, array: NDArray[np.uint8]) -> str:
    """Write an array as .npy atomically, and return the SHA-256 of its data.

    Raises:
        OSError: with its errno, such as ENOSPC, which np.save would lose.
    """
    header, digest = {"descr": "|u1", "fortran_order": False, "shape": array.shape}, hashlib.sha256()
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for first in range(0, len(array), ROWS):
            rows = np.ascontiguousarray(array[first : first + ROWS]).data
            stream.write(rows)
            digest.update(rows)
    return digest.hexdigest()


def save_image(path: Path, image: NDArray[np.uint8]) -> str:
    """Write an (H, W, 3) image with `save_array`, in the order of `image_path`."""
    return save_array(path, image.transpose(0, 2, 1))


def array_hash(path: Path) -> str:
    """SHA-256 of the data of an array in the store."""
    with path.open("rb") as stream:
        stream.seek(HEADER)
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Store:
    """A prepared benchmark, which is read window by window.

    The SHA-256 of each array is compared with the index when this object, or the process from which it was copied,
    opens it first: about one second per gigabyte and core, in addition to reading it from the disk.

    Attributes:
        fold: of a rotation, the fold whose splits are read; else 0.
        folds: number of folds; 1 if the split is not a rotation.
    """

    def __init__(self, folder: Path) -> None:
        """Open the store in `folder`; of a rotation, the first fold.

        Raises:
            UserError: the folder does not contain a finished store, or its index is damaged.
        """
        self.folder = folder
        self._checked: dict[Path, Version] = {}
        # To map an array for every window, with its page faults, takes longer than to copy the window.
        self._mapped: dict[tuple[PathOf, str, str], tuple[str, Version, NDArray[np.uint8]]] = {}
        if not (folder / INDEX).is_file():
            raise UserError(
                f"{folder.as_posix()} does not contain a prepared benchmark ({INDEX} is missing); run `dvc repro` first"
            )
        self.index: dict[str, Any] = read_json(folder / INDEX, _INDEX)
        self.fold, self.folds = 0, max(1, len(self.index["folds"]))
        # The arrays of a rotation are stored once, under their splits in the first fold.
        self._homes = {id: split for split in _SPLITS for id in self.index["ids"][split]} if self.folds > 1 else {}
        for each in self.all_folds():
            for name in (each._key(split, id) for split in _SPLITS for id in each.ids(split)):
                if name not in self.index["images"]:
                    raise damaged(folder / INDEX, f"lacks images.{name}")

    def __getstate__(self) -> dict[str, Any]:
        """For another process: without the mapped arrays, whose contents pickle would copy."""
        return {**self.__dict__, "_mapped": {}}

    def in_fold(self, fold: int) -> Store:
        """The same store with the splits of another fold, 0 <= fold < folds."""
        other = copy(self)
        other.fold, other._mapped = fold, self._mapped
        return other

    def all_folds(self) -> tuple[Store, ...]:
        """The store in each of its folds; itself if the split is not a rotation."""
        return tuple(map(self.in_fold, range(self.folds)))

    def ids(self, split: str) -> tuple[str, ...]:
        """Ids of the images in 'train', 'val' or 'test' of the fold, in the order of the split's list."""
        ids: dict[str, list[str]] = self.index["folds"][self.fold] if self.folds > 1 else self.index["ids"]
        return tuple(ids[split])

    def expect_classes(self, names: Sequence[str]) -> None:
        """Check that the store has the benchmark's present classes, which the user can change in classes.csv.

        Raises:
            UserError: the store was prepared with other classes, or in another order.
        """
        if self.index["classes"] != list(names):
            raise UserError(
                f"{self.folder.as_posix()} was prepared with classes {', '.join(self.index['classes'])}, but "
                f"the benchmark has {', '.join(names)}; run `dvc repro -f download@{self.index['benchmark']}`, then "
                "`dvc repro`"
            )

    def sizes(self, split: str) -> str:
        """Height x width in pixels of a split's images in all folds; if more than three, smallest and largest."""
        all_sizes = {self._size(split, id) for part in self.all_folds() for id in part.ids(split)}
        found = sorted(all_sizes, key=lambda size: (size[0] * size[1], size))
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

    def image(self, split: str, id: str) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, a read-only memory-mapped view of the array of `image_path`.

        Raises:
            UserError: the file is missing, or differs from the index.
        """
        return self._array(image_path, split, id)

    def label(self, split: str, id: str) -> NDArray[np.uint8]:
        """(H, W) uint8 training ids, 255 = ignored, read-only and memory-mapped.

        Raises:
            UserError: the file is missing, or differs from the index.
        """
        return self._array(label_path, split, id)

    def _array(self, path_of: PathOf, split: str, id: str) -> NDArray[np.uint8]:
        home = self._homes.get(id, split)
        key = (path_of, home, id)
        known = self._mapped.get(key)
        # To make the path anew takes a tenth of the time in which a window is copied.
        if known is not None and _version(known[0]) == known[1]:
            return known[2]
        path, record = path_of(self.folder, home, id), self._record(split, id)
        height, width = record["height"], record["width"]
        if path_of is image_path:
            array = self._open(path, (height, 3, width), record["image_sha256"]).transpose(0, 2, 1)
        else:
            array = self._open(path, (height, width), record["label_sha256"])
        if known is not None or len(self._mapped) < KEPT:
            self._mapped[key] = str(path), self._checked[path], array
        return array

    def _key(self, split: str, id: str) -> str:
        return f"{self._homes.get(id, split)}/{id}"

    def _record(self, split: str, id: str) -> dict[str, Any]:
        record: dict[str, Any] = self.index["images"][self._key(split, id)]
        return record

    def _size(self, split: str, id: str) -> tuple[int, int]:
        record = self._record(split, id)
        return record["height"], record["width"]

    def _open(self, path: Path, shape: tuple[int, ...], digest: str) -> NDArray[np.uint8]:
        remedy = f"run `dvc repro -f prepare@{self.index['benchmark']}`"
        try:
            version = _version(path)
            if version is not None and self._checked.get(path) == version:
                # Its header was read before. A plain array is cut faster than numpy's memmap.
                return np.memmap(path, np.uint8, "r", HEADER, shape).view(np.ndarray)
            array = np.lib.format.open_memmap(path, mode="r")
            found = array_hash(path)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path.as_posix()} is missing or damaged; {remedy}") from error
        if array.shape != shape or array.dtype != np.uint8:
            raise UserError(f"{path.as_posix()} is {array.dtype} of {array.shape}, but the index has {shape}; {remedy}")
        if found != digest or version is None:
            raise UserError(f"{path.as_posix()} has changed since it was prepared (its SHA-256 differs); {remedy}")
        self._checked[path] = version
        return array.view(np.ndarray)


def finished_index(folder: Path, inputs: str) -> dict[str, Any] | None:
    """The index of the store in `folder` if it was made from `inputs` and no array has changed, else None."""
    with suppress(UserError):  # no store, or not as it was made
        store = Store(folder)
        if store.index.get("inputs") == inputs:
            for split in _SPLITS:
                store.check(split)
            return store.index
    return None


def _version(path: str | Path) -> Version | None:
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns
