"""Real images through prepare, training and whole-image evaluation; skipped where there are none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipelines import paths
from pipelines.check import check
from pipelines.download import download
from pipelines.prepare import prepare
from pipelines.stages import evaluate, train
from scpseg.data.store import Store
from scpseg.files import read_json
from scpseg.params import Params

ROOT = Path(__file__).parents[2]
TINY = {"encoder": "tu-test_resnet.r160_in1k", "weights": "random"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with its own cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCPSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def parameters(changes: dict[str, dict[str, Any]]) -> Params:
    """The profile for folders with `changes`, written to params.yaml and checked."""
    values = yaml.safe_load((ROOT / "profiles/folder.yaml").read_text())
    for section, change in changes.items():
        values[section] |= change
    Path("params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    params = Params.load()
    check(params)
    return params


def walk(params: Params) -> list[dict[str, Any]]:
    """Every stage up to the scores, for SCPSeg and the plain patch."""
    download(params, "deepglobe")
    prepare(params, "deepglobe")
    records = []
    for method in ("scpseg", "patch"):
        train.work("deepglobe", method, 0)
        evaluate.work("deepglobe", method, 0)
        records.append(read_json(paths.scores("deepglobe", method, 0) / "metrics.json"))
    return records


SHORT = {
    "segmenter": TINY,
    "train": {"iterations": 4, "log_every": 1},
    "deepglobe": {"patch": 128, "batch": 2},
}


def test_crops_of_deepglobe_images(samples: Path, project: Path) -> None:
    for name in ("172307", "2774"):
        for file in (f"{name}_sat.jpg", f"{name}_mask.png"):
            with Image.open(samples / "deepglobe/train" / file) as picture:
                (project / "mine").mkdir(exist_ok=True)
                picture.crop((900, 900, 1220, 1200)).save(project / "mine" / file, quality=95)
    records = walk(parameters({**SHORT, "data": {"source": "mine"}}))
    for record in records:
        assert (record["images"], record["images_of"]) == (1, 207)
        assert (record["train_images"], record["train_images_of"]) == (1, 454)
        assert record["synthetic"] is False and 0 <= record["metrics"]["mean_iou"] <= 1
        assert "forest" in record["metrics"]["iou"] and record["model"]["patch"] == 128
    matrices = np.load(paths.scores("deepglobe", "patch", 0) / "confusion.npz")
    assert matrices["matrices"].sum() == 320 * 300


@pytest.mark.soak
@pytest.mark.usefixtures("project")
def test_whole_deepglobe_images(samples: Path) -> None:
    records = walk(parameters({**SHORT, "data": {"source": str(samples)}}))
    assert Store(paths.store("deepglobe")).image("val", "2774").shape == (2448, 2448, 3)
    assert [(record["images"], record["train_images"]) for record in records] == [(3, 6), (3, 6)]
    matrices = np.load(paths.scores("deepglobe", "patch", 0) / "confusion.npz")
    assert matrices["matrices"].sum() == 3 * 2448 * 2448


def test_the_cropped_potsdam_pair_trains_and_repeats(samples: Path, project: Path) -> None:
    lists = project / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("0_0\n")
    (lists / "val.txt").write_text("9_9\n")
    params = parameters(
        {
            "suite": {"benchmarks": ["potsdam"]},
            "data": {"source": str(samples)},
            "segmenter": TINY,
            "train": {"iterations": 24, "log_every": 6},
            "potsdam": {"patch": 64, "batch": 4, "split": str(lists), "labels": "bordered"},
        }
    )
    download(params, "potsdam")
    prepare(params, "potsdam")
    hashes = []
    for _ in range(2):
        train.work("potsdam", "scpseg", 0)
        folder = paths.run("potsdam", "scpseg", 0)
        hashes.append((read_json(folder / "training.json")["weights_hash"], (folder / "history.csv").read_text()))
    assert hashes[0] == hashes[1]
    rows = [line.split(",") for line in hashes[0][1].splitlines()]
    losses = [float(row[rows[0].index("ce")]) for row in rows[1:]]
    assert losses[-1] < 0.8 * losses[0]
