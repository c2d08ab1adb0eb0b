from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import paths, report
from pipelines.report import main
from pipelines.stage import run_stage
from scpseg.errors import UserError
from scpseg.reporting import MEMORY
from tests.scpseg.reporting import conftest as invented

ROOT = Path(__file__).resolve().parents[2]
Ended = subprocess.CompletedProcess[str]


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


@pytest.fixture
def available(empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], Ended]:
    """The command with --available, in this process: one that imports all of it takes seconds."""
    monkeypatch.chdir(empty)
    monkeypatch.setattr(sys, "argv", ["report", "--available"])
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)

    def ended() -> Ended:
        with pytest.raises(SystemExit) as end:
            run_stage(main)
        return subprocess.CompletedProcess(sys.argv, int(end.value.code or 0), *capsys.readouterr())

    return ended


def test_missing_runs_end_in_one_sentence_and_status_1(empty: Path) -> None:
    command, environment = [sys.executable, "-m", "pipelines.report"], {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: results/profile/") and "make report" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not (empty / "reports").exists()


def test_where_nothing_is_measured_the_report_stays(empty: Path, available: Callable[[], Ended]) -> None:
    (empty / "reports/figures").mkdir(parents=True)
    kept = [empty / "reports/README.md", empty / "reports/figures/potsdam.png"]
    for path in kept:
        path.write_text("of an earlier run")
    ended = available()
    assert ended.returncode == 1 and len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("error: results has neither scores nor profile")
    assert [path.read_text() for path in kept] == ["of an earlier run"] * 2
    assert not (empty / "results").exists()


def test_available_builds_from_what_is_there(empty: Path, available: Callable[[], Ended]) -> None:
    invented.put(empty / "results", invented.metrics("potsdam", "scpseg", 0))
    ended = available()
    assert ended.returncode == 0, ended.stderr
    assert "15 of 16 declared runs have no current result" in (empty / "reports/README.md").read_text(encoding="utf-8")
    assert (empty / "results/summary.csv").is_file() and (empty / "results/summary.json").is_file()
    first, second, last = ended.stdout.splitlines()
    assert first.startswith("missing: 15 of 16 runs without a result: 15 × no metrics")
    assert second.startswith("missing: 16 of 16 profiles without a result: 16 × no profile")
    assert last.startswith("report: ")


def test_memory_of_other_parameters_is_not_shown(
    empty: Path, available: Callable[[], Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    invented.put(empty / "results", invented.metrics("potsdam", "scpseg", 0))
    record = {
        "benchmark": "potsdam",
        "method": "scpseg",
        "workload": "inference",
        "status": "ok",
        "backend": "computed",
    }
    (empty / "results/memory.json").write_text(json.dumps([record | {"memory": {"computed": 77 * 2**20}}]))
    shown = []
    for found in ({}, {MEMORY: ("stale", "csm.ratio was 0.75, is 0.5")}):
        monkeypatch.setattr(report, "states", lambda suite, found=found: found)
        assert available().returncode == 0
        shown.append((empty / "reports/README.md").read_text(encoding="utf-8"))
    assert ["| 77.0 |" in text for text in shown] == [True, False]
    assert "memory not computed: csm.ratio was 0.75, is 0.5" in shown[1]


def test_the_workspace_is_compared_only_with_its_own_parameters(
    empty: Path, available: Callable[[], Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    invented.put(empty / "results", invented.metrics("potsdam", "scpseg", 0))
    available()
    assert report.side(report.WORKSPACE).summary["potsdam"]["scpseg"]["miou"]
    stale = {("potsdam", "scpseg", 0): ("stale", "csm.ratio was 0.5, is 0.75")}
    monkeypatch.setattr(report, "states", lambda suite: stale)
    with pytest.raises(UserError, match=r"potsdam scpseg seed 0 .* stale \(csm\.ratio was 0\.5.*make report"):
        report.side(report.WORKSPACE)


def test_report_reads_where_the_stages_write(empty: Path, available: Callable[[], Ended]) -> None:
    path = empty / paths.profile("deepglobe", "scpseg")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert f"{paths.profile('deepglobe', 'scpseg')} is not valid JSON" in available().stderr
    path.unlink()
    path = empty / paths.scores("deepglobe", "scpseg", 0) / "metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert f"{paths.scores('deepglobe', 'scpseg', 0)}/metrics.json is not valid" in available().stderr
