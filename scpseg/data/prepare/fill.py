"""Fill a store: decode every file once, on all cores, resumable; the store appears only when it is complete.

Arrays are written to a working folder whose name depends on everything that affects their content, so an interrupted
run can resume; at the end, this folder is renamed to the store. Of archives, only files that become arrays are
written to the disk, a few at a time, and a zip inside a 7z while its files are decoded.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from itertools import chain
from multiprocessing import connection, parent_process
from pathlib import Path
from signal import SIG_IGN, SIGINT, signal
from threading import Thread
from typing import Any

from scpseg.benchmarks.base import Benchmark
from scpseg.data.acquire.archives import Group, Listing, group_archives, list_members, read_members
from scpseg.data.acquire.layout import EXTRACT, KINDS, Pairing, Slot, pair_files, role_of, same, slots_of
from scpseg.data.acquire.manifest import Manifest, file_size
from scpseg.data.acquire.space import check_space, full_disk_named
from scpseg.data.prepare.decode import read_size
from scpseg.data.prepare.index import build_index
from scpseg.data.prepare.work import Choice, Job, Record, Task, array_bytes, check_same, decode_file, join_parts
from scpseg.data.store import INDEX, Store
from scpseg.errors import UserError
from scpseg.files import locked, write_json
from scpseg.progress import progress, say

VERSION = 3  # increased when the same files decode to another store
WORKERS = 8  # most processes used: each holds one file's pixels and little more, about 200 MB for 6000 x 6000
AHEAD = 2  # files that wait for a process, beyond one for each: bounds memory and what is unpacked at a time
PIXEL_BYTES = 16  # more than any real file takes for a pixel of its benchmark's images


def fill(
    spec: Benchmark,
    manifest: Manifest,
    folder: Path,
    choice: Choice,
    target: Path,
    working: Path,
    workers: int | None = None,
) -> dict[str, Any]:
    """Write the store of a benchmark to `target`, atomically.

    Only one process does it at a time: a second one waits, and uses the store if it was made from the same files.

    Args:
        spec: the benchmark.
        manifest: its archives and files.
        folder: folder of these archives and files.
        choice: the parameters.
        target: folder of the store, or a link to one, for example on another disk.
        working: folder for working folders (may not exist), on the same disk as `target` unless that is a link.
        workers: number of decoding processes; default one per core, at most 8. This process unpacks.

    Returns:
        The index, as in index.json.

    Raises:
        UserError: a file is damaged or does not fit, the benchmark is incomplete although `choice.partial` is false, or
            there is too little disk space.
    """
    if target.is_symlink():  # a folder cannot be moved to another disk atomically
        target = target.resolve()
        working = target.parent
    inputs = _fingerprint(spec, manifest, choice)
    job = Job(spec, manifest.synthetic, choice, working / f".preparing-{spec.name}-{inputs}")
    with locked(working / f".preparing-{spec.name}.lock", f"preparing {spec.name}"):
        return _made(target, job) or _fill(Plan(job, manifest, folder), target, workers)


def _made(target: Path, job: Job) -> dict[str, Any] | None:
    """The index of the store at `target`, if another process made it from the same inputs and it is unchanged."""
    try:
        store = Store(target)
        if store.index.get("inputs") != job.inputs:
            return None
        for split in store.index["ids"]:
            store.check(split)
    except UserError:
        return None
    return store.index


def _fill(plan: Plan, target: Path, workers: int | None) -> dict[str, Any]:
    job, missing = plan.job, plan.missing()
    workers = workers or min(os.cpu_count() or 1, WORKERS)
    if missing is not None:
        workers = min(workers, max(1, len(missing)))
    needed = plan.needed(workers)
    check_space(job.folder, needed, f"preparing {job.spec.name}")
    if plan.done:
        say(f"preparing {job.spec.name}: {len(plan.done)} files of an earlier run are kept")
    with full_disk_named(job.folder, needed, f"preparing {job.spec.name}"):
        try:
            records = _decode(plan, workers)
        finally:
            shutil.rmtree(job.spool, ignore_errors=True)
        pairing = plan.pairing()
        records = join_parts(job, pairing, records)
        index = build_index(job, plan.manifest, pairing, records)
        _keep_only(job, index)
        write_json(job.store / INDEX, index)
    if target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    job.store.rename(target)
    for done in job.folder.parent.glob(f".preparing-{job.spec.name}-*"):
        shutil.rmtree(done)
    return index


def _fingerprint(spec: Benchmark, manifest: Manifest, choice: Choice) -> str:
    """Name of the working folder: a fingerprint of everything that affects the arrays."""
    slot = slots_of(spec, manifest.labels, choice.lists)
    files = [[record.path, record.sha256] for record in manifest.files if slot(record.path)]
    archives = [[record.path, record.sha256] for record in manifest.archives]
    colours = [cls.colour for cls in spec.classes]
    rules: list[Any] = [
        VERSION,
        spec.decoding,
        colours,
        spec.ignored,
        spec.unknown_share,
        choice.ignore_first,
        manifest.labels,
    ]
    rules += [spec.indexed] if spec.indexed else []
    rules += [choice.folds] if choice.folds else []
    content = json.dumps([rules, choice.lists, archives, files])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def image_ids(spec: Benchmark, manifest: Manifest, folder: Path) -> list[str]:
    """Ids of the images among loose files and in archives, as far as headers contain them."""
    paths = [path for listing in _listings(manifest, folder).values() for path in listing.files]
    roles = (role_of(spec, manifest.labels, path) for path in (*paths, *(record.path for record in manifest.files)))
    return [role.id for role in roles if role is not None and role.kind == "image"]


def _listings(manifest: Manifest, folder: Path) -> dict[Group, Listing]:
    groups = group_archives(record.path for record in manifest.archives)
    return {group: list_members(group, folder) for group in groups}


class Plan:
    """The files of one store, where they are, and which of them are finished.

    Attributes:
        job: settings common to all files.
        manifest: manifest of the files.
        paths: the file of each slot, as far as it is known.
        done: records of finished files.
    """

    def __init__(self, job: Job, manifest: Manifest, folder: Path) -> None:
        """List the archives in `folder`, pair what is known, and clear what a killed run left half done."""
        self.job, self.manifest, self.folder = job, manifest, folder
        self.slot_of = slots_of(job.spec, manifest.labels, job.choice.lists)
        self._listings = _listings(manifest, folder)
        # Members of a zip inside a 7z are known only after it is unpacked.
        self._hidden = any(listing.hidden for listing in self._listings.values())
        listed = {path: size for listing in self._listings.values() for path, size in listing.files.items()}
        self._declared = {path: size for path, size in listed.items() if role_of(job.spec, manifest.labels, path)}
        self._loose = {record.path: record.sha256 for record in manifest.files}
        self.done: dict[Slot, Record] = {}
        self.paths: dict[Slot, str] = {}
        if self._hidden:
            for path in sorted({*self._declared, *self._loose}, key=lambda path: (EXTRACT in path, path)):
                self.take(path)
        else:
            self.paths = dict(self.pairing().paths)
        for leftover in job.folder.rglob(".*"):
            leftover.unlink()
        shutil.rmtree(job.spool, ignore_errors=True)
        for slot, record in job.finished().items():
            if self._hidden or slot in self.paths:
                self.paths.setdefault(slot, record["path"])
                self.done[slot] = record

    def pairing(self) -> Pairing:
        """What belongs together of all files known by now."""
        paths = {*self._declared, *self._loose, *self.paths.values()}
        choice = self.job.choice
        return pair_files(self.job.spec, self.manifest.labels, choice.split, choice.lists, paths, choice.partial)

    def take(self, path: str) -> Slot | None:
        """The slot that the file at `path` is to be decoded for, None where it is not wanted or finished."""
        slot = self.slot_of(path)
        if slot is None or not (self._hidden or slot in self.paths):
            return None
        first = self.paths.setdefault(slot, path)
        if first != path and EXTRACT not in path:
            raise UserError(f"{self.job.spec.name}: {same(first, path, slot)}")
        return slot if first == path and slot not in self.done else None

    def missing(self) -> set[Slot] | None:
        """Slots that are not filled yet, or None if they are known only at the end of an archive."""
        lists = self.job.choice.lists
        if self._hidden and not lists:
            return None
        parts = range(self.job.spec.layout.rows * self.job.spec.layout.columns if self._hidden else 0)
        named = {Slot(part, id, kind, k) for part, ids in lists.items() for id in ids for kind in KINDS for k in parts}
        return (named | self.paths.keys()) - self.done.keys()

    def needed(self, workers: int) -> int:
        """Bytes of disk space that arrays and spool still need.

        Known from headers for loose files, and from the benchmark's image size for members of archives. For images of
        any size, only the sizes declared in archives are known, which give a rough number.
        """
        missing, side, exact = self.missing(), self.job.spec.side, self.job.sides == "exact"
        image, label = (array_bytes(kind, side, side) for kind in KINDS)
        slots = self.paths.keys() - self.done.keys() if missing is None else missing
        total, packed = 0, 0
        for slot in slots:
            path = self.paths.get(slot, "")
            if path in self._loose:
                total += array_bytes(slot.kind, *read_size(self.folder / path, path))
            else:
                total += (image if slot.kind == "image" else label) if exact else self._declared.get(path, 0)
                packed += 1
        if missing is None and exact:
            total, packed = sum(self.job.spec.counts) * (image + label), 1
        elif not exact and any(missing is None or slot not in self.paths for slot in slots or [None]):
            parts = [part for group, listing in self._listings.items() if listing.hidden for part in group.parts]
            total += sum((self.folder / part).stat().st_size for part in parts)
        if packed:  # a zip inside a 7z is on the disk while its members are decoded
            total += max((size for listing in self._listings.values() for size in listing.hidden.values()), default=0)
        return total + (workers + AHEAD) * image if packed and exact else total

    def incoming(self) -> Generator[Task, None, None]:
        """The files that are not finished; those in archives are put into the spool just before they are given out."""
        for slot, path in list(self.paths.items()):
            if path in self._loose and slot not in self.done:
                yield Task(self.job, slot, path, self.folder / path, self._loose[path])
        left, job = self.missing(), self.job
        most = PIXEL_BYTES * job.spec.side**2 if job.sides != "any" else None
        job.spool.mkdir(parents=True, exist_ok=True)
        for group, listing in self._listings.items():
            mine = [slot for slot in left or () if self.paths.get(slot, f"{group.name}/").startswith(f"{group.name}/")]
            if left is not None and not (mine and (listing.hidden or any(slot in self.paths for slot in mine))):
                continue
            members = read_members(group, self.folder, lambda path: self.take(path) is not None, job.spool, most)
            with closing(members):
                for path, place in members:
                    wanted = self.slot_of(path)
                    assert wanted is not None
                    yield Task(job, wanted, path, place, None)
                    if left is not None:
                        left.discard(wanted)
                        if not left:  # nothing after the last file is unpacked
                            return


def _decode(plan: Plan, workers: int) -> dict[Slot, Record]:
    """The records of all files, including those of earlier runs."""
    job, records = plan.job, dict[Slot, Record]()
    with closing(plan.incoming()) as tasks:
        work = decode_all(tasks, workers)
        if (missing := plan.missing()) is not None:
            done = len(plan.done)
            work = progress(work, done + len(missing), f"preparing {job.spec.name}", done)
        for record in chain(plan.done.values(), work):
            job.check_side(record["height"], record["width"], record["path"])
            slot = Slot(*record["slot"])
            records[slot] = record
            other = records.get(slot._replace(kind="label" if slot.kind == "image" else "image"))
            if other is not None:
                check_same(record, other)
    return records


def _keep_only(job: Job, index: dict[str, Any]) -> None:
    """Check that every array of the index is there, and remove others, such as labels of images that are missing."""
    wanted = {}
    for name, image in index["images"].items():
        for kind in KINDS:
            split, id = name.split("/", 1)
            path = job.array(Slot(split, id, kind), whole=True)
            wanted[path] = array_bytes(kind, image["height"], image["width"])
    for path, size in wanted.items():
        if file_size(path) != size:
            raise UserError(
                f"{path.name} of {job.spec.name} was deleted or truncated while the store was made; "
                "do not change the folder data, and run the same command again"
            )
    for path in job.store.rglob("*.npy"):
        if path not in wanted:
            path.unlink()


def decode_all(tasks: Iterator[Task], workers: int) -> Iterator[Record]:
    """Decode the files of `tasks` as they come, with `workers` processes, and give their records in the same order.

    At most workers + AHEAD tasks are taken in advance. Tasks that were taken are finished even if `tasks` or another
    one fails.

    Raises:
        UserError: the error of `decode_file` for the first file that has one; or a process was killed.
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
        raise UserError(
            "a decoding process was killed, probably because memory ran out; finished images are "
            "kept: free some memory and run the same command again"
        ) from error


def _follow_parent() -> None:
    """End a worker with the process that started it, even if that is killed; Ctrl-C is left to the parent."""
    signal(SIGINT, SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch(sentinel: int) -> None:
        connection.wait([sentinel])
        os._exit(1)

    Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
