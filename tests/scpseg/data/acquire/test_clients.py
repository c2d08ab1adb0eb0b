"""The real clients of Kaggle and Drive against stand-ins: every host that they ask is led to this machine."""

import base64
import errno
import gc
import hashlib
import io
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from requests.adapters import HTTPAdapter
from server import Request, Server, cut

from pipelines.stage import explained
from scpseg.benchmarks import BENCHMARKS
from scpseg.benchmarks.base import File
from scpseg.data.acquire import clients
from scpseg.data.acquire.transfer import Connection
from scpseg.data.acquire.upstream import fetch
from scpseg.errors import UserError

# kagglehub leaves the connections of refused calls to the collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
PINNED, LOOSE, DRIVE = (
    replace(source, disk=1 << 20) for source in (*BENCHMARKS["deepglobe"].sources, BENCHMARKS["potsdam"].sources[2])
)
KAGGLE = "/api.kaggle.com/v1/datasets.DatasetApiService/"
BUNDLE = "/storage.test/bundle"
JSON, HTML = {"Content-Type": "application/json"}, {"Content-Type": "text/html"}
CONNECTION = Connection(tries=4)
"""Of it, clients use the tries and pauses alone."""


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "/"), content)
    return stream.getvalue()


@pytest.fixture
def led(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """Every https host of requests becomes a folder of a local server; no credentials of this machine are seen."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_CONFIG_DIR", "KAGGLE_API_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", os.environ.copy())  # the client's settings go to this process
    monkeypatch.setenv("no_proxy", "*")
    send = HTTPAdapter.send

    def lead(self: HTTPAdapter, request, **options):
        parts = urlsplit(request.url)
        if parts.scheme == "https":
            request.url = server.url(f"/{parts.hostname}{parts.path}") + (f"?{parts.query}" if parts.query else "")
        return send(self, request, **options)

    monkeypatch.setattr(HTTPAdapter, "send", lead)
    yield server
    gc.collect()


def sentence(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def serve_kaggle(server: Server, bundle: bytes, version: int = 7) -> None:
    md5 = base64.b64encode(hashlib.md5(bundle).digest()).decode()
    sums = {"Accept-Ranges": "bytes", "x-goog-hash": f"md5={md5}"}
    file = server.put(BUNDLE, bundle)
    server.on("GET", BUNDLE, lambda request: request.handler.file(BUNDLE, file, changes=sums))
    to_bundle = {"Location": "https://storage.test/bundle"}
    server.on("POST", f"{KAGGLE}DownloadDataset", lambda request: request.answer(302, b"", to_bundle))
    current = json.dumps({"currentVersionNumber": version}).encode()
    server.on("POST", f"{KAGGLE}GetDataset", lambda request: request.answer(200, current, JSON))


def test_kaggle_goes_on_after_a_cut_and_asks_once(led: Server, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    serve_kaggle(led, zipped(train__1_sat=content))
    led.play(BUNDLE, cut(2 << 20))
    assert clients.kaggle(PINNED, "", tmp_path / "kaggle", CONNECTION) == {"version": "2"}
    place = tmp_path / "kaggle/datasets" / PINNED.address
    assert [path.read_bytes() for path in place.rglob("*_sat")] == [content]
    assert f"bytes={2 << 20}-" in [request.headers.get("range") for request in led.asked(BUNDLE)]
    asked = len(led.requests)
    clients.kaggle(PINNED, "", tmp_path / "kaggle", CONNECTION)
    assert len(led.requests) == asked


def test_kaggle_without_a_pin_keeps_the_version_and_checks_the_known_file(led: Server, tmp_path: Path) -> None:
    inner = zipped(x=b"1")
    serve_kaggle(led, zipped(**{"data.zip": inner}))
    right = replace(LOOSE, files=(File("data.zip", md5=hashlib.md5(inner).hexdigest()),))
    assert clients.kaggle(right, "", tmp_path / "right", CONNECTION) == {"version": "7"}
    said = sentence(lambda: clients.kaggle(LOOSE, "", tmp_path / "wrong", CONNECTION))
    assert "data.zip of https://www.kaggle.com/" in said and "instead of f32684b0b2bf6f8d604cd359a399c061" in said


@pytest.mark.parametrize(
    ("code", "part", "calls"),
    [
        (401, "requires a login", 1),
        (403, "accept the terms on https://www.kaggle.com/", 1),
        (404, "does not have it", 1),
        (429, "too many requests", 4),
        (503, "has a server error (503)", 4),
    ],
)
def test_kaggle_refuses(code: int, part: str, calls: int, led: Server, tmp_path: Path) -> None:
    plain = {"Content-Type": "text/plain"}
    led.on("POST", f"{KAGGLE}DownloadDataset", lambda request: request.answer(code, b"no", plain))
    assert part in sentence(lambda: clients.kaggle(PINNED, "", tmp_path, CONNECTION))
    assert len(led.requests) == calls


def test_kaggle_and_drive_are_not_there(led: Server, tmp_path: Path) -> None:
    led.shutdown()
    led.server_close()
    said = sentence(lambda: clients.kaggle(PINNED, "", tmp_path, CONNECTION))
    assert "kaggle: cannot be reached or lost the connection (Connection refused)" in said
    assert "drive: cannot be reached" in sentence(lambda: clients.drive(DRIVE, "noBoundary", tmp_path, CONNECTION))


def test_kaggle_damaged_bundle(led: Server, tmp_path: Path) -> None:
    serve_kaggle(led, b"no archive")
    assert "Unsupported archive type" in sentence(lambda: clients.kaggle(PINNED, "", tmp_path, CONNECTION))


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        @staticmethod
        def dataset_download(handle: str) -> str:
            raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setitem(sys.modules, "kagglehub", Client)
    with pytest.raises(OSError) as caught:
        clients.kaggle(PINNED, "", tmp_path, CONNECTION)
    assert f"{tmp_path} cannot be written (no space): free some space there" in str(explained(caught.value, ""))
    said = sentence(lambda: fetch(replace(PINNED, disk=1 << 60), "", tmp_path, CONNECTION))
    assert f"fetching from kaggle needs {(1 << 60) + (16 << 20)} bytes" in said


IDS = {"2_Ortho_RGB.zip": "i" * 28, "5_Labels_all_noBoundary.zip": "l" * 28, "1_DSM.rar": "d" * 28}
DIRECT = "/drive.google.com/uc"
CONFIRMED = "/drive.usercontent.google.com/download"


def serve_drive(server: Server, files: dict[str, bytes]) -> None:
    """A folder; files above 1 MiB come after the page that warns of unscanned files."""
    links = "".join(f'<a href="https://drive.google.com/file/d/{IDS[name]}/view">{name}</a>' for name in files)
    page = f"<html><title>Potsdam</title>{links}</html>".encode()
    by_id = {IDS[name]: (name, server.put(f"/{name}", content)) for name, content in files.items()}

    def attached(request: Request) -> None:
        name, file = by_id[request.query["id"][0]]
        request.handler.file(CONFIRMED, file, changes={"Content-Disposition": f'attachment; filename="{name}"'})

    def direct(request: Request) -> None:
        id = request.query["id"][0]
        if len(by_id[id][1].content) < 1 << 20:
            return attached(request)
        field = f'<input type="hidden" name="id" value="{id}">'
        form = f'<form id="download-form" action="https:/{CONFIRMED}">{field}</form>'
        return request.answer(200, form.encode(), HTML)

    server.on("GET", "/drive.google.com/embeddedfolderview", lambda request: request.answer(200, page, HTML))
    server.on("GET", DIRECT, direct)
    server.on("GET", CONFIRMED, attached)


def test_drive_takes_the_wanted_archives_and_goes_on(led: Server, tmp_path: Path) -> None:
    images, labels = zipped(a=os.urandom(3 << 20)), zipped(b=b"label")
    serve_drive(led, dict(zip(IDS, (images, labels, b"rar"), strict=True)))
    named = {"Content-Disposition": 'attachment; filename="2_Ortho_RGB.zip"'}
    file = led.files["/2_Ortho_RGB.zip"]
    led.play(CONFIRMED, lambda request, _: request.handler.file(CONFIRMED, file, cut=2 << 20, changes=named))
    clients.drive(DRIVE, "noBoundary", tmp_path, CONNECTION)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == {
        "2_Ortho_RGB.zip": images,
        "5_Labels_all_noBoundary.zip": labels,
    }
    assert f"bytes={2 << 20}-" in [request.headers.get("range") for request in led.asked(CONFIRMED)]


def test_drive_begins_a_part_of_full_size_again(led: Server, tmp_path: Path) -> None:
    images = zipped(a=os.urandom(2 << 20))
    serve_drive(led, dict(zip(IDS, (images, zipped(b=b"label"), b"rar"), strict=True)))
    part = tmp_path / "2_Ortho_RGB.zip12345678.part"  # of a run that was killed before it renamed it
    part.write_bytes(b"?" * len(images))
    clients.drive(DRIVE, "noBoundary", tmp_path, CONNECTION)
    assert (tmp_path / "2_Ortho_RGB.zip").read_bytes() == images and not part.exists()
    assert [request.headers.get("range") for request in led.asked(CONFIRMED)] == [None, f"bytes={len(images)}-", None]


def test_drive_lacks_an_archive_or_sends_something_else(led: Server, tmp_path: Path) -> None:
    serve_drive(led, {"2_Ortho_RGB.zip": b"<html>", "5_Labels_all_noBoundary.zip": zipped(b=b"x")})
    said = sentence(lambda: clients.drive(DRIVE, "bordered", tmp_path, CONNECTION))
    assert "does not contain 5_Labels_all.zip, only 2_Ortho_RGB.zip, 5_Labels_all_noBoundary.zip" in said
    said = sentence(lambda: clients.drive(DRIVE, "noBoundary", tmp_path, CONNECTION))
    assert "2_Ortho_RGB.zip of https://drive.google.com/" in said and "is another file: it is a web page" in said
    assert not (tmp_path / "2_Ortho_RGB.zip").exists()


def test_drive_quota_and_absence(led: Server, tmp_path: Path) -> None:
    serve_drive(led, dict.fromkeys(IDS, b"x"))
    page = b'<p class="uc-error-subcaption">Too many users have viewed this file recently.</p>'
    led.on("GET", DIRECT, lambda request: request.answer(200, page, HTML))
    assert "Too many users have viewed" in sentence(lambda: clients.drive(DRIVE, "noBoundary", tmp_path, CONNECTION))
    led.functions.clear()
    assert "status code 404" in sentence(lambda: clients.drive(DRIVE, "noBoundary", tmp_path, CONNECTION))


def test_reasons() -> None:
    assert clients.meaning(RuntimeError("a\nb."), "P") == ("stopped with RuntimeError (a b); look at P", False)
    wrapped = RuntimeError("x")
    wrapped.__cause__ = ConnectionResetError("cut")
    why, passing = clients.meaning(wrapped, "P")
    assert "lost the connection (cut)" in why and passing
