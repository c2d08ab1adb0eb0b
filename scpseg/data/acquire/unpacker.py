"""Process that opens archives: `python -m scpseg.data.acquire.unpacker <file descriptor>`, started by `archives`.

It gets the name and parts of an archive, and sends the sizes of its members, or the paths and bytes of wanted ones, or
a UserError. A hostile archive can crash it, or use up its memory or time, but not the stage's. It writes no files.
"""

from __future__ import annotations

import errno
import io
import os
import resource
import stat
import sys
import zipfile
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from itertools import accumulate
from multiprocessing.connection import Connection
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from scpseg.errors import CONTROL, UserError

CHUNK = 1 << 20
MEMORY = 8 << 30  # bytes of address space for this process: more than any dictionary of an archive of images needs
LISTING_SECONDS = 600  # of CPU time to read the list of members
MEMBERS = 1 << 20  # maximum number
SEVEN_ZIP = b"7z\xbc\xaf\x27\x1c"  # its first bytes
SEVEN_ZIP_START = 32  # bytes of a 7z file's first header, which contains the position of the other one
UNSUPPORTED = ("PasswordRequired", "UnsupportedCompressionMethodError")  # errors of py7zr
UNPACK = "unpack it yourself and name the folder in data.source"
Send = Callable[[Any], None]  # waits while the parent does not read


class _Joined(io.RawIOBase):
    """The parts of an archive as one readable, seekable file, which ends at byte `end` if that is given."""

    def __init__(self, parts: Sequence[str], end: int | None = None) -> None:
        super().__init__()
        self.files = [open(part, "rb", buffering=0) for part in parts]  # noqa: SIM115
        self.starts = list(accumulate((os.stat(part).st_size for part in parts), initial=0))
        self.position, self.end = 0, min(end or self.starts[-1], self.starts[-1])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = max((0, self.position, self.end)[whence] + offset, 0)
        return self.position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if self.position >= self.end:
            return 0
        index = bisect_right(self.starts, self.position) - 1
        self.files[index].seek(self.position - self.starts[index])
        count = self.files[index].readinto(memoryview(buffer)[: self.end - self.position])
        self.position += count
        return count


def is_hidden(path: str) -> bool:
    """Whether a posix path is hidden, or of macOS's companion files, which have the names of others after `._`."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(path).parts)


def is_archive(path: Path) -> bool:
    """Whether a file begins and ends like a whole zip or 7z archive."""
    with path.open("rb") as stream:
        start = stream.read(SEVEN_ZIP_START)
    return zipfile.is_zipfile(path) or (start.startswith(SEVEN_ZIP) and path.stat().st_size >= _end_of(start))


def _end_of(start: bytes) -> int:
    """Bytes of the 7z archive with this first header."""
    return SEVEN_ZIP_START + int.from_bytes(start[12:20], "little") + int.from_bytes(start[20:28], "little")


def _safe(entries: Iterable[tuple[str, str, bool, Any]]) -> dict[str, Any]:
    """Files that are not hidden, by posix name; entries are (name, why it cannot be read, is a directory, info)."""
    found: dict[str, Any] = {}
    for count, (name, kind, folder, info) in enumerate(entries):
        plain = name.replace("\\", "/")
        for why, there in (
            ("has an absolute path", plain.startswith("/") or plain[1:2] == ":"),
            ("points outside with '..'", ".." in plain.split("/")),
            ("has a control character in its name", CONTROL.search(plain)),
            (f"is {kind}", kind),
            ("is duplicated", not folder and plain in found),
            (f"is one of more than {MEMBERS}", count > MEMBERS),
        ):
            if there:
                raise UserError(f"member {name[:200]!r} {why}, so nothing is unpacked; fetch it from a trusted source")
        if not folder and not is_hidden(plain):
            found[plain] = info
    return found


class _Zip:
    """An open zip archive: its members and their declared sizes."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.file = stream, zipfile.ZipFile(stream)
        kinds = {0: "", stat.S_IFREG: "", stat.S_IFDIR: "", stat.S_IFLNK: "a link"}
        self.members: dict[str, zipfile.ZipInfo] = _safe(
            (info.filename, kinds.get(stat.S_IFMT(info.external_attr >> 16), "a special file"), info.is_dir(), info)
            for info in self.file.infolist()
        )
        self.sizes = {name: info.file_size for name, info in self.members.items()}

    def end_of(self, name: str) -> int | None:
        """The byte after a member that is stored as it is, else None."""
        info = self.members[name]
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        with self.file.open(info):  # reads the header before the member
            return self.stream.tell() + info.file_size

    def extract(self, names: Sequence[str], begin: Callable[[str], None], send: Send) -> None:
        """Send members in the order of the archive."""
        for name in sorted(names, key=lambda name: self.members[name].header_offset):
            begin(name)
            with self.file.open(self.members[name]) as stream:
                while chunk := stream.read(CHUNK):
                    send(chunk)
                if stream.tell() != self.sizes[name]:
                    raise zipfile.BadZipFile(f"{stream.tell()} of {self.sizes[name]} bytes")


class _SevenZip:
    """An open 7z archive: its members and their declared sizes."""

    def __init__(self, stream: BinaryIO, parts: int) -> None:
        start, total = stream.read(SEVEN_ZIP_START), stream.seek(0, io.SEEK_END)
        stream.seek(0)
        if start.startswith(SEVEN_ZIP) and total < (expected := _end_of(start)):
            found = f"{total} of {expected} bytes in {parts} part(s)"
            raise UserError(f"is truncated: {found}; fetch parts that are missing, or delete it and fetch it again")
        import py7zr  # a tenth of a second, which zips do not need

        self.factory, self.file = py7zr.io.WriterFactory, py7zr.SevenZipFile(stream)
        kinds = {True: "", False: "a link or a special file"}
        infos = self.file.list()
        self.members = _safe((i.filename, kinds[i.is_file or i.is_directory], i.is_directory, i) for i in infos)
        self.sizes: dict[str, int] = {name: info.uncompressed or 0 for name, info in self.members.items()}

    def extract(self, names: Sequence[str], begin: Callable[[str], None], send: Send) -> None:
        """Send members in the order of the archive."""
        plain = {PurePosixPath(name).as_posix(): name for name in names}

        class Output(io.RawIOBase):  # not seekable, or py7zr would rewind it
            def write(self, data: Any) -> int:
                send(bytes(data))
                return len(data)

        class Factory(self.factory):  # type: ignore[misc,name-defined]
            def create(self, filename: str) -> Output:
                begin(plain[filename])
                return Output()

        self.file.extract(targets=[self.members[name].filename for name in names], factory=Factory())


def answer(name: str, parts: Sequence[str], wanted: Collection[str] | None, send: Send) -> None:
    """Send the sizes of an archive's members, or the wanted ones themselves."""
    place = current = name

    def begin(member: str) -> None:  # the member before is known to be right then
        nonlocal current
        current = f"{place}/{member}"
        send(current)

    def opened(end: int | None = None) -> _Zip | _SevenZip:
        stream = cast(BinaryIO, io.BufferedReader(_Joined(parts, end), CHUNK))
        return _Zip(stream) if _is_zip(place) else _SevenZip(stream, len(parts))

    try:
        outer = opened()
        archives, sizes = {name: outer}, {f"{name}/{member}": size for member, size in outer.sizes.items()}
        for member in filter(_is_zip, outer.members):
            if isinstance(outer, _Zip) and (end := outer.end_of(member)) is not None:
                place = current = f"{name}/{member}"
                archives[place] = opened(end)  # zipfile accepts other bytes before an archive
                inner = archives[place].sizes.items()
                del sizes[place]
                sizes |= {f"{place}/{path}": size for path, size in inner if not _is_zip(path)}
        if wanted is None:
            send(sizes)
            return
        for place, archive in archives.items():
            if names := [path for path in archive.members if f"{place}/{path}" in wanted]:
                archive.extract(names, begin, send)
    except Exception as error:  # on damaged bytes, zipfile, py7zr and their codecs raise a dozen types
        text = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        if isinstance(error, UserError):
            why = str(error)
        elif isinstance(error, MemoryError):
            why = f"needs more memory than {MEMORY >> 30} GiB or `ulimit -v`: raise that if less, or fetch it again"
        elif isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a senseless offset
            why = f"cannot be read ({error.strerror}): check the disk"
        elif isinstance(error, RuntimeError) or type(error).__name__ in UNSUPPORTED:
            why = f"cannot be unpacked here ({text}): it is encrypted or of an unsupported kind; {UNPACK}"
        else:
            why = f"is damaged, truncated, split or encrypted ({text}): delete it and fetch it again, or {UNPACK}"
        send(UserError(f"{current} {why}"))


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


if __name__ == "__main__":
    with suppress(ValueError):  # the machine has set a lower limit, which stays
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    channel = Connection(int(sys.argv[1]))
    name, parts, wanted = channel.recv()
    if wanted is None:
        with suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_CPU, (LISTING_SECONDS, LISTING_SECONDS))
    answer(name, parts, wanted and set(wanted), channel.send)
