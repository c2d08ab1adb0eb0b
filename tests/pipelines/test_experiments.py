"""DVC experiments one after another, on a project whose only stage takes a moment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipelines import experiments
from pipelines.experiments import finished, identity, settings_for, summary_of, turn, why

ROOT = Path(__file__).parents[2]
STAGE = """
import os, pathlib, time, yaml
params = yaml.safe_load(open("params.yaml"))["a"]
with open(os.path.join(os.environ["DVC_ROOT"], ".scratch/started"), "a") as log:
    log.write(f"{params['x']}\\n")
if params["x"] < 0:
    raise SystemExit("error: a.x is negative; set it above 0.")
time.sleep(params["slow"])
pathlib.Path("results/summary.csv").write_text(f"method,x,empty\\nscpseg,{params['x']},\\n")
"""
DVC = {
    "stages": {
        "a": {"cmd": "python a.py", "deps": ["a.py"], "params": ["a"], "outs": ["results/summary.csv"]},
        "report": {"cmd": "true", "deps": ["page.py"]},
    }
}
DRIVER = """
import json, sys
from pipelines import experiments
with experiments.turn() as lock:
    for name, settings in json.loads(sys.argv[1]):
        if name.rpartition("-")[2] not in experiments.finished():
            print(name, experiments.run(name, settings, lock), flush=True)
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    (folder / ".dvc").mkdir()
    files = {
        "a.py": STAGE,
        "page.py": "",
        "dvc.yaml": yaml.safe_dump(DVC),
        "params.yaml": yaml.safe_dump({"a": {"x": 1, "slow": 0}}),
        ".gitignore": "/results\n/.scratch\n",
        ".dvc/config": "[core]\n    analytics = false\n",
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    for command in ("init -q", "config user.name t", "config user.email t@example.org", "add -A", "commit -qm t"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True)
    return folder


@pytest.fixture
def project(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(template, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path / "project"


def started() -> list[str]:
    path = Path(".scratch/started")
    return path.read_text().split() if path.exists() else []


def drive(*runs: tuple[str, list[str]]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DRIVER, json.dumps(runs)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_start(value: str) -> None:
    deadline = time.monotonic() + 60
    while value not in started():
        assert time.monotonic() < deadline, started()
        time.sleep(0.05)


def test_results_come_back_by_identity_and_the_working_tree_stays(project: Path) -> None:
    Path("params.yaml").write_text("a:\n  x: 5\n  slow: 0\n")  # not committed: takes part all the same
    with turn() as lock:
        assert experiments.run("mine-00000001", ["a.slow=0.01"], lock) is None
        assert experiments.run("mine-00000002", ["a.x=-1"], lock) == "a.x is negative; set it above 0."
    found = finished()
    assert {key: name for key, (name, _) in found.items()} == {"00000001": "mine-00000001"}
    assert summary_of(found["00000001"][1]) == [{"method": "scpseg", "x": "5", "empty": None}]
    assert Path("params.yaml").read_text() == "a:\n  x: 5\n  slow: 0\n" and not Path("results").exists()
    subprocess.run(["git", "commit", "-qam", "unrelated"], check=True)
    assert set(finished()) == set(found)  # of an earlier commit
    for path in (project / ".dvc/cache/files").rglob("*"):
        if path.is_file():
            path.unlink()
    assert summary_of(found["00000001"][1]) is None  # to be run again


def test_after_a_kill_the_last_run_ends_first_and_nothing_starts_twice(project: Path) -> None:
    runs = [("k-00000001", ["a.x=11", "a.slow=2"]), ("k-00000002", ["a.x=12"])]
    first = drive(*runs)
    wait_for_start("11")
    first.kill()
    first.communicate()
    output, errors = drive(*runs).communicate(timeout=60)
    assert output.split() == ["k-00000002", "None"], errors
    assert "waiting for another sweep" in errors
    assert started() == ["11", "12"] and set(finished()) == {"00000001", "00000002"}


def test_what_a_killed_dvc_leaves_behind_is_cleared_away(project: Path) -> None:
    run = ("k-00000001", ["a.x=21", "a.slow=60"])
    first = drive(run)
    wait_for_start("21")
    first.kill()
    first.communicate()
    here = [process for process in experiments.psutil.process_iter() if _below(process, project)]
    dvc = [process for process in here if "dvc" in " ".join(process.cmdline())]
    stage = [process for process in here if process not in dvc]
    for process in dvc:
        process.kill()
    assert stage and all(process.is_running() for process in stage)
    with turn():
        _, alive = experiments.psutil.wait_procs(stage, 5)
        assert not alive and not list(Path(".dvc/tmp/exps/standalone").glob("tmp*"))


def _below(process: experiments.psutil.Process, folder: Path) -> bool:
    try:
        return Path(process.cwd()).is_relative_to(folder / ".dvc/tmp")
    except experiments.psutil.Error:
        return False


def test_an_interrupt_ends_the_run_and_frees_the_lock(project: Path) -> None:
    first = drive(("k-00000001", ["a.x=31", "a.slow=60"]))
    wait_for_start("31")
    first.terminate()
    first.communicate(timeout=30)
    assert first.returncode == -signal.SIGINT  # how an interrupt that nobody catches ends a process
    with turn():
        assert finished() == {} and not list(Path(".dvc/tmp/exps/standalone").glob("tmp*"))


def test_identity_follows_parameters_and_the_code_of_the_runs(project: Path) -> None:
    values = {"a": {"x": 1, "slow": 0}}
    (project / "scpseg/reporting").mkdir(parents=True)
    (project / "scpseg/reporting/collect.py").write_text("")
    before = identity(values, ("scpseg",), "potsdam", "a CPU")
    Path("page.py").write_text("# of the report, which decides no number\n")
    Path("README.md").write_text("# of nothing\n")
    assert identity(values, ("scpseg",), "potsdam", "a CPU") == before
    assert identity({"a": {"x": 2, "slow": 0}}, ("scpseg",), "potsdam", "a CPU") != before
    assert identity(values, ("scpseg",), "potsdam", "another CPU") != before
    Path("a.py").write_text(STAGE + "# edited\n")
    edited = identity(values, ("scpseg",), "potsdam", "a CPU")
    assert edited != before
    lock = {"stages": {"download@potsdam": {"outs": [{"path": "data/manifests/potsdam.json", "md5": "0"}]}}}
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    assert identity(values, ("scpseg",), "potsdam", "a CPU") != edited
    assert identity(values, ("scpseg",), "inria", "a CPU") == edited


@pytest.mark.parametrize(("asked", "used"), [(0, 1), (2, 2)])
def test_hardware_is_what_a_run_would_have(asked: int, used: int) -> None:
    """In a process of its own, since torch reads the variable once."""
    code = (
        "from pipelines.experiments import hardware; from scpseg.params import MachineParams\n"
        f"print(hardware(MachineParams('cpu', deterministic=False, tf32=False, threads={asked}, workers=0)))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str({"machine.device": "cpu", "machine.threads": used})


def test_settings_make_the_same_run_from_the_commit_and_from_the_tree(project: Path) -> None:
    current = {"a": {"x": 5, "slow": 0}}
    assert settings_for({"a": {"x": 5, "slow": 0}}, current) == ["a.x=5"]
    assert settings_for({"a": {"x": 1, "slow": 0}}, current) == ["a.x=1"]  # committed, but not at hand
    assert settings_for({"a": {"x": 1, "slow": 0}}, {"a": {"x": 1, "slow": 0}}) == []
    texts = {"a": {"x": ["potsdam", 3], "slow": "tu-test_resnet.r160_in1k"}}
    assert settings_for(texts, current) == ["a.x=[potsdam,3]", "a.slow=tu-test_resnet.r160_in1k"]
    assert settings_for({"a": {"x": "1", "slow": True}}, current) == ["a.x='1'", "a.slow=true"]


@pytest.mark.parametrize(
    ("log", "code", "reason"),
    [
        ("> python a.py\nerror: too small; take 2.\nERROR: failed to reproduce 'a'", 255, "too small; take 2."),
        ("Traceback\n  File x\ntorch.OutOfMemoryError: CUDA\nERROR: failed", 255, "torch.OutOfMemoryError: CUDA"),
        (
            "step 3\nERROR: failed to run: python a.py, exited with -9",
            255,
            "failed to run: python a.py, exited with -9",
        ),
        ("", -9, "dvc was killed by signal 9"),
    ],
)
def test_the_sentence_that_says_why(log: str, code: int, reason: str) -> None:
    assert why(log, code) == reason
