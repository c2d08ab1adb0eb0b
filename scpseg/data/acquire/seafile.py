"""Download from a password-protected Seafile share: open the share, and reopen it when the session ends.

Protocol (as reported, never tried on the network): GET the page, which contains a form token; POST token and password
with the page as Referer; with the cookie `sessionid` of the answer, <page>?dl=1 supports range requests.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from scpseg.benchmarks.base import Source
from scpseg.data.acquire.http import Connection
from scpseg.data.acquire.space import check_space
from scpseg.data.acquire.transfer import Remote, stored_members, transfer
from scpseg.errors import UserError

T = TypeVar("T")
SESSIONS = 6  # sessions that may end during one file before giving up


def share(source: Source, labels: str, folder: Path, connection: Connection) -> dict[str, str]:
    """Download the file of the share."""
    (file,) = source.wanted(labels)
    remote = Remote(f"{source.address}?dl=1", file.name, size=file.size, sha256=file.sha256, md5=file.md5)
    _in_session(source, connection, lambda: transfer(remote, folder, connection))
    return {}


def members(source: Source, labels: str, folder: Path, connection: Connection) -> dict[str, str]:
    """Download the wanted members of the zip in the share by range requests; verify each by its CRC-32."""
    url, names = f"{source.address}?dl=1", [file.name for file in source.wanted(labels)]
    remotes = _in_session(source, connection, lambda: stored_members(url, connection, names))
    missing = [remote.size or 0 for remote in remotes if not (folder / remote.name).is_file()]
    check_space(folder, sum(missing), f"fetching {len(missing)} archives from {source.name}")
    for remote in remotes:
        _in_session(source, connection, lambda remote=remote: transfer(remote, folder, connection))  # type: ignore[misc]
    return {}


def open_share(connection: Connection, url: str, password: str) -> None:
    """Give the password, so that `connection` holds the session's cookie; nothing where the share is open already."""
    page = connection.text(url)
    if page is None:
        raise UserError(f"the share {url} does not exist; look at the benchmark's page")
    if not asks_password(page):
        return
    field = re.search(r"<input\b[^>]*\bname=[\"']csrfmiddlewaretoken[\"'][^>]*>", page)
    value = re.search(r"\bvalue=[\"']([^\"']+)[\"']", field[0]) if field else None
    token = value[1] if value else connection.session.cookies.get("sfcsrftoken")
    if not token:
        raise UserError(f"the password form of share {url} has no token; look at it in a browser")
    form = {"csrfmiddlewaretoken": token, "token": urlsplit(url).path.rstrip("/").split("/")[-1], "password": password}
    if asks_password(connection.text(url, {"Referer": url}, data=form) or ""):
        raise UserError(
            f"the share {url} does not accept the known password; it may have changed: look at the benchmark's page"
        )


def asks_password(page: str) -> bool:
    """Whether an HTML page has an input for a share's password."""
    return re.search(r"<input\b[^>]*\bname=[\"']password[\"']", page) is not None


def _in_session(source: Source, connection: Connection, work: Callable[[], T]) -> T:
    """Do `work` in an open share; if it fails because the session ended, open the share again and repeat it."""
    for left in reversed(range(SESSIONS)):
        open_share(connection, source.address, source.password)
        try:
            return work()
        except UserError:
            if not left or not asks_password(connection.text(source.address) or ""):
                raise
    raise AssertionError("unreachable")
