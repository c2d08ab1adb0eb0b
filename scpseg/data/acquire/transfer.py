"""Downloads over HTTP: bounded in size and time, retried, resumed after any interruption, and verified.

While `<name>` is downloaded, it is called `<name>.part`, with `<name>.part.json`; it is renamed once it is verified.
"""

from __future__ import annotations

import hashlib
import re
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3

from scpseg.data.acquire.sources import address, without_secrets
from scpseg.data.acquire.space import check_space
from scpseg.data.acquire.unpacker import is_archive
from scpseg.errors import UserError
from scpseg.files import chain, naming, read_json, write_json
from scpseg.progress import byte_progress, say

T = TypeVar("T")
Fields = Mapping[str, str] | None  # headers of a request, or the values of a form
USER_AGENT = "scpseg-suite (benchmark downloader)"
TRIES, LONGEST_PAUSE = 6, 120  # seconds, also if a server asks for a longer pause
PROGRESS = 1 << 13  # bytes that a try must bring to not count as a failure
CONNECT, READ = 20.0, 60.0  # seconds to connect; for the headers of an answer, and between two pieces of its body
SLOWEST = 1 << 10  # bytes per second; an answer that is slower for READ seconds counts as lost
CHUNK, PAGE = 1 << 20, 4 << 20  # bytes: of a piece; most of a page
UNKNOWN_LENGTH = 1 << 36  # most bytes of a file whose length the server does not send
TABLE, HEADER = 1 << 20, 30  # bytes of a zip: at its end, which contain its table; before the name of a member
UNFINISHED = (".part", ".part.json")
SENSELESS = (ArithmeticError, LookupError, TypeError, ValueError, RecursionError, struct.error, zipfile.BadZipFile)
"""Errors that parsing an answer raises, besides those of requests and urllib3."""


class Lost(Exception):
    """A try failed and another one may succeed, after `wait` seconds if the server says so."""

    wait: float | None = None


@contextmanager
def making_sense(url: str) -> Iterator[None]:
    """Turn an answer that cannot be parsed into a UserError; such errors are caught here only."""
    try:
        yield
    except (*SENSELESS, requests.RequestException, urllib3.exceptions.HTTPError) as error:
        why = f"sends an answer that cannot be parsed ({type(error).__name__}: {cause(error)})"
        raise _rejected(url, why) from error


def _rejected(url: str, why: str, todo: str = "check the address") -> UserError:
    return UserError(f"{address(url)} {why}; {todo}, or use another source")


def cause(error: BaseException) -> str:
    """The innermost cause of an error, as short text."""
    *_, error = chain(error)
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return without_secrets(" ".join(str(text).split()))[:200]


class _Unverified(requests.adapters.HTTPAdapter):
    """Checks no certificates. For a host and not the session, whose options also hold where redirects lead to."""

    def send(self, *args: Any, **options: Any) -> requests.Response:
        return super().send(*args, **(options | {"verify": False}))


class Connection(requests.Session):
    """A session (cookies, open connections) for all servers of a download, which checks certificates and redirects."""

    sleep = staticmethod(time.sleep)

    def __init__(self, unverified_hosts: Sequence[str] = (), *, read: float = READ, tries: int = TRIES) -> None:
        """Open no connection yet; certificates of `unverified_hosts` are not checked; `read` is in seconds."""
        super().__init__()
        self.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
        self.timeouts, self.tries, self.unverified = (min(CONNECT, read), read), tries, frozenset(unverified_hosts)
        for host in self.unverified:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # this line says it
            say(f"the certificate of {host} is not checked, because of upstream.unverified_hosts")
            for end in "/:":
                self.mount(f"https://{host}{end}", _Unverified())

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """The address that a redirect leads to; UserError if it would end the encryption."""
        target = super().get_redirect_target(resp)
        if target is not None:
            resp.close()  # requests would read its whole body
            if resp.url.startswith("https:") and urlsplit(target).scheme not in ("", "https"):
                raise _rejected(resp.url, f"redirects to {address(target)}, which is not encrypted")
        return target

    def persist(self, url: str, attempt: Callable[[], T], have: Callable[[], int] = lambda: 0) -> T:
        """The result of `attempt`, which is repeated after doubling pauses while it raises Lost, then a UserError.

        Tries that add to the bytes that we `have` are not counted.
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
                self.sleep(seconds)

    def open(
        self, url: str, headers: Fields = None, *, method: str = "GET", data: Fields = None, allowed: Sequence[int] = ()
    ) -> requests.Response:
        """The answer to one request, with an unread body. The caller handles the statuses in `allowed`.

        Lost where another try may succeed, UserError where not.
        """
        try:
            response = self.request(method, url, headers=headers, data=data, stream=True, timeout=self.timeouts)
        except (requests.ConnectionError, requests.Timeout) as error:
            if "CERTIFICATE_VERIFY_FAILED" not in (why := cause(error)):
                raise Lost(why) from error
            host = urlsplit(getattr(error.request, "url", url)).hostname
            todo = "if you trust it, add it to upstream.unverified_hosts (known checksums are still verified)"
            raise UserError(f"the certificate of {host} cannot be verified ({why}); {todo}") from error
        status = response.status_code
        if status < 300 or status in allowed:
            return response
        response.close()
        if status in (408, 429) or status >= 500:  # the same request may succeed later
            lost = Lost(f"{status} {response.reason}")
            with suppress(*SENSELESS, urllib3.exceptions.HTTPError):  # not a valid time
                lost.wait = urllib3.Retry(retry_after_max=LONGEST_PAUSE).get_retry_after(response.raw)
            raise lost
        todo = "log in or accept the terms there in a browser" if status in (401, 403) else "check the address"
        raise _rejected(response.url, f"answers {status} {response.reason}", todo)

    def body(
        self, url: str, headers: Fields = None, *, data: Fields = None, most: int = PAGE, allowed: Sequence[int] = ()
    ) -> tuple[requests.Response, bytes]:
        """An answer with its whole body of at most `most` bytes; with `data` the answer to that form."""

        def attempt() -> tuple[requests.Response, bytes]:
            with self.open(url, headers, method="POST" if data else "GET", data=data, allowed=allowed) as response:
                return response, b"".join(self.pieces(response, most))

        return self.persist(url, attempt)

    def text(self, url: str, headers: Fields = None, *, data: Fields = None) -> str:
        """The page at an address, or the page that answers its form."""
        return self.body(url, headers, data=data)[1].decode("utf-8", "replace")

    def pieces(self, response: requests.Response, most: int) -> Iterator[bytes]:
        """The body of an answer as it comes; Lost where it breaks off or is slow, UserError above `most` bytes."""
        total, got, since = 0, 0, time.monotonic()
        while True:
            try:
                piece = response.raw.read1(CHUNK, decode_content=True)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                raise Lost(f"the connection was lost ({cause(error)})") from error
            if not piece:
                return
            total, got = total + len(piece), got + len(piece)
            if total > most:
                _reject_page(response)
                raise _rejected(response.url, f"sends more than the expected {most} bytes")
            if (passed := time.monotonic() - since) >= self.timeouts[1]:
                if got < SLOWEST * passed:
                    raise Lost(f"it sent {got} bytes in {passed:.0f} s")
                got, since = 0, since + passed
            yield piece


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """The position of the first byte of the body in the file, and the length of the file if it is known."""
    extent = f"bytes 0-0/{response.headers.get('Content-Length', '*')}"
    if response.status_code == 206:
        extent = response.headers.get("Content-Range", "none")
    match = re.fullmatch(r"bytes ([0-9]{1,15})-[0-9]{1,15}/(?:\*|([0-9]{1,15}))", extent)
    if not match:
        raise ValueError(f"its extent is {extent[:80]}")
    return int(match[1]), int(match[2]) if match[2] else None


def _reject_page(response: requests.Response) -> None:
    """Raise a UserError if an answer is a web page."""
    if response.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml+xml")):
        why = "answers with a web page instead of the file, perhaps to log in or to accept terms"
        raise _rejected(response.url, why, "open it in a browser")


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
        parts = PurePosixPath(self.name).parts
        odd = not parts or "\\" in self.name or not self.name.isprintable()
        if odd or any(part.startswith((".", "/")) for part in parts) or self.name.endswith(UNFINISHED):
            raise UserError(f"{self.name[:200]!r} of {address(self.url)} is not a safe file name; use another source")

    def differs(self, path: Path) -> str | None:
        """How the file at `path` differs from what is known of this one, in words; None if it does not."""
        if self.size not in (None, size := path.stat().st_size):
            return f"it has {size} bytes instead of {self.size}"
        with path.open("rb") as stream:
            if stream.read(256).lstrip().startswith(b"<"):
                return "it is a web page"
        unknown = all(known is None for known in (self.size, self.sha256, self.md5, self.crc32))
        if unknown and self.name.lower().endswith((".zip", ".7z")) and not is_archive(path):
            return "it is not a whole archive"
        for name, known in (("sha256", self.sha256), ("md5", self.md5)):
            with path.open("rb") as stream:
                if known and (found := hashlib.file_digest(stream, name).hexdigest()) != known.lower():
                    return f"{name} {found} instead of {known.lower()}"
        if self.crc32 is not None:
            with path.open("rb") as stream:
                crc = reduce(lambda crc, piece: zlib.crc32(piece, crc), iter(partial(stream.read, CHUNK), b""), 0)
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
    with naming(part.path), part.path.open("ab") as stream, byte_progress(remote.name, stream.tell()) as show:
        connection.persist(remote.url, partial(part.receive, connection, stream, show), stream.tell)
    if why := remote.differs(part.path):
        part.path.unlink()
        part.note.unlink()
        todo = "it was deleted, run the same command again or use another source"
        raise UserError(f"{remote.name} from {address(remote.url)} is damaged or another file: {why}; {todo}")
    part.path.replace(target)
    part.note.unlink(missing_ok=True)


class _Part:
    """The unfinished file of `total` bytes (None = not known yet), which a later run can continue with its note."""

    def __init__(self, remote: Remote, target: Path) -> None:
        """Keep the bytes of an earlier run; its note tells the length and the version of the file."""
        self.remote, self.total, self.version = remote, remote.size, ""
        self.path, self.note = (target.with_name(f"{target.name}{end}") for end in UNFINISHED)
        with suppress(UserError, OSError):  # there is no earlier run, or its note is damaged
            note = read_json(self.note, {"size": (int, None), "version": str})
            say(f"{remote.name}: resuming after {self.path.stat().st_size} bytes of an earlier run")
            self.total, self.version = note["size"], note["version"]
            return
        self.path.unlink(missing_ok=True)

    def receive(self, connection: Connection, stream: BinaryIO, show: Callable[[int, int | None], None]) -> None:
        """Request the missing bytes; Lost where some are still missing."""
        remote, have, headers = self.remote, stream.tell(), dict[str, str]()
        if have == self.total:
            return
        # Without a version or a checksum, nothing tells whether two answers are of the same file.
        if remote.first or (have and (self.version or remote.sha256 or remote.md5 or remote.crc32)):
            last = remote.first + (remote.size or 0) - 1 if remote.first else ""
            headers["Range"] = f"bytes={remote.first + have}-{last}"
        with connection.open(remote.url, headers, allowed=(416,) if headers else ()) as response:
            self._accept(response, stream)
            most = UNKNOWN_LENGTH if self.total is None else self.total - stream.tell()
            for piece in connection.pieces(response, most):
                if self.total is None:
                    check_space(self.path.parent, 64 * CHUNK, f"fetching {remote.name}, whose length is unknown,")
                stream.write(piece)
                show(stream.tell(), self.total)
        if self.total not in (None, stream.tell()):
            raise Lost("the answer ended early")

    def _accept(self, response: requests.Response, stream: BinaryIO) -> None:
        """Check the headers of an answer; start again from zero where it is not the continuation of the file."""
        remote, code, have = self.remote, response.status_code, stream.tell()
        if code != 416:
            _reject_page(response)
        first, length = _extent(response)
        if first != remote.first + have and (code == 206 or remote.first):
            raise _rejected(remote.url, f"sends bytes from {first} on instead of those from {remote.first + have} on")
        if remote.first or length is None:
            length = remote.size
        version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        same = version in ("", self.version) and (self.total is None or length in (None, self.total))
        if have and (code != 206 or not same):
            why = f"{remote.name} {'cannot be resumed' if same else 'changed'}: starting it again from zero"
            stream.seek(0)
            stream.truncate()
            if code in (206, 416):
                raise Lost(why)
            say(why)
        if remote.size not in (None, length):
            raise _rejected(remote.url, f"has {length} bytes instead of {remote.size} bytes")
        if not stream.tell():
            self.total, self.version = length, version
            write_json(self.note, {"size": length, "version": version})
        self.total = length if self.total is None else self.total
        check_space(self.path.parent, (self.total or 0) - stream.tell(), f"fetching {remote.name}")


def stored_members(url: str, connection: Connection, names: Sequence[str]) -> list[Remote]:
    """Find the member of a remote zip whose path ends with each name, as a window of the zip's address.

    Only the table at the end of the zip and the header of each member are downloaded. UserError where it is not a zip,
    or a member is missing, ambiguous, compressed or encrypted.
    """

    def read(first: int, last: int) -> tuple[bytes, int]:
        """Bytes `first` to `last`, both inclusive, and the size of the zip."""
        response, content = connection.body(url, {"Range": f"bytes={first}-{last}"}, most=last - first + 1)
        start, size = _extent(response)
        if response.status_code != 206 or start != first or size is None:
            raise _rejected(url, "does not support range requests")
        return content, size

    found = []
    with making_sense(url), tempfile.TemporaryFile() as file:
        _, size = read(0, 0)
        first = max(size - TABLE, 0)
        file.seek(first)  # a sparse file: it has the size of the zip, but uses no space
        file.write(read(first, size - 1)[0])
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        for name in names:
            fitting = [member for member in members if f"/{member.filename}".endswith(f"/{name}")]
            if len(fitting) != 1:
                there = ", ".join(sorted(member.filename for member in fitting or members)[:12]) or "nothing"
                raise UserError(f"{address(url)} contains {len(fitting)} members {name} instead of one; found: {there}")
            (member,) = fitting
            if member.flag_bits & 1 or member.compress_type != zipfile.ZIP_STORED:
                why = "is compressed or encrypted, so it cannot be fetched alone; fetch the whole"
                raise UserError(f"{name} in {address(url)} {why}")
            data = member.header_offset + HEADER
            header, _ = read(member.header_offset, data - 1)
            data += sum(struct.unpack("<HH", header[-4:]))  # the name and the extra field, which follow it
            found.append(Remote(url, name, size=member.file_size, crc32=member.CRC, first=data))
    return found
