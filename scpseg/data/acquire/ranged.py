"""A remote file read in the middle: enough to find one archive inside a big stored zip without fetching the rest."""

from __future__ import annotations

import errno
import io
import struct
import zipfile
from collections import OrderedDict
from typing import BinaryIO, cast

import requests

from scpseg.data.acquire.answers import Range, Version, address, cause, refuse_page
from scpseg.data.acquire.connection import PASSING, Connection
from scpseg.errors import UserError

BLOCK = 4 << 20
KEPT = 4
LOCAL_HEADER = 30
"""Bytes before name and extra field of a member; their lengths stand in its last four."""
SIGNATURE = b"PK\x03\x04"
ENCRYPTED = 0x1


class RangedFile(io.RawIOBase):
    """Seekable file for reading behind an address, fetched in blocks of which the last few are kept."""

    def __init__(self, url: str, connection: Connection, block: int = BLOCK, kept: int = KEPT) -> None:
        """Ask for the first byte, which tells size and version.

        Raises:
            UserError: the server cannot be reached or does not send parts; later also where the file has changed.
        """
        super().__init__()
        self.url = url
        self._connection, self._block, self._kept = connection, block, kept
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._at = 0
        self._version: Version | None = None
        self._length = 0
        self._fetch(0, 0)

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be sought in."""
        return True

    def tell(self) -> int:
        """Byte position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte position, without asking the server; past the end is legal, before the start is not."""
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        if at < 0:
            raise OSError(errno.EINVAL, "seek before the start of the file")
        self._at = at
        return at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill `buffer` as far as the file goes; 0 at the end."""
        view = memoryview(buffer).cast("B")[: max(self._length - self._at, 0)]
        filled = 0
        while filled < len(view):
            number, offset = divmod(self._at, self._block)
            piece = self._block_of(number)[offset : offset + len(view) - filled]
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._at += len(piece)
        return filled

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self._length

    def _block_of(self, number: int) -> bytes:
        if number not in self._blocks:
            start = number * self._block
            self._blocks[number] = self._fetch(start, min(start + self._block, self._length) - 1)
            if len(self._blocks) > self._kept:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _fetch(self, first: int, last: int) -> bytes:
        """Bytes `first` to `last`, both included; asked for again where the connection breaks off."""
        headers = {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
        failed = 0
        while True:
            with self._connection.get(self.url, headers, stream=True) as response:
                self._check(response, first, last)
                try:
                    content = response.content
                except PASSING as error:
                    reason = f"the connection broke off ({cause(error)})"
                else:
                    if len(content) == last - first + 1:
                        return content
                    reason = "the answer has another length than it says"
            failed += 1
            self._connection.pause(self.url, reason, failed)

    def _check(self, response: requests.Response, first: int, last: int) -> None:
        """Refuse an answer that is not those bytes of the same file as before."""
        refuse_page(response)
        place = address(self.url)
        if response.status_code != 206:
            raise UserError(f"{place} does not send parts of the file, as is needed here; take another source")
        found, version = Range.of(response), Version.of(response)
        if (found.first, found.last) != (first, last) or found.whole is None:
            raise UserError(
                f"{place} sends bytes {found.first} to {found.last} of {found.whole} where bytes {first} to {last} "
                "were asked for; take another source"
            )
        if self._version is None:
            self._version, self._length = version, found.whole
        elif found.whole != self._length or not version.agrees(self._version):
            raise UserError(f"{place} changed while it was being read; run the same command again")


def stored_member(file: RangedFile, member_suffix: str) -> tuple[str, int, int, int]:
    """Find the one member of a zip whose path ends with `member_suffix`: name, first byte, size, CRC-32.

    Its bytes stand in the zip as they are, so they are a window of the zip's address.

    Raises:
        UserError: it is no zip, there is no such member or more than one, or it is compressed or encrypted.
    """
    place = address(file.url)
    try:
        with zipfile.ZipFile(cast(BinaryIO, file)) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile as error:
        raise UserError(f"{place} is no complete zip archive ({error}); take another source") from error
    fitting = [member for member in members if f"/{member.filename}".endswith(f"/{member_suffix}")]
    if len(fitting) != 1:
        names = ", ".join(sorted(member.filename for member in fitting or members)[:12]) or "nothing"
        raise UserError(f"{place} holds {len(fitting)} members {member_suffix}, one is expected; found: {names}")
    (member,) = fitting
    if member.flag_bits & ENCRYPTED:
        raise UserError(f"{member.filename} in {place} is encrypted; fetch the whole archive and unpack it by hand")
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise UserError(f"{member.filename} in {place} is compressed, so it cannot be fetched alone; fetch it whole")
    file.seek(member.header_offset)
    header = file.read(LOCAL_HEADER) or b""
    if len(header) != LOCAL_HEADER or header[:4] != SIGNATURE:
        raise UserError(f"{member.filename} in {place} does not stand where its table says; take another source")
    extent = sum(struct.unpack("<HH", header[-4:]))
    return member.filename, member.header_offset + LOCAL_HEADER + extent, member.file_size, member.CRC
