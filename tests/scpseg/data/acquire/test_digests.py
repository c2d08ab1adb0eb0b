import hashlib
import random
import zlib
from pathlib import Path

from scpseg.data.acquire.digests import Digests

DATA = random.Random(1).randbytes(100_000)


def test_equal_to_the_library(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    shown: list[tuple[int, int | None]] = []
    digests = Digests(("crc32", "md5", "sha256"))
    digests.update(b"forgotten")
    digests.reset()
    digests.read(tmp_path / "f", lambda done, total: shown.append((done, total)))
    half = digests.result()
    for start in range(0, len(DATA), 1000):
        digests.update(DATA[start : start + 1000])
    both = digests.result()
    assert half == {
        "sha256": hashlib.sha256(DATA).hexdigest(), "md5": hashlib.md5(DATA).hexdigest(), "crc32": zlib.crc32(DATA),
    }  # fmt: skip
    assert both == {
        "sha256": hashlib.sha256(DATA * 2).hexdigest(),
        "md5": hashlib.md5(DATA * 2).hexdigest(),
        "crc32": zlib.crc32(DATA * 2),
    }
    assert shown == [(100_000, 100_000)]


def test_only_what_is_asked_for() -> None:
    assert Digests().result() == {"sha256": hashlib.sha256(b"").hexdigest()}
