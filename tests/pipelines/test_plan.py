import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines import plan
from pipelines.plan import Job, duration, evaluation_seconds, job_of, pending, report, store_bytes, training_seconds
from scpseg.params import Params

VALUES = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "device_name", lambda params: "this device")
    values = copy.deepcopy(VALUES)
    values["inria"] |= {"patch": 64, "batch": 8}
    values["train"] |= {"iterations": 1000}
    return Params(values, Path("params.yaml"))


def trained(params: Params, name: str, seconds: float, **changes: object) -> None:
    record = {
        "segmenter": params.values["segmenter"],
        "model": {"patch": 64},
        "batch": 8,
        "precision": "fp32",
        "iterations": 200,
        **changes,
    }
    measured = {"seconds": seconds, "environment": record.pop("environment", {"device": "this device"})}
    for folder, what in (("runs", record), ("provenance", measured)):
        path = Path("results") / folder / name / "training.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(what))


def test_names_of_stages() -> None:
    assert job_of("check") == Job("check")
    assert job_of("prepare@inria") == Job("prepare", "inria")
    assert job_of("train-scpseg@inria-2") == Job("train", "inria", "scpseg", 2)
    assert job_of("evaluate-baseline@blu-glnet-10") == Job("evaluate", "blu", "glnet", 10)
    assert job_of("profile-baseline@blu-mean-colour") == Job("profile", "blu", "mean-colour")


def test_time_of_a_training_follows_from_steps_of_the_same_settings(params: Params) -> None:
    assert training_seconds(params, "inria", "scpseg") is None
    trained(params, "inria/scpseg/0", 10.0)
    trained(params, "blu/scpseg/0", 30.0)
    trained(params, "blu/patch/0", 999.0)
    trained(params, "blu/scpseg/1", 20.0, batch="2:2:1")  # phases differ: the first decides
    for place, change in enumerate(({"model": {"patch": 128}}, {"batch": 4}, {"environment": {"device": "another"}})):
        trained(params, f"deepglobe/scpseg/{place}", 999.0, **change)
    assert training_seconds(params, "inria", "scpseg") == pytest.approx(1000 * (10 + 30) / 2 / 200)


def test_a_rotation_trains_one_network_per_fold(params: Params) -> None:
    params.values["dubai"]["split"] = "rotation"
    params.values["dubai"]["patch"] = 64
    trained(params, "dubai/scpseg/0", 80.0)
    for fold in range(4):
        Path(f"results/runs/dubai/scpseg/0/fold{fold}").mkdir()
    assert training_seconds(params, "dubai", "scpseg") == pytest.approx(1000 * 80 / 200)
    assert training_seconds(params, "inria", "scpseg") == pytest.approx(1000 * 20 / 200)


def test_without_a_training_the_reference_of_this_device_counts(params: Params) -> None:
    for gpu, steps in {
        "this device": (("inria", "scpseg", 64, 0.5), ("inria", "patch", 64, 7), ("blu", "scpseg", 64, 7)),
        "small patches": (("inria", "scpseg", 64, None), ("inria", "patch", 64, 7)),
        "another patch": (("inria", "scpseg", 256, 7),),
        "another": (("inria", "scpseg", 64, 7),),
    }.items():
        keys = ("benchmark", "method", "patch", "seconds_per_step")
        same = {"workload": "training step", "backend": "nvml", "status": "ok", "memory": {}}
        put = Path("results/reference") / gpu
        put.mkdir(parents=True)
        facts = {"gpu": "another" if gpu == "another" else "this device", "driver": "1", "torch": "2", "cuda": "13"}
        (put / "fingerprint.json").write_text(json.dumps(facts))
        (put / "memory.json").write_text(json.dumps([dict(zip(keys, step, strict=True)) | same for step in steps]))
    assert training_seconds(params, "inria", "scpseg") == 500
    assert training_seconds(params, "inria", "glnet") is None


def test_a_recipe_of_its_own_is_not_extrapolated(params: Params) -> None:
    trained(params, "inria/glnet/0", 10.0)
    assert training_seconds(params, "inria", "glnet") == pytest.approx(50)
    params.values["glnet"]["recipe"] = "author"
    assert training_seconds(params, "inria", "glnet") is None


def test_time_of_an_evaluation_grows_with_pixels_and_images(params: Params) -> None:
    record = {
        "model": {"patch": 64},
        "environment": {"device": "this device"},
        "seconds_per_image": 2.0,
        "height": 100,
        "width": 200,
    }
    path = Path("results/profile/inria/scpseg.json")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))
    mirror = params.values["mirror"]
    expected = 2.0 * mirror["side"] ** 2 / 20_000 * mirror["test"]
    assert evaluation_seconds(params, "inria", "scpseg") == pytest.approx(expected)
    params.values["data"]["source"] = "elsewhere"
    assert evaluation_seconds(params, "inria", "scpseg") == pytest.approx(2.0 * 5000**2 / 20_000 * 27)
    assert store_bytes(params, "inria") == 4 * 5000**2 * 180
    params.values["inria"]["patch"] = 128
    assert evaluation_seconds(params, "inria", "scpseg") is None


def test_the_plan_counts_what_is_known_and_what_is_not(params: Params) -> None:
    trained(params, "inria/scpseg/0", 10.0)
    names = ["prepare@inria", "train-scpseg@inria-0", "train-scpseg@inria-1", "train-baseline@inria-glnet-0", "report"]
    text = report(params, names)
    assert "5 stages" in text and "seeds 0, 1: 1000 iterations, 50 s each" in text
    assert "glnet, seed 0: 1000 iterations, not measured\n" in text
    assert text.endswith(
        "expected: 100 s for 2 trainings and evaluations like one measured here; "
        "unknown time for 1 training or evaluation unlike any measured here"
    )
    assert report(params, []).startswith("nothing to do")


def test_the_plan_of_one_thing_speaks_of_one(params: Params) -> None:
    device, _, rest = report(params, ["profile-baseline@inria-glnet"]).partition("\n")
    assert device.startswith("1 stage would run on") and rest == "profile    1 workload"
    trained(params, "inria/scpseg/0", 10.0)
    lines = report(params, ["train-scpseg@inria-0"]).splitlines()
    assert lines[1].endswith("scpseg, seed 0: 1000 iterations, 50 s")
    assert lines[2] == "expected: 50 s for 1 training or evaluation like one measured here"


@pytest.mark.parametrize(("seconds", "text"), [(None, "not measured"), (119, "119 s"), (150, "2 min"), (9000, "2.5 h")])
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_what_follows_from_a_changed_stage_would_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stages = {
        "check": {"cmd": "touch c", "deps": ["i"], "outs": ["c"]},
        "a": {"cmd": "touch a.txt", "deps": ["c", "j"], "outs": ["a.txt"]},
        "b": {"cmd": "touch b.txt", "deps": ["a.txt"], "outs": ["b.txt"]},
        "other": {"cmd": "touch o.txt", "deps": ["c"], "outs": ["o.txt"]},
    }
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    for name in "ij":
        Path(name).write_text(name)
    dvc = [sys.executable, "-m", "dvc"]
    for command in (["git", "init", "-q"], [*dvc, "init", "-q"], [*dvc, "repro", "-q"]):
        subprocess.run(command, check=True)
    assert pending() == []
    Path("i").write_text("changed")
    assert pending() == ["check"]
    Path("j").write_text("changed")
    assert pending() == ["check", "a", "b"]
