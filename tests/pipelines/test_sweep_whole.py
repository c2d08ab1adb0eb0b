"""A real sweep through DVC, killed and started again."""

import contextlib
import csv
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import psutil
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


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "reports/sweeps/mine-potsdam/runs.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.soak
def test_a_killed_sweep_goes_on_with_what_is_missing(project: Path) -> None:
    before = Path("params.yaml").read_text()
    with (project / "output").open("w") as output:
        first = subprocess.Popen(SWEEP, start_new_session=True, stdout=output, stderr=output)
    log = project / ".scratch/sweeps"
    deadline = time.monotonic() + 600
    while not any("train-scpseg@potsdam-1" in path.read_text() for path in log.glob("mine-0.75-*.log")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    first.kill()  # its run goes on to the end; the next sweep waits for it
    first.wait()
    second = subprocess.run(SWEEP, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert "[2/2]" in second.stdout and "failed" not in second.stdout
    for path in log.glob("mine-*.log"):
        assert path.read_text().count("Running stage 'train-scpseg@potsdam-1'") == 1
    third = subprocess.run(SWEEP, capture_output=True, text=True, check=True)
    assert "log" not in third.stdout and "2 of 2 rows have a result" in third.stdout
    found = rows(project)
    assert [(row["x"], row["seed"]) for row in found] == [("0.75", "0"), ("0.75", "1"), ("1", "0"), ("1", "1")]
    assert [row["model:squeezed"] for row in found] == ["48", "48", "64", "64"]
    assert {row["split"] for row in found} == {"val"}
    assert Path("params.yaml").read_text() == before and not (project / "results/runs").exists()
    assert not list((log / "clones").glob("*"))


@pytest.mark.soak
def test_twenty_random_kills_of_a_sweep_with_two_workers_change_nothing(project: Path) -> None:
    """KILL, TERM and INT to any process of the sweep: the page is that of a sweep that nobody disturbed, but times."""
    sweep, random = [*SWEEP, "--workers", "2"], Random(0)
    subprocess.run(SWEEP, check=True)
    expected = rows(project)
    # The same again without its results: the cache would give them back.
    shutil.rmtree(project / ".dvc/cache")
    shutil.rmtree(project / "reports/sweeps")
    for ref in subprocess.run(
        ["git", "for-each-ref", "--format=%(refname)", "refs/exps"], capture_output=True, text=True, check=True
    ).stdout.split():
        subprocess.run(["git", "update-ref", "-d", ref], check=True)
    for _ in range(20):
        with (project / "output").open("a") as output:
            process = subprocess.Popen(sweep, stdout=output, stderr=output)
        time.sleep(random.uniform(1, 30))
        if process.poll() is None:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            with contextlib.suppress(psutil.NoSuchProcess):
                random.choice(family).send_signal(random.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(random.uniform(1, 20))
        process.terminate()
        process.wait()
    subprocess.run(sweep, check=True)
    fixed = (
        "status",
        "x",
        "series",
        "method",
        "seed",
        "mean_iou",
        "accuracy",
        "training:weights_hash",
        "model:squeezed",
    )
    for key in fixed:
        assert [row.get(key) for row in rows(project)] == [row.get(key) for row in expected], key
    assert not list((project / ".scratch/sweeps/clones").glob("*"))
