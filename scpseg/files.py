"""Atomic, byte-stable writing: a file is there whole, or not at all; reading that names what is damaged."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from scpseg.errors import UserError
from scpseg.progress import say

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Numbers of a full disk."""
UNWRITTEN = FULL | {errno.EFBIG}
"""Numbers of a write that found no room."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well, and vanishes when it does not.

    Raises:
        OSError: as the block; where there is no room, with `path` as its file name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with naming(path):
            yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give a write within the block that finds no room the name that a user knows; its error has none."""
    try:
        yield
    except Exception as error:
        if (full := without_room(error)) and full.filename is None:
            full.filename = str(path)
        raise


def without_room(error: BaseException | None) -> OSError | None:
    """The OSError of a write that found no room, also where a library raised an error of its own over it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in UNWRITTEN:
            return error
        error = error.__cause__ or error.__context__
    return None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with LF line ends."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys and a last line end; NaN raises ValueError."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path, *keys: str) -> Any:
    """Read a JSON file; with `keys`, one that is a mapping with these.

    Raises:
        UserError: it is damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # bytes that are no UTF-8 too
        raise damaged(path, "is no valid JSON") from error
    lacking = [key for key in keys if not isinstance(value, dict) or key not in value]
    if lacking:
        raise damaged(path, f"lacks {', '.join(lacking)}")
    return value


def damaged(path: Path, why: str) -> UserError:
    """The error for a written file that is damaged or was changed."""
    return UserError(f"{path.as_posix()} {why}; delete it and run `dvc repro` again")


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; wait, and say so once, where another process holds it.

    The lock ends with its holder, however that ends; the empty file stays. `what` is what the holder does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say(f"another process is {what}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
