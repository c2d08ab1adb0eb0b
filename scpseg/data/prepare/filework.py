"""Decoding one file, image or label, into its array of the store, in whichever process."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scpseg.benchmarks.base import Benchmark
from scpseg.data.acquire.layout import Slot
from scpseg.data.acquire.space import full_disk_named
from scpseg.data.prepare.decode import check_image, decode_label, read_pixels, read_size
from scpseg.data.store import image_path, label_path, save_array
from scpseg.errors import UserError
from scpseg.files import read_json, sha256, write_json

HEADER = 128
"""Bytes before the data of the store's .npy files."""
Sides = Literal["exact", "most", "any"]
Record = dict[str, Any]
"""What is known of a decoded file."""


@dataclass(frozen=True)
class Job:
    """What all files of one store share.

    Attributes:
        spec: the benchmark.
        sides: 'exact' = an image has the spec's side; 'most' = at most that (part of a benchmark, perhaps in crops);
            'any' = synthetic.
        ignore_first: training id 0 becomes 255.
        folder: the working folder, with `store/`, `records/` and `spool/`.
    """

    spec: Benchmark
    sides: Sides
    ignore_first: bool
    folder: Path

    @property
    def store(self) -> Path:
        """The store being filled."""
        return self.folder / "store"

    @property
    def spool(self) -> Path:
        """Where files out of archives wait to be decoded; empty between runs."""
        return self.folder / "spool"

    def array(self, slot: Slot) -> Path:
        """Where the array of a slot lies."""
        split, id, kind = slot
        return (image_path if kind == "image" else label_path)(self.store, split, id)

    def record(self, slot: Slot) -> Path:
        """What is known of a decoded file; written last, so it marks a finished one."""
        split, id, kind = slot
        return self.folder / "records" / split / f"{id}.{kind}.json"

    def _finished(self, slot: Slot) -> Record | None:
        """The record of a file, where its array is there too."""
        record: Record = read_json(self.record(slot), "path", "height", "width")
        array = self.array(slot)
        size = array_bytes(slot[2], record["height"], record["width"])
        return record if array.is_file() and array.stat().st_size == size else None

    def all_finished(self) -> dict[Slot, Record]:
        """The records of all files that are finished."""
        found = {}
        for path in sorted(self.folder.glob("records/*/*.json")):
            id, _, kind = path.stem.rpartition(".")
            slot = (path.parent.name, id, kind)
            if record := self._finished(slot):
                found[slot] = record
        return found

    def check_side(self, height: int, width: int, name: str) -> None:
        """Refuse an image or label that is no image of the benchmark by its size.

        Raises:
            UserError: it is, or for part of a benchmark is larger than, the spec's side.
        """
        side = self.spec.side
        if self.sides == "any" or (height == width == side):
            return
        found = f"{name} has {height} x {width} pixels (height x width), images of {self.spec.title} {side} x {side}"
        if self.sides == "exact":
            raise UserError(f"{found}; fetch it again, or set data.partial: true to use crops")
        if max(height, width) > side:
            raise UserError(f"{found}; cut it into crops no larger than that")


@dataclass(frozen=True)
class Task:
    """One file: its place in the store, its path in manifest or archive, where its bytes lie now.

    `sha256` is what the manifest says; None for a file that came out of a verified archive into the spool, from which
    it goes when it is decoded.
    """

    job: Job
    slot: Slot
    path: str
    place: Path
    sha256: str | None


def array_bytes(kind: str, height: int, width: int) -> int:
    """Bytes of the array file of an 'image' or 'label'."""
    return (3 if kind == "image" else 1) * height * width + HEADER


def decode_file(task: Task, needed: int) -> Record:
    """Write the array and the record of one file; `needed` bytes of the whole work, for the message.

    Raises:
        UserError: the file is damaged, changed or no image or label of the benchmark, or the disk is full.
    """
    job, name = task.job, task.path
    with full_disk_named(job.folder, needed, f"preparing {job.spec.name}"):
        size, digest = _identify(task)
        height, width = read_size(task.place, name)
        job.check_side(height, width, name)
        pixels = read_pixels(task.place, name)
        record: Record = {"path": name, "bytes": size, "sha256": digest, "height": height, "width": width}
        if task.slot[2] == "image":
            array = check_image(pixels, name)
        else:
            label = decode_label(pixels, job.spec, name, job.ignore_first)
            array = label.ids
            record |= {"pixels": list(label.pixels), "ignored": label.ignored, "unknown": label.unknown}
            record |= {"near": label.near}
        save_array(job.array(task.slot), array)
        record["array_sha256"] = _hash(array)
        write_json(job.record(task.slot), record)
        if task.sha256 is None:
            task.place.unlink()
    return record


def _identify(task: Task) -> tuple[int, str]:
    """Bytes and SHA-256 of the file, which must be the manifest's: files outside the repository may change unseen."""
    try:
        size, digest = task.place.stat().st_size, sha256(task.place)
    except OSError as error:
        raise UserError(f"{task.path} cannot be read ({error.strerror}); check the disk and data.source") from error
    if task.sha256 is not None and digest != task.sha256:
        raise UserError(
            f"{task.path} is not the file that was downloaded (its SHA-256 differs); restore it, or take it as it "
            f"is now with `dvc repro -f download@{task.job.spec.name}`"
        )
    return size, digest


def _hash(array: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).data).hexdigest()
