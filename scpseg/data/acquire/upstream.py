"""Download a benchmark's archives or files into the cache, from one source after another until one is complete.

A password-protected Seafile share is opened first, and again when its session ends. Protocol (as reported, never tried
on the network): GET the page, which contains a form token; POST token and password with the page as Referer; with the
cookie `sessionid` of the answer, <page>?dl=1 supports range requests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from scpseg.benchmarks.base import Benchmark, Source
from scpseg.data.acquire import clients
from scpseg.data.acquire.manifest import MIRROR_LIST, UPSTREAM, cache_folder, file_size, unusable_cache
from scpseg.data.acquire.space import check_space, size_text
from scpseg.data.acquire.transfer import UNFINISHED, Connection, Remote, making_sense, number, stored_members, transfer
from scpseg.errors import UserError
from scpseg.files import locked, read_json, write_json
from scpseg.params import DataParams
from scpseg.progress import say

T = TypeVar("T")
BY_HAND = "by-hand"
"""Folder for archives or files that the user downloaded; it is used before every source."""
CLIENTS = {"kaggle": clients.kaggle, "huggingface": clients.huggingface, "drive": clients.drive}
WHOLE = ("kaggle", "huggingface")  # kinds of download whose files are known only afterwards
MOST_LISTED = 1000  # maximum number of archives in the list of a mirror
SESSIONS = 6  # of a share that may end during one file before giving up


def acquire(spec: Benchmark, variant: str, data: DataParams, sources: Sequence[Source], connection: Connection) -> Path:
    """The folder in the cache with a benchmark's archives or files; downloads what is missing.

    The folder by-hand is used first, then a source that is complete in the cache, both without a request; then the
    sources are tried in order, each by one process at a time. `variant` is the kind of labels.

    Raises:
        UserError: the cache cannot be made; no source has it all (each is named with its reason, and what to do).
    """
    base = cache_folder(spec.name, data) / UPSTREAM
    if brought(base):
        say(f"{spec.name}: using the files in {base / BY_HAND}")
        return base / BY_HAND
    for source in sources:
        if complete(base, source, variant):
            say(f"{spec.name}: {source.name} is complete in {base / source.folder}")
            return base / source.folder
    if sources:
        say(f"{spec.name}: terms: {spec.terms}\n{spec.name}: please cite: {spec.citation}")
    failed = []
    for count, source in enumerate(sources, 1):
        about = "" if source.download is None else f", {rough(source.download, source)} to fetch"
        say(f"{spec.name}: source {count} of {len(sources)}: {source.name} ({source.page}){about}")
        folder = base / source.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unusable_cache(data, f"{folder} cannot be created ({error.strerror})") from error
        try:
            with locked(base / f".{source.folder}.lock", f"fetching from {source.name}"), making_sense(source.page):
                if not complete(base, source, variant):
                    _record(base, source, fetch(source, variant, folder, connection))
                return folder
        except UserError as error:
            say(f"{spec.name}: {source.name} failed: {error}")
            failed.append(f"{source.name}: {error}")
    why = f"({'; '.join(failed)})" if failed else f"(upstream.{spec.name} names no source)"
    raise UserError(f"{spec.name} cannot be fetched {why}; by hand: {by_hand(spec, base)}")


def fetch(source: Source, labels: str, folder: Path, connection: Connection) -> dict[str, str]:
    """Download and verify the files of a source for a kind of labels, and return facts to record.

    Raises:
        UserError: a download fails, or a file cannot be verified.
    """
    if source.how in CLIENTS:
        return CLIENTS[source.how](source, labels, folder, connection)
    listed = connection.text(f"{source.address}/{MIRROR_LIST}") if source.how == "mirror" else None
    remotes = _in_session(source, connection, partial(_remotes, source, labels, connection, listed))
    for remote in remotes:
        if (host := urlsplit(remote.url).hostname) in connection.unverified and remote.sha256 is None:
            why = f"the SHA-256 of {remote.name} is unknown, so it cannot be verified"
            raise UserError(f"{host} is in upstream.unverified_hosts and {why}; remove it, or use another source")
    lacking = [remote for remote in remotes if not (folder / remote.name).is_file()]
    needed = sum((remote.size or 0) - (file_size(folder / f"{remote.name}.part") or 0) for remote in lacking)
    check_space(folder, needed, f"fetching {len(lacking)} files from {source.name}")
    for remote in remotes:
        _in_session(source, connection, partial(transfer, remote, folder, connection))
    return {"listed": MIRROR_LIST} if listed is not None else {}


def _remotes(source: Source, labels: str, connection: Connection, listed: str | None) -> list[Remote]:
    """The files to download; `listed` is the text of a mirror's archives.json, without it its usual names are used."""
    if listed is not None:
        with making_sense(f"{source.address}/{MIRROR_LIST}"):
            entries = json.loads(listed)["archives"]
            found = [(str(entry["name"]), number(str(entry["size"])), str(entry["sha256"])) for entry in entries]
            if not 0 < len({name for name, _, _ in found}) == len(found) <= MOST_LISTED:
                raise ValueError(f"{len(found)} archives, of which some are duplicated, or too many")
        return [Remote(f"{source.address}/{quote(name)}", name, size, sha256) for name, size, sha256 in found]
    files, inside = source.wanted(labels), f"{source.address}?dl=1"
    if source.how == "members":
        return stored_members(inside, connection, [file.name for file in files])
    urls = {"archive": source.address, "share": inside}
    return [
        Remote(
            urls.get(source.how, f"{source.address}/{quote(file.name)}"), file.name, file.size, file.sha256, file.md5
        )
        for file in files
    ]


def _in_session(source: Source, connection: Connection, work: Callable[[], T]) -> T:
    """Do `work`, in an open share if it is one; if it fails because the session ended, open it again and repeat it."""
    for left in reversed(range(SESSIONS)) if source.how in ("share", "members") else ():
        open_share(connection, source.address, source.password)
        try:
            return work()
        except UserError:
            if not left or not _asks_password(connection.text(source.address) or ""):
                raise
    return work()


def open_share(connection: Connection, url: str, password: str) -> None:
    """Give the password, so that `connection` holds the session's cookie; nothing where the share is open already."""
    page = connection.text(url)
    if page is None:
        raise UserError(f"the share {url} does not exist; look at the benchmark's page")
    if not _asks_password(page):
        return
    field = re.search(r"<input\b[^>]*\bname=[\"']csrfmiddlewaretoken[\"'][^>]*>", page)
    value = re.search(r"\bvalue=[\"']([^\"']+)[\"']", field[0]) if field else None
    token = value[1] if value else connection.cookies.get("sfcsrftoken")
    if not token:
        raise UserError(f"the password form of share {url} has no token; look at it in a browser")
    form = {"csrfmiddlewaretoken": token, "token": urlsplit(url).path.rstrip("/").split("/")[-1], "password": password}
    if _asks_password(connection.text(url, {"Referer": url}, data=form) or ""):
        why = "it may have changed: look at the benchmark's page"
        raise UserError(f"the share {url} does not accept the known password; {why}")


def _asks_password(page: str) -> bool:
    return re.search(r"<input\b[^>]*\bname=[\"']password[\"']", page) is not None


def brought(base: Path) -> bool:
    """Whether the folder by-hand contains anything."""
    folder = base / BY_HAND
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def complete(base: Path, source: Source, variant: str) -> bool:
    """Whether all files for this kind of labels were downloaded from a source, verified, and still exist."""
    record = base / f"{source.folder}.json"
    if not record.is_file():
        return False
    values: dict[str, Any] = read_json(record, {"facts": {str: str}, "files": {str: int}})
    there: dict[str, int] = values["files"]
    if any(file_size(base / source.folder / path) != size for path, size in there.items()):
        return False
    # archives.json lists all archives of its mirror.
    whole = source.how in WHOLE or "listed" in values["facts"]
    return whole or all(file.name in there for file in source.wanted(variant))


def by_hand(spec: Benchmark, base: Path) -> str:
    """What the user can do, as text."""
    return (
        f"{spec.by_hand}, and put the archives or the unpacked files into {base / BY_HAND}, "
        f"or into a folder and set data.source to it; or add the address of a copy to upstream.{spec.name}"
    )


def rough(size: int, source: Source) -> str:
    """A size as text, with 'about' if it is an estimate."""
    return f"about {size_text(size)}" if source.estimated else size_text(size)


def _record(base: Path, source: Source, facts: dict[str, str]) -> None:
    """Record next to the folder which files in it are complete."""
    folder = base / source.folder
    sizes = {path.relative_to(folder).as_posix(): file_size(path) for path in folder.rglob("*") if path.is_file()}
    there = {name: size for name, size in sizes.items() if "/." not in f"/{name}" and not name.endswith(UNFINISHED)}
    write_json(base / f"{source.folder}.json", {"facts": facts, "files": there})
