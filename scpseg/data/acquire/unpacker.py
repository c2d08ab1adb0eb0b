"""Process that opens archives: `python -m scpseg.data.acquire.unpacker`, started by `archives`.

It reads a request and answers with what the archive contains; then it reads which members to write to which files, and
writes one at a time, each after the parent's leave. All are lines of JSON. A hostile archive can crash this process, or
a native decoder in it, or use up its memory or time, but not those of the stage. Members are written under names of our
own, never under theirs.
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
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast

from scpseg.errors import CONTROL

CHUNK = 1 << 20
MEMORY = 8 << 30  # bytes of address space for this process: more than any dictionary of an archive of images needs
LISTING_SECONDS = 600  # of CPU time to read the list of members
MEMBERS = 1 << 20  # maximum number
REPORT_EVERY = 64 << 20  # unpacked bytes between two progress reports
SEVEN_ZIP = b"7z\xbc\xaf\x27\x1c"  # its first bytes
SEVEN_ZIP_START = 32  # bytes of a 7z file's first header, which contains the position of the other one
UNSUPPORTED = ("PasswordRequired", "UnsupportedCompressionMethodError")  # errors of py7zr
ENCRYPTED = 0x1  # a flag of a zip's member
ZIP_LOCAL = struct.Struct("<26xHH")  # header before the data of a zip's member: lengths of name and extra field
UNPACK = "unpack it yourself and name the folder in data.source"


class Rejected(Exception):
    """The archive cannot or must not be unpacked; the message says why and what to do."""


class _Joined(io.RawIOBase):
    """The parts of an archive, or a range of them, as one readable, seekable file."""

    def __init__(self, parts: Sequence[str], start: int = 0, size: int | None = None) -> None:
        super().__init__()
        self.files: list[BinaryIO] = [open(part, "rb") for part in parts]  # noqa: SIM115
        self.starts = [0]
        for part in parts:
            self.starts.append(self.starts[-1] + os.stat(part).st_size)
        self.origin, self.position = start, start
        self.end = self.starts[-1] if size is None else min(start + size, self.starts[-1])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: self.origin, io.SEEK_CUR: self.position, io.SEEK_END: self.end}[whence]
        if base + offset < self.origin:
            raise ValueError("seek before the start of the archive")
        self.position = base + offset
        return self.position - self.origin

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        for file, start, end in zip(self.files, self.starts, self.starts[1:], strict=False):
            end = min(end, self.end)
            if start <= self.position < end:
                file.seek(self.position - start)
                count = file.readinto(view[: end - self.position])  # type: ignore[attr-defined]
                self.position += count
                return int(count)
        return 0


class Member(NamedTuple):
    """A file in an archive: what its library calls it, its declared size, its first byte if it is a stored zip."""

    info: Any
    size: int
    start: int | None = None


def _safe(entries: Iterable[tuple[str, str, bool, Any]]) -> dict[str, Any]:
    """Files by posix name, of (name, why it is neither file nor directory, is a directory, info); else Rejected."""
    found: dict[str, Any] = {}
    for count, (name, kind, folder, info) in enumerate(entries):
        plain = name.replace("\\", "/")
        problems = {
            "has an absolute path": plain.startswith("/") or plain[1:2] == ":",
            "points outside with '..'": ".." in plain.split("/"),
            "has a control character in its name": CONTROL.search(plain),
            f"is {kind}": kind,
            "is duplicated": not folder and plain in found,
            f"is one of more than {MEMBERS}": count > MEMBERS,
        }
        if why := next((why for why, there in problems.items() if there), None):
            raise Rejected(
                f"member {name[:200]!r} {why}, so nothing of this archive is unpacked; fetch it from a trusted source"
            )
        if not folder:
            found[plain] = info
    return found


class _Zip:
    """An open zip archive."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.file = stream, zipfile.ZipFile(stream)
        infos = _safe((info.filename, self._kind(info), info.is_dir(), info) for info in self.file.infolist())
        self.members = {name: self._member(name, info) for name, info in infos.items()}

    @staticmethod
    def _kind(info: zipfile.ZipInfo) -> str:
        mode = info.external_attr >> 16
        plain = stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR)
        return "" if plain else "a link" if stat.S_ISLNK(mode) else "a special file"

    def _member(self, name: str, info: zipfile.ZipInfo) -> Member:
        if info.flag_bits & ENCRYPTED or info.compress_type != zipfile.ZIP_STORED or not _is_zip(name):
            return Member(info, info.file_size)
        self.stream.seek(info.header_offset)
        header = ZIP_LOCAL.unpack(self.stream.read(ZIP_LOCAL.size))
        return Member(info, info.file_size, info.header_offset + ZIP_LOCAL.size + sum(header))

    def extract(self, names: Sequence[str], begin: Callable[[str], _Output]) -> None:
        """Write members to their files, in the order of the archive."""
        for name in sorted(names, key=lambda name: self.members[name].info.header_offset):
            with begin(name) as output, self.file.open(self.members[name].info) as stream:
                while chunk := stream.read(CHUNK):
                    output.write(chunk)
                if output.count != self.members[name].size:
                    raise zipfile.BadZipFile(f"{output.count} of {self.members[name].size} bytes")


class _SevenZip:
    """An open 7z archive."""

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
        infos = _safe((i.filename, kinds[i.is_file or i.is_directory], i.is_directory, i) for i in self.file.list())
        self.members = {name: Member(info, info.uncompressed or 0) for name, info in infos.items()}

    def extract(self, names: Sequence[str], begin: Callable[[str], _Output]) -> None:
        """Write members to their files, in the order of the archive."""
        plain = {PurePosixPath(name).as_posix(): name for name in names}

        class Factory(self.py7zr.io.WriterFactory):  # type: ignore[misc,name-defined]
            def create(self, filename: str) -> _Output:
                return begin(plain[filename])

        self.file.extract(targets=[self.members[name].info.filename for name in names], factory=Factory())


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


class _Output(io.BufferedWriter):
    """The output file of `member`, which is a path in the archive."""

    def __init__(self, path: str, member: str, send: Callable[..., None]) -> None:
        super().__init__(io.FileIO(path, "xb"))
        self.member, self.send, self.count, self.reported = member, send, 0, 0

    def seekable(self) -> bool:  # or py7zr would rewind it
        return False

    def write(self, data: Any) -> int:
        self.count += super().write(data)
        if self.count - self.reported >= REPORT_EVERY:
            self.reported = self.count
            self.send(at=self.count)
        return len(data)


def answer(request: dict[str, Any], send: Callable[..., None], receive: Callable[[], str]) -> None:
    """List the members of an archive, receive {member: file}, write these, and report each and the result."""
    inner, current = "", list[_Output]()

    def begin(name: str) -> _Output:
        report_last()
        current.append(_Output(targets[f"{inner}{name}"], f"{inner}{name}", send))
        return current[0]

    def report_last() -> None:  # a member is known to be right when the next one begins or all are done
        if current:
            output = current.pop()
            output.close()
            send(name=output.member)
            receive()

    def opened(is_zip: bool, *window: int) -> _Zip | _SevenZip:
        stream = cast(BinaryIO, io.BufferedReader(_Joined(request["parts"], *window), CHUNK))
        return _Zip(stream) if is_zip else _SevenZip(stream, len(request["parts"]))

    try:
        limits = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (LISTING_SECONDS, limits[1]))
        archives = {"": opened(request["zip"])}
        members, hidden = dict(archives[""].members), {}
        for name in filter(_is_zip, archives[""].members if request["enter"] else ()):
            hidden[name] = members.pop(name)
            if (start := hidden[name].start) is not None:
                inner = f"{name}/"
                archives[inner] = opened(True, start, hidden.pop(name).size)
                members |= {f"{inner}{path}": member for path, member in archives[inner].members.items()}
        send(
            files={path: member.size for path, member in members.items()},
            hidden={path: member.size for path, member in hidden.items()},
        )
        targets = json.loads(receive())
        resource.setrlimit(resource.RLIMIT_CPU, limits)
        for inner, archive in archives.items():
            if names := [name for name in archive.members if f"{inner}{name}" in targets]:
                archive.extract(names, begin)
        report_last()
        send(done=True)
    except Exception as error:  # on damaged bytes, zipfile, py7zr and their codecs raise a dozen types
        text = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a senseless offset
            return send(errno=error.errno, strerror=error.strerror, filename=error.filename)
        if isinstance(error, Rejected):
            why = str(error)
        elif isinstance(error, MemoryError):
            why = f"needs more than {MEMORY >> 30} GiB of memory to unpack, so it is damaged or hostile: fetch it again"
        elif isinstance(error, RuntimeError) or type(error).__name__ in UNSUPPORTED:
            why = f"cannot be unpacked here ({text}): it is encrypted or of an unsupported kind; {UNPACK}"
        else:
            why = f"is damaged, truncated, split or encrypted ({text}): fetch it again, or {UNPACK}"
        send(error=why, inner=current[0].member if current else inner)


def main() -> None:
    """Answer the request on standard input; end when it is closed, which means that the parent ended."""
    channel = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # for output of libraries

    def send(**values: Any) -> None:
        channel.write(json.dumps(values) + "\n")
        channel.flush()

    def receive() -> str:
        return sys.stdin.readline() or sys.exit(1)

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answer(json.loads(receive()), send, receive)


if __name__ == "__main__":
    main()
