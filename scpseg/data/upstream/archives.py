"""Zip and 7z archives, also split ones, behind one small interface that trusts no member."""

from __future__ import annotations

import errno
import hashlib
import io
import re
import stat
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import py7zr

from scpseg.data.upstream.joined import Joined
from scpseg.errors import UserError

CHUNK = 1 << 20
SEVEN_ZIP_START = 32
"""Bytes of a 7z file's start header, which says where its end header lies."""


@dataclass(frozen=True)
class Member:
    """One entry of an archive: posix name, declared size in bytes, whether it is a folder."""

    name: str
    size: int
    folder: bool


@dataclass(frozen=True)
class Written:
    """One unpacked file: its size in bytes and its SHA-256."""

    size: int
    sha256: str


class _Sink:
    """One file being unpacked: counts, hashes, and stops at its declared size. py7zr writes into it too."""

    def __init__(self, path: Path, declared: int, what: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("xb")
        self._hash = hashlib.sha256()
        self._declared, self._what = declared, what
        self._size = 0

    def write(self, data: bytes | bytearray) -> int:
        self._size += len(data)
        if self._size > self._declared:
            self._stream.close()
            raise UserError(
                f"{self._what} unpacks to more than the {self._declared} bytes it declares; "
                "the archive is damaged or hostile: fetch it again"
            )
        self._hash.update(data)
        self._stream.write(data)
        return len(data)

    def read(self, size: int | None = None) -> bytes:
        raise io.UnsupportedOperation("read")

    def seek(self, offset: int, whence: int = 0) -> int:
        return offset

    def seekable(self) -> bool:
        return False

    def size(self) -> int:
        return self._size

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()

    def written(self) -> Written:
        """What is on disk now, closed.

        Raises:
            UserError: fewer bytes than declared.
        """
        self.close()
        if self._size != self._declared:
            raise UserError(
                f"{self._what} unpacks to {self._size} of the {self._declared} bytes it declares; "
                "the archive is damaged: fetch it again"
            )
        return Written(self._size, self._hash.hexdigest())


class Archive(ABC):
    """An open archive; `name` is for messages."""

    def __init__(self, name: str) -> None:
        """Remember the name."""
        self.name = name

    @abstractmethod
    def members(self) -> list[Member]:
        """Every entry, each checked to be a plain file or folder with a safe name.

        Raises:
            UserError: a member that points outside, is a link or a device, or stands twice.
        """

    @abstractmethod
    def extract(self, targets: Mapping[Member, Path]) -> dict[str, Written]:
        """Unpack some members to new files.

        Raises:
            UserError: a member's size is not the declared one.
        """

    def _checked(self, name: str, size: int, folder: bool, mode: int, known: set[str]) -> Member:
        """One entry as Member; `mode` is its Unix mode, 0 where unknown."""
        plain = name.replace("\\", "/")
        why = None
        if plain.startswith("/") or re.match(r"[A-Za-z]:", plain):
            why = "has an absolute path"
        elif ".." in plain.split("/"):
            why = "points outside with '..'"
        elif stat.S_ISLNK(mode):
            why = "is a link"
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            why = "is no plain file"
        elif not folder and plain in known:
            why = "stands twice"
        if why:
            raise UserError(
                f"{self.name}: member {name!r} {why}, so nothing of this archive is unpacked; "
                "fetch it from a trusted source"
            )
        known.add(plain)
        return Member(plain, size, folder)


class _Zip(Archive):
    def __init__(self, name: str, file: zipfile.ZipFile) -> None:
        super().__init__(name)
        self._file = file
        self._infos: dict[str, zipfile.ZipInfo] = {}

    def members(self) -> list[Member]:
        known: set[str] = set()
        made = []
        for info in self._file.infolist():
            member = self._checked(info.filename, info.file_size, info.is_dir(), info.external_attr >> 16, known)
            self._infos[member.name] = info
            made.append(member)
        return made

    def extract(self, targets: Mapping[Member, Path]) -> dict[str, Written]:
        done = {}
        for member, path in targets.items():
            sink = _Sink(path, member.size, f"{self.name}: member {member.name!r}")
            with closing(sink), self._file.open(self._infos[member.name]) as stream:
                while data := stream.read(CHUNK):
                    sink.write(data)
            done[member.name] = sink.written()
        return done


class _SevenZip(Archive):
    def __init__(self, name: str, file: py7zr.SevenZipFile) -> None:
        super().__init__(name)
        self._file = file
        self._names: dict[str, str] = {}

    def members(self) -> list[Member]:
        known: set[str] = set()
        made = []
        for entry in self._file.files:
            mode = entry.st_fmt or 0
            if entry.is_symlink or entry.is_junction:
                mode = stat.S_IFLNK
            member = self._checked(entry.filename, entry.uncompressed or 0, entry.is_directory, mode, known)
            self._names[member.name] = entry.filename
            made.append(member)
        return made

    def extract(self, targets: Mapping[Member, Path]) -> dict[str, Written]:
        by_name = {member.name: (member, path) for member, path in targets.items()}
        sinks: dict[str, _Sink] = {}
        archive = self.name

        class Factory(py7zr.io.WriterFactory):
            def create(self, filename: str) -> py7zr.io.Py7zIO:
                member, path = by_name[filename.replace("\\", "/")]
                sinks[member.name] = _Sink(path, member.size, f"{archive}: member {member.name!r}")
                return sinks[member.name]  # type: ignore[return-value]  # py7zr asks for methods, not for the class

        self._file.reset()
        try:
            self._file.extract(targets=[self._names[name] for name in by_name], factory=Factory())
        finally:
            for sink in sinks.values():
                sink.close()
        return {name: sinks[name].written() for name in by_name}


def is_archive(name: str) -> bool:
    """Whether a file name is that of a whole zip or 7z archive."""
    return name.lower().endswith((".zip", ".7z"))


@contextmanager
def open_archive(name: str, parts: Sequence[Path]) -> Iterator[Archive]:
    """Open a zip, a 7z, or the ordered parts of a split 7z; `name` ends in .zip or .7z.

    Raises:
        UserError: inside the block too, where the archive turns out to be damaged, incomplete or encrypted.
    """
    try:
        if name.lower().endswith(".zip"):
            with zipfile.ZipFile(parts[0]) as file:
                yield _Zip(name, file)
        else:
            with io.BufferedReader(Joined(parts), CHUNK) as stream:
                _check_length(name, stream, parts)
                with py7zr.SevenZipFile(stream) as packed:
                    yield _SevenZip(name, packed)
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: an offset that makes no sense
            raise
        # zipfile, py7zr and the codecs below them let errors of a dozen types escape from damaged bytes.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{name} cannot be unpacked ({reason.rstrip('.')}); it is damaged, truncated or encrypted: fetch it again"
        ) from error


def _check_length(name: str, stream: BinaryIO | io.BufferedReader, parts: Sequence[Path]) -> None:
    """A 7z says in its first bytes how long it is, which names a missing part at once."""
    start = stream.read(SEVEN_ZIP_START)
    stream.seek(0)
    total = sum(part.stat().st_size for part in parts)
    if len(start) < SEVEN_ZIP_START or start[:6] != b"7z\xbc\xaf\x27\x1c":
        raise UserError(f"{name} is no 7z archive (its first bytes differ); fetch it again")
    expected = SEVEN_ZIP_START + int.from_bytes(start[12:20], "little") + int.from_bytes(start[20:28], "little")
    if total < expected:
        raise UserError(
            f"{name} is truncated: {total} of {expected} bytes in {len(parts)} "
            f"{'parts' if len(parts) > 1 else 'part'}; fetch what is missing"
        )
