import random
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import py7zr
import pytest

from scpseg.data.acquire.archives import LARGEST, open_archive
from scpseg.errors import UserError

Make = Callable[[Path, dict[str, bytes]], Path]


def zip_of(path: Path, members: dict[str, bytes], mode: int = stat.S_IFREG | 0o644) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            file.writestr(info, data, zipfile.ZIP_DEFLATED)
    return path


def seven_zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with py7zr.SevenZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(data, name)
    return path


def everything(path: Path) -> dict[str, bytes]:
    with open_archive(path.name, [path]) as archive:
        return {member.name: b"".join(chunks) for member, chunks in archive.stream(lambda name: True)}


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        everything(path)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("make", [zip_of, seven_zip_of])
@pytest.mark.parametrize(
    ("name", "why"),
    [("../evil.txt", "'..'"), ("a/../../evil.txt", "'..'"), ("/evil.txt", "absolute"), ("C:\\evil.txt", "absolute")],
)
def test_member_that_points_outside_is_refused(
    make: Make, name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # py7zr refuses to write such names, a hostile archiver does not.
    monkeypatch.setattr(py7zr.SevenZipFile, "_sanitize_archive_arcname", staticmethod(lambda name: name))
    monkeypatch.setattr(py7zr.py7zr, "check_archive_path", lambda name: True)
    suffix = "zip" if make is zip_of else "7z"
    message = refused(make(tmp_path / f"a.{suffix}", {"good.txt": b"good", name: b"bad"}))
    assert why in message
    assert "evil.txt" in message


def test_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"link": b"/etc/passwd"}, stat.S_IFLNK | 0o777)
    assert "'link' is a link" in refused(path)


def test_device_in_a_zip_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"pipe": b""}, stat.S_IFIFO | 0o666)
    assert "'pipe' is no plain file" in refused(path)


def test_link_in_a_7z_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to("secret")
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as file:
        file.write(tmp_path / "link", "link")
    assert "'link' is a link" in refused(tmp_path / "a.7z")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_member_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x", b"1")
        file.writestr("x", b"2")
    assert "'x' stands twice" in refused(tmp_path / "a.zip")


@pytest.mark.parametrize("declared", [10, 5000])
def test_zip_that_lies_about_a_size_is_refused(declared: int, tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"bomb": bytes(1000)})
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    for place in (22, central + 24):  # uncompressed size in the local and in the central header
        assert struct.unpack_from("<I", data, place) == (1000,)
        struct.pack_into("<I", data, place, declared)
    path.write_bytes(data)
    refused(path)


@pytest.mark.parametrize("make", [zip_of, seven_zip_of])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_damaged_archive_is_named(make: Make, damage: str, tmp_path: Path) -> None:
    path = make(tmp_path / ("a.zip" if make is zip_of else "a.7z"), {"x": bytes(range(256)) * 40})
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        middle = data.index(b"x") + 20 if make is zip_of else 60
        data[middle] ^= 0xFF
    else:
        data = {"truncated": data[: len(data) // 2], "empty": bytearray(), "text": bytearray(b"no archive" * 9)}[damage]
    path.write_bytes(data)
    refused(path)


MEMBERS = {
    "a/one.bin": bytes(range(256)) * 9,
    "b/empty.bin": b"",
    "c/three.bin": random.Random(0).randbytes(300_000),
    "d/four.bin": bytes(3 << 20),
    "e/five.bin": b"five",
}


@pytest.mark.parametrize("make", [zip_of, seven_zip_of])
def test_members_come_out_as_they_went_in(make: Make, tmp_path: Path) -> None:
    path = make(tmp_path / ("a.zip" if make is zip_of else "a.7z"), MEMBERS)
    assert everything(path) == MEMBERS
    with open_archive(path.name, [path]) as archive:
        assert {member.name: member.size for member in archive.members()} == {n: len(d) for n, d in MEMBERS.items()}
        for wanted in (["c/three.bin"], ["b/empty.bin", "e/five.bin"], []):  # more than one pass over the same archive
            found = {m.name: b"".join(chunks) for m, chunks in archive.stream(lambda name, w=wanted: name in w)}
            assert found == {name: MEMBERS[name] for name in wanted}


def test_nothing_is_unpacked_behind_the_last_wanted_member(tmp_path: Path) -> None:
    path = tmp_path / "a.7z"
    counts = []
    for name in ("c/three.bin", "z/last.bin"):
        last = {"z/last.bin": random.Random(1).randbytes(300_000)}
        with open_archive("a.7z", [seven_zip_of(path, MEMBERS | last)]) as archive:
            read = [0]
            archive.watch = lambda count, read=read: read.__setitem__(0, count)
            assert [member.name for member, chunks in archive.stream(lambda n, name=name: n == name)] == [name]
        counts.append(read[0])
    assert 300_000 < counts[0] < 400_000 < 600_000 < counts[1] <= path.stat().st_size


def test_several_blocks_are_read_one_by_one(tmp_path: Path) -> None:
    path = seven_zip_of(tmp_path / "a.7z", {"one": b"1" * 1000})
    with py7zr.SevenZipFile(path, "a") as file:  # what is appended is a block of its own
        file.writestr(random.Random(2).randbytes(200_000), "two")
    with py7zr.SevenZipFile(path) as file:
        assert file.header.main_streams.unpackinfo.numfolders == 2
    assert {name: len(data) for name, data in everything(path).items()} == {"one": 1000, "two": 200_000}
    with open_archive("a.7z", [path]) as archive:
        seen: list[int] = []
        archive.watch = seen.append
        assert [(m.name, b"".join(c)) for m, c in archive.stream(lambda name: name == "one")] == [("one", b"1" * 1000)]
        assert max(seen) < 1000


def test_what_squeezes_well_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.7z"
    with py7zr.SevenZipFile(path, "w") as file:
        file.writestr(bytes(200 << 20), "zeros.bin")
    with open_archive("a.7z", [path]) as archive:
        total = largest = 0
        for _, chunks in archive.stream(lambda name: True):
            for chunk in chunks:
                total, largest = total + len(chunk), max(largest, len(chunk))
    assert total == 200 << 20
    assert largest <= LARGEST


@pytest.mark.parametrize("change", [-1, 1])
def test_7z_that_lies_about_a_size_is_refused(change: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = seven_zip_of(tmp_path / "a.7z", {"x": bytes(range(250)) * 20})
    size = py7zr.py7zr.ArchiveFile.uncompressed.fget
    monkeypatch.setattr(py7zr.py7zr.ArchiveFile, "uncompressed", property(lambda self: size(self) + change))
    assert "'x'" in refused(path)


@pytest.mark.parametrize("file", ["a.7z", "a.zip"])
def test_encrypted_archive_is_named(file: str, tmp_path: Path) -> None:
    path = tmp_path / file
    if file == "a.7z":
        with py7zr.SevenZipFile(path, "w", password="secret") as packed:
            packed.writestr(b"x", "x")
    else:
        data = bytearray(zip_of(path, {"x": b"x"}).read_bytes())
        data[6] |= 1
        data[data.index(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(data)
    assert "encrypted" in refused(path)


def test_stretch_of_a_stored_member(tmp_path: Path) -> None:
    inner = zip_of(tmp_path / "inner.zip", MEMBERS).read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("first", b"1" * 77)
        file.writestr("stored.zip", inner)
        file.writestr("squeezed.zip", inner, zipfile.ZIP_DEFLATED)
    with open_archive("a.zip", [tmp_path / "a.zip"]) as archive:
        stretches = {member.name: archive.stretch(member) for member in archive.members()}
    assert stretches["squeezed.zip"] is None
    start, size = stretches["stored.zip"]
    assert (tmp_path / "a.zip").read_bytes()[start : start + size] == inner
    with open_archive("inner.zip", [tmp_path / "a.zip"], (start, size)) as archive:
        assert {m.name: b"".join(chunks) for m, chunks in archive.stream(lambda name: True)} == MEMBERS
