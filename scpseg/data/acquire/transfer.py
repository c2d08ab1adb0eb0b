"""The one downloader: resumes after any interruption, verifies while it receives, never leaves a wrong file.

Beside the file `<name>` lie while it is fetched `<name>.part` and `<name>.part.json`, afterwards a hidden note that it
was verified, and a hidden lock, which one process at a time holds.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
import urllib3

from scpseg.data.acquire.answers import (
    Range,
    Version,
    address,
    cause,
    content_length,
    refuse_markup,
    refuse_page,
    unsatisfied,
)
from scpseg.data.acquire.connection import Connection
from scpseg.data.acquire.digests import CHUNK, Digests
from scpseg.data.acquire.manifest import FileRecord
from scpseg.data.acquire.part import Part
from scpseg.data.acquire.remote import Remote, finished, note
from scpseg.data.acquire.space import check_space, full_disk_named
from scpseg.errors import UserError
from scpseg.progress import byte_progress, say

__all__ = ["Remote", "transfer"]
Show = Callable[[int, int | None], None]


def transfer(remote: Remote, folder: Path, connection: Connection) -> FileRecord:
    """Bring a remote file to `folder`, or find it there; a second call reads and fetches nothing.

    Raises:
        UserError: it cannot be had, is not what it should be, or the disk is too small.
    """
    target = folder / remote.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target):
        record = finished(remote, target)
        if record is None:
            with Part(remote, target, Digests(remote.checksums)) as part:
                _receive(part, connection)
                found = part.finish()
            record = note(remote, target, found)
        return record


def _receive(part: Part, connection: Connection) -> None:
    """Ask for what is missing until nothing is; failures count only as long as no new bytes come."""
    furthest, failed = part.have, 0
    with byte_progress(part.remote.name, part.have) as show:
        while part.have != part.total:
            url, missing = part.remote.url, (part.total or part.have) - part.have
            with (
                connection.get(url, _request(part), stream=True, allowed=(416,)) as response,
                full_disk_named(part.path.parent, missing, f"fetching {part.remote.name}"),
            ):
                reason = _body(part, response, show) if _fits(part, response) else None
                part.settle()
            if part.have > furthest:
                furthest, failed = part.have, 0
            if reason:
                failed += 1
                connection.pause(url, reason, failed)


def _request(part: Part) -> dict[str, str]:
    remote, start = part.remote, part.remote.first + part.have
    headers = {"Accept-Encoding": "identity"}
    if remote.first and remote.size:
        headers["Range"] = f"bytes={start}-{remote.first + remote.size - 1}"
    elif part.have and part.provable:
        headers["Range"] = f"bytes={start}-"
    if part.have and part.version.condition:
        headers["If-Range"] = part.version.condition
    return headers


def _fits(part: Part, response: requests.Response) -> bool:
    """Whether the body that comes is to be appended; the part goes back to zero where the answer demands it.

    Raises:
        UserError: the answer is none to what was asked.
    """
    remote, version = part.remote, Version.of(response)
    place = address(remote.url)
    if response.status_code == 416:
        return _beyond(part, version, unsatisfied(response))
    refuse_page(response)
    if response.status_code == 206:
        found, asked = Range.of(response), remote.first + part.have
        other_length = not remote.first and part.total is not None and found.whole not in (None, part.total)
        if not version.agrees(part.version) or other_length:
            part.changed()
            return False
        last = remote.first + part.total - 1 if part.total is not None else found.last
        if "Range" not in response.request.headers or found.first != asked or found.last > last:
            raise UserError(
                f"{place} sends bytes {found.first} to {found.last} where bytes from {asked} were asked for; "
                "take another source"
            )
        if not part.have:
            part.begin(version, remote.size)
        part.version = part.version if part.version.known else version
        part.total = found.whole if part.total is None else part.total
    elif remote.first:
        raise UserError(f"{place} does not send parts of the file, as is needed here; take another source")
    else:
        length = content_length(response)
        if remote.size is not None and length not in (None, remote.size):
            raise _wrong_length(part, length)
        if part.have and (not version.agrees(part.version) or length not in (None, part.total)):
            part.changed()
        elif part.have:
            say(f"{part.host} cannot go on in the middle of {remote.name}: starting it again from zero")
        part.begin(version, length if remote.size is None else remote.size)
    if part.total is not None:
        check_space(part.path.parent, part.total - part.have, f"fetching {remote.name}")
    return True


def _beyond(part: Part, version: Version, whole: int | None) -> bool:
    """The server has no bytes where the part ends: nothing was missing, or the file is not what it was said to be."""
    remote = part.remote
    if remote.first or (whole is not None and remote.size not in (None, whole)):
        raise _wrong_length(part, whole)
    if whole == part.have and version.agrees(part.version):
        part.total = whole
    else:
        part.changed()
    return False


def _body(part: Part, response: requests.Response, show: Show) -> str | None:
    """Take the body of an answer; returns why it broke off, or None."""
    while True:
        try:
            chunk = response.raw.read1(CHUNK, decode_content=False)
        except urllib3.exceptions.HTTPError as error:
            return f"the connection broke off ({cause(error)})"
        if not chunk:
            break
        if not part.have and not part.remote.first:
            refuse_markup(response, chunk)
        part.append(chunk)
        show(part.have, part.total)
    if part.total is None:
        part.total = part.have
    return None if part.have == part.total else "the answer ended early"


def _wrong_length(part: Part, length: int | None) -> UserError:
    remote = part.remote
    expected = (
        f"bytes {remote.first} to {remote.first + (remote.size or 0)}" if remote.first else f"{remote.size} bytes"
    )
    has = "fewer" if length is None else f"{length} bytes"
    return UserError(
        f"{address(remote.url)} has {has} where {expected} are expected; check the address or take another source"
    )


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Wait for another process that fetches the same file; a killed one leaves no lock behind."""
    with target.with_name(f".{target.name}.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{target.name}: waiting for another process that fetches it")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
