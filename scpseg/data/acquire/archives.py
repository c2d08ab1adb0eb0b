"""Zip and 7z archives, also split ones, behind one small interface that trusts no member and writes nothing.

Members come out as chunks of bytes in the order in which they lie in the archive, so that what becomes of them is
decided elsewhere and memory does not grow with them.
"""

from __future__ import annotations

import errno
import io
import stat
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import py7zr
from py7zr.compressor import SevenZipDecompressor

from scpseg.data.acquire.joined import Joined
from scpseg.data.acquire.members import Checked, Member, Names
from scpseg.errors import UserError

CHUNK = 1 << 20
"""Bytes of a zip member at a time."""
PACKED, LARGEST = 1 << 16, 1 << 25
"""Packed bytes that a 7z decompressor takes at a time, and unpacked ones it may answer with. It keeps what would be
more than that, so their ratio bounds memory: LZMA would have to squeeze everything 512-fold for that to grow."""
SEVEN_ZIP_START = 32
"""Bytes of a 7z file's start header, which says where its end header lies."""
ZIP_LOCAL = struct.Struct("<26xHH")
"""A zip's header before a member: the lengths of name and extra field."""

Wanted = Callable[[str], bool]


class Archive(ABC):
    """An open archive; `name` is for messages.

    `watch` is called with the packed bytes read so far where an archive must be read from the start of a block (7z).
    """

    def __init__(self, name: str) -> None:
        """Remember the name."""
        self.name = name
        self.watch: Callable[[int], None] = lambda count: None

    @abstractmethod
    def members(self) -> list[Member]:
        """Every entry, each checked to be a plain file or folder with a safe name.

        Raises:
            UserError: a member that points outside, is a link or a device, or stands twice.
        """

    @abstractmethod
    def stream(self, wanted: Wanted) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """The wanted members in the archive's order; the chunks of each must be used up before the next.

        Raises:
            UserError: a member is damaged or not of the size that it declares.
        """

    @abstractmethod
    def stretch(self, member: Member) -> tuple[int, int] | None:
        """First byte and length of a member that lies uncompressed in the file; None where it cannot be said."""


class _Zip(Archive):
    def __init__(self, name: str, file: zipfile.ZipFile) -> None:
        super().__init__(name)
        self._file = file
        names = Names(name)
        self._members: list[tuple[Member, zipfile.ZipInfo]] = []
        for info in file.infolist():
            plain = names.accept(info.filename, info.is_dir(), info.external_attr >> 16)
            self._members.append((Member(plain, info.file_size, info.is_dir()), info))

    def members(self) -> list[Member]:
        return [member for member, _ in self._members]

    def stream(self, wanted: Wanted) -> Iterator[tuple[Member, Iterator[bytes]]]:
        for member, info in sorted(self._members, key=lambda pair: pair[1].header_offset):
            if member.folder or not wanted(member.name):
                continue
            what = f"{self.name}: member {member.name!r}"
            if info.flag_bits & 1:
                raise UserError(f"{what} is encrypted; unpack it yourself and name the folder in data.source")
            with self._file.open(info) as stream:
                chunks = iter(lambda stream=stream: stream.read(CHUNK), b"")  # type: ignore[misc]
                yield member, Checked(what, member.size, None).passing(chunks)  # zipfile compares the CRC-32

    def stretch(self, member: Member) -> tuple[int, int] | None:
        info = next(info for known, info in self._members if known == member)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or self._file.fp is None:
            return None
        self._file.fp.seek(info.header_offset)
        name, extra = ZIP_LOCAL.unpack(self._file.fp.read(ZIP_LOCAL.size))
        return info.header_offset + ZIP_LOCAL.size + name + extra, info.file_size


class _SevenZip(Archive):
    """py7zr reads the headers and brings the codecs; its own extraction pushes into files where we pull."""

    def __init__(self, name: str, file: py7zr.SevenZipFile) -> None:
        super().__init__(name)
        self._file = file
        self._read = 0
        names = Names(name)
        self._members: dict[int, Member] = {}
        for entry in file.files:
            mode = stat.S_IFLNK if entry.is_symlink or entry.is_junction else entry.st_fmt or 0
            plain = names.accept(entry.filename, entry.is_directory, mode)
            self._members[entry.id] = Member(plain, entry.uncompressed or 0, entry.is_directory)

    def members(self) -> list[Member]:
        return list(self._members.values())

    def stretch(self, member: Member) -> tuple[int, int] | None:
        return None

    def stream(self, wanted: Wanted) -> Iterator[tuple[Member, Iterator[bytes]]]:
        for entry in self._file.files:
            member = self._members[entry.id]
            if entry.emptystream and not member.folder and wanted(member.name):
                yield member, iter(())
        streams = getattr(self._file.header, "main_streams", None)
        if streams is None:
            return
        for number, folder in enumerate(streams.unpackinfo.folders):
            chosen = [wanted(self._members[entry.id].name) for entry in folder.files or ()]
            if not any(chosen):
                continue
            start, end = streams.packinfo.packpositions[number : number + 2]
            self._file.fp.seek(self._file.afterheader + start)
            unpacker = SevenZipDecompressor(
                folder.coders, end - start, folder.unpacksizes, folder.crc, blocksize=PACKED
            )
            last = len(chosen) - 1 - chosen[::-1].index(True)
            for place, entry in enumerate(folder.files):
                member = self._members[entry.id]
                check = Checked(f"{self.name}: member {member.name!r}", member.size, entry.crc32)
                chunks = check.passing(self._unpacked(unpacker, member))
                if chosen[place]:
                    yield member, chunks
                for _ in chunks:  # what is not wanted lies before what is, in one stream
                    pass
                if place == last:
                    break

    def _unpacked(self, unpacker: Any, member: Member) -> Iterator[bytes]:
        left, file = member.size, self._file.fp
        while left > 0:
            before = file.tell()
            data = unpacker.decompress(file, min(left, LARGEST))
            read = file.tell() - before
            if not data and not read:
                raise UserError(f"{self.name} ends within member {member.name!r}; it is damaged: fetch it again")
            self._read += read
            self.watch(self._read)
            left -= len(data)
            yield data


def is_archive(name: str) -> bool:
    """Whether a file name is that of a whole zip or 7z archive."""
    return name.lower().endswith((".zip", ".7z"))


@contextmanager
def open_archive(name: str, parts: Sequence[Path], stretch: tuple[int, int | None] = (0, None)) -> Iterator[Archive]:
    """Open a zip, a 7z, or the ordered parts of a split 7z; `name` ends in .zip or .7z.

    Args:
        name: for messages.
        parts: the files.
        stretch: first byte and length of the archive in them, by default everything.

    Raises:
        UserError: inside the block too, where the archive turns out to be damaged, incomplete or encrypted.
    """
    try:
        with io.BufferedReader(Joined(parts, *stretch), CHUNK) as stream:
            if name.lower().endswith(".zip"):
                with zipfile.ZipFile(stream) as file:
                    yield _Zip(name, file)
            else:
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
