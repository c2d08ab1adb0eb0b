"""List and unpack zip and 7z archives, also split ones and zips inside them; members become files in a spool folder.

A separate process (`unpacker`) opens the archives. It writes one member at a time and waits until the next one is
requested, so the spool stays small.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from scpseg.data.acquire.space import check_space, full_disk_named, size_text
from scpseg.errors import UserError
from scpseg.progress import byte_progress, say

Wanted = Callable[[str], object]
Unpacked = Generator[tuple[str, Path], None, None]
ROOT = Path(__file__).parents[3]


class Group(NamedTuple):
    """One archive as relative posix paths: its name, and the one file or the ordered parts it consists of.

    A zip that is stored in another one is `size` bytes of these, from byte `start`.
    """

    name: str
    parts: tuple[str, ...]
    start: int = 0
    size: int | None = None

    def inner(self, member: Mapping[str, Any]) -> Group:
        """A zip that is stored in this zip."""
        return Group(f"{self.name}/{member['name']}", self.parts, self.start + member["start"], member["size"])


@dataclass(frozen=True)
class Listing:
    """Contents of an archive according to its headers, without unpacking.

    Attributes:
        files: declared bytes by path <archive>/<member>, including members of zips that are stored in a zip.
        hidden: declared bytes of inner zips that must be unpacked before their members are known.
        unreadable: reasons why files in `files` cannot be unpacked here.
    """

    files: dict[str, int]
    hidden: dict[str, int]
    unreadable: dict[str, str]


def group_archives(paths: Iterable[str]) -> list[Group]:
    """The archives among relative paths, parts (.7z.001, ...) put together; UserError where one between is missing."""
    groups, split = [], dict[str, dict[int, str]]()
    for path in sorted(paths):
        part = re.fullmatch(r"(.+\.(?:7z|zip))\.(\d{3})", path, re.IGNORECASE)
        if part:
            split.setdefault(part[1], {})[int(part[2])] = path
        elif path.lower().endswith((".zip", ".7z")):
            groups.append(Group(path, (path,)))
    for name, parts in split.items():
        for number in range(1, max(parts) + 1):
            if number not in parts:
                raise UserError(f"{name}.{number:03d} is missing between the parts of {name}; fetch it")
        groups.append(Group(name, tuple(parts[number] for number in sorted(parts))))
    return sorted(groups, key=lambda group: group.name)


def list_members(group: Group, folder: Path) -> Listing:
    """List the contents of an archive in `folder`, as far as headers contain them.

    Raises:
        UserError: the archive is damaged, of an unsupported kind, or has an unsafe member.
    """
    listing = Listing({}, {}, {})
    _list(group, folder, listing)
    return listing


def holds_wanted(listing: Listing, wanted: Wanted) -> bool:
    """Whether an archive has a wanted member, or an archive inside that might; UserError if it cannot be unpacked."""
    found = [path for path in listing.files if wanted(path)]
    for path in found:
        _reject_unreadable(path, listing.unreadable.get(path))
    return bool(found or listing.hidden)


def read_members(group: Group, folder: Path, wanted: Wanted, spool: Path, most: int | None = None) -> Unpacked:
    """Unpack the wanted members of an archive in `folder`, including those of inner zips, as files in `spool`.

    A zip inside a 7z, or compressed in a zip, is unpacked to the spool and deleted after its members. Archives at a
    deeper level, and a 7z inside an archive, are not opened.

    Args:
        group: the archive.
        folder: folder of the archive.
        wanted: called once with the path <archive>/<member> or <archive>/<inner zip>/<member> of each member.
        spool: existing folder.
        most: maximum size of a wanted member in bytes.

    Yields:
        Path of the member, and its file, which the caller deletes. The next member is unpacked on the next iteration.

    Raises:
        UserError: a member is damaged, unsafe, encrypted, too large, or of an unsupported kind; or the disk is full.
    """
    yield from _read(group, folder, wanted, spool, most, True)


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def _list(archive: Group, folder: Path, listing: Listing, outer: bool = True) -> None:
    for member in _members(archive, folder):
        path = f"{archive.name}/{member['name']}"
        inner = outer and _is_zip(member["name"])
        if inner and member["start"] is not None:
            _list(archive.inner(member), folder, listing, False)
        elif inner:
            listing.hidden[path] = member["size"]
        else:
            listing.files[path] = member["size"]
            if member["why"]:
                listing.unreadable[path] = member["why"]


def _read(archive: Group, folder: Path, wanted: Wanted, spool: Path, most: int | None, outer: bool) -> Unpacked:
    targets, stored, hidden = [], [], {}
    for member in _members(archive, folder):
        path, name, inner = f"{archive.name}/{member['name']}", member["name"], outer and _is_zip(member["name"])
        if inner and member["start"] is not None:
            stored.append(member)
            continue
        if not inner and not wanted(path):
            continue
        _reject_unreadable(path, member["why"])
        targets.append(name)
        if inner:
            hidden[name] = member["size"]
        elif most is not None and member["size"] > most:
            raise UserError(
                f"{path} declares {member['size']} bytes, more than the {most} bytes of the largest file expected; "
                "the archive is damaged or hostile: fetch it from a trusted source"
            )
    for name, place in _extract(archive, folder, targets, hidden, spool):
        path = f"{archive.name}/{name}"
        if name not in hidden:
            yield path, place
            continue
        try:
            yield from _read(Group(path, (place.name,)), spool, wanted, spool, most, False)
        finally:
            place.unlink(missing_ok=True)
    for member in stored:
        yield from _read(archive.inner(member), folder, wanted, spool, most, False)


def _extract(archive: Group, folder: Path, names: Sequence[str], hidden: Mapping[str, int], spool: Path) -> Unpacked:
    if not names:
        return
    for name, size in hidden.items():
        path = f"{archive.name}/{name}"
        check_space(spool, size, f"unpacking {path}, which stays on the disk while its images are decoded,")
        say(f"{path}: unpacking {size_text(size)} to the disk, until its images are decoded")
    tag = f"{zlib.crc32(f'{archive.start} {archive.name}'.encode('utf-8', 'surrogatepass')):08x}"
    places = {name: str(spool / f"{tag}-{number}{PurePosixPath(name).suffix}") for number, name in enumerate(names)}
    largest = max(hidden.values(), default=0)
    bar = byte_progress(f"unpacking {archive.name}") if hidden else nullcontext(lambda done, total: None)
    try:
        with (
            full_disk_named(spool, largest, f"unpacking {archive.name}"),
            bar as show,
            _Unpacker(archive, folder, places) as unpacker,
        ):
            for _ in names:
                name = unpacker.reply(lambda at: show(at, largest))["name"]
                yield name, Path(places.pop(name))
                unpacker.proceed()
    finally:
        for place in places.values():
            Path(place).unlink(missing_ok=True)


def _members(archive: Group, folder: Path) -> list[dict[str, Any]]:
    with _Unpacker(archive, folder, None) as unpacker:
        return list(unpacker.reply()["members"])


def _reject_unreadable(path: str, why: str | None) -> None:
    if why:
        raise UserError(f"{path} {why}; unpack it yourself and name the folder in data.source")


class _Unpacker:
    """The process for one archive; it ends with the block, and with this process."""

    def __init__(self, archive: Group, folder: Path, targets: Mapping[str, str] | None) -> None:
        self.name = archive.name
        parts = [str(folder / part) for part in archive.parts]
        self.request = json.dumps(
            {**archive._asdict(), "parts": parts, "zip": _is_zip(archive.name), "targets": targets}
        )

    def __enter__(self) -> _Unpacker:
        path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scpseg.data.acquire.unpacker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.proceed(self.request)
        return self

    def __exit__(self, *raised: object) -> None:
        self.process.kill()
        self.process.communicate()

    def reply(self, show: Callable[[int], None] = lambda at: None) -> dict[str, Any]:
        """The next answer, or the error that it names; `show` is called with the number of bytes unpacked meanwhile."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            reply: dict[str, Any] = json.loads(line)
            if "error" in reply:
                raise UserError(f"{self.name} {reply['error']}")
            if "errno" in reply:
                raise OSError(reply["errno"], reply["strerror"], reply["filename"])
            if "at" not in reply:
                return reply
            show(reply["at"])
        code = self.process.wait()
        raise UserError(
            f"{self.name}: the process that unpacks it ended with status {code}, so the archive is damaged, hostile or "
            f"larger than the memory; fetch it from a trusted source, or unpack it yourself and name the folder in "
            "data.source"
        )

    def proceed(self, line: str = "") -> None:
        """Allow the process to unpack the next member."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # the next reply has the reason
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
