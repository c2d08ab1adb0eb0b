import io
import os
import random
import signal
import stat
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Mapping
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import py7zr
import pytest

from pipelines.stage import explained
from scpseg.data.acquire import archives, space
from scpseg.data.acquire.archives import Group, group_archives, inner_zips, list_members, read_members, unpack_inner
from scpseg.errors import UserError

Make = Callable[[Path, Mapping[str, bytes]], Path]
MEMBERS = {
    "a/one.tif": bytes(range(256)) * 9,
    "b/empty.tif": b"",
    "c/three.tif": random.Random(0).randbytes(300_000),
    "d/four.txt": bytes(3 << 20),
    "\u00e4/five.tif": b"five",
}
TIFS = {name: data for name, data in MEMBERS.items() if name.endswith(".tif")}


def zip_bytes(
    members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED, mode: int = stat.S_IFREG | 0o644
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            file.writestr(info, data, method)
    return stream.getvalue()


def zip_of(folder: Path, members: Mapping[str, bytes]) -> Path:
    (folder / "a.zip").write_bytes(zip_bytes(members))
    return folder / "a.zip"


def seven_zip_of(folder: Path, members: Mapping[str, bytes], **options: Any) -> Path:
    with py7zr.SevenZipFile(folder / "a.7z", "w", **options) as file:
        for name, data in members.items():
            file.writestr(data, name)
    return folder / "a.7z"


def wanted(path: str) -> bool:
    return path.endswith(".tif")


def read(folder: Path, wanted: Callable[[str], bool] = wanted) -> dict[str, bytes]:
    """Every wanted member of every archive of a folder; never more than one of them in the spool."""
    spool, found = folder / "spool", {}
    spool.mkdir(exist_ok=True)
    for outer in group_archives(path.name for path in folder.iterdir()):
        zips = inner_zips(list_members(outer, folder))
        for group in (outer, *(unpack_inner(outer, folder, zips, spool) if zips else ())):
            sizes = {path: size for path, size in list_members(group, folder).items() if wanted(path)}
            for path, place in read_members(group, folder, sizes, spool):
                assert [other for other in spool.iterdir() if other.suffix != ".zip"] == [place]
                found[path] = place.read_bytes()
                place.unlink()
    for inner in spool.glob("*.zip"):
        inner.unlink()
    assert not list(spool.iterdir())
    return found


def rejected(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(folder)
    message = str(caught.value)
    assert "a." in message and message.isprintable()
    return message


make = pytest.mark.parametrize("make", [zip_of, seven_zip_of])


@make
def test_members_come_out_as_they_went_in(make: Make, tmp_path: Path) -> None:
    name = make(tmp_path, MEMBERS).name
    assert read(tmp_path) == {f"{name}/{member}": data for member, data in TIFS.items()}
    assert read(tmp_path, wanted=lambda path: path.endswith("five.tif")) == {f"{name}/\u00e4/five.tif": b"five"}
    listing = list_members(Group(name, (name,)), tmp_path)
    assert listing == {f"{name}/{member}": len(data) for member, data in MEMBERS.items()}


def test_groups_parts_of_split_archives() -> None:
    groups = group_archives(["b.7z.002", "a.ZIP", "b.7z.001", "sub/c.7z", "readme.txt", "d.zip.001"])
    assert [(group.name, group.parts) for group in groups] == [
        ("a.ZIP", ("a.ZIP",)),
        ("b.7z", ("b.7z.001", "b.7z.002")),
        ("d.zip", ("d.zip.001",)),
        ("sub/c.7z", ("sub/c.7z",)),
    ]
    with pytest.raises(UserError, match=r"b\.7z\.002 is missing"):
        group_archives(["b.7z.001", "b.7z.003"])


@make
def test_zip_inside_a_split_archive(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inner = zip_bytes({"D/one.tif": b"one" * 99, "D/skip.txt": b"skip", "D/two.tif": b"two", "deep.zip": b"not opened"})
    path = make(tmp_path, {"NEW.zip": inner, "three.tif": b"3"})
    data = path.read_bytes()
    path.unlink()
    step = len(data) // 2
    for number in (0, 1, 2):
        (tmp_path / f"{path.name}.00{number + 1}").write_bytes(data[number * step : (number + 1) * step])
    (group,) = group_archives(path.name for path in tmp_path.iterdir())
    listing = list_members(group, tmp_path)
    assert listing == {f"{path.name}/NEW.zip": len(inner), f"{path.name}/three.tif": 1}
    assert inner_zips(listing) == {f"{path.name}/NEW.zip": len(inner)}
    assert read(tmp_path) == {
        f"{path.name}/NEW.zip/D/one.tif": b"one" * 99,
        f"{path.name}/NEW.zip/D/two.tif": b"two",
        f"{path.name}/three.tif": b"3",
    }
    assert f"{path.name}/NEW.zip: unpacking {len(inner)} bytes to the disk" in capsys.readouterr().err
    for number in (2, 3):
        (tmp_path / f"{path.name}.00{number}").unlink()
    rejected(tmp_path)


def test_missing_last_part_is_named(tmp_path: Path) -> None:
    path = seven_zip_of(tmp_path, MEMBERS)
    path.with_name("a.7z.001").write_bytes(path.read_bytes()[:1000])
    path.unlink()
    assert "a.7z is truncated: 1000 of" in rejected(tmp_path)


def test_stored_zip_inside_a_zip_takes_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = zip_bytes({**MEMBERS, "deep.zip": b"not opened"})
    outer = {"first": b"1" * 77, "P/in.zip": inner, "last": b"2" * 77}
    (tmp_path / "a.zip").write_bytes(zip_bytes(outer, zipfile.ZIP_STORED))
    monkeypatch.setattr(space, "free_bytes", lambda folder: 0)
    assert read(tmp_path) == {f"a.zip/P/in.zip/{name}": data for name, data in TIFS.items()}
    assert not inner_zips(list_members(Group("a.zip", ("a.zip",)), tmp_path))


@make
def test_hidden_members_are_left_out(make: Make, tmp_path: Path) -> None:
    name = make(tmp_path, {"a.tif": b"a", "__MACOSX/._in.zip": b"x", "D/._in.zip": b"x", ".b/c.tif": b"c"}).name
    assert list_members(Group(name, (name,)), tmp_path) == {f"{name}/a.tif": 1}
    assert read(tmp_path) == {f"{name}/a.tif": b"a"}


def test_blocks_of_a_7z_without_wanted_members_are_not_unpacked(tmp_path: Path) -> None:
    path = seven_zip_of(tmp_path, {"one.txt": random.Random(2).randbytes(9000)})
    with py7zr.SevenZipFile(path, "a") as file:  # what is appended is a block of its own
        file.writestr(b"two" * 999, "two.tif")
    data = bytearray(path.read_bytes())
    data[4000] ^= 255
    path.write_bytes(data)
    assert read(tmp_path) == {"a.7z/two.tif": b"two" * 999}


@make
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../evil.txt", "points outside"),
        ("a/../../evil.txt", "points outside"),
        ("/evil.txt", "absolute path"),
        ("C:\\evil.txt", "absolute path"),
        ("a\x1b[2J.tif", "control character"),
    ],
)
def test_unsafe_names_are_rejected(
    make: Make, name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # py7zr refuses to write such names, a hostile archiver does not.
    monkeypatch.setattr(py7zr.SevenZipFile, "_sanitize_archive_arcname", staticmethod(lambda name: name))
    monkeypatch.setattr(py7zr.py7zr, "check_archive_path", lambda name: True)
    make(tmp_path, {"good.tif": b"good", name: b"bad"})
    assert why in rejected(tmp_path)


def test_links_devices_and_duplicates_are_rejected(tmp_path: Path) -> None:
    for mode, why in ((stat.S_IFLNK | 0o777, "is a link"), (stat.S_IFIFO | 0o666, "is a special file")):
        (tmp_path / "a.zip").write_bytes(zip_bytes({"x": b"/etc/passwd"}, mode=mode))
        assert f"'x' {why}" in rejected(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("x", b"1")
        file.writestr("x", b"2")
    assert "'x' is duplicated" in rejected(tmp_path)
    (tmp_path / "a.zip").unlink()
    (tmp_path / "link").symlink_to("secret")
    (tmp_path / "secret").write_text("secret")
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as packed:
        packed.write(tmp_path / "link", "link")
    assert "'link' is a link" in rejected(tmp_path)


@make
@pytest.mark.parametrize("damage", ["truncated", "flipped", "flipped at the end", "empty", "text"])
def test_damage_is_a_sentence(make: Make, damage: str, tmp_path: Path) -> None:
    path = make(tmp_path, {"x.tif": random.Random(3).randbytes(5000)})
    data = bytearray(path.read_bytes())
    if damage.startswith("flipped"):
        data[5000 if damage.endswith("end") else 1000] ^= 0xFF
    else:
        data = {"truncated": data[: len(data) // 2], "empty": bytearray(), "text": bytearray(b"no archive" * 9)}[damage]
    path.write_bytes(data)
    assert "fetch" in rejected(tmp_path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_flipped_byte_anywhere_is_a_sentence_or_changes_nothing(method: int, tmp_path: Path) -> None:
    data = {"x.tif": bytes(range(40))}
    whole = zip_bytes(data, method)
    chance = random.Random(method)
    for _ in range(6):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        (tmp_path / "a.zip").write_bytes(damaged)
        try:
            assert set(read(tmp_path).values()) <= {data["x.tif"]}
        except UserError as error:
            assert str(error).isprintable()


@make
def test_a_damaged_archive_is_named_with_its_folder(make: Make, tmp_path: Path) -> None:
    path = make(tmp_path, {"x.tif": random.Random(3).randbytes(5000)})
    path.write_bytes(path.read_bytes()[:-40])
    said = rejected(tmp_path)
    assert said.startswith(f"{path} is ") and "delete it and fetch it again" in said


def test_damaged_inner_zip_is_named(tmp_path: Path) -> None:
    inner = bytearray(zip_bytes({"one.tif": b"1" * 500}))
    inner[inner.index(b"PK\x01\x02") + 16] ^= 1  # its CRC-32, to which the 7z is no witness
    seven_zip_of(tmp_path, {"inner.zip": bytes(inner)})
    assert "a.7z/inner.zip" in rejected(tmp_path)


@pytest.mark.parametrize("declared", [10, 5000, 0xFFFFFFF0])
def test_a_wrong_declared_size_is_a_sentence(declared: int, tmp_path: Path) -> None:
    data = bytearray(zip_bytes({"bomb.tif": bytes(1000)}))
    for place in (22, data.index(b"PK\x01\x02") + 24):  # uncompressed size in the local and in the central header
        assert struct.unpack_from("<I", data, place) == (1000,)
        struct.pack_into("<I", data, place, declared)
    (tmp_path / "a.zip").write_bytes(data)
    rejected(tmp_path)


def with_method(method: int) -> bytes:
    data = bytearray(zip_bytes({"x.tif": b"x" * 50}))
    struct.pack_into("<H", data, 8, method)
    struct.pack_into("<H", data, data.index(b"PK\x01\x02") + 10, method)
    return bytes(data)


def encrypted() -> bytes:
    data = bytearray(zip_bytes({"x.tif": b"x"}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def last_volume() -> bytes:
    data = bytearray(zip_bytes({"x.tif": b"x"}))
    end = data.index(b"PK\x05\x06")
    struct.pack_into("<HHHHLL", data, end + 4, 1, 0, 1, 1, 50, 900)
    return bytes(data)


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (lambda: with_method(9), "a.zip/x.tif cannot be unpacked here (That compression method is not supported)"),
        (lambda: with_method(93), "a.zip/x.tif cannot be unpacked here"),
        (encrypted, "a.zip/x.tif cannot be unpacked here (File <ZipInfo"),
        (last_volume, "split"),
    ],
    ids=["Deflate64", "Zstandard", "encrypted", "last volume of a split zip"],
)
def test_unsupported_zips_say_what_to_do(write: Callable[[], bytes], what: str, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(write())
    message = rejected(tmp_path)
    assert what in message and "unpack it yourself and name the folder in data.source" in message


def with_coder(path: Path, old: bytes, new: bytes) -> None:
    """Exchange a coder of a 7z whose header is not compressed."""
    data = bytearray(path.read_bytes())
    at, size = struct.unpack("<QQ", data[12:28])
    head = bytes(data[32 + at : 32 + at + size])
    assert old in head
    head = head.replace(old, new)
    data[32 + at :] = head
    data[20:32] = struct.pack("<QI", len(head), zlib.crc32(head))
    data[8:12] = struct.pack("<I", zlib.crc32(data[12:32]))
    path.write_bytes(data)


@pytest.mark.parametrize(
    "coder", [b"\x03\x03\x01\x1b", b"\x04\xf7\x11\x02", b"\x03\x04\x01\x00"], ids=["BCJ2", "Brotli", "unknown"]
)
def test_unsupported_7z_coders_say_what_to_do(coder: bytes, tmp_path: Path) -> None:
    filters = [{"id": py7zr.FILTER_X86}, {"id": py7zr.FILTER_LZMA2, "preset": 1}]
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w", filters=filters) as file:
        file.set_encoded_header_mode(False)
        file.writestr(bytes(9000), "x.tif")
    with_coder(tmp_path / "a.7z", b"\x03\x03\x01\x03", coder)
    assert "unpack it yourself and name the folder in data.source" in rejected(tmp_path)


@pytest.mark.parametrize("filter", [py7zr.FILTER_PPMD, py7zr.FILTER_ZSTD, py7zr.FILTER_BROTLI])
def test_7z_coders_of_other_libraries(filter: int, tmp_path: Path) -> None:
    path = seven_zip_of(tmp_path, {"x.tif": b"x" * 9999}, filters=[{"id": filter, "level": 3, "order": 6, "mem": 24}])
    assert read(tmp_path) == {"a.7z/x.tif": b"x" * 9999}
    data = bytearray(path.read_bytes())
    data[34] ^= 0xFF
    path.write_bytes(data)
    assert "a.7z" in rejected(tmp_path)


def test_encrypted_7z_is_named(tmp_path: Path) -> None:
    seven_zip_of(tmp_path, {"x.tif": b"x"}, password="secret")
    assert "unpack it yourself" in rejected(tmp_path)


def test_a_crash_of_the_unpacker_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zip_of(tmp_path, MEMBERS)
    started = subprocess.Popen

    def crashing(command: list[str], **options: Any) -> Any:
        return started([command[0], "-c", "import os; os.kill(os.getpid(), 11)"], **options)

    monkeypatch.setattr(archives.subprocess, "Popen", crashing)
    assert f"status {-signal.SIGSEGV}" in rejected(tmp_path)


@pytest.mark.parametrize("limit", ["AS", "CPU"])
def test_lower_limits_of_the_machine_stay(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zip_of(tmp_path, MEMBERS)
    started, most = subprocess.Popen, {"AS": 4 << 30, "CPU": 300}[limit]

    def limited(command: list[str], **options: Any) -> Any:
        code = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_{limit}, ({most}, {most}))"
        return started([command[0], "-c", f"{code}; os.execv(sys.executable, {command})"], **options)

    monkeypatch.setattr(archives.subprocess, "Popen", limited)
    assert read(tmp_path) == {f"a.zip/{name}": data for name, data in TIFS.items()}


def test_the_unpacker_ends_with_the_generator_and_with_its_parent(tmp_path: Path) -> None:
    zip_of(tmp_path, MEMBERS)
    (tmp_path / "spool").mkdir()
    sizes = {f"a.zip/{name}": len(data) for name, data in TIFS.items()}
    members = read_members(Group("a.zip", ("a.zip",)), tmp_path, sizes, tmp_path / "spool")
    next(members)
    members.close()  # type: ignore[attr-defined]
    assert not subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "acquire.unpacker"], capture_output=True).stdout
    ours, theirs = Pipe()
    command = [archives.sys.executable, "-m", "scpseg.data.acquire.unpacker", str(theirs.fileno())]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, pass_fds=[theirs.fileno()]) as child:
        theirs.close()
        ours.send(("a.zip", [str(tmp_path / "a.zip")], list(sizes)))
        assert ours.recv() == "a.zip/a/one.tif"
        with pytest.raises(subprocess.TimeoutExpired):  # waits while nobody reads
            child.wait(0.2)
        ours.close()
        assert child.wait(20) == 1


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    zip_of(tmp_path, MEMBERS)
    opened = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        return opened(Path("/dev/full") if mode == "wb" else path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError) as caught:
        read(tmp_path)
    said = str(explained(caught.value, ""))
    assert f"{tmp_path}/spool/" in said and "cannot be written (No space left on device): free some space" in said
