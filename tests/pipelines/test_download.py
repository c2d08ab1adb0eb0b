import stat
import zipfile
from pathlib import Path

import pytest

from pipelines.download import download
from pipelines.mirror import mirror
from scpseg.data.specs import SPECS
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


def refused(params: Params, benchmark: str = "inria") -> str:
    """A download that must fail with one sentence and leave no manifest and nothing in the cache."""
    with pytest.raises(UserError) as caught:
        download(params, benchmark)
    assert "\n" not in str(caught.value)
    assert not Path(f"data/manifests/{benchmark}.json").exists()
    assert not [path for path in Path("cache").rglob("*") if path.name != ".lock" and path.is_file()]
    return str(caught.value)


@pytest.mark.parametrize("benchmark", list(SPECS))
def test_mirror_of_each_benchmark(benchmark: str, params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    mirror(benchmark, params, Path("data/mirror") / benchmark)
    download(params, benchmark)
    manifest = read_json(Path(f"data/manifests/{benchmark}.json"))
    assert (manifest["source"], manifest["synthetic"]) == ("mirror", True)
    names = {archive["name"] for archive in manifest["archives"]}
    listed = read_json(Path(f"data/mirror/{benchmark}/archives.json"))["archives"]
    assert names == {archive["name"] for archive in listed} - {"5_Labels_all.zip"}
    assert len(manifest["files"]) >= 8
    for record in manifest["files"]:
        assert not record["path"].startswith("/")
        assert next(Path("cache", benchmark).glob(f"*/{record['path']}")).stat().st_size == record["size"]
    printed = capsys.readouterr().out
    assert "archives verified" in printed
    assert SPECS[benchmark].terms not in printed
    first = Path(f"data/manifests/{benchmark}.json").read_bytes()
    download(params, benchmark)
    assert Path(f"data/manifests/{benchmark}.json").read_bytes() == first


PART = Path("data/mirror/inria/aerialimagelabeling.7z.003")


def test_no_mirror(params: Params) -> None:
    assert "data/mirror/inria/archives.json is missing; run `dvc repro -f mirror@inria`" in refused(params)


def test_missing_archive(params: Params) -> None:
    mirror("inria", params, PART.parent)
    PART.unlink()
    assert f"archive {PART.name} is missing" in refused(params)


def test_truncated_archive(params: Params) -> None:
    mirror("inria", params, PART.parent)
    size = PART.stat().st_size
    PART.write_bytes(PART.read_bytes()[:-5])
    assert f"archive {PART.name} is truncated: {size - 5} bytes instead of {size}" in refused(params)


def test_wrong_checksum(params: Params) -> None:
    mirror("inria", params, PART.parent)
    data = bytearray(PART.read_bytes())
    data[9] ^= 1
    PART.write_bytes(data)
    assert f"archive {PART.name} has the wrong checksum" in refused(params)


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
    assert f"set.zip: member {name!r} {why}" in refused(from_folder(params, "mine"))


def test_damaged_archive_of_the_user(params: Params) -> None:
    make_zip(Path("mine/set.zip"), None)
    Path("mine/set.zip").write_bytes(Path("mine/set.zip").read_bytes()[:-30])
    assert "set.zip cannot be unpacked" in refused(from_folder(params, "mine"))


def test_folder_with_an_archive(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    make_zip(Path("mine/inria/set.zip"), None)
    download(from_folder(params, "mine"), "inria")
    manifest = read_json(MANIFEST)
    assert (manifest["source"], manifest["synthetic"]) == ("folder", False)
    assert [record["path"] for record in manifest["files"]] == [
        "set.zip/AerialImageDataset/train/gt/austin1.tif",
        "set.zip/AerialImageDataset/train/images/austin1.tif",
    ]
    printed = capsys.readouterr().out
    assert printed.count(SPECS["inria"].terms) == printed.count(SPECS["inria"].citation) == 1
    assert str(Path.cwd()) not in MANIFEST.read_text()


def test_folder_with_nothing_of_it(params: Params) -> None:
    Path("mine").mkdir()
    assert "data.source 'mine' holds no image and no label of inria" in refused(from_folder(params, "mine"))
    assert "data.source is 'yours', which is no folder" in refused(from_folder(params, "yours"))
