import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import py7zr
import pytest

from scpseg.data.acquire import unpack
from scpseg.errors import UserError


def zip_bytes(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return stream.getvalue()


def wanted(path: str) -> bool:
    return path.endswith(".tif")


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


def everything(
    groups: list[unpack.Group], folder: Path, watch: Callable[[int], None] | None = None
) -> dict[str, bytes]:
    found = {}
    for group in groups:
        for passing in unpack.stream_members(group, folder, wanted, watch or (lambda count: None)):
            found[passing.path] = b"".join(passing.chunks)
    return found


def test_zip_inside_split_7z_is_read_as_it_comes(tmp_path: Path) -> None:
    groups = split_archive(tmp_path, 3)
    assert unpack.holds_wanted(groups[0], tmp_path, wanted)
    listing = unpack.list_members(groups[0], tmp_path)
    assert (listing.files, listing.hidden) == ({}, ("set.7z/NEW.zip",))
    before = sorted(tmp_path.iterdir())
    read: list[int] = []
    assert everything(groups, tmp_path, read.append) == {
        "set.7z/NEW.zip/D/train/one.tif": b"one" * 99,
        "set.7z/NEW.zip/D/train/two.tif": b"two",
    }
    assert sorted(tmp_path.iterdir()) == before
    assert 0 < read[0] <= read[-1] <= unpack.total_size(groups[0], tmp_path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_inside_a_zip(method: int, tmp_path: Path) -> None:
    inner = zip_bytes({"one.tif": b"1" * 500, "skip.txt": b"skip", "deep.zip": b"not opened"})
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as file:
        file.writestr("P/inner.zip", inner)
        file.writestr("P/two.tif", b"22")
    (group,) = unpack.group_archives(["a.zip"])
    listing = unpack.list_members(group, tmp_path)
    inside = {f"a.zip/P/inner.zip/{name}": size for name, size in (("one.tif", 500), ("skip.txt", 4), ("deep.zip", 10))}
    stored = method == zipfile.ZIP_STORED
    assert listing.files == {"a.zip/P/two.tif": 2, **(inside if stored else {})}
    assert listing.hidden == (() if stored else ("a.zip/P/inner.zip",))
    assert everything([group], tmp_path) == {"a.zip/P/inner.zip/one.tif": b"1" * 500, "a.zip/P/two.tif": b"22"}


def test_archives_without_anything_wanted(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zip_bytes({"x.txt": b"x", "inner.7z": b"never opened"}))
    (group,) = unpack.group_archives(["a.zip"])
    assert not unpack.holds_wanted(group, tmp_path, wanted)
    assert unpack.holds_wanted(group, tmp_path, lambda path: path == "a.zip/x.txt")


def test_missing_last_part_is_named(tmp_path: Path) -> None:
    split_archive(tmp_path, 3)
    (tmp_path / "set.7z.003").unlink()
    groups = unpack.group_archives(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError, match=r"set\.7z is truncated: \d+ of \d+ bytes in 2 parts"):
        everything(groups, tmp_path)


def test_damaged_inner_zip_is_named(tmp_path: Path) -> None:
    inner = bytearray(zip_bytes({"one.tif": b"1" * 500}))
    inner[14] ^= 1  # its CRC-32, to which the 7z is no witness
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as file:
        file.writestr(bytes(inner), "inner.zip")
    with pytest.raises(UserError, match=r"a\.7z/inner\.zip: member 'one\.tif' has the wrong CRC-32"):
        everything(unpack.group_archives(["a.7z"]), tmp_path)
