"""Process that opens archives: `python -m scpseg.data.acquire.unpacker`, started by `archives`.

It reads one request (a line of JSON) and answers with lines of JSON. A hostile archive can crash it or use up its
memory or time, but not those of the stage. Members are written under names of our own, never under theirs.
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from threading import Semaphore, Thread
from typing import Any, BinaryIO, cast

from scpseg.errors import CONTROL

CHUNK = 1 << 20
MEMORY = 8 << 30  # bytes of address space for this process: more than any dictionary of an archive of images needs
LISTING_SECONDS = 600  # of CPU time to read the list of members
MEMBERS = 1 << 20  # maximum number
REPORT_EVERY = 64 << 20  # unpacked bytes between two progress reports
SEVEN_ZIP_START = 32  # bytes of a 7z file's first header, which contains the position of the other one
SEVEN_ZIP_CODERS = {b"\0": "copy", b"\x21": "LZMA2", b"\3\1\1": "LZMA", b"\3": "delta", b"\3\3\1\3": "BCJ"} | {
    b"\4\1\x08": "deflate",
    b"\4\2\2": "bzip2",
}
"""Supported coders; others crash on damaged input or are not supported by py7zr."""
UNSUPPORTED = ("PasswordRequired", "UnsupportedCompressionMethodError")  # errors of py7zr
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
ZIP_LOCAL = struct.Struct("<26xHH")  # header before the data of a zip's member: lengths of name and extra field
ZIP_END, ZIP_END_SIZE = b"PK\x05\x06", 22 + (1 << 16)
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
            if start <= self.position < min(end, self.end):
                file.seek(self.position - start)
                data = file.read(min(len(view), min(end, self.end) - self.position))
                view[: len(data)] = data
                self.position += len(data)
                return len(data)
        return 0


def _safe(entries: Iterable[tuple[str, str, bool, Any]]) -> dict[str, Any]:
    """Files by posix name, of (name, why it is neither file nor directory, is a directory, info); else Rejected."""
    found: dict[str, Any] = {}
    for count, (name, kind, folder, info) in enumerate(entries):
        plain = name.replace("\\", "/")
        why = ""
        if plain.startswith("/") or plain[1:2] == ":":
            why = "has an absolute path"
        elif ".." in plain.split("/"):
            why = "points outside with '..'"
        elif CONTROL.search(plain):
            why = "has a control character in its name"
        elif kind:
            why = f"is {kind}"
        elif not folder and plain in found:
            why = "is duplicated"
        elif count > MEMBERS:
            why = f"is one of more than {MEMBERS}"
        if why:
            raise Rejected(
                f"member {name[:200]!r} {why}, so nothing of this archive is unpacked; fetch it from a trusted source"
            )
        if not folder:
            found[plain] = info
    return found


def _kind(mode: int) -> str:
    """Name of the type of a special file, from a Unix mode; '' for files, directories and mode 0."""
    if stat.S_ISLNK(mode):
        return "a link"
    return "" if stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR) else "a special file"


class _Zip:
    """An open zip archive."""

    def __init__(self, stream: BinaryIO) -> None:
        try:
            self.file = zipfile.ZipFile(stream)
        except zipfile.BadZipFile:
            stream.seek(max(stream.seek(0, io.SEEK_END) - ZIP_END_SIZE, 0))
            tail = stream.read()
            at = tail.rfind(ZIP_END)
            if at >= 0 and tail[at + 4 : at + 6] not in (b"\0\0", b""):
                raise Rejected(
                    f"is the last volume of a split zip, which is not supported; join them (`zip -s 0`) or {UNPACK}"
                ) from None
            raise
        self.infos = _safe((i.filename, _kind(i.external_attr >> 16), i.is_dir(), i) for i in self.file.infolist())
        self.stream = stream

    def members(self) -> Iterator[dict[str, Any]]:
        """Name, size, why it cannot be read ('' = it can), and its first byte if it is stored uncompressed."""
        for name, info in self.infos.items():
            why = "is encrypted" if info.flag_bits & 1 else ""
            if not why and info.compress_type not in ZIP_METHODS:
                method = zipfile.compressor_names.get(info.compress_type, "unknown")  # type: ignore[attr-defined]
                why = f"is compressed with method {info.compress_type} ({method}), which is not supported"
            start = None
            if not why and info.compress_type == zipfile.ZIP_STORED and name.lower().endswith(".zip"):
                self.stream.seek(info.header_offset)
                lengths = ZIP_LOCAL.unpack(self.stream.read(ZIP_LOCAL.size))
                start = info.header_offset + ZIP_LOCAL.size + sum(lengths)
            yield {"name": name, "size": info.file_size, "why": why, "start": start}

    def extract(self, targets: dict[str, str], begin: Callable[[str], _Output]) -> None:
        """Write members to their files, in the order of the archive."""
        for name in sorted(targets, key=lambda name: self.infos[name].header_offset):
            with begin(name) as output, self.file.open(self.infos[name]) as stream:
                while chunk := stream.read(CHUNK):
                    output.write(chunk)
                if output.count != self.infos[name].file_size:
                    raise zipfile.BadZipFile(f"{output.count} of {self.infos[name].file_size} bytes")


class _SevenZip:
    """An open 7z archive."""

    def __init__(self, stream: BinaryIO, parts: int) -> None:
        start, total = stream.read(SEVEN_ZIP_START), stream.seek(0, io.SEEK_END)
        stream.seek(0)
        if len(start) < SEVEN_ZIP_START or start[:6] != b"7z\xbc\xaf\x27\x1c":
            raise Rejected("is not a 7z archive (its first bytes differ); fetch it again")
        expected = SEVEN_ZIP_START + int.from_bytes(start[12:20], "little") + int.from_bytes(start[20:28], "little")
        if total < expected:
            count = f"{parts} part{'s' if parts > 1 else ''}"
            raise Rejected(f"is truncated: {total} of {expected} bytes in {count}; fetch what is missing")
        import py7zr  # a tenth of a second, which zips do not need

        self.py7zr = py7zr
        self.file = py7zr.SevenZipFile(stream)
        streams = self.file.header.main_streams
        for coder in (coder for folder in (streams.unpackinfo.folders if streams else ()) for coder in folder.coders):
            if coder["method"] not in SEVEN_ZIP_CODERS:
                raise Rejected(
                    f"uses the 7z coder {coder['method'].hex()}, which is not supported (supported: "
                    f"{', '.join(SEVEN_ZIP_CODERS.values())}); {UNPACK}"
                )
        special = "a link or a special file"
        self.infos = _safe(
            (i.filename, "" if i.is_file or i.is_directory else special, i.is_directory, i) for i in self.file.list()
        )

    def members(self) -> Iterator[dict[str, Any]]:
        """As for a zip; nothing in a 7z can be read without unpacking."""
        for name, info in self.infos.items():
            yield {"name": name, "size": info.uncompressed or 0, "why": "", "start": None}

    def extract(self, targets: dict[str, str], begin: Callable[[str], _Output]) -> None:
        """Write members to their files, in the order of the archive."""
        names = {PurePosixPath(name).as_posix(): name for name in targets}

        class Factory(self.py7zr.io.WriterFactory):  # type: ignore[misc,name-defined]
            def create(self, filename: str) -> _Output:
                return begin(names[filename])

        self.file.extract(targets=[self.infos[name].filename for name in targets], factory=Factory())


class _Output(io.FileIO):
    """The output file of a member."""

    def __init__(self, path: str, send: Callable[..., None]) -> None:
        super().__init__(path, "xb")
        self.send, self.count, self.reported = send, 0, 0

    def seekable(self) -> bool:  # or py7zr would rewind it
        return False

    def write(self, data: Any) -> int:
        left = memoryview(data)
        while left:
            left = left[super().write(left) :]
        self.count += len(data)
        if self.count - self.reported >= REPORT_EVERY:
            self.reported = self.count
            self.send(at=self.count)
        return len(data)


def answer(request: dict[str, Any], send: Callable[..., None], permits: Semaphore) -> None:
    """List the members of an archive, or extract {member: file}, and report the result."""
    targets, current = request["targets"], list[str]()

    def report_last() -> None:  # a member is known to be right when the next one begins or all are done
        if current:
            name = current.pop()
            send(name=name, path=targets[name])
            permits.acquire()

    def begin(name: str) -> _Output:
        report_last()
        current.append(name)
        return _Output(targets[name], send)

    try:
        joined = _Joined(request["parts"], request["start"], request["size"])
        stream = cast(BinaryIO, io.BufferedReader(joined, CHUNK))
        archive = _Zip(stream) if request["zip"] else _SevenZip(stream, len(request["parts"]))
        if targets is None:
            send(members=list(archive.members()))
        else:
            archive.extract(targets, begin)
            report_last()
        send(done=True)
    except Rejected as error:
        send(error=str(error))
    except MemoryError:
        send(
            error=f"needs more than {MEMORY >> 30} GiB of memory to unpack, so it is damaged or hostile: fetch it again"
        )
    except Exception as error:  # on damaged bytes, zipfile, py7zr and their codecs raise a dozen types
        text = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: an offset without sense
            send(errno=error.errno, strerror=error.strerror, filename=error.filename)
        elif isinstance(error, RuntimeError) or type(error).__name__ in UNSUPPORTED:
            send(error=f"cannot be unpacked here ({text}): it is encrypted or of an unsupported kind; {UNPACK}")
        else:
            send(error=f"is damaged, truncated or encrypted ({text}): fetch it again")


def main() -> None:
    """Answer the request on standard input; end when it is closed, which means that the parent ended."""
    channel = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # for output of libraries

    def send(**values: Any) -> None:
        channel.write(json.dumps(values) + "\n")
        channel.flush()

    request = json.loads(sys.stdin.readline())
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if request["targets"] is None:
        resource.setrlimit(resource.RLIMIT_CPU, (LISTING_SECONDS, LISTING_SECONDS))
    permits = Semaphore(0)

    def watch() -> None:
        while sys.stdin.readline():
            permits.release()
        os._exit(1)

    Thread(target=watch, daemon=True).start()
    answer(request, send, permits)


if __name__ == "__main__":
    main()
