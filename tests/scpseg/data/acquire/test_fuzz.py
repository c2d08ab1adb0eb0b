"""Thousands of damaged archives and answers: each ends in a sentence or in the right bytes, none hangs or crashes."""

import hashlib
import io
import json
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import py7zr
import pytest
from server import Request, Server

from scpseg.data.acquire.transfer import Connection, Remote, stored_members, transfer
from scpseg.errors import UserError

pytestmark = pytest.mark.soak
CASES = 3000
CONTENT = {"a/one.tif": bytes(range(256)) * 3, "two.tif": random.Random(0).randbytes(700), "in.zip": b""}
UNPACK = """
import json, random, sys
from pathlib import Path
from scpseg.data.acquire.unpacker import answer
from scpseg.errors import UserError

folder, kind, cases = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
whole, right = (folder / f"whole.{kind}").read_bytes(), {n: bytes.fromhex(d) for n, d in json.load(sys.stdin).items()}
path, chance = folder / f"a.{kind}", random.Random(kind)
for case in range(cases):
    data = bytearray(whole)
    for _ in range(chance.choice([1, 1, 2, 8])):
        place = chance.randrange(len(data))
        change = chance.randrange(4)
        if change == 0:
            data[place] = chance.randrange(256)
        elif change == 1:
            data[place] ^= 1 << chance.randrange(8)
        elif change == 2:
            del data[place : place + chance.randrange(1, 9)]
        else:
            data[place:place] = chance.randbytes(chance.randrange(1, 9))
    path.write_bytes(data)
    for wanted in ([], [f"{path.name}/{name}" for name in right]):
        told = []
        answer(path.name, [str(path)], wanted or None, told.append)
        assert wanted or len(told) == 1, (case, told)
        name, found = "", b""
        for one in [*told, None]:
            if isinstance(one, bytes):
                found += one
                continue
            if name and not isinstance(one, UserError):  # only then the member before is known to be right
                assert found == right[name.removeprefix(f"{path.name}/")], (case, name)
            name, found = one if isinstance(one, str) else "", b""
"""


@pytest.mark.parametrize("kind", ["zip", "7z"])
def test_damaged_archives(kind: str, tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.tif", b"x" * 99)
    content = CONTENT | {"in.zip": inner.getvalue()}
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "whole.zip", "w") as file:
            for number, (name, data) in enumerate(content.items()):
                file.writestr(name, data, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)[number])
    else:
        with py7zr.SevenZipFile(tmp_path / "whole.7z", "w") as packed:
            for name, data in content.items():
                packed.writestr(data, name)
    command = [sys.executable, "-W", "ignore", "-c", UNPACK, str(tmp_path), kind, str(CASES)]
    names = json.dumps({name: data.hex() for name, data in content.items()})
    done = subprocess.run(command, input=names, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


TOKENS = [
    *("0", "-1", "9" * 400, "18446744073709551616", "*", "/", "bytes", "bytes 0-5/6", "bytes */6", "http://[", "//"),
    *("\0", "\x1b[2J", "\xff", "\xb2", " ", ",", ";", "=", "chunked", "gzip", "W/", '"', "text/html", "1e999"),
    "Wed, 99 Jan 0000",
]
HEADERS = [
    *("Content-Length", "Content-Range", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Location", "ETag"),
    *("Last-Modified", "Retry-After", "Set-Cookie", "Connection"),
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_odd_answers(server: Server, tmp_path: Path) -> None:
    """Any status with any headers and body: the known file or a sentence, and nothing left under its name."""
    body = b"7z\xbc\xaf" + random.Random(1).randbytes(996)
    chance = random.Random(2)
    connection = Connection(tries=2, read=0.5)

    def odd(request: Request) -> None:
        code = chance.choice([100, 200, 200, 206, 206, 301, 302, 304, 404, 416, 429, 500, 503])
        pairs = {name: "".join(chance.choices(TOKENS, k=chance.randrange(1, 4))) for name in chance.sample(HEADERS, 3)}
        if chance.random() < 0.5:
            pairs |= {"Content-Length": str(len(body)), "ETag": '"1"'}
        lines = [f"HTTP/1.1 {code} {chance.choice(TOKENS)}", *(f"{name}: {value}" for name, value in pairs.items())]
        request.handler.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        request.handler.wfile.write(body[: chance.choice([0, 5, len(body)])])
        request.handler.close_connection = True

    for path in ("/a.7z", "/list"):
        server.on("GET", path, odd)
    for case in range(CASES // 3):
        known = {"size": len(body)} if case % 2 else {}
        remote = Remote(server.url("/a.7z"), f"{case}.7z", sha256=hashlib.sha256(body).hexdigest(), **known)
        for ask in (
            lambda remote=remote: transfer(remote, tmp_path, connection),
            lambda: connection.text(server.url("/list")),
            lambda: stored_members(server.url("/a.7z"), connection, ["x"]),
        ):
            try:
                ask()
            except UserError as error:
                assert str(error).isprintable(), case
        target = tmp_path / remote.name
        assert not target.exists() or target.read_bytes() == body, case
