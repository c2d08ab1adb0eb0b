import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipelines.check import OUTPUT, check, sections, warn_of_classes, work
from scpseg.benchmarks import BENCHMARKS
from scpseg.data.acquire.manifest import FileRecord, Manifest
from scpseg.errors import UserError
from scpseg.files import sha256
from scpseg.params import Params

ROOT = Path(__file__).parents[2]
COMMITTED = yaml.safe_load((ROOT / "params.yaml").read_text())
PROFILES = sorted(path.name for path in (ROOT / "profiles").glob("*.yaml"))


def changed(key: str, value: Any) -> Params:
    values = copy.deepcopy(COMMITTED)
    *path, last = key.split(".")
    section = values
    for part in path:
        section = section[part]
    section[last] = value
    return Params(values, Path("params.yaml"))


def error_of(key: str, value: Any) -> str:
    with pytest.raises(UserError) as caught:
        check(changed(key, value))
    message = str(caught.value)
    assert "\n" not in message and "git checkout params.yaml" in message
    return message


def test_params_is_the_sample_profile() -> None:
    assert (ROOT / "params.yaml").read_text() == (ROOT / "profiles/sample.yaml").read_text()


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_valid_and_has_the_same_keys(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "datasets").mkdir()  # that profile folder.yaml asks for
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    params = Params.load(ROOT / "profiles" / name)
    check(params)
    assert set(params.values) == set(sections())
    for section, values in COMMITTED.items():
        assert list(params.values[section]) == list(values), section


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("csm.ratoi", 0.5, ["csm.ratoi", "did you mean 'ratio'"]),
        ("cms", {}, ["cms is not a section", "did you mean 'csm'"]),
        ("csm.ratio", 1.7, ["csm.ratio is 1.7", "nearest valid value is 1"]),
        ("csm.ratio", 0, ["csm.ratio is 0", "above 0"]),
        ("csm.ratio", "half", ["csm.ratio is 'half'", "a number"]),
        ("csm.context", 0.5, ["csm.context is 0.5", "1"]),
        ("csm.context", 1.0, ["csm.context is 1.0", "nearest valid value is 1.03125"]),
        ("potsdam.patch", 60, ["potsdam.patch is 60", "nearest valid value is 64"]),
        ("segmenter.name", "deeplabv3", ["segmenter.name is 'deeplabv3'", "deeplabv3plus"]),
        ("segmenter.encoder", "resnet81", ["segmenter.encoder is 'resnet81'", "resnet18"]),
        ("suite.benchmarks", ["postdam"], ["suite.benchmarks is 'postdam'", "potsdam"]),
        ("suite.baselines", ["pacth"], ["suite.baselines is 'pacth'", "patch"]),
        ("suite.baselines", ["scpseg"], ["suite.baselines is 'scpseg'"]),
        ("potsdam.labels", "noboundary", ["potsdam.labels is 'noboundary'", "did you mean 'noBoundary'?"]),
        ("evaluation.split", "train", ["evaluation.split is 'train'", "test, val"]),
        ("lfa.stride", 3, ["lfa.stride is 3"]),
        ("csm.context", 64.5, ["csm.context is 64.5", "at most 64; the nearest valid value is 64"]),
        ("deepglobe.patch", 10**9, ["deepglobe.patch is 1000000000", "at most 65536"]),
        ("segmenter.encoder", "", ["are known, such as resnet18, resnet34, resnet50, resnet101, resnet152"]),
        ("train.precision", "fp16", ["train.precision is 'fp16'", "CUDA device", "set it to fp32"]),
        ("train.precision", "bf16", ["train.precision is 'bf16'"]),
        ("data.source", "", ["data.source is ''", "neither mirror nor upstream; name one of these"]),
        ("data.source", "Mirror", ["data.source is 'Mirror'", "did you mean 'mirror'?"]),
        ("data.source", "UPSTREAM", ["did you mean 'upstream'?"]),
        ("data.source", "up-stream", ["did you mean 'upstream'?"]),
        ("data.source", "nofolder", ["data.source is 'nofolder'", "not a directory"]),
        ("data.source", "params.yaml", ["not a directory"]),
        ("data.source", "~nobody-of-that-name/x", ["not a directory"]),
    ],
)
def test_mistakes_are_rejected(key: str, value: Any, parts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = error_of(key, value)
    for part in parts:
        assert part in message


def test_devices_share_the_batches_of_the_authors() -> None:
    """On Inria RUE's have 2 crops and MagNet's 12, then 8; the benchmark's has 8."""
    params = changed("machine.devices", 4)
    params.values["rue"]["recipe"] = params.values["magnet"]["recipe"] = "author"
    params.values["suite"] |= {"benchmarks": ["inria"], "baselines": ["magnet", "isdnet"]}
    check(params)
    params.values["suite"]["baselines"] = ["magnet", "rue"]
    with pytest.raises(UserError, match=r"machine\.devices is 4, .* 2 windows .*phase all.* divisor of 2"):
        check(params)
    params.values["machine"]["devices"] = 2
    check(params)


def test_an_unknown_split_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"potsdam.split is 'volpi'.*candidate_volpi_18_6_14"):
        check(changed("potsdam.split", "volpi"))


def test_a_split_without_val_cannot_be_evaluated_on_val() -> None:
    params = changed("potsdam.split", "official")
    params.values["evaluation"]["split"] = "val"
    with pytest.raises(UserError, match="no val images"):
        check(params)


def test_lists_that_changed_since_the_images_were_prepared_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lists = {"train": ["2_10", "2_11"], "val": ["2_12"], "test": ["2_13"]}
    store = tmp_path / "data/potsdam"
    for folder in (tmp_path / "mine", store):
        folder.mkdir(parents=True)
    counts = {part: len(ids) for part, ids in lists.items()}
    index = {"split": "mine", "folds": [], "ids": lists | {"train": ["2_10"]}, "expected": counts}

    def written(**changed: list[str]) -> None:
        for part, ids in (lists | changed).items():
            (tmp_path / f"mine/{part}.txt").write_text("\n".join(ids))

    (store / "index.json").write_text(json.dumps(index))
    written()
    check(changed("potsdam.split", "mine"))  # of a part of the benchmark, an image is missing
    more: list[dict[str, list[str]]] = [{"train": ["2_11", "2_14"]}, {"train": ["2_10", "2_11", "2_14"]}]
    for other in (*more, {"test": ["2_12"], "val": ["2_13"]}):
        written(**other)
        with pytest.raises(UserError, match=r"potsdam\.split is 'mine', .* give the folder another name"):
            check(changed("potsdam.split", "mine"))
    (tmp_path / "mine").rename(tmp_path / "mine2")
    check(changed("potsdam.split", "mine2"))


def test_the_probe_comes_from_the_mirror_alone() -> None:
    params = changed("suite.benchmarks", ["inria", "probe"])
    check(params)
    params.values["data"]["source"] = "datasets"
    with pytest.raises(
        UserError, match=r"data\.source is 'datasets'.* probe exists only as synthetic scenes"
    ) as caught:
        check(params)
    assert "\n" not in str(caught.value) and "suite.benchmarks" in str(caught.value)


def test_a_benchmark_without_a_miniature_needs_its_real_files(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = dataclasses.replace(BENCHMARKS["blu"], miniature=None)
    monkeypatch.setitem(BENCHMARKS, "blu", spec)
    check(changed("suite.benchmarks", ["inria"]))
    for word in ("data.source is 'mirror'", "blu has no synthetic miniature", "suite.benchmarks"):
        assert word in error_of("suite.benchmarks", ["blu"])


@pytest.mark.parametrize("source", ["mirror", "upstream", "https://mirror.test/sets", "mine", "{}/mine"])
def test_sources_that_can_be(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    check(changed("data.source", source.format(tmp_path)))


def test_a_gpu_that_is_not_there_is_missed_before_data_are_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    params = changed("machine.device", "cuda")
    params.values["train"]["precision"] = "fp16"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"machine\.device is 'cuda', but torch finds no CUDA device; set"):
        check(params)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check(params)


@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("foo", 2)])
def test_stray_arguments_are_not_passed_over(
    argument: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["check", argument])
    with pytest.raises(SystemExit) as caught:
        work()
    assert caught.value.code == status and "usage: check" in "".join(capsys.readouterr())
    assert not OUTPUT.exists()


def test_classes_that_changed_since_the_images_were_prepared_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    suite = dataclasses.replace(Params(COMMITTED, Path("params.yaml")).suite, benchmarks=("custom",))
    values = COMMITTED | {"data": {**COMMITTED["data"], "source": "mine"}}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    table = tmp_path / "mine/custom/classes.csv"
    table.parent.mkdir(parents=True)
    table.write_text("id,name,colour,scored\n0,a,#000000,yes\n1,b,#ffffff,no\n")
    record = FileRecord("classes.csv", table.stat().st_size, sha256(table))
    Manifest("custom", "folder", "index", (), (record,)).write(Path("data/manifests/custom.json"))
    warn_of_classes(suite)
    assert capsys.readouterr().out == ""
    table.write_text(table.read_text().replace("no", "yes"))
    warn_of_classes(suite)
    assert re.match(r"warning: custom/classes\.csv .*dvc repro -f download@custom", capsys.readouterr().out)
