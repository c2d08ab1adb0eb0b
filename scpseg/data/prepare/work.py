"""Decode one image or label file to its array in the store, in any process; join the parts of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from scpseg.benchmarks.base import Benchmark, Ids
from scpseg.data.acquire.layout import Kind, Pairing, Slot
from scpseg.data.prepare.decode import check_image, decode_label, read_pixels, read_size
from scpseg.data.store import HEADER, array_hash, image_path, label_path, save_array, save_image
from scpseg.errors import UserError
from scpseg.files import damaged, read_json, sha256, write_json

Record = dict[str, Any]
"""Record of a decoded file: slot, path, bytes, sha256, height, width, array_sha256, and counts of a label."""
COUNTS = ("ignored", "unknown", "near")
_RECORD: dict[str, Any] = {"slot": [str, str, str, int], "path": str, "bytes": int, "sha256": str, "array_sha256": str}
_RECORD |= {"height": int, "width": int}
_LABEL = {**_RECORD, "pixels": [int], **dict.fromkeys(COUNTS, int)}


class Choice(NamedTuple):
    """Choices from the parameters."""

    split: str  # its name
    lists: Ids  # its lists; of a rotation, those of the first fold
    partial: bool  # whether a part of the benchmark is enough
    ignore_first: bool  # whether training id 0 is ignored
    folds: tuple[Ids, ...] = ()  # the lists of each fold of a rotation; empty for other splits


@dataclass(frozen=True)
class Job:
    """Settings common to all files of one store; `folder` is the working folder."""

    spec: Benchmark
    synthetic: bool
    choice: Choice
    folder: Path

    @property
    def sides(self) -> Literal["exact", "most", "any"]:
        """Valid sides of an image: the benchmark's, at most those (for partial benchmarks), or any."""
        return "any" if self.synthetic or self.spec.any_size else "most" if self.choice.partial else "exact"

    @property
    def inputs(self) -> list[Any]:
        """Inputs that affect the store: the working folder's name depends on those of the arrays, the index on all."""
        return [self.folder.name, self.synthetic, self.choice.split, self.choice.partial, self.spec.side]

    @property
    def store(self) -> Path:
        """The store that is being filled."""
        return self.folder / "store"

    @property
    def spool(self) -> Path:
        """Folder of files from archives that wait to be decoded; empty between runs."""
        return self.folder / "spool"

    def array(self, slot: Slot, whole: bool = False) -> Path:
        """Path of the array of a slot; with `whole`, of the image or label of which it is a part."""
        whole = whole or self.spec.layout.rows * self.spec.layout.columns == 1
        folder = self.store if whole else self.folder / "parts" / str(slot.number)
        return (image_path if slot.kind == "image" else label_path)(folder, slot.split, slot.id)

    def record(self, slot: Slot) -> Path:
        """Path of the record of a decoded file; written last, so it marks a finished file."""
        return self.folder / "records" / slot.split / f"{slot.id}.{slot.kind}.{slot.number}.json"

    def finished(self) -> dict[Slot, Record]:
        """The records of all files whose arrays exist and are unchanged."""
        found = {}
        for path in sorted(self.folder.glob("records/*/*.json")):
            record = read_json(path, _LABEL if ".label." in path.name else _RECORD)
            slot = Slot(*record["slot"])
            if self.record(slot) != path:
                raise damaged(path, "is not of the file that its name says")
            array = self.array(slot)
            if array.is_file() and array_hash(array) == record["array_sha256"]:
                found[slot] = record
        return found

    def check_side(self, height: int, width: int, name: str) -> None:
        """Raise a UserError about an image or label whose size no image of the benchmark has."""
        side = self.spec.side
        if self.sides == "any" or (height == width == side):
            return
        found = f"{name} has {height} x {width} pixels (height x width), images of {self.spec.title} {side} x {side}"
        if self.sides == "exact":
            raise UserError(f"{found}; download it again, or set data.partial: true to use crops")
        if max(height, width) > side:
            raise UserError(f"{found}; crop it to at most that size")


class Task(NamedTuple):
    """A file to decode."""

    job: Job
    slot: Slot
    path: str  # in the manifest or archive
    place: Path  # where its bytes are now
    sha256: str | None  # in the manifest; None for a file from a verified archive, which is deleted when it is decoded


def array_bytes(kind: Kind, height: int, width: int) -> int:
    """Bytes of the array file of an image or label."""
    return (3 if kind == "image" else 1) * height * width + HEADER


def decode_file(task: Task) -> Record:
    """Write the array and the record of one file.

    Raises:
        UserError: the file is damaged, is not the manifest's, or is no image or label of the benchmark.
    """
    job, name = task.job, task.path
    try:
        size, digest = task.place.stat().st_size, sha256(task.place)
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror}); check the disk and data.source") from error
    if task.sha256 not in (None, digest):  # files outside the repository may change unseen
        todo = f"restore it, or use it as it is now with `dvc repro -f download@{job.spec.name}`"
        raise UserError(f"{name} is not the file that was downloaded (its SHA-256 differs); {todo}")
    height, width = read_size(task.place, name)
    job.check_side(height, width, name)
    pixels = read_pixels(task.place, name, job.spec.indexed and task.slot.kind == "label")
    record: Record = {"slot": list(task.slot), "path": name, "bytes": size, "sha256": digest}
    record |= {"height": height, "width": width}
    if task.slot.kind == "image":
        record["array_sha256"] = save_image(job.array(task.slot), check_image(pixels, name))
    else:
        label = decode_label(pixels, job.spec, name, job.choice.ignore_first)
        record |= {"pixels": list(label.pixels)} | {key: getattr(label, key) for key in COUNTS}
        record["array_sha256"] = save_array(job.array(task.slot), label.ids)
    write_json(job.record(task.slot), record)
    if task.sha256 is None:
        task.place.unlink()
    return record


def check_same(record: Record, other: Record) -> None:
    """Raise a UserError where an image and its label have different sizes."""
    image, label = (record, other) if "pixels" in other else (other, record)
    sizes = [f"{one['height']} x {one['width']}" for one in (image, label)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{image['path']} has {sizes[0]} pixels (height x width), but its label {label['path']} has {sizes[1]}; "
            "download both again"
        )


def join_parts(job: Job, pairing: Pairing, records: Mapping[Slot, Record]) -> dict[Slot, Record]:
    """The records of whole images and labels; joins parts, row by row, if the benchmark splits its images.

    Raises:
        UserError: parts have sizes that do not fit together.
    """
    whole: dict[Slot, Record] = {}
    parts: dict[Slot, list[Slot]] = {}
    for slot in pairing.paths:
        parts.setdefault(slot._replace(number=0), []).append(slot)
    for first, slots in parts.items():
        found = [records[slot] for slot in slots]
        files = [{key: record[key] for key in ("path", "bytes", "sha256")} for record in found]
        whole[first] = _joined(job, slots, found) | {"files": files}
    return whole


def _joined(job: Job, slots: list[Slot], records: list[Record]) -> Record:
    if len(slots) == 1:
        return records[0]
    arrays = [np.load(job.array(slot)) for slot in slots]
    step = job.spec.layout.columns
    try:
        rows = [np.concatenate(arrays[first : first + step], axis=-1) for first in range(0, len(arrays), step)]
        array = np.concatenate(rows, axis=0)
    except ValueError as error:
        parts = f"the parts of {slots[0].id} ({records[0]['path']}, ...)"
        raise UserError(f"{parts} do not fit together ({error}); download them again") from error
    record = {**records[0], "height": array.shape[0], "width": array.shape[-1]}
    record["array_sha256"] = save_array(job.array(slots[0], whole=True), array)
    if "pixels" in record:
        record["pixels"] = [sum(counts) for counts in zip(*(one["pixels"] for one in records), strict=True)]
        record |= {key: sum(one[key] for one in records) for key in COUNTS}
    return record
