"""List and unpack zip and 7z archives, also split ones and zips inside them; members become files in a spool folder.

A separate process (`unpacker`) opens the archives. It sends one member after another and waits while nobody reads, so
the spool stays small.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from multiprocessing import Pipe
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from scpseg.data.acquire.space import size_text
from scpseg.errors import UserError
from scpseg.files import naming
from scpseg.progress import byte_progress, say

ROOT = Path(__file__).parents[3]


class Group(NamedTuple):
    """One archive: its name, and its file or the ordered parts, below a folder."""

    name: str
    parts: tuple[str, ...]


def group_archives(paths: Iterable[str]) -> list[Group]:
    """The archives among relative paths, parts (.7z.001, ...) put together; UserError where one between is missing."""
    found: dict[tuple[str, bool], dict[int, str]] = {}
    for path in paths:
        if match := re.fullmatch(r"(.+\.(?:7z|zip))(\.\d{3})?", path, re.IGNORECASE):
            found.setdefault((match[1], bool(match[2])), {})[int((match[2] or ".0")[1:])] = path
    for (name, _), parts in found.items():
        if missing := set(range(1, max(parts))) - parts.keys():
            raise UserError(f"{name}.{min(missing):03d} is missing between the parts of {name}; fetch it")
    return sorted(Group(name, tuple(parts[number] for number in sorted(parts))) for (name, _), parts in found.items())


def list_members(group: Group, folder: Path) -> dict[str, int]:
    """Declared bytes of an archive's members by path <archive>/<member>, instead of zips stored in a zip of theirs.

    Zips at a deeper level are left out. UserError where it is damaged, unsupported, or has an unsafe member.
    """
    (sizes,) = _answers(group, folder)
    return dict(sizes)


def inner_zips(sizes: Mapping[str, int]) -> dict[str, int]:
    """The listed zips that must be unpacked before their members are known."""
    return {path: size for path, size in sizes.items() if path.lower().endswith(".zip")}


def read_members(
    group: Group, folder: Path, sizes: Mapping[str, int], spool: Path, show: Callable[[int], object] = lambda done: None
) -> Iterator[tuple[str, Path]]:
    """Unpack listed members of an archive in `folder` as files in `spool`; `show` is called with the bytes so far.

    Yields the path of each, and its file, which the caller deletes, as part of one is after an error; the next one is
    unpacked on the next iteration. UserError where a member is damaged, encrypted or unsupported.
    """
    tag, done = zlib.crc32(group.name.encode("utf-8", "surrogatepass")), 0
    spool.mkdir(parents=True, exist_ok=True)
    with closing(_answers(group, folder, list(sizes))) as answers:
        path: Any = next(answers, None)
        for number in range(len(sizes)):
            place, member = spool / f"{tag:08x}-{number}{PurePosixPath(path).suffix}", path
            with naming(place), place.open("wb") as stream:
                while isinstance(path := next(answers, None), bytes):
                    done += stream.write(path)
                    show(done)
            yield member, place


def unpack_inner(group: Group, folder: Path, sizes: Mapping[str, int], spool: Path) -> list[Group]:
    """Unpack the listed zips inside an archive to `spool`; errors as `read_members`."""
    for path, size in sizes.items():
        say(f"{path}: unpacking {size_text(size)} to the disk, until its images are decoded")
    with byte_progress(f"unpacking {group.name}") as show:
        unpacked = read_members(group, folder, sizes, spool, lambda done: show(done, sum(sizes.values())))
        return [Group(path, (str(place.absolute()),)) for path, place in unpacked]


def _answers(group: Group, folder: Path, wanted: list[str] | None = None) -> Generator[Any, None, None]:
    """What the process that opens an archive sends; it ends with this generator, and with this process."""
    ours, theirs = Pipe()
    with ours, theirs:
        command, null = [sys.executable, "-m", "scpseg.data.acquire.unpacker", str(theirs.fileno())], subprocess.DEVNULL
        path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
        options: dict[str, Any] = {"env": {**os.environ, "PYTHONPATH": path}, "pass_fds": [theirs.fileno()]}
        process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, **options)
        theirs.close()
        try:
            ours.send((group.name, [str(folder / part) for part in group.parts], wanted))
            while True:
                answer = ours.recv()
                if isinstance(answer, UserError):
                    raise UserError(f"{folder.absolute()}/{answer}")
                yield answer
        except (EOFError, ConnectionError):
            if status := process.wait():
                why = f"ended with status {status}, so it is damaged, hostile or larger than the memory"
                todo = "fetch it from a trusted source, or unpack it and name the folder in data.source"
                raise UserError(f"{folder.absolute()}/{group.name}: its unpacker {why}; {todo}") from None
        finally:
            process.kill()
            process.wait()
