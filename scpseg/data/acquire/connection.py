"""Asking servers: certificates checked, redirects watched, failures tried again for a while, then one sentence."""

from __future__ import annotations

import email.utils
import ssl
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from scpseg.data.acquire.answers import address, cause
from scpseg.errors import UserError
from scpseg.progress import say

USER_AGENT = "scpseg-suite (benchmark downloader)"
TRIES = 6
LONGEST_PAUSE = 120.0
"""Seconds; a server that asks for more is asked again after this long."""
REDIRECTS = 10
PASSING = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
"""Failures that may pass."""


class Connection:
    """One session (cookies, open connections) with all servers of a download."""

    def __init__(
        self,
        unverified_hosts: Sequence[str] = (),
        *,
        connect: float = 20.0,
        read: float = 60.0,
        tries: int = TRIES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Nothing is asked yet.

        Args:
            unverified_hosts: hosts whose certificates are not checked, each for itself alone, also after redirects.
            connect: seconds to wait for a connection.
            read: seconds to wait for the next bytes.
            tries: how often one thing is asked before giving up.
            sleep: waits that many seconds.
        """
        self.session = requests.Session()
        self.session.headers["User-Agent"] = USER_AGENT
        self.unverified = frozenset(host.lower() for host in unverified_hosts)
        self.timeouts = (connect, read)
        self.tries = tries
        self._sleep = sleep
        self._warned: set[str] = set()

    def get(
        self, url: str, headers: Mapping[str, str] | None = None, stream: bool = False, allowed: Collection[int] = ()
    ) -> requests.Response:
        """The answer to GET; with `stream` its body is left to be read. Statuses `allowed` are the caller's to judge.

        Raises:
            UserError: the server cannot be reached, refuses, or has no such thing.
        """
        return self._ask("GET", url, headers, stream, None, allowed)

    def head(
        self, url: str, headers: Mapping[str, str] | None = None, allowed: Collection[int] = ()
    ) -> requests.Response:
        """The answer to HEAD; otherwise as `get`."""
        return self._ask("HEAD", url, headers, False, None, allowed)

    def post(
        self,
        url: str,
        data: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        allowed: Collection[int] = (),
    ) -> requests.Response:
        """The answer to a form that is sent; otherwise as `get`."""
        return self._ask("POST", url, headers, False, data, allowed)

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

    def _ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        stream: bool,
        data: Mapping[str, str] | None,
        allowed: Collection[int],
    ) -> requests.Response:
        failed = 0
        while True:
            try:
                response = self._follow(method, url, dict(headers or {}), stream, data)
            except PASSING as error:
                _refuse_certificate(error)
                reason, asked = cause(error), None
            else:
                status = response.status_code
                if status < 300 or status in allowed:
                    return response
                response.close()
                if status != 429 and status < 500:
                    raise UserError(_refusal(response))
                reason, asked = f"{status} {response.reason}", _retry_after(response)
            failed += 1
            self.pause(url, reason, failed, asked)

    def _follow(
        self, method: str, url: str, headers: dict[str, str], stream: bool, data: Mapping[str, str] | None
    ) -> requests.Response:
        """Redirects one by one, since each host has its own rule for certificates."""
        for _ in range(REDIRECTS + 1):
            response = self._send(method, url, headers, stream, data)
            location = self.session.get_redirect_target(response)
            if location is None:
                return response
            response.close()
            target = urljoin(response.url, location)
            here, there = urlsplit(response.url), urlsplit(target)
            if here.scheme == "https" and there.scheme != "https":
                raise UserError(
                    f"{address(response.url)} leads to {address(target)}, which is not encrypted; "
                    "give the right address or take another source"
                )
            if here.hostname != there.hostname:
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            if response.status_code == 303 or (method == "POST" and response.status_code in (301, 302)):
                method, data = "HEAD" if method == "HEAD" else "GET", None
            url = target
        raise UserError(
            f"{address(url)} leads from one address to the next more than {REDIRECTS} times; check the address or "
            "take another source"
        )

    def _send(
        self, method: str, url: str, headers: dict[str, str], stream: bool, data: Mapping[str, str] | None
    ) -> requests.Response:
        host = (urlsplit(url).hostname or "").lower()
        options: dict[str, Any] = {
            "headers": headers,
            "data": data,
            "stream": stream,
            "timeout": self.timeouts,
            "allow_redirects": False,
        }
        try:
            if host not in self.unverified:
                return self.session.request(method, url, verify=True, **options)
            if host not in self._warned:
                self._warned.add(host)
                say(f"{host}: its certificate is not checked, as upstream.unverified_hosts says")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
                return self.session.request(method, url, verify=False, **options)
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
            raise UserError(f"{url!r} is no address that can be fetched; give one with http:// or https://") from None


def _refuse_certificate(error: BaseException) -> None:
    """Raise a UserError where a certificate is the reason: trying again would not help."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, ssl.SSLCertVerificationError):
        inner = inner.__cause__ or inner.__context__
    if inner is None:
        return
    request = getattr(error, "request", None)
    host = urlsplit(request.url).hostname if request is not None else "the server"
    raise UserError(
        f"the certificate of {host} cannot be verified ({inner.verify_message}); if you trust that host "
        "nevertheless, name it in upstream.unverified_hosts, checksums that are known are still enforced"
    ) from None


def _refusal(response: requests.Response) -> str:
    what = f"{response.status_code} {response.reason}".strip()
    place = address(response.url)
    if response.status_code in (401, 403):
        return f"{place} is refused ({what}); log in or accept the terms there in a browser, or take another source"
    if response.status_code in (404, 410):
        return f"there is nothing at {place} ({what}); check the address or take another source"
    return f"{place} cannot be fetched ({what}); check the address or take another source"


def _retry_after(response: requests.Response) -> float | None:
    """Seconds that the server asks to wait, given as such or as a date; None where it does not say."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(moment.timestamp() - time.time(), 0.0)
