import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipelines import gpu, profile
from pipelines.methods import METHODS
from scpseg.benchmarks import BENCHMARKS
from scpseg.errors import UserError
from scpseg.params import Params
from scpseg.profiling.fresh import ChildKilled
from scpseg.profiling.records import CHANNELS, read_records, without_figures

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "profiles/paper.yaml"
CELLS = len(gpu.requests_of(gpu.on_gpu(Params.load(PAPER))))
FACTS = {
    "gpu": "Invented GPU 80GB",
    "driver": "580.1",
    "torch": "2.15.0",
    "cuda": "13.2",
    "cudnn": 91900,
}
GLNET_STEP = ("training step", "glnet", "blu")
COMPUTED = 1200 * 2**20
Record = dict[str, Any]

OOM = without_figures("oom", "it does not fit into 1024 MiB", "nvml", 2**30)


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
        "timeline": [[0.0, 1]],
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
        if arguments == ["pipelines.gpu", "--fingerprint"]:
            return FACTS
        if arguments == ["pipelines.gpu", "--computed"]:
            costs = {"parameters": 10, "windows": 2, "multiply_adds": 1000}
            return {"memory": {"computed": COMPUTED}, "peak_by_phase": {"local": COMPUTED // 2}, **costs}
        requests.append(request)
        return figures(request)

    monkeypatch.setattr(gpu, "run_fresh", run_fresh)
    monkeypatch.setattr(profile, "run_fresh", run_fresh)
    return requests


def written(out: Path) -> list[Record]:
    return read_records(out / "invented-gpu-80gb/memory.json")


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
    assert len(requests) == 2 * 4 * len(METHODS)
    kinds = [request["kind"] for request in requests]
    assert kinds == sorted(kinds)  # every inference before the first training step
    for request in requests:
        assert request["workload"]["height"] == BENCHMARKS[request["benchmark"]].side
        assert request["params"]["machine"]["device"] == "cuda"
        assert request["params"]["machine"]["deterministic"] is False
        training = 8 if request["benchmark"] == "deepglobe" else 16
        assert request["workload"]["seconds"] == gpu.REPEATING and request["count"] is False
        assert request["workload"]["batch"] == (1 if request["kind"] == "inference" else training)


def test_whole_table(tmp_path: Path, asked: list[Record], capsys: pytest.CaptureFixture[str]) -> None:
    gpu.work(PAPER, tmp_path, 100.0)
    rows = written(tmp_path)
    assert len(rows) == 8 * len(METHODS) and {row["status"] for row in rows} == {"ok"}
    # Potsdam and BLU have the same patch, batch and number of classes: their steps are the same.
    steps = [(request["method"], request["benchmark"]) for request in asked if request["kind"] == "training step"]
    assert (
        len(asked) == 4 * len(METHODS) + 3 * len(METHODS) + 3
        and ("patch", "blu") not in steps
        and steps.count(("glnet", "inria")) == 2
    )
    found = {(row["workload"], row["method"], row["benchmark"]): row for row in rows}
    assert found["training step", "patch", "blu"]["same_as"] == "potsdam"
    step = found["training step", "glnet", "inria"]
    assert (step["phase"], step["memory"]["nvml_process"]) == ("local", 5000 * 2**20 + 1)
    assert "timeline" not in step and step["patch"] == 256
    facts = json.loads((tmp_path / "invented-gpu-80gb/fingerprint.json").read_text())
    assert facts == {**FACTS, "parameters": "paper.yaml"}
    last = capsys.readouterr().out.splitlines()[-1 - 8 * len(METHODS) :]
    assert (
        " ".join(last[0].split())
        == "workload method benchmark peak MiB allocated MiB computed MiB ratio seconds remark"
    )
    assert last[1].split() == ["inference", "scpseg", "deepglobe", "2448", "1224", "1200", "1.020", "1.500"]
    assert found["inference", "patch", "blu"]["multiply_adds"] == 1000
    assert step["memory"]["computed"] == COMPUTED // 2  # of the phase with the highest peak


def test_started_again_only_what_is_missing_is_measured(
    tmp_path: Path, asked: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "invented-gpu-80gb/memory.json"
    gpu.work(PAPER, tmp_path, 100.0)
    whole, measurements = path.read_bytes(), len(asked)
    gpu.work(PAPER, tmp_path, 100.0)
    assert path.read_bytes() == whole and len(asked) == measurements
    # A failed cell is measured again; cells that another profile does not declare stay.
    rows = json.loads(whole)
    rows[0]["status"] = "failed"
    path.write_text(json.dumps(rows))
    file = tmp_path / "small.yaml"
    file.write_text(PAPER.read_text().replace("  - inria\n  - potsdam\n  - blu\n  baselines", "  baselines"))
    gpu.work(file, tmp_path, 100.0)
    assert len(asked) == measurements + 1 and asked[-1]["benchmark"] == "deepglobe"
    assert len(written(tmp_path)) == len(rows)
    # Other code: cells are measured again, and those for which no time is left keep their records.
    monkeypatch.setattr(gpu, "code_digest", lambda root: "changed")
    gpu.work(file, tmp_path, -1.0)
    assert {row["status"] for row in written(tmp_path)} == {"ok"}
    gpu.work(file, tmp_path, 100.0)
    assert len(asked) == measurements + 1 + 2 * len(METHODS) + 1  # GLNet has two phases
    # Another machine: nothing is lost.
    whole = path.read_bytes()
    monkeypatch.setitem(FACTS, "driver", "581.0")
    with pytest.raises(UserError, match=r"driver 580\.1 there, 581\.0 here.*--out"):
        gpu.work(file, tmp_path, 100.0)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("how", ["refused", "killed"])
def test_a_cell_without_computed_memory_stays_and_is_tried_again(
    tmp_path: Path, asked: list[Record], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    stand_in = gpu.run_fresh

    def run_fresh(arguments: list[str], request: Record, timeout: float | None = None) -> Record:
        if arguments == ["pipelines.gpu", "--computed"] and request["method"] == "glnet":
            if how == "killed":
                raise ChildKilled(-9, oom=False)
            return {"user_error": "tuned.glnet is 'sgd fast'"}
        return stand_in(arguments, request, timeout)

    monkeypatch.setattr(gpu, "run_fresh", run_fresh)
    gpu.work(PAPER, tmp_path, 100.0)
    rows = {(row["workload"], row["method"], row["benchmark"]): row for row in written(tmp_path)}
    assert rows["inference", "glnet", "inria"]["status"] == "ok"
    assert "computed" not in rows["inference", "glnet", "inria"]["memory"]
    assert ("tuned.glnet" if how == "refused" else "signal 9") in capsys.readouterr().err
    count = len(asked)
    gpu.work(PAPER, tmp_path, 100.0)
    assert {request["method"] for request in asked[count:]} == {"glnet"}


def test_another_code_or_request_has_another_digest() -> None:
    one = request("inference", "patch", "blu")
    other = request("inference", "patch", "blu", batch=2)
    assert gpu.digest(one, "a") != gpu.digest(one, "b") and gpu.digest(one, "a") != gpu.digest(other, "a")
    assert gpu.digest({**one, "params": {**one["params"], "suite": {}}}, "a") == gpu.digest(one, "a")


def test_a_profile_that_is_not_there_is_named_as_it_was_given(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^profiles/nope\.yaml is missing; name an existing file$"):
        gpu.work(Path("profiles/nope.yaml"), tmp_path, 100.0)


def test_an_unknown_method_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--methods glnt: unknown method; .*glnet"):
        gpu.work(PAPER, tmp_path, 100.0, ["patch", "glnt"])


def test_phases_end_at_the_first_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = gpu.requests_of(gpu.on_gpu(Params.load(PAPER)))
    (request,) = [one for one in requests if (one["kind"], one["method"], one["benchmark"]) == GLNET_STEP]
    phases = []

    def run_fresh(arguments: list[str], request: Record, timeout: float) -> Record:
        phases.append(request["workload"]["phase"])
        names = {"phase": "overview", "phases": ["overview", "local"], "unit": "window"}
        return OOM | names

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
    with pytest.raises(UserError, match=f"1 of {CELLS} measurements failed"):
        gpu.work(PAPER, tmp_path, 100.0)
    rows = {(row["workload"], row["method"], row["benchmark"]): row for row in written(tmp_path)}
    assert rows["inference", "patch", "inria"]["reason"] == "ValueError: no"
    assert {rows[kind, "glnet", "blu"]["status"] for kind in ("inference", "training step")} == {"oom"}
    assert sum(row["status"] == "ok" for row in rows.values()) == CELLS - 1 - 8


def test_no_time_left(tmp_path: Path, asked: list[Record], capsys: pytest.CaptureFixture[str]) -> None:
    gpu.work(PAPER, tmp_path, 0.0)
    assert not asked
    assert {(row["status"], row["reason"]) for row in written(tmp_path)} == {("not measured", "time budget")}
    assert capsys.readouterr().out.count("not measured: time budget") == CELLS


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
    assert [row["status"] for row in written(tmp_path)] == ["ok"] * 8 + ["not measured"] * (CELLS - 8)


def request(kind: str, method: str, benchmark: str, side: int = 100, batch: int = 1) -> Record:
    sizes = {"height": side, "width": side, "classes": 2, "repeats": 3, "batch": batch}
    params = {benchmark: {"patch": 64}, "segmenter": {"name": "fcn8s"}}
    return {"kind": kind, "method": method, "benchmark": benchmark, "params": params, "workload": sizes}


def record(peak: int = 1000, **changes: Any) -> Record:
    memory = {**dict.fromkeys(CHANNELS), "nvml_process": peak, "torch_allocated": peak // 2}
    done = {"status": "ok", "reason": None, "backend": "nvml", "memory": memory, "unavailable": {}, "phase": "all"}
    return done | changes


def filled(
    requests: list[Record], ask: Callable[[Record, float], Record], left: Callable[[], float] = lambda: 100.0
) -> list[list[Record]]:
    """What was saved after each request."""
    saved: list[list[Record]] = []
    gpu.fill(requests, ask, left, lambda records: saved.append([*records]))
    return saved


def states(records: list[Record]) -> list[tuple[str, str | None]]:
    return [(record["status"], record["reason"]) for record in records]


FOUR = [request("inference", "patch", name, 100 + place) for place, name in enumerate(BENCHMARKS)][:4]
OVER, BUDGET = (gpu.NOT_MEASURED, "the run ended before it"), (gpu.NOT_MEASURED, "time budget")


def test_the_most_important_come_first() -> None:
    params = Params.load(PAPER)
    suite = {**params.values["suite"], "benchmarks": ["inria", "blu"]}
    methods = ["scpseg", "wiconet", "downscale", "glnet", "patch"]
    requests = gpu.requests_of(Params({**params.values, "suite": suite}, params.path), methods)
    assert [(one["method"], one["benchmark"]) for one in requests[:10]] == [
        ("scpseg", "inria"),
        ("patch", "inria"),
        ("scpseg", "blu"),
        ("patch", "blu"),
        ("glnet", "inria"),
        ("glnet", "blu"),
        ("downscale", "inria"),
        ("downscale", "blu"),
        ("wiconet", "inria"),
        ("wiconet", "blu"),
    ]
    assert [one["kind"] for one in requests] == ["inference"] * 10 + ["training step"] * 10


def test_every_cell_is_saved_as_soon_as_it_is_known() -> None:
    saved = filled(FOUR[:2], lambda request, seconds: record(request["workload"]["height"]))
    assert [states(records) for records in saved] == [[OVER, OVER], [("ok", None), OVER], [("ok", None)] * 2]
    assert [one["memory"]["nvml_process"] for one in saved[-1]] == [100, 101]
    assert [one["benchmark"] for one in saved[0]] == [one["benchmark"] for one in FOUR[:2]]


def test_a_failure_keeps_what_was_there_and_goes_on() -> None:
    def ask(request: Record, seconds: float) -> Record:
        if request is FOUR[1]:
            return record(status="failed", reason="ValueError: no", memory=dict.fromkeys(CHANNELS))
        if request is FOUR[2]:
            raise UserError("so and so")
        return record()

    ok = ("ok", None)
    assert states(filled(FOUR, ask)[-1]) == [ok, ("failed", "ValueError: no"), ("failed", "so and so"), ok]


def test_out_of_memory_is_a_record() -> None:
    (one,) = filled(
        FOUR[:1],
        lambda request, seconds: OOM | {"phase": None},
    )[-1]
    assert (one["status"], one["limit"], one["memory"]["nvml_process"]) == ("oom", 2**30, None)
    assert "1024 MiB" in one["reason"]


def test_the_time_budget() -> None:
    clock, given = iter([9.0, 4.0, -1.0, -2.0]), []

    def ask(request: Record, seconds: float) -> Record:
        given.append(seconds)
        if request is FOUR[1]:
            raise TimeoutError("it did not end")
        return record()

    assert states(filled(FOUR, ask, lambda: next(clock))[-1]) == [("ok", None), BUDGET, BUDGET, BUDGET]
    assert given == [9.0, 4.0]


def test_a_training_step_on_windows_is_measured_once_for_all_image_sizes() -> None:
    sides = {"potsdam": 6000, "blu": 2048}
    requests = [request(kind, "patch", name, sides[name]) for kind in ("training step", "inference") for name in sides]
    asked = []

    def ask(request: Record, seconds: float) -> Record:
        asked.append((request["kind"], request["benchmark"]))
        return record(units=["window"]) if request["kind"] == "training step" else record()

    last = filled(requests, ask)[-1]
    assert asked == [("training step", "potsdam"), ("inference", "potsdam"), ("inference", "blu")]
    second = last[1]
    assert (second["benchmark"], second["height"], second["memory"]["nvml_process"]) == ("blu", 2048, 1000)
    assert [one.get("same_as") for one in last] == [None, "potsdam", None, None]


@pytest.mark.parametrize("status", ["failed", "ok"])
def test_what_is_not_reused(status: str) -> None:
    """A failure is tried again; a phase on whole images depends on their size."""
    sides = {"potsdam": 100, "blu": 100 if status == "failed" else 200}
    requests = [request("training step", "glnet", name, side) for name, side in sides.items()]
    asked = []

    def ask(request: Record, seconds: float) -> Record:
        asked.append(request["benchmark"])
        return record(units=["image", "window"], status=status)

    filled(requests, ask)
    assert asked == ["potsdam", "blu"]


def test_identity_sees_everything_that_matters() -> None:
    one = request("inference", "patch", "blu")
    assert gpu.identity(one, True) == gpu.identity(request("inference", "patch", "inria"), True)
    other = request("inference", "patch", "blu")
    other["params"]["blu"]["patch"] = 32
    different = [other, request("inference", "patch", "blu", batch=2), request("inference", "glnet", "blu")]
    different += [request("inference", "patch", "blu", side=101), request("training step", "patch", "blu")]
    assert len({gpu.identity(each, True) for each in [one, *different]}) == 6


@pytest.mark.gpu
def test_one_cell_of_each_kind_on_a_real_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A miniature of the whole command; what torch reserved is what NVML counts above the context."""
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    params = Params.load(PAPER)
    values = {**params.values, "profile": {"side": 512, "repeats": 1}}
    values["suite"] = {**values["suite"], "benchmarks": ["blu"]}
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(values))
    gpu.work(file, tmp_path, 300.0, ["scpseg", "patch"])
    (path,) = tmp_path.glob("*/memory.json")
    records = read_records(path)
    assert [(record["status"], record["backend"]) for record in records] == [("ok", "nvml")] * 4
    for record in records:
        memory = record["memory"]
        assert 0 < memory["torch_allocated"] <= memory["torch_reserved"]
        assert abs(memory["torch_allocated"] - memory["computed"]) <= 0.05 * memory["computed"]
        if memory["nvml_above_context"] is not None:
            reserved = memory["torch_reserved"]
            assert abs(memory["nvml_above_context"] - reserved) <= max(0.05 * reserved, 32 * 2**20)
