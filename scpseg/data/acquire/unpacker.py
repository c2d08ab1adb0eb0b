"""Process that opens archives: `python -m scpseg.data.acquire.unpacker`, started by `archives`.

It reads a request and answers with what the archive contains; then it reads which members are wanted and sends them one
after another. All are lines of JSON; after {"data": N} come N bytes of a member. A hostile archive can crash this
process, or a native decoder in it, or use up its memory or time, but not those of the stage. It writes no files.
"""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import stat
import struct
import sys
import zipfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from scpseg.errors import CONTROL

CHUNK = 1 << 20
MEMORY = 8 << 30  # bytes of address space for this process: more than any dictionary of an archive of images needs
LISTING_SECONDS = 600  # of CPU time to read the list of members
MEMBERS = 1 << 20  # maximum number
SEVEN_ZIP = b"7z\xbc\xaf\x27\x1c"  # its first bytes
SEVEN_ZIP_START = 32  # bytes of a 7z file's first header, which contains the position of the other one
UNSUPPORTED = ("PasswordRequired", "UnsupportedCompressionMethodError")  # errors of py7zr
ENCRYPTED = 0x1  # a flag of a zip's member
ZIP_LOCAL = struct.Struct("<26xHH")  # header before the data of a zip's member: lengths of name and extra field
UNPACK = "unpack it yourself and name the folder in data.source"
Send = Callable[..., None]  # sends values, or bytes of a member, and waits while the parent does not read


class Rejected(Exception):
    """The archive cannot or must not be unpacked; the message says why and what to do."""


class _Joined(io.RawIOBase):
    """The parts of an archive, or a range of them, as one readable, seekable file."""

    def __init__(self, parts: Sequence[str], start: int = 0, size: int | None = None) -> None:
        super().__init__()
        self.files = [open(part, "rb", buffering=0) for part in parts]  # noqa: SIM115
        self.starts = list(accumulate((os.stat(part).st_size for part in parts), initial=0))
        self.origin, self.position = start, start
        self.end = self.starts[-1] if size is None else min(start + size, self.starts[-1])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = max((self.origin, self.position, self.end)[whence] + offset, self.origin)
        return self.position - self.origin

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if self.position >= self.end:
            return 0
        index = bisect_right(self.starts, self.position) - 1
        self.files[index].seek(self.position - self.starts[index])
        count = self.files[index].readinto(memoryview(buffer)[: self.end - self.position])
        self.position += count
        return count


def _safe(entries: Iterable[tuple[str, str, bool, Any]]) -> dict[str, Any]:
    """Files by posix name, of (name, why it is neither file nor directory, is a directory, info); else Rejected."""
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
                todo = "so nothing of this archive is unpacked; fetch it from a trusted source"
                raise Rejected(f"member {name[:200]!r} {why}, {todo}")
        if not folder:
            found[plain] = info
    return found


class _Zip:
    """An open zip archive: its members and their declared sizes."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.file = stream, zipfile.ZipFile(stream)
        kinds = {0: "", stat.S_IFREG: "", stat.S_IFDIR: "", stat.S_IFLNK: "a link"}
        self.members = _safe(
            (info.filename, kinds.get(stat.S_IFMT(info.external_attr >> 16), "a special file"), info.is_dir(), info)
            for info in self.file.infolist()
        )
        self.sizes: dict[str, int] = {name: info.file_size for name, info in self.members.items()}

    def start_of(self, name: str) -> int | None:
        """First byte of a member that is stored as it is, else None."""
        info: zipfile.ZipInfo = self.members[name]
        if info.flag_bits & ENCRYPTED or info.compress_type != zipfile.ZIP_STORED:
            return None
        self.stream.seek(info.header_offset)
        name_bytes, extra_bytes = ZIP_LOCAL.unpack(self.stream.read(ZIP_LOCAL.size))
        return info.header_offset + ZIP_LOCAL.size + int(name_bytes) + int(extra_bytes)

    def extract(self, names: Sequence[str], begin: Callable[[str], None], send: Send) -> None:
        """Send members in the order of the archive."""
        for name in sorted(names, key=lambda name: self.members[name].header_offset):
            begin(name)
            count = 0
            with self.file.open(self.members[name]) as stream:
                while chunk := stream.read(CHUNK):
                    send(chunk)
                    count += len(chunk)
            if count != self.sizes[name]:
                raise zipfile.BadZipFile(f"{count} of {self.sizes[name]} bytes")


class _SevenZip:
    """An open 7z archive: its members and their declared sizes."""

    def __init__(self, stream: BinaryIO, parts: int) -> None:
        start, total = stream.read(SEVEN_ZIP_START), stream.seek(0, io.SEEK_END)
        stream.seek(0)
        expected = SEVEN_ZIP_START + int.from_bytes(start[12:20], "little") + int.from_bytes(start[20:28], "little")
        if start.startswith(SEVEN_ZIP) and total < expected:
            count = f"{parts} part{'s' if parts > 1 else ''}"
            raise Rejected(f"is truncated: {total} of {expected} bytes in {count}; fetch what is missing")
        import py7zr  # a tenth of a second, which zips do not need

        self.py7zr, self.file = py7zr, py7zr.SevenZipFile(stream)
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

        class Factory(self.py7zr.io.WriterFactory):  # type: ignore[misc,name-defined]
            def create(self, filename: str) -> Output:
                begin(plain[filename])
                return Output()

        self.file.extract(targets=[self.members[name].filename for name in names], factory=Factory())


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def answer(request: dict[str, Any], send: Send, receive: Callable[[], str]) -> None:
    """Send the sizes of an archive's members, receive the paths of the wanted ones, and send each and the result."""
    place, current = request["name"], ""

    def begin(name: str) -> None:  # the member before is known to be right then
        nonlocal current
        current = f"{place}/{name}"
        send(name=current)

    def opened(is_zip: bool, *window: int) -> _Zip | _SevenZip:
        stream = cast(BinaryIO, io.BufferedReader(_Joined(request["parts"], *window), CHUNK))
        return _Zip(stream) if is_zip else _SevenZip(stream, len(request["parts"]))

    try:
        limits = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (LISTING_SECONDS, limits[1]))
        outer = opened(_is_zip(place))
        archives, files, hidden = {place: outer}, dict[str, int](), dict[str, int]()
        for name, size in outer.sizes.items():
            path = f"{request['name']}/{name}"
            if not _is_zip(name):
                files[path] = size
            elif isinstance(outer, _Zip) and (start := outer.start_of(name)) is not None:
                place = path
                archives[place] = opened(True, start, size)
                files |= {f"{path}/{member}": size for member, size in archives[place].sizes.items()}
            else:
                hidden[path] = size
        send(files=files, hidden=hidden)
        wanted = set(json.loads(receive()))
        resource.setrlimit(resource.RLIMIT_CPU, limits)
        for place, archive in archives.items():
            if names := [name for name in archive.members if f"{place}/{name}" in wanted]:
                archive.extract(names, begin, send)
        send(done=True)
    except Exception as error:  # on damaged bytes, zipfile, py7zr and their codecs raise a dozen types
        text = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        if isinstance(error, Rejected):
            why = str(error)
        elif isinstance(error, MemoryError):
            why = f"needs more than {MEMORY >> 30} GiB of memory to unpack, so it is damaged or hostile: fetch it again"
        elif isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a senseless offset
            why = f"cannot be read ({error.strerror}): check the disk"
        elif isinstance(error, RuntimeError) or type(error).__name__ in UNSUPPORTED:
            why = f"cannot be unpacked here ({text}): it is encrypted or of an unsupported kind; {UNPACK}"
        else:
            why = f"is damaged, truncated, split or encrypted ({text}): fetch it again, or {UNPACK}"
        send(error=f"{current or place} {why}")


def main() -> None:
    """Answer the request on standard input; end when the parent ends, which closes this process's input and output."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # for output of libraries

    def send(content: bytes = b"", **values: object) -> None:
        channel.write(json.dumps(values or {"data": len(content)}).encode() + b"\n" + content)
        channel.flush()

    def receive() -> str:
        return sys.stdin.readline() or sys.exit(1)

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answer(json.loads(receive()), send, receive)


if __name__ == "__main__":
    main()
