import io
import random
from pathlib import Path

import pytest

from scpseg.data.acquire.joined import Joined


def test_reads_like_the_whole_file(tmp_path: Path) -> None:
    whole = random.Random(0).randbytes(1000)
    parts = []
    for number, (start, end) in enumerate([(0, 300), (300, 301), (301, 1000)]):
        part = tmp_path / f"x.7z.{number + 1:03d}"
        part.write_bytes(whole[start:end])
        parts.append(part)
    chance = random.Random(1)
    with Joined(parts) as raw, io.BytesIO(whole) as plain:
        joined = io.BufferedReader(raw, 64)
        assert joined.read() == whole
        for _ in range(300):
            offset, whence = chance.choice([(chance.randrange(1100), 0), (-chance.randrange(1000), 2)])
            assert joined.seek(offset, whence) == plain.seek(offset, whence)
            size = chance.randrange(400)
            assert joined.read(size) == plain.read(size)
            assert joined.tell() == plain.tell()
        with pytest.raises(ValueError, match="before the start"):
            raw.seek(-1)


def test_a_stretch_reads_like_a_file_of_its_own(tmp_path: Path) -> None:
    whole = random.Random(0).randbytes(1000)
    (tmp_path / "a").write_bytes(whole[:450])
    (tmp_path / "b").write_bytes(whole[450:])
    for start, size in ((0, None), (400, 100), (400, 5000), (1000, 3), (449, 1)):
        expected = whole[start:] if size is None else whole[start : start + size]
        with io.BufferedReader(Joined([tmp_path / "a", tmp_path / "b"], start, size), 32) as joined:
            assert joined.read() == expected
            assert joined.seek(0, io.SEEK_END) == len(expected)
            assert joined.seek(-min(7, len(expected)), io.SEEK_END) == len(expected) - min(7, len(expected))
            assert joined.read(99) == expected[-7:]
