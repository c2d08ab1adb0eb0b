"""Download from Kaggle, Hugging Face and Google Drive with their own clients, which are imported when needed.

Each function downloads a source's files into a folder of the cache, resumes after an interruption, and returns facts to
record (a version, a revision). All errors of a client become a UserError; lost connections are retried.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from scpseg.benchmarks.base import Source
from scpseg.data.acquire.sources import without_secrets
from scpseg.data.acquire.space import check_space, size_text
from scpseg.data.acquire.transfer import Connection, Lost, Remote, cause, chain, is_passing
from scpseg.errors import UserError
from scpseg.files import naming, without_room
from scpseg.progress import say

T = TypeVar("T")
TIMEOUT = 60.0  # seconds without an answer, for clients that would wait forever
OFFLINE = frozenset(
    {"ConnectionError", "Timeout", "TimeoutError", "TransportError", "ChunkedEncodingError", "OfflineModeIsEnabled"}
)
"""Names of exception classes that mean: no answer, or the connection was lost."""


def kaggle(source: Source, labels: str, folder: Path, connection: Connection) -> dict[str, str]:
    """Download and unpack a Kaggle data set into `folder`; the client verifies the archive's MD5 from Kaggle."""
    import kagglehub

    _check_space(source, folder, source.disk)
    # With output_dir, the client deletes the part of an interrupted download; its own cache resumes.
    os.environ |= {"KAGGLEHUB_CACHE": str(folder), "DISABLE_KAGGLE_CACHE": "true", "DISABLE_COLAB_CACHE": "true"}
    place = Path(_ask(source, folder, connection, partial(kagglehub.dataset_download, source.address)))
    for file in source.wanted(labels):
        for path in place.rglob(file.name):
            if why := Remote(source.page, file.name, file.size, file.sha256, file.md5).differs(path):
                raise UserError(f"{file.name} of {source.page} is another file: {why}; remove {path} to fetch it again")
    return {"version": place.name}


def huggingface(source: Source, labels: str, folder: Path, connection: Connection) -> dict[str, str]:
    """Download the part of a Hugging Face data set that `source.pattern` selects; verify each file by its SHA-256."""
    import huggingface_hub

    def listing() -> tuple[Any, dict[str, Any]]:
        # Listed first: without a connection, the client would treat the files already there as complete.
        api = huggingface_hub.HfApi()
        commit = api.dataset_info(source.address).sha
        tree = api.list_repo_tree(source.address, repo_type="dataset", revision=commit, recursive=True)
        return commit, {entry.path: entry for entry in tree if hasattr(entry, "size")}

    commit, entries = _ask(source, folder, connection, listing)
    wanted = {path: entry for path, entry in entries.items() if fnmatch(path, source.pattern)}
    if not wanted:
        raise UserError(f"{source.page} contains nothing like {source.pattern} at revision {commit}")
    size = sum(entry.size for entry in wanted.values())
    say(f"{source.name}: revision {commit}, {len(wanted)} files, {size_text(size)}")
    _check_space(source, folder, size)
    fetch = partial(huggingface_hub.snapshot_download, source.address, repo_type="dataset", revision=commit)
    _ask(source, folder, connection, partial(fetch, allow_patterns=source.pattern, local_dir=str(folder)))
    for path, entry in wanted.items():
        if entry.lfs and (why := Remote(source.page, path, sha256=entry.lfs.sha256).differs(folder / path)):
            (folder / path).unlink()
            raise UserError(f"{source.name}: {path} is damaged: {why}; it was removed, run the same command again")
    return {"revision": commit}


def drive(source: Source, labels: str, folder: Path, connection: Connection) -> dict[str, str]:
    """Download the wanted archives of a Google Drive folder."""
    import gdown

    list_folder = partial(gdown.download_folder, id=source.address, skip_download=True, quiet=True, timeout=TIMEOUT)
    listed: Any = _ask(source, folder, connection, list_folder)
    ids = {Path(file.path).name: file.id for file in listed}
    _check_space(source, folder, source.disk)
    names = [file.name for file in source.wanted(labels)]
    if lacking := [name for name in names if name not in ids]:
        there = ", ".join(sorted(ids)) or "nothing"
        raise UserError(f"{source.page} does not contain {' and '.join(lacking)}, only {there}")
    for name in names:
        path = folder / name
        fetch = partial(gdown.download, id=ids[name], output=str(path), resume=True, quiet=True, timeout=TIMEOUT)
        _ask(source, folder, connection, fetch)
        if not zipfile.is_zipfile(path):
            path.unlink()
            why = "as downloaded is not a zip archive and was deleted; try again later"
            raise UserError(f"{source.page}: {name} {why}")
    return {}


def _check_space(source: Source, folder: Path, size: int | None) -> None:
    check_space(folder, max((size or 0) - _bytes_in(folder), 0), f"fetching from {source.name}")


def _ask(source: Source, folder: Path, connection: Connection, call: Callable[[], T]) -> T:
    """Call a client, and again after a lost connection."""

    def attempt() -> T:
        try:
            with naming(folder):
                return call()
        except (UserError, MemoryError):
            raise
        except Exception as error:  # the clients and the libraries below them raise dozens of types
            if without_room(error):
                raise
            code, why = _status(error), f"{source.name}: {reason(error, source.page)}"
            if _offline(error) if code is None else is_passing(code):
                raise Lost(why) from error
            raise UserError(why) from error

    return connection.persist(source.page, attempt, lambda: _bytes_in(folder))


def reason(error: BaseException, page: str) -> str:
    """The meaning of a client's error, as text."""
    code = _status(error)
    words = {
        401: f"requires a login (401): make an access token on its page, or read {page}",
        403: f"refuses access (403): accept the terms on {page} in a browser, then use an access token",
        404: f"does not have it (404), or it is private: look at {page}",
        429: "received too many requests (429): try again later",
    }
    if code in words or (code or 0) >= 500:
        return words.get(code or 0, f"has a server error ({code}): try again later")
    if _offline(error):
        return f"cannot be reached or lost the connection ({cause(error)})"
    text = without_secrets(" ".join(str(error).split()))[:300].rstrip(".")
    return f"stopped with {type(error).__name__} ({text}); look at {page}"


def _offline(error: BaseException) -> bool:
    return any(cls.__name__ in OFFLINE for link in chain(error) for cls in type(link).__mro__)


def _status(error: BaseException) -> int | None:
    """The HTTP status in an error or in one of its causes."""
    codes = (getattr(getattr(link, "response", None), "status_code", None) for link in chain(error))
    return next((code for code in codes if isinstance(code, int)), None)


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a client's threads may still be renaming
            total += path.stat().st_size if path.is_file() else 0
    return total
