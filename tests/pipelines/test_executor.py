"""Runs of experiments, on a project whose only stage takes a moment."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from pipelines import executor
from pipelines.executor import Resources, Task, resources_of, turn, why
from pipelines.experiments import finished, summary_of
from scpseg.errors import UserError
from scpseg.params import MachineParams

ROOT = Path(__file__).parents[2]
DRIVER = """
import json, sys
from pipelines import executor, experiments
with executor.turn():
    state, done = executor.snapshot(), experiments.finished()
    runs = [(name, tuple(settings)) for name, settings in json.loads(sys.argv[1])]
    tasks = [executor.Task(*state, *run) for run in runs if run[0].rpartition("-")[2] not in done]
    for task, reason in executor.run_here(tasks, executor.Resources(int(sys.argv[2]))):
        print(task.name, reason, flush=True)
"""


def started() -> list[str]:
    path = Path(".scratch/started")
    return path.read_text().split() if path.exists() else []


def drive(*runs: tuple[str, list[str]], workers: int = 1) -> subprocess.Popen[str]:
    """Start the driver with SIGINT ignored, as a shell script starts a command in the background."""
    command = [sys.executable, "-c", DRIVER, json.dumps(runs), str(workers)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )


def wait_for_start(value: str) -> None:
    deadline = time.monotonic() + 300
    while value not in started():
        assert time.monotonic() < deadline, started()
        time.sleep(0.05)


def one(name: str, *settings: str) -> str | None:
    """Run one experiment in this process."""
    return Task(*executor.snapshot(), name, settings)()


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run after a while. An ended one remains a zombie where no init process collects it."""
    _, alive = psutil.wait_procs([one for one in processes if not ended(one)], 60)
    return [process for process in alive if not ended(process)]


def ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def clones() -> list[Path]:
    return list(Path(".scratch/sweeps/clones").glob("*"))


def test_uncommitted_changes_of_any_kind_take_part_whatever_git_is_told(project: Path) -> None:
    Path("odd name.txt").write_bytes(b"one\r\ntwo\r\n")
    Path("latin.txt").write_bytes(b"cafe\n")
    Path("image.bin").write_bytes(bytes(range(256)))
    for command in ("add -A", "commit -qm more", "config diff.noprefix true", "config color.ui always"):
        subprocess.run(["git", *command.split()], check=True)
    for key, value in (("diff.external", "/bin/false"), ("clone.defaultRemoteName", "upstream")):
        subprocess.run(["git", "config", key, value], check=True)
    Path("odd name.txt").write_bytes(b"one\r\nthree\r\n")
    Path("latin.txt").write_bytes(b"caf\xe9\n")
    Path("image.bin").write_bytes(bytes(reversed(range(256))))
    Path("a.py").unlink()
    clone = project / "clone"
    Task(*executor.snapshot(), "mine-00000001")._clone(clone)
    for name in ("odd name.txt", "latin.txt", "image.bin", "params.yaml"):
        assert (clone / name).read_bytes() == Path(name).read_bytes(), name
    assert not (clone / "a.py").exists()
    remotes = subprocess.run(["git", "-C", str(clone), "remote"], capture_output=True, text=True, check=True)
    assert remotes.stdout == "origin\n"


def test_results_come_back_by_identity_and_the_working_tree_stays(project: Path) -> None:
    Path("params.yaml").write_text("a:\n  x: 5\n  slow: 0\n")  # not committed: takes part all the same
    assert one("mine-00000001", "a.slow=0.01") is None
    assert one("mine-00000002", "a.x=-1") == "a.x is negative; set it above 0."
    found = finished()
    assert {key: name for key, (name, _) in found.items()} == {"00000001": "mine-00000001"}
    assert summary_of(found["00000001"][1]) == [{"method": "scpseg", "x": "5", "empty": None}]
    assert Path("params.yaml").read_text() == "a:\n  x: 5\n  slow: 0\n" and not Path("results").exists()
    assert one("mine-00000001", "a.slow=0.01") is None and started() == ["5", "-1"]  # finished: not run again
    # Another name of the same run trains nothing: the cache is common.
    assert one("other-00000003", "a.slow=0.01") is None and started() == ["5", "-1"] and not clones()
    subprocess.run(["git", "commit", "-qam", "unrelated"], check=True)
    assert {"00000001", "00000003"} == set(finished())  # of an earlier commit
    for path in (project / ".dvc/cache/files").rglob("*"):
        if path.is_file():
            path.unlink()
    assert summary_of(found["00000001"][1]) is None  # to be run again
    assert one("mine-00000001", "a.slow=0.01") is None
    assert summary_of(finished()["00000001"][1]) is not None


def test_a_file_that_git_does_not_know_stops_before_a_run(project: Path) -> None:
    for name in ("scpseg/__pycache__/a.pyc", "notes.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    executor.snapshot()
    Path("scpseg/new.py").touch()
    with pytest.raises(UserError, match=r"scpseg/new\.py.*git add"):
        executor.snapshot()


@pytest.mark.soak
def test_two_workers_run_each_point_once_and_both_results_show(project: Path) -> None:
    runs = [(f"p-0000000{x}", [f"a.x={x}", "a.slow=1"]) for x in range(3)]
    output, errors = drive(*runs, workers=2).communicate(timeout=600)
    assert sorted(output.splitlines()) == [f"p-0000000{x} None" for x in range(3)], errors
    assert sorted(started()) == ["0", "1", "2"]
    found = finished()
    assert [summary_of(found[f"0000000{x}"][1])[0]["x"] for x in range(3)] == ["0", "1", "2"]  # type: ignore[index]


@pytest.mark.soak
def test_after_a_kill_the_last_run_ends_first_and_nothing_starts_twice(project: Path) -> None:
    runs = [("k-00000001", ["a.x=11", "a.slow=2"]), ("k-00000002", ["a.x=12"])]
    first = drive(*runs)
    wait_for_start("11")
    first.kill()
    first.wait()
    assert first.stdout is not None and first.stderr is not None
    first.stdout.close()  # its run, which has them too, goes on
    first.stderr.close()
    output, errors = drive(*runs).communicate(timeout=600)
    assert output.splitlines() == ["k-00000001 None", "k-00000002 None"], errors
    assert started() == ["11", "12"] and set(finished()) == {"00000001", "00000002"}


@pytest.mark.soak
def test_a_killed_run_leaves_no_process_and_blocks_nobody(project: Path) -> None:
    run = ("k-00000001", ["a.x=21", "a.slow=60"])
    first = drive(run)
    wait_for_start("21")
    below = psutil.Process(first.pid).children(recursive=True)
    worker = next(process for process in below if "submitit.core._submit" in process.cmdline())
    inside = worker.children(recursive=True)
    worker.kill()
    output, _ = first.communicate(timeout=300)
    assert "its process ended" in output
    assert inside and not running(inside) and clones()
    with turn():
        assert not clones() and finished() == {}


def test_an_interrupt_ends_the_run_and_frees_the_locks(project: Path) -> None:
    first = drive(("k-00000001", ["a.x=31", "a.slow=60"]))
    wait_for_start("31")
    below = psutil.Process(first.pid).children(recursive=True)
    first.terminate()
    first.communicate(timeout=300)
    assert first.returncode == -signal.SIGINT  # how an interrupt that nobody catches ends a process
    assert not running(below)
    with turn():
        assert finished() == {} and not clones()


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    executor.add_options(parser)
    return parser.parse_args(words)


def test_each_worker_has_its_own_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = MachineParams("cuda", False, False, 0, 0, devices=2)
    monkeypatch.setattr("scpseg.environment.choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4,5,6")
    assert resources_of(options("--workers", "2"), machine) == Resources(2, ("3,4", "5,6"))
    with pytest.raises(UserError, match=r"--workers 3 with machine\.devices 2 needs 6 GPUs, but 4 are visible"):
        resources_of(options("--workers", "3"), machine)


def test_runs_that_compete_for_cores_are_warned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for threads, workers, warned in ((0, 1, False), (0, 2, True), (4, 2, False), (4, 3, True), (1, 8, False)):
        machine = MachineParams("cpu", False, False, threads, 0)
        assert resources_of(options("--workers", str(workers)), machine) == Resources(workers)
        assert (f"set machine.threads to {max(1, 8 // workers)}\n" in capsys.readouterr().out) == warned


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


SBATCH = """#!{python}
import os, pathlib, re, shutil, subprocess, sys
script, folder = sys.argv[-1], pathlib.Path(os.environ["CLUSTER"])
shutil.copy(script, folder / "script.sh")
text = pathlib.Path(script).read_text()
last = int(re.search("--array=0-([0-9]+)", text)[1])
for index in range(last + 1):
    own = {{"SLURM_JOB_ID": str(100 + index), "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": str(index)}}
    own |= {{"SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}}
    subprocess.Popen(["bash", folder / "script.sh"], env=os.environ | own, start_new_session=True,
                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job 77")
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do [[ $1 == --unbuffered ]] || shift; shift; done
exec "$@" >> $CLUSTER/output 2>&1
"""
SCONTROL = """#!/bin/bash
echo "$@" >> $CLUSTER/asked
bash $CLUSTER/script.sh > /dev/null 2>&1 < /dev/null &
"""
SACCT = """#!/bin/bash
echo 'JobID|State|NodeList'
"""


@pytest.fixture
def cluster(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands of Slurm that run each job of an array at once, on this machine."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name, text in (
        ("sbatch", SBATCH.format(python=sys.executable)),
        ("srun", SRUN),
        ("scontrol", SCONTROL),
        ("sacct", SACCT),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CLUSTER", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


def workers_of(cluster: Path) -> list[psutil.Process]:
    """Processes of submitit on the pretended cluster, by the number of their job."""
    found = {}
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if environment.get("CLUSTER") == str(cluster) and "submitit.core._submit" in process.cmdline():
                found[environment["SLURM_JOB_ID"]] = process
        except (psutil.Error, KeyError):
            continue
    return [found[name] for name in sorted(found)]


@pytest.mark.soak
def test_slurm_gets_an_array_of_jobs_and_a_preempted_one_goes_on(cluster: Path) -> None:
    state = executor.snapshot()
    tasks = [Task(*state, f"s-0000000{x}", (f"a.x={x}", f"a.slow={slow}")) for x, slow in ((1, 0), (2, 8))]
    options = {"partition": "long", "gres": "gpu:1", "time": 240}
    with turn():
        done = executor.run_on_slurm(tasks, Resources(256, slurm=options))
        assert next(done) == (tasks[0], None)
        wait_for_start("2")
        assert [path.read_text() for path in Path(".scratch/sweeps").glob("*.job")] == ["77_1"]
        workers_of(cluster)[-1].send_signal(signal.SIGUSR2)  # what Slurm sends before a time limit or preemption
        assert list(done) == [(tasks[1], None)]
    assert (cluster / "asked").read_text() == "requeue 77_1\n"
    script = (cluster / "script.sh").read_text()
    for line in ("partition=long", "gres=gpu:1", "time=240", "nodes=1", "ntasks-per-node=1", "signal=USR2@90"):
        assert f"#SBATCH --{line}\n" in script
    assert "#SBATCH --array=0-1%" in script and "submitit.core._submit" in script
    found = finished()
    # On a busy machine, the stage may have ended before the signal; then it comes from the cache.
    assert sorted(started()) in (["1", "2"], ["1", "2", "2"]) and set(found) == {"00000001", "00000002"}
    assert not list(Path(".scratch/sweeps").glob("*.job")) and not clones()


@pytest.mark.soak
def test_a_sweep_that_starts_again_waits_for_jobs_in_the_queue(
    cluster: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(executor, "STATUS_INTERVAL", 0.0)
    tasks = [Task(*executor.snapshot(), f"q-0000000{x}", (f"a.x={x}", "a.slow=3")) for x in (1, 2)]
    first = executor.run_on_slurm(tasks, Resources(2, slurm={"time": 10}))
    assert next(first)[1] is None
    first.close()  # as when the sweep is ended
    left = [task for task in tasks if task.name[-8:] not in finished()]
    again = dict(executor.run_on_slurm(left, Resources(2, slurm={"time": 10})))
    assert set(again.values()) <= {None} and sorted(started()) == ["1", "2"] and len(finished()) == 2
    said = capsys.readouterr().out
    assert re.search(r"^Slurm: [12] \w+", said, re.MULTILINE)
    assert re.search(r"^sacct .*squeue.*\.job", said, re.MULTILINE)  # the pretended sacct knows no job


@pytest.mark.parametrize(
    ("parameters", "words"),
    [({"partitoin": "a"}, "partitoin"), ({"setup": "x"}, "list"), ({}, "srun")],
    ids=["unknown", "not a list", "no cluster"],
)
def test_what_slurm_cannot_take_is_a_sentence(
    parameters: dict[str, str],
    words: str,
    project: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if parameters:
        request.getfixturevalue("cluster")
    else:
        monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=f"--on slurm: .*{words}"):
        resources_of(options_of_slurm(parameters | {"time": "10"}), MachineParams("auto", False, False, 0, 0))
    assert not clones()


def options_of_slurm(parameters: dict[str, str]) -> argparse.Namespace:
    return options("--on", "slurm", "--slurm", ",".join(f"{key}={value}" for key, value in parameters.items()))


def test_what_sbatch_refuses_is_a_sentence_and_numbers_stay_as_they_are(cluster: Path) -> None:
    machine = MachineParams("auto", False, False, 0, 0)
    resources = resources_of(options_of_slurm({"time": "10", "account": "0123", "cpus_per_task": "4"}), machine)
    assert resources.slurm == {"time": 10, "account": "0123", "cpus_per_task": 4} and resources.workers == 256
    (cluster / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: nope' >&2\nexit 1\n")
    task = Task(*executor.snapshot(), "r-00000001")
    with pytest.raises(UserError, match=r"sbatch refused the jobs: .*invalid partition specified: nope"):
        next(executor.run_on_slurm([task], resources))
    assert not list(Path(".scratch/sweeps").glob("*.job"))
