"""HTTP requests: bounded in size and time, retried, with verified certificates and answers that make sense."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import struct
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from urllib3.util import Retry

from scpseg.data.acquire.sources import address, without_secrets
from scpseg.errors import UserError
from scpseg.progress import say

USER_AGENT = "scpseg-suite (benchmark downloader)"
TRIES, LONGEST_PAUSE = 6, 120  # seconds, also if a server asks for a longer pause
CONNECT, READ = 20.0, 60.0  # seconds to connect; for the headers of an answer, and between two pieces of its body
SLOWEST = 1 << 10  # bytes per second; an answer that is slower for READ seconds counts as lost
CHUNK, PAGE, LARGEST = 1 << 20, 4 << 20, 1 << 40  # bytes: of a piece; most of a page, of a file
PASSING = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
SENSELESS = (
    *(ArithmeticError, LookupError, TypeError, ValueError, RecursionError, struct.error, zipfile.BadZipFile),
    *(http.client.HTTPException, requests.RequestException, urllib3.exceptions.HTTPError),
)
"""Errors that parsing an answer raises."""
MARKUP = re.compile(rb"\s*<(!doctype|!--|html|head|body|\?xml)", re.IGNORECASE)
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
                wait = None
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
                        wait = Retry(retry_after_max=LONGEST_PAUSE).parse_retry_after(response.headers["Retry-After"])
                failed += 1
                self.pause(url, reason, failed, wait)

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
                    reject_page(response)
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

    def pause(self, url: str, reason: str, failed: int, wait: float | None = None) -> None:
        """Say that try `failed` failed (UserError: the last one); sleep `wait` seconds, or twice as long each time."""
        host = urlsplit(url).hostname
        if failed >= self.tries:
            raise UserError(
                f"{host} failed {failed} times to send {address(url)} ({reason}); check the connection, or try again "
                "later with the same command (downloaded data are kept)"
            )
        seconds = min(2.0 ** (failed - 1) if wait is None else wait, LONGEST_PAUSE)
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


def content_range(response: requests.Response) -> tuple[int, int, int | None]:
    """First and last byte of the body, and the total length if it is known."""
    value = response.headers.get("Content-Range", "").strip()
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", value, re.ASCII)
    if not match or not number(match[1]) <= number(match[2]) < (LARGEST if match[3] == "*" else number(match[3])):
        raise ValueError(f"Content-Range: {value[:80] or 'none'}")
    return number(match[1]), number(match[2]), None if match[3] == "*" else number(match[3])


def reject_page(response: requests.Response, head: bytes = b"") -> None:
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


def version_of(response: requests.Response) -> Version:
    """The version of a file that an answer names."""
    return {"etag": response.headers.get("ETag"), "modified": response.headers.get("Last-Modified")}


def agree(one: Version, other: Version) -> bool:
    """Whether two versions can be the same; if both have an ETag, it alone decides."""
    both = [key for key in ("etag", "modified") if one.get(key) and other.get(key)]
    return not both or one[both[0]] == other[both[0]]
