"""Downloads of files: resumed after any interruption and verified; whole files, or windows of a remote zip.

While `<name>` is downloaded, it is called `<name>.part`, with `<name>.part.json`; it is renamed once it is verified.
"""

from __future__ import annotations

import hashlib
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

import requests

from scpseg.data.acquire.http import (
    CHUNK,
    LARGEST,
    Connection,
    Lost,
    Version,
    agree,
    content_range,
    making_sense,
    number,
    reject_page,
    version_of,
)
from scpseg.data.acquire.sources import address
from scpseg.data.acquire.space import check_space, full_disk_named
from scpseg.errors import UserError
from scpseg.files import read_json, write_json
from scpseg.progress import byte_progress, say

PROGRESS = 1 << 13
"""Bytes that an attempt must bring to not count as a failure."""
UNKNOWN_LENGTH = 1 << 36
"""Maximum bytes of a file whose length the server does not send."""
TABLE = 1 << 20
"""Bytes at the end of a remote zip, which contain its table."""
LOCAL_HEADER, SIGNATURE, ENCRYPTED = 30, b"PK\x03\x04", 0x1
"""Of a member of a zip: size of its header, its start, a flag."""


@dataclass(frozen=True)
class Remote:
    """A file at an address, or a window of it.

    Attributes:
        url: its address, http or https.
        name: relative posix path of the copy in the target folder.
        size: bytes, if known.
        sha256: hex checksum, if known; also `md5`.
        crc32: checksum from a zip, if known.
        first: start of the window [first, first + size) in the file; a window needs `size`.
    """

    url: str
    name: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    crc32: int | None = None
    first: int = 0

    def __post_init__(self) -> None:
        """Reject names that leave the folder, are hidden or end like an unfinished file."""
        path = PurePosixPath(self.name)
        hidden = any(part.startswith(".") for part in path.parts) or not path.name
        unfinished = self.name.endswith((".part", ".part.json"))
        if path.is_absolute() or hidden or unfinished or "\\" in self.name or not self.name.isprintable():
            raise UserError(f"{self.name[:200]!r} of {address(self.url)} is not a safe file name; use another source")

    def differs(self, path: Path) -> str | None:
        """How the file at `path` differs from what is known of this one, in words; None if it does not."""
        size = path.stat().st_size
        if self.size not in (None, size):
            return f"it has {size} bytes instead of {self.size}"
        for name in ("sha256", "md5"):
            if expected := getattr(self, name):
                with path.open("rb") as stream:
                    found = hashlib.file_digest(stream, name).hexdigest()
                if found != expected.lower():
                    return f"{name} {found} instead of {expected.lower()}"
        if self.crc32 is not None:
            crc = 0
            with path.open("rb") as stream:
                while piece := stream.read(CHUNK):
                    crc = zlib.crc32(piece, crc)
            if crc != self.crc32:
                return f"crc32 {crc:08x} instead of {self.crc32:08x}"
        return None


def transfer(remote: Remote, folder: Path, connection: Connection) -> None:
    """Download a file to `folder`, unless it is there and verified.

    Raises:
        UserError: the download fails, the file is not the expected one, or the disk is too small.
    """
    target = folder / remote.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with making_sense(remote.url):
        if target.is_file():
            if not (why := remote.differs(target)):
                return
            say(f"{remote.name} exists, but {why}; downloading it again")
            target.unlink()
        part = _Part(remote, target)
        part.receive(connection)
        if why := remote.differs(part.path):
            raise part.rejected(f"is damaged or another file: {why}")
        part.path.replace(target)
        part.origin.unlink(missing_ok=True)


_ORIGIN = {"key": str, "etag": (str, None), "modified": (str, None), "size": (int, None)}
"""What is noted beside an unfinished file."""


class _Part:
    """The unfinished file, `have` bytes of `total` (None = not known yet), which a later run can continue."""

    def __init__(self, remote: Remote, target: Path) -> None:
        """Keep the bytes of an earlier run if they are provably of the same file."""
        self.remote, self.host, self.place = remote, urlsplit(remote.url).hostname, address(remote.url)
        self.what = f"fetching {remote.name}"
        self.path, self.origin = (target.with_name(f"{target.name}{end}") for end in (".part", ".part.json"))
        self.have, self.total = 0, remote.size
        self.version: Version = {}
        # Addresses may contain secrets, so only their hash is written.
        self.key = hashlib.sha256(f"{remote.first} {remote.url}".encode("utf-8", "surrogatepass")).hexdigest()
        size = self.path.stat().st_size if self.path.is_file() else 0
        if not size:
            return
        try:
            origin = read_json(self.origin, _ORIGIN)
        except (UserError, OSError):
            origin = {"key": ""}
        if origin["key"] == self.key and origin["size"] in (None, self.total or origin["size"]):
            self.version, self.total = {key: origin[key] for key in ("etag", "modified")}, origin["size"]
            if self.provable and (self.total is None or size <= self.total):
                say(f"{remote.name}: resuming after {size} bytes of an earlier run")
                self.have = size
                return
        say(f"{remote.name}: {size} bytes of an earlier run may be of another file; starting from zero")
        self.discard()
        self.total, self.version = remote.size, {}

    @property
    def provable(self) -> bool:
        """Whether a validator or a checksum tells if two answers are of the same file."""
        return any((*self.version.values(), self.remote.sha256, self.remote.md5, self.remote.crc32))

    def receive(self, connection: Connection) -> None:
        """Request the missing bytes until the file is complete; only tries that bring hardly any bytes are counted."""
        furthest, failed = self.have, 0
        with (
            full_disk_named(self.path.parent, self.remote.size or 0, self.what),
            self.path.open("ab") as stream,
            byte_progress(self.remote.name, self.have) as show,
        ):
            while self.have != self.total:
                try:
                    with connection.open(self.remote.url, self._request(), allowed=(416,)) as response:
                        self._accept(response, stream)
                        for piece in connection.pieces(response, UNKNOWN_LENGTH if self.total is None else LARGEST):
                            if response.status_code == 416:
                                break
                            self._append(response, piece, stream)
                            show(self.have, self.total)
                    self.total = self.have if self.total is None else self.total
                    if self.have != self.total:
                        raise Lost("the answer ended early")
                except Lost as error:
                    if self.have >= furthest + PROGRESS:
                        furthest, failed = self.have, 0
                    failed += 1
                    connection.pause(self.remote.url, str(error), failed)

    def _request(self) -> dict[str, str]:
        remote, headers = self.remote, {"Accept-Encoding": "identity"}
        if remote.first or (self.have and self.provable):
            last = remote.first + (remote.size or 0) - 1 if remote.first else ""
            headers["Range"] = f"bytes={remote.first + self.have}-{last}"
        return headers

    def _accept(self, response: requests.Response, stream: BinaryIO) -> None:
        """Check the headers of an answer; start again from zero where it is not the continuation of the file."""
        remote, version, code = self.remote, version_of(response), response.status_code
        first, wanted, length = 0, remote.first + self.have, None
        if code == 416:
            match = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", "").strip(), re.ASCII)
            length = number(match[1]) if match else None
        else:
            reject_page(response)
            if code == 206:
                first, _, length = content_range(response)
            elif (given := response.headers.get("Content-Length")) is not None:
                length = number(given)
        if code != 206 and remote.first:
            raise UserError(f"{self.place} does not send bytes from {remote.first} on; use another source")
        if not remote.first and length is not None and remote.size not in (None, length):
            raise UserError(
                f"{self.place} has {length} bytes instead of {remote.size} bytes; check the address or use "
                "another source"
            )
        total = self.total if remote.first or length is None else length
        same = agree(version, self.version) and total == (self.total or total) and (code != 416 or length is not None)
        if self.have and not same:
            self._begin(stream, version if code == 200 else {}, length if code == 200 else remote.size)
            if code != 200:
                raise Lost(f"{remote.name} changed: starting it again from zero")
            say(f"{self.host}: {remote.name} changed: starting it again from zero")
        elif code == 206 and ("Range" not in response.request.headers or first != wanted):
            raise UserError(
                f"{self.place} sends bytes from {first} instead of the requested {wanted}; use another source"
            )
        elif code == 200 or not self.have:
            if self.have:
                say(f"{self.host} cannot resume {remote.name}: starting it again from zero")
            self._begin(stream, version, total)
        self.total = total
        if total is not None:
            check_space(self.path.parent, total - self.have, self.what)

    def _append(self, response: requests.Response, piece: bytes, stream: BinaryIO) -> None:
        if not self.have and not self.remote.first:
            reject_page(response, piece)
        if self.total is not None and self.have + len(piece) > self.total:
            raise self.rejected(f"is longer than {self.total} bytes")
        if self.total is None and (self.have + len(piece)) % (64 * CHUNK) < len(piece):
            check_space(self.path.parent, 64 * CHUNK, f"{self.what}, whose length is unknown,")
        stream.write(piece)
        self.have += len(piece)

    def _begin(self, stream: BinaryIO, version: Version, total: int | None) -> None:
        """Start from zero and note the version and length of the file."""
        stream.truncate(0)
        self.have, self.total, self.version = 0, total, version
        write_json(self.origin, {"key": self.key, "size": total, "etag": None, "modified": None, **version})

    def rejected(self, why: str) -> UserError:
        """Remove the file; the error that says why."""
        self.discard()
        return UserError(
            f"{self.remote.name} from {self.host} {why}; it was deleted, run the same command again or use another "
            "source"
        )

    def discard(self) -> None:
        """Remove the file and its note."""
        self.path.unlink(missing_ok=True)
        self.origin.unlink(missing_ok=True)


def stored_members(url: str, connection: Connection, names: Sequence[str]) -> list[Remote]:
    """Find the member of a remote zip whose path ends with each name, as a window of the zip's address.

    Only the end of the zip, which contains its table, and the header of each member are downloaded.

    Raises:
        UserError: it is not a zip, a member is missing or ambiguous, or it is compressed or encrypted.
    """
    place, found = address(url), []
    size, version = 0, Version()

    def get(first: int, last: int) -> bytes:
        """Bytes `first` to `last`, both inclusive, of the same version of the file each time."""
        nonlocal size, version
        headers = {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
        response, content = connection.read(url, headers, last - first + 1)
        start, end, whole = content_range(response)
        if (start, end) != (first, last) or whole is None:
            raise ValueError(f"bytes {start} to {end} instead of the requested {first} to {last}")
        if (size or whole) != whole or not agree(version, version_of(response)):
            raise UserError(f"{place} changed while it was being read; run the same command again")
        size, version = whole, version_of(response)
        return content

    with making_sense(url), tempfile.TemporaryFile() as file:
        get(0, 0)
        first = max(size - TABLE, 0)
        file.truncate(first)  # a sparse file: it has the size of the zip, but uses no space
        file.seek(first)
        file.write(get(first, size - 1))
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        for name in names:
            fitting = [member for member in members if f"/{member.filename}".endswith(f"/{name}")]
            if len(fitting) != 1:
                there = ", ".join(sorted(member.filename for member in fitting or members)[:12]) or "nothing"
                raise UserError(f"{place} contains {len(fitting)} members {name} instead of one; found: {there}")
            (member,) = fitting
            if member.flag_bits & ENCRYPTED or member.compress_type != zipfile.ZIP_STORED:
                raise UserError(
                    f"{name} in {place} is compressed or encrypted, so it cannot be fetched alone; fetch the whole"
                )
            end = member.header_offset + LOCAL_HEADER
            header = get(member.header_offset, end - 1)
            if header[:4] != SIGNATURE:
                raise zipfile.BadZipFile(f"{name} is not at its position in the table of the zip")
            data = end + sum(struct.unpack("<HH", header[-4:]))
            found.append(Remote(url, name, size=member.file_size, crc32=member.CRC, first=data))
    return found
