"""A benchmark of the user's own files, from the folder to the store."""

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from pipelines.download import download
from pipelines.prepare import prepare
from scpseg.benchmarks import BENCHMARKS
from scpseg.benchmarks.base import Class
from scpseg.benchmarks.checks import check_benchmark
from scpseg.benchmarks.custom import draw_split, read_benchmark, with_values
from scpseg.data.prepare.decode import decode_label, read_pixels, read_size
from scpseg.data.store import Store
from scpseg.errors import UserError
from scpseg.params import Params

ROOT = Path(__file__).parents[3]
TABLE = """id,name,colour,scored
0,ground,#808080,no
3,roof,#ff0000,yes
7,road,00ff00,yes
255,unlabelled,#000000,ignore
"""
VALUES = np.array([0, 3, 7, 255], np.uint8)
COLOURS = np.array([(0x80, 0x80, 0x80), (255, 0, 0), (0, 255, 0), (0, 0, 0)], np.uint8)
IDS = np.array([0, 1, 2, 255], np.uint8)


def written(folder: Path, table: str = TABLE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.csv").write_text(table)
    return folder


def test_classes_are_read(tmp_path: Path) -> None:
    spec = read_benchmark(written(tmp_path, "\ufeff" + TABLE))
    assert spec.classes == (
        Class("ground", (0x80, 0x80, 0x80), False),
        Class("roof", (255, 0, 0)),
        Class("road", (0, 255, 0)),
    )
    assert (spec.scored, spec.ignored, spec.values) == ((1, 2), ((0, 0, 0),), (0, 3, 7, 255))
    check_benchmark("custom", spec)
    indexed = with_values(spec, "index")
    assert [cls.colour[0] for cls in indexed.classes] == [0, 3, 7] and indexed.ignored == ((255, 255, 255),)
    assert with_values(spec, "colour") == spec


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("scored", "counted", ["lacks column scored"]),
        ("#ff0000", "red", ["line 3", "'red'", "like #ff8000"]),
        ("3,roof", "300,roof", ["line 3", "'300'", "0 to 255"]),
        ("3,roof", "-1,roof", ["line 3", "'-1'"]),
        ("3,roof", "0,roof", ["id 0 is duplicated"]),
        ("roof", "road", ["name road is duplicated"]),
        ("#ff0000", "#00ff00", ["colour (0, 255, 0) is duplicated"]),
        ("yes", "no", ["0 scored"]),
        ("yes", "maybe", ["line 3", "yes, no or ignore"]),
        ("7,road,00ff00,yes", "7,road", ["line 4", "colour is ''"]),
        ("3,roof,#ff0000", "\n\n3,roof,red", ["line 5", "'red'"]),
    ],
)
def test_a_mistake_in_classes_is_one_sentence(old: str, new: str, parts: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_benchmark(written(tmp_path, TABLE.replace(old, new)))
    assert "\n" not in str(caught.value) and str(caught.value).startswith("custom/classes.csv")
    for part in parts:
        assert part in str(caught.value)


def test_a_table_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_bytes("id,name,colour,scored\n0,Dächer,#000000,yes\n".encode("latin-1"))
    with pytest.raises(UserError, match="save it as UTF-8"):
        read_benchmark(tmp_path)


def test_splits_are_drawn_by_seed() -> None:
    ids = [f"a{k}" for k in range(20)]
    first = draw_split("drawn0", ids)
    assert {part: len(names) for part, names in first.items()} == {"train": 14, "val": 2, "test": 4}
    assert sorted(name for names in first.values() for name in names) == sorted(ids)
    assert draw_split("drawn0", reversed(ids)) == first != draw_split("drawn1", ids)
    assert {part: len(names) for part, names in draw_split("drawn0", ids[:3]).items()} == dict.fromkeys(first, 1)
    with pytest.raises(UserError, match="2 images"):
        draw_split("drawn0", ids[:2])


def test_accents_give_the_same_split_however_they_are_written() -> None:
    names = [f"{letter}{k}" for letter in "\u00e4\u00d6\u00fc" for k in range(5)]
    drawn = []
    for form in ("NFC", "NFD"):
        split = draw_split("drawn0", [unicodedata.normalize(form, name) for name in names])
        drawn.append({part: {unicodedata.normalize("NFC", id) for id in ids} for part, ids in split.items()})
    assert drawn[0] == drawn[1]
    ascii_split = draw_split("drawn0", ["a0", "B1", "c2", "D3", "e4"])  # as it was always drawn
    assert ascii_split == {"train": ("B1", "D3", "e4"), "val": ("c2",), "test": ("a0",)}


def label(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Rows of the table, (H, W)."""
    return np.random.default_rng(seed).integers(0, 4, shape)


def palette_picture(rows: np.ndarray) -> Image.Image:
    picture = Image.fromarray(VALUES[rows])
    table = np.random.default_rng(9).integers(0, 256, (256, 3)).astype(np.uint8)
    picture.putpalette(table.tobytes())
    return picture


def test_index_labels_of_every_format(tmp_path: Path) -> None:
    spec = with_values(read_benchmark(written(tmp_path)), "index")
    rows = label(0, (9, 14))
    numbers = VALUES[rows]
    Image.fromarray(numbers).save(tmp_path / "grey.png")
    palette_picture(rows).save(tmp_path / "palette.png")
    Image.fromarray(np.repeat(numbers[..., None], 3, -1)).save(tmp_path / "three.png")
    tifffile.imwrite(tmp_path / "grey.tif", numbers, photometric="minisblack")
    tifffile.imwrite(tmp_path / "palette.tif", numbers, photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    np.save(tmp_path / "a.npy", numbers.astype(np.int64))
    for name in ("grey.png", "palette.png", "three.png", "grey.tif", "palette.tif", "a.npy"):
        found = decode_label(read_pixels(tmp_path / name, name, indices=True), spec, name)
        assert np.array_equal(found.ids, IDS[rows]), name
        assert read_size(tmp_path / name, name) == rows.shape


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_class_numbers_of_few_bits_are_not_grey_levels(bits: int, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 2**bits, (6, 16), dtype=np.uint8)
    picture = Image.fromarray(numbers)
    picture.putpalette(bytes(768))
    picture.save(tmp_path / "p.png", bits=bits)
    assert np.array_equal(read_pixels(tmp_path / "p.png", "p.png", indices=True), numbers)
    if bits == 1:
        Image.fromarray(numbers.astype(bool)).save(tmp_path / "g.png")
        Image.fromarray(numbers.astype(bool)).save(tmp_path / "g.tif")
        for name in ("g.png", "g.tif"):
            assert np.array_equal(read_pixels(tmp_path / name, name, indices=True), numbers)


@pytest.mark.parametrize(
    ("numbers", "why"),
    [
        (np.zeros((4, 4, 3), np.uint8), "shape"),
        (np.zeros((4, 4)), "float64"),
        (np.full((4, 4), -1), "from -1 to -1"),
        (np.full((4, 4), 300), "from 300 to 300"),
    ],
    ids=["bands", "fractions", "negative", "large"],
)
def test_arrays_that_hold_no_class_numbers_are_named(numbers: np.ndarray, why: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", numbers)
    with pytest.raises(UserError, match=rf"x\.npy has .*{why}"):
        read_pixels(tmp_path / "x.npy", "x.npy", indices=True)
    with pytest.raises(UserError, match=r"x\.npy is not a PNG, JPEG or TIFF"):
        read_pixels(tmp_path / "x.npy", "x.npy")


def stage(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SCPSEG_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    environment.pop("DVC_ROOT", None)
    command = [sys.executable, "-m", f"pipelines.{words[0]}", *words[1:]]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def project(folder: Path, source: str = "mine", labels: str = "index", split: str = "drawn0") -> Path:
    values = yaml.safe_load((ROOT / "profiles/sample.yaml").read_text())
    values["suite"] |= {"benchmarks": ["custom"], "baselines": ["patch"]}
    values["data"] |= {"source": source, "partial": False}
    values["custom"] = {"patch": 64, "batch": 2, "split": split, "labels": labels}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return folder


def fill(place: Path, labels: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Six images with their labels: pixels and training ids by image."""
    made = {}
    for kind in ("images", "labels"):
        (place / kind).mkdir()
    for k in range(6):
        rows = label(k, (40 + k, 50))
        image = np.random.default_rng(k).integers(0, 256, (*rows.shape, 3), dtype=np.uint8)
        Image.fromarray(image).save(place / f"images/Tile {k}.png")
        if labels == "colour":
            Image.fromarray(COLOURS[rows]).save(place / f"labels/Tile {k}.png")
        elif k % 2:
            np.save(place / f"labels/Tile {k}.npy", VALUES[rows].astype(np.int32))
        else:
            palette_picture(rows).save(place / f"labels/Tile {k}.png")
        made[f"Tile {k}"] = image, IDS[rows]
    return made


def holds(store: Store, made: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    assert {part: len(store.ids(part)) for part in ("train", "val", "test")} == {"train": 4, "val": 1, "test": 1}
    for part in ("train", "val", "test"):
        for id in store.ids(part):
            assert np.array_equal(store.image(part, id), made[id][0])
            assert np.array_equal(store.label(part, id), made[id][1])


def test_from_the_folder_to_the_store(tmp_path: Path) -> None:
    place = written(project(tmp_path) / "mine/custom")
    made = fill(place, "index")
    for words in (("check",), ("download", "custom"), ("prepare", "custom")):
        done = stage(tmp_path, *words)
        assert done.returncode == 0, done.stderr
    holds(Store(tmp_path / "data/custom"), made)
    Image.fromarray(np.full((40, 50), 9, np.uint8)).save(place / "labels/Tile 0.png")
    stage(tmp_path, "download", "custom")
    done = stage(tmp_path, "prepare", "custom")
    assert done.returncode == 1 and "labels/Tile 0.png: 2000 of 2000 pixels have" in done.stderr
    (place / "classes.csv").write_text(TABLE.replace("yes", "perhaps"))
    done = stage(tmp_path, "check")
    assert done.returncode != 0 and done.stderr.startswith("error: custom/classes.csv, line 3")
    assert "Traceback" not in done.stderr


def test_labels_by_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = written(project(tmp_path, labels="colour") / "mine/custom")
    made = fill(place, "colour")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("SCPSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(BENCHMARKS, "custom", read_benchmark(place))  # as at the start of a process
    params = Params.load(Path("params.yaml"))
    download(params, "custom")
    prepare(params, "custom", workers=1)
    holds(Store(tmp_path / "data/custom"), made)


def test_an_edited_table_needs_a_download_and_gives_another_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = written(project(tmp_path) / "mine/custom")
    fill(place, "index")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    params = Params.load(Path("params.yaml"))
    inputs = []
    for name in ("roof", "deck"):  # of the same length
        written(place, TABLE.replace("roof", name))
        monkeypatch.setitem(BENCHMARKS, "custom", read_benchmark(place))  # as at the start of a process
        if inputs:
            with pytest.raises(UserError, match=r"^classes\.csv has the wrong .*run `dvc repro -f download@custom`"):
                prepare(params, "custom", workers=1)
        download(params, "custom")
        prepare(params, "custom", workers=1)
        index = Store(tmp_path / "data/custom").index
        assert index["classes"] == ["ground", name, "road"]
        inputs.append(index["inputs"])
    assert inputs[0] != inputs[1]
    files = json.loads(Path("data/manifests/custom.json").read_text())["files"]
    assert [file["path"] for file in files if "/" not in file["path"]] == ["classes.csv"]


def test_a_class_without_a_pixel_is_to_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = written(project(tmp_path) / "mine/custom", f"{TABLE}9,pond,#0000ff,yes\n")
    fill(place, "index")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setitem(BENCHMARKS, "custom", read_benchmark(place))
    params = Params.load(Path("params.yaml"))
    download(params, "custom")
    with pytest.raises(UserError, match=r"of class pond; remove its row from classes\.csv, or set data\.partial: true"):
        prepare(params, "custom", workers=1)


@pytest.mark.soak
def test_dubais_parts_as_such_a_folder(samples: Path, tmp_path: Path) -> None:
    """Seventy-two real pairs of any size, labels by colour."""
    place = written(
        project(tmp_path, labels="colour") / "mine/custom",
        "id,name,colour,scored\n0,building,3C1098,yes\n1,land,8429F6,yes\n2,road,6EC1E4,yes\n3,vegetation,FEDD3A,yes\n"
        "4,water,E2A929,yes\n5,unlabelled,9B9B9B,ignore\n6,black,000000,ignore\n",
    )
    for kind, part in (("images", "images"), ("labels", "masks")):
        (place / kind).mkdir()
        for path in sorted((samples / "dubai").glob(f"*/{part}/*")):
            (place / kind / f"{path.parts[-3][-1]}-{path.name}").symlink_to(path)
    for words in (("download", "custom"), ("prepare", "custom")):
        done = stage(tmp_path, *words)
        assert done.returncode == 0, done.stderr
    index = json.loads((tmp_path / "data/custom/index.json").read_text())
    assert len(index["images"]) == 72
    pixels = np.sum([image["pixels"] for image in index["images"].values()], axis=0)
    area = sum(image["height"] * image["width"] for image in index["images"].values())
    assert np.allclose(pixels / area * 100, [13.31, 52.36, 9.35, 10.31, 13.61], atol=0.01)
