"""Filling a store: decode every file once, on all cores, resumable, and show the store only when it is whole.

Arrays go to a working folder named by everything that decides their content, so that an interrupted run goes on
where it stopped; the folder in it becomes the store by being renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from scpseg.benchmarks.base import Benchmark
from scpseg.data.acquire.layout import KINDS, Slot, slots_of
from scpseg.data.acquire.manifest import Manifest
from scpseg.data.acquire.space import check_space
from scpseg.data.prepare.filework import Job, Record, Sides
from scpseg.data.prepare.findings import build_index, check_same
from scpseg.data.prepare.intake import incoming
from scpseg.data.prepare.plan import Choice, Plan
from scpseg.data.prepare.pool import decode_all
from scpseg.data.store import INDEX
from scpseg.files import write_json
from scpseg.progress import progress, say

VERSION = 2
"""Goes up when the same files decode to another store."""
WORKERS = 8
"""At most so many processes: each holds one file's pixels and little more, about 200 MB for 6000 x 6000."""


def fill(
    spec: Benchmark,
    manifest: Manifest,
    folder: Path,
    choice: Choice,
    target: Path,
    working: Path,
    workers: int | None = None,
) -> dict[str, Any]:
    """Write the store of a benchmark to `target`, which holds a whole store afterwards or what it held before.

    Args:
        spec: the benchmark.
        manifest: its archives and files.
        folder: where they lie.
        choice: the parameters.
        target: folder of the store, or a link to one, on another disk for instance.
        working: existing or new folder for working folders, on the same disk as `target` unless that is a link.
        workers: processes that decode; default one per core, at most 8. This one unpacks.

    Returns:
        The index, as written to index.json.

    Raises:
        UserError: a damaged or unfit file, part of a benchmark without leave, or too little disk space.
    """
    if target.is_symlink():  # nothing can be moved to another disk in one step
        target = target.resolve()
        working = target.parent
    sides: Sides = "any" if manifest.synthetic else "most" if choice.partial else "exact"
    place = working / f".preparing-{spec.name}-{_fingerprint(spec, manifest, choice)}"
    job = Job(spec, sides, choice.ignore_first, place)
    for leftover in job.folder.rglob(".*"):  # temporary files of a killed run
        leftover.unlink()
    shutil.rmtree(job.spool, ignore_errors=True)
    plan = Plan(job, manifest, folder, choice)
    missing = plan.missing()
    workers = workers or min(os.cpu_count() or 1, WORKERS)
    if missing is not None:
        workers = min(workers, max(1, len(missing)))
    needed = plan.needed(workers)
    check_space(job.folder, needed, f"preparing {spec.name}")
    if plan.done:
        say(f"preparing {spec.name}: {len(plan.done)} files of an earlier run are kept")
    try:
        records = _decode(plan, needed, workers)
    finally:
        shutil.rmtree(job.spool, ignore_errors=True)
    index = build_index(plan, records)
    _remove_others(job, index)
    write_json(job.store / INDEX, index)
    if target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    job.store.rename(target)
    for done in working.glob(f".preparing-{spec.name}-*"):
        shutil.rmtree(done)
    return index


def _fingerprint(spec: Benchmark, manifest: Manifest, choice: Choice) -> str:
    """Name of the working folder: everything that decides the content of the arrays."""
    slot = slots_of(spec, manifest.labels, choice.lists)
    files = [[record.path, record.sha256] for record in manifest.files if slot(record.path)]
    archives = [[record.path, record.sha256] for record in manifest.archives]
    colours = [cls.colour for cls in spec.classes]
    rules = [VERSION, spec.decoding, colours, spec.ignored, spec.unknown_share, choice.ignore_first, manifest.labels]
    content = json.dumps([rules, choice.lists, archives, files])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _decode(plan: Plan, needed: int, workers: int) -> dict[Slot, Record]:
    """The records of all files, those of earlier runs too."""
    records: dict[Slot, Record] = {}
    for slot, record in plan.done.items():
        _keep(plan.job, records, slot, record)
    work = decode_all(incoming(plan, needed), needed, workers)
    if not plan.hidden:
        work = progress(work, len(plan.paths), f"preparing {plan.job.spec.name}", len(plan.done))
    for task, record in work:
        _keep(plan.job, records, task.slot, record)
    return records


def _keep(job: Job, records: dict[Slot, Record], slot: Slot, record: Record) -> None:
    job.check_side(record["height"], record["width"], record["path"])
    records[slot] = record
    split, id, kind = slot
    other = records.get((split, id, "label" if kind == "image" else "image"))
    if other is not None:
        check_same(record, other)


def _remove_others(job: Job, index: dict[str, Any]) -> None:
    """Remove arrays that turned out to have no partner, such as labels of images that are missing."""
    wanted = {job.array((split, id, kind)) for split, ids in index["ids"].items() for id in ids for kind in KINDS}
    for path in job.store.rglob("*.npy"):
        if path not in wanted:
            path.unlink()
