import hashlib
import io
import zipfile
from pathlib import Path

import py7zr
import pytest

from scpseg.data.upstream import archives, space, unpack
from scpseg.errors import UserError


def zip_bytes(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return stream.getvalue()


def wanted(path: str) -> bool:
    return path.endswith(".tif")


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_groups_parts_of_split_archives() -> None:
    groups = unpack.group_archives(["b.7z.002", "a.ZIP", "b.7z.001", "sub/c.7z", "readme.txt", "b.7z.003"])
    assert [(g.name, g.parts) for g in groups] == [
        ("a.ZIP", ("a.ZIP",)),
        ("b.7z", ("b.7z.001", "b.7z.002", "b.7z.003")),
        ("sub/c.7z", ("sub/c.7z",)),
    ]
    with pytest.raises(UserError, match=r"b\.7z\.002 is missing"):
        unpack.group_archives(["b.7z.001", "b.7z.003"])


def split_archive(folder: Path, parts: int) -> list[unpack.Group]:
    inner = zip_bytes({"D/train/one.tif": b"one" * 99, "D/test/skip.txt": b"skip", "D/train/two.tif": b"two"})
    with py7zr.SevenZipFile(folder / "whole.7z", "w") as file:
        file.writestr(inner, "NEW.zip")
    data = (folder / "whole.7z").read_bytes()
    (folder / "whole.7z").unlink()
    step = -(-len(data) // parts)
    for number in range(parts):
        (folder / f"set.7z.{number + 1:03d}").write_bytes(data[number * step : (number + 1) * step])
    return unpack.group_archives(path.name for path in folder.iterdir())


def test_zip_inside_split_7z(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    groups = split_archive(source, 3)
    assert unpack.holds_wanted(groups[0], source, wanted)
    target = tmp_path / "cache" / "abc"
    records = unpack.unpack(groups, source, wanted, target)
    inside = "set.7z/NEW.zip/D/train/"
    assert {r["path"]: r["sha256"] for r in records} == {
        f"{inside}one.tif": hashlib.sha256(b"one" * 99).hexdigest(),
        f"{inside}two.tif": hashlib.sha256(b"two").hexdigest(),
    }
    files = files_of(target)
    assert files.pop(unpack.RECORDS)
    assert files == {f"{inside}one.tif": b"one" * 99, f"{inside}two.tif": b"two"}


def test_missing_last_part_is_named(tmp_path: Path) -> None:
    split_archive(tmp_path, 3)
    (tmp_path / "set.7z.003").unlink()
    groups = unpack.group_archives(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError, match=r"set\.7z is truncated: \d+ of \d+ bytes in 2 parts"):
        unpack.unpack(groups, tmp_path, wanted, tmp_path / "cache" / "abc")


def test_failure_leaves_nothing_and_success_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.zip").write_bytes(zip_bytes({"one.tif": b"1" * 50, "two.tif": b"2" * 50}))
    groups = unpack.group_archives(["a.zip"])
    cache = tmp_path / "cache"
    write, calls = archives._Sink.write, []

    def full(self: archives._Sink, data: bytes) -> int:
        calls.append(data)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(archives._Sink, "write", full)
    with pytest.raises(UserError, match=r"disk ran full while unpacking a\.zip") as caught:
        unpack.unpack(groups, tmp_path, wanted, cache / "abc")
    assert "\n" not in str(caught.value)
    assert files_of(cache) == {".lock": b""}

    (cache / ".unpacking-old").mkdir()  # left by a killed run
    records = unpack.unpack(groups, tmp_path, wanted, cache / "abc")
    assert not (cache / ".unpacking-old").exists()
    before = len(calls)
    assert unpack.unpack(groups, tmp_path, wanted, cache / "abc") == records
    assert len(calls) == before
    (cache / "abc" / "a.zip" / "two.tif").unlink()
    assert unpack.unpack(groups, tmp_path, wanted, cache / "abc") == records
    assert (cache / "abc" / "a.zip" / "two.tif").read_bytes() == b"2" * 50


def test_more_than_fits_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.zip").write_bytes(zip_bytes({"one.tif": bytes(10_000)}))
    monkeypatch.setattr(space, "free_bytes", lambda folder: 9_999 + space.MARGIN)
    with pytest.raises(UserError, match=r"unpacking a\.zip needs 10000 bytes .* and \d+ bytes .* are free"):
        unpack.unpack(unpack.group_archives(["a.zip"]), tmp_path, wanted, tmp_path / "cache" / "abc")
    assert not (tmp_path / "cache" / "abc").exists()
