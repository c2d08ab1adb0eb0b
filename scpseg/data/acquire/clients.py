"""Download from Kaggle, Hugging Face and Google Drive with their own clients, which are imported when needed.

Each function resumes a download into a folder of the cache, and returns facts to record (a version, a revision). All
errors of a client become a UserError; lost connections are retried.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from scpseg.benchmarks.base import Source
from scpseg.data.acquire.sources import without_secrets
from scpseg.data.acquire.space import size_text
from scpseg.data.acquire.transfer import Connection, Lost, Remote, cause
from scpseg.errors import UserError
from scpseg.files import bytes_in, chain, naming, without_room
from scpseg.progress import say

T = TypeVar("T")
TIMEOUT = 60.0  # seconds without an answer, for clients that would wait forever
OFFLINE = frozenset({"ConnectionError", "Timeout", "TimeoutError", "TransportError", "ChunkedEncodingError"})
"""Names of exception classes that mean: no answer, or the connection was lost."""


def kaggle(source: Source, labels: str, folder: Path, connection: Connection) -> dict[str, str]:
    """Download and unpack a Kaggle data set into `folder`; the client verifies the archive's MD5 from Kaggle."""
    import kagglehub

    # With output_dir, the client deletes the part of an interrupted download; its own cache resumes.
    os.environ |= {"KAGGLEHUB_CACHE": str(folder), "DISABLE_KAGGLE_CACHE": "true", "DISABLE_COLAB_CACHE": "true"}
    place = Path(_ask(source, folder, connection, partial(kagglehub.dataset_download, source.address)))
    for file in source.wanted(labels):
        for path in place.rglob(file.name):
            if why := Remote(source.page, file.name, file.size, file.sha256, file.md5).differs(path):
                todo = f"remove {folder} to fetch it again, or use another source"
                raise UserError(f"{file.name} of {source.page} is another file: {why}; {todo}")
    return {"version": place.name}


def huggingface(source: Source, labels: str, folder: Path, connection: Connection) -> dict[str, str]:
    """Download the part of a Hugging Face data set that `source.pattern` selects; verify each file by its SHA-256."""
    import huggingface_hub

    # Listed first: without a connection, the client would treat the files already there as complete.
    listing = partial(huggingface_hub.HfApi().dataset_info, source.address, files_metadata=True)
    info: Any = _ask(source, folder, connection, listing)
    wanted = [file for file in info.siblings if fnmatch(file.rfilename, source.pattern)]
    if not wanted:
        raise UserError(f"{source.page} contains nothing like {source.pattern} at revision {info.sha}")
    say(f"{source.name}: revision {info.sha}, {len(wanted)} files, {size_text(sum(file.size for file in wanted))}")
    fetch = partial(huggingface_hub.snapshot_download, source.address, repo_type="dataset", revision=info.sha)
    _ask(source, folder, connection, partial(fetch, allow_patterns=source.pattern, local_dir=str(folder)))
    for file in wanted:
        path = folder / file.rfilename
        if file.lfs and (why := Remote(source.page, file.rfilename, sha256=file.lfs.sha256).differs(path)):
            path.unlink()
            raise UserError(f"{source.name}: {path} was damaged ({why}) and removed; run the same command again")
    return {"revision": info.sha}


def drive(source: Source, labels: str, folder: Path, connection: Connection) -> dict[str, str]:
    """Download the wanted archives of a Google Drive folder."""
    import gdown

    list_folder = partial(gdown.download_folder, id=source.address, skip_download=True, quiet=True, timeout=TIMEOUT)
    listed: Any = _ask(source, folder, connection, list_folder)
    ids = {Path(file.path).name: file.id for file in listed}
    names = [file.name for file in source.wanted(labels)]
    if lacking := [name for name in names if name not in ids]:
        there = ", ".join(sorted(ids)) or "nothing"
        raise UserError(f"{source.page} does not contain {' and '.join(lacking)}, only {there}")
    for name in names:
        path = folder / name
        fetch = partial(gdown.download, id=ids[name], output=str(path), resume=True, quiet=True, timeout=TIMEOUT)
        try:
            _ask(source, folder, connection, fetch)
        except UserError as error:
            if "byte range" not in str(error):
                raise
            say(f"{name} cannot be resumed: starting it again from zero")
            for part in folder.glob(f"{name}*.part"):  # it has the whole size already, or is of another file
                part.unlink()
            _ask(source, folder, connection, fetch)
        if why := Remote(source.page, name).differs(path):
            path.unlink()
            raise UserError(f"{name} of {source.page} is another file: {why}; it was removed, try again later")
    return {}


def _ask(source: Source, folder: Path, connection: Connection, call: Callable[[], T]) -> T:
    """Call a client, and again after a lost connection."""

    def attempt() -> T:
        try:
            with naming(folder):
                return call()
        except Exception as error:  # the clients and the libraries below them raise dozens of types
            if isinstance(error, MemoryError) or without_room(error):
                raise
            why, passing = meaning(error, source.page)
            raise (Lost if passing else UserError)(f"{source.name}: {why}") from error

    return connection.persist(source.page, attempt, partial(bytes_in, folder))


def meaning(error: BaseException, page: str) -> tuple[str, bool]:
    """What a client's error means, as text, and whether another try may succeed."""
    words = {
        401: f"requires a login (401): make an access token on its page, or read {page}",
        403: f"refuses access (403): accept the terms on {page} in a browser, then use an access token",
        404: f"does not have it (404), or it is private: look at {page}",
        429: "received too many requests (429): try again later",
    }
    codes = (getattr(getattr(link, "response", None), "status_code", None) for link in chain(error))
    code = next((code for code in codes if isinstance(code, int)), 0)
    if code in words or code >= 500:
        return words.get(code, f"has a server error ({code}): try again later"), code >= 429
    if any(cls.__name__ in OFFLINE for link in chain(error) for cls in type(link).__mro__):
        return f"cannot be reached or lost the connection ({cause(error)})", True
    text = without_secrets(" ".join(str(error).split()))[:300].rstrip(".")
    return f"stopped with {type(error).__name__} ({text}); look at {page}", False
