import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from scpseg.data.specs import SPECS
from scpseg.data.upstream.fetch import fetch, locate
from scpseg.data.upstream.manifest import Manifest
from scpseg.data.upstream.sources import cache_folder
from scpseg.errors import UserError
from scpseg.files import sha256
from scpseg.params import DataParams

SPEC = SPECS["deepglobe"]
DATA = DataParams("sets", True, "cache")


@pytest.fixture(autouse=True)
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_pairs: Callable[..., object]) -> Path:
    """A folder with a loose pair; the process runs in its parent."""
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


def test_loose_files_are_used_in_place(source: Path, tmp_path: Path) -> None:
    manifest = fetch(SPEC, "unknown-as-class", DATA)
    names = ["train/1_mask.png", "train/1_sat.jpg", "train/2_mask.png", "train/2_sat.jpg"]
    assert [record.path for record in manifest.files] == names
    assert [record.sha256 for record in manifest.files] == [sha256(source / name) for name in names]
    assert (manifest.source, manifest.archives) == ("folder", ())
    assert locate(SPEC, manifest, DATA) == {name: Path("sets") / name for name in names}
    assert not (tmp_path / "cache").exists()


def test_cache_is_filled_again_where_it_was_lost(source: Path) -> None:
    expected = {path.name: path.read_bytes() for path in (source / "train").iterdir()}
    pack(source)
    manifest = fetch(SPEC, "unknown-as-class", DATA)
    assert [record.path for record in manifest.archives] == ["a.zip"]
    for lost in (
        None,
        cache_folder("deepglobe", DATA),
        cache_folder("deepglobe", DATA) / manifest.fingerprint / "a.zip",
    ):
        if lost:
            shutil.rmtree(lost)
        places = locate(SPEC, manifest, DATA)
        assert {place.name: place.read_bytes() for place in places.values()} == expected


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda path: path.unlink(), r"archive a\.zip is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"archive a\.zip is truncated"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), r"archive a\.zip has the wrong checksum"),
    ],
)
def test_another_archive_is_not_unpacked_for_the_manifest(
    change: Callable[[Path], object], why: str, source: Path
) -> None:
    pack(source)
    manifest = fetch(SPEC, "unknown-as-class", DATA)
    shutil.rmtree("cache")
    change(source / "a.zip")
    with pytest.raises(UserError, match=why + r".*run `dvc repro -f download@deepglobe`"):
        locate(SPEC, manifest, DATA)
    assert not Path("cache").exists()


def test_changed_sources_are_named(source: Path) -> None:
    manifest = fetch(SPEC, "unknown-as-class", DATA)
    with pytest.raises(UserError, match=r"made from a folder, data\.source is 'mirror'"):
        locate(SPEC, manifest, DataParams("mirror", True, "cache"))
    with (source / "train" / "2_sat.jpg").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(UserError, match=r"train/2_sat\.jpg has \d+ bytes, \d+ when it was downloaded"):
        locate(SPEC, manifest, DATA)
    (source / "train" / "2_sat.jpg").unlink()
    with pytest.raises(UserError, match=r"train/2_sat\.jpg is gone"):
        locate(SPEC, manifest, DATA)


def test_other_label_variants_stay_packed(source: Path, tmp_path: Path) -> None:
    shutil.rmtree(source)
    source.mkdir()
    members = {
        "2_Ortho_RGB.zip": "2_Ortho_RGB/top_potsdam_2_10_RGB.tif",
        "5_Labels_all.zip": "top_potsdam_2_10_label.tif",
        "5_Labels_all_noBoundary.zip": "top_potsdam_2_10_label_noBoundary.tif",
        "1_DSM.zip": "dsm.tif",
    }
    with zipfile.ZipFile(source / "Potsdam.zip", "w") as outer:
        for name, member in members.items():
            with zipfile.ZipFile(tmp_path / name, "w") as inner:
                inner.writestr(member, member)
            outer.write(tmp_path / name, f"Potsdam/{name}")
    manifest: Manifest = fetch(SPECS["potsdam"], "bordered", DATA)
    assert [record.path.removeprefix("Potsdam.zip/Potsdam/") for record in manifest.files] == [
        f"2_Ortho_RGB.zip/{members['2_Ortho_RGB.zip']}",
        f"5_Labels_all.zip/{members['5_Labels_all.zip']}",
    ]
