"""An archive split into parts, read as one file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO


class Joined(io.RawIOBase):
    """Several files shown as one seekable file of bytes."""

    def __init__(self, parts: Sequence[Path]) -> None:
        """Open `parts` in their order."""
        super().__init__()
        self._files: list[BinaryIO] = [part.open("rb") for part in parts]
        self._starts = [0]
        for part in parts:
            self._starts.append(self._starts[-1] + part.stat().st_size)
        self._position = 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be sought in."""
        return True

    def tell(self) -> int:
        """Byte position in the joined file."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte position; past the end is legal, before the start is not."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        if base + offset < 0:
            raise ValueError("seek before the start of the archive")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill `buffer` from the part that the position lies in; 0 at the end."""
        view = memoryview(buffer).cast("B")
        for file, start, end in zip(self._files, self._starts, self._starts[1:], strict=False):
            if start <= self._position < end:
                file.seek(self._position - start)
                data = file.read(min(len(view), end - self._position))
                view[: len(data)] = data
                self._position += len(data)
                return len(data)
        return 0

    def close(self) -> None:
        """Close every part."""
        for file in self._files:
            file.close()
        super().close()
