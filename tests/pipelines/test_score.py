from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipelines import paths, score
from scpseg.benchmarks import BENCHMARKS
from scpseg.data.store import image_path, label_path, save_array, save_image
from scpseg.errors import UserError
from scpseg.evaluation.confusion import confusion, described, metrics
from scpseg.files import read_json, write_json
from scpseg.reporting.contributed import MAPS, read_contributed

SIDE = 40
IDS = ("2_13", "2_14", "3_13")


def put_store(benchmark: str, ids: tuple[str, ...] = IDS) -> dict[str, np.ndarray]:
    """A prepared test split with some ignored pixels, and a prediction for every image."""
    folder, rng = paths.store(benchmark), np.random.default_rng(0)
    classes = len(BENCHMARKS[benchmark].classes)
    images, predictions = {}, {}
    for name in ids:
        truth = rng.integers(0, classes, (SIDE, SIDE + 8)).astype(np.uint8)
        predictions[name] = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, classes, truth.shape))
        truth[:3] = 255
        record = {"height": truth.shape[0], "width": truth.shape[1]}
        record["image_sha256"] = save_image(image_path(folder, "test", name), np.zeros((*truth.shape, 3), np.uint8))
        record["label_sha256"] = save_array(label_path(folder, "test", name), truth)
        images[f"test/{name}"] = record
    images["train/7_7"] = record
    index = {"benchmark": benchmark, "classes": [cls.name for cls in BENCHMARKS[benchmark].classes], "split": "own"}
    index |= {
        "synthetic": True,
        "source": "mirror",
        "labels": "all",
        "warnings": [],
        "folds": [],
        "expected": {"test": 14},
    }
    write_json(folder / "index.json", index | {"ids": {"train": ["7_7"], "val": [], "test": ids}, "images": images})
    return {name: prediction.astype(np.uint8) for name, prediction in predictions.items()}


def coloured(prediction: np.ndarray, benchmark: str) -> np.ndarray:
    return np.array([cls.colour for cls in BENCHMARKS[benchmark].classes], np.uint8)[prediction]


def save(folder: Path, kind: str, name: str, prediction: np.ndarray, benchmark: str) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    if kind == "ids.png":
        Image.fromarray(prediction).save(folder / f"{name}.png")
    elif kind == "colours.png":
        Image.fromarray(coloured(prediction, benchmark)).save(folder / f"top_potsdam_{name}_label.png")
    elif kind == "palette.png":
        picture = Image.fromarray(prediction, mode="P")
        picture.putpalette([value for index in range(256) for value in (index, 3, 200)])  # colours of its writer's own
        picture.save(folder / f"{name}.png")
    elif kind == "geotiff":
        scale = [(33550, "d", 3, (0.05, 0.05, 0.0), True)]
        tifffile.imwrite(folder / f"{name}.TIF", coloured(prediction, benchmark), photometric="rgb", extratags=scale)
    else:
        np.save(folder / f"{name}.npy", prediction.astype(np.int64))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*mode.*:DeprecationWarning")
def test_every_format_gives_the_row_of_the_evaluation_to_the_last_digit(place: Path) -> None:
    predictions = put_store("potsdam")
    store = score.Store(paths.store("potsdam"))
    spec = BENCHMARKS["potsdam"]
    sums = sum(confusion(store.label("test", name), predictions[name], 6) for name in IDS)
    expected = described(metrics(sums, spec.scored), spec)
    for kind in ("ids.png", "colours.png", "palette.png", "geotiff", "npy"):
        for name, prediction in predictions.items():
            save(place / kind, kind, name, prediction, "potsdam")
        score.work(place / kind, "potsdam", f"My {kind}", "test", "note, with a comma")
        out = place / "results/contributed" / score.slug(f"My {kind}") / "potsdam/test"
        assert read_json(out / "metrics.json")["metrics"] == expected
        with np.load(out / "confusion.npz") as found:
            assert tuple(found["ids"]) == IDS and found["matrices"].sum(0).tolist() == sums.tolist()
    rows = read_contributed(place / "results/contributed")
    assert len(rows) == 5 and {row["kind"] for row in rows} == {MAPS}
    assert {float(row["mean_iou"]) for row in rows} == {expected["mean_iou"]}
    assert rows[0]["note"] == "procedural scenes; note, with a comma" and rows[0]["images"] == "3"


def test_names_of_equal_letters_do_not_replace_each_other(place: Path) -> None:
    for name, prediction in put_store("potsdam").items():
        save(place / "maps", "npy", name, prediction, "potsdam")
    score.work(place / "maps", "potsdam", "UNet", "test")
    with pytest.raises(UserError, match=r"'UNet\+\+'.*'UNet'; choose"):
        score.work(place / "maps", "potsdam", "UNet++", "test")
    (row,) = read_contributed(place / "results/contributed")
    assert row["method"] == "UNet"


def test_a_second_score_replaces_the_first(place: Path) -> None:
    predictions = put_store("potsdam")
    for _ in range(2):
        for name, prediction in predictions.items():
            save(place / "maps", "npy", name, prediction, "potsdam")
        score.work(place / "maps", "potsdam", "A|B <i>", "test")
        predictions = {name: np.zeros_like(prediction) for name, prediction in predictions.items()}
    (row,) = read_contributed(place / "results/contributed")
    assert row["method"] == "A|B <i>" and float(row["mean_iou"]) < 0.1
    with (place / "results/contributed/a-b-i.csv").open() as stream:
        assert len(list(csv.reader(stream))) == 2


def error_of(folder: Path, **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        score.work(folder, **({"benchmark": "potsdam", "name": "x", "split": "test"} | more))
    assert not Path("results/contributed").exists()
    return str(caught.value)


def test_missing_extra_and_wrongly_sized_maps_are_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = put_store("potsdam")
    assert "nowhere is not a directory" in error_of(place / "nowhere")
    for name in IDS[:2]:
        save(place / "m", "npy", name, predictions[name], "potsdam")
    save(place / "m", "npy", "9_99", predictions["2_13"], "potsdam")
    text = error_of(place / "m")
    assert "lacks 1 of 3 label maps: 3_13" in text and "9_99.npy" in text and "3_13.png" in text
    save(place / "m", "npy", "3_13", predictions["3_13"][:, :-1], "potsdam")
    assert "3_13.npy has 40 x 47 pixels (rows x columns), the image 3_13 has 40 x 48" in error_of(place / "m")
    save(place / "m", "ids.png", "2_13", predictions["2_13"], "potsdam")
    assert "2_13.npy and 2_13.png are both of image 2_13" in error_of(place / "m")
    (place / "m/2_13.png").unlink()
    save(place / "m", "npy", "3_13", predictions["3_13"], "potsdam")
    save(place / "m", "npy", "7_7", predictions["3_13"], "potsdam")  # of the training split
    score.work(place / "m", "potsdam", "x", "test")
    assert "ignored" in (out := capsys.readouterr().out) and "9_99.npy" in out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path, ids: np.save(path, ids.astype(float)), "float64 of shape"),
        (lambda path, ids: np.save(path, ids[None].astype(int)), "of shape (1, 40, 48)"),
        (lambda path, ids: np.save(path, ids.astype(int) - 1), "with value -1"),
        (
            lambda path, ids: np.save(path, np.full(ids.shape, 6)),
            "value 6; every pixel needs a class id from 0 to 5",
        ),
        (lambda path, ids: path.write_bytes(b"no array"), "cannot be read as an array"),
        (lambda path, ids: path.write_bytes(b""), "cannot be read as an array"),
        (lambda path, ids: Image.fromarray(ids + 30).save(path.with_suffix(".png")), "of a label"),
        (
            lambda path, ids: Image.fromarray(np.full((40, 48, 3), 77, np.uint8)).save(path.with_suffix(".png")),
            "not of a class",
        ),
        (
            lambda path, ids: Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(path.with_suffix(".png")),
            "not of a class",  # the colour of ignored pixels
        ),
    ],
)
def test_invalid_maps_are_rejected(place: Path, change: Any, words: str) -> None:
    predictions = put_store("potsdam")
    for name in IDS[1:]:
        save(place / "m", "npy", name, predictions[name], "potsdam")
    change(place / "m/2_13.npy", predictions["2_13"])
    text = error_of(place / "m")
    assert words in text and "2_13" in text and "\n" not in text


def test_no_store_and_no_name_are_sentences(place: Path) -> None:
    (place / "m").mkdir()
    assert "dvc repro" in error_of(place / "m")
    put_store("potsdam")
    assert "neither letters nor digits" in error_of(place / "m", name="|")
    assert "no val image" in error_of(place / "m", split="val")
