"""What archives hold, also archives inside archives, and their wanted members one after the other. Writes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scpseg.data.acquire.archives import Archive, Wanted, is_archive, open_archive
from scpseg.data.acquire.zipstream import stream_zip
from scpseg.errors import UserError


@dataclass(frozen=True)
class Group:
    """One archive as relative posix paths: its name, and the one file or the ordered parts it consists of."""

    name: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """What headers tell of an archive without unpacking anything.

    Attributes:
        files: declared bytes by path <archive>/<member>, those inside a zip that lies uncompressed in a zip too.
        hidden: zips inside it whose members are known only while they stream past.
    """

    files: Mapping[str, int]
    hidden: tuple[str, ...]


@dataclass(frozen=True)
class Passing:
    """A wanted member as it comes out of its archive.

    Attributes:
        path: <archive>/<member>, or <archive>/<inner zip>/<member>.
        chunks: its bytes, to be used up before the next member.
    """

    path: str
    chunks: Iterator[bytes]


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


def list_members(group: Group, folder: Path) -> Listing:
    """What an archive in `folder` holds, as far as headers tell.

    Raises:
        UserError: the archive is damaged, or has an unsafe member.
    """
    parts = [folder / part for part in group.parts]
    with open_archive(group.name, parts) as archive:
        files = {f"{group.name}/{member.name}": member.size for member in archive.members() if not member.folder}
        inner = _inner_zips(archive)
    hidden = []
    for path, stretch in inner.items():
        del files[path]
        if stretch is None:
            hidden.append(path)
            continue
        with open_archive(path, parts, stretch) as zipped:
            files |= {f"{path}/{member.name}": member.size for member in zipped.members() if not member.folder}
    return Listing(files, tuple(hidden))


def holds_wanted(group: Group, folder: Path, wanted: Wanted) -> bool:
    """Whether an archive has a wanted member (by its path), or an archive inside that might.

    Raises:
        UserError: the archive is damaged or has an unsafe member.
    """
    listing = list_members(group, folder)
    return bool(listing.hidden) or any(wanted(path) for path in listing.files)


def stream_members(
    group: Group, folder: Path, wanted: Wanted, watch: Callable[[int], None] = lambda count: None
) -> Iterator[Passing]:
    """The members of an archive in `folder` whose path is wanted, those of zips inside it too, as they come.

    A zip inside a 7z is read while it is unpacked, so nothing of it is ever kept. What lies deeper than an archive
    inside an archive, and a 7z inside an archive, is not opened. `watch` is called with the packed bytes of a 7z read
    so far, blocks without a wanted member not counted.

    Raises:
        UserError: a member is damaged, unsafe, encrypted, or not of the size that it declares.
    """
    parts = [folder / part for part in group.parts]
    with open_archive(group.name, parts) as archive:
        archive.watch = watch
        inner = _inner_zips(archive)
        yield from _plain(archive, inner, wanted)
    for path, stretch in inner.items():
        if stretch is not None:
            with open_archive(path, parts, stretch) as zipped:
                yield from _plain(zipped, {}, wanted)


def _plain(archive: Archive, inner: Mapping[str, tuple[int, int] | None], wanted: Wanted) -> Iterator[Passing]:
    """Members of one open archive, and those of the zips inside it that can only be streamed."""

    def passes(member: str) -> bool:
        path = f"{archive.name}/{member}"
        return inner[path] is None if path in inner else wanted(path)

    for member, chunks in archive.stream(passes):
        path = f"{archive.name}/{member.name}"
        if path not in inner:
            yield Passing(path, chunks)
            continue
        for inside, data in stream_zip(path, chunks, partial(_below, path, wanted)):
            yield Passing(f"{path}/{inside}", data)


def _below(archive: str, wanted: Wanted, member: str) -> bool:
    return wanted(f"{archive}/{member}")


def _inner_zips(archive: Archive) -> dict[str, tuple[int, int] | None]:
    """Where the zips inside an archive lie in it; None for those that must be unpacked to be read."""
    zips = [member for member in archive.members() if not member.folder and member.name.lower().endswith(".zip")]
    return {f"{archive.name}/{member.name}": archive.stretch(member) for member in zips}


def total_size(group: Group, folder: Path) -> int:
    """Bytes of an archive, all its parts together."""
    return sum((folder / part).stat().st_size for part in group.parts)
