import io
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import py7zr
import pytest

from scpseg.data.upstream.archives import open_archive
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


def everything(path: Path, out: Path) -> dict[str, bytes]:
    with open_archive(path.name, [path]) as archive:
        targets = {member: out / member.name for member in archive.members() if not member.folder}
        archive.extract(targets)
    return {member.name: target.read_bytes() for member, target in targets.items()}


def refused(path: Path, out: Path) -> str:
    with pytest.raises(UserError) as caught:
        everything(path, out)
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
    message = refused(make(tmp_path / f"a.{suffix}", {"good.txt": b"good", name: b"bad"}), tmp_path / "out")
    assert why in message
    assert "evil.txt" in message
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "evil.txt").exists()


def test_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"link": b"/etc/passwd"}, stat.S_IFLNK | 0o777)
    assert "'link' is a link" in refused(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_device_in_a_zip_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"pipe": b""}, stat.S_IFIFO | 0o666)
    assert "'pipe' is no plain file" in refused(path, tmp_path / "out")


def test_link_in_a_7z_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to("secret")
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as file:
        file.write(tmp_path / "link", "link")
    assert "'link' is a link" in refused(tmp_path / "a.7z", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_member_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x", b"1")
        file.writestr("x", b"2")
    assert "'x' stands twice" in refused(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("declared", [10, 5000])
def test_zip_that_lies_about_a_size_is_refused(declared: int, tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"bomb": bytes(1000)})
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    for place in (22, central + 24):  # uncompressed size in the local and in the central header
        assert struct.unpack_from("<I", data, place) == (1000,)
        struct.pack_into("<I", data, place, declared)
    path.write_bytes(data)
    refused(path, tmp_path / "out")


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
    refused(path, tmp_path / "out")


@pytest.mark.parametrize("make", [zip_of, seven_zip_of])
def test_some_members_come_out_as_they_went_in(make: Make, tmp_path: Path) -> None:
    members = {"a/one.bin": bytes(range(256)) * 9, "b/two.bin": b"", "c/three.bin": b"three"}
    path = make(tmp_path / ("a.zip" if make is zip_of else "a.7z"), members)
    assert everything(path, tmp_path / "out") == members
    with open_archive(path.name, [path]) as archive:
        chosen = [member for member in archive.members() if member.name.startswith("c/")]
        for copy in ("first", "second"):  # more than one pass over the same archive
            written = archive.extract({chosen[0]: tmp_path / copy})
            assert written["c/three.bin"].size == 5
            assert (tmp_path / copy).read_bytes() == b"three"


def test_encrypted_7z_is_named(tmp_path: Path) -> None:
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w", password="secret") as file:
        file.writestr(io.BytesIO(b"x").read(), "x")
    refused(tmp_path / "a.7z", tmp_path / "out")
