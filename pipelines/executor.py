"""Run DVC experiments, one or several at a time, on this machine or on a cluster.

Each experiment runs in a clone of this repository, with the cache and the checkpoints of this repository, and is pushed
here when it is finished. A killed run thus blocks no other one and leaves nothing but its folder. DVC's task queue is
not used: if its worker is killed, the experiment continues alone, a new worker starts the next one at the same time,
and the result of the first one is lost while it stays listed as running.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import submitit
from filelock import FileLock, Timeout

from pipelines import paths
from pipelines.experiments import arguments, finished, summary_of
from scpseg.errors import UserError
from scpseg.files import locked, sha256, write_text
from scpseg.params import MachineParams
from scpseg.processes import end_tree, end_with_parent, git

SCRATCH = Path(".scratch/sweeps")
"""Folder of the locks, the clones, and the logs."""
GRACE = 60.0
"""Seconds that an interrupted run gets to save its checkpoint."""
PLAIN = ("--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/")
"""Options of `git diff` for `git apply`."""
POLL = 0.5
"""Seconds between two checks of the runs."""
STATUS_INTERVAL = 600.0
"""Seconds between two lines about the jobs in Slurm's queue; those that Slurm does not know are 'unknown'."""
PREEMPTED = 120.0
"""Seconds that a run on a cluster waits, after its process was killed, for the signal to requeue."""


@dataclass(frozen=True)
class Task:
    """One experiment. Called in the process that runs it, it returns None or the reason of its failure.

    Attributes:
        root: the repository.
        commit: what it runs, with the uncommitted changes in the file `changes`, see `snapshot`.
        name: of the experiment; its last part is its identity.
        settings: `section.key=value` that differ from params.yaml.
        target: a stage whose outputs are made for the cache, with the stages before it; no experiment is saved.
        gpus: value of CUDA_VISIBLE_DEVICES; '' = as it is.
    """

    root: Path
    commit: str
    changes: Path
    name: str
    settings: tuple[str, ...] = ()
    target: str = ""
    gpus: str = ""

    @property
    def log(self) -> Path:
        """Output of DVC and of the stages."""
        return self.root / SCRATCH / f"{self.name}.log"

    def __call__(self) -> str | None:
        """Run the experiment, unless another process has finished it; a process that runs it is waited for."""
        os.chdir(self.root)
        with locked(SCRATCH / f"{self.name}.lock", f"running {self.name}"):
            _, revision = finished().get(self.name.rpartition("-")[2], ("", ""))
            if not self.target and revision and summary_of(revision) is not None:
                return None
            clone = SCRATCH / "clones" / self.name
            try:
                self._clone(clone)
                stage = [self.target] if self.target else []
                code = self._dvc(clone, "w", [*arguments(self.settings), "--name", self.name, *stage])
                if code == 0 and not self.target:
                    code = self._dvc(clone, "a", ["exp", "push", "--no-cache", "--force", "origin", self.name])
            finally:
                shutil.rmtree(clone, ignore_errors=True)
        return None if code == 0 else why(self.log.read_text(encoding="utf-8", errors="replace"), code)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What submitit queues again after preemption or a time limit; the training has saved its state."""
        return submitit.helpers.DelayedSubmission(self)

    def _clone(self, clone: Path) -> None:
        """A clone at the commit with the changes, and with the cache and the user of the repository."""
        from dvc.repo import Repo

        shutil.rmtree(clone, ignore_errors=True)
        clone.parent.mkdir(parents=True, exist_ok=True)
        git("clone", "--quiet", "--shared", "--no-checkout", "--origin=origin", str(self.root), str(clone))
        git("-C", str(clone), "checkout", "--quiet", "--detach", self.commit)
        if self.changes.stat().st_size:
            git("-C", str(clone), "apply", "--whitespace=nowarn", str(self.changes))
        for key in ("user.name", "user.email"):
            git("-C", str(clone), "config", key, git("config", "--default", "sweep", key).strip())
        if (own := Path(".dvc/config.local")).is_file():
            shutil.copyfile(own, clone / own)
        with Repo(".") as repo:
            cache = repo.cache.local_cache_dir
        with Repo(str(clone)) as repo, repo.config.edit("local") as config:
            config.setdefault("cache", {})["dir"] = cache

    def _dvc(self, clone: Path, mode: str, words: list[str]) -> int:
        """Run `dvc` in the clone and return its exit status; its processes end with this one."""
        # Stages use this interpreter as `python`, whether or not the environment is active; checkpoints, and files that
        # params.yaml names, are in the repository itself.
        own = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
        own |= {"SCPSEG_ROOT": str(self.root)} | ({"CUDA_VISIBLE_DEVICES": self.gpus} if self.gpus else {})
        with self.log.open(mode, encoding="utf-8") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "dvc", *words],
                cwd=clone,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=os.environ | own,
                preexec_fn=_prepare,
            )
            try:
                code = process.wait()
                if code < 0 and os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
                    # Slurm ends all processes of a preempted job, and then sends submitit its own signal.
                    time.sleep(PREEMPTED)
            finally:
                end_tree(process, GRACE)
        return code


def _prepare() -> None:
    """In the new process: end with the worker, and ignore the signal by which Slurm speaks to submitit."""
    end_with_parent()
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def snapshot() -> tuple[Path, str, Path]:
    """The repository now, which later changes do not affect: folder, commit, and a file of uncommitted changes.

    Raises:
        UserError: a folder of code has a file that git does not know, which a clone would lack.
    """
    # DVC hashes whole folders: one more file makes another result.
    unknown = git("ls-files", "--others", "--exclude-from=.dvcignore", "--", *paths.CODE).splitlines()
    if unknown:
        raise UserError(f"{unknown[0]} is not in git, so the clones of runs would lack it: `git add` or delete it")
    SCRATCH.mkdir(parents=True, exist_ok=True)
    new = SCRATCH / "changes"
    # Written by git, because files need not be text; the user's settings of `git diff` are for people.
    git("diff", "--binary", *PLAIN, f"--output={new}", "HEAD")
    path = new.replace(SCRATCH / f"{sha256(new)[:12]}.patch")
    return Path.cwd(), git("rev-parse", "HEAD").strip(), path.resolve()


@dataclass(frozen=True)
class Resources:
    """What runs use, `workers` at a time: GPUs of this machine, or Slurm with these parameters of sbatch."""

    workers: int = 1
    gpus: tuple[str, ...] = ()
    slurm: Mapping[str, Any] | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `resources_of` reads."""
    parser.add_argument("--on", default="local", choices=("local", "slurm"), help="this machine (default) or a cluster")
    parser.add_argument("--workers", type=int, metavar="N", help="runs at the same time (default 1; slurm: 256)")
    parser.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE,...", help="parameters of sbatch")


def resources_of(given: argparse.Namespace, machine: MachineParams) -> Resources:
    """The resources that the command line and `machine` ask for.

    Raises:
        UserError: an option is not valid, or there are too few GPUs.
    """
    if given.workers is not None and given.workers < 1:
        raise UserError(f"--workers {given.workers}: it must be 1 or more")
    slurm: dict[str, Any] = {}
    for word in ",".join(given.slurm).split(",") if given.slurm else ():
        key, _, value = word.partition("=")
        if given.on != "slurm":
            raise UserError(f"--slurm {word} needs --on slurm")
        if not key or not value or (key == "time" and not value.isdecimal()):
            raise UserError(f"--slurm {word}: write partition=gpu,gres=gpu:1,time=240, with the time in minutes")
        slurm[key] = int(value) if str(value).isdecimal() and str(int(value)) == value else value
    workers = given.workers or (1 if given.on == "local" else 256)
    if given.on == "slurm":
        if "time" not in slurm:
            raise UserError("--on slurm needs the time limit of a job in minutes, such as --slurm time=240")
        resources = Resources(workers, slurm=slurm)
        _slurm(resources)  # before anything long starts
        return resources
    import torch

    from scpseg.environment import choose_device

    if choose_device(machine.device).type == "cpu":
        cores = os.cpu_count() or 1
        if workers > 1 and (machine.threads or cores) * workers > cores:
            print(
                f"{workers} runs with machine.threads {machine.threads} (0: one per core) compete for {cores} cores; "
                f"set machine.threads to {max(1, cores // workers)}",
                flush=True,
            )
        return Resources(workers)
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = list(map(str, range(torch.cuda.device_count()))) if named is None else [n for n in named.split(",") if n]
    each = machine.devices
    if len(visible) < workers * each:
        raise UserError(
            f"--workers {workers} with machine.devices {each} needs {workers * each} GPUs, but {len(visible)} are "
            "visible: a profile must not be measured beside another run on its GPU; lower --workers"
        )
    gpus = tuple(",".join(visible[worker * each : (worker + 1) * each]) for worker in range(workers))
    return Resources(workers, gpus)


def prepare(task: Task, benchmark: str) -> None:
    """Prepare the images for the cache, with the settings of a task: else runs that start together would each do it.

    Raises:
        UserError: it failed.
    """
    first = replace(task, name=f"data-{benchmark}", target=f"prepare@{benchmark}")
    print(f"preparing {benchmark}: log {first.log}", flush=True)
    for _, reason in run_here([first], Resources()):
        if reason:
            raise UserError(f"the images of {benchmark} could not be prepared: {reason}")


@contextmanager
def turn() -> Iterator[None]:
    """Hold the lock of sweeps in this repository, waiting for others; remove clones of runs that were killed."""
    with locked(SCRATCH / "lock", "running a sweep here"):
        for clone in (SCRATCH / "clones").glob("*"):
            lock = FileLock(SCRATCH / f"{clone.name}.lock")
            try:
                with lock.acquire(blocking=False):
                    shutil.rmtree(clone, ignore_errors=True)
            except Timeout:
                continue  # a run that the end of its sweep has not ended
        yield


Outcomes = Generator[tuple[Task, str | None], None, None]
"""Each task with None or the reason of its failure, as soon as it ends."""


def run(tasks: Sequence[Task], resources: Resources) -> Outcomes:
    """Run every task once."""
    return run_here(tasks, resources) if resources.slurm is None else run_on_slurm(tasks, resources)


def run_here(tasks: Sequence[Task], resources: Resources) -> Outcomes:
    """Run the tasks on this machine. Ctrl-C or SIGTERM ends the runs, which save their state."""
    executor = submitit.LocalExecutor(SCRATCH / "jobs")
    executor.update_parameters(timeout_min=10**6)
    waiting, running = list(tasks), dict[int, tuple[Task, submitit.Job[str | None]]]()
    # SIGINT too: where a shell script started this in the background, runs would inherit that it is ignored.
    ends = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.default_int_handler) for number in ends}
    try:
        while waiting or running:
            for worker in range(resources.workers):
                if waiting and worker not in running:
                    task = replace(waiting.pop(0), gpus=resources.gpus[worker] if resources.gpus else "")
                    running[worker] = task, _submit(executor, task)
            for worker, (task, job) in list(running.items()):
                if job.done():
                    del running[worker]
                    yield task, _outcome(job)
            time.sleep(POLL)
    finally:
        for _, job in running.values():
            job.cancel()
        while not all(job.done() for _, job in running.values()):
            time.sleep(POLL)
        for number, handler in before.items():
            signal.signal(number, handler)


def _submit(executor: submitit.LocalExecutor, task: Task) -> submitit.Job[str | None]:
    """Submit a task; the process that submitit starts for it prints nothing here, as it would after Ctrl-C."""
    own = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            return executor.submit(task)
        finally:
            os.dup2(own, 2)
            os.close(own)


def _slurm(resources: Resources) -> submitit.SlurmExecutor:
    """Submits jobs with these resources; UserError if Slurm is not installed, or a parameter of sbatch is not valid."""
    fixed = {"nodes": 1, "ntasks_per_node": 1, "array_parallelism": resources.workers}
    try:
        executor = submitit.SlurmExecutor((SCRATCH / "jobs").resolve(), max_num_timeout=1000)
        executor.update_parameters(**{"job_name": "scpseg", **(resources.slurm or {}), **fixed})
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"--on slurm: {' '.join(str(error).split())}") from None
    return executor


def run_on_slurm(tasks: Sequence[Task], resources: Resources) -> Outcomes:
    """Run the tasks as an array of jobs on a cluster that shares this folder.

    If this process ends, the jobs continue; the next one waits for them instead of submitting them again.

    Raises:
        UserError: Slurm is not installed, or sbatch refuses the jobs.
    """
    executor = _slurm(resources)
    files = {task.name: SCRATCH / f"{task.name}.job" for task in tasks}
    new = [task for task in tasks if not files[task.name].is_file()]
    if new:
        try:
            with executor.batch():
                submitted = [executor.submit(task) for task in new]
        except submitit.core.utils.FailedJobError as error:
            raise UserError(f"sbatch refused the jobs: {' '.join(str(error).split())}") from None
        for task, job in zip(new, submitted, strict=True):
            write_text(files[task.name], job.job_id)
    left = {
        task: submitit.SlurmJob[str | None](executor.folder, files[task.name].read_text(encoding="utf-8"))
        for task in tasks
    }
    reported = time.monotonic()
    try:
        while left:
            for task in [task for task, job in left.items() if job.done()]:
                files[task.name].unlink()
                yield task, _outcome(left.pop(task))
            if time.monotonic() - reported > STATUS_INTERVAL:
                reported = time.monotonic()
                states = Counter(job.state.lower() for job in left.values())
                print(f"Slurm: {', '.join(f'{count} {state}' for state, count in states.items())}", flush=True)
                if "unknown" in states:  # submitit asks sacct alone, and would wait for ever
                    todo = f"delete its .job file in {SCRATCH} and start again"
                    print(f"sacct does not know all of them; if `squeue` does not list one either, {todo}", flush=True)
            time.sleep(POLL)
    finally:
        if left:
            print(f"{len(left)} jobs stay in Slurm's queue: start again to wait for them, or use scancel", flush=True)


def _outcome(job: submitit.Job[str | None]) -> str | None:
    """What a run returned, or how it ended without returning."""
    try:
        return job.result()
    except Exception as error:  # whatever the run raised, which submitit gives as text
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"its process ended ({job.state.lower()}: {lines[-1] if lines else type(error).__name__})"


def why(log: str, code: int) -> str:
    """The reason in the log of a failed run: the stage's own error, else its last exception, else DVC's error."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for pattern in (r"error: (.+)", r"((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*)", r"ERROR: (.+)"):
        found = [match[1] for line in lines if (match := re.fullmatch(pattern, line))]
        if found:
            return str(found[-1])
    return f"dvc ended with exit status {code} without a message" if code > 0 else f"dvc was killed by signal {-code}"
