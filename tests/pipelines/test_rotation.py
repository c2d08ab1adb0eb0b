"""A rotation equals its folds, trained and evaluated one by one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import paths
from pipelines.download import download
from pipelines.mirror import mirror
from pipelines.prepare import prepare
from pipelines.stages import evaluate, train
from scpseg.benchmarks import get_benchmark
from scpseg.data.splits import read_folds
from scpseg.errors import UserError
from scpseg.evaluation.confusion import metrics
from scpseg.files import read_json
from scpseg.params import Params

PROFILE = Path(__file__).parents[2] / "profiles/sample.yaml"
FOLDS = read_folds(get_benchmark("dubai"), "rotation")


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that switches the project in a temporary folder to a split of Dubai's miniature."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("SCPSEG_CACHE", str(tmp_path / "cache"))
    values = dict(Params.load(PROFILE).values)
    values["mirror"] = {"seed": 0, "side": 64, "train": 5, "val": 1, "test": 2}
    values["train"] = {**values["train"], "iterations": 2, "log_every": 1}
    values["machine"] = {**values["machine"], "threads": 1}

    def switch(split: str) -> None:
        own = {**values["dubai"], "split": split, "patch": 32, "batch": 2}
        params = Params({**values, "dubai": own}, Path("params.yaml"))
        monkeypatch.setattr(Params, "load", lambda: params)
        if not Path("data/mirror").exists():
            mirror("dubai", params, Path("data/mirror/dubai"))
            download(params, "dubai")
        prepare(params, "dubai", workers=1)

    return switch


def run(fold: int | None = None) -> Path:
    train.work("dubai", "patch", 0, fold)
    return paths.run("dubai", "patch", 0)


def scores() -> tuple[dict[str, Any], np.ndarray]:
    evaluate.work("dubai", "patch", 0)
    out = paths.scores("dubai", "patch", 0)
    with np.load(out / "confusion.npz") as found:
        return read_json(out / "metrics.json"), found["matrices"]


@pytest.mark.soak
def test_a_rotation_equals_its_folds_one_by_one(use: Any, capsys: pytest.CaptureFixture[str]) -> None:
    hashes, matrices = [], []
    for fold in range(len(FOLDS)):
        use(f"fold{fold}")
        hashes.append(read_json(run() / "training.json")["weights_hash"])
        matrices.append(scores()[1])
    assert len(set(hashes)) == 4
    use("rotation")
    run(2)
    capsys.readouterr()
    folder = run()
    assert "fold 2" not in capsys.readouterr().out  # it was trained before
    assert [read_json(folder / f"fold{fold}/training.json")["weights_hash"] for fold in range(4)] == hashes
    history = (folder / "history.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in history[1:]] == [
        [str(fold), "all", str(step)] for fold in range(4) for step in (1, 2)
    ]
    found, all_matrices = scores()
    assert np.array_equal(all_matrices, np.concatenate(matrices))
    spec = get_benchmark("dubai")
    assert found["metrics"]["mean_iou"] == metrics(all_matrices.sum(0), spec.scored).mean_iou
    assert [fold["test"] for fold in found["folds"]] == [list(ids["test"]) for ids in FOLDS]
    assert [fold["mean_iou"] for fold in found["folds"]] == [
        metrics(each.sum(0), spec.scored).mean_iou for each in matrices
    ]
    assert (found["images"], found["images_of"], found["train_images"], found["split_list"]) == (8, 8, 5, "rotation")
    assert not list(Path(".scratch").glob("*/*"))


def test_a_damaged_fold_and_a_fold_that_does_not_exist_are_named(use: Any) -> None:
    use("rotation")
    with pytest.raises(UserError, match=r"--fold 4: dubai has folds 0 to 3 \(split rotation\)"):
        run(4)
    folder = run()
    (folder / "fold3/weights.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"fold3/weights\.safetensors is damaged"):
        scores()
    assert not Path("results/metrics").exists()


def test_values_of_folds_are_combined() -> None:
    records = [{"a": {"n": n, "x": n / 2}, "same": "s", "hash": str(n)} for n in (1, 2, 4)]
    both = train.combined(records)
    assert both == {"a": {"n": 2, "x": pytest.approx(7 / 6)}, "same": "s", "hash": both["hash"]}
    assert len(both["hash"]) == 64
