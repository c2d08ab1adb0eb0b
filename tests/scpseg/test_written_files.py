"""Thousands of damaged JSON files: each is read as it was meant, or ends in one sentence that names it."""

import copy
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import paths, plan
from pipelines.freshness import error_file, record_error
from scpseg.benchmarks import BENCHMARKS
from scpseg.data.acquire.manifest import FileRecord, Manifest, find
from scpseg.data.store import Store, image_path, label_path, save_array, save_image
from scpseg.errors import UserError
from scpseg.files import read_json, sha256, write_json
from scpseg.params import DataParams, Params, SuiteParams
from scpseg.profiling.records import read_records, tidy
from scpseg.reporting.build import build_report
from scpseg.reporting.collect import collect
from tests.scpseg.reporting import conftest as invented

pytestmark = pytest.mark.soak
CASES = 2000
SUITE = SuiteParams(benchmarks=("blu",), baselines=("patch",), seeds=(0,))
STRANGE: tuple[Any, ...] = (None, True, 0, -1, 10**30, 10**400, 0.5, -1e300, "", "x", "../x", "\0", "ok", [], {}, [[]])
STRANGE_TEXTS = ("NaN", "1e999", '"\\ud800"', "[" * 100_000, "9" * 5000)
Kind = tuple[Path, Callable[[], object]]


def damaged(whole: Any, chance: random.Random) -> bytes:
    """A file whose value is another in one place, or whose bytes are."""
    value, text = copy.deepcopy({"": whole}), ""
    for _ in range(chance.choice([1, 1, 1, 3])):
        node, key = value, ""
        while isinstance(node[key], dict | list) and len(node[key]) and chance.random() < 0.8:
            node = node[key]
            key = chance.choice(list(node) if isinstance(node, dict) else range(len(node)))
        change = chance.randrange(4)
        if change == 0 and node is not value:
            del node[key]
            break
        if change == 1 and isinstance(node[key], dict):
            node[key]["more"] = copy.deepcopy(chance.choice(STRANGE))
        elif change == 1 and isinstance(node[key], list):
            node[key] += [copy.deepcopy(chance.choice(STRANGE))]
        else:
            node[key] = copy.deepcopy(chance.choice(STRANGE))
    text = json.dumps(value[""])
    if chance.random() < 0.1:
        text = text.replace(chance.choice(["0", "null", "true", '"x"']), chance.choice(STRANGE_TEXTS), 1)
    data = bytearray(text.encode())
    if chance.random() < 0.2 and data:
        place = chance.randrange(len(data))
        data[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
    return bytes(data)


def index(folder: Path) -> Kind:
    record = {"height": 3, "width": 2}
    record["image_sha256"] = save_image(image_path(folder, "test", "a"), np.zeros((3, 2, 3), np.uint8))
    record["label_sha256"] = save_array(label_path(folder, "test", "a"), np.zeros((3, 2), np.uint8))
    spec = BENCHMARKS["blu"]
    ids = {"train": [], "val": [], "test": ["a"]}
    made = {"benchmark": "blu", "classes": [cls.name for cls in spec.classes], "split": "authors", "synthetic": True}
    made |= {"source": "mirror", "labels": "label", "expected": {"train": 1, "val": 1, "test": 2}}
    made |= {"warnings": [], "folds": []}
    write_json(folder / "index.json", made | {"ids": ids, "images": {"test/a": record}})

    def read() -> None:
        store = Store(folder)
        store.expect_classes([cls.name for cls in spec.classes])
        for split in ("train", "val", "test"):
            store.check(split)
            store.sizes(split)

    return folder / "index.json", read


def manifest(folder: Path) -> Kind:
    path = folder / "blu.json"
    Manifest("blu", "mirror", "label", (FileRecord("a.zip", 3, "ab"),), (FileRecord("b.png", 4, "cd"),)).write(path)
    return path, lambda: Manifest.read(path, "blu").write(folder / "again.json")


def listed(folder: Path) -> Kind:
    mirror = folder / "data/mirror/blu"
    mirror.mkdir(parents=True)
    with zipfile.ZipFile(mirror / "a.zip", "w") as file:
        file.writestr("readme.txt", "x")
    size = (mirror / "a.zip").stat().st_size
    write_json(
        mirror / "archives.json", {"archives": [{"name": "a.zip", "size": size, "sha256": sha256(mirror / "a.zip")}]}
    )
    return mirror / "archives.json", lambda: find(BENCHMARKS["blu"], "label", DataParams("mirror", True, "cache"))


def memory(folder: Path) -> Kind:
    path, record = folder / "memory.json", invented.profile("blu", "patch", parts={"weights": 3}, precision="fp32")
    write_json(path, [record, invented.out_of_memory("blu", "scpseg")])
    return path, lambda: tidy(read_records(path))


def trained(folder: Path) -> Kind:
    params = Params.load(Path(__file__).parents[2] / "params.yaml")
    path, own = paths.run("blu", "patch", 0) / "training.json", params.benchmark("blu")
    record = {"iterations": 10, "segmenter": params.values["segmenter"], "model": {"patch": own.patch}}
    write_json(path, record | {"batch": own.batch, "precision": "fp32"})
    measured = {"seconds": 3.0, "environment": {"device": "cpu"}}
    write_json(paths.provenance("blu", "patch", 0, "training"), measured)
    return path, lambda: plan.training_seconds(params, "blu", "patch", "cpu")


def failure(folder: Path) -> Kind:
    record_error(["train", "blu"], "no")
    shape = {"error": str, "settings": str}
    return error_file(["train", "blu"]), lambda: read_json(error_file(["train", "blu"]), shape)


@pytest.mark.parametrize("kind", [index, manifest, listed, memory, trained, failure], ids=lambda k: k.__name__)
def test_a_damaged_file_is_named(kind: Callable[[Path], Kind], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path, read = kind(tmp_path)
    read()
    whole, chance, told = json.loads(path.read_text()), random.Random(kind.__name__), 0
    for _ in range(CASES):
        path.write_bytes(damaged(whole, chance))
        try:
            read()
        except UserError as error:
            told += 1
            assert "\n" not in str(error)
            str(error).encode()
    assert CASES / 4 < told < CASES


RESULTS = ["metrics/blu/scpseg/0/metrics", "provenance/blu/scpseg/0/training", "profile/blu/scpseg", "memory"]


@pytest.mark.parametrize("name", RESULTS, ids=range(len(RESULTS)))
def test_the_report_of_a_damaged_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file that is read without a complaint makes a whole page; figures are drawn of every twentieth."""
    results, chance, told, drawn = tmp_path / "results", random.Random(name), 0, 0
    invented.fill(results, SUITE)
    write_json(results / "memory.json", [invented.profile("blu", "scpseg", backend="computed", memory={"computed": 3})])
    path = results / f"{name}.json"
    whole = json.loads(path.read_text())
    for _ in range(CASES):
        path.write_bytes(damaged(whole, chance))
        try:
            if name == "memory":
                read_records(path)
            else:
                collect(results, SUITE, available=True)
        except UserError as error:
            told += 1
            assert "\n" not in str(error)
            continue
        if chance.random() < 0.05:
            drawn += 1
            build_report(results, tmp_path / "reports", SUITE, True)
    assert told > CASES / 4 and drawn
