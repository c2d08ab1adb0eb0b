import stat
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.download import bring, check, download, main
from pipelines.mirror import mirror
from scpseg.benchmarks import BENCHMARKS, REAL
from scpseg.errors import UserError
from scpseg.files import read_json
from scpseg.params import Params

SAMPLE = Path(__file__).parents[2] / "profiles/sample.yaml"
MANIFEST = Path("data/manifests/inria.json")


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The sample profile with tiny mirrors, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("SCPSEG_CACHE", str(tmp_path / "cache"))
    values = dict(Params.load(SAMPLE).values)
    values["data"] = {"source": "mirror", "partial": True, "cache": "unused"}
    values["mirror"] = {"seed": 0, "side": 64, "train": 2, "val": 1, "test": 1}
    return Params(values, Path("params.yaml"))


def from_folder(params: Params, source: str) -> Params:
    return Params({**params.values, "data": {"source": source, "partial": True, "cache": "unused"}}, params.path)


def error_of(params: Params, benchmark: str = "inria") -> str:
    """A download that must fail with one sentence and leave no manifest and nothing in the cache."""
    with pytest.raises(UserError) as caught:
        download(params, benchmark)
    assert "\n" not in str(caught.value)
    assert not Path(f"data/manifests/{benchmark}.json").exists()
    assert not [path for path in Path("cache").rglob("*") if not path.name.endswith(".lock") and path.is_file()]
    return str(caught.value)


@pytest.mark.parametrize("benchmark", list(BENCHMARKS))
def test_mirror_of_each_benchmark(benchmark: str, params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    mirror(benchmark, params, Path("data/mirror") / benchmark)
    download(params, benchmark)
    manifest = read_json(Path(f"data/manifests/{benchmark}.json"))
    assert (manifest["source"], manifest["synthetic"]) == ("mirror", True)
    names = {archive["name"] for archive in manifest["archives"]}
    listed = read_json(Path(f"data/mirror/{benchmark}/archives.json"))["archives"]
    assert names == {archive["name"] for archive in listed} - {"5_Labels_all.zip"}
    assert manifest["files"] == []
    assert not Path("cache").exists()
    printed = capsys.readouterr().out
    assert "archives verified" in printed
    assert BENCHMARKS[benchmark].terms not in printed
    first = Path(f"data/manifests/{benchmark}.json").read_bytes()
    download(params, benchmark)
    assert Path(f"data/manifests/{benchmark}.json").read_bytes() == first


PART = Path("data/mirror/inria/aerialimagelabeling.7z.003")


def test_no_mirror(params: Params) -> None:
    assert "data/mirror/inria/archives.json is missing; run `dvc repro -f mirror@inria`" in error_of(params)


def test_missing_archive(params: Params) -> None:
    mirror("inria", params, PART.parent)
    PART.unlink()
    assert f"{PART.name} is missing" in error_of(params)


def test_truncated_archive(params: Params) -> None:
    mirror("inria", params, PART.parent)
    size = PART.stat().st_size
    PART.write_bytes(PART.read_bytes()[:-5])
    assert f"{PART.name} has {size - 5} bytes instead of {size}" in error_of(params)


def test_wrong_checksum(params: Params) -> None:
    mirror("inria", params, PART.parent)
    data = bytearray(PART.read_bytes())
    data[9] ^= 1
    PART.write_bytes(data)
    assert f"{PART.name} has the wrong checksum" in error_of(params)


def make_zip(path: Path, bad: zipfile.ZipInfo | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for kind in ("images", "gt"):
            file.writestr(f"AerialImageDataset/train/{kind}/austin1.tif", b"x")
        if bad is not None:
            file.writestr(bad, b"/etc/passwd")


@pytest.mark.parametrize(
    ("name", "mode", "why"),
    [
        ("../train/gt/austin2.tif", 0o100644, "points outside with '..'"),
        ("/tmp/train/gt/austin2.tif", 0o100644, "has an absolute path"),
        ("train/gt/austin2.tif", stat.S_IFLNK | 0o777, "is a link"),
    ],
)
def test_hostile_member(name: str, mode: int, why: str, params: Params) -> None:
    bad = zipfile.ZipInfo(name)
    bad.external_attr = mode << 16
    make_zip(Path("mine/inria/set.zip"), bad)
    assert f"set.zip member {name!r} {why}" in error_of(from_folder(params, "mine"))


def test_damaged_archive_of_the_user(params: Params) -> None:
    make_zip(Path("mine/set.zip"), None)
    Path("mine/set.zip").write_bytes(Path("mine/set.zip").read_bytes()[:-30])
    assert "set.zip is damaged" in error_of(from_folder(params, "mine"))


def test_folder_with_an_archive(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    make_zip(Path("mine/inria/set.zip"), None)
    download(from_folder(params, "mine"), "inria")
    manifest = read_json(MANIFEST)
    assert (manifest["source"], manifest["synthetic"]) == ("folder", False)
    assert [record["name"] for record in manifest["archives"]] == ["set.zip"]
    printed = capsys.readouterr().out
    assert printed.count(BENCHMARKS["inria"].terms) == printed.count(BENCHMARKS["inria"].citation) == 1
    assert str(Path.cwd()) not in MANIFEST.read_text()


def test_folder_with_nothing_of_it(params: Params) -> None:
    Path("mine").mkdir()
    assert "data.source 'mine' has no image and no label of inria" in error_of(from_folder(params, "mine"))
    assert "data.source is 'yours', which is not a directory" in error_of(from_folder(params, "yours"))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        self.server.asked.append(self.path)


@pytest.fixture
def served(params: Params, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """The test's folder as a plain file server, its requests in `asked`."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(Path.cwd()))) as server:
        server.asked = []
        server.url = f"http://127.0.0.1:{server.server_port}/data/mirror"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("benchmark", REAL)
def test_archives_from_an_address(
    benchmark: str, params: Params, served: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the mirror wrote, served by any file server, comes through the cache as the same manifest."""
    mirror(benchmark, params, Path("data/mirror") / benchmark)
    path = Path(f"data/manifests/{benchmark}.json")
    download(params, benchmark)
    direct = read_json(path)
    fetched = from_folder(params, served.url)
    download(fetched, benchmark)
    manifest = read_json(path)
    assert (manifest["source"], manifest["synthetic"]) == ("upstream", False)
    assert (manifest["archives"], manifest["files"]) == (direct["archives"], direct["files"])
    told = capsys.readouterr()
    assert (told.out + told.err).count(BENCHMARKS[benchmark].terms) == 1
    served.asked.clear()
    download(fetched, benchmark)
    assert not served.asked and str(Path.cwd()) not in path.read_text()


def upstream(params: Params, **lists: list[str]) -> Params:
    values = {**params.values["upstream"], **{name: [] for name in REAL}, **lists}
    return Params({**from_folder(params, "upstream").values, "upstream": values}, params.path)


def test_one_source_by_hand_then_the_stage(
    params: Params, served: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror("blu", params, Path("data/mirror/blu"))
    address = f"{served.url}/blu/BLU.zip"
    bring(params, "blu", address)
    folder = Path(capsys.readouterr().out.strip())
    assert [path.name for path in folder.iterdir() if path.suffix == ".zip"] == ["BLU.zip"]
    served.shutdown()
    download(upstream(params, blu=[address]), "blu")
    assert read_json(Path("data/manifests/blu.json"))["source"] == "upstream"
    with pytest.raises(UserError, match=r"^--source kagle: .* did you mean 'kaggle'"):
        bring(params, "deepglobe", "kagle")


def test_upstream_without_any_source(params: Params) -> None:
    assert "blu cannot be fetched (upstream.blu names no source); by hand: " in error_of(upstream(params), "blu")


def test_check_of_every_kind(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    check(upstream(params), REAL)
    printed = capsys.readouterr().out
    assert printed.startswith("data.source is upstream; nothing is fetched or written")
    assert [line.split(",")[0] for line in printed.splitlines() if ", labels " in line] == list(REAL)
    mirror("inria", params, Path("data/mirror/inria"))
    check(params, ("inria",))
    printed = capsys.readouterr().out
    assert "archives: aerialimagelabeling.7z" in printed
    assert "not prepared; needs about 64.0 KiB, " in printed  # of the miniature: 4 images of 64 x 64 pixels
    assert not Path("cache").exists() and not Path("data/manifests").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--check"], 0, "blu, labels label"),
        (["--check", "potsdam"], 0, "potsdam, labels noBoundary"),
        ([], 2, "name a benchmark, or --check"),
        (["--source", "kaggle"], 2, "name a benchmark, or --check"),
        (["blu", "--source", "kaggle"], 1, "--source kaggle: it is not a source of blu"),
        (["blu", "--check", "--source", "x"], 2, "not allowed with"),
    ],
)
def test_command_line(
    arguments: list[str],
    code: int,
    part: str,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["download", *arguments])
    monkeypatch.setattr(Params, "load", lambda: upstream(params))
    found = 0
    try:
        main()
    except SystemExit as leaving:
        found = int(str(leaving.code))
    except UserError as error:
        found = 1
        print(error)
    told = capsys.readouterr()
    assert (found, part in told.out + told.err) == (code, True)
