import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

import pytest

from scpseg.data.acquire.zipstream import stream_zip
from scpseg.errors import UserError

MEMBERS = {
    "D/train/noise.bin": random.Random(0).randbytes(700_001),
    "D/empty.bin": b"",
    "D/zeros.bin": bytes(3 << 20),  # a multiple of what is unpacked at a time
    "D/text.txt": b"abc" * 1000,
    "D/like a descriptor.bin": b"PK\x07\x08" * 50 + b"PK\x07" + bytes(20) + b"PK\x03\x04PK\x01\x02",
    "D/\u00e4.bin": b"umlaut",
}
"""Members by name; the names of the faults come after."""


class Forward(io.RawIOBase):
    """A file that cannot seek, for which zipfile writes data descriptors."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.data += bytes(data)  # type: ignore[call-overload]
        return len(bytes(data))  # type: ignore[call-overload]


def seekable(method: int, long: bool) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, data in MEMBERS.items():
            with file.open(name, "w", force_zip64=long) as member:
                member.write(data)
        file.mkdir("D/folder")
    return stream.getvalue()


def forward(method: int, long: bool) -> bytes:
    stream = Forward()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, data in MEMBERS.items():
            with file.open(name, "w", force_zip64=long) as member:
                member.write(data)
    return bytes(stream.data)


def unsigned(method: int, long: bool) -> bytes:
    """Descriptors without signature, as the format allows; `method` and `long` as in the others."""
    made = bytearray()
    for name, data in MEMBERS.items():
        packer = zlib.compressobj(wbits=-15)
        packed = packer.compress(data) + packer.flush()
        raw = name.encode()
        made += struct.pack("<4sHHHHHLLLHH", b"PK\x03\x04", 45, 0x808, 8, 0, 0, 0, 0, 0, len(raw), 0) + raw + packed
        made += struct.pack("<LQQ" if long else "<LLL", zlib.crc32(data), len(packed), len(data))
    return bytes(made) + b"PK\x05\x06" + bytes(18)


def pieces(data: bytes, seed: int = 0) -> Iterator[bytes]:
    chance, at = random.Random(seed), 0
    while at < len(data):
        size = chance.choice([1, 3, 50, 4096, 200_000])
        yield data[at : at + size]
        at += size


def unpacked(data: bytes, wanted: Callable[[str], bool] = lambda name: True, seed: int = 0) -> dict[str, bytes]:
    return {name: b"".join(chunks) for name, chunks in stream_zip("a.zip", pieces(data, seed), wanted)}


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("write", [seekable, forward, unsigned])
def test_equals_zipfile(write: Callable[[int, bool], bytes], method: int, long: bool) -> None:
    data = write(method, long)
    if write is not unsigned:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            assert {name: file.read(name) for name in file.namelist() if not name.endswith("/")} == MEMBERS
    for seed in range(3):
        assert unpacked(data, seed=seed) == MEMBERS
        assert unpacked(data, lambda name: name == "D/text.txt", seed) == {"D/text.txt": MEMBERS["D/text.txt"]}


def test_what_the_consumer_leaves_is_passed_over() -> None:
    for write in (seekable, forward):
        names = []
        for name, chunks in stream_zip("a.zip", pieces(write(zipfile.ZIP_DEFLATED, False)), lambda name: True):
            next(chunks, b"")
            names.append(name)
        assert names == list(MEMBERS)


def one(data: bytes = b"x" * 5000, method: int = zipfile.ZIP_DEFLATED, name: str = "x") -> bytearray:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        file.writestr(name, data, method)
    return bytearray(stream.getvalue())


def patched(offset: int, code: str, value: int, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    data = one(method=method)
    struct.pack_into(code, data, offset, value)
    return bytes(data)


FLAGS, METHOD, CRC, PACKED, SIZE = 6, 8, 14, 18, 22


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (patched(SIZE, "<L", 4999), r"'x' unpacks to more than the 4999 bytes it declares"),
        (patched(SIZE, "<L", 5001), r"'x' unpacks to 5000 of the 5001 bytes"),
        (patched(SIZE, "<L", 4999, zipfile.ZIP_STORED), r"'x' unpacks to more than the 4999"),
        (patched(CRC, "<L", 7), r"'x' has the wrong CRC-32"),
        (patched(PACKED, "<L", 9), r"'x' does not end where it should|'x' is damaged"),
        (patched(PACKED, "<L", 40), r"'x' ends before its packed size"),
        (patched(FLAGS, "<H", 1), r"'x' is encrypted"),
        (patched(METHOD, "<H", 12), r"'x' is packed with method 12"),
        (bytes(one()[:35]), r"ends in the middle of a member"),
        (bytes(one()[:12]), r"ends in the middle of a header"),
        (b"", r"no zip header where one is due"),
        (b"7z, not a zip", r"no zip header where one is due"),
        (bytes(one(name="../x")), r"points outside"),
        (bytes(one(name="/x")), r"absolute path"),
    ],
    ids=range(14),
)
def test_damaged_and_hostile_zips_are_named(data: bytes, why: str) -> None:
    with pytest.raises(UserError, match=why) as caught:
        unpacked(data)
    assert str(caught.value).startswith("a.zip")
    assert "\n" not in str(caught.value)


def test_member_that_stands_twice_is_refused() -> None:
    local = bytes(one())
    local = local[: local.index(b"PK\x01\x02")]
    with pytest.raises(UserError, match="'x' stands twice"):
        unpacked(local + bytes(one()))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_descriptor_that_does_not_fit_is_refused(method: int) -> None:
    data = bytearray(forward(method, False))
    at = data.index(b"PK\x07\x08", 700_000)  # behind the noise
    data[at + 4] ^= 1
    with pytest.raises(UserError, match=r"differs from its size or CRC-32|ends in the middle"):
        unpacked(bytes(data), lambda name: name == "D/train/noise.bin")


def test_unwanted_members_of_other_kinds_are_passed_over() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("squeezed.bin", b"x" * 1000, zipfile.ZIP_BZIP2)
        file.writestr("wanted.bin", b"here")
    assert unpacked(stream.getvalue(), lambda name: name == "wanted.bin") == {"wanted.bin": b"here"}
    with pytest.raises(UserError, match="packed with method 12"):
        unpacked(stream.getvalue())


def test_a_bomb_comes_in_small_chunks() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros.bin", bytes(64 << 20))
    total = 0
    for _, chunks in stream_zip("a.zip", iter([stream.getvalue()]), lambda name: True):
        for chunk in chunks:
            assert len(chunk) <= 1 << 20
            total += len(chunk)
    assert total == 64 << 20
