"""Check the free disk space before writing; `pipelines.stage` reports a disk that fills up all the same."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from scpseg.errors import UserError

MARGIN = 16 << 20  # bytes that stay free in addition, for folders and records


def size_text(count: int) -> str:
    """Format a number of bytes with a binary unit."""
    power = min(max(count.bit_length() - 1, 0) // 10, 4)
    return f"{count / 1024**power:.1f} {('', 'K', 'M', 'G', 'T')[power]}iB" if power else f"{count} bytes"


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of `folder` or its nearest existing parent."""
    return shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free


def check_space(folder: Path, needed: int, what: str, unused: Sequence[str] = ()) -> None:
    """UserError unless `needed` bytes and a margin are free on the disk of `folder`; it names `unused` folders."""
    needed += MARGIN
    if needed > (free := free_bytes(folder)):
        why = f"{what} needs {needed} bytes ({size_text(needed)}), but {free} bytes ({size_text(free)}) are free"
        todo = f"delete {' and '.join(unused)}, which killed runs left" if unused else "free some space"
        raise UserError(f"{why}; {todo}, or move data.cache or the repository to a larger disk")
