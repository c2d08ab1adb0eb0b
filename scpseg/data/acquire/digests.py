"""Checksums of bytes that arrive or are read, all asked for in one pass."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Collection
from pathlib import Path

CHUNK = 1 << 20
"""Bytes taken in at once at most: they stay in the processor's cache until they are hashed and written."""


class Digests:
    """SHA-256, and of 'md5' and 'crc32' what is asked for, of bytes fed in order."""

    def __init__(self, names: Collection[str] = ()) -> None:
        """Nothing is fed yet; `names` may name sha256, which is always computed."""
        self._names = ["sha256", *(name for name in names if name not in ("sha256", "crc32"))]
        self._with_crc = "crc32" in names
        self.reset()

    def reset(self) -> None:
        """Forget what was fed."""
        self._states = [hashlib.new(name, usedforsecurity=False) for name in self._names]
        self._crc = 0

    def update(self, chunk: bytes) -> None:
        """Feed bytes; other threads run meanwhile."""
        for state in self._states:
            state.update(chunk)
        if self._with_crc:
            self._crc = zlib.crc32(chunk, self._crc)

    def read(self, path: Path, show: Callable[[int, int | None], None]) -> None:
        """Feed a whole file; `show` hears of the bytes done and of the file's size."""
        size = path.stat().st_size
        with path.open("rb", buffering=0) as stream:
            done = 0
            while chunk := stream.read(CHUNK):
                self.update(chunk)
                done += len(chunk)
                show(done, size)

    def result(self) -> dict[str, str | int]:
        """Hex digests by name, and 'crc32' as a number, of all that was fed."""
        found: dict[str, str | int] = {
            name: state.hexdigest() for name, state in zip(self._names, self._states, strict=True)
        }
        return found | ({"crc32": self._crc} if self._with_crc else {})
