import os
import zipfile
from pathlib import Path

import pytest

from pipelines.stage import explained
from scpseg.benchmarks import BENCHMARKS
from scpseg.data.acquire.manifest import _expect_both, cache_folder, find, source_folder
from scpseg.errors import UserError
from scpseg.params import DataParams

SPEC = BENCHMARKS["inria"]
BOTH = ["train/images/austin1.tif", "train/gt/austin1.tif"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository is tmp_path/repository, as DVC says in a queued experiment; the process runs in another folder."""
    for name in ("repository", "queued"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "queued")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "repository"))
    monkeypatch.delenv("SCPSEG_CACHE", raising=False)
    return tmp_path / "repository"


def data(source: str, cache: str = "cache") -> DataParams:
    return DataParams(source, True, cache)


def fill(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_places(elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "sets").mkdir()
    assert source_folder("inria", data("sets")) == elsewhere / "sets"
    (elsewhere / "sets" / "inria").mkdir()
    assert source_folder("inria", data("sets")) == elsewhere / "sets" / "inria"
    assert source_folder("blu", data(str(elsewhere / "sets"))) == elsewhere / "sets"
    assert cache_folder("blu", data("sets", "kept")) == elsewhere / "kept" / "blu"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("blu", data("sets", "~/kept")) == tmp_path / "home" / "kept" / "blu"
    monkeypatch.setenv("SCPSEG_CACHE", str(tmp_path / "other"))
    assert cache_folder("blu", data("sets", "kept")) == tmp_path / "other" / "blu"


def test_no_folder_and_no_mirror() -> None:
    with pytest.raises(UserError, match=r"data\.source is 'nowhere', which is not a directory"):
        source_folder("inria", data("nowhere"))
    with pytest.raises(UserError, match=r"data/mirror/inria/archives\.json is missing; run `dvc repro"):
        source_folder("inria", data("mirror"))


def test_loose_files_win_over_archives(elsewhere: Path) -> None:
    fill(elsewhere / "sets", [*BOTH, "readme.txt", ".hidden/train/images/austin2.tif"])
    (elsewhere / "sets" / "broken.zip").write_bytes(b"never opened")
    loose, groups = find(SPEC, "gt", data("sets"))
    assert (sorted(loose), groups) == (sorted(BOTH), {})


def test_only_archives_with_something_wanted(elsewhere: Path) -> None:
    fill(elsewhere / "sets", BOTH[1:])
    for name, member in (("images.zip", BOTH[0]), ("other.zip", "x.txt"), ("outer.zip", "inner.zip")):
        with zipfile.ZipFile(elsewhere / "sets" / name, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(member, b"x")
    loose, groups = find(SPEC, "gt", data("sets"))
    assert loose == [BOTH[1]]
    assert [group.name for group in groups] == ["images.zip", "outer.zip"]


def test_companions_of_macos_are_no_archives(elsewhere: Path) -> None:
    fill(elsewhere / "sets", ["__MACOSX/._images.zip", "._images.zip", "._parts.7z.002"])
    for name, members in (("images.zip", [BOTH[0], "__MACOSX/._a.zip"]), ("labels.zip", [BOTH[1], "._b.zip"])):
        with zipfile.ZipFile(elsewhere / "sets" / name, "w") as file:  # stored, so that zips in it are opened
            for member in members:
                file.writestr(member, b"x")
    loose, groups = find(SPEC, "gt", data("sets"))
    assert (loose, list(groups.values())) == ([], [{f"images.zip/{BOTH[0]}": 1}, {f"labels.zip/{BOTH[1]}": 1}])


def test_linked_folders_are_followed_once(elsewhere: Path, tmp_path: Path) -> None:
    fill(tmp_path / "disk", BOTH)
    (elsewhere / "sets").mkdir()
    (elsewhere / "sets" / "data").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "round").symlink_to(elsewhere / "sets")
    assert sorted(find(SPEC, "gt", data("sets"))[0]) == sorted(f"data/{path}" for path in BOTH)


def test_says_what_is_expected_where() -> None:
    _expect_both(SPEC, "gt", BOTH, data("sets"))
    with pytest.raises(UserError) as caught:
        _expect_both(SPEC, "gt", BOTH[:1], data("sets"))
    message = str(caught.value)
    assert "data.source 'sets' has no label of inria" in message
    assert "train/images/<id" in message
    assert "\n" not in message
    with pytest.raises(UserError, match=r"has no image and no label of blu.*\(train\|val\|test\)/image/<id>\.png"):
        _expect_both(BENCHMARKS["blu"], "label", [], data("sets"))


def test_a_cache_that_is_no_folder(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "file").touch()
    (elsewhere / "kept").mkdir()
    (elsewhere / "kept/blu").touch()
    for cache in ("file", "file/below"):
        with pytest.raises(
            UserError, match=f"^data.cache is '{cache}', but .*/file is not a directory; use another folder$"
        ):
            cache_folder("blu", data("upstream", cache))
    with pytest.raises(UserError, match="/kept/blu is not a directory"):
        cache_folder("blu", data("upstream", "kept"))
    monkeypatch.setenv("SCPSEG_CACHE", "file")
    with pytest.raises(UserError, match=r"^SCPSEG_CACHE is 'file', but"):
        cache_folder("inria", data("upstream", "kept"))


def test_no_such_home(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError) as caught:
        cache_folder("blu", data("upstream", "~nobodyhere/x"))
    said = str(explained(caught.value, ""))
    assert "starts with ~, but there is no home directory" in said and "data.cache" in said
    with pytest.raises(UserError, match=r"^data.source is '~nobodyhere/x', which is not a directory"):
        source_folder("blu", data("~nobodyhere/x"))


def test_what_cannot_be_read_is_named(elsewhere: Path) -> None:
    fill(elsewhere / "sets", BOTH)
    os.mkfifo(elsewhere / "sets/train/images/austin2.tif")
    with pytest.raises(UserError, match=r"austin2.tif is not a file that can be read"):
        find(SPEC, "gt", data("sets"))
    (elsewhere / "sets/train/images/austin2.tif").unlink()
    (elsewhere / "sets/train/images/austin3.tif").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"austin3.tif is not a file that can be read"):
        find(SPEC, "gt", data("sets"))
    (elsewhere / "sets/train/images/austin3.tif").unlink()
    fill(elsewhere / "sets", [os.fsdecode(b"Bilder_\xe4/train/images/austin4.tif")])
    with pytest.raises(UserError, match=r"Bilder_.udce4/train/images/austin4.tif.* rename it"):
        find(SPEC, "gt", data("sets"))


def test_a_folder_that_cannot_be_read_is_named(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(elsewhere / "sets", BOTH)
    scan = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("gt"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"sets/train/gt cannot be read \(Permission denied\)"):
        find(SPEC, "gt", data("sets"))


def test_a_damaged_list_of_the_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("data/mirror/inria/archives.json")
    path.parent.mkdir(parents=True)
    for text, why in (("[", "is not valid JSON"), ("{}", "lacks archives")):
        path.write_text(text)
        with pytest.raises(UserError, match=f"^{path} {why}; delete it"):
            find(SPEC, "gt", data("mirror"))
