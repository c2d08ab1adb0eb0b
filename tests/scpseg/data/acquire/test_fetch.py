import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import py7zr
import pytest

from scpseg.benchmarks import BENCHMARKS
from scpseg.benchmarks.base import Benchmark
from scpseg.data.acquire.manifest import UPSTREAM, fetch, locate
from scpseg.errors import UserError
from scpseg.files import sha256
from scpseg.params import DataParams, UpstreamParams

SPEC = BENCHMARKS["deepglobe"]
DATA = DataParams("sets", True, "cache")
NOBODY = UpstreamParams({})


@pytest.fixture(autouse=True)
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_pairs: Callable[..., object]) -> Path:
    """A folder with loose pairs; the process runs in its parent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("SCPSEG_CACHE", raising=False)
    write_pairs(tmp_path / "sets" / "train", ["1", "2"])
    return tmp_path / "sets"


def pack(source: Path) -> None:
    """The same files as a zip."""
    with zipfile.ZipFile(source / "a.zip", "w") as file:
        for path in sorted((source / "train").iterdir()):
            file.write(path, f"land/{path.name}")
    shutil.rmtree(source / "train")


def test_loose_files_are_used_in_place(source: Path) -> None:
    manifest = fetch(SPEC, "unknown-as-class", DATA, NOBODY)
    names = ["train/1_mask.png", "train/1_sat.jpg", "train/2_mask.png", "train/2_sat.jpg"]
    assert [record.path for record in manifest.files] == names
    assert [record.sha256 for record in manifest.files] == [sha256(source / name) for name in names]
    assert (manifest.source, manifest.archives) == ("folder", ())
    assert locate(SPEC, manifest, DATA, NOBODY) == Path("sets")


def test_archives_stay_packed(source: Path, tmp_path: Path) -> None:
    pack(source)
    manifest = fetch(SPEC, "unknown-as-class", DATA, NOBODY)
    assert [(record.path, record.sha256) for record in manifest.archives] == [("a.zip", sha256(source / "a.zip"))]
    assert manifest.files == ()
    assert locate(SPEC, manifest, DATA, NOBODY) == Path("sets")
    assert [path.name for path in tmp_path.rglob("*")] == ["sets", "a.zip"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda path: path.unlink(), r"a\.zip is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"a\.zip has \d+ bytes instead of"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), r"a\.zip has the wrong checksum"),
    ],
)
def test_another_archive_is_not_taken_for_the_manifests(
    change: Callable[[Path], object], why: str, source: Path
) -> None:
    pack(source)
    manifest = fetch(SPEC, "unknown-as-class", DATA, NOBODY)
    change(source / "a.zip")
    with pytest.raises(UserError, match=why + r".*run `dvc repro -f download@deepglobe`"):
        locate(SPEC, manifest, DATA, NOBODY)


def test_changed_sources_are_named(source: Path) -> None:
    manifest = fetch(SPEC, "unknown-as-class", DATA, NOBODY)
    with pytest.raises(UserError, match=r"made from source folder, data\.source is 'mirror'"):
        locate(SPEC, manifest, DataParams("mirror", True, "cache"), NOBODY)
    with (source / "train" / "2_sat.jpg").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(UserError, match=r"train/2_sat\.jpg has \d+ bytes instead of \d+; .*download@"):
        locate(SPEC, manifest, DATA, NOBODY)
    (source / "train" / "2_sat.jpg").unlink()
    with pytest.raises(UserError, match=r"train/2_sat\.jpg is missing"):
        locate(SPEC, manifest, DATA, NOBODY)


@pytest.mark.parametrize("address", [UPSTREAM, "https://example.org/mirror/"])
def test_what_the_network_brings_is_like_a_users_folder(
    address: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(source)
    asked = []

    def acquire(spec: Benchmark, variant: str, data: DataParams, *rest: object) -> Path:
        asked.append((spec.name, variant, data.source))
        return source

    monkeypatch.setattr("scpseg.data.acquire.upstream.acquire", acquire)
    data = DataParams(address, True, "cache")
    manifest = fetch(SPEC, "unknown-as-class", data, NOBODY)
    assert (manifest.source, manifest.synthetic) == ("upstream", False)
    assert [record.path for record in manifest.archives] == ["a.zip"]
    assert locate(SPEC, manifest, data, NOBODY) == source
    assert asked == [("deepglobe", "unknown-as-class", address)] * 2
    with pytest.raises(UserError, match=r"made from source upstream, data\.source is 'sets'"):
        locate(SPEC, manifest, DATA, NOBODY)


def test_other_label_variants_are_left_out(source: Path) -> None:
    shutil.rmtree(source)
    source.mkdir()
    for name, member in {
        "2_Ortho_RGB.zip": "2_Ortho_RGB/top_potsdam_2_10_RGB.tif",
        "5_Labels_all.zip": "top_potsdam_2_10_label.tif",
        "5_Labels_all_noBoundary.zip": "top_potsdam_2_10_label_noBoundary.tif",
        "1_DSM.zip": "dsm.tif",
    }.items():
        with zipfile.ZipFile(source / name, "w") as file:
            file.writestr(member, member)
    manifest = fetch(BENCHMARKS["potsdam"], "bordered", DATA, NOBODY)
    assert [record.path for record in manifest.archives] == ["2_Ortho_RGB.zip", "5_Labels_all.zip"]


def test_images_without_labels_are_rejected_where_headers_tell(source: Path) -> None:
    pack(source)
    with zipfile.ZipFile(source / "a.zip", "w") as file:
        file.writestr("1_sat.jpg", b"x")
    with pytest.raises(UserError, match=r"data\.source 'sets' has no label of deepglobe"):
        fetch(SPEC, "unknown-as-class", DATA, NOBODY)
    data = (source / "a.zip").read_bytes()
    (source / "a.zip").unlink()
    with py7zr.SevenZipFile(source / "a.7z", "w") as file:
        file.writestr(data, "inner.zip")
    assert [record.path for record in fetch(SPEC, "unknown-as-class", DATA, NOBODY).archives] == ["a.7z"]
