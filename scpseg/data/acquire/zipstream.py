"""A zip read once from front to back, by its local headers: the only way to read one that streams out of a 7z.

[ours, after PKWARE's APPNOTE 6.3.10, sections 4.3.7 to 4.3.9 and 4.5.3] Stored and deflated members; sizes that are
known only after the data (data descriptors, with or without signature) and zip64 are understood. Unix modes stand in
the central directory behind all members, so a link cannot be told from a file here: nothing may be created by name.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from scpseg.data.acquire.archives import CHUNK, Wanted
from scpseg.data.acquire.members import Checked, Names
from scpseg.errors import UserError

LOCAL = struct.Struct("<4xHHHHHLLLHH")
"""Version, flags, method, time, date, CRC-32, packed size, size, length of name and of extra field."""
MEMBER, CENTRAL, END, SPANNED = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x07\x08"
ENCRYPTED, DESCRIBED_AFTER, UTF8 = 0x2041, 0x8, 0x800
"""Flags: encrypted in one of three ways; sizes and CRC-32 in a descriptor after the data; name in UTF-8."""
STORED, DEFLATED = 0, 8
ZIP64, UNKNOWN = 1, 0xFFFFFFFF
"""The extra field of long sizes, and the short size that refers to it."""
PIECE = 1 << 18
"""Packed bytes unpacked at a time."""


@dataclass(frozen=True)
class _Header:
    """One local header; sizes and CRC-32 are None where a descriptor brings them, `obstacle` is what bars it."""

    name: str
    method: int
    packed: int | None
    size: int | None
    crc: int | None
    obstacle: str


class _Bytes:
    """Chunks of bytes, read in other sizes."""

    def __init__(self, name: str, chunks: Iterator[bytes]) -> None:
        self._name, self._chunks = name, chunks
        self._buffer, self._at = b"", 0

    def some(self, most: int) -> memoryview:
        """At least one byte and at most `most`."""
        while self._at == len(self._buffer):
            chunk = next(self._chunks, None)
            if chunk is None:
                raise UserError(f"{self._name} ends in the middle of a member; it is truncated: fetch it again")
            self._buffer, self._at = chunk, 0
        piece = memoryview(self._buffer)[self._at : self._at + most]
        self._at += len(piece)
        return piece

    def back(self, count: int) -> None:
        """Take back the last `count` bytes of the last piece."""
        self._at -= count

    def peek(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end."""
        while len(self._buffer) - self._at < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._buffer, self._at = self._buffer[self._at :] + chunk, 0
        return self._buffer[self._at : self._at + count]

    def take(self, count: int) -> bytes:
        """Exactly `count` bytes."""
        found = self.peek(count)
        if len(found) < count:
            raise UserError(f"{self._name} ends in the middle of a header; it is truncated: fetch it again")
        self._at += count
        return found


def stream_zip(name: str, chunks: Iterator[bytes], wanted: Wanted) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The wanted members of a zip, in its order; what follows the last member is not read.

    Args:
        name: for messages.
        chunks: the zip's bytes.
        wanted: says of a member's name whether it is wanted.

    Yields:
        Name, and the data, to be used up before the next.

    Raises:
        UserError: the zip or a member is damaged, encrypted or packed in another way, or a name is unsafe.
    """
    source, names = _Bytes(name, chunks), Names(name)
    if source.peek(4) == SPANNED:  # a zip that was meant to be split, and was not
        source.take(4)
    while (signature := source.peek(4)) == MEMBER:
        header = _read_header(source)
        plain = names.accept(header.name, header.name.endswith("/"))
        want = not header.name.endswith("/") and wanted(plain)
        what = f"{name}: member {plain!r}"
        if not want and header.packed is not None:
            left = header.packed
            while left:
                left -= len(source.some(left))
            continue
        if header.obstacle:
            raise UserError(f"{what} {header.obstacle}; unpack it yourself and name the folder in data.source")
        check = Checked(what, header.size, header.crc)
        data = check.passing(_data(what, source, header, check))
        if want:
            yield plain, data
        for _ in data:
            pass
    if signature not in (CENTRAL, END, b"PK\x06\x08"):
        raise UserError(f"{name} holds no zip header where one is due; it is damaged or no zip: fetch it again")


def _read_header(source: _Bytes) -> _Header:
    _, flags, method, _, _, crc, packed, size, name_length, extra_length = LOCAL.unpack(source.take(LOCAL.size))
    member = source.take(name_length).decode("utf-8" if flags & UTF8 else "cp437", "replace")
    extra = source.take(extra_length)
    obstacle = ""
    if flags & ENCRYPTED:
        obstacle = "is encrypted"
    elif method not in (STORED, DEFLATED):
        obstacle = f"is packed with method {method}, which cannot be read as a stream"
    if flags & DESCRIBED_AFTER:
        return _Header(member, method, None, None, None, obstacle)
    size, packed = _long_sizes(extra, size, packed)
    return _Header(member, method, packed, size, crc, obstacle)


def _long_sizes(extra: bytes, size: int, packed: int) -> tuple[int, int]:
    """Both sizes, each from the zip64 field where the short one says so."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == ZIP64:
            values = [value for (value,) in struct.iter_unpack("<Q", extra[4 : 4 + length // 8 * 8])]
            size = values.pop(0) if size == UNKNOWN and values else size
            packed = values.pop(0) if packed == UNKNOWN and values else packed
            break
        extra = extra[4 + length :]
    return size, packed


def _data(what: str, source: _Bytes, header: _Header, check: Checked) -> Iterator[bytes]:
    """The unpacked bytes of a member, up to and with the descriptor where there is one."""
    if header.method == DEFLATED:
        yield from _inflated(what, source, header, check)
    elif header.packed is None:
        yield from _stored_up_to_descriptor(source, check)
    else:
        left = header.packed
        while left:
            piece = source.some(left)
            left -= len(piece)
            yield bytes(piece)


def _inflated(what: str, source: _Bytes, header: _Header, check: Checked) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    packed = 0
    while not unpacker.eof:
        most = PIECE if header.packed is None else min(PIECE, header.packed - packed)
        if not most:
            raise UserError(f"{what} does not end where it should; the archive is damaged: fetch it again")
        piece: memoryview | bytes = source.some(most)
        packed += len(piece)
        full = True
        while (piece or full) and not unpacker.eof:
            try:
                data = unpacker.decompress(piece, CHUNK)
            except zlib.error as error:
                raise UserError(f"{what} is damaged ({error}); fetch the archive again") from None
            if data:
                yield data
            piece, full = unpacker.unconsumed_tail, len(data) == CHUNK
    source.back(len(unpacker.unused_data))
    packed -= len(unpacker.unused_data)
    if header.packed is None:
        if not _descriptor_ends(source, check, packed, (True, False)):
            raise UserError(f"{what} differs from its size or CRC-32; the archive is damaged: fetch it again")
    elif packed != header.packed:
        raise UserError(f"{what} ends before its packed size; the archive is damaged: fetch it again")


def _stored_up_to_descriptor(source: _Bytes, check: Checked) -> Iterator[bytes]:
    """Bytes of unknown number: they end at a signed descriptor that has just their number and CRC-32."""
    while True:
        seen = source.peek(PIECE)
        at = seen.find(SPANNED)
        if at < 0:
            at = len(seen) - len(SPANNED) + 1  # a signature may begin in the last three bytes
        if at > 0:
            yield bytes(source.some(at))
        elif _descriptor_ends(source, check, check.size, (True,)):
            return
        else:
            yield bytes(source.some(1))


def _descriptor_ends(source: _Bytes, check: Checked, packed: int, signed: tuple[bool, ...]) -> bool:
    """Take the descriptor that comes next, with long sizes or short, signed or not, if it fits what passed."""
    for sign in signed:
        for sizes in ("<LQQ", "<LLL"):
            if sizes == "<LLL" and max(packed, check.size) > UNKNOWN:
                continue
            expected = (SPANNED if sign else b"") + struct.pack(sizes, check.crc, packed, check.size)
            if source.peek(len(expected)) == expected:
                source.take(len(expected))
                return True
    return False
