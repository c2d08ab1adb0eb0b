"""What a server's answer says: which bytes, of which version of a file, or just a page for people."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests

from scpseg.errors import UserError

MARKUP = re.compile(rb"\s*<(!doctype|!--|html|head|body|\?xml)", re.IGNORECASE)


@dataclass(frozen=True)
class Version:
    """What tells one version of a file from another: the headers ETag and Last-Modified, None where not sent."""

    etag: str | None = None
    last_modified: str | None = None

    @classmethod
    def of(cls, response: requests.Response) -> Version:
        """The version that an answer names."""
        return cls(response.headers.get("ETag"), response.headers.get("Last-Modified"))

    @property
    def known(self) -> bool:
        """Whether a change could be noticed."""
        return bool(self.etag or self.last_modified)

    @property
    def condition(self) -> str | None:
        """Value of If-Range; a weak ETag never holds there (RFC 9110, 13.1.5)."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified

    def agrees(self, other: Version) -> bool:
        """Whether nothing that both name differs; the ETag, where both have it, decides alone."""
        if self.etag and other.etag:
            return self.etag == other.etag
        return not (self.last_modified and other.last_modified) or self.last_modified == other.last_modified


@dataclass(frozen=True)
class Range:
    """Header Content-Range: first and last byte that follow, and the whole length or None."""

    first: int
    last: int
    whole: int | None

    @classmethod
    def of(cls, response: requests.Response) -> Range:
        """The range that an answer 206 holds.

        Raises:
            UserError: the header is missing or makes no sense.
        """
        value = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", value.strip())
        if not match or int(match[1]) > int(match[2]):
            raise UserError(
                f"{address(response.url)} sends a part of the file with the header Content-Range: {value or 'none'}, "
                "which makes no sense; take another source"
            )
        return cls(int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3]))


def unsatisfied(response: requests.Response) -> int | None:
    """The whole length that an answer 416 names, or None."""
    match = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", "").strip())
    return int(match[1]) if match else None


def content_length(response: requests.Response) -> int | None:
    """Bytes of the body as announced, or None."""
    value = response.headers.get("Content-Length", "")
    return int(value) if value.isdigit() else None


def refuse_page(response: requests.Response) -> None:
    """Refuse what is meant for a browser, or packed on the way.

    Raises:
        UserError: the content's type is HTML, or it is encoded.
    """
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise _page(response)
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise UserError(
            f"{address(response.url)} comes with Content-Encoding {encoding}, which was not asked for; "
            "take another source"
        )


def refuse_markup(response: requests.Response, head: bytes) -> None:
    """Refuse a file that begins as a page for a browser does.

    Raises:
        UserError: it does.
    """
    if MARKUP.match(head):
        raise _page(response)


def address(url: str) -> str:
    """An address for people: without user, password and query, which may hold secrets."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def cause(error: BaseException) -> str:
    """The innermost reason of an error in a few words."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _page(response: requests.Response) -> UserError:
    return UserError(
        f"{address(response.url)} answers with a web page instead of the file, perhaps to log in or to accept terms; "
        "open it in a browser, or take another source"
    )
