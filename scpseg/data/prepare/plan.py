"""What is to be decoded, from where, and what of it an earlier run has done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scpseg.benchmarks.base import Ids
from scpseg.data.acquire.layout import EXTRACT, KINDS, Pairing, Slot, pair_files, role_of, slots_of
from scpseg.data.acquire.manifest import Manifest
from scpseg.data.acquire.unpack import Group, Listing, group_archives, list_members, total_size
from scpseg.data.prepare.decode import read_size
from scpseg.data.prepare.filework import Job, Record, array_bytes
from scpseg.data.prepare.pool import AHEAD
from scpseg.errors import UserError


@dataclass(frozen=True)
class Choice:
    """What the parameters choose: name of the split and its lists, part of a benchmark allowed, label id 0 ignored."""

    split: str
    lists: Ids
    partial: bool
    ignore_first: bool


class Plan:
    """The files of one store.

    Attributes:
        listings: what each archive holds, as far as its headers tell.
        hidden: whether headers do not tell everything: members of a zip inside a 7z show when they stream past.
        paths: the file for each place in the store, as far as it is known by now.
        done: the records of finished files.
    """

    def __init__(self, job: Job, manifest: Manifest, folder: Path, choice: Choice) -> None:
        """List the archives in `folder`, and pair what is known.

        Raises:
            UserError: an archive is damaged, two files are for one id; and, where headers tell everything, an image
                without label or a part of the benchmark without leave.
        """
        self.job, self.manifest, self.folder, self.choice = job, manifest, folder, choice
        self.slot_of = slots_of(job.spec, manifest.labels, choice.lists)
        groups = group_archives(record.path for record in manifest.archives)
        self.listings: Mapping[Group, Listing] = {group: list_members(group, folder) for group in groups}
        self.hidden = any(listing.hidden for listing in self.listings.values())
        listed = {path: size for listing in self.listings.values() for path, size in listing.files.items()}
        self._declared = {path: size for path, size in listed.items() if role_of(job.spec, manifest.labels, path)}
        self._loose = {record.path for record in manifest.files}
        self.paths: dict[Slot, str] = {}
        self.done: dict[Slot, Record] = {}
        if self.hidden:
            for path in sorted({*self._declared, *self._loose}, key=lambda path: (EXTRACT in path, path)):
                self.take(path)
        else:
            for split, pairs in self.pairing().pairs.items():
                for pair in pairs:
                    self.paths |= {(split, pair.id, "image"): pair.image, (split, pair.id, "label"): pair.label}
        for slot, record in job.all_finished().items():
            if self.hidden or slot in self.paths:
                self.paths.setdefault(slot, record["path"])
                self.done[slot] = record

    def pairing(self) -> Pairing:
        """What belongs together of all that is known by now.

        Raises:
            UserError: see `scpseg.data.acquire.layout.pair_files`.
        """
        paths = {*self._declared, *self._loose, *self.paths.values()}
        choice = self.choice
        return pair_files(self.job.spec, self.manifest.labels, choice.split, choice.lists, paths, choice.partial)

    def take(self, path: str) -> Slot | None:
        """The place in the store that the file at `path` is to be decoded for, None where there is none.

        Raises:
            UserError: another file is known for the same place.
        """
        slot = self.slot_of(path)
        if slot is None or not (self.hidden or slot in self.paths):
            return None
        first = self.paths.setdefault(slot, path)
        if first != path and EXTRACT not in path:
            raise UserError(
                f"{self.job.spec.name}: {first} and {path} are both the {slot[2]} of {slot[1]}; remove one of them"
            )
        return slot if first == path and slot not in self.done else None

    def missing(self) -> set[Slot] | None:
        """Places in the store that are not filled yet; None where only the end of an archive tells."""
        if self.hidden and not self.choice.lists:
            return None
        listed = {(part, id) for part, ids in self.choice.lists.items() for id in ids} if self.hidden else set()
        places = {(*place, kind) for place in listed for kind in KINDS}
        return (places | self.paths.keys()) - self.done.keys()

    def needed(self, workers: int) -> int:
        """Bytes of disk that arrays and spool still take.

        Known for loose files, from their headers. For members of archives it follows from the spec where a whole
        benchmark is prepared. Of a part, or synthetic scenes, only what the archives declare is known: a rough number.
        """
        side, missing = self.job.spec.side, self.missing()
        images, labels = array_bytes("image", side, side), array_bytes("label", side, side)
        slots = self.paths.keys() - self.done.keys() if missing is None else missing
        loose = {slot: path for slot, path in self.paths.items() if slot in slots and path in self._loose}
        total = sum(array_bytes(slot[2], *read_size(self.folder / path, path)) for slot, path in loose.items())
        packed = slots - loose.keys()
        if self.job.sides != "exact":
            unknown = missing is None or any(slot not in self.paths for slot in packed)
            hidden = [group for group, listing in self.listings.items() if listing.hidden and unknown]
            total += sum(total_size(group, self.folder) for group in hidden)
            return total + sum(self._declared.get(self.paths.get(slot, ""), 0) for slot in packed)
        if missing is None:
            return sum(self.job.spec.counts) * (images + labels) + (workers + AHEAD) * images
        total += sum(images if slot[2] == "image" else labels for slot in packed)
        return total + (workers + AHEAD) * images if packed else total
