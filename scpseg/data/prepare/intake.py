"""The files to decode as they come: loose ones where they lie, those in archives through a small spool.

Nothing else of an archive reaches the disk: not the zip inside Inria's 7z, no member without a place in the store.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path, PurePosixPath

from scpseg.data.acquire.layout import Slot
from scpseg.data.acquire.space import full_disk_named, size_text
from scpseg.data.acquire.unpack import Group, Listing, Passing, stream_members, total_size
from scpseg.data.prepare.filework import Task
from scpseg.data.prepare.plan import Plan
from scpseg.errors import UserError
from scpseg.progress import byte_progress, say

PIXEL_BYTES = 16
"""No honest file takes more bytes for a pixel of its benchmark's images."""


def incoming(plan: Plan, needed: int) -> Iterator[Task]:
    """The files that are not finished; those in archives are written to the spool just before they are given out.

    Args:
        plan: which.
        needed: bytes of the whole work, for the message about a full disk.

    Raises:
        UserError: an archive or member is damaged or hostile, two members are for one place, or the disk is full.
    """
    hashes = {record.path: record.sha256 for record in plan.manifest.files}
    for slot, path in list(plan.paths.items()):
        if path in hashes and slot not in plan.done:
            yield Task(plan.job, slot, path, plan.folder / path, hashes[path])
    for group, listing in plan.listings.items():
        left = _left_in(plan, group, listing)
        if left is None or left:
            yield from _unpacked(plan, group, listing, left, needed)


def _left_in(plan: Plan, group: Group, listing: Listing) -> set[Slot] | None:
    """Places whose file lies, or may lie, in an archive; None where only its end tells."""
    missing = plan.missing()
    if missing is None and listing.hidden:
        return None
    places = plan.paths.keys() - plan.done.keys() if missing is None else missing
    mine = {slot for slot in places if plan.paths.get(slot, "").startswith(f"{group.name}/")}
    return mine | {slot for slot in places if listing.hidden and slot not in plan.paths}


def _unpacked(plan: Plan, group: Group, listing: Listing, left: set[Slot] | None, needed: int) -> Iterator[Task]:
    spool = plan.job.spool
    spool.mkdir(parents=True, exist_ok=True)
    size, read, again = total_size(group, plan.folder), 0, bool(plan.done)
    bar = byte_progress(f"unpacking {group.name}") if listing.hidden else nullcontext(lambda now, total: None)
    with bar as draw:

        def watch(count: int) -> None:
            nonlocal read
            read = count
            draw(count, size)

        if again and group.name.lower().endswith(".7z"):
            say(f"{group.name}: what lies before unfinished files is unpacked again, up to {size_text(size)}")
        for passing in stream_members(group, plan.folder, lambda path: plan.take(path) is not None, watch):
            slot = plan.slot_of(passing.path)
            assert slot is not None
            if again and read:
                say(f"{group.name}: {size_text(read)} were read again to reach {passing.path}")
            again = False
            place = spool / f"{'-'.join(slot)}{PurePosixPath(passing.path).suffix}"
            _write(plan, passing, place, needed)
            yield Task(plan.job, slot, passing.path, place, None)
            if left is not None:
                left.discard(slot)
                if not left:
                    return


def _write(plan: Plan, passing: Passing, place: Path, needed: int) -> None:
    """Write one member to the spool.

    Raises:
        UserError: it is larger than any file of the benchmark, or the disk is full.
    """
    job, size = plan.job, 0
    most = PIXEL_BYTES * job.spec.side**2 if job.sides != "any" else None
    with full_disk_named(job.folder, needed, f"preparing {job.spec.name}"), place.open("xb") as stream:
        for chunk in passing.chunks:
            size += len(chunk)
            if most is not None and size > most:
                raise UserError(
                    f"{passing.path} unpacks to more than {most} bytes, which no file of {job.spec.title} has; "
                    "the archive is damaged or hostile: fetch it from a trusted source"
                )
            stream.write(chunk)
