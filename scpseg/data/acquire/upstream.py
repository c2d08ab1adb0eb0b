"""Download a benchmark's archives or files into the cache, from one source after another until one is complete.

`survey` describes what is there and what each source offers, and downloads nothing.

A password-protected Seafile share is opened first, and again when its session ends. Protocol (as reported, never tried
on the network): GET the page, which contains a form token; POST token and password with the page as Referer; with the
cookie `sessionid` of the answer, <page>?dl=1 supports range requests.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import requests

from scpseg.benchmarks.base import Benchmark, Source
from scpseg.data.acquire import clients, manifest
from scpseg.data.acquire.manifest import MIRROR_LIST, UPSTREAM, cache_folder, file_size
from scpseg.data.acquire.sources import chosen
from scpseg.data.acquire.space import check_space, free_bytes, size_text
from scpseg.data.acquire.transfer import UNFINISHED, Connection, Remote, making_sense, number, stored_members, transfer
from scpseg.errors import UserError
from scpseg.files import locked, read_json, write_json
from scpseg.params import DataParams, UpstreamParams
from scpseg.progress import say

T = TypeVar("T")
BY_HAND = "by-hand"  # folder for archives or files that the user downloaded; it is used before every source
CLIENTS = {"kaggle": clients.kaggle, "huggingface": clients.huggingface, "drive": clients.drive}
WHOLE = ("kaggle", "huggingface")  # kinds of download whose files are known only afterwards
MOST_LISTED = 1000  # maximum number of archives in the list of a mirror
SESSIONS = 6  # of a share that may end during one file before giving up
SECONDS = 5.0  # that a server may take to say that it is there
# Addresses and paths are kept whole.
WRAPPER = textwrap.TextWrapper(118, "  ", "    ", break_long_words=False, break_on_hyphens=False)
COLUMNS = (18, 18, 30, 22, 22)
HEAD = ("source", "reachable", "in the cache", "to fetch", "disk in the cache")


def acquire(spec: Benchmark, variant: str, data: DataParams, sources: Sequence[Source], connection: Connection) -> Path:
    """The folder in the cache with a benchmark's archives or files; downloads what is missing.

    The folder by-hand is used first, then a source that is complete in the cache, both without a request; then the
    sources are tried in order, each by one process at a time. `variant` is the kind of labels. UserError where none has
    it all (each is named with its reason, and what to do).
    """
    base = cache_folder(spec.name, data) / UPSTREAM
    if _brought(base):
        say(f"{spec.name}: using the files in {base / BY_HAND}")
        return base / BY_HAND
    for source in sources:
        if _complete(base, source, variant):
            say(f"{spec.name}: {source.name} is complete in {base / source.folder}")
            return base / source.folder
    if sources:
        say(f"{spec.name}: terms: {spec.terms}\n{spec.name}: please cite: {spec.citation}")
    failed = []
    for count, source in enumerate(sources, 1):
        about = "" if source.download is None else f", {_rough(source.download, source)} to fetch"
        say(f"{spec.name}: source {count} of {len(sources)}: {source.name} ({source.page}){about}")
        folder = base / source.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(base / f".{source.folder}.lock", f"fetching from {source.name}"), making_sense(source.page):
                if not _complete(base, source, variant):
                    _record(base, source, fetch(source, variant, folder, connection))
                return folder
        except UserError as error:
            say(f"{spec.name}: {source.name} failed: {error}")
            failed.append(f"{source.name}: {error}")
    why = f"({'; '.join(failed)})" if failed else f"(upstream.{spec.name} names no source)"
    raise UserError(f"{spec.name} cannot be fetched {why}; by hand: {_by_hand(spec, base)}")


def fetch(source: Source, labels: str, folder: Path, connection: Connection) -> dict[str, str]:
    """Download the files of a source for a kind of labels, and return facts to record; UserError if one is wrong."""
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
    places = ((file, urls.get(source.how, f"{source.address}/{quote(file.name)}")) for file in files)
    return [Remote(url, file.name, file.size, file.sha256, file.md5) for file, url in places]


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


def _brought(base: Path) -> bool:
    """Whether the folder by-hand contains anything."""
    return any(not path.name.startswith(".") for path in (base / BY_HAND).glob("*"))


def _complete(base: Path, source: Source, variant: str) -> bool:
    """Whether all files for this kind of labels were downloaded from a source, verified, and still exist."""
    record = base / f"{source.folder}.json"
    if not record.is_file():
        return False
    values: dict[str, Any] = read_json(record, {"facts": {str: str}, "files": {str: int}})
    there: dict[str, int] = values["files"]
    # archives.json lists all archives of its mirror.
    whole = source.how in WHOLE or "listed" in values["facts"]
    kept = all(file_size(base / source.folder / path) == size for path, size in there.items())
    return kept and (whole or all(file.name in there for file in source.wanted(variant)))


def _record(base: Path, source: Source, facts: dict[str, str]) -> None:
    """Record next to the folder which files in it are complete."""
    folder = base / source.folder
    sizes = {path.relative_to(folder).as_posix(): file_size(path) for path in folder.rglob("*") if path.is_file()}
    there = {name: size for name, size in sizes.items() if "/." not in f"/{name}" and not name.endswith(UNFINISHED)}
    write_json(base / f"{source.folder}.json", {"facts": facts, "files": there})


def _by_hand(spec: Benchmark, base: Path) -> str:
    """What the user can do, as text."""
    return (
        f"{spec.by_hand}, and put the archives or the unpacked files into {base / BY_HAND}, "
        f"or into a folder and set data.source to it; or add the address of a copy to upstream.{spec.name}"
    )


def _rough(size: int | None, source: Source) -> str:
    """A size as text, with 'about' if it is an estimate."""
    return "unknown" if size is None else f"about {size_text(size)}" if source.estimated else size_text(size)


def survey(
    spec: Benchmark, labels: str, data: DataParams, upstream: UpstreamParams, store: Path, needed: int
) -> list[str]:
    """The state of one benchmark, as lines of text; fetches and writes nothing.

    Its store (of `needed` bytes when it is whole), its sources, and what a person must do. UserError where the cache
    cannot be used, or its records are damaged.
    """
    state = "prepared" if (store / "index.json").is_file() else "not prepared"
    needs = f"needs about {size_text(needed)}, {size_text(free_bytes(store))} free"
    lines = [f"{spec.name}, labels {labels}", f"  store {store.as_posix()}: {state}; {needs}"]
    if not manifest.from_network(data):
        return lines + WRAPPER.wrap(f"source {data.source}: {_local(spec, labels, data)}")
    base = cache_folder(spec.name, data) / UPSTREAM
    lines.append(f"  cache {base.parent}: {size_text(free_bytes(base))} free")
    if _brought(base):
        lines += WRAPPER.wrap(f"files in {base / BY_HAND} are used before every source")
    sources, notes = chosen(spec, data, upstream), []
    with ThreadPoolExecutor() as pool:
        answers = pool.map(partial(_reachable, upstream), sources)
    rows = [HEAD] if sources else []
    for source, answer in zip(sources, answers, strict=True):
        there, fetch, lacking = _there(base, source, labels)
        rows.append((source.name, answer, there, fetch, _rough(source.disk, source)))
        notes += WRAPPER.wrap(f"missing of {source.name}: {', '.join(lacking)}") if lacking else []
        notes += WRAPPER.wrap(f"{source.name}: {source.notes}") if source.notes else []
    cells = ([f"{cell:{width - 2}}" for cell, width in zip(row, COLUMNS, strict=True)] for row in rows)
    lines += [f"  {'  '.join(row)}".rstrip() for row in cells] or WRAPPER.wrap(f"upstream.{spec.name} names no source")
    return [*lines, *notes, *WRAPPER.wrap(f"without any source, by hand: {_by_hand(spec, base)}")]


def _reachable(upstream: UpstreamParams, source: Source) -> str:
    """Whether the server of a source answers, in a word or two."""
    url = source.address if "://" in source.address else source.page
    url += f"/{source.files[0].name}" if source.how == "files" else ""
    connection = Connection(upstream.unverified_hosts, connect=SECONDS, read=SECONDS, tries=1)
    try:
        with connection.open(url, method="HEAD", allowed=range(400, 600)) as response:
            status = response.status_code
    except UserError as error:
        return "bad certificate" if isinstance(error.__context__, requests.exceptions.SSLError) else "no answer"
    return "yes" if status < 400 or status == 405 else f"answers {status}"


def _there(base: Path, source: Source, labels: str) -> tuple[str, str, list[str]]:
    """What is in the cache, what is to be fetched, and where some files are there, the names of the others."""
    if _complete(base, source, labels):
        return "complete, verified", "nothing", []
    folder, client = base / source.folder, source.how in WHOLE
    names = [file.name for file in source.wanted(labels)]
    paths = folder.rglob("*") if client else (folder / f"{name}{end}" for name in names for end in ("", ".part"))
    have = sum(file_size(path) or 0 for path in paths)
    fetch = _rough(source.download and max(source.download - have, 0), source)
    # A file is renamed only after it is complete and verified.
    lacking = [name for name in names if not (folder / name).is_file()]
    if client or len(lacking) == len(names):
        return f"{size_text(have)} of a part" if have else "nothing", fetch, []
    return f"{len(names) - len(lacking)} of {len(names)} files verified", fetch, lacking


def _local(spec: Benchmark, labels: str, data: DataParams) -> str:
    """Contents of the mirror or the user's folder."""
    try:
        folder = manifest.source_folder(spec.name, data)
        found = manifest.find(spec, labels, data, folder)
    except UserError as error:
        return str(error)
    parts = [part for group in found.groups for part in group.parts]
    size = size_text(sum(file_size(folder / path) or 0 for path in (*found.loose, *parts)))
    kinds = [f"{len(found.loose)} loose images and labels"] if found.loose else []
    kinds += [f"archives {', '.join(group.name for group in found.groups)}"] if found.groups else []
    return f"{' and '.join(kinds)}, {size}" if kinds else f"nothing of {spec.name}"
