import argparse
import csv
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import yaml

from pipelines import memory, profile
from pipelines.methods import METHODS
from scpseg.benchmarks import BENCHMARKS
from scpseg.errors import UserError
from scpseg.params import Params
from scpseg.profiling.records import INFERENCE, TRAINING, read_records
from scpseg.reporting.published import title_of
from scpseg.segmenters.build import KINDS

ROOT = Path(__file__).parents[2]
PAPER = Params.load(ROOT / "profiles/paper.yaml")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.memory", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_table_in_the_docs_is_the_committed_one() -> None:
    with (ROOT / memory.TABLE).open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["channel"] == "computed"]
    shown = re.findall(r"^\| ([^|]+) \|((?: *\d+ \|){6})", (ROOT / "docs/memory.md").read_text(), re.MULTILINE)
    titles = {title_of(name): name for name in METHODS}
    assert {title for title, _ in shown} == {title_of(row["method"]) for row in rows}
    for title, cells in shown:
        expected = []
        for workload, benchmarks in ((INFERENCE, PAPER.suite.benchmarks), (TRAINING, ("deepglobe", "inria"))):
            for name in benchmarks:
                wanted = {"benchmark": name, "method": titles[title], "workload": workload}
                wanted |= {"patch": str(PAPER.benchmark(name).patch)}
                wanted |= {"windows": "1"} if workload == INFERENCE else {}
                found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
                (row,) = [row for row in found if row["segmenter"] in ("deeplabv3plus", "own")]
                expected.append(round(float(row["mib"])))
        assert [int(cell) for cell in cells.strip(" |").split("|")] == expected, title


def test_cells_have_the_benchmarks_real_sizes() -> None:
    for request in memory.requests_of(PAPER, PAPER.suite.benchmarks, ["patch"]):
        assert request["workload"]["height"] == request["workload"]["width"] == BENCHMARKS[request["benchmark"]].side
        batch = 8 if request["benchmark"] == "deepglobe" else 16
        assert request["workload"]["batch"] == (1 if request["kind"] == INFERENCE else batch)


def test_the_whole_table_has_every_method_segmenter_and_size() -> None:
    asked: list[memory.Request] = []

    def compute(requests: list[memory.Request]) -> list[memory.Record]:
        asked.extend(requests)
        model = {name: {"encoder": "resnet50"} if name == "glnet" else {} for name in METHODS}
        return [
            {
                "method": one["method"],
                "status": "ok",
                "model": model[one["method"]],
                "workload": one["kind"],
                # A training step of a method that tests on the whole image has many windows.
                "windows": 1 if one["method"] == "isdnet" and one["kind"] == INFERENCE else 25,
            }
            for one in requests
        ]

    assert len(memory.whole_table(PAPER, compute)) == len(asked)
    cells = {(one["kind"], one["method"], one["benchmark"], one["params"]["segmenter"]["name"]) for one in asked}
    for kind in (INFERENCE, TRAINING):
        assert {(kind, name, of, "deeplabv3plus") for name in METHODS for of in PAPER.suite.benchmarks} <= cells
        assert {(kind, "scpseg", of, name) for name in KINDS for of in memory.BOTH} <= cells
    assert not any(method == "glnet" and name == "fcn8s" for _, method, _, name in cells)
    assert {one["workload"]["batch"] for one in asked if one["kind"] == INFERENCE} == {1, *memory.WINDOWS}
    assert {one["workload"]["batch"] for one in asked if (one["kind"], one["method"]) == (INFERENCE, "isdnet")} == {1}
    sides = {one["params"]["deepglobe"]["patch"] for one in asked if one["method"] == "scpseg"}
    assert sides == {512, *memory.SIDES}
    assert len({json.dumps(one, sort_keys=True) for one in asked}) == len(asked)


def test_groups_keep_the_order_of_the_requests() -> None:
    requests = memory.requests_of(PAPER, ["blu", "inria"], ["patch", "scpseg"], [INFERENCE])[::-1]
    requests.append(memory.requests_of(PAPER, ["potsdam"], ["patch"], [INFERENCE])[0])
    seen: list[int] = []

    def compute(groups: list[list[memory.Request]]) -> list[list[memory.Record]]:
        seen.extend(len(group) for group in groups)
        return [[{"made": (one["method"], one["benchmark"])} for one in group] for group in groups]

    records = memory.grouped(requests, compute)
    assert [record["made"] for record in records] == [(one["method"], one["benchmark"]) for one in requests]
    assert seen == [2, 3]


def test_a_mistake_in_the_parameters_is_a_record() -> None:
    (request,) = memory.requests_of(
        memory.with_section(PAPER, "csm", ratio=1.5), ["deepglobe"], ["scpseg"], [INFERENCE]
    )
    record = profile.computed(request)
    assert record["status"] == "failed" and "csm.ratio" in record["reason"] and record["memory"]["rss"] is None


def killed(requests: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forked(ProcessPoolExecutor):
        """Starts at once, with what this test replaced."""

        def __init__(self, workers: int, context: object, initializer: Callable[[], None]) -> None:
            super().__init__(1, multiprocessing.get_context("fork"))

    monkeypatch.setattr(memory, "computed_all", killed)
    monkeypatch.setattr(memory, "ProcessPoolExecutor", Forked)
    given = argparse.Namespace(
        params=ROOT / "profiles/paper.yaml", declared=False, benchmark=["inria"], method=["patch"], segmenter=None,
        windows=None, precision=None, processes=1,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"killed.*--processes 1"):
        memory.work(given)


def test_unknown_names_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="deeplabv3plus"):
        memory.with_segmenter(PAPER, "deeplab")
    done = run(tmp_path, "--params", str(ROOT / "profiles/paper.yaml"), "--method", "pach")
    assert done.returncode == 1 and "'pach' is not a method" in done.stderr and "patch" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_stage_and_one_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stage in real processes; a cell's breakdown adds no file and leaves the table as it is."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["suite"] |= {"benchmarks": ["inria"], "baselines": ["patch"]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    done = run(tmp_path, "--params", "params.yaml", "--declared")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "results/memory.json"
    first = path.read_bytes()
    records = read_records(path)
    assert [(one["method"], one["workload"]) for one in records] == [
        ("scpseg", INFERENCE),
        ("scpseg", TRAINING),
        ("patch", INFERENCE),
        ("patch", TRAINING),
    ]
    assert all(one["status"] == "ok" and one["real_size"] and one["backend"] == "computed" for one in records)
    for one in records:
        assert sum(one["parts"].values()) == one["memory"]["computed"]
    cell = "--params params.yaml --benchmark inria --method patch --precision fp16"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["memory", *cell.split()])
    with pytest.raises(SystemExit, match=r"^0$"):
        memory.main()
    said = capsys.readouterr().out
    assert "largest tensors at the peak" in said and "float16" in said
    assert not (tmp_path / memory.TABLE).exists() and path.read_bytes() == first


@pytest.mark.soak
def test_equal_parameters_leave_equal_bytes(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        assert run(tmp_path, "--params", str(ROOT / "params.yaml"), "--declared").returncode == 0
        found.append((tmp_path / "results/memory.json").read_bytes())
    assert found[0] == found[1]


def test_the_committed_table_is_of_these_methods() -> None:
    with (ROOT / memory.TABLE).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["method"] for row in rows} <= set(METHODS) and {"scpseg", "patch"} <= {row["method"] for row in rows}
    assert {row["segmenter"] for row in rows} >= set(KINDS)
