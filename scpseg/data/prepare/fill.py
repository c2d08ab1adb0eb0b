"""Fill a store: decode every file once, on all cores, resumable; the store appears only when it is complete.

Arrays are written to a working folder whose name depends on everything that affects the store, so an interrupted run
can resume; at the end, this folder is renamed to the store. Of archives, only files that become arrays are
written to the disk, a few at a time, and zips inside a 7z while their files are decoded.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain
from multiprocessing import parent_process
from pathlib import Path
from signal import SIG_IGN, SIGINT, signal
from threading import Thread
from typing import Any, Literal, NamedTuple

import numpy as np

from scpseg.benchmarks.base import Benchmark, Ids
from scpseg.data.acquire.archives import Group, Listing, group_archives, list_members, read_members, unpack_inner
from scpseg.data.acquire.layout import KINDS, Kind, Pairing, Slot, pair_files, role_of
from scpseg.data.acquire.manifest import Manifest, file_size
from scpseg.data.acquire.space import check_space
from scpseg.data.prepare.decode import check_image, decode_label, read_pixels, read_size
from scpseg.data.store import HEADER, INDEX, Store, array_hash, image_path, label_path, save_array, save_image
from scpseg.errors import UserError
from scpseg.files import damaged, locked, read_json, sha256, write_json
from scpseg.progress import progress, say

VERSION = 4  # increased when the same files decode to another store
WORKERS = 8  # most processes used: each holds one file's pixels and little more, about 200 MB for 6000 x 6000
AHEAD = 2  # files that wait for a process, beyond one for each: bounds memory and what is unpacked at a time
PIXEL_BYTES = 16  # more than any real file takes for a pixel of its benchmark's images
SHOWN, NAMED = 3, 8  # sizes of images in a line, images in a warning

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


def fill(
    spec: Benchmark, manifest: Manifest, folder: Path, choice: Choice, target: Path, working: Path, workers: int = 0
) -> dict[str, Any]:
    """Write the store of a benchmark to `target`, atomically, and return its index, as in index.json.

    Only one process does it at a time: a second one waits, and uses the store if it was made from the same files.

    Args:
        spec: the benchmark.
        manifest: its archives and files, which are in `folder`.
        folder: as `locate` returns it.
        choice: the parameters.
        target: folder of the store, or a link to one, for example on another disk.
        working: folder for working folders (may not exist), on the same disk as `target` unless that is a link.
        workers: number of decoding processes; 0 = one per core, at most 8. This process unpacks.

    Raises:
        UserError: a file is damaged or does not fit, the benchmark is incomplete although `choice.partial` is false, or
            there is too little disk space.
    """
    if target.is_symlink():  # a folder cannot be moved to another disk atomically
        target = target.resolve()
        working = target.parent
    rules: list[Any] = [VERSION, spec.decoding, [cls.colour for cls in spec.classes], spec.ignored, spec.unknown_share]
    inputs = hashlib.sha256(json.dumps([*rules, spec.indexed, spec.side, choice, manifest]).encode()).hexdigest()[:16]
    job = Job(spec, manifest.synthetic, choice, working / f".preparing-{spec.name}-{inputs}")
    with locked(working / f".preparing-{spec.name}.lock", f"preparing {spec.name}"):
        with suppress(UserError):  # no store, or not as it was made
            store = Store(target)
            if store.index.get("inputs") == job.folder.name:
                for split in store.index["ids"]:
                    store.check(split)
                return store.index
        try:
            index = _fill(job, manifest, folder, workers or min(os.cpu_count() or 1, WORKERS))
        finally:
            shutil.rmtree(job.spool, ignore_errors=True)
        if target.exists():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        job.store.rename(target)
        for done in working.glob(f".preparing-{spec.name}-*"):
            shutil.rmtree(done)
        return index


def _fill(job: Job, manifest: Manifest, folder: Path, workers: int) -> dict[str, Any]:
    """Fill the store in the working folder, going on where an earlier run was interrupted."""
    what, records, plan = f"preparing {job.spec.name}", dict[Slot, Record](), _Plan(job, manifest, folder, workers)
    check_space(job.folder, plan.needed(plan.left), what)
    if plan.done:
        say(f"{what}: {len(plan.done)} files of an earlier run are kept")
    with closing(plan.tasks()) as tasks:
        decoded = _decoded(tasks, min(workers, max(1, len(plan.left))))
        work = progress(decoded, len(plan.done) + len(plan.left), what, len(plan.done))
        for record in chain(plan.done.values(), work):
            slot = Slot(*record["slot"])
            records[slot] = record
            image, label = (records.get(slot._replace(kind=kind)) for kind in KINDS)
            if image and label and any(image[side] != label[side] for side in ("height", "width")):
                sizes = [f"{one['height']} x {one['width']}" for one in (image, label)]
                raise UserError(
                    f"{image['path']} has {sizes[0]} pixels (height x width), but its label {label['path']} has "
                    f"{sizes[1]}; download both again"
                )
        index = build_index(job, manifest, plan.pairing, _join_parts(job, plan.pairing, records))
        write_json(job.store / INDEX, index)
    return index


def image_ids(spec: Benchmark, manifest: Manifest, folder: Path) -> list[str]:
    """Ids of the images among loose files and in archives, as far as headers contain them."""
    paths = [path for listing in _listings(manifest, folder).values() for path in listing.files]
    roles = (role_of(spec, manifest.labels, path) for path in (*paths, *(record.path for record in manifest.files)))
    return [role.id for role in roles if role is not None and role.kind == "image"]


def _listings(manifest: Manifest, folder: Path) -> dict[Group, Listing]:
    groups = group_archives(record.path for record in manifest.archives)
    return {group: list_members(group, folder) for group in groups}


class _Plan:
    """The files of one store, where they are, and which of them are finished (`done`) or not (`left`)."""

    def __init__(self, job: Job, manifest: Manifest, folder: Path, workers: int) -> None:
        """Pair the files, for which zips inside a 7z are unpacked; clear what a killed run left half done."""
        for leftover in job.folder.rglob(".*"):
            leftover.unlink()
        shutil.rmtree(job.spool, ignore_errors=True)
        self.job, self.folder, self.workers, self.done = job, folder, workers, job.finished()
        self.listings, self.loose = _listings(manifest, folder), {file.path: file.sha256 for file in manifest.files}
        choice, packed = job.choice, {group: listing for group, listing in self.listings.items() if listing.hidden}
        if packed:
            slots = {Slot(part, id, kind) for part, ids in choice.lists.items() for id in ids for kind in KINDS}
            # Their paths are known only after unpacking; any names that are not loose files do.
            arrays = self.needed({f"{slot}": slot for slot in slots - self.done.keys()})
            hidden = sum(sum(listing.hidden.values()) for listing in packed.values())
            check_space(job.folder, hidden + arrays, f"preparing {job.spec.name}")
        for group in packed:
            for inner in unpack_inner(group, folder, job.spool):
                self.listings[inner] = list_members(inner, folder)
        paths = [*self.loose, *(path for listing in self.listings.values() for path in listing.files)]
        self.pairing = pair_files(job.spec, manifest.labels, choice.split, choice.lists, paths, choice.partial)
        self.left = {path: slot for slot, path in self.pairing.paths.items() if slot not in self.done}

    def needed(self, left: Mapping[str, Slot]) -> int:
        """Bytes of disk space that the arrays of these files, and the spool, still need.

        Known from headers for loose files, and from the benchmark's image size for members of archives. For images of
        any size, only the sizes declared in archives are known, which give a rough number.
        """
        side, exact, total = self.job.spec.side, self.job.sides == "exact", 0
        declared = {path: size for listing in self.listings.values() for path, size in listing.files.items()}
        for path, slot in left.items():
            if path in self.loose:
                total += array_bytes(slot.kind, *read_size(self.folder / path, path))
            else:
                total += array_bytes(slot.kind, side, side) if exact else declared.get(path, 0)
        spooled = exact and not left.keys() <= self.loose.keys()
        return total + (self.workers + AHEAD) * array_bytes("image", side, side) * spooled

    def tasks(self) -> Generator[Task, None, None]:
        """The files that are not finished; those in archives are put into the spool just before they are given out."""
        job, left = self.job, self.left
        for path, slot in left.items():
            if path in self.loose:
                yield Task(job, slot, path, self.folder / path, self.loose[path])
        most = PIXEL_BYTES * job.spec.side**2 if job.sides != "any" else None
        for group, listing in self.listings.items():
            if not left.keys().isdisjoint(listing.files):
                for path, place in read_members(group, self.folder, left.__contains__, job.spool, most):
                    yield Task(job, left[path], path, place, None)


def _decoded(tasks: Iterator[Task], workers: int) -> Iterator[Record]:
    """Decode the files of `tasks` as they come, with `workers` processes, and give their records in the same order.

    At most workers + AHEAD tasks are taken in advance. Tasks that were taken are finished even if `tasks` or another
    one fails; the error is that of `decode_file` for the first file that has one.
    """
    if workers == 1:
        yield from map(decode_file, tasks)
        return
    waiting: deque[Future[Record]] = deque()
    try:
        with ProcessPoolExecutor(workers, initializer=_follow_parent) as pool:
            pool.submit(os.getpid).result()  # processes are copies of this one: start them while it is small
            for task in tasks:
                waiting.append(pool.submit(decode_file, task))
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
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def decode_file(task: Task) -> Record:
    """Write the array and the record of one file.

    Raises:
        UserError: the file is damaged, differs from the manifest, or is not an image or label of the benchmark.
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


def array_bytes(kind: Kind, height: int, width: int) -> int:
    """Bytes of the array file of an image or label."""
    return (3 if kind == "image" else 1) * height * width + HEADER


def _join_parts(job: Job, pairing: Pairing, records: Mapping[Slot, Record]) -> dict[Slot, Record]:
    """The records of whole images and labels; joins parts, row by row, if the benchmark splits its images."""
    whole, step = dict[Slot, Record](), job.spec.layout.columns
    parts: dict[Slot, list[Slot]] = {}
    for slot in pairing.paths:
        parts.setdefault(slot._replace(number=0), []).append(slot)
    for first, slots in parts.items():
        found = [records[slot] for slot in slots]
        record = whole[first] = {**found[0]}
        record["files"] = [{key: one[key] for key in ("path", "bytes", "sha256")} for one in found]
        path = job.array(first, whole=True)
        if len(slots) > 1:
            arrays = [np.load(job.array(slot)) for slot in slots]
            try:
                rows = [np.concatenate(arrays[start : start + step], axis=-1) for start in range(0, len(arrays), step)]
                array = np.concatenate(rows, axis=0)
            except ValueError as error:
                why = f"the parts of {first.id} ({found[0]['path']}, ...) do not fit together ({error})"
                raise UserError(f"{why}; download them again") from error
            record |= {"height": array.shape[0], "width": array.shape[-1], "array_sha256": save_array(path, array)}
        if first.kind == "label":
            record["pixels"] = [sum(counts) for counts in zip(*(one["pixels"] for one in found), strict=True)]
            record |= {key: sum(one[key] for one in found) for key in COUNTS}
        if file_size(path) != array_bytes(first.kind, record["height"], record["width"]):
            why = f"{path.name} of {job.spec.name} was deleted or truncated while the store was made"
            raise UserError(f"{why}; do not change the folder data, and run the same command again")
    return whole


def build_index(job: Job, manifest: Manifest, pairing: Pairing, records: Mapping[Slot, Record]) -> dict[str, Any]:
    """What index.json of the store holds; UserError where no label of a whole real benchmark shows some class."""
    spec, choice = job.spec, job.choice
    present, images = {id for ids in pairing.ids.values() for id in ids}, dict[str, Any]()
    for split, id in ((split, id) for split, ids in pairing.ids.items() for id in ids):
        both = {kind: records[Slot(split, id, kind)] for kind in KINDS}
        images[f"{split}/{id}"] = {
            **{key: both["label"][key] for key in ("height", "width", "pixels", "ignored", "unknown")},
            "near_threshold": both["label"]["near"],
            **{f"{kind}_sha256": record["array_sha256"] for kind, record in both.items()},
            **{f"{kind}_files": record["files"] for kind, record in both.items()},
        }
    pixels = _class_pixels(spec, images)
    absent = [cls.name for k, cls in enumerate(spec.classes) if not (pixels[k] or (k == 0 and choice.ignore_first))]
    if absent and not (choice.partial or job.synthetic) and choice.split in spec.splits:
        why = f"no label has a pixel of class {', '.join(absent)}, so these are not its labels"
        todo = "download them again, or set data.partial: true to use them as they are"
        raise UserError(f"{spec.name}: {why}; {todo}")
    return {
        "benchmark": spec.name,
        "classes": [cls.name for cls in spec.classes],
        "inputs": job.folder.name,
        "synthetic": manifest.synthetic,
        "source": manifest.source,
        "split": choice.split,
        "labels": manifest.labels,
        # Of a rotation, the images that are scored in all folds, and those that the first one is trained on.
        "expected": {
            part: sum(len(fold[part]) for fold in choice.folds if part != "train") or count
            for part, count in pairing.expected.items()
        },
        "ids": {split: list(ids) for split, ids in pairing.ids.items()},
        "folds": [{part: [id for id in ids if id in present] for part, ids in fold.items()} for fold in choice.folds],
        "images": images,
        "warnings": [*pairing.warnings, *_warnings(spec, images, job.sides == "most")],
    }


def summary(spec: Benchmark, index: Mapping[str, Any]) -> list[str]:
    """Lines that describe the contents of the store and what the benchmark expects."""
    images = index["images"].values()
    sizes = Counter(f"{image['height']} x {image['width']}" for image in images)
    often = sorted(sizes, key=lambda size: (-sizes[size], size))[:SHOWN]
    shown = ", ".join(f"{sizes[size]} of {size}" for size in often) + (", ..." if len(sizes) > SHOWN else "")
    shown += "" if spec.any_size else f"; the benchmark's have {spec.side} x {spec.side}"
    found = {part: len(ids) for part, ids in index["ids"].items()}
    for part in found.keys() - {"train"} if index["folds"] else ():
        found[part] = sum(len(fold[part]) for fold in index["folds"])
    counts = ", ".join(f"{part} {count} of {index['expected'][part]}" for part, count in found.items())
    counts += f" in {len(index['folds'])} folds" if index["folds"] else ""
    ignored, unknown, near = (sum(image[key] for image in images) for key in ("ignored", "unknown", "near_threshold"))
    area = sum(image["height"] * image["width"] for image in images)
    pixels = zip(spec.classes, _class_pixels(spec, index["images"]), strict=True)
    shares = ", ".join(f"{cls.name} {count / area:.2%}" for cls, count in pixels)
    lines = [counts, f"images (height x width) {shown}"]
    lines.append(f"labels {index['labels']}: {shares}, ignored {ignored / area:.2%}")
    if spec.decoding == "threshold":
        lines.append(f"{unknown} pixels with a colour of no class, {near} with a channel near the threshold")
    return [f"{spec.name}: {line}" for line in lines]


def _class_pixels(spec: Benchmark, images: Mapping[str, Any]) -> list[int]:
    return [sum(image["pixels"][index] for image in images.values()) for index in range(len(spec.classes))]


def _warnings(spec: Benchmark, images: Mapping[str, Any], crops: bool) -> list[str]:
    unknown = [f"{name} {image['unknown']}" for name, image in images.items() if image["unknown"]]
    unscored = {name: im for name, im in images.items() if not any(im["pixels"][index] for index in spec.scored)}
    blank = [name for name, image in unscored.items() if not sum(image["pixels"])]
    other = sum((image["height"], image["width"]) != (spec.side, spec.side) for image in images.values())
    warnings = []
    for what, names in (
        ("pixels of no class's colour, ignored", unknown),
        ("labels in which every pixel is ignored", blank),
        ("labels without a pixel of a scored class", [name for name in unscored if name not in blank]),
    ):
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            warnings.append(f"{spec.name}: {what}: {', '.join(names[:NAMED])}{more}")
    if crops and other:
        warnings.append(f"{spec.name}: {other} of {len(images)} images are not of {spec.side} x {spec.side} pixels")
    return warnings
