from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import paths
from tests.scpseg.reporting import conftest as invented

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def report(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.report", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_missing_runs_end_in_one_sentence_and_status_1(empty: Path) -> None:
    ended = report(empty)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: results/profile/") and "make report" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not (empty / "reports").exists()


def test_where_nothing_is_measured_the_report_stays(empty: Path) -> None:
    (empty / "reports/figures").mkdir(parents=True)
    kept = [empty / "reports/README.md", empty / "reports/figures/potsdam.png"]
    for path in kept:
        path.write_text("of an earlier run")
    ended = report(empty, "--available")
    assert ended.returncode == 1 and len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("error: results has neither scores nor profile")
    assert [path.read_text() for path in kept] == ["of an earlier run"] * 2
    assert not (empty / "results").exists()


def test_available_builds_from_what_is_there(empty: Path) -> None:
    invented.put(empty / "results", invented.metrics("potsdam", "scpseg", 0))
    ended = report(empty, "--available")
    assert ended.returncode == 0, ended.stderr
    assert "15 of 16 declared runs have no current result" in (empty / "reports/README.md").read_text(encoding="utf-8")
    assert (empty / "results/summary.csv").is_file() and (empty / "results/summary.json").is_file()
    first, second, last = ended.stdout.splitlines()
    assert first.startswith("missing: 15 of 16 runs without a result: 15 × no metrics")
    assert second.startswith("missing: 16 of 16 profiles without a result: 16 × no profile")
    assert last.startswith("report: ")


def test_report_reads_where_the_stages_write(empty: Path) -> None:
    path = empty / paths.profile("deepglobe", "scpseg")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert f"{paths.profile('deepglobe', 'scpseg')} is not valid JSON" in report(empty, "--available").stderr
    path.unlink()
    path = empty / paths.scores("deepglobe", "scpseg", 0) / "metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert f"{paths.scores('deepglobe', 'scpseg', 0)}/metrics.json is not valid" in report(empty, "--available").stderr
