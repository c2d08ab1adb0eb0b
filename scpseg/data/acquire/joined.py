"""An archive split into parts, or an archive that lies uncompressed inside another, read as one file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO


class Joined(io.RawIOBase):
    """Several files shown as one seekable file of bytes, or a stretch of them."""

    def __init__(self, parts: Sequence[Path], start: int = 0, size: int | None = None) -> None:
        """Open `parts` in their order and show `size` bytes from byte `start` on; by default everything."""
        super().__init__()
        self._files: list[BinaryIO] = [part.open("rb") for part in parts]
        self._starts = [0]
        for part in parts:
            self._starts.append(self._starts[-1] + part.stat().st_size)
        self._origin = start
        self._end = self._starts[-1] if size is None else min(start + size, self._starts[-1])
        self._position = start

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be sought in."""
        return True

    def tell(self) -> int:
        """Byte position in what is shown."""
        return self._position - self._origin

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte position; past the end is legal, before the start is not."""
        base = {io.SEEK_SET: self._origin, io.SEEK_CUR: self._position, io.SEEK_END: self._end}[whence]
        if base + offset < self._origin:
            raise ValueError("seek before the start of the archive")
        self._position = base + offset
        return self.tell()

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill `buffer` from the part that the position lies in; 0 at the end."""
        view = memoryview(buffer).cast("B")
        for file, start, end in zip(self._files, self._starts, self._starts[1:], strict=False):
            if start <= self._position < min(end, self._end):
                file.seek(self._position - start)
                data = file.read(min(len(view), min(end, self._end) - self._position))
                view[: len(data)] = data
                self._position += len(data)
                return len(data)
        return 0

    def close(self) -> None:
        """Close every part."""
        for file in self._files:
            file.close()
        super().close()
