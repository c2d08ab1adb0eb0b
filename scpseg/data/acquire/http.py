"""HTTP requests and downloads: bounded in size and time, retried, resumed after any interruption, verified.

While `<name>` is downloaded, it is called `<name>.part`, with `<name>.part.json`; it is renamed once it is verified.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import ssl
import struct
import tempfile
import threading
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import requests
import urllib3
from urllib3.util import Retry

from scpseg.data.acquire.sources import address, without_secrets
from scpseg.data.acquire.space import check_space, full_disk_named
from scpseg.errors import UserError
from scpseg.files import read_json, write_json
from scpseg.progress import byte_progress, say

USER_AGENT = "scpseg-suite (benchmark downloader)"
TRIES, LONGEST_PAUSE = 6, 120  # seconds, also if a server asks for a longer pause
CONNECT, READ = 20.0, 60.0  # seconds to connect; for the headers of an answer, and between two pieces of its body
SLOWEST = 1 << 10  # bytes per second; an answer that is slower for READ seconds counts as lost
PROGRESS = 1 << 13  # bytes that an attempt must bring to not count as a failure
CHUNK, TABLE, PAGE, LARGEST = (
    1 << 20,
    1 << 20,
    4 << 20,
    1 << 40,
)  # bytes: piece, end of a remote zip, page, largest file
UNKNOWN_LENGTH = 1 << 36  # maximum bytes of a file whose length the server does not send
PASSING = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
SENSELESS = (
    *(ArithmeticError, LookupError, TypeError, ValueError, RecursionError, struct.error, zipfile.BadZipFile),
    *(http.client.HTTPException, requests.RequestException, urllib3.exceptions.HTTPError),
)
"""Errors that parsing an answer raises."""
MARKUP = re.compile(rb"\s*<(!doctype|!--|html|head|body|\?xml)", re.IGNORECASE)
LOCAL_HEADER, SIGNATURE, ENCRYPTED = (
    30,
    b"PK\x03\x04",
    0x1,
)  # of a member of a zip: size of its header, its start, a flag
Version = dict[str, str | None]
"""Headers ETag and Last-Modified, which identify the version of a file."""


class Lost(Exception):
    """The body of an answer ended early."""


@contextmanager
def making_sense(url: str) -> Iterator[None]:
    """Turn an answer that cannot be parsed into a UserError; such errors are caught here only."""
    try:
        yield
    except SENSELESS as error:
        raise UserError(
            f"{address(url)} sends an answer that cannot be parsed ({type(error).__name__}: {cause(error)}); "
            "check the address or use another source"
        ) from error


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came from, what that came from, ..."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def cause(error: BaseException) -> str:
    """The innermost cause of an error, as short text."""
    *_, error = chain(error)
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return without_secrets(" ".join(str(text).split()))[:200]


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is not None:
            resp.close()
            resp._content = b""  # requests would read the whole body of a redirect
            if resp.url.startswith("https:") and urlsplit(target).scheme not in ("", "https"):
                raise UserError(
                    f"{address(resp.url)} redirects to {address(target)}, which is not encrypted; "
                    "use the correct address or another source"
                )
        return target


class _Bounded:
    """A urllib3 connection that limits the time until the headers of an answer are complete."""

    sock: socket.socket

    def getresponse(self, *args: Any, **options: Any) -> Any:
        timer = threading.Timer(self.sock.gettimeout() or READ, self._cut, (self.sock,))
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse(*args, **options)  # type: ignore[misc]
        finally:
            timer.cancel()

    @staticmethod
    def _cut(sock: socket.socket) -> None:
        with suppress(OSError):  # closed in the meantime
            sock.shutdown(socket.SHUT_RDWR)


class _Adapter(requests.adapters.HTTPAdapter):
    def __init__(self, unverified: Collection[str]) -> None:
        super().__init__()
        self.unverified, self.warned = unverified, set[str]()

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **options)
        if not issubclass(pool.ConnectionCls, _Bounded):
            pool.ConnectionCls = type("Bounded", (_Bounded, pool.ConnectionCls), {})
        return pool

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        host = urlsplit(str(request.url)).hostname or ""
        if host not in self.unverified:
            return super().send(request, *args, **options)
        if host not in self.warned:
            self.warned.add(host)
            say(f"{host}: its certificate is not checked, because of upstream.unverified_hosts")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
            return super().send(request, *args, **{**options, "verify": False})


class Connection:
    """A session (cookies, open connections) for all servers of a download.

    Checks certificates and redirects, retries failures for some time, then raises a UserError.
    """

    def __init__(
        self,
        unverified_hosts: Sequence[str] = (),
        *,
        connect: float = CONNECT,
        read: float = READ,
        tries: int = TRIES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Open no connection yet; certificates of `unverified_hosts` are not checked. Times are in seconds."""
        self.session = _Session()
        self.session.max_redirects = 10
        self.session.headers["User-Agent"] = USER_AGENT
        self.unverified = frozenset(host.lower() for host in unverified_hosts)
        adapter = _Adapter(self.unverified)
        self.session.mount("http://", adapter)
        self.session.mount("https://", adapter)
        self.timeouts, self.tries, self._sleep = (connect, read), tries, sleep

    def open(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        data: Mapping[str, str] | None = None,
        allowed: Collection[int] = (),
    ) -> requests.Response:
        """Send a request and return the answer with an unread body. The caller handles the statuses in `allowed`.

        Raises:
            UserError: the server cannot be reached, denies access, does not have it, or sends an invalid answer.
        """
        failed = 0
        with making_sense(url):
            while True:
                asked = None
                try:
                    response = self.session.request(
                        method,
                        url,
                        headers=headers,
                        data=data,
                        stream=True,
                        timeout=self.timeouts,
                        allow_redirects=True,
                    )
                except PASSING as error:
                    _reject_certificate(url, error)
                    reason = cause(error)
                else:
                    status, reason = response.status_code, f"{response.status_code} {response.reason}".strip()
                    if status < 300 or status in allowed:
                        return response
                    response.close()
                    if status != 429 and status < 500:
                        why, todo = "has nothing" if status in (404, 410) else "cannot be fetched", "check the address"
                        if status in (401, 403):
                            why, todo = "is refused", "log in or accept the terms there in a browser"
                        raise UserError(f"{address(response.url)} {why} ({reason}); {todo}, or use another source")
                    with suppress(*SENSELESS):  # no time in the answer, or not a valid one
                        asked = Retry(retry_after_max=LONGEST_PAUSE).parse_retry_after(response.headers["Retry-After"])
                failed += 1
                self.pause(url, reason, failed, asked)

    def text(
        self, url: str, headers: Mapping[str, str] | None = None, *, data: Mapping[str, str] | None = None
    ) -> str | None:
        """The page or list at an address, None where there is none (404); with `data` the answer to that form."""
        response, body = self.read(url, headers or {}, PAGE, data)
        return None if response.status_code == 404 else body.decode("utf-8", "replace")

    def read(
        self, url: str, headers: Mapping[str, str], most: int, data: Mapping[str, str] | None = None
    ) -> tuple[requests.Response, bytes]:
        """An answer with its body of at most `most` bytes; of the requested length if `headers` have a range."""
        ranged, failed = "Range" in headers, 0
        while True:
            allowed = () if ranged else (404,)
            with self.open(url, headers, method="POST" if data else "GET", data=data, allowed=allowed) as response:
                if ranged:
                    _reject_page(response)
                    if response.status_code != 206:
                        raise UserError(f"{address(url)} does not support range requests; use another source")
                try:
                    body = b"".join(self.pieces(response, most, decode=not ranged))
                    if not ranged or len(body) == most:
                        return response, body
                    reason = "the answer ended early"
                except Lost as error:
                    reason = str(error)
            failed += 1
            self.pause(url, reason, failed)

    def pieces(self, response: requests.Response, most: int, decode: bool = False) -> Iterator[bytes]:
        """The body of an answer as it comes; Lost where it breaks off or is slow, UserError above `most` bytes."""
        total, got, since = 0, 0, time.monotonic()
        while True:
            try:
                piece = response.raw.read1(CHUNK, decode_content=decode)
            except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
                raise Lost(f"the connection was lost ({cause(error)})") from error
            if not piece:
                return
            total, got = total + len(piece), got + len(piece)
            if total > most:
                raise UserError(f"{address(response.url)} sends more than {most} bytes; use another source")
            now = time.monotonic()
            if now - since >= self.timeouts[1]:
                if got < SLOWEST * (now - since):
                    raise Lost(f"it sent {got} bytes in {now - since:.0f} s")
                got, since = 0, now
            yield piece

    def pause(self, url: str, reason: str, failed: int, asked: float | None = None) -> None:
        """Say that try `failed` failed (UserError: the last one), and wait as `asked`, or twice as long each time."""
        host = urlsplit(url).hostname
        if failed >= self.tries:
            raise UserError(
                f"{host} failed {failed} times to send {address(url)} ({reason}); check the connection, or try again "
                "later with the same command (downloaded data are kept)"
            )
        seconds = min(2.0 ** (failed - 1) if asked is None else asked, LONGEST_PAUSE)
        say(f"{host}: {reason}; try {failed + 1} of {self.tries} in {seconds:.0f} s")
        self._sleep(seconds)


def _reject_certificate(url: str, error: requests.RequestException) -> None:
    """Raise a UserError if the certificate is the reason: a retry would not help."""
    for inner in (link for link in chain(error) if isinstance(link, ssl.SSLCertVerificationError)):
        host = urlsplit((error.request.url if error.request else None) or url).hostname
        raise UserError(
            f"the certificate of {host} cannot be verified ({inner.verify_message}); if you trust that host, "
            "add it to upstream.unverified_hosts (known checksums are still verified)"
        ) from error


def number(digits: str) -> int:
    """A length from a header; ValueError if it is not a plain number, or larger than any file."""
    if not re.fullmatch(r"[0-9]{1,15}", digits) or int(digits) > LARGEST:
        raise ValueError(f"{digits[:40]!r} is not a length")
    return int(digits)


def _content_range(response: requests.Response) -> tuple[int, int, int | None]:
    """First and last byte of the body, and the total length if it is known."""
    value = response.headers.get("Content-Range", "").strip()
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", value, re.ASCII)
    if not match or not number(match[1]) <= number(match[2]) < (LARGEST if match[3] == "*" else number(match[3])):
        raise ValueError(f"Content-Range: {value[:80] or 'none'}")
    return number(match[1]), number(match[2]), None if match[3] == "*" else number(match[3])


def _reject_page(response: requests.Response, head: bytes = b"") -> None:
    """Reject a web page, by its type or first bytes, and a body with a content encoding."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml") or MARKUP.match(head):
        raise UserError(
            f"{address(response.url)} answers with a web page instead of the file, perhaps to log in or to accept "
            "terms; open it in a browser, or use another source"
        )
    if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
        raise UserError(
            f"{address(response.url)} has Content-Encoding {encoding[:40]}, which was not requested; use another source"
        )


def _version(response: requests.Response) -> Version:
    return {"etag": response.headers.get("ETag"), "modified": response.headers.get("Last-Modified")}


def _agree(one: Version, other: Version) -> bool:
    """Whether two versions can be the same; if both have an ETag, it alone decides."""
    both = [key for key in ("etag", "modified") if one.get(key) and other.get(key)]
    return not both or one[both[0]] == other[both[0]]


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
        remote, version, code = self.remote, _version(response), response.status_code
        first, wanted, length = 0, remote.first + self.have, None
        if code == 416:
            match = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", "").strip(), re.ASCII)
            length = number(match[1]) if match else None
        else:
            _reject_page(response)
            if code == 206:
                first, _, length = _content_range(response)
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
        same = _agree(version, self.version) and total == (self.total or total) and (code != 416 or length is not None)
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
            _reject_page(response, piece)
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
        start, end, whole = _content_range(response)
        if (start, end) != (first, last) or whole is None:
            raise ValueError(f"bytes {start} to {end} instead of the requested {first} to {last}")
        if (size or whole) != whole or not _agree(version, _version(response)):
            raise UserError(f"{place} changed while it was being read; run the same command again")
        size, version = whole, _version(response)
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
