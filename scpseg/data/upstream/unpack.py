"""Unpacking archives into the cache: safely, once, and all or nothing."""

from __future__ import annotations

import fcntl
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scpseg.data.upstream.archives import Member, Written, is_archive, open_archive
from scpseg.data.upstream.space import check_space, full_disk_named
from scpseg.errors import UserError
from scpseg.files import read_json, write_json
from scpseg.progress import progress

RECORDS = "unpacked.json"
"""List of the unpacked files in their folder, written last."""
DEPTH = 2
"""Archives may hold archives (Inria: zip in 7z); what lies deeper is not opened."""


@dataclass(frozen=True)
class Group:
    """One archive as relative posix paths: its name, and the one file or the ordered parts it consists of."""

    name: str
    parts: tuple[str, ...]


def group_archives(paths: Iterable[str]) -> list[Group]:
    """The archives among relative paths, the parts of split 7z archives put together.

    Raises:
        UserError: a split archive lacks a part before its last one.
    """
    groups = []
    split: dict[str, dict[int, str]] = {}
    for path in sorted(paths):
        part = re.fullmatch(r"(.+\.7z)\.(\d{3})", path, re.IGNORECASE)
        if part:
            split.setdefault(part[1], {})[int(part[2])] = path
        elif is_archive(path):
            groups.append(Group(path, (path,)))
    for name, parts in split.items():
        for number in range(1, max(parts) + 1):
            if number not in parts:
                raise UserError(f"{name}.{number:03d} is missing between the parts of {name}; fetch it")
        groups.append(Group(name, tuple(parts[number] for number in sorted(parts))))
    return sorted(groups, key=lambda group: group.name)


def holds_wanted(group: Group, folder: Path, wanted: Callable[[str], bool]) -> bool:
    """Whether an archive has a wanted member, or an archive inside that might.

    Raises:
        UserError: the archive is damaged or has an unsafe member.
    """
    with open_archive(group.name, [folder / part for part in group.parts]) as archive:
        files = [member for member in archive.members() if not member.folder]
    return any(is_archive(member.name) or wanted(f"{group.name}/{member.name}") for member in files)


def unpack(groups: Sequence[Group], folder: Path, wanted: Callable[[str], bool], target: Path) -> list[dict[str, Any]]:
    """Unpack the wanted members of `groups` to `target`/<archive name>/<member>, unless that was done before.

    Everything goes to a sibling folder first that is renamed when complete, so `target` is whole or absent. Members
    of archives inside archives lie below both names.

    Returns:
        {"path", "size", "sha256"} of every file, sorted; paths posix, relative to `target`.

    Raises:
        UserError: an archive that is damaged or unsafe, or a full disk.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.parent):
        if not _complete(target):
            _clean(target.parent, target)
            temporary = target.parent / f".unpacking-{target.name}"
            try:
                records = []
                for group in progress(groups, len(groups), "unpacking archives"):
                    parts = [folder / part for part in group.parts]
                    records += _unpack_one(group.name, parts, wanted, temporary, DEPTH)
                write_json(temporary / RECORDS, sorted(records, key=lambda record: str(record["path"])))
                temporary.rename(target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        found: list[dict[str, Any]] = read_json(target / RECORDS)
        return found


def _complete(target: Path) -> bool:
    """Whether an earlier run unpacked everything and all of it is still there."""
    if not (target / RECORDS).is_file():
        return False
    places = [(target / record["path"], record["size"]) for record in read_json(target / RECORDS)]
    return all(path.is_file() and path.stat().st_size == size for path, size in places)


def _unpack_one(
    name: str, parts: Sequence[Path], wanted: Callable[[str], bool], into: Path, depth: int
) -> list[dict[str, Any]]:
    """Wanted members of one archive, then those of the archives inside it, one after the other."""
    with open_archive(name, parts) as archive:
        files = [member for member in archive.members() if not member.folder]
        plain = {member: into / name / member.name for member in files if wanted(f"{name}/{member.name}")}
        records = [_record(name, *done) for done in _extract(archive.extract, plain, name, into)]
        for inner in [member for member in files if depth > 1 and is_archive(member.name)]:
            copy = into / f".inner-{depth}"
            _extract(archive.extract, {inner: copy}, name, into)
            records += _unpack_one(f"{name}/{inner.name}", [copy], wanted, into, depth - 1)
            copy.unlink()
    return records


def _extract(
    extract: Callable[[dict[Member, Path]], dict[str, Written]], targets: dict[Member, Path], name: str, into: Path
) -> list[tuple[str, Written]]:
    if not targets:
        return []
    needed = sum(member.size for member in targets)
    check_space(into, needed, f"unpacking {name}")
    with full_disk_named(into, needed, f"unpacking {name}"):
        return list(extract(targets).items())


def _record(archive: str, member: str, written: Written) -> dict[str, Any]:
    return {"path": f"{archive}/{member}", "size": written.size, "sha256": written.sha256}


def _clean(folder: Path, target: Path) -> None:
    """Remove what a killed run left; the lock says that nobody else is writing."""
    for leftover in [*folder.glob(".unpacking-*"), target]:
        if leftover.exists():
            shutil.rmtree(leftover)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait for other processes that unpack into `folder`; a killed one leaves no lock behind."""
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
