"""Download a benchmark's archives or files into the cache, from one source after another until one is complete."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from scpseg.benchmarks.base import Benchmark, Source
from scpseg.data.acquire import clients, manifest
from scpseg.data.acquire.manifest import MIRROR_LIST, UPSTREAM, cache_folder
from scpseg.data.acquire.sources import below, chosen
from scpseg.data.acquire.space import check_space, free_bytes, size_text
from scpseg.data.acquire.transfer import UNFINISHED, Connection, Lost, Remote, making_sense, stored_members, transfer
from scpseg.errors import UserError
from scpseg.files import bytes_in, file_size, locked, read_json, write_json
from scpseg.params import DataParams, UpstreamParams
from scpseg.progress import say

T = TypeVar("T")
BY_HAND = "by-hand"  # folder for archives or files that the user downloaded; it is used before every source
CLIENTS = {"kaggle": clients.kaggle, "huggingface": clients.huggingface, "drive": clients.drive}
PASSWORD = re.compile(r"<input\b[^>]*\bname=[\"']password[\"']")  # in the page of a share that asks for it
SESSIONS = 6  # of a share that may end during one file before giving up
# Addresses and paths are kept whole.
WRAPPER = textwrap.TextWrapper(118, "  ", "    ", break_long_words=False, break_on_hyphens=False)


def acquire(spec: Benchmark, variant: str, data: DataParams, sources: Sequence[Source], connection: Connection) -> Path:
    """The folder in the cache with a benchmark's archives or files; downloads what is missing.

    The folder by-hand is used first, then a source that is complete in the cache; then the sources are tried in order,
    each by one process at a time. `variant` is the kind of labels. UserError where none has it all.
    """
    base = cache_folder(spec.name, data) / UPSTREAM
    if _brought(base):
        say(f"{spec.name}: using the files in {base / BY_HAND}")
        return base / BY_HAND
    for source in sources:
        if _complete(base, source, variant):
            say(f"{spec.name}: {source.name} is complete in {base / source.folder}")
            return base / source.folder
    say(f"{spec.name}: terms: {spec.terms}\n{spec.name}: please cite: {spec.citation}")
    failed = []
    for count, source in enumerate(sources, 1):
        size = _rough(source.download, source)
        say(f"{spec.name}: source {count} of {len(sources)}: {source.name} ({source.page}), {size} to fetch")
        folder = base / source.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(base / f".{source.folder}.lock", f"fetching from {source.name}"), making_sense(source.page):
                if not _complete(base, source, variant):
                    _record(base, source, variant, fetch(source, variant, folder, connection))
                return folder
        except UserError as error:
            say(f"{spec.name}: {source.name} failed: {error}")
            failed.append(f"{source.name}: {error}")
    why = f"({'; '.join(failed)})" if failed else f"(upstream.{spec.name} names no source)"
    raise UserError(f"{spec.name} cannot be fetched {why}; by hand: {_by_hand(spec, base)}")


def fetch(source: Source, labels: str, folder: Path, connection: Connection) -> dict[str, str]:
    """Download the files of a source for a kind of labels, and return facts to record; UserError if one is wrong."""
    if source.how in CLIENTS:
        check_space(folder, (source.disk or 0) - bytes_in(folder), f"fetching from {source.name}")
        return CLIENTS[source.how](source, labels, folder, connection)
    remotes = _in_session(source, connection, partial(_remotes, source, labels, connection))
    for remote in remotes:
        if (host := urlsplit(remote.url).hostname) in connection.unverified and remote.sha256 is None:
            why = f"the SHA-256 of {remote.name} is unknown, so it cannot be verified"
            raise UserError(f"{host} is in upstream.unverified_hosts and {why}; remove it, or use another source")
    lacking = [remote for remote in remotes if not (folder / remote.name).is_file()]
    needed = sum((remote.size or 0) - (file_size(folder / f"{remote.name}.part") or 0) for remote in lacking)
    check_space(folder, needed, f"fetching {len(lacking)} files from {source.name}")
    for remote in remotes:
        _in_session(source, connection, partial(transfer, remote, folder, connection))
    return {}


def _remotes(source: Source, labels: str, connection: Connection) -> list[Remote]:
    """The files to download: those that a mirror lists in archives.json, else those that are known of the source."""
    list_url, inside = below(source.address, MIRROR_LIST), f"{source.address}?dl=1"
    if source.how == "mirror":
        response, listed = connection.body(list_url, allowed=(404,))
        if response.status_code != 404:
            with making_sense(list_url):
                entries = [(str(e["name"]), int(e["size"]), str(e["sha256"])) for e in json.loads(listed)["archives"]]
                if not entries:
                    raise ValueError("it names no archive")
                return [Remote(below(source.address, name), name, size, sha) for name, size, sha in entries]
    files = source.wanted(labels)
    if source.how == "members":
        return stored_members(inside, connection, [file.name for file in files])
    whole = {"archive": source.address, "share": inside}.get(source.how)
    urls = [whole or below(source.address, file.name) for file in files]
    return [Remote(url, file.name, file.size, file.sha256, file.md5) for url, file in zip(urls, files, strict=True)]


def _in_session(source: Source, connection: Connection, work: Callable[[], T]) -> T:
    """Do `work`, in an open share if it is one; if it fails because the session ended, open it again and repeat it."""
    for left in reversed(range(SESSIONS)) if source.how in ("share", "members") else ():
        open_share(connection, source.address, source.password)
        try:
            return work()
        except UserError:
            if not left or not PASSWORD.search(connection.text(source.address)):
                raise
    return work()


def open_share(connection: Connection, url: str, password: str) -> None:
    """Open a Seafile share, so that `connection` holds its session's cookie; nothing where it asks for no password.

    As reported, never tried on the network: its page contains a form token, which is sent with the password and the
    page as Referer; with the cookie `sessionid` of the answer, <page>?dl=1 supports range requests.
    """
    page = connection.text(url)
    if not PASSWORD.search(page):
        return
    field = re.search(r"<input\b(?=[^>]*\bname=[\"']csrfmiddlewaretoken)[^>]*\bvalue=[\"']([^\"']+)", page)
    token = field[1] if field else connection.cookies.get("sfcsrftoken")
    if not token:
        raise UserError(f"the password form of share {url} has no token; look at it in a browser")
    form = {"csrfmiddlewaretoken": token, "token": urlsplit(url).path.rstrip("/").split("/")[-1], "password": password}
    if PASSWORD.search(connection.text(url, {"Referer": url}, data=form)):
        raise UserError(f"the share {url} does not accept the known password; look at the benchmark's page")


def _brought(base: Path) -> bool:
    """Whether the folder by-hand contains anything."""
    return any(not path.name.startswith(".") for path in (base / BY_HAND).glob("*"))


def _complete(base: Path, source: Source, labels: str) -> bool:
    """Whether the files for this kind of labels were downloaded from a source, verified, and still exist."""
    record = base / f"{source.folder}-{labels}.json"
    if not record.is_file():
        return False
    sizes: dict[str, int] = read_json(record, {"files": {str: int}})["files"]
    return all(file_size(base / source.folder / path) == size for path, size in sizes.items())


def _record(base: Path, source: Source, labels: str, facts: dict[str, str]) -> None:
    """Record next to the folder which files in it are complete."""
    folder = base / source.folder
    there = {name: file_size(folder / name) for name in manifest.walk(folder) if not name.endswith(UNFINISHED)}
    write_json(base / f"{source.folder}-{labels}.json", {"facts": facts, "files": there})


def _by_hand(spec: Benchmark, base: Path) -> str:
    """What the user can do, as text."""
    todo = f"or into a folder and set data.source to it; or add the address of a copy to upstream.{spec.name}"
    return f"{spec.by_hand}, and put the archives or the unpacked files into {base / BY_HAND}, {todo}"


def _rough(size: int | None, source: Source) -> str:
    """A size as text, with 'about' if it is an estimate."""
    return "an unknown size" if size is None else f"about {size_text(size)}" if source.estimated else size_text(size)


def survey(
    spec: Benchmark, labels: str, data: DataParams, upstream: UpstreamParams, store: Path, needed: int
) -> list[str]:
    """Lines of text on the store of a benchmark (of `needed` bytes), its sources, and what a person must do.

    Nothing is fetched or written. UserError where the cache cannot be used, or its records are damaged.
    """
    state = "prepared" if (store / "index.json").is_file() else "not prepared"
    needs = f"needs about {size_text(needed)}, {size_text(free_bytes(store))} free"
    facts = [f"store {store.as_posix()}: {state}; {needs}"]
    if not manifest.from_network(data):
        try:
            loose, groups = manifest.find(spec, labels, data)
            held = f"{len(loose)} loose images and labels, archives: {', '.join(one.name for one in groups) or 'none'}"
        except UserError as error:
            held = str(error)
        facts.append(f"source {data.source}: {held}")
    else:
        base, sources = cache_folder(spec.name, data) / UPSTREAM, chosen(spec, data, upstream)
        facts.append(f"cache {base.parent}: {size_text(free_bytes(base))} free")
        if _brought(base):
            facts.append(f"files in {base / BY_HAND} are used before every source")
        connection = Connection(upstream.unverified_hosts, read=5.0, tries=1)
        for source in sources:
            facts.append(f"source {source.name}: {_offer(connection, base, source, labels)}. {source.notes}")
        if not sources:
            facts.append(f"upstream.{spec.name} names no source")
        facts.append(f"without any source, by hand: {_by_hand(spec, base)}")
    return [f"{spec.name}, labels {labels}", *(line for fact in facts for line in WRAPPER.wrap(fact))]


def _offer(connection: Connection, base: Path, source: Source, labels: str) -> str:
    """Whether a source answers, what of it is in the cache, and what is to be fetched."""
    url = source.address if "://" in source.address else source.page
    url += f"/{source.files[0].name}" if source.how == "files" else ""
    answer = "reachable"
    try:
        with making_sense(url):
            connection.open(url, method="HEAD", allowed=(405,)).close()
    except Lost as error:
        answer = f"no answer ({error})"
    except UserError as error:
        answer = str(error).partition(";")[0]  # without what to do
    if _complete(base, source, labels):
        return f"{answer}; complete and verified in the cache"
    have, names = bytes_in(base / source.folder), [file.name for file in source.wanted(labels)]
    # A file is renamed only after it is complete and verified. Those of two clients are known only then.
    lacking = [name for name in names if not (base / source.folder / name).is_file()]
    there = f"{size_text(have)} of a part" if have else "nothing"
    if source.how not in ("kaggle", "huggingface") and len(lacking) < len(names):
        there = f"{len(names) - len(lacking)} of {len(names)} files verified, without {' and '.join(lacking)},"
    fetch = _rough(source.download and max(source.download - have, 0), source)
    return f"{answer}; {there} in the cache; {fetch} to fetch; {_rough(source.disk, source)} on disk when complete"
