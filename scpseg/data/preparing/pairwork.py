"""Decoding one image and its label into the two arrays of the store, in whichever process."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scpseg.data.preparing.decode import check_image, decode_label, read_pixels, read_size
from scpseg.data.specs import Spec
from scpseg.data.store import image_path, label_path, save_array
from scpseg.data.upstream.space import full_disk_named
from scpseg.errors import UserError
from scpseg.files import read_json, write_json

HEADER = 128
"""Bytes before the data of the store's .npy files."""


@dataclass(frozen=True)
class Source:
    """One file to decode: its name for messages, where it lies here, and its SHA-256 when it was downloaded."""

    name: str
    place: Path
    sha256: str


@dataclass(frozen=True)
class Task:
    """One pair: what to decode, and the working folder with `store/` and `records/` that takes the result."""

    spec: Spec
    split: str
    id: str
    image: Source
    label: Source
    ignore_first: bool
    folder: Path

    @property
    def store(self) -> Path:
        """The store being filled."""
        return self.folder / "store"

    @property
    def record(self) -> Path:
        """What is known of the decoded pair; written last, so it marks a finished one."""
        return self.folder / "records" / self.split / f"{self.id}.json"

    def finished(self) -> dict[str, Any] | None:
        """The record of an earlier run, where it and both arrays are there."""
        if not self.record.is_file():
            return None
        record: dict[str, Any] = read_json(self.record)
        area = record["height"] * record["width"]
        image, label = image_path(self.store, self.split, self.id), label_path(self.store, self.split, self.id)
        whole = _size(image) == 3 * area + HEADER and _size(label) == area + HEADER
        return record if whole else None

    def needed(self) -> int:
        """Bytes that the arrays will take, from the headers of both files.

        Raises:
            UserError: a file is damaged, or the two differ in size.
        """
        size = read_size(self.image.place, self.image.name)
        self.check_same(size, read_size(self.label.place, self.label.name))
        return 4 * size[0] * size[1] + 2 * HEADER

    def check_same(self, image: tuple[int, ...], label: tuple[int, ...]) -> None:
        """Refuse an image and a label of different (height, width)."""
        if image != label:
            raise UserError(
                f"{self.image.name} has {image[0]} x {image[1]} pixels (height x width), but its label "
                f"{self.label.name} has {label[0]} x {label[1]}; fetch both again"
            )


def decode_pair(task: Task, needed: int) -> None:
    """Write the arrays and the record of one pair; `needed` bytes of the whole work, for the message.

    Raises:
        UserError: a file is damaged, changed or no image or label of the benchmark, or the disk is full.
    """
    with full_disk_named(task.folder, needed, f"preparing {task.spec.name}"):
        pixels = check_image(read_pixels(_bytes(task, task.image), task.image.name), task.image.name)
        save_array(image_path(task.store, task.split, task.id), pixels)
        height, width, image_hash = pixels.shape[0], pixels.shape[1], _hash(pixels)
        pixels = read_pixels(_bytes(task, task.label), task.label.name)
        task.check_same((height, width), pixels.shape[:2])
        label = decode_label(pixels, task.spec, task.label.name, task.ignore_first)
        save_array(label_path(task.store, task.split, task.id), label.ids)
        record = {
            "height": height,
            "width": width,
            "image_sha256": image_hash,
            "label_sha256": _hash(label.ids),
            "pixels": list(label.pixels),
            "ignored": label.ignored,
            "unknown": label.unknown,
        }
        write_json(task.record, record)


def _bytes(task: Task, source: Source) -> bytes:
    """The file's bytes, which must be those of the manifest: files outside the repository may change unseen."""
    try:
        data = source.place.read_bytes()
    except OSError as error:
        raise UserError(f"{source.name} cannot be read ({error.strerror}); check the disk and data.source") from error
    if hashlib.sha256(data).hexdigest() != source.sha256:
        raise UserError(
            f"{source.name} is not the file that was downloaded (its SHA-256 differs); restore it, or take it as it "
            f"is now with `dvc repro -f download@{task.spec.name}`"
        )
    return data


def _hash(array: NDArray[np.uint8]) -> str:
    return hashlib.sha256(array.reshape(-1).data).hexdigest()


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
