import io
import random
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from server import Server, cut, headers, page, status, swap

from scpseg.data.acquire.http import Connection, RangedFile, stored_members, transfer
from scpseg.errors import UserError

BLOCK = 1000
DATA = random.Random(1).randbytes(10_500)


@pytest.fixture
def connection() -> Connection:
    return Connection(tries=3, sleep=lambda seconds: None)


@pytest.fixture
def file(server: Server, connection: Connection) -> RangedFile:
    server.put("/a", DATA)
    return RangedFile(server.url("/a"), connection, BLOCK)


def zipped(*members: tuple[zipfile.ZipInfo, bytes], before: bytes = b"") -> bytes:
    stream = io.BytesIO(before)
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "a") as archive:
        for info, content in members:
            archive.writestr(info, content)
    return stream.getvalue()


def member(name: str, compression: int = zipfile.ZIP_STORED, extra: bytes = b"") -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type, info.extra = compression, extra
    return info


def test_reads_like_a_file(file: RangedFile) -> None:
    plain, random_place = io.BytesIO(DATA), random.Random(2)
    assert file.size == len(DATA) and file.readable() and file.seekable()
    for _ in range(200):
        offset, length = random_place.randrange(len(DATA) + 50), random_place.choice([0, 1, 700, BLOCK, 2500])
        assert file.seek(offset) == plain.seek(offset)
        assert file.read(length) == plain.read(length) and file.tell() == plain.tell()
    assert file.seek(-9, io.SEEK_END) == len(DATA) - 9 and file.seek(4, io.SEEK_CUR) == len(DATA) - 5
    assert file.read() == DATA[-5:] and file.read(5) == b""
    with pytest.raises(ValueError, match="before the start"):
        file.seek(-1)


def test_goes_on_after_losses(server: Server, file: RangedFile) -> None:
    server.play("/a", cut(10), status(503))
    assert file.read(2000) == DATA[:2000]
    server.play("/a", *[cut(10)] * 3)
    with pytest.raises(UserError, match=r"failed 3 times to send .* \(the connection broke off \(IncompleteRead"):
        file.read(2000)


def test_another_version_is_refused(server: Server, file: RangedFile) -> None:
    server.play("/a", swap(DATA[::-1], '"2"'))
    with pytest.raises(UserError, match="/a changed while it was being read; run the same command again"):
        file.read(1)
    server.put("/a", DATA + b"x", etag=None)
    with pytest.raises(UserError, match="changed"):
        file.read(1)


def test_answers_that_are_none(server: Server, file: RangedFile, connection: Connection) -> None:
    server.play("/a", page(), headers(Content_Range="bytes 1-1000/10500"), headers(Content_Range="bytes 0-999/*"))
    for words in ("web page instead", "bytes 1 to 1000 where", "bytes 0 to 999 where"):
        with pytest.raises((UserError, ValueError), match=words):
            file.read(1)
    server.put("/whole", DATA, ranges=False)
    with pytest.raises(UserError, match="/whole does not send parts of the file"):
        RangedFile(server.url("/whole"), connection)


def test_one_member_of_a_big_zip(server: Server, connection: Connection, tmp_path: Path) -> None:
    """An archive in the middle costs its own bytes and the zip's table; a window fetches it."""
    inner = zipped((member("x.tif", zipfile.ZIP_DEFLATED), DATA))
    extra = struct.pack("<HH4s", 0x9999, 4, b"abcd")
    rest = random.Random(3).randbytes(3 << 20)
    content = zipped(
        (member("Potsdam/1.rar"), rest),
        (member("Potsdam/2_inner.zip", extra=extra), inner),
        (member("Potsdam/no2_inner.zip"), rest),
        before=b"#!shell\n",
    )
    server.put("/all.zip", content)
    (remote,) = stored_members(server.url("/all.zip"), connection, ["2_inner.zip"])
    (again,) = stored_members(server.url("/all.zip"), connection, ["Potsdam/2_inner.zip"])
    assert (again.first, again.size) == (remote.first, remote.size)
    first, size = remote.first, remote.size
    assert (size, remote.crc32) == (len(inner), zlib.crc32(inner))
    assert content[first : first + size] == inner
    transfer(remote, tmp_path, connection)
    assert (tmp_path / "2_inner.zip").read_bytes() == inner
    assert server.sent["/all.zip"] < len(inner) + (2 << 20) + 4096


def test_members_that_cannot_be_had_alone(server: Server, connection: Connection) -> None:
    def found(content: bytes, name: str) -> object:
        server.put("/z.zip", content)
        return stored_members(server.url("/z.zip"), connection, [name])

    content = zipped(
        (member("a/packed", zipfile.ZIP_DEFLATED), bytes(999)), (member("a/x"), b"1"), (member("b/x"), b"2")
    )
    with pytest.raises(UserError, match=r"packed in http://127.0.0.1:\d+/z.zip is compressed"):
        found(content, "packed")
    with pytest.raises(UserError, match="holds 0 members y, one is expected; found: a/packed, a/x, b/x"):
        found(content, "y")
    with pytest.raises(UserError, match="holds 2 members x, one is expected; found: a/x, b/x"):
        found(content, "x")
    secret = bytearray(zipped((member("x"), b"1")))
    table = secret.rindex(b"PK\x01\x02")
    secret[table + 8] |= 1
    with pytest.raises(UserError, match="or encrypted"):
        found(bytes(secret), "x")
    with pytest.raises(UserError, match="is not where the table of the zip says"):
        found(b"PK\x03\x05" + zipped((member("x"), b"1"))[4:], "x")
    for wrong in (content[:-30], b"tiny"):
        with pytest.raises(UserError, match="makes no sense"):
            found(wrong, "x")


def test_a_huge_answer_is_not_read(server: Server, connection: Connection) -> None:
    """A server without ranges must not cost the whole file before it is noticed."""
    server.put("/whole", bytes(64 << 20), ranges=False)
    with pytest.raises(UserError, match="does not send parts"):
        RangedFile(server.url("/whole"), connection)
    assert server.requests[0].sent < 32 << 20
