import errno
from pathlib import Path

import pytest

from scpseg.data.acquire.space import free_bytes, full_disk_named, size_text
from scpseg.errors import UserError


def test_words_for_sizes() -> None:
    assert [size_text(n) for n in (7, 1536, 3 << 20, 5 << 30, 2 << 40)] == [
        "7 bytes", "1.5 KiB", "3.0 MiB", "5.0 GiB", "2.0 TiB",
    ]  # fmt: skip


def test_free_space_of_a_folder_to_be() -> None:
    assert free_bytes(Path("not/there/yet")) > 0


def test_a_really_full_device_and_other_errors(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with (
        pytest.raises(UserError, match="is full while writing, which needs 9 bytes"),
        full_disk_named(tmp_path, 9, "writing"),
        full.open("wb", buffering=0) as stream,
    ):
        stream.write(b"x")
    with pytest.raises(PermissionError), full_disk_named(tmp_path, 9, "writing"):
        raise PermissionError(errno.EACCES, "denied")
