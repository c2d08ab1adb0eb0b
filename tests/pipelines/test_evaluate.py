import csv
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines import paths
from pipelines.download import download
from pipelines.methods import build_method
from pipelines.mirror import mirror
from pipelines.prepare import prepare
from pipelines.stages import evaluate
from scpseg.benchmarks import get_benchmark
from scpseg.contract import Method, Predictor, Weights, drop_training_parts
from scpseg.data.store import Store, label_path, save_array
from scpseg.errors import UserError
from scpseg.evaluation.confusion import confusion, metrics
from scpseg.evaluation.probe_answers import Answer, read_scene
from scpseg.evaluation.streaming import segment
from scpseg.files import read_json, write_json
from scpseg.params import Params
from scpseg.training.checkpoint import digest

PROFILE = Path(__file__).parents[2] / "profiles/probe.yaml"


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The probe's profile with a tiny mirror, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("SCPSEG_CACHE", str(tmp_path / "cache"))
    values = dict(Params.load(PROFILE).values)
    values["mirror"] = {"seed": 0, "side": 64, "train": 2, "val": 1, "test": 2}
    found = Params(values, Path("params.yaml"))
    monkeypatch.setattr(Params, "load", lambda: found)
    return found


def prepared(benchmark: str, params: Params) -> Path:
    """A benchmark's store, and the folder of an untrained run on it."""
    mirror(benchmark, params, Path("data/mirror") / benchmark)
    download(params, benchmark)
    prepare(params, benchmark, workers=1)
    folder = paths.run(benchmark, "patch", 0)
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    method = drop_training_parts(build_method(params, benchmark, "patch"))
    weights = {key: value.contiguous() for key, value in method.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    record = {
        "weights_hash": digest(weights),
        "model": method.describe(),
        "segmenter": params.values["segmenter"],
        "initial_weights": asdict(method.weights),
    }
    write_json(folder / "training.json", record)
    return folder


@pytest.mark.parametrize("benchmark", ["probe", "blu"])
def test_answers_for_every_disc_of_the_probe_and_of_nothing_else(params: Params, benchmark: str) -> None:
    prepared(benchmark, params)
    evaluate.work(benchmark, "patch", 0)
    out = paths.scores(benchmark, "patch", 0)
    assert read_json(out / "metrics.json")["images"] == 2
    assert (out / "objects.csv").exists() == (benchmark == "probe")
    if benchmark == "probe":
        with (out / "objects.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        store = Store(paths.store("probe"))
        for name in store.ids("test"):
            scene = read_scene(store.label("test", name))
            mine = [row for row in rows if row["image"] == name]
            assert [(int(row["row"]), int(row["column"])) for row in mine] == [disc.centre for disc in scene.discs]
        assert {row["kind"] for row in rows} == {"0", "1"}


@pytest.mark.parametrize("name", ["patch", "glnet"])
def test_images_are_normalised_as_in_training(params: Params, name: str) -> None:
    """Weights of a package can have other means than ImageNet's, which random weights have."""
    folder = prepared("blu", params)
    if name == "glnet":
        folder = paths.run("blu", name, 0)
        shutil.copytree(paths.run("blu", "patch", 0), folder)
        torch.manual_seed(0)
        method = drop_training_parts(build_method(params, "blu", name))
        weights = {key: value.contiguous() for key, value in method.state_dict().items()}
        save_file(weights, folder / "weights.safetensors")
        record = {**read_json(folder / "training.json"), "weights_hash": digest(weights), "model": method.describe()}
        write_json(folder / "training.json", record)
    record = read_json(folder / "training.json")
    record["initial_weights"] = {"source": "package", "sha256": "", "mean": [0.1, 0.5, 0.9], "std": [0.5, 0.5, 0.5]}
    write_json(folder / "training.json", record)
    evaluate.work("blu", name, 0)
    with np.load(paths.scores("blu", name, 0) / "confusion.npz") as found:
        matrices = found["matrices"]
    store, method = Store(paths.store("blu")), drop_training_parts(build_method(params, "blu", name))
    method.load_state_dict(load_file(folder / "weights.safetensors"))
    classes = len(get_benchmark("blu").classes)

    def expected(part: Predictor) -> np.ndarray:
        ids = store.ids("test")
        pairs = [(store.image("test", id), store.label("test", id)) for id in ids]
        labels = [segment(part, image, classes, torch.device("cpu")) for image, _ in pairs]
        return np.stack([confusion(truth, found, classes) for (_, truth), found in zip(pairs, labels, strict=True)])

    assert not np.array_equal(matrices, expected(method))
    own = Weights("package", "", (0.1, 0.5, 0.9), (0.5, 0.5, 0.5))
    for module in method.modules():
        if hasattr(module, "weights"):
            module.weights = own
    assert np.array_equal(matrices, expected(method))
    alone = read_json(paths.scores("blu", name, 0) / "metrics.json")["branches"]
    for branch, part in method.branches().items():
        assert alone[branch] == metrics(expected(part).sum(axis=0), get_benchmark("blu").scored).mean_iou


def error_of() -> str:
    """An evaluation that must fail with one sentence, before anything is written."""
    with pytest.raises(UserError) as caught:
        evaluate.work("blu", "patch", 0)
    assert "\n" not in str(caught.value)
    assert not Path("results/metrics").exists()
    return str(caught.value)


def test_a_run_that_is_damaged_or_of_another_network_is_rejected(params: Params) -> None:
    folder = prepared("blu", params)
    weights, record = folder / "weights.safetensors", folder / "training.json"
    whole = weights.read_bytes()
    for content in (b"", whole[:-1], whole[:100]):
        weights.write_bytes(content)
        assert error_of().startswith(f"{weights} is damaged (")
    weights.unlink()
    assert error_of() == f"{weights} is missing; run `dvc repro`, which trains first"
    weights.write_bytes(whole)
    trained = read_json(record)
    for key in ("segmenter", "model"):
        setting = "encoder" if key == "segmenter" else "patch"
        write_json(record, {**trained, key: {**trained[key], setting: "other"}})
        now = trained[key][setting]
        assert f"was trained with {setting} other, params.yaml has {setting} {now}; run `dvc repro`" in error_of()
    write_json(record, [])
    assert error_of().startswith(f"{record} has [] where a mapping belongs")
    record.write_text("{")
    assert error_of().startswith(f"{record} is not valid JSON")
    record.unlink()
    assert error_of() == f"{record} is missing; run `dvc repro`, which trains first"


def test_weights_of_other_shapes_are_rejected(params: Params) -> None:
    """As a run of other code with the same settings would leave them."""
    folder = prepared("blu", params)
    save_file({"a": torch.zeros(2)}, folder / "weights.safetensors")
    assert "weights.safetensors belongs to another network than params.yaml describes" in error_of()


def test_weights_that_changed_since_the_training_are_rejected(params: Params) -> None:
    path = prepared("blu", params) / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    message = error_of()
    assert message.startswith(f"{path} was changed") and "run `dvc repro`" in message


def test_a_set_without_a_scored_class_has_no_mean(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    """As an all-ignored test set leaves it: null in metrics.json, and a word for it."""
    prepared("blu", params)
    store = Store(paths.store("blu"))
    for id in store.ids("test"):
        label = np.full(store.label("test", id).shape, 255, np.uint8)
        store.index["images"][f"test/{id}"]["label_sha256"] = save_array(label_path(store.folder, "test", id), label)
    write_json(store.folder / "index.json", store.index)
    evaluate.work("blu", "patch", 0)
    found = read_json(paths.scores("blu", "patch", 0) / "metrics.json")
    assert (found["metrics"]["mean_iou"], found["metrics"]["accuracy"]) == (None, None)
    assert found["metrics"]["iou"]["road"] is None and len(found["metrics"]["absent"]) == 6
    assert found["image_sizes"] == "64 x 64"
    assert "mIoU none (no scored class" in capsys.readouterr().out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_an_interrupted_evaluation_goes_on_with_the_next_image(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared("probe", params)
    out, seen = paths.scores("probe", "patch", 0), list[np.ndarray]()
    segment = evaluate.segment

    def counted(method: Method, image: np.ndarray, *rest: Any, **more: Any) -> np.ndarray:
        if len(seen) == stop:
            raise KeyboardInterrupt
        seen.append(np.array(image))
        return segment(method, image, *rest, **more)

    monkeypatch.setattr(evaluate, "segment", counted)
    stop = -1
    evaluate.work("probe", "patch", 0)
    whole = contents(out)
    assert len(seen) == 2 and not list(Path(".scratch").rglob("*.npz"))
    shutil.rmtree(out)
    seen.clear()
    stop = 1
    with pytest.raises(KeyboardInterrupt):
        evaluate.work("probe", "patch", 0)
    assert len(seen) == 1 and not (out / "metrics.json").exists()
    stop = -1
    evaluate.work("probe", "patch", 0)
    assert len(seen) == 2 and not np.array_equal(*seen) and contents(out) == whole
    assert "1 of 2 images are scored already" in capsys.readouterr().out


def test_what_is_kept_of_an_image_comes_back_or_is_made_again(tmp_path: Path) -> None:
    answer = Answer(1, 2, 0, 1, 4, 30, 8, None, 1, 0, None, 0.1)
    alone = {"wide": np.ones((3, 3), np.int64)}
    record = evaluate.Scored(np.eye(3, dtype=np.int64), alone, np.zeros((2, 2), np.uint8), [answer])
    path = tmp_path / "000000.npz"
    assert evaluate.Scored.read(path) is None
    record.write(path)
    found = evaluate.Scored.read(path)
    assert found is not None and found.answers == [answer] and list(found.alone) == ["wide"]
    assert np.array_equal(found.matrix, record.matrix) and np.array_equal(found.thin, record.thin)
    whole = path.read_bytes()
    middle = whole.index(b"thin.npy") + 40
    directory = whole.index(b"PK\1\2")  # in it, bytes 10 and 11 of an entry are its compression: 1 is an old one
    packed = whole[: directory + 10] + b"\1\0" + whole[directory + 12 :]
    for content in (b"", whole[:-30], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], packed):
        path.write_bytes(content)
        assert evaluate.Scored.read(path) is None
