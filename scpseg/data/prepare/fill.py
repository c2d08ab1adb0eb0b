"""Fill a store: decode every file once, on all cores, resumable; the store appears only when it is complete.

Arrays are written to a working folder named after everything that affects the store, so that a later run can resume;
at the end it becomes the store. Members of archives are on the disk only until they are decoded, a few at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import ChainMap, Counter, deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from signal import SIG_IGN, SIGINT, signal
from typing import Any, NamedTuple

import numpy as np

from scpseg.benchmarks import custom
from scpseg.benchmarks.base import Benchmark, Ids
from scpseg.data.acquire.archives import Group, group_archives, inner_zips, list_members, read_members, unpack_inner
from scpseg.data.acquire.layout import KINDS, Pairing, Slot, few, pair_files, role_of
from scpseg.data.acquire.manifest import Manifest, file_record
from scpseg.data.acquire.space import check_space
from scpseg.data.prepare.decode import bands_of, decode_label, read_pixels, read_size
from scpseg.data.splits import over_folds
from scpseg.data.store import HEADER, INDEX, array_hash, finished_index, image_path, label_path, save_array, save_image
from scpseg.errors import UserError
from scpseg.files import locked, read_json, write_json
from scpseg.processes import end_with_parent
from scpseg.progress import progress, say

STORE, SPOOL = "store", "spool"  # in the working folder: what is being filled; files of archives that wait
VERSION = 4  # increased when the same files decode to another store
WORKERS = 8  # most processes used: each holds one file's pixels and little more, about 200 MB for 6000 x 6000
AHEAD = 2  # files that wait for a process, beyond one for each: bounds memory and what is unpacked at a time
PIXEL_BYTES = 16  # more than any real file takes for a pixel of its benchmark's images

Record = dict[str, Any]
"""Record of a decoded image or label, as index.json has it under its id; in a file of its own also with its slot."""
_RECORD = {"slot": [str, str, str, int], "height": int, "width": int}


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
    def sides(self) -> tuple[float, float]:
        """Smallest and largest side of an image: of partial benchmarks at most the benchmark's, of some any."""
        if self.synthetic or self.spec.any_size:
            return 0, float("inf")
        return 0 if self.choice.partial else self.spec.side, self.spec.side

    def array(self, slot: Slot) -> Path:
        """Path of the array of an image or label."""
        return (image_path if slot.kind == "image" else label_path)(self.folder / STORE, slot.split, slot.id)

    def record(self, slot: Slot) -> Path:
        """Path of the record of an image or label; written last, so it marks a finished one."""
        return self.folder / "records" / slot.split / f"{slot.id}.{slot.kind}.json"

    def leftovers(self) -> list[Path]:
        """The working folders of this benchmark, also of runs with other parameters that were killed."""
        return sorted(self.folder.parent.glob(f".preparing-{self.spec.name}-*"))

    def finished(self) -> dict[Slot, Record]:
        """The records of all images and labels whose arrays exist and are unchanged; a damaged record is ignored."""
        found = {}
        for path in sorted(self.folder.glob("records/*/*.json")):
            with suppress(UserError):
                record = read_json(path, _RECORD)
                slot = Slot(*record.pop("slot"))
                if (array := self.array(slot)).is_file() and array_hash(array) == record.get(f"{slot.kind}_sha256"):
                    found[slot] = record
        return found


class Task(NamedTuple):
    """A file to decode: an image, a label, or a part of one."""

    job: Job
    slot: Slot
    path: str  # in the manifest or archive
    place: Path  # where its bytes are now
    sha256: str | None  # in the manifest; None for a file from a verified archive, which is deleted when it is decoded


def fill(
    spec: Benchmark, manifest: Manifest, folder: Path, choice: Choice, target: Path, working: Path, workers: int = 0
) -> dict[str, Any]:
    """Write the store of a benchmark to `target`, atomically, and return its index, as in index.json.

    One process does it at a time; a second one waits, and uses the store if it was made from the same files. `working`
    is on the disk of `target` unless that is a link; 0 workers = one per core. UserError: wrong files, a full disk.
    """
    if target.is_symlink():  # a folder cannot be moved to another disk atomically
        target = target.resolve()
        working = target.parent
    rules: list[Any] = [VERSION, spec.decoding, [cls.colour for cls in spec.classes], spec.ignored, spec.unknown_share]
    inputs = hashlib.sha256(json.dumps([*rules, spec.indexed, spec.side, choice, manifest]).encode()).hexdigest()[:16]
    job = Job(spec, manifest.synthetic, choice, working / f".preparing-{spec.name}-{inputs}")
    with locked(working / f".preparing-{spec.name}.lock", f"preparing {spec.name}"):
        for other in job.leftovers():
            shutil.rmtree(other / SPOOL, ignore_errors=True)
        index = finished_index(target, job.folder.name)
        if index is None:
            try:
                plan = _Plan(job, manifest, folder, workers or min(os.cpu_count() or 1, WORKERS))
                index = build_index(job, manifest, plan.pairing, plan.records())
                write_json(job.folder / STORE / INDEX, index)
            finally:
                shutil.rmtree(job.folder / SPOOL, ignore_errors=True)
            if target.exists():
                shutil.rmtree(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            (job.folder / STORE).rename(target)
        for other in job.leftovers():
            shutil.rmtree(other)
        return index


def image_ids(spec: Benchmark, manifest: Manifest, folder: Path) -> list[str]:
    """Ids of the images among loose files and in archives, as far as headers contain them."""
    paths = [*chain(*_listings(manifest, folder).values()), *(record.path for record in manifest.files)]
    return [role.id for path in paths if (role := role_of(spec, manifest.labels, path)) and role.kind == "image"]


def _listings(manifest: Manifest, folder: Path) -> dict[Group, dict[str, int]]:
    groups = group_archives(record.path for record in manifest.archives)
    return {group: list_members(group, folder) for group in groups}


class _Plan:
    """The files of one store, where they are, and which of them are finished (`done`) or not (`left`)."""

    def __init__(self, job: Job, manifest: Manifest, folder: Path, workers: int) -> None:
        """Pair the files, for which zips inside a 7z are unpacked; UserError where the disk has too little space."""
        for leftover in job.folder.rglob(".*"):  # what a killed run left half done
            leftover.unlink()
        self.job, self.folder, self.spool, self.workers = job, folder, job.folder / SPOOL, workers
        self.done, self.parts, choice = job.finished(), job.spec.layout.rows * job.spec.layout.columns, job.choice
        self.listings, self.loose = _listings(manifest, folder), {file.path: file.sha256 for file in manifest.files}
        if hidden := {group: zips for group, listing in self.listings.items() if (zips := inner_zips(listing))}:
            # The paths are known only after unpacking; any names that are not loose files do.
            slots = {Slot(part, id, kind) for part, ids in choice.lists.items() for id in ids for kind in KINDS}
            needed = sum(sum(zips.values()) for zips in hidden.values())
            self.check_space({f"{slot}": slot for slot in slots - self.done.keys()}, needed)
        for group, zips in hidden.items():
            for inner in unpack_inner(group, folder, zips, self.spool):
                self.listings[inner] = list_members(inner, folder)
        paths = [*self.loose, *chain(*self.listings.values())]
        self.pairing = pair_files(job.spec, manifest.labels, choice.split, choice.lists, paths, choice.partial)
        found = self.pairing.paths.items()
        self.left = {path: slot for slot, path in found if slot._replace(number=0) not in self.done}
        self.check_space(self.left)

    def check_space(self, left: Mapping[str, Slot], needed: int = 0) -> None:
        """UserError unless `needed` bytes, the spool, and what is known of these files' arrays fit on the disk."""
        side, declared = int(self.job.sides[0]), ChainMap(*self.listings.values())
        for path, slot in left.items():
            if side or path in self.loose:
                height, width = (side, side) if side else read_size(self.folder / path, path)
                needed += (3 if slot.kind == "image" else 1) * height * width + HEADER
            else:
                needed += declared.get(path, 0)
        if side and not left.keys() <= self.loose.keys():
            needed += (self.workers + AHEAD) * (3 * side * side + HEADER)
        others = [str(folder) for folder in self.job.leftovers() if folder != self.job.folder]
        check_space(self.job.folder, needed, f"preparing {self.job.spec.name}", others)

    def records(self) -> dict[Slot, Record]:
        """Decode what is not finished; the records of all images and labels."""
        what, left, records = f"preparing {self.job.spec.name}", len(self.left) // self.parts, dict[Slot, Record]()
        if self.done:
            say(f"{what}: {len(self.done)} files of an earlier run are kept")
        with closing(self.tasks()) as tasks:
            work = progress(_decoded(tasks, min(self.workers, left)), len(self.done) + left, what, len(self.done))
            for slot, record in chain(self.done.items(), work):
                records[slot] = record
                image, label = (records.get(slot._replace(kind=kind), {}) for kind in KINDS)
                if image and label and any(image[side] != label[side] for side in ("height", "width")):
                    size = f"{image['image_files'][0]['path']} has {image['height']} x {image['width']} pixels"
                    other = f"{label['label_files'][0]['path']} has {label['height']} x {label['width']}"
                    raise UserError(f"{size} (height x width), but its label {other}; download both again")
        return records

    def tasks(self) -> Generator[list[Task], None, None]:
        """The parts of each unfinished image and label; those in archives are put into the spool just before."""
        left, most = self.left, PIXEL_BYTES * self.job.sides[1] ** 2
        wanted = [(group, {p: n for p, n in sizes.items() if p in left}) for group, sizes in self.listings.items()]
        for path, size in chain(*(sizes.items() for _, sizes in wanted)):
            if size > most:
                why = f"declares {size} bytes, more than the {most} bytes of the largest file expected"
                raise UserError(f"{path} {why}; the archive is damaged or hostile: fetch it from a trusted source")
        loose = ((path, self.folder / path) for path in left if path in self.loose)
        packed = (read_members(group, self.folder, sizes, self.spool) for group, sizes in wanted if sizes)
        waiting: dict[Slot, dict[int, Task]] = {}
        for path, place in chain(loose, *packed):
            first = left[path]._replace(number=0)
            parts = waiting.setdefault(first, {})
            parts[left[path].number] = Task(self.job, first, path, place, self.loose.get(path))
            if len(parts) == self.parts:
                yield [parts[number] for number in range(self.parts)]


def _decoded(tasks: Iterator[list[Task]], workers: int) -> Iterator[tuple[Slot, Record]]:
    """Decode with some processes, in order; at most AHEAD more tasks are taken, and finished even if one fails."""
    if workers <= 1:
        yield from (decode_file(*parts) for parts in tasks)
        return
    waiting: deque[Future[tuple[Slot, Record]]] = deque()
    try:
        with ProcessPoolExecutor(workers, initializer=_follow_parent) as pool:
            pool.submit(os.getpid).result()  # processes are copies of this one: start them while it is small
            for parts in tasks:
                waiting.append(pool.submit(decode_file, *parts))
                if len(waiting) >= workers + AHEAD:
                    yield waiting.popleft().result()
            for future in waiting:
                yield future.result()
    except BrokenProcessPool as error:
        why = "a decoding process was killed, probably because memory ran out; finished images are kept"
        raise UserError(f"{why}: free some memory and run the same command again") from error


def _follow_parent() -> None:
    """End a worker with the process that started it, even if that is killed; Ctrl-C is left to the parent."""
    signal(SIGINT, SIG_IGN)
    end_with_parent()


def decode_file(*parts: Task) -> tuple[Slot, Record]:
    """Write array and record of an image or label, joined from its parts; UserError where a file is not right."""
    job, slot, *_ = parts[0]
    spec, (lowest, highest), files, arrays, labels = job.spec, job.sides, [], [], []
    for _, _, path, place, expected in parts:
        file = file_record(place, path)
        if expected not in (None, file.sha256):  # files outside the repository may change unseen
            todo = f"restore it, or use it as it is now with `dvc repro -f download@{spec.name}`"
            raise UserError(f"{path} is not the file that was downloaded (its SHA-256 differs); {todo}")
        height, width = read_size(place, path)
        if min(height, width) < lowest or max(height, width) > highest:
            why = f"{height} x {width} pixels (height x width), images of {spec.title} {spec.side} x {spec.side}"
            todo = "download it again, or set data.partial: true to use crops" if lowest else "crop it to at most that"
            raise UserError(f"{path} has {why}; {todo}")
        pixels = read_pixels(place, path, spec.indexed and slot.kind == "label")
        if slot.kind == "label":
            labels.append(decode_label(pixels, spec, path, job.choice.ignore_first))
        elif pixels.shape[2:] != (3,):
            raise UserError(f"{path} has {bands_of(pixels)}; expected an RGB image of 3 bands")
        arrays.append(labels[-1].ids if labels else pixels)
        files.append({"path": path, "bytes": file.size, "sha256": file.sha256})
    array, step = arrays[0], spec.layout.columns
    if len(arrays) > 1:
        try:
            array = np.vstack([np.hstack(arrays[first : first + step]) for first in range(0, len(arrays), step)])
        except ValueError as error:
            why = f"the parts of {slot.id} ({parts[0].path}, ...) do not fit together ({error})"
            raise UserError(f"{why}; download them again") from error
    digest = (save_array if labels else save_image)(job.array(slot), array)
    record: Record = {"height": array.shape[0], "width": array.shape[1]}
    record |= {f"{slot.kind}_sha256": digest, f"{slot.kind}_files": files}
    if labels:
        counts = [np.sum(numbers, axis=0).tolist() for numbers in zip(*(label[1:] for label in labels), strict=True)]
        record |= zip(("pixels", "ignored", "unknown", "near_threshold"), counts, strict=True)
    write_json(job.record(slot), {"slot": slot, **record})
    for part in parts:
        if part.sha256 is None:
            part.place.unlink()
    return slot, record


def build_index(job: Job, manifest: Manifest, pairing: Pairing, records: Mapping[Slot, Record]) -> dict[str, Any]:
    """What index.json of the store holds; UserError where no label of a whole real benchmark shows some class."""
    spec, choice = job.spec, job.choice
    present = {id for ids in pairing.ids.values() for id in ids}
    names = ((split, id) for split, ids in pairing.ids.items() for id in ids)
    images = {f"{name[0]}/{name[1]}": records[Slot(*name, "image")] | records[Slot(*name, "label")] for name in names}
    pixels = np.sum([image["pixels"] for image in images.values()], axis=0)
    absent = [cls.name for k, cls in enumerate(spec.classes) if not (pixels[k] or (k == 0 and choice.ignore_first))]
    if absent and not (choice.partial or job.synthetic) and choice.split in spec.splits:
        why, todo = f"no label has a pixel of class {', '.join(absent)}", "download the right labels"
        todo = f"remove its row from {custom.FILE}" if spec.name == custom.NAME else todo
        raise UserError(f"{spec.name}: {why}; {todo}, or set data.partial: true to use them as they are")
    return {
        "benchmark": spec.name,
        "classes": [cls.name for cls in spec.classes],
        "inputs": job.folder.name,
        "synthetic": manifest.synthetic,
        "source": manifest.source,
        "split": choice.split,
        "labels": manifest.labels,
        "expected": over_folds(pairing.expected, choice.folds),
        "ids": {split: list(ids) for split, ids in pairing.ids.items()},
        "folds": [{part: [id for id in ids if id in present] for part, ids in fold.items()} for fold in choice.folds],
        "images": images,
        "warnings": [*pairing.warnings, *_warnings(spec, images, job.sides == (0, spec.side))],
    }


def summary(spec: Benchmark, index: Mapping[str, Any]) -> list[str]:
    """Lines that describe the contents of the store and what the benchmark expects."""
    images, folds = index["images"].values(), index["folds"]
    sizes = Counter(f"{image['height']} x {image['width']}" for image in images)
    shown = few([f"{count} of {size}" for size, count in sizes.most_common()])
    found = over_folds({part: len(ids) for part, ids in index["ids"].items()}, folds)
    counts = ", ".join(f"{part} {count} of {index['expected'][part]}" for part, count in found.items())
    counts += f" in {len(folds)} folds" if folds else ""
    area, names = sum(image["height"] * image["width"] for image in images), [cls.name for cls in spec.classes]
    pixels = np.sum([[*image["pixels"], image["ignored"]] for image in images], axis=0)
    shares = ", ".join(f"{name} {count / area:.2%}" for name, count in zip([*names, "ignored"], pixels, strict=True))
    lines = [counts, f"images (height x width) {shown}", f"labels {index['labels']}: {shares}"]
    return [f"{spec.name}: {line}" for line in lines]


def _warnings(spec: Benchmark, images: Mapping[str, Any], crops: bool) -> list[str]:
    unscored = {name: im for name, im in images.items() if not any(im["pixels"][index] for index in spec.scored)}
    blank, whole = [name for name, image in unscored.items() if not sum(image["pixels"])], (spec.side, spec.side)
    found = {
        "labels with pixels of no class's colour, ignored": [
            f"{name} ({image['unknown']})" for name, image in images.items() if image["unknown"]
        ],
        "labels in which every pixel is ignored": blank,
        "labels without a pixel of a scored class": [name for name in unscored if name not in blank],
        f"images that are not of {spec.side} x {spec.side} pixels": [
            name for name, image in images.items() if crops and (image["height"], image["width"]) != whole
        ],
    }
    return [f"{spec.name}: {len(names)} {what}: {few(names)}" for what, names in found.items() if names]
