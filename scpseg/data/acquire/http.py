"""Asking servers and fetching files: bounded in size and time, tried again, resumed after any interruption, verified.

Beside a file `<name>` are, while it is fetched, `<name>.part` and `<name>.part.json`; it has its name only when it is
whole and right.
"""

from __future__ import annotations

import hashlib
import http.client
import itertools
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
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from urllib3.util import Retry

from scpseg.data.acquire.sources import address, without_secrets
from scpseg.data.acquire.space import check_space, full_disk_named
from scpseg.errors import UserError
from scpseg.files import read_json, write_json
from scpseg.progress import byte_progress, say

USER_AGENT = "scpseg-suite (benchmark downloader)"
TRIES, REDIRECTS = 6, 10
LONGEST_PAUSE = 120
"""Seconds; a server that asks for more is asked again after this long."""
CONNECT, READ = 20.0, 60.0
"""Seconds for a connection; for all headers of an answer, and between two pieces of its body."""
SLOWEST = 1 << 10
"""Bytes a second; a server that sends less for READ seconds is treated as one that broke off."""
PROGRESS = 1 << 13
"""Bytes that a try must bring so that it does not count as a failure."""
CHUNK, TABLE, PAGE, LARGEST = 1 << 20, 1 << 20, 4 << 20, 1 << 40
"""Bytes: of a piece, of the end of a remote zip, the largest page or list, the largest file."""
UNKNOWN_LENGTH = 1 << 36
"""Bytes that are taken of a file whose length nobody says."""
PASSING = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
"""Failures that may pass."""
SENSELESS = (
    *(ArithmeticError, LookupError, TypeError, ValueError, RecursionError, struct.error, zipfile.BadZipFile),
    *(http.client.HTTPException, requests.RequestException, urllib3.exceptions.HTTPError),
)
"""What parsing an answer raises."""
MARKUP = re.compile(rb"\s*<(!doctype|!--|html|head|body|\?xml)", re.IGNORECASE)
LOCAL_HEADER, SIGNATURE, ENCRYPTED = 30, b"PK\x03\x04", 0x1
"""Of a zip's member: bytes of its header before name and extra field, how it begins, a flag."""


Show = Callable[[int, int | None], None]


class Lost(Exception):
    """The body of an answer broke off."""


@contextmanager
def making_sense(url: str) -> Iterator[None]:
    """Turn an answer that cannot be parsed into a sentence: the one place where such errors are caught.

    Raises:
        UserError: the block raised an error of parsing.
    """
    try:
        yield
    except SENSELESS as error:
        raise UserError(
            f"{address(url)} gives an answer that makes no sense ({type(error).__name__}: {cause(error)}); "
            "check the address or use another source"
        ) from error


def cause(error: BaseException) -> str:
    """The innermost reason of an error in a few words."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return without_secrets(" ".join(str(text).split()))[:200]


class _Session(requests.Session):
    """Redirects are followed by `Connection`; requests would first read the whole body of each."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class _Bounded:
    """A connection of urllib3 whose answer must have begun, and its headers ended, within its timeout."""

    sock: socket.socket
    timeout: float

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
        with suppress(OSError):  # closed meanwhile
            sock.shutdown(socket.SHUT_RDWR)


class _Adapter(requests.adapters.HTTPAdapter):
    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **options)
        if not issubclass(pool.ConnectionCls, _Bounded):
            pool.ConnectionCls = type("Bounded", (_Bounded, pool.ConnectionCls), {})
        return pool


class Connection:
    """One session (cookies, open connections) with all servers of a download.

    Certificates are checked, redirects watched, failures tried again for a while, then named in one sentence.
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
        """Nothing is asked yet.

        Args:
            unverified_hosts: hosts whose certificates are not checked, each for itself alone, also after redirects.
            connect: seconds to wait for a connection.
            read: seconds to wait for headers, and for the next bytes.
            tries: how often one thing is asked before giving up.
            sleep: waits that many seconds.
        """
        self.session = _Session()
        self.session.mount("http://", _Adapter())
        self.session.mount("https://", _Adapter())
        self.session.headers["User-Agent"] = USER_AGENT
        self.unverified = frozenset(host.lower() for host in unverified_hosts)
        self.timeouts = (connect, read)
        self.tries = tries
        self._sleep = sleep
        self._warned: set[str] = set()

    def open(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        data: Mapping[str, str] | None = None,
        allowed: Collection[int] = (),
    ) -> requests.Response:
        """The answer to a request, its body still to be read. Statuses `allowed` are for the caller to judge.

        Raises:
            UserError: the server cannot be reached, refuses, answers nonsense or has no such thing.
        """
        with making_sense(url):
            for failed in itertools.count(1):
                try:
                    response = self._follow(method, url, dict(headers or {}), data)
                except PASSING as error:
                    _reject_certificate(url, error)
                    reason, asked = cause(error), None
                else:
                    status = response.status_code
                    if status < 300 or status in allowed:
                        return response
                    response.close()
                    if status != 429 and status < 500:
                        raise UserError(_rejection(response))
                    reason, asked = f"{status} {response.reason}", _retry_after(response)
                self.pause(url, reason, failed, asked)
        raise AssertionError("unreachable")

    def text(
        self, url: str, headers: Mapping[str, str] | None = None, *, data: Mapping[str, str] | None = None
    ) -> str | None:
        """The page or list at an address, None where there is none (404); with `data` the answer to that form.

        Raises:
            UserError: as `open`, or it is longer than 4 MiB.
        """
        for failed in itertools.count(1):
            with self.open(url, headers, method="POST" if data else "GET", data=data, allowed=(404,)) as response:
                if response.status_code == 404:
                    return None
                try:
                    return b"".join(self.pieces(response, PAGE, decode=True)).decode("utf-8", "replace")
                except Lost as error:
                    reason = str(error)
            self.pause(url, reason, failed)
        raise AssertionError("unreachable")

    def pieces(self, response: requests.Response, most: int, decode: bool = False) -> Iterator[bytes]:
        """The body of an answer as it comes.

        Raises:
            Lost: it breaks off, or comes too slowly.
            UserError: it has more than `most` bytes.
        """
        total, got, since = 0, 0, time.monotonic()
        while True:
            try:
                piece = response.raw.read1(CHUNK, decode_content=decode)
            except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
                raise Lost(f"the connection broke off ({cause(error)})") from error
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
        """Say that a try failed, and wait: what the server `asked` for in seconds, otherwise twice as long each time.

        Raises:
            UserError: it was the last try, the one number `failed`.
        """
        host = urlsplit(url).hostname
        if failed >= self.tries:
            times = "once" if failed == 1 else f"{failed} times"
            raise UserError(
                f"{host} failed {times} to send {address(url)} ({reason}); check the connection or try again "
                "later with the same command, what has arrived is kept"
            )
        seconds = min(2.0 ** (failed - 1) if asked is None else asked, LONGEST_PAUSE)
        say(f"{host}: {reason}; try {failed + 1} of {self.tries} in {seconds:.0f} s")
        self._sleep(seconds)

    def _follow(
        self, method: str, url: str, headers: dict[str, str], data: Mapping[str, str] | None
    ) -> requests.Response:
        """Redirects one by one, since each host has its own rule for certificates."""
        for _ in range(REDIRECTS + 1):
            response = self._send(method, url, headers, data)
            if not response.is_redirect:
                return response
            response.close()
            target = urljoin(response.url, response.headers["Location"].encode("latin-1").decode("utf-8"))
            here, there = urlsplit(response.url), urlsplit(target)
            if there.scheme not in ("http", "https") or (here.scheme == "https" and there.scheme != "https"):
                raise UserError(
                    f"{address(response.url)} leads to {address(target)}, which is not encrypted; "
                    "give the right address or use another source"
                )
            if here.hostname != there.hostname:
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            if response.status_code == 303 or (method == "POST" and response.status_code in (301, 302)):
                method, data = "HEAD" if method == "HEAD" else "GET", None
            url = target
        raise UserError(
            f"{address(url)} leads from one address to the next more than {REDIRECTS} times; check the address or "
            "use another source"
        )

    def _send(
        self, method: str, url: str, headers: dict[str, str], data: Mapping[str, str] | None
    ) -> requests.Response:
        host = (urlsplit(url).hostname or "").lower()
        verify = host not in self.unverified
        if not verify and host not in self._warned:
            self._warned.add(host)
            say(f"{host}: its certificate is not checked, as upstream.unverified_hosts says")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
            return self.session.request(
                method,
                url,
                headers=headers,
                data=data,
                stream=True,
                timeout=self.timeouts,
                allow_redirects=False,
                verify=verify,
            )


def _reject_certificate(url: str, error: requests.RequestException) -> None:
    """Raise a UserError where a certificate is the reason: trying again would not help."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, ssl.SSLCertVerificationError):
        inner = inner.__cause__ or inner.__context__
    if inner is not None:
        host = urlsplit((error.request.url if error.request else None) or url).hostname
        raise UserError(
            f"the certificate of {host} cannot be verified ({inner.verify_message}); if you trust that host "
            "nevertheless, name it in upstream.unverified_hosts, checksums that are known are still enforced"
        ) from error


def _rejection(response: requests.Response) -> str:
    what = f"{response.status_code} {response.reason}".strip()
    why, todo = "cannot be fetched", "check the address"
    if response.status_code in (401, 403):
        why, todo = "is refused", "log in or accept the terms there in a browser"
    elif response.status_code in (404, 410):
        why = "has nothing"
    return f"{address(response.url)} {why} ({what}); {todo}, or use another source"


def _retry_after(response: requests.Response) -> float | None:
    """Seconds that the server asks to wait; None where it does not say, or nothing that can be understood."""
    try:
        return Retry(retry_after_max=LONGEST_PAUSE).parse_retry_after(response.headers["Retry-After"])
    except SENSELESS:
        return None


def number(digits: str) -> int:
    """A length in a header.

    Raises:
        ValueError: it is not a plain number, or larger than any file.
    """
    if not re.fullmatch(r"[0-9]{1,15}", digits) or int(digits) > LARGEST:
        raise ValueError(f"{digits[:40]!r} is not a length")
    return int(digits)


def _content_range(response: requests.Response) -> tuple[int, int, int | None]:
    """First and last byte that follow, and the whole length where it is known."""
    value = response.headers.get("Content-Range", "").strip()
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", value, re.ASCII)
    if not match or not number(match[1]) <= number(match[2]) < (LARGEST if match[3] == "*" else number(match[3])):
        raise ValueError(f"Content-Range: {value[:80] or 'none'}")
    return number(match[1]), number(match[2]), None if match[3] == "*" else number(match[3])


def _reject_page(response: requests.Response, head: bytes = b"") -> None:
    """Reject what is meant for a browser, by its type or how it begins, or packed on the way."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml") or MARKUP.match(head):
        raise UserError(
            f"{address(response.url)} answers with a web page instead of the file, perhaps to log in or to accept "
            "terms; open it in a browser, or use another source"
        )
    if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
        raise UserError(
            f"{address(response.url)} comes with Content-Encoding {encoding[:40]}, which was not asked for; "
            "use another source"
        )


@dataclass(frozen=True)
class Version:
    """What tells one version of a file from another: the headers ETag and Last-Modified, None where not sent."""

    etag: str | None = None
    modified: str | None = None

    @classmethod
    def of(cls, response: requests.Response) -> Version:
        """The version that an answer names."""
        return cls(response.headers.get("ETag"), response.headers.get("Last-Modified"))

    def agrees(self, other: Version) -> bool:
        """Whether nothing that both name differs; the ETag, where both have it, decides alone."""
        if self.etag and other.etag:
            return self.etag == other.etag
        return not (self.modified and other.modified) or self.modified == other.modified


@dataclass(frozen=True)
class Remote:
    """A file behind an address, or a window of one.

    Attributes:
        url: its address, http or https.
        name: relative posix path of the copy below the folder it goes to.
        size: bytes, where known.
        sha256: hex checksum, where known; so `md5`.
        crc32: a zip's checksum, where known.
        first: where the window [first, first + size) of the address begins; a window needs its `size`.
    """

    url: str
    name: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    crc32: int | None = None
    first: int = 0

    def __post_init__(self) -> None:
        """Reject names that lead elsewhere or are used for something else.

        Raises:
            UserError: the name is absolute, goes up, is hidden, has control characters or ends like an unfinished file.
        """
        path = PurePosixPath(self.name)
        hidden = any(part.startswith(".") for part in path.parts) or not path.name
        unfinished = self.name.endswith((".part", ".part.json"))
        if path.is_absolute() or hidden or unfinished or "\\" in self.name or not self.name.isprintable():
            raise UserError(f"{self.name[:200]!r} of {address(self.url)} is not a safe file name; use another source")

    def differs(self, path: Path) -> str | None:
        """In words, what a file has that this one should not have; None where it is the right one."""
        size = path.stat().st_size
        if self.size not in (None, size):
            return f"it has {size} bytes instead of {self.size}"
        sums = {name: hashlib.new(name, usedforsecurity=False) for name in ("sha256", "md5") if getattr(self, name)}
        if not sums and self.crc32 is None:
            return None
        crc, done = 0, 0
        with path.open("rb") as stream, byte_progress(f"{self.name}: checking") as show:
            while piece := stream.read(CHUNK):
                for state in sums.values():
                    state.update(piece)
                crc = zlib.crc32(piece, crc) if self.crc32 is not None else 0
                done += len(piece)
                show(done, size)
        if self.crc32 not in (None, crc):
            return f"crc32 {crc:08x} instead of {self.crc32:08x}"
        for name, state in sums.items():
            if state.hexdigest() != getattr(self, name).lower():
                return f"{name} {state.hexdigest()} instead of {getattr(self, name).lower()}"
        return None


def transfer(remote: Remote, folder: Path, connection: Connection) -> None:
    """Bring a remote file to `folder`, or find it there.

    Raises:
        UserError: it cannot be fetched, is not what it should be, or the disk is too small.
    """
    target = folder / remote.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with making_sense(remote.url):
        if target.is_file():
            if not (why := remote.differs(target)):
                return
            say(f"{remote.name} is there but {why}; fetching it again")
            target.unlink()
        part = _Part(remote, target)
        with (
            full_disk_named(target.parent, remote.size or 0, f"fetching {remote.name}"),
            part.path.open("ab") as stream,
        ):
            part.receive(connection, stream)
        if why := remote.differs(part.path):
            raise part.rejected(f"is damaged or another file: {why}")
        part.path.replace(target)
        part.origin.unlink(missing_ok=True)


class _Part:
    """The unfinished file, `have` bytes of `total` (None as long as nobody said), that a later run can go on with."""

    def __init__(self, remote: Remote, target: Path) -> None:
        """Take over what an earlier run left, if it can be told to be a part of the same file."""
        self.remote, self.host = remote, urlsplit(remote.url).hostname
        self.path = target.with_name(f"{target.name}.part")
        self.origin = target.with_name(f"{target.name}.part.json")
        self.have, self.total, self.version = 0, remote.size, Version()
        # Addresses may hold secrets, so only their hash is written.
        self.key = hashlib.sha256(remote.url.encode("utf-8", "surrogatepass")).hexdigest()
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size and (why := self._strange(size)):
            say(f"{remote.name}: {size} bytes of an earlier run are not used ({why}); starting from zero")
            self.discard()
            self.total, self.version = remote.size, Version()
        elif size:
            say(f"{remote.name}: going on after {size} bytes of an earlier run")
            self.have = size

    def _strange(self, size: int) -> str | None:
        """Why the bytes on disk cannot be used, or None; sets `version` and `total` from what is noted beside them."""
        try:
            origin = read_json(self.origin, "first", "key", "etag", "modified", "size")
        except (UserError, OSError):
            return "what they are of is not known"
        if origin["first"] != self.remote.first or (self.total or origin["size"]) != origin["size"]:
            return "they are of another file"
        if origin["key"] == self.key:
            self.version = Version(origin["etag"], origin["modified"])
        if not self.provable:
            return "neither the server nor a checksum can tell whether the file is still the same"
        self.total = origin["size"]
        return f"it has only {self.total}" if self.total is not None and size > self.total else None

    @property
    def provable(self) -> bool:
        """Whether bytes of two answers can be told to belong together."""
        return self.version != Version() or any((self.remote.sha256, self.remote.md5, self.remote.crc32))

    def receive(self, connection: Connection, stream: BinaryIO) -> None:
        """Ask for what is missing until nothing is; tries that bring hardly any new bytes are counted."""
        furthest, failed = self.have, 0
        with byte_progress(self.remote.name, self.have) as show:
            while self.have != self.total:
                try:
                    with connection.open(self.remote.url, self._request(), allowed=(416,)) as response:
                        self._accept(response, stream)
                        self._take(response, connection, stream, show)
                except Lost as error:
                    if self.have >= furthest + PROGRESS:
                        furthest, failed = self.have, 0
                    failed += 1
                    connection.pause(self.remote.url, str(error), failed)

    def _request(self) -> dict[str, str]:
        remote, start = self.remote, self.remote.first + self.have
        headers = {"Accept-Encoding": "identity"}
        if remote.first and remote.size:
            headers["Range"] = f"bytes={start}-{remote.first + remote.size - 1}"
        elif self.have and self.provable:
            headers["Range"] = f"bytes={start}-"
        return headers

    def _accept(self, response: requests.Response, stream: BinaryIO) -> None:
        """Prepare to append the body that comes, from zero where the answer demands it."""
        remote, version, place = self.remote, Version.of(response), address(self.remote.url)
        code, ranged = response.status_code, "Range" in response.request.headers
        if code == 416:
            match = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", "").strip(), re.ASCII)
            first, length = remote.first + self.have, number(match[1]) if match else None
        elif code == 206:
            _reject_page(response)
            first, _, length = _content_range(response)
        else:
            _reject_page(response)
            given = response.headers.get("Content-Length")
            first, length = 0, None if given is None else number(given)
        if code != 206 and remote.first:
            raise UserError(f"{place} does not send bytes {remote.first} and following; use another source")
        if not remote.first and length is not None and remote.size not in (None, length):
            raise UserError(
                f"{place} has {length} bytes where {remote.size} bytes are expected; check the address or use another "
                "source"
            )
        total = self.total if remote.first or length is None else length
        same = version.agrees(self.version) and total == (self.total or total) and (code != 416 or length is not None)
        if self.have and not same:
            self._begin(stream, version if code == 200 else Version(), length if code == 200 else remote.size)
            if code != 200:
                raise Lost(f"{remote.name} changed: starting it again from zero")
            say(f"{self.host}: {remote.name} changed: starting it again from zero")
        elif code == 200:
            if self.have:
                say(f"{self.host} cannot go on in the middle of {remote.name}: starting it again from zero")
            self._begin(stream, version, total)
        elif not ranged or first != remote.first + self.have:
            raise UserError(
                f"{place} sends bytes from {first} where bytes from {remote.first + self.have} were asked for; "
                "use another source"
            )
        elif not self.have:
            self._begin(stream, version, total)
        self.total = total
        if total is not None:
            check_space(self.path.parent, total - self.have, f"fetching {remote.name}")

    def _take(self, response: requests.Response, connection: Connection, stream: BinaryIO, show: Show) -> None:
        """Append the body of an answer."""
        for piece in connection.pieces(response, UNKNOWN_LENGTH if self.total is None else LARGEST):
            if response.status_code == 416:
                break
            if not self.have and not self.remote.first:
                _reject_page(response, piece)
            if self.total is not None and self.have + len(piece) > self.total:
                raise self.rejected(f"is longer than {self.total} bytes")
            if self.total is None and (self.have + len(piece)) % (64 * CHUNK) < len(piece):
                check_space(self.path.parent, 64 * CHUNK, f"fetching {self.remote.name}, whose length is unknown,")
            stream.write(piece)
            self.have += len(piece)
            show(self.have, self.total)
        if self.total is None:
            self.total = self.have
        if self.have != self.total:
            raise Lost("the answer ended early")

    def _begin(self, stream: BinaryIO, version: Version, total: int | None) -> None:
        """Start from zero with a file of this version and length."""
        stream.truncate(0)
        self.have, self.total, self.version = 0, total, version
        origin = {"key": self.key, "first": self.remote.first, "size": total}
        write_json(self.origin, {**origin, "etag": version.etag, "modified": version.modified})

    def rejected(self, why: str) -> UserError:
        """Remove it, and the sentence for it."""
        self.discard()
        return UserError(
            f"{self.remote.name} from {self.host} {why}; it was removed, run the same command again or use another "
            "source"
        )

    def discard(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)
        self.origin.unlink(missing_ok=True)


def stored_members(url: str, connection: Connection, names: Sequence[str]) -> list[Remote]:
    """The one member of a remote zip whose path ends with each name, as a window of the zip's address.

    Only the end of the zip is fetched, which holds its table, and the header of each member.

    Raises:
        UserError: it is not a zip, there is no such member or more than one, or it is compressed or encrypted.
    """
    place, found = address(url), []
    with making_sense(url), tempfile.TemporaryFile() as file:
        _, size, version = _range(url, connection, 0, 0)
        first = max(size - TABLE, 0)
        file.truncate(first)  # a file with a hole in front: it has the size of the zip and takes no room
        file.seek(first)
        file.write(_range(url, connection, first, size - 1, size, version)[0])
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        for name in names:
            fitting = [member for member in members if f"/{member.filename}".endswith(f"/{name}")]
            if len(fitting) != 1:
                there = ", ".join(sorted(member.filename for member in fitting or members)[:12]) or "nothing"
                raise UserError(f"{place} holds {len(fitting)} members {name}, one is expected; found: {there}")
            (member,) = fitting
            if member.flag_bits & ENCRYPTED or member.compress_type != zipfile.ZIP_STORED:
                raise UserError(
                    f"{name} in {place} is compressed or encrypted, so it cannot be fetched alone; fetch the whole"
                )
            start, end = member.header_offset, member.header_offset + LOCAL_HEADER
            header = _range(url, connection, start, end - 1, size, version)[0]
            if header[:4] != SIGNATURE:
                raise zipfile.BadZipFile(f"{name} is not where the table of the zip says")
            data = end + sum(struct.unpack("<HH", header[-4:]))
            found.append(Remote(url, name, size=member.file_size, crc32=member.CRC, first=data))
    return found


def _range(
    url: str, connection: Connection, first: int, last: int, size: int | None = None, version: Version | None = None
) -> tuple[bytes, int, Version]:
    """Bytes `first` to `last` of a file, both included, its size and version, which must be those given."""
    place = address(url)
    for failed in itertools.count(1):
        with connection.open(url, {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}) as response:
            _reject_page(response)
            if response.status_code != 206:
                raise UserError(f"{place} does not send parts of the file, as is needed here; use another source")
            start, end, whole = _content_range(response)
            if (start, end) != (first, last) or whole is None:
                raise ValueError(f"bytes {start} to {end} where {first} to {last} were asked for")
            if (size or whole) != whole or not (version or Version()).agrees(Version.of(response)):
                raise UserError(f"{place} changed while it was being read; run the same command again")
            try:
                content = b"".join(connection.pieces(response, last - first + 1))
                if len(content) == last - first + 1:
                    return content, whole, Version.of(response)
                reason = "the answer ended early"
            except Lost as error:
                reason = str(error)
        connection.pause(url, reason, failed)
    raise AssertionError("unreachable")
