"""Write files atomically and reproducibly; read them with errors that name the damaged file."""

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
"""errno values that mean the disk is full."""
UNWRITTEN = FULL | {errno.EFBIG}
"""errno values of a write that failed for lack of space."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path next to `path` that replaces it if the block succeeds and is deleted otherwise.

    Raises:
        OSError: from the block; for lack of space, with `path` as its file name.
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
    """Add `path` as file name to errors for lack of space in the block, which do not name a file."""
    try:
        yield
    except Exception as error:
        if (full := without_room(error)) and full.filename is None:
            full.filename = str(path)
        raise


def without_room(error: BaseException | None) -> OSError | None:
    """The OSError for lack of space in a chain of exceptions, also if a library raised another error because of it."""
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
    """Read a JSON file; with `keys`, it must contain a mapping with these keys.

    Raises:
        UserError: the file is damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # includes invalid UTF-8
        raise damaged(path, "is not valid JSON") from error
    lacking = [key for key in keys if not isinstance(value, dict) or key not in value]
    if lacking:
        raise damaged(path, f"lacks {', '.join(lacking)}")
    return value


def damaged(path: Path, why: str) -> UserError:
    """The error for a file of the project that is damaged or was changed."""
    return UserError(f"{path.as_posix()} {why}; delete it and run `dvc repro` again")


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` during the block; if another process holds it, print a line and wait.

    The lock ends with the process that holds it, even if it is killed; the empty file stays. `what` names the work.
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
