import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from server import Server, chunked, cut, headers, page, redirect, status, swap

from scpseg.data.acquire.transfer import Connection, Remote, transfer
from scpseg.errors import UserError

SIZE = 300_000


def packed(size: int, seed: int) -> bytes:
    """Bytes that begin like a 7z archive of that size."""
    start = b"7z\xbc\xaf\x27\x1c" + bytes(6) + struct.pack("<QQI", size - 132, 100, 0)
    return start + random.Random(seed).randbytes(size - len(start))


DATA, OTHER = packed(SIZE, 1), packed(SIZE, 2)
SHA = hashlib.sha256(DATA).hexdigest()
SUMS = {"sha256": SHA, "md5": hashlib.md5(DATA).hexdigest().upper(), "crc32": zlib.crc32(DATA)}
Fetch = Callable[..., bytes]


@pytest.fixture
def fetch(server: Server, tmp_path: Path) -> Fetch:
    """Transfer /a.7z, which is DATA unless said otherwise, to sub/a.7z below the test's folder."""
    server.put("/a.7z", DATA)

    def run(url: str | None = None, **known: Any) -> bytes:
        connection = Connection(tries=3, read=5.0)
        transfer(Remote(url or server.url("/a.7z"), "sub/a.7z", **known), tmp_path, connection)
        return (tmp_path / "sub/a.7z").read_bytes()

    return run


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "sub" / "a.7z"


@pytest.fixture
def part(server: Server, fetch: Fetch, target: Path) -> Path:
    """What a run leaves that ends for good after 100,000 bytes."""
    server.play("/a.7z", cut(100_000), *[status(503)] * 2)
    with pytest.raises(UserError, match="503"):
        fetch()
    server.sent.clear()
    server.requests.clear()
    path = target.with_name("a.7z.part")
    assert path.read_bytes() == DATA[:100_000] and not target.exists()
    return path


def left(target: Path) -> list[str]:
    """Names in the folder."""
    return sorted(path.name for path in target.parent.iterdir())


def test_a_file_is_fetched_once(server: Server, fetch: Fetch, target: Path) -> None:
    assert fetch(size=SIZE, **SUMS) == DATA
    assert target.read_bytes() == DATA
    assert server.sent["/a.7z"] == SIZE
    assert left(target) == ["a.7z"]
    assert fetch(size=SIZE, **SUMS) == fetch() == DATA
    assert len(server.requests) == 1


def test_a_file_of_unknown_origin(server: Server, fetch: Fetch, target: Path) -> None:
    target.parent.mkdir()
    for known in ({}, {"size": SIZE}, SUMS):
        target.write_bytes(DATA)
        assert fetch(**known) == DATA
    assert not server.requests


@pytest.mark.parametrize("known", [{"size": SIZE}, {"md5": SUMS["md5"]}, {"crc32": SUMS["crc32"]}, {"sha256": SHA}])
def test_a_wrong_file_is_replaced(
    fetch: Fetch, target: Path, known: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    target.parent.mkdir()
    target.write_bytes(OTHER if "size" not in known else DATA[:-1])
    assert fetch(**known) == DATA and target.read_bytes() == DATA
    assert "sub/a.7z exists, but " in capsys.readouterr().err


def test_goes_on_after_a_loss_within_the_run(server: Server, fetch: Fetch, capsys: pytest.CaptureFixture[str]) -> None:
    server.play("/a.7z", cut(100_000), status(429, "3"), cut(50_000), cut(1), cut(50_000))
    assert fetch(size=SIZE) == DATA
    assert server.sent["/a.7z"] == SIZE + len(b"sorry")
    asked = [request.headers.get("range") for request in server.requests]
    expected = [100_000, 100_000, 150_000, 150_001, 200_001]
    assert asked == [None, *(f"bytes={first}-" for first in expected)]
    lines = capsys.readouterr().err
    assert "127.0.0.1: the connection was lost (" in lines and "try 2 of 3 in 1 s" in lines


def test_gives_up_where_nothing_comes_any_more(server: Server, fetch: Fetch, target: Path) -> None:
    server.play("/a.7z", cut(9), *[cut(0)] * 5)
    with pytest.raises(UserError, match="failed 3 times"):
        fetch()
    assert len(server.requests) == 3 and left(target) == ["a.7z.part", "a.7z.part.json"]


def test_goes_on_after_an_earlier_run(
    server: Server, fetch: Fetch, part: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert fetch(**SUMS) == DATA and target.read_bytes() == DATA
    assert server.sent["/a.7z"] == SIZE - 100_000
    assert "resuming after 100000 bytes of an earlier run" in capsys.readouterr().err
    assert left(target) == ["a.7z"]


def test_a_complete_part_needs_no_server(server: Server, fetch: Fetch, part: Path) -> None:
    part.write_bytes(DATA)
    assert fetch() == DATA and not server.requests


def test_a_part_without_a_known_end(server: Server, fetch: Fetch, part: Path) -> None:
    origin = part.with_name("a.7z.part.json")
    origin.write_text(json.dumps(json.loads(origin.read_text()) | {"size": None}))
    part.write_bytes(DATA)
    assert fetch() == DATA and server.sent["/a.7z"] == SIZE  # 416: nobody knows that it is complete


@pytest.mark.parametrize("spoil", ["no origin", "damaged origin", "too long", "other size"])
def test_a_part_that_proves_nothing_is_not_used(server: Server, fetch: Fetch, part: Path, spoil: str) -> None:
    origin = part.with_name("a.7z.part.json")
    if spoil == "no origin":
        origin.unlink()
    elif spoil == "damaged origin":
        origin.write_text("{")
    elif spoil == "too long":
        part.write_bytes(DATA + b"x")
    else:
        origin.write_text(json.dumps(json.loads(origin.read_text()) | {"size": 5}))
    assert fetch(size=SIZE) == DATA and server.requests[-1].headers.get("range") is None


def test_another_file_at_another_address_begins_anew(server: Server, fetch: Fetch, part: Path, target: Path) -> None:
    server.put("/mirror", OTHER)
    fetch(server.url("/mirror"))
    assert target.read_bytes() == OTHER and server.requests[-1].headers.get("range") is None


def test_the_file_changed_between_two_runs(
    server: Server, fetch: Fetch, part: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put("/a.7z", OTHER)
    fetch()
    assert target.read_bytes() == OTHER
    assert "sub/a.7z changed: starting it again from zero" in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"ETag": ""}, {"ETag": 'W/"weak"'}, {"ETag": "", "Last-Modified": ""}])
def test_servers_that_say_less(server: Server, fetch: Fetch, changes: dict[str, str], target: Path) -> None:
    """Last-Modified alone, a weak ETag, nothing at all (only a checksum lets us go on)."""
    file = server.files["/a.7z"]
    file.etag, file.last_modified = changes["ETag"], changes.get("Last-Modified", file.last_modified)
    server.play("/a.7z", cut(100_000))
    assert fetch(size=SIZE) == DATA
    bare = not file.last_modified
    assert server.sent["/a.7z"] == (100_000 + SIZE if bare else SIZE)
    if bare:
        shutil.rmtree(target.parent)
        server.play("/a.7z", cut(100_000))
        fetch(sha256=SHA)
        assert server.sent["/a.7z"] == 100_000 + SIZE + SIZE


def test_a_change_that_only_the_answer_shows(server: Server, fetch: Fetch, part: Path, target: Path) -> None:
    """A server that ignores If-Range, as some do, sends bytes of the new file: its ETag gives it away."""
    server.play("/a.7z", headers(ETag='"new"'))
    assert fetch() == DATA
    assert len(server.requests) == 2 and "range" not in server.requests[1].headers


def test_the_file_changes_in_the_middle(server: Server, fetch: Fetch, target: Path) -> None:
    server.play("/a.7z", cut(100_000), swap(OTHER, '"2"', cut(150_000)))
    fetch()
    assert target.read_bytes() == OTHER
    target.unlink()
    server.play("/a.7z", cut(100_000), swap(DATA, '"3"', cut(9)), swap(OTHER, '"4"'))
    fetch()
    assert target.read_bytes() == OTHER


def test_the_file_shrinks(server: Server, fetch: Fetch, part: Path, target: Path) -> None:
    less = packed(50_000, 1)
    server.put("/a.7z", less, etag=None, last_modified=None)
    assert fetch() == less and target.read_bytes() == less


def test_a_server_without_ranges(server: Server, fetch: Fetch, capsys: pytest.CaptureFixture[str]) -> None:
    server.files["/a.7z"].ranges = False
    server.play("/a.7z", cut(100_000), cut(90_000), cut(110_000))
    assert fetch(**SUMS) == DATA
    assert "sub/a.7z cannot be resumed: starting it again from zero" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"/a.7z sends bytes from 0 on instead of those from 7 on"):
        fetch(size=10, first=7, md5="0")


def test_a_server_without_ranges_that_breaks_off_for_ever(server: Server, fetch: Fetch) -> None:
    server.files["/a.7z"].ranges = False
    server.play("/a.7z", *[cut(100_000)] * 9)
    with pytest.raises(UserError, match="failed 3 times"):
        fetch()
    assert len(server.requests) == 3


@pytest.mark.parametrize("content_range", ["bytes 5-299999/300000", "5-6", "bytes 9-8/20", ""])
def test_a_range_that_does_not_fit(server: Server, fetch: Fetch, part: Path, content_range: str) -> None:
    server.play("/a.7z", headers(Content_Range=content_range))
    with pytest.raises(UserError, match=r"instead of those from 100000 on; check the address, or|cannot be parsed"):
        fetch()
    assert part.read_bytes() == DATA[:100_000]


def test_a_part_that_nobody_asked_for(server: Server, fetch: Fetch) -> None:
    server.play("/a.7z", lambda request, file: request.answer(206, DATA[:9], {"Content-Range": f"bytes 0-8/{SIZE}"}))
    assert fetch() == DATA


def test_a_server_that_sends_less_than_asked_each_time(server: Server, fetch: Fetch) -> None:
    def some(request: Any) -> None:
        first = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
        pairs = {"Content-Range": f"bytes {first}-{first + 49_999}/{SIZE}", "ETag": server.files["/a.7z"].etag}
        request.answer(206, DATA[first : first + 50_000], pairs)

    server.play("/a.7z", cut(50_000))
    server.on("GET", "/a.7z", some)
    assert fetch(size=SIZE) == DATA
    assert server.sent["/a.7z"] == SIZE and len(server.requests) == 6


def test_wrong_lengths(server: Server, fetch: Fetch, target: Path) -> None:
    with pytest.raises(UserError, match=r"/a.7z has 300000 bytes instead of 300001 bytes; check the address"):
        fetch(size=SIZE + 1)
    server.play("/a.7z", headers(Content_Length=str(SIZE + 1)))
    with pytest.raises(UserError, match="300001 bytes instead of 300000 bytes"):
        fetch(size=SIZE)
    server.play("/a.7z", chunked(DATA))
    with pytest.raises(UserError, match="sends more than the expected 299999 bytes"):
        fetch(size=SIZE - 1)
    server.play("/a.7z", chunked(DATA))
    with pytest.raises(UserError, match="has 300000 bytes instead of 300001"):
        fetch(size=SIZE + 1)
    assert not target.exists()


def test_a_length_that_is_wrong_once(server: Server, fetch: Fetch) -> None:
    """Announced one byte more than there is, size unknown: the next answer tells, and the file is begun again."""
    server.play("/a.7z", headers(Content_Length=str(SIZE + 1)))
    assert fetch() == DATA


@pytest.mark.parametrize("name", ["sha256", "md5", "crc32"])
def test_wrong_checksums(server: Server, fetch: Fetch, target: Path, name: str) -> None:
    server.put("/a.7z", OTHER)
    with pytest.raises(UserError, match=rf"sub/a.7z from http://.*/a.7z is damaged or another file: {name} .* deleted"):
        fetch(**{name: SUMS[name]})
    assert left(target) == []


def test_a_damaged_part_is_noticed(fetch: Fetch, part: Path, target: Path) -> None:
    part.write_bytes(b"?" + DATA[1:100_000])
    with pytest.raises(UserError, match="damaged"):
        fetch(sha256=SHA)
    assert left(target) == []
    assert fetch(sha256=SHA) == DATA


@pytest.mark.parametrize("fault", [page("application/octet-stream"), page("text/plain", b"\n <html>hello")])
def test_a_page_that_is_called_a_file(server: Server, fetch: Fetch, target: Path, fault: Any) -> None:
    server.play("/a.7z", fault)
    with pytest.raises(UserError, match="is damaged or another file: it is a web page; it was deleted"):
        fetch()
    assert left(target) == [] and fetch() == DATA


def test_a_page_instead_of_the_file(server: Server, fetch: Fetch, target: Path) -> None:
    server.play("/a.7z", page())
    with pytest.raises(UserError, match=r"http://127.0.0.1:\d+/a.7z answers with a web page instead of the file"):
        fetch(server.url("/a.7z?token=1"))
    assert not target.exists()
    server.play("/a.7z", cut(100_000), page())
    with pytest.raises(UserError, match="web page"):
        fetch(server.url("/a.7z?token=1"))
    assert target.with_name("a.7z.part").stat().st_size == 100_000  # what is good stays
    assert fetch(server.url("/a.7z?token=1")) == DATA


def test_packed_on_the_way(server: Server, fetch: Fetch) -> None:
    packed = {"Content-Encoding": "gzip"}
    server.play("/a.7z", lambda request, file: request.answer(200, gzip.compress(DATA), packed))
    assert fetch(**SUMS) == DATA
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_redirects_are_followed_anew_each_time(server: Server, fetch: Fetch) -> None:
    server.play("/r", redirect(server.url("/a.7z", "localhost")), redirect("/a.7z"))
    server.play("/a.7z", cut(100_000))
    assert fetch(server.url("/r")) == DATA
    assert server.sent["/a.7z"] == SIZE and len(server.asked("/r")) == 2


def test_a_window(server: Server, fetch: Fetch, target: Path) -> None:
    window = DATA[1000:251_000]
    known = {"first": 1000, "size": 250_000, "crc32": zlib.crc32(window)}
    server.play("/a.7z", cut(100_000))
    assert fetch(**known) == window and server.sent["/a.7z"] == 250_000
    asked = [request.headers["range"] for request in server.requests]
    assert asked == ["bytes=1000-250999", "bytes=101000-250999"]
    target.unlink()
    with pytest.raises(UserError, match=r"sends bytes from 0 on instead of those from 300000 on"):
        fetch(first=299_000, size=2000)


def test_an_empty_file(server: Server, fetch: Fetch, target: Path) -> None:
    server.put("/a.7z", b"")
    assert fetch(crc32=0) == b""
    target.unlink()
    assert fetch(size=0) == b"" and len(server.requests) == 1


@pytest.mark.parametrize("content", [b"", b"try again later", DATA[:-1], DATA[4:]], ids=range(4))
def test_a_file_of_which_nothing_is_known_must_be_an_archive(
    server: Server, fetch: Fetch, target: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    server.play("/a.7z", chunked(content))
    with pytest.raises(UserError, match="is damaged or another file: it is not a whole archive; it was deleted"):
        fetch()
    assert left(target) == []
    target.write_bytes(content)
    assert fetch() == DATA
    assert "sub/a.7z exists, but it is" in capsys.readouterr().err


def test_names_that_lead_elsewhere() -> None:
    for name in ("/etc/x", "../x", "a/../../x", "", "a\\..\\x", ".hidden", "a.part", "a.part.json", "a\x1b[2J.zip"):
        with pytest.raises(UserError, match="not a safe file name"):
            Remote("http://h/a", name)


def test_too_small_a_disk(server: Server, fetch: Fetch, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scpseg.data.acquire.space.MARGIN", 0)
    monkeypatch.setattr("scpseg.data.acquire.space.free_bytes", lambda folder: 199_999)
    with pytest.raises(UserError, match=r"fetching sub/a.7z needs 200000 bytes .*but 199999 bytes .* are free"):
        fetch()
    assert part.stat().st_size == 100_000  # not even begun
    monkeypatch.setattr("scpseg.data.acquire.space.free_bytes", lambda folder: 200_000)
    assert fetch() == DATA


def test_interrupted_by_hand(server: Server, fetch: Fetch, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/a.7z"].rate = 400_000
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        fetch(sha256=SHA)
    timer.join()
    have = target.with_name("a.7z.part").stat().st_size
    assert 0 < have < SIZE and not target.exists()
    server.files["/a.7z"].rate = None
    assert fetch(sha256=SHA) == DATA and server.requests[1].sent == SIZE - have


CHILD = """
import sys
from pathlib import Path
from scpseg.data.acquire.transfer import Connection
from scpseg.data.acquire.transfer import Remote, transfer
transfer(Remote(sys.argv[1], "sub/a.7z", sha256=sys.argv[3]), Path(sys.argv[2]), Connection())
"""


def child(server: Server, tmp_path: Path) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", CHILD, server.url("/a.7z"), str(tmp_path), SHA]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)


def test_killed(server: Server, fetch: Fetch, tmp_path: Path, target: Path) -> None:
    server.files["/a.7z"].rate = 400_000
    part = target.with_name("a.7z.part")
    with child(server, tmp_path) as process:
        while not (part.exists() and part.stat().st_size > SIZE // 4):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    have = part.stat().st_size
    assert not target.exists()
    server.files["/a.7z"].rate = None
    with child(server, tmp_path) as process:
        assert f"resuming after {have} bytes of an earlier run" in process.communicate()[1]
    assert process.returncode == 0 and len(server.requests) == 2
    assert server.requests[1].sent == SIZE - have and target.read_bytes() == DATA
