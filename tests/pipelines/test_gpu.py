import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipelines import gpu, profile
from scpseg.benchmarks import BENCHMARKS
from scpseg.errors import UserError
from scpseg.params import Params
from scpseg.profiling.fresh import ChildKilled
from scpseg.profiling.meter import CHANNELS, out_of_memory, without_figures
from scpseg.profiling.reference import Cell

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "profiles/paper.yaml"
FACTS = {
    "gpu": "Invented GPU 80GB",
    "driver": "580.1",
    "torch": "2.15.0",
    "cuda": "13.2",
    "cudnn": 91900,
}
Record = dict[str, Any]


def figures(request: Record) -> Record:
    """Invented: the peak is that of the image, and higher in a later phase."""
    phase = request["workload"].get("phase", 0)
    peak = request["workload"]["height"] * 2**20 + phase
    record = {
        "status": "ok",
        "reason": None,
        "limit": None,
        "memory": {**dict.fromkeys(CHANNELS), "nvml_process": peak, "torch_allocated": peak // 2},
        "unavailable": {"rss": "measured on a GPU"},
        "backend": "nvml",
        "seconds_per_image": 1.5,
        "computed": 1200 * 2**20,
    }
    if request["kind"] == "training step":
        names = ["overview", "local"] if request["method"] == "glnet" else ["all"]
        step = {"phase": names[phase], "phases": names, "unit": "window"}
        record |= {"seconds_per_image": None, "seconds_per_step": 0.25, **step}
    return record


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """A stand-in for fresh processes with a GPU; returns the requests they get."""
    requests: list[Record] = []

    def run_fresh(arguments: list[str], request: Record, timeout: float | None = None) -> Record:
        if arguments[0] == "pipelines.gpu":
            return FACTS
        requests.append(request)
        return figures(request)

    monkeypatch.setattr(gpu, "run_fresh", run_fresh)
    monkeypatch.setattr(profile, "run_fresh", run_fresh)
    return requests


def written(out: Path) -> list[dict[str, str]]:
    with (out / "invented-gpu-80gb/profile.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_without_a_gpu_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.gpu", "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "no NVIDIA GPU" in done.stderr
    assert not (tmp_path / "out").exists()


def test_its_own_process_takes_no_memory_on_the_device_and_needs_few_packages() -> None:
    code = "import sys, pipelines.gpu; print([n for n in ('torch', 'dvc', 'pandas', 'matplotlib') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_the_papers_sizes_on_the_gpu() -> None:
    requests = gpu.requests_of(gpu.on_gpu(Params.load(PAPER)))
    assert len(requests) == 2 * 4 * 4
    assert [(cell.workload, cell.method) for cell in requests][:3] == [
        ("inference", "scpseg"),
        ("inference", "patch"),
        ("inference", "scpseg"),
    ]
    kinds = [cell.workload for cell in requests]
    assert kinds == sorted(kinds)  # every inference before the first training step
    for cell, request in requests.items():
        assert request["workload"]["height"] == BENCHMARKS[cell.benchmark].side
        assert request["params"]["machine"]["device"] == "cuda"
        assert request["params"]["machine"]["deterministic"] is False
        training = 8 if cell.benchmark == "deepglobe" else 16
        assert request["workload"]["seconds"] == gpu.REPEATING and request["beside"]
        assert request["workload"]["batch"] == (1 if cell.workload == "inference" else training)


def test_whole_table(tmp_path: Path, asked: list[Record], capsys: pytest.CaptureFixture[str]) -> None:
    gpu.work(PAPER, tmp_path, 100.0)
    rows = written(tmp_path)
    assert len(rows) == 32 and {row["status"] for row in rows} == {"ok"}
    # Potsdam and BLU have the same patch, batch and number of classes: their steps are the same.
    steps = [(request["method"], request["benchmark"]) for request in asked if request["kind"] == "training step"]
    assert len(asked) == 16 + 12 + 3 and ("patch", "blu") not in steps and steps.count(("glnet", "inria")) == 2
    found = {(row["workload"], row["method"], row["benchmark"]): row for row in rows}
    assert found["training step", "patch", "blu"]["same_as"] == "potsdam"
    step = found["training step", "glnet", "inria"]
    assert (step["phase"], step["nvml_process"]) == ("local", str(5000 * 2**20 + 1))
    facts = json.loads((tmp_path / "invented-gpu-80gb/fingerprint.json").read_text())
    assert facts == {**FACTS, "parameters": "paper.yaml"}
    last = capsys.readouterr().out.splitlines()[-33:]
    assert (
        " ".join(last[0].split())
        == "workload method benchmark peak MiB allocated MiB computed MiB ratio seconds remark"
    )
    assert last[1].split() == ["inference", "scpseg", "deepglobe", "2448", "1224", "1200", "1.020", "1.500"]
    before = (tmp_path / "invented-gpu-80gb/profile.csv").read_bytes()
    gpu.work(PAPER, tmp_path, 100.0)
    assert (tmp_path / "invented-gpu-80gb/profile.csv").read_bytes() == before


def test_a_profile_that_is_not_there_is_named_as_it_was_given(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^profiles/nope\.yaml is missing; name an existing file$"):
        gpu.work(Path("profiles/nope.yaml"), tmp_path, 100.0)


def test_phases_end_at_the_first_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    request = gpu.requests_of(gpu.on_gpu(Params.load(PAPER)))[Cell("training step", "glnet", "blu")]
    phases = []

    def run_fresh(arguments: list[str], request: Record, timeout: float) -> Record:
        phases.append(request["workload"]["phase"])
        names = {"phase": "overview", "phases": ["overview", "local"], "unit": "window"}
        return out_of_memory("nvml", 2**30) | names

    monkeypatch.setattr(profile, "run_fresh", run_fresh)
    record = gpu.measured(request, 10.0)
    assert phases == [0] and record["status"] == "oom" and "1024 MiB" in record["reason"]


def test_failures_are_rows_and_end_in_one_sentence(
    tmp_path: Path, asked: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_fresh(arguments: list[str], request: Record, timeout: float) -> Record:
        if (request["method"], request["benchmark"], request["kind"]) == ("patch", "inria", "inference"):
            return without_figures("failed", "ValueError: no", backend=None)
        if request["method"] == "glnet":
            raise ChildKilled(-9, oom=True)
        return figures(request)

    monkeypatch.setattr(profile, "run_fresh", run_fresh)
    with pytest.raises(UserError, match="1 of 32 measurements failed"):
        gpu.work(PAPER, tmp_path, 100.0)
    rows = {(row["workload"], row["method"], row["benchmark"]): row for row in written(tmp_path)}
    assert rows["inference", "patch", "inria"]["reason"] == "ValueError: no"
    assert {rows[kind, "glnet", "blu"]["status"] for kind in ("inference", "training step")} == {"oom"}
    assert sum(row["status"] == "ok" for row in rows.values()) == 32 - 1 - 8


def test_no_time_left(tmp_path: Path, asked: list[Record], capsys: pytest.CaptureFixture[str]) -> None:
    gpu.work(PAPER, tmp_path, 0.0)
    assert not asked
    assert {(row["status"], row["reason"]) for row in written(tmp_path)} == {("not measured", "time budget")}
    assert capsys.readouterr().out.count("not measured: time budget") == 32


def test_interrupted(
    tmp_path: Path, asked: list[Record], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_fresh(arguments: list[str], request: Record, timeout: float) -> Record:
        if request["method"] == "glnet":
            raise KeyboardInterrupt
        return figures(request)

    monkeypatch.setattr(profile, "run_fresh", run_fresh)
    with pytest.raises(SystemExit) as caught:
        gpu.work(PAPER, tmp_path, 100.0)
    assert caught.value.code == 130 and "finished measurements are in" in capsys.readouterr().err
    assert [row["status"] for row in written(tmp_path)] == ["ok"] * 8 + ["not measured"] * 24


@pytest.mark.gpu
def test_one_cell_of_each_kind_on_a_real_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A miniature of the whole command; what torch reserved is what NVML counts above the context."""
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    params = Params.load(PAPER)
    values = {**params.values, "profile": {"size": 512, "repeats": 1}}
    values["suite"] = {**values["suite"], "benchmarks": ["blu"], "baselines": ["patch"]}
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(values))
    gpu.work(file, tmp_path, 300.0)
    (table,) = tmp_path.glob("*/profile.csv")
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["status"] for row in rows] == ["ok"] * 4 and {row["backend"] for row in rows} == {"nvml"}
    for row in rows:
        reserved = int(row["torch_reserved"])
        assert 0 < int(row["torch_allocated"]) <= reserved
        assert abs(int(row["torch_allocated"]) - int(row["computed"])) <= 0.05 * int(row["computed"])
        if row["nvml_above_context"]:
            assert abs(int(row["nvml_above_context"]) - reserved) <= max(0.05 * reserved, 32 * 2**20)
