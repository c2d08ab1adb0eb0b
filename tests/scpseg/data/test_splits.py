import codecs
import hashlib
import os
import unicodedata
from importlib import resources
from itertools import combinations
from pathlib import Path

import pytest

from scpseg.benchmarks import BENCHMARKS
from scpseg.data.splits import read_folds, read_split
from scpseg.errors import UserError

PUBLISHED = {
    "alternates/inria_official/test_unlabelled.txt": "6e1da1c5115ea691",
    "alternates/inria_official/train.txt": "932a8e4636656793",
    "alternates/inria_official/val.txt": "6ef9ef77a1d86be4",
    "alternates/potsdam_official/test.txt": "9d07cfe92921cb35",
    "alternates/potsdam_official/train.txt": "edd568dd8fa20354",
    "alternates/potsdam_volpi_17_7_14/test.txt": "9d07cfe92921cb35",
    "alternates/potsdam_volpi_17_7_14/train.txt": "f467e773ff85f80b",
    "alternates/potsdam_volpi_17_7_14/val.txt": "47290ea5cffb7c61",
    "deepglobe/test.txt": "e19782abae41a7e7",
    "deepglobe/train.txt": "41f2e780a1957535",
    "deepglobe/val.txt": "a5d3f53e391cd566",
    "inria/test.txt": "9c98be08b26310a0",
    "inria/train.txt": "f6fc8efd3d506090",
    "inria/val.txt": "dc307e2ff3a7a382",
    "potsdam/test.txt": "9d07cfe92921cb35",
    "potsdam/train.txt": "a8b7a8147735aaf5",
    "potsdam/val.txt": "83d1d42c0a870208",
}
"""First half of the SHA-256 of each list as it was collected from the programs of the field."""


@pytest.mark.parametrize(
    ("benchmark", "name", "counts"),
    [
        ("deepglobe", "glnet", (454, 207, 142)),
        ("deepglobe", "swapped", (454, 142, 207)),
        ("inria", "fctl", (126, 27, 27)),
        ("inria", "official", (155, 25, 0)),
        ("potsdam", "candidate_volpi_18_6_14", (18, 6, 14)),
        ("potsdam", "volpi_17_7_14", (17, 7, 14)),
        ("potsdam", "official", (24, 0, 14)),
    ],
)
def test_committed_lists_have_the_published_counts_and_are_disjoint(
    benchmark: str, name: str, counts: tuple[int, ...]
) -> None:
    ids = read_split(BENCHMARKS[benchmark], name)
    assert list(ids) == ["train", "val", "test"]
    assert tuple(len(names) for names in ids.values()) == counts
    for one, other in combinations(ids.values(), 2):
        assert not set(one) & set(other)
    for names in ids.values():
        assert len(set(names)) == len(names)


def test_every_split_of_every_spec_can_be_read_and_the_first_has_the_spec_counts() -> None:
    for spec in BENCHMARKS.values():
        for k, name in enumerate(spec.splits):
            ids = read_split(spec, name)
            if ids and k == 0:
                assert tuple(len(names) for names in ids.values()) == spec.counts


def test_lists_are_those_that_were_collected() -> None:
    root = resources.files("scpseg.benchmarks") / "splits"
    for name, digest in PUBLISHED.items():
        assert hashlib.sha256((root / name).read_bytes()).hexdigest().startswith(digest), name


def test_lists_are_complete() -> None:
    inria = {id for part in read_split(BENCHMARKS["inria"], "fctl").values() for id in part}
    cities = ("austin", "chicago", "kitsap", "tyrol-w", "vienna")
    assert inria == {f"{city}{tile}" for city in cities for tile in range(1, 37)}
    potsdam = [id for part in read_split(BENCHMARKS["potsdam"], "candidate_volpi_18_6_14").values() for id in part]
    assert set(potsdam) == {id for part in read_split(BENCHMARKS["potsdam"], "official").values() for id in part}
    assert len(potsdam) == 38


def test_swapped_exchanges_val_and_test() -> None:
    usual, swapped = (read_split(BENCHMARKS["deepglobe"], name) for name in ("glnet", "swapped"))
    assert (usual["train"], usual["val"], usual["test"]) == (swapped["train"], swapped["test"], swapped["val"])


def test_potsdam_faulty_tiles_are_in_train_and_test_is_isprs() -> None:
    ids = read_split(BENCHMARKS["potsdam"], "candidate_volpi_18_6_14")
    assert {"4_12", "6_7"} <= set(ids["train"])
    isprs = "2_13 2_14 3_13 3_14 4_13 4_14 4_15 5_13 5_14 5_15 6_13 6_14 6_15 7_13"
    assert set(ids["test"]) == set(isprs.split())


def test_blu_has_no_lists() -> None:
    assert read_split(BENCHMARKS["blu"], "folders") == {}


def test_own_folder_with_a_missing_list(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a\n\n b \n")
    (tmp_path / "test.txt").write_text("c")
    assert read_split(BENCHMARKS["inria"], str(tmp_path)) == {"train": ("a", "b"), "val": (), "test": ("c",)}


def test_own_folder_relative_to_the_repository_of_a_queued_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root/mine").mkdir(parents=True)
    (tmp_path / "root/mine/train.txt").write_text("a\n")
    (tmp_path / "queue").mkdir()
    monkeypatch.chdir(tmp_path / "queue")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "root"))
    assert read_split(BENCHMARKS["inria"], "mine")["train"] == ("a",)


@pytest.mark.parametrize(("train", "val"), [("a\nb\na", ""), ("a\nb", "b")])
def test_a_duplicated_id_is_rejected(tmp_path: Path, train: str, val: str) -> None:
    (tmp_path / "train.txt").write_text(train)
    (tmp_path / "val.txt").write_text(val)
    with pytest.raises(UserError, match=r"'[ab]' is in train\.txt"):
        read_split(BENCHMARKS["inria"], str(tmp_path))


def test_unknown_name_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fctl, official"):
        read_split(BENCHMARKS["inria"], "fctle")
    with pytest.raises(UserError, match="contains no list"):
        read_split(BENCHMARKS["inria"], str(tmp_path))


def own_list(folder: Path, content: bytes, benchmark: str = "deepglobe") -> tuple[str, ...]:
    (folder / "train.txt").write_bytes(content)
    return read_split(BENCHMARKS[benchmark], str(folder))["train"]


@pytest.mark.parametrize(
    ("benchmark", "content"),
    [
        ("deepglobe", codecs.BOM_UTF8 + b"101\r\n102\r\n"),
        ("deepglobe", "101\r\n102\r\n".encode("utf-16")),
        ("deepglobe", codecs.BOM_UTF16_BE + "101\n102\n".encode("utf-16-be")),
        ("deepglobe", b"101\r102\r"),
        ("deepglobe", "# für\n101\n\n102 \n".encode()),
        ("deepglobe", b"101_sat.jpg\n102_mask.png\n"),
        ("deepglobe", b"train/101_sat.jpg\ntrain\\102_sat.JPG\n"),
    ],
    ids=["utf-8 mark", "utf-16", "utf-16 big", "old mac", "comment", "file names", "paths"],
)
def test_lists_as_editors_write_them(tmp_path: Path, benchmark: str, content: bytes) -> None:
    assert own_list(tmp_path, content, benchmark) == ("101", "102")


def test_file_names_of_other_benchmarks(tmp_path: Path) -> None:
    assert own_list(tmp_path, b"austin1.tif\ntrain/gt/kitsap2.tif\n", "inria") == ("austin1", "kitsap2")
    assert own_list(tmp_path, b"top_potsdam_2_10_RGB.tif\n2_11\n", "potsdam") == ("2_10", "2_11")
    assert own_list(tmp_path, b"a.b.png\n", "blu") == ("a.b",)


@pytest.mark.parametrize(
    "content",
    ["für\n".encode("latin-1"), b"101\0\n", "101\n".encode("utf-16-le"), codecs.BOM_UTF16_LE + b"1"],
    ids=["latin-1", "zero byte", "utf-16 without mark", "half a letter"],
)
def test_a_list_that_is_not_text_is_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match=r"train\.txt .*save it as UTF-8") as caught:
        own_list(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_a_file_name_and_its_id_are_the_same_id(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'101' is in train\.txt and again in train\.txt"):
        own_list(tmp_path, b"101\n101_sat.jpg\n")


def test_a_list_that_is_a_pipe_or_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("1\n")
    os.mkfifo(tmp_path / "train.txt")
    with pytest.raises(UserError, match=r"train\.txt is not a file"):
        read_split(BENCHMARKS["deepglobe"], str(tmp_path))


def test_accents_are_compared_however_they_are_written(tmp_path: Path) -> None:
    one, two = (unicodedata.normalize(form, "M\u00fcnchen").encode() for form in ("NFC", "NFD"))
    with pytest.raises(UserError, match=r"is in train\.txt and again in train\.txt"):
        own_list(tmp_path, one + b"\n" + two)
    for number, names in enumerate(((one, b"b"), (b"b", two))):
        (tmp_path / f"fold{number}").mkdir()
        for part, name in zip(("train", "test"), names, strict=True):
            (tmp_path / f"fold{number}/{part}.txt").write_bytes(name)
    folds = read_folds(BENCHMARKS["inria"], str(tmp_path))
    assert folds[1]["test"] == folds[0]["train"] == (one.decode(),)


def write_folds(folder: Path, tests: list[str], images: str = "abcd") -> str:
    for number, test in enumerate(tests):
        part = folder / f"fold{number}"
        part.mkdir()
        (part / "test.txt").write_text("\n".join(test))
        (part / "train.txt").write_text("\n".join(set(images) - set(test)))
    return str(folder)


def test_own_folders_are_a_rotation(tmp_path: Path) -> None:
    name = write_folds(tmp_path, ["ab", "cd"])
    (tmp_path / "fold1/train.txt").write_text("A\nb\n")
    folds = read_folds(BENCHMARKS["inria"], name)
    assert [ids["test"] for ids in folds] == [("a", "b"), ("c", "d")]
    assert folds[1]["train"] == ("a", "b")  # spelled as in the first fold
    assert read_split(BENCHMARKS["inria"], name) == folds[0]
    assert len(read_folds(BENCHMARKS["inria"], "fctl")) == 1


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        (["ab", "bcd"], r"id 'b' is tested in fold0 and fold1; keep it in one"),
        (["ab", "c"], r"id 'd' is tested in no fold; add it to one"),
        (["ab", "cde"], r"id 'e' is in fold0 or fold1, but not in both; list every image in each"),
    ],
)
def test_a_rotation_tests_every_image_once(tmp_path: Path, tests: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_folds(BENCHMARKS["inria"], write_folds(tmp_path, tests))
