"""Write files atomically and reproducibly; read them with errors that name the damaged file."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
Shape = Any
"""What a JSON value is to be: a type, where float takes integers too and object anything; None; a tuple of which one
fits; [shape], a list of such values, and of several shapes a list of just these; {"key": shape}, a mapping with these
keys, of which "key?" may be absent, and with str: shape in it of any others to such.
"""
_WORDS = {str: "a text", int: "an integer", float: "a number", bool: "true or false", dict: "a mapping", list: "a list"}
_LARGEST = 2**63
"""Integers below it are sizes and counts; larger ones do not fit into arrays."""


def root() -> Path:
    """The root of the repository; in an experiment, the repository that it belongs to.

    SCPSEG_ROOT names it for a sweep, whose experiments run in clones, and DVC_ROOT for `dvc exp run --temp`.
    """
    return Path(os.environ.get("SCPSEG_ROOT") or os.environ.get("DVC_ROOT") or ".")


def comparable(name: str) -> str:
    """The form in which two names are compared: lower case, and accents as part of their letter.

    The files of macOS often have an accent as a character of its own, where lists have one character for both.
    """
    return unicodedata.normalize("NFC", name).lower()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path next to `path` that replaces it if the block succeeds and is deleted otherwise.

    Raises:
        OSError: from the block; for lack of space, with `path` as its file name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Short, because `path` may have the longest name that a folder takes.
    handle, name = tempfile.mkstemp(prefix=".new-", suffix=path.suffix, dir=path.parent)
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
    return next((link for link in chain(error) if isinstance(link, OSError) and link.errno in UNWRITTEN), None)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came from, what that came from, ..."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with LF line ends."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def csv_rows(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header and LF line ends; what a row lacks is empty."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys and a last line end; NaN raises ValueError."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path, shape: Shape = object) -> Any:
    """Read a JSON file whose value fits `shape`.

    Raises:
        UserError: it is damaged, or of another shape.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        # What `write_json` cannot write, such as NaN or half of a surrogate pair, cannot be shown either.
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # includes invalid UTF-8
        raise damaged(path, "is not valid JSON") from error
    if problem := misfit(value, shape):
        raise damaged(path, problem)
    return value


def misfit(value: Any, shape: Shape, at: str = "") -> str | None:
    """The first way in which a JSON value does not fit a shape, in words; None when it fits."""
    if isinstance(shape, tuple):
        shape = next((one for one in shape if _is(value, _kind(one))), shape[0])
    kind = _kind(shape)
    if not _is(value, kind):
        return f"has {at + ' ' if at else ''}{json.dumps(value)[:40]} where {_WORDS[kind]} belongs"
    parts: list[tuple[Any, Shape, str]] = []
    if isinstance(shape, list):
        if len(shape) > 1 and len(value) != len(shape):
            return f"has {len(value)} values in {at or 'its list'} where {len(shape)} belong"
        shapes = shape * len(value) if len(shape) == 1 else shape
        parts = [(one, wanted, f"{at}[{k}]") for k, (one, wanted) in enumerate(zip(value, shapes, strict=True))]
    elif isinstance(shape, dict):
        named = {key.removesuffix("?"): wanted for key, wanted in shape.items() if key is not str}
        if lacking := [key for key in shape if key is not str and key[-1:] != "?" and key not in value]:
            return f"lacks {', '.join(f'{at}.{key}'.lstrip('.') for key in lacking)}"
        others = dict.fromkeys(value, shape[str]) if str in shape else {}
        wanted_of = {**others, **named}
        parts = [(value[key], wanted_of[key], f"{at}.{key}".lstrip(".")) for key in wanted_of if key in value]
    return next((problem for part in parts if (problem := misfit(*part))), None)


def _kind(shape: Shape) -> Any:
    return type(shape) if isinstance(shape, dict | list) else shape


def _is(value: Any, kind: Any) -> bool:
    if kind is None or kind is object:
        return kind is object or value is None
    if kind in (int, float) and type(value) is int:
        return abs(value) < _LARGEST
    return type(value) is kind and (kind is not float or math.isfinite(value))


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


def file_size(path: Path) -> int | None:
    """Size of a file in bytes, or None if it does not exist."""
    try:
        return path.stat().st_size if path.is_file() else None
    except FileNotFoundError:  # another process renamed it just now
        return None


def bytes_in(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file_size(path) or 0 for path in folder.rglob("*"))


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
