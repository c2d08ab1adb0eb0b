"""Downloads over HTTP: bounded in size and time, retried, resumed after any interruption, and verified.

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
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from urllib3.util import Retry

from scpseg.data.acquire.sources import address, without_secrets
from scpseg.data.acquire.space import check_space
from scpseg.errors import UserError
from scpseg.files import naming, read_json, write_json
from scpseg.progress import byte_progress, say

T = TypeVar("T")
Fields = Mapping[str, str] | None  # headers of a request, or the values of a form
USER_AGENT = "scpseg-suite (benchmark downloader)"
TRIES, LONGEST_PAUSE = 6, 120  # seconds, also if a server asks for a longer pause
PROGRESS = 1 << 13  # bytes that a try must bring to not count as a failure
CONNECT, READ = 20.0, 60.0  # seconds to connect; for the headers of an answer, and between two pieces of its body
SLOWEST = 1 << 10  # bytes per second; an answer that is slower for READ seconds counts as lost
CHUNK, PAGE, LARGEST = 1 << 20, 4 << 20, 1 << 40  # bytes: of a piece; most of a page, of a file
UNKNOWN_LENGTH = 1 << 36  # most bytes of a file whose length the server does not send
TABLE = 1 << 20  # bytes at the end of a remote zip, which contain its table
LOCAL_HEADER, SIGNATURE, ENCRYPTED = 30, b"PK\x03\x04", 0x1  # of a member of a zip: header's size, its start, a flag
UNFINISHED = (".part", ".part.json")
PASSING = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
SENSELESS = (
    *(ArithmeticError, LookupError, TypeError, ValueError, RecursionError, struct.error, zipfile.BadZipFile),
    *(http.client.HTTPException, requests.RequestException, urllib3.exceptions.HTTPError),
)
"""Errors that parsing an answer raises."""
MARKUP = re.compile(rb"\s*<(!doctype|!--|html|head|body|\?xml)", re.IGNORECASE)


class Lost(Exception):
    """A try failed and another one may succeed, after `wait` seconds if the server says so."""

    wait: float | None = None


@contextmanager
def making_sense(url: str) -> Iterator[None]:
    """Turn an answer that cannot be parsed into a UserError; such errors are caught here only."""
    try:
        yield
    except SENSELESS as error:
        why = f"sends an answer that cannot be parsed ({type(error).__name__}: {cause(error)})"
        raise _rejected(url, why, "check the address or use another source") from error


def _rejected(url: str, why: str, todo: str = "use another source") -> UserError:
    return UserError(f"{address(url)} {why}; {todo}")


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


def is_passing(status: int) -> bool:
    """Whether an HTTP status means that the same request may succeed later."""
    return status in (408, 429) or status >= 500


class _Bounded:
    """A urllib3 connection that limits the time until the headers of an answer are complete."""

    sock: socket.socket
    timeout: float

    def getresponse(self, *args: Any, **options: Any) -> Any:
        def cut(sock: socket.socket) -> None:
            with suppress(OSError):  # closed in the meantime
                sock.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self.timeout, cut, (self.sock,))
        timer.start()
        try:
            return super().getresponse(*args, **options)  # type: ignore[misc]
        finally:
            timer.cancel()


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
        # Here and not in the session, whose options also hold for the hosts that redirects lead to.
        if (host := urlsplit(str(request.url)).hostname or "") in self.unverified:
            options["verify"] = False
            if host not in self.warned:
                self.warned.add(host)
                urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # one line of ours says it
                say(f"{host}: its certificate is not checked, because of upstream.unverified_hosts")
        return super().send(request, *args, **options)


class Connection(requests.Session):
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
        super().__init__()
        self.max_redirects = 10
        self.headers["User-Agent"] = USER_AGENT
        self.unverified = frozenset(host.lower() for host in unverified_hosts)
        self.timeouts, self.tries, self._sleep = (connect, read), tries, sleep
        adapter = _Adapter(self.unverified)
        for scheme in ("http://", "https://"):
            self.mount(scheme, adapter)

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """The address that a redirect leads to; UserError if it would end the encryption."""
        target = super().get_redirect_target(resp)
        if target is not None:
            resp.close()
            resp._content = b""  # requests would read the whole body of a redirect
            if resp.url.startswith("https:") and urlsplit(target).scheme not in ("", "https"):
                why = f"redirects to {address(target)}, which is not encrypted"
                raise _rejected(resp.url, why, "use the correct address or another source")
        return target

    def persist(self, url: str, attempt: Callable[[], T], have: Callable[[], int] = lambda: 0) -> T:
        """The result of `attempt`, which is repeated while it raises Lost; the pauses double.

        Tries that increase the number of bytes, `have`, are not counted. UserError where the last try failed, or an
        answer cannot be parsed.
        """
        furthest, failed = have(), 0
        while True:
            try:
                with making_sense(url):
                    return attempt()
            except Lost as error:
                if have() >= furthest + PROGRESS:
                    furthest, failed = have(), 0
                failed, host = failed + 1, urlsplit(url).hostname
                if failed >= self.tries:
                    why = f"{host} failed {failed} times to send {address(url)} ({error})"
                    todo = "check the connection, or try again later with the same command (downloaded data are kept)"
                    raise UserError(f"{why}; {todo}") from error
                seconds = min(2.0 ** (failed - 1) if error.wait is None else error.wait, LONGEST_PAUSE)
                say(f"{host}: {error}; try {failed + 1} of {self.tries} in {seconds:.0f} s")
                self._sleep(seconds)

    def open(
        self, url: str, headers: Fields = None, *, method: str = "GET", data: Fields = None, allowed: Sequence[int] = ()
    ) -> requests.Response:
        """Send a request and return the answer with an unread body. The caller handles the statuses in `allowed`.

        UserError where the server cannot be reached, denies access, does not have it, or sends an invalid answer.
        """

        def attempt() -> requests.Response:
            try:
                response = self.request(method, url, headers=headers, data=data, stream=True, timeout=self.timeouts)
            except PASSING as error:
                for inner in (link for link in chain(error) if isinstance(link, ssl.SSLCertVerificationError)):
                    host = urlsplit((error.request.url if error.request else None) or url).hostname
                    raise UserError(
                        f"the certificate of {host} cannot be verified ({inner.verify_message}); if you trust that "
                        "host, add it to upstream.unverified_hosts (known checksums are still verified)"
                    ) from error
                raise Lost(cause(error)) from error
            status, reason = response.status_code, f"{response.status_code} {response.reason}".strip()
            if status < 300 or status in allowed:
                return response
            response.close()
            if is_passing(status):
                lost = Lost(reason)
                with suppress(*SENSELESS):  # no time in the answer, or not a valid one
                    lost.wait = Retry(retry_after_max=LONGEST_PAUSE).get_retry_after(response.raw)
                raise lost
            why, todo = "has nothing" if status in (404, 410) else "cannot be fetched", "check the address"
            if status in (401, 403):
                why, todo = "is refused", "log in or accept the terms there in a browser"
            raise _rejected(response.url, f"{why} ({reason})", f"{todo}, or use another source")

        return self.persist(url, attempt)

    def text(self, url: str, headers: Fields = None, *, data: Fields = None) -> str | None:
        """The page or list at an address, None where there is none (404); with `data` the answer to that form."""

        def attempt() -> str | None:
            with self.open(url, headers, method="POST" if data else "GET", data=data, allowed=(404,)) as response:
                body = b"".join(self.pieces(response, PAGE, decode=True))
                return None if response.status_code == 404 else body.decode("utf-8", "replace")

        return self.persist(url, attempt)

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
                raise _rejected(response.url, f"sends more than {most} bytes")
            if (passed := time.monotonic() - since) >= self.timeouts[1]:
                if got < SLOWEST * passed:
                    raise Lost(f"it sent {got} bytes in {passed:.0f} s")
                got, since = 0, since + passed
            yield piece


def number(digits: str) -> int:
    """A length from a header; ValueError if it is not a plain number, or larger than any file."""
    if not re.fullmatch(r"[0-9]{1,15}", digits) or int(digits) > LARGEST:
        raise ValueError(f"{digits[:40]!r} is not a length")
    return int(digits)


def _content_range(response: requests.Response) -> tuple[int, int, int | None]:
    """First and last byte of the body, and the length of the file if it is known."""
    value = response.headers.get("Content-Range", "").strip()
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", value, re.ASCII)
    length = number(match[3]) if match and match[3] != "*" else None
    if not match or not number(match[1]) <= number(match[2]) < (LARGEST if length is None else length):
        raise ValueError(f"Content-Range: {value[:80] or 'none'}")
    return int(match[1]), int(match[2]), length


def _version(response: requests.Response) -> str:
    """What identifies the version of a file, '' where the server does not say."""
    return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""


def _reject_page(response: requests.Response, head: bytes = b"") -> None:
    """Reject a web page, by its type or first bytes, and a body with a content encoding."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml") or MARKUP.match(head):
        why = "answers with a web page instead of the file, perhaps to log in or to accept terms"
        raise _rejected(response.url, why, "open it in a browser, or use another source")
    if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
        raise _rejected(response.url, f"has Content-Encoding {encoding[:40]}, which was not requested")


def _agree(one: str, other: str) -> bool:
    return not one or not other or one == other


@dataclass(frozen=True)
class Remote:
    """A file at an address, or a window of it."""

    url: str  # http or https
    name: str  # relative posix path of the copy in the target folder
    size: int | None = None  # bytes, if known
    sha256: str | None = None  # hex checksum, if known
    md5: str | None = None
    crc32: int | None = None  # from a zip
    first: int = 0  # start of the window [first, first + size) in the file; a window needs `size`

    def __post_init__(self) -> None:
        """Reject names that leave the folder, are hidden or end like an unfinished file."""
        path = PurePosixPath(self.name)
        hidden = any(part.startswith(".") for part in path.parts) or not path.name
        odd = "\\" in self.name or not self.name.isprintable()
        if hidden or odd or path.is_absolute() or self.name.endswith(UNFINISHED):
            raise UserError(f"{self.name[:200]!r} of {address(self.url)} is not a safe file name; use another source")

    def differs(self, path: Path) -> str | None:
        """How the file at `path` differs from what is known of this one, in words; None if it does not."""
        if self.size not in (None, size := path.stat().st_size):
            return f"it has {size} bytes instead of {self.size}"
        for name, known in (("sha256", self.sha256), ("md5", self.md5)):
            with path.open("rb") as stream:
                if known and (found := hashlib.file_digest(stream, name).hexdigest()) != known.lower():
                    return f"{name} {found} instead of {known.lower()}"
        if self.crc32 is not None:
            crc = 0
            with path.open("rb") as stream:
                while piece := stream.read(CHUNK):
                    crc = zlib.crc32(piece, crc)
            if crc != self.crc32:
                return f"crc32 {crc:08x} instead of {self.crc32:08x}"
        return None


def transfer(remote: Remote, folder: Path, connection: Connection) -> None:
    """Download a file to `folder`, unless it is there and verified; UserError where that fails or it is another."""
    target = folder / remote.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file():
        if not (why := remote.differs(target)):
            return
        say(f"{remote.name} exists, but {why}; downloading it again")
        target.unlink()
    part = _Part(remote, target)
    with naming(part.path), part.path.open("ab") as stream, byte_progress(remote.name, part.have) as show:
        connection.persist(remote.url, partial(part.receive, connection, stream, show), lambda: part.have)
    if why := remote.differs(part.path):
        raise part.rejected(f"is damaged or another file: {why}")
    part.path.replace(target)
    part.note.unlink(missing_ok=True)


class _Part:
    """The unfinished file, `have` bytes of `total` (None = not known yet), which a later run can continue."""

    def __init__(self, remote: Remote, target: Path) -> None:
        """Keep the bytes of an earlier run if they are provably of the same file."""
        self.remote, self.host, self.what = remote, urlsplit(remote.url).hostname, f"fetching {remote.name}"
        self.path, self.note = (target.with_name(f"{target.name}{end}") for end in UNFINISHED)
        self.have, self.total, self.version = 0, remote.size, ""
        # A validator or a checksum tells if two answers are of the same file.
        self.checked = any((remote.sha256, remote.md5, remote.crc32))
        # Addresses may contain secrets, so only their hash is written.
        self.key = hashlib.sha256(f"{remote.first} {remote.url}".encode("utf-8", "surrogatepass")).hexdigest()
        if not self.path.is_file() or not (size := self.path.stat().st_size):
            return
        with suppress(UserError, OSError):
            note = read_json(self.note, {"key": str, "version": str, "size": (int, None)})
            total, fits = note["size"], note["key"] == self.key and note["size"] in (None, remote.size or note["size"])
            if fits and (total is None or size <= total) and (self.checked or note["version"]):
                say(f"{remote.name}: resuming after {size} bytes of an earlier run")
                self.have, self.total, self.version = size, total, note["version"]
                return
        say(f"{remote.name}: {size} bytes of an earlier run may be of another file; starting from zero")
        self.path.unlink()

    def receive(self, connection: Connection, stream: BinaryIO, show: Callable[[int, int | None], None]) -> None:
        """Request the missing bytes; Lost where some are still missing."""
        if self.have == self.total:
            return
        remote, headers = self.remote, {"Accept-Encoding": "identity"}
        if remote.first or (self.have and (self.checked or self.version)):
            last = remote.first + (remote.size or 0) - 1 if remote.first else ""
            headers["Range"] = f"bytes={remote.first + self.have}-{last}"
        with connection.open(remote.url, headers, allowed=(416,) if "Range" in headers else ()) as response:
            self._accept(response, stream)
            for piece in connection.pieces(response, UNKNOWN_LENGTH if self.total is None else LARGEST):
                if not self.have and not remote.first:
                    _reject_page(response, piece)
                if self.total is None:
                    check_space(self.path.parent, 64 * CHUNK, f"{self.what}, whose length is unknown,")
                elif self.have + len(piece) > self.total:
                    raise self.rejected(f"is longer than {self.total} bytes")
                stream.write(piece)
                self.have += len(piece)
                show(self.have, self.total)
        self.total = self.have if self.total is None else self.total
        if self.have != self.total:
            raise Lost("the answer ended early")

    def _accept(self, response: requests.Response, stream: BinaryIO) -> None:
        """Check the headers of an answer; start again from zero where it is not the continuation of the file."""
        remote, code, wanted = self.remote, response.status_code, self.remote.first + self.have
        if code != 416:
            _reject_page(response)
        if code != 206 and remote.first:
            raise _rejected(remote.url, f"does not send bytes from {remote.first} on")
        version, length = _version(response), remote.size
        if code == 206:
            first, _, whole = _content_range(response)
            if first != wanted or "Range" not in response.request.headers:
                raise _rejected(remote.url, f"sends bytes from {first} instead of the requested {wanted}")
            length = remote.size if remote.first or whole is None else whole
        elif code != 416 and "Content-Length" in response.headers:
            length = number(response.headers["Content-Length"])
        if remote.size not in (None, length):
            why = f"has {length} bytes instead of {remote.size} bytes"
            raise _rejected(remote.url, why, "check the address or use another source")
        same = _agree(version, self.version) and (self.total is None or length in (None, self.total))
        if code == 416 or (code == 206 and self.have and not same):
            self._begin(stream, "", remote.size)
            raise Lost(f"{remote.name} changed: starting it again from zero")
        if code != 206 and self.have:
            say(f"{self.host} {'cannot resume' if same else 'changed'} {remote.name}: starting it again from zero")
            self.have = 0
        if not self.have:
            self._begin(stream, version, length)
        self.total = length if self.total is None else self.total
        if self.total is not None:
            check_space(self.path.parent, self.total - self.have, self.what)

    def _begin(self, stream: BinaryIO, version: str, total: int | None) -> None:
        """Start from zero and note the version and length of the file."""
        stream.truncate(0)
        self.have, self.total, self.version = 0, total, version
        write_json(self.note, {"key": self.key, "size": total, "version": version})

    def rejected(self, why: str) -> UserError:
        """Remove the file; the error that says why."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        todo = "it was deleted, run the same command again or use another source"
        return UserError(f"{self.remote.name} from {self.host} {why}; {todo}")


def stored_members(url: str, connection: Connection, names: Sequence[str]) -> list[Remote]:
    """Find the member of a remote zip whose path ends with each name, as a window of the zip's address.

    Only the end of the zip, which contains its table, and the header of each member are downloaded. UserError where it
    is not a zip, or a member is missing, ambiguous, compressed or encrypted.
    """
    found, size, version = list[Remote](), 0, ""

    def get(first: int, last: int) -> bytes:
        """Bytes `first` to `last`, both inclusive, of the same version of the file each time."""
        nonlocal size, version
        with connection.open(url, {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}) as response:
            _reject_page(response)
            if response.status_code != 206:
                raise _rejected(url, "does not support range requests")
            start, end, whole = _content_range(response)
            if (start, end) != (first, last) or whole is None:
                raise ValueError(f"bytes {start} to {end} instead of the requested {first} to {last}")
            if (size or whole) != whole or not _agree(version, _version(response)):
                raise _rejected(url, "changed while it was being read", "run the same command again")
            content = b"".join(connection.pieces(response, last - first + 1))
            if len(content) != last - first + 1:
                raise Lost("the answer ended early")
            size, version = whole, _version(response)
            return content

    def read(first: int, last: int) -> bytes:
        return connection.persist(url, partial(get, first, last))

    with making_sense(url), tempfile.TemporaryFile() as file:
        read(0, 0)
        first = max(size - TABLE, 0)
        file.truncate(first)  # a sparse file: it has the size of the zip, but uses no space
        file.seek(first)
        file.write(read(first, size - 1))
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        for name in names:
            fitting = [member for member in members if f"/{member.filename}".endswith(f"/{name}")]
            if len(fitting) != 1:
                there = ", ".join(sorted(member.filename for member in fitting or members)[:12]) or "nothing"
                why = f"contains {len(fitting)} members {name} instead of one"
                raise UserError(f"{address(url)} {why}; found: {there}")
            (member,) = fitting
            if member.flag_bits & ENCRYPTED or member.compress_type != zipfile.ZIP_STORED:
                why = "is compressed or encrypted, so it cannot be fetched alone; fetch the whole"
                raise UserError(f"{name} in {address(url)} {why}")
            end = member.header_offset + LOCAL_HEADER
            header = read(member.header_offset, end - 1)
            if header[:4] != SIGNATURE:
                raise zipfile.BadZipFile(f"{name} is not at its position in the table of the zip")
            data = end + sum(struct.unpack("<HH", header[-4:]))
            found.append(Remote(url, name, size=member.file_size, crc32=member.CRC, first=data))
    return found
