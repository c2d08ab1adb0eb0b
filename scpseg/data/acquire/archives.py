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
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from scpseg.data.acquire.space import check_space, full_disk_named, size_text
from scpseg.errors import UserError
from scpseg.progress import byte_progress, say

Wanted = Callable[[str], object]
Unpacked = Generator[tuple[str, Path], None, None]
ROOT = Path(__file__).parents[3]


class Group(NamedTuple):
    """One archive: its name, its file or the ordered parts, below a folder; whether zips inside it are entered."""

    name: str
    parts: tuple[str, ...]
    enter: bool = True


class Listing(NamedTuple):
    """Contents of an archive according to its headers, without unpacking, by path <archive>/<member>."""

    files: dict[str, int]  # declared bytes of the files, including members of zips that are stored in a zip
    hidden: dict[str, int]  # declared bytes of inner zips that must be unpacked before their members are known

    def holds(self, wanted: Wanted) -> bool:
        """Whether a member is wanted, or an archive inside might have one."""
        return bool(self.hidden) or any(map(wanted, self.files))


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
    return sorted(groups)


def list_members(group: Group, folder: Path) -> Listing:
    """List the contents of an archive in `folder`, as far as headers contain them.

    Archives at a deeper level than zips inside the archive, and a 7z inside it, are not opened.

    Raises:
        UserError: the archive is damaged, of an unsupported kind, or has an unsafe member.
    """
    with _opened(group, folder) as unpacker:
        return unpacker.listing


def read_members(group: Group, folder: Path, wanted: Wanted, spool: Path, most: int | None = None) -> Unpacked:
    """Unpack the wanted members of an archive in `folder`, also those of zips stored in it, as files in `spool`.

    `wanted` is called once with the path <archive>/<member> of each member; `most` is the maximum size of a wanted
    member in bytes. `spool` exists.

    Yields:
        Path of the member, and its file, which the caller deletes. The next member is unpacked on the next iteration.

    Raises:
        UserError: a member is damaged, unsafe, encrypted, too large, or of an unsupported kind; or the disk is full.
    """
    with _opened(group, folder) as unpacker:
        files = unpacker.listing.files
        paths = [path for path in files if wanted(path)]
        for path in paths:
            if most is not None and files[path] > most:
                why = f"declares {files[path]} bytes, more than the {most} bytes of the largest file expected"
                raise UserError(f"{path} {why}; the archive is damaged or hostile: fetch it from a trusted source")
        yield from unpacker.extract(paths, spool)


def unpack_inner(group: Group, folder: Path, spool: Path) -> list[Group]:
    """Unpack the zips inside an archive whose members its headers do not show, to `spool`; they are archives then.

    Raises:
        UserError: as `read_members`, or there is too little disk space.
    """
    with _opened(group, folder) as unpacker:
        hidden = unpacker.listing.hidden
        check_space(spool, sum(hidden.values()), f"unpacking {group.name}, whose zips stay on the disk while in use,")
        for path, size in hidden.items():
            say(f"{path}: unpacking {size_text(size)} to the disk, until its images are decoded")
        unpacked = unpacker.extract(list(hidden), spool)
        return [Group(path, (str(place.absolute()),), enter=False) for path, place in unpacked]


@contextmanager
def _opened(group: Group, folder: Path) -> Iterator[_Unpacker]:
    """A process that has listed an archive; it ends with the block, and with this process."""
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
    process = subprocess.Popen(
        [sys.executable, "-m", "scpseg.data.acquire.unpacker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        yield _Unpacker(group, folder, process)
    finally:
        process.kill()
        process.communicate()


class _Unpacker:
    """The questions to the process that opens one archive, and its answers."""

    def __init__(self, group: Group, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.group, self.process, self.prefix = group, process, f"{group.name}/"
        parts = [str(folder / part) for part in group.parts]
        self._send({"parts": parts, "zip": group.name.lower().endswith(".zip"), "enter": group.enter})
        reply = self._reply()
        self.listing = Listing(
            *({self.prefix + name: it for name, it in reply[key].items()} for key in Listing._fields)
        )

    def extract(self, paths: Sequence[str], spool: Path) -> Unpacked:
        """Write these members to files in `spool`, one on each iteration."""
        if not paths:
            return
        tag = f"{zlib.crc32(self.group.name.encode('utf-8', 'surrogatepass')):08x}"
        places = {path: spool / f"{tag}-{k}{PurePosixPath(path).suffix}" for k, path in enumerate(paths)}
        largest = max(self.listing.hidden.get(path, 0) for path in paths)
        bar = byte_progress(f"unpacking {self.group.name}") if largest else nullcontext(lambda done, total: None)
        try:
            with full_disk_named(spool, largest, f"unpacking {self.group.name}"), bar as show:
                self._send({path.removeprefix(self.prefix): str(place) for path, place in places.items()})
                for _ in paths:
                    path = self.prefix + self._reply(lambda at: show(at, largest))["name"]
                    yield path, places.pop(path)
                    self._send(None)
        finally:
            for place in places.values():
                place.unlink(missing_ok=True)

    def _reply(self, show: Callable[[int], None] = lambda at: None) -> dict[str, Any]:
        """The next answer, or the error that it names; `show` is called with the number of bytes unpacked meanwhile."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            reply: dict[str, Any] = json.loads(line)
            if "error" in reply:
                raise UserError(f"{self.prefix}{reply['inner']}".rstrip("/") + f" {reply['error']}")
            if "errno" in reply:
                raise OSError(reply["errno"], reply["strerror"], reply["filename"])
            if "at" not in reply:
                return reply
            show(reply["at"])
        code = self.process.wait()
        raise UserError(
            f"{self.group.name}: the process that unpacks it ended with status {code}, so it is damaged, hostile or "
            "larger than the memory; fetch it from a trusted source, or unpack it and name the folder in data.source"
        )

    def _send(self, value: object) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # the next reply has the reason
            self.process.stdin.write(json.dumps(value).encode() + b"\n")
            self.process.stdin.flush()
