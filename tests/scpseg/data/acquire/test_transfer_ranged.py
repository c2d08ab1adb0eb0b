import io
import random
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from server import Server, cut, headers, page, status, swap

from scpseg.data.acquire.transfer import Connection, stored_members, transfer
from scpseg.errors import UserError

DATA = random.Random(1).randbytes(10_500)


@pytest.fixture
def connection() -> Connection:
    return Connection(tries=3)


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


def test_goes_on_after_losses_and_notices_changes(server: Server, connection: Connection, tmp_path: Path) -> None:
    content, url = zipped((member("x"), b"1")), server.url("/a")
    server.put("/a", content)
    server.play("/a", None, cut(10), status(503))
    assert stored_members(url, connection, ["x"])[0].size == 1
    server.play("/a", None, *[cut(10)] * 3)
    with pytest.raises(UserError, match=r"failed 3 times to send .* \(the connection was lost \(IncompleteRead"):
        stored_members(url, connection, ["x"])
    server.play("/a", None, swap(content[::-1], '"2"'))
    with pytest.raises(UserError, match="cannot be parsed"):
        stored_members(url, connection, ["x"])
    server.put("/a", content)
    (remote,) = stored_members(url, connection, ["x"])
    server.put("/a", zipped((member("x"), b"2")))
    with pytest.raises(UserError, match=r"x from .* is damaged or another file: crc32"):
        transfer(remote, tmp_path, connection)


def test_answers_that_are_none(server: Server, connection: Connection) -> None:
    server.put("/a", DATA)
    for fault, words in (
        (page(), "web page instead"),
        (headers(Content_Range="bytes 1-1/10500"), "does not support range requests"),
        (headers(Content_Range="bytes 0-0/*"), "does not support range requests"),
        (None, "cannot be parsed"),
    ):
        server.play("/a", fault)
        with pytest.raises(UserError, match=words):
            stored_members(server.url("/a"), connection, ["x"])
    server.put("/whole", DATA, ranges=False)
    with pytest.raises(UserError, match="/whole sends more than the expected 1 bytes"):
        stored_members(server.url("/whole"), connection, ["x"])


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
    with pytest.raises(UserError, match="contains 0 members y instead of one; found: a/packed, a/x, b/x"):
        found(content, "y")
    with pytest.raises(UserError, match="contains 2 members x instead of one; found: a/x, b/x"):
        found(content, "x")
    secret = bytearray(zipped((member("x"), b"1")))
    table = secret.rindex(b"PK\x01\x02")
    secret[table + 8] |= 1
    with pytest.raises(UserError, match="or encrypted"):
        found(bytes(secret), "x")
    for wrong in (content[:-30], b"tiny"):
        with pytest.raises(UserError, match="cannot be parsed"):
            found(wrong, "x")


def test_a_huge_answer_is_not_read(server: Server, connection: Connection) -> None:
    """A server without ranges must not cost the whole file before it is noticed."""
    server.put("/whole", bytes(64 << 20), ranges=False)
    with pytest.raises(UserError, match="sends more than the expected 1 bytes"):
        stored_members(server.url("/whole"), connection, ["x"])
    assert server.requests[0].sent < 32 << 20
