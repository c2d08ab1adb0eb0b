import random
import threading
from pathlib import Path
from typing import Any

import pytest

from scpseg.data.acquire.writer import AHEAD, Writer

PIECES = [random.Random(1).randbytes(length) for length in (1, 5000, 0, 70_000) * AHEAD]


class Stingy:
    """A file that writes at most 1000 bytes a call, and fails once that many calls are over."""

    def __init__(self, calls: int) -> None:
        self.calls, self.content = calls, b""

    def write(self, chunk: Any) -> int:
        self.calls -= 1
        if self.calls < 0:
            raise OSError(28, "full")
        self.content += bytes(chunk[:1000])
        return min(len(chunk), 1000)

    def truncate(self, size: int) -> None:
        self.content = self.content[:size]

    def close(self) -> None:
        pass


def test_everything_in_order(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"first")
    writer = Writer(path.open("ab", buffering=0))
    for piece in PIECES:
        writer.write(piece)
    writer.settle()
    assert path.read_bytes() == b"first" + b"".join(PIECES)
    writer.write(b"lost")
    writer.truncate()
    writer.write(b"more")
    writer.close()
    assert path.read_bytes() == b"more"
    assert not [thread for thread in threading.enumerate() if thread.name == "writer"]


def test_writes_that_take_a_part_only() -> None:
    writer = Writer(file := Stingy(10**6))
    for piece in PIECES:
        writer.write(piece)
    writer.close()
    assert file.content == b"".join(PIECES)


def test_an_error_is_raised_and_nothing_is_written_after_it() -> None:
    writer = Writer(file := Stingy(2))
    writer.write(bytes(2500))
    with pytest.raises(OSError, match="full"):
        writer.settle()
    file.calls = 100
    with pytest.raises(OSError, match="full"):
        writer.write(b"x")
    writer.close()
    assert len(file.content) == 2000
