"""Filling a store: decode every pair once, on all cores, resumable, and show the store only when it is whole.

Arrays go to a working folder named by everything that decides their content, so that an interrupted run goes on
where it stopped; the folder in it becomes the store by being renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from signal import SIG_IGN, SIGINT, signal
from threading import Thread
from typing import Any

from scpseg.data.preparing.pairwork import Source, Task, decode_pair
from scpseg.data.specs import Spec
from scpseg.data.store import INDEX
from scpseg.data.upstream.layout import Pairing
from scpseg.data.upstream.manifest import Manifest
from scpseg.data.upstream.space import check_space
from scpseg.errors import UserError
from scpseg.files import write_json
from scpseg.progress import progress

VERSION = 1
"""Goes up when the same files decode to another store."""
WORKERS = 8
"""At most so many processes: each holds one file and its pixels, about 250 MB for 6000 x 6000."""


@dataclass(frozen=True)
class Choice:
    """What the parameters choose: name of the split, labels in words, whether training id 0 becomes 255."""

    split: str
    labels: str
    ignore_first: bool


def fill(
    spec: Spec,
    manifest: Manifest,
    pairing: Pairing,
    places: Mapping[str, Path],
    choice: Choice,
    target: Path,
    working: Path,
    workers: int | None = None,
) -> dict[str, Any]:
    """Write the store of a benchmark to `target`, which holds a whole store afterwards or what it held before.

    Args:
        spec: the benchmark.
        manifest: its files.
        pairing: which of them belong together, by split.
        places: where each of them lies.
        choice: the parameters.
        target: folder of the store.
        working: existing or new folder for working folders, on the same disk as `target`.
        workers: processes; default one per core, at most 8.

    Returns:
        The index, as written to index.json.

    Raises:
        UserError: a damaged or unfit file, or too little disk space.
    """
    hashes = {record.path: record.sha256 for record in manifest.files}
    folder = working / f".preparing-{spec.name}-{_fingerprint(spec, pairing, hashes, choice)}"
    tasks = []
    for split, pairs in pairing.pairs.items():
        for pair in pairs:
            image, label = (Source(path, places[path], hashes[path]) for path in (pair.image, pair.label))
            tasks.append(Task(spec, split, pair.id, image, label, choice.ignore_first, folder))
    for leftover in folder.rglob(".*"):  # temporary files of a killed run
        leftover.unlink()
    todo = [task for task in tasks if task.finished() is None]
    needed = sum(task.needed() for task in todo)
    check_space(folder, needed, f"preparing {spec.name}")
    workers = min(workers or min(os.cpu_count() or 1, WORKERS), max(1, len(todo)))
    for _ in progress(_decode(todo, needed, workers), len(tasks), f"preparing {spec.name}", len(tasks) - len(todo)):
        pass
    index = _index(spec, manifest, pairing, tasks, choice)
    write_json(folder / "store" / INDEX, index)
    if target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    (folder / "store").rename(target)
    for done in working.glob(f".preparing-{spec.name}-*"):
        shutil.rmtree(done)
    return index


def _fingerprint(spec: Spec, pairing: Pairing, hashes: Mapping[str, str], choice: Choice) -> str:
    """Name of the working folder: everything that decides the content of the arrays."""
    pairs = {
        split: [[pair.id, hashes[pair.image], hashes[pair.label]] for pair in pairs]
        for split, pairs in pairing.pairs.items()
    }
    colours = [cls.colour for cls in spec.classes]
    rules = [VERSION, spec.decoding, colours, spec.ignored, spec.unknown_share, choice.ignore_first]
    return hashlib.sha256(json.dumps([rules, pairs]).encode()).hexdigest()[:16]


def _decode(tasks: Sequence[Task], needed: int, workers: int) -> Iterator[None]:
    """Decode all tasks and yield once for each."""
    if workers == 1:
        for task in tasks:
            decode_pair(task, needed)
            yield
        return
    # Few tasks wait at a time: the first error then ends the work soon, without cancelling, and is always the same one.
    waiting: deque[Future[None]] = deque()
    try:
        with ProcessPoolExecutor(workers, initializer=_follow_parent) as pool:
            for task in tasks:
                waiting.append(pool.submit(decode_pair, task, needed))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process that decoded an image was killed, most probably for want of memory; finished images are kept: "
            "free some memory and run the same command again"
        ) from error


def _follow_parent() -> None:
    """Let a worker end with the process that started it, also when that is killed; leave Ctrl-C to the parent."""
    signal(SIGINT, SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch(sentinel: int) -> None:
        connection.wait([sentinel])
        os._exit(1)

    Thread(target=watch, args=(parent.sentinel,), daemon=True).start()


def _index(spec: Spec, manifest: Manifest, pairing: Pairing, tasks: Sequence[Task], choice: Choice) -> dict[str, Any]:
    images = {}
    for task in tasks:
        record = task.finished()
        if record is None:
            raise UserError(f"{task.folder.name}: arrays of {task.id} vanished; run the same command again, alone")
        images[f"{task.split}/{task.id}"] = record
    unknown = {name: record["unknown"] for name, record in images.items() if record["unknown"]}
    blank = [name for name, record in images.items() if not sum(record["pixels"])]
    warnings = list(pairing.warnings)
    if unknown:
        counts = ", ".join(f"{name} {count}" for name, count in unknown.items())
        warnings.append(f"{spec.name}: pixels of no class's colour, ignored: {counts}")
    if blank:
        warnings.append(f"{spec.name}: labels in which every pixel is ignored: {', '.join(blank)}")
    return {
        "benchmark": spec.name,
        "synthetic": manifest.synthetic,
        "source": manifest.source,
        "split": choice.split,
        "labels": choice.labels,
        "expected": dict(pairing.expected),
        "ids": {split: [pair.id for pair in pairs] for split, pairs in pairing.pairs.items()},
        "images": images,
        "warnings": warnings,
    }
