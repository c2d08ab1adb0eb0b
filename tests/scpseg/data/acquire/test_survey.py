import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from server import Server

from scpseg.benchmarks import BENCHMARKS
from scpseg.benchmarks.base import File
from scpseg.data.acquire.manifest import _folder
from scpseg.data.acquire.upstream import survey
from scpseg.params import DataParams, UpstreamParams

DATA = DataParams("upstream", False, "unused")
UPSTREAM = UpstreamParams({"inria": ("inria", "huggingface")})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCPSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def here(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inria's own server is a local one with three small parts; the Hub's page cannot be reached."""
    files = tuple(File(f"set.7z.{number:03d}", 1 << 20) for number in (1, 2, 3))
    for file in files:
        server.put(f"/set/{file.name}", bytes(1 << 20))
    own = replace(
        BENCHMARKS["inria"].sources[0], address=server.url("/set"), files=files, download=3 << 20, disk=3 << 20
    )
    hub = replace(BENCHMARKS["inria"].sources[1], page="http://127.0.0.1:9/")
    monkeypatch.setitem(BENCHMARKS, "inria", replace(BENCHMARKS["inria"], sources=(own, hub)))


def lines_of(store: Path, data: DataParams = DATA, upstream: UpstreamParams = UPSTREAM) -> list[str]:
    lines = survey(BENCHMARKS["inria"], "gt", data, upstream, store, 18_000_000_000)
    # A temporary folder may have a name that no line can hold.
    assert all(len(line) <= 120 or any(len(word) > 60 for word in line.split()) for line in lines)
    return lines


def said_of(lines: list[str], source: str) -> str:
    """What is said of a source, without line ends."""
    first = next(k for k, line in enumerate(lines) if line.startswith(f"  source {source}: "))
    rest = next(k for k, line in enumerate(lines[first + 1 :], first + 1) if not line.startswith("    "))
    return " ".join(line.strip() for line in lines[first:rest])


def test_nothing_there_yet(cache: Path, here: None, server: Server, tmp_path: Path) -> None:
    lines = lines_of(tmp_path / "store")
    assert lines[0] == "inria, labels gt"
    assert "not prepared; needs about 16.8 GiB" in lines[1]
    said = said_of(lines, "inria")
    assert "inria: reachable; nothing in the cache; 3.0 MiB to fetch; 3.0 MiB on disk when complete. Nothing to" in said
    said = said_of(lines, "huggingface")
    assert "huggingface: no answer (Connection refused); nothing in the cache; about 12.7 GiB to fetch; " in said
    assert f"{cache}/inria/upstream/by-hand" in " ".join(line.strip() for line in lines)
    assert [request.method for request in server.requests] == ["HEAD"]
    assert not cache.exists()


def test_part_then_all(cache: Path, here: None, tmp_path: Path) -> None:
    folder = _folder(BENCHMARKS["inria"], "gt", DATA, UPSTREAM)
    (folder / "set.7z.002").rename(folder / "set.7z.002.part")
    said = said_of(lines_of(tmp_path / "store"), "inria")
    assert "reachable; 2 of 3 files verified, without set.7z.002, in the cache; 0 bytes to fetch" in said
    (folder / "set.7z.002.part").unlink()
    assert "in the cache; 1.0 MiB to fetch" in said_of(lines_of(tmp_path / "store"), "inria")
    _folder(BENCHMARKS["inria"], "gt", DATA, UPSTREAM)
    (tmp_path / "store").mkdir()
    (tmp_path / "store/index.json").touch()
    lines = lines_of(tmp_path / "store")
    assert "inria: reachable; complete and verified in the cache. Nothing to do" in said_of(lines, "inria")
    assert ": prepared; " in lines[1]


def test_an_answer_that_is_none(cache: Path, here: None, server: Server, tmp_path: Path) -> None:
    server.files.clear()
    assert "/set/set.7z.001 answers 404 Not Found; nothing in the cache; " in said_of(lines_of(tmp_path), "inria")
    server.on("HEAD", "/set/set.7z.001", lambda request: request.answer(405))
    assert "inria: reachable; " in said_of(lines_of(tmp_path), "inria")


def test_a_part_of_a_client(cache: Path, here: None, tmp_path: Path) -> None:
    part = cache / "inria/upstream/huggingface/data/x.tif"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(5 << 20))
    assert "; 5.0 MiB of a part in the cache; " in said_of(lines_of(tmp_path), "huggingface")


def test_no_source_and_long_names(cache: Path, server: Server, tmp_path: Path) -> None:
    nobody = UpstreamParams({})
    assert "  upstream.inria names no source" in lines_of(tmp_path, upstream=nobody)
    address = server.url("/sets")
    lines = lines_of(tmp_path, replace(DATA, source=address), nobody)
    said = said_of(lines, address)
    assert "sets/inria answers 404 Not Found; nothing in the cache; an unknown size to fetch; an unknown size" in said
    (cache / "inria/upstream/by-hand").mkdir(parents=True)
    (cache / "inria/upstream/by-hand/x.zip").touch()
    assert "are used before every source" in " ".join(line.strip() for line in lines_of(tmp_path, upstream=nobody))


def test_a_folder_of_the_user(cache: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    data = replace(DATA, source=str(mine))
    assert "which is not a directory" in " ".join(lines_of(tmp_path, data))
    mine.mkdir()
    nothing = "0 loose images and labels, archives: none"
    assert f"source {mine}: {nothing}" in " ".join(line.strip() for line in lines_of(tmp_path, data))
    with zipfile.ZipFile(mine / "set.zip", "w") as file:
        file.writestr("train/images/austin1.tif", b"x" * 1000)
    assert "archives: set.zip" in " ".join(line.strip() for line in lines_of(tmp_path, data))
    for kind in ("images", "gt"):
        (mine / "train" / kind).mkdir(parents=True)
        (mine / "train" / kind / "austin1.tif").write_bytes(b"x" * 512)
    both = "2 loose images and labels, archives: none"
    assert both in " ".join(line.strip() for line in lines_of(tmp_path, data))
