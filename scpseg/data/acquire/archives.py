"""List and unpack zip and 7z archives, also split ones and zips inside them; members become files in a spool folder.

A separate process (`unpacker`) opens the archives. It sends one member after another and waits while nobody reads, so
the spool stays small.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from scpseg.data.acquire.space import size_text
from scpseg.errors import UserError
from scpseg.files import naming
from scpseg.progress import byte_progress, say

Wanted = Callable[[str], object]
Show = Callable[[int], object]
Unpacked = Generator[tuple[str, Path], None, None]
Process = subprocess.Popen[bytes]
ROOT = Path(__file__).parents[3]


class Group(NamedTuple):
    """One archive: its name, and its file or the ordered parts, below a folder."""

    name: str
    parts: tuple[str, ...]


class Listing(NamedTuple):
    """Contents of an archive according to its headers, without unpacking, by path <archive>/<member>."""

    files: dict[str, int]  # declared bytes of the files, including members of zips that are stored in a zip
    hidden: dict[str, int]  # declared bytes of inner zips that must be unpacked before their members are known

    def holds(self, wanted: Wanted) -> bool:
        """Whether a member is wanted, or an archive inside might have one."""
        return bool(self.hidden) or any(map(wanted, self.files))


def group_archives(paths: Iterable[str]) -> list[Group]:
    """The archives among relative paths, parts (.7z.001, ...) put together; UserError where one between is missing."""
    found: dict[tuple[str, bool], dict[int, str]] = {}
    for path in paths:
        if match := re.fullmatch(r"(.+\.(?:7z|zip))(\.\d{3})?", path, re.IGNORECASE):
            found.setdefault((match[1], bool(match[2])), {})[int((match[2] or ".0")[1:])] = path
    for (name, _), parts in found.items():
        for number in range(1, max(parts)):
            if number not in parts:
                raise UserError(f"{name}.{number:03d} is missing between the parts of {name}; fetch it")
    return sorted(Group(name, tuple(parts[number] for number in sorted(parts))) for (name, _), parts in found.items())


def list_members(group: Group, folder: Path) -> Listing:
    """List the contents of an archive in `folder`, as far as headers contain them.

    Zips inside the archive are opened too, but not those at a deeper level, nor a 7z. UserError where the archive is
    damaged, of an unsupported kind, or has an unsafe member.
    """
    with _opened(group, folder) as (listing, _):
        return listing


def read_members(group: Group, folder: Path, wanted: Wanted, spool: Path, most: int | None = None) -> Unpacked:
    """Unpack the wanted members of an archive in `folder`, also those of zips stored in it, as files in `spool`.

    `wanted` is called once with the path <archive>/<member> of each member; `most` is the maximum size of a wanted
    member in bytes. Yields the path of a member, and its file, which the caller deletes; the next member is unpacked on
    the next iteration. After an error, part of a file is left.

    Raises:
        UserError: a member is damaged, unsafe, encrypted, too large, or of an unsupported kind.
    """
    with _opened(group, folder) as (listing, process):
        sizes = {path: size for path, size in listing.files.items() if wanted(path)}
        for path, size in sizes.items():
            if most is not None and size > most:
                why = f"declares {size} bytes, more than the {most} bytes of the largest file expected"
                raise UserError(f"{path} {why}; the archive is damaged or hostile: fetch it from a trusted source")
        yield from _extracted(group, process, sizes, spool)


def unpack_inner(group: Group, folder: Path, spool: Path) -> list[Group]:
    """Unpack the zips inside an archive whose members its headers do not show, to `spool`; errors as `read_members`."""
    with _opened(group, folder) as (listing, process):
        for path, size in listing.hidden.items():
            say(f"{path}: unpacking {size_text(size)} to the disk, until its images are decoded")
        with byte_progress(f"unpacking {group.name}") as show:
            total = sum(listing.hidden.values())
            unpacked = _extracted(group, process, listing.hidden, spool, lambda done: show(done, total))
            return [Group(path, (str(place.absolute()),)) for path, place in unpacked]


@contextmanager
def _opened(group: Group, folder: Path) -> Iterator[tuple[Listing, Process]]:
    """What an archive contains, and the process that has listed it; it ends with the block, and with this process."""
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
    process = subprocess.Popen(
        [sys.executable, "-m", "scpseg.data.acquire.unpacker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        parts = [str(folder / part) for part in group.parts]
        yield Listing(**_ask(group, process, {**group._asdict(), "parts": parts})), process
    finally:
        process.kill()
        process.communicate()


def _extracted(
    group: Group, process: Process, sizes: Mapping[str, int], spool: Path, show: Show = lambda done: None
) -> Unpacked:
    """Write these members to files in `spool`, one on each iteration; `show` is called with the bytes so far."""
    tag, done, reply = zlib.crc32(group.name.encode("utf-8", "surrogatepass")), 0, _ask(group, process, list(sizes))
    assert process.stdout is not None
    spool.mkdir(parents=True, exist_ok=True)
    for number in range(len(sizes)):
        path = reply["name"]
        place = spool / f"{tag:08x}-{number}{PurePosixPath(path).suffix}"
        with naming(place), place.open("wb") as stream:
            while "data" in (reply := _ask(group, process)):
                done += stream.write(process.stdout.read(reply["data"]))
                show(done)
        yield path, place


def _ask(group: Group, process: Process, question: object = None) -> dict[str, Any]:
    """The answer to a question, or the next one to the last question; UserError where it is an error."""
    assert process.stdin is not None and process.stdout is not None
    if question is not None:
        with suppress(BrokenPipeError):  # the answer has the reason
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
    if not (line := process.stdout.readline()):
        why = f"ended with status {process.wait()}, so it is damaged, hostile or larger than the memory"
        todo = "fetch it from a trusted source, or unpack it and name the folder in data.source"
        raise UserError(f"{group.name}: the process that unpacks it {why}; {todo}")
    reply: dict[str, Any] = json.loads(line)
    if "error" in reply:
        raise UserError(reply["error"])
    return reply
