"""Scenes that upstream cuts into parts: the store holds the whole, equal to the parts pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scpseg.benchmarks.dubai import BENCHMARK, FOLDS
from scpseg.data.acquire.manifest import fetch
from scpseg.data.prepare.fill import Choice, fill
from scpseg.data.splits import read_folds, read_split
from scpseg.data.store import Store, array_hash
from scpseg.errors import UserError
from scpseg.params import DataParams, UpstreamParams

PALETTE = {(0x9B, 0x9B, 0x9B): 255, (0, 0, 0): 255} | {cls.colour: k for k, cls in enumerate(BENCHMARK.classes)}
LISTS = {"train": ("1",), "val": ("3",), "test": ("2",)}
HEIGHTS, WIDTHS = (5, 7, 6), (9, 8, 10)
AREAS = {1: 4.617, 2: 2.494, 3: 4.039, 4: 8.368, 5: 10.722, 6: 6.479, 7: 33.703, 8: 28.612}
"""Megapixels of the real scenes."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)


def part_path(folder: Path, id: str, kind: str, number: int) -> Path:
    return folder / f"Tile {id}" / kind / f"image_part_{number + 1:03d}.{'jpg' if kind == 'images' else 'png'}"


def write_scene(folder: Path, id: str) -> tuple[np.ndarray, np.ndarray]:
    """A drawn scene cut into parts of different sizes; its image as JPEG keeps it, and its colours."""
    chance = np.random.default_rng(int(id))
    colours = np.array(list(PALETTE), np.uint8)[chance.integers(len(PALETTE), size=(sum(HEIGHTS), sum(WIDTHS)))]
    image = np.zeros_like(colours)
    for row, height in enumerate(HEIGHTS):
        for column, width in enumerate(WIDTHS):
            top, left = sum(HEIGHTS[:row]), sum(WIDTHS[:column])
            box = np.s_[top : top + height, left : left + width]
            paths = [part_path(folder, id, kind, 3 * row + column) for kind in ("images", "masks")]
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(chance.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(paths[0])
            image[box] = np.asarray(Image.open(paths[0]))
            mask = Image.fromarray(colours[box])
            (mask if column else mask.quantize(16)).save(paths[1])  # upstream mixes RGB and palette files
    return image, colours


def prepared(folder: Path, lists: dict[str, tuple[str, ...]], workers: int = 1) -> Store:
    manifest = fetch(BENCHMARK, "masks", DataParams(str(folder), True, "cache"), UpstreamParams({}))
    fill(BENCHMARK, manifest, folder, Choice("mine", lists, True, False), Path("data/dubai"), Path("data"), workers)
    return Store(Path("data/dubai"))


def ids_of(colours: np.ndarray) -> np.ndarray:
    """Training ids, one pixel after the other."""
    return np.array([[PALETTE[tuple(map(int, pixel))] for pixel in row] for row in colours], np.uint8)


@pytest.mark.parametrize("workers", [1, 2])
def test_parts_are_pasted(tmp_path: Path, workers: int) -> None:
    scenes = {id: write_scene(tmp_path / "sets", id) for id in "123"}
    store = prepared(tmp_path / "sets", LISTS, workers)
    for split, (id,) in LISTS.items():
        image, colours = scenes[id]
        assert np.array_equal(store.image(split, id), image)
        assert np.array_equal(store.label(split, id), ids_of(colours))
        record = store.index["images"][f"{split}/{id}"]
        assert (record["height"], record["width"]) == colours.shape[:2]
        assert record["pixels"] == [int((ids_of(colours) == k).sum()) for k in range(5)]
        assert record["ignored"] == int((ids_of(colours) == 255).sum())
        assert [Path(file["path"]).stem[-3:] for file in record["image_files"]] == [f"{k:03d}" for k in range(1, 10)]
        assert record["label_sha256"] == array_hash(store.folder / split / f"{id}.label.npy")
    assert not list(Path("data").glob(".preparing-*/"))
    assert len(list(store.folder.rglob("*.npy"))) == 6


def test_a_missing_part_and_parts_that_do_not_fit_are_named(tmp_path: Path) -> None:
    for id in "123":
        write_scene(tmp_path / "sets", id)
    for kind in ("images", "masks"):
        Image.new("RGB", (4, 5)).save(part_path(tmp_path / "sets", "2", kind, 4))
    with pytest.raises(UserError, match=r"parts of 2 \(Tile 2/images/image_part_001\.jpg, \.\.\.\) do not fit"):
        prepared(tmp_path / "sets", LISTS)
    part_path(tmp_path / "sets", "1", "masks", 6).unlink()
    with pytest.raises(UserError, match=r"Tile 1/masks/image_part_001\.png belongs to, part 7 is missing"):
        prepared(tmp_path / "sets", LISTS)


def test_folds_test_each_scene_once_and_are_even() -> None:
    folds = [read_split(BENCHMARK, f"fold{fold}") for fold in range(FOLDS)]
    assert list(BENCHMARK.splits) == [*(f"fold{fold}" for fold in range(FOLDS)), "rotation"]
    assert read_folds(BENCHMARK, "rotation") == tuple(folds)
    for ids in folds:
        assert sorted(id for part in ids.values() for id in part) == list("12345678")
        assert tuple(len(part) for part in ids.values()) == BENCHMARK.counts
    assert sorted(id for ids in folds for id in ids["test"]) == list("12345678")
    assert sorted(id for ids in folds for id in ids["val"]) == list("1234")
    areas = [sum(AREAS[int(id)] for id in ids["test"]) for ids in folds]
    assert max(areas) / min(areas) < 2.5  # scenes 7 and 8 alone have 63 of 99 megapixels


@pytest.mark.soak
def test_real_scenes_equal_their_parts(samples: Path) -> None:
    fold = read_split(BENCHMARK, "fold0")
    store = prepared(samples / "dubai", fold, 2)
    sizes = {}
    for split, ids in fold.items():
        for id in ids:
            image, label = store.image(split, id), store.label(split, id)
            sizes[id] = image.shape[1::-1]
            assert label.shape == image.shape[:2]
            top = 0
            for row in range(3):
                left = 0
                for column in range(3):
                    paths = [part_path(samples / "dubai", id, kind, 3 * row + column) for kind in ("images", "masks")]
                    pixels, colours = (np.asarray(Image.open(path).convert("RGB")) for path in paths)
                    box = np.s_[top : top + pixels.shape[0], left : left + pixels.shape[1]]
                    assert np.array_equal(image[box], pixels)
                    expected = np.full(colours.shape[:2], 254, np.uint8)
                    for colour, index in PALETTE.items():
                        expected[(colours == colour).all(axis=2)] = index
                    assert np.array_equal(label[box], expected)
                    left += pixels.shape[1]
                assert left == image.shape[1]
                top += pixels.shape[0]
            assert top == image.shape[0]
    assert sizes == {
        "1": (2391, 1931), "2": (1528, 1632), "3": (2046, 1974), "4": (3297, 2538),
        "5": (3378, 3174), "6": (2577, 2514), "7": (5450, 6184), "8": (6447, 4438),
    }  # fmt: skip
    assert round(BENCHMARK.side**2, -4) == round(max(w * h for w, h in sizes.values()), -4)
    shares = np.array(store.index["images"]["test/5"]["pixels"]) / (3378 * 3174) * 100
    assert np.allclose(shares, [1.95, 38.11, 4.31, 2.95, 52.43], atol=0.006)
