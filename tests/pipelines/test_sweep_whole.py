"""A real sweep through DVC, killed and started again."""

import csv
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SWEEP = (sys.executable, "-m", "pipelines.sweep", "mine", "-S", "csm.ratio=0.75,1", "--seeds", "0,1")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A commit of the files that git knows or would add, with the smallest parameters that pass every stage."""
    list_files = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(list_files, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("reports/") and name != "dvc.lock":
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / name)
    values = yaml.safe_load((tmp_path / "params.yaml").read_text())
    values["mirror"] |= {"side": 128, "train": 2, "val": 1, "test": 1}
    values["train"] |= {"iterations": 4, "log_every": 2}
    values["profile"] = {"side": 128, "repeats": 1}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCPSEG_CACHE", str(tmp_path / ".scratch/cache"))
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for command in ("init -q", "config user.name t", "config user.email t@example.org", "add -A", "commit -qm t"):
        subprocess.run(["git", *command.split()], check=True)
    return tmp_path


@pytest.mark.soak
def test_a_killed_sweep_goes_on_with_what_is_missing(project: Path) -> None:
    before = Path("params.yaml").read_text()
    first = subprocess.Popen(SWEEP, start_new_session=True)
    log = project / ".scratch/sweeps"
    deadline = time.monotonic() + 600
    while not any("train-scpseg@potsdam-1" in path.read_text() for path in log.glob("mine-0.75-*.log")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    first.kill()  # its run goes on to the end; the next sweep waits for it
    first.wait()
    second = subprocess.run(SWEEP, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert "waiting for another sweep" in second.stderr and "[1/1]" in second.stdout
    third = subprocess.run(SWEEP, capture_output=True, text=True, check=True)
    assert "running" not in third.stdout and "2 of 2 rows have a result" in third.stdout
    with (project / "reports/sweeps/mine/runs.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["x"], row["seed"]) for row in rows] == [("0.75", "0"), ("0.75", "1"), ("1", "0"), ("1", "1")]
    assert [row["model:squeezed"] for row in rows] == ["48", "48", "64", "64"] and {row["split"] for row in rows} == {
        "val"
    }
    assert Path("params.yaml").read_text() == before and not (project / "results/runs").exists()
    assert not list((project / ".dvc/tmp/exps/standalone").glob("tmp*"))
