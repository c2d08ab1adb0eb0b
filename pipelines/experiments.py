"""Run DVC experiments, one or several at a time, and recognise them later by everything that their result depends on.

Each experiment runs in a clone of this repository, with the cache and the checkpoints of this repository, and is pushed
here when it is finished. A killed run thus blocks no other one and leaves nothing but its folder. DVC's task queue is
not used: if its worker is killed, the experiment continues alone, a new worker starts the next one at the same time,
and the result of the first one is lost while it stays listed as running.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import submitit
import yaml
from filelock import FileLock, Timeout

from scpseg.errors import UserError
from scpseg.files import locked, write_text
from scpseg.params import MachineParams
from scpseg.processes import end_tree, end_with_parent
from scpseg.validation import parse_yaml

SCRATCH = Path(".scratch/sweeps")
"""Folder of the locks, the clones, and the logs."""
NUMBERLESS = ("check", "report")
"""Stages that do not affect the numbers of a run; of the report, only the code for results/summary.csv counts."""
GRACE = 60.0
"""Seconds that an interrupted run gets to save its checkpoint."""
POLL = 0.5  # seconds between two looks at the runs
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
            if not self.target and self.name.rpartition("-")[2] in finished():
                return None
            clone = SCRATCH / "clones" / self.name
            try:
                self._clone(clone)
                stage = [self.target] if self.target else []
                code = self._dvc(clone, "w", [*arguments(self.settings), "--name", self.name, *stage])
                if code == 0 and not self.target:
                    code = self._dvc(clone, "a", ["exp", "push", "--no-cache", "origin", self.name])
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
        _git("clone", "--quiet", "--shared", "--no-checkout", str(self.root), str(clone))
        _git("-C", str(clone), "checkout", "--quiet", "--detach", self.commit)
        if self.changes.stat().st_size:
            _git("-C", str(clone), "apply", "--whitespace=nowarn", str(self.changes))
        for key in ("user.name", "user.email"):
            _git("-C", str(clone), "config", key, _git("config", "--default", "sweep", key).strip())
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


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"git {words[0]} failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return done.stdout


def snapshot() -> tuple[Path, str, Path]:
    """The repository now, which later changes do not affect: folder, commit, and a file of uncommitted changes."""
    changes = _git("diff", "--binary", "HEAD")
    path = SCRATCH / f"{hashlib.sha256(changes.encode()).hexdigest()[:12]}.patch"
    write_text(path, changes)
    return Path.cwd(), _git("rev-parse", "HEAD").strip(), path.resolve()


def hardware(machine: MachineParams) -> dict[str, Any]:
    """`machine.device` and `machine.threads` as a run on this machine uses them, without defaults of the library.

    Results depend on them, and DVC knows the parameters only: with `threads: 0` it would restore results that were
    measured under another OMP_NUM_THREADS. On a GPU, threads do not matter.

    Raises:
        UserError: the device is not available.
    """
    import torch

    from scpseg.environment import choose_device

    device = choose_device(machine.device).type
    threads = machine.threads or (torch.get_num_threads() if device == "cpu" else 0)
    return {"machine.device": device, "machine.threads": threads}


def visible_gpus() -> list[str]:
    """GPUs as in CUDA_VISIBLE_DEVICES: those named there, or the numbers of all."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return list(map(str, range(torch.cuda.device_count()))) if named is None else [n for n in named.split(",") if n]


def identity(values: Mapping[str, Any], methods: Sequence[str], benchmark: str, device: str) -> str:
    """Eight hex digits of all parameters, the name of the device, and all code and data of the runs of `methods`.

    The code is that of the working tree, found through the dependencies in dvc.yaml: edits and commits of other files
    do not invalidate an experiment. The data are those recorded by the last `dvc repro` or forced download.
    """
    digest = hashlib.sha256(json.dumps([values, device], sort_keys=True).encode())
    for path in _sources(methods):
        digest.update(f"\0{path}\0".encode() + path.read_bytes())
    lock = Path("dvc.lock")
    known = yaml.safe_load(lock.read_text(encoding="utf-8")) if lock.is_file() else {}
    manifest = known.get("stages", {}).get(f"download@{benchmark}", {}).get("outs")
    digest.update(json.dumps(manifest, sort_keys=True).encode())
    return digest.hexdigest()[:8]


def _sources(methods: Sequence[str]) -> list[Path]:
    """dvc.yaml and the files in the dependencies of its stages, without outputs of other stages."""
    pipeline = Path("dvc.yaml")
    stages = yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"]
    named = {path for name, stage in stages.items() if name not in NUMBERLESS for path in stage.get("deps", [])}
    named |= {"scpseg/reporting/collect.py"}
    patterns = {name.replace("${item.benchmark}", "*") for name in named}
    names = {name.replace("${item.method}", method) for name in patterns for method in methods}
    roots = {path for name in names for path in Path(".").glob(name)}
    files = {pipeline}
    for root in roots:
        found = root.rglob("*") if root.is_dir() else [root]
        if root.parts[0] not in ("data", "results"):
            files |= {path for path in found if path.is_file() and "__pycache__" not in path.parts}
    return sorted(files)


def finished() -> dict[str, tuple[str, str]]:
    """Name and revision of every experiment in this repository, by its identity (the last part of its name)."""
    from dvc.repo import Repo

    with Repo(".") as repo:
        every = repo.experiments.ls(all_commits=True)
    return {name.rpartition("-")[2]: (name, revision) for pairs in every.values() for name, revision in pairs}


def summary_of(revision: str) -> list[dict[str, Any]] | None:
    """Rows of results/summary.csv of an experiment, empty cells as None; None if the file is not in the cache."""
    text = _read("results/summary.csv", revision)
    if text is None:
        return None
    return [{key: value or None for key, value in row.items()} for row in csv.DictReader(io.StringIO(text))]


def params_of(revision: str) -> dict[str, Any] | None:
    """params.yaml of a revision or experiment; None if it does not exist."""
    text = _read("params.yaml", revision)
    return None if text is None else dict(yaml.safe_load(text))


def _read(name: str, revision: str) -> str | None:
    import dvc.api
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        return str(dvc.api.read(name, rev=revision, encoding="utf-8"))
    except (DvcException, SCMError, FileNotFoundError):
        return None


def settings_for(values: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """`section.key=value` for all `values` that differ from the committed params.yaml or from the `current` values.

    They give the same run in the current working tree and in a fresh checkout of the commit.

    Raises:
        UserError: no commit contains params.yaml.
    """
    show = ["git", "show", "HEAD:./params.yaml"]
    done = subprocess.run(show, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError("a sweep needs a git commit that contains params.yaml: commit the project, then start again")
    head = parse_yaml(done.stdout, "params.yaml of the commit")
    return [
        f"{section}.{key}={_text(value)}"
        for section, entries in values.items()
        for key, value in entries.items()
        if key in head.get(section, {}) and (head[section][key] != value or current[section][key] != value)
    ]


def _text(value: Any) -> str:
    """A value in the syntax of `-S`."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, str):
        # Text that would be read as a number, a boolean or a list must be quoted.
        plain = re.fullmatch(r"[A-Za-z_~/][\w./~-]*", value) and not isinstance(yaml.safe_load(value), bool)
        return value if plain else "'" + value.replace("'", "\\'") + "'"
    return json.dumps(value)


def arguments(settings: Sequence[str]) -> list[str]:
    """Arguments of `dvc` for one experiment."""
    return ["exp", "run", *(part for setting in settings for part in ("-S", setting))]


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


def run_all(tasks: Sequence[Task], workers: int, gpus: Sequence[str]) -> Generator[tuple[Task, str | None], None, None]:
    """Run every task once, `workers` at a time; yield each with None or the reason of its failure as soon as it ends.

    Worker k uses the GPUs `gpus[k]`, if there are any. Ctrl-C or SIGTERM ends the runs, which save their state.
    """
    executor = submitit.LocalExecutor(SCRATCH / "jobs")
    executor.update_parameters(timeout_min=10**6)
    waiting, running = list(tasks), dict[int, tuple[Task, submitit.Job[str | None]]]()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while waiting or running:
            for worker in range(workers):
                if waiting and worker not in running:
                    task = replace(waiting.pop(0), gpus=gpus[worker] if gpus else "")
                    running[worker] = task, executor.submit(task)
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
        signal.signal(signal.SIGTERM, before)


def run_on_slurm(
    tasks: Sequence[Task], workers: int | None, options: Mapping[str, Any]
) -> Generator[tuple[Task, str | None], None, None]:
    """The same as an array of jobs on a cluster that shares this folder; `options` are parameters of sbatch.

    If this process ends, the jobs go on; the next sweep waits for them instead of submitting them again.

    Raises:
        UserError: there is no Slurm here, or a parameter of it is not valid.
    """
    folder = (SCRATCH / "jobs").resolve()
    fixed = {"nodes": 1, "ntasks_per_node": 1} | ({"array_parallelism": workers} if workers else {})
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=1000)
        executor.update_parameters(**{"job_name": "scpseg", **options, **fixed})
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--on slurm: {' '.join(str(error).split())}") from None
    files = {task.name: SCRATCH / f"{task.name}.job" for task in tasks}
    jobs: dict[str, submitit.Job[str | None]] = {
        name: submitit.SlurmJob(folder, path.read_text(encoding="utf-8").strip())
        for name, path in files.items()
        if path.is_file()
    }
    new = [task for task in tasks if task.name not in jobs]
    if new:
        with executor.batch():
            handed = [executor.submit(task) for task in new]
        for task, job in zip(new, handed, strict=True):
            write_text(files[task.name], f"{job.job_id}\n")
            jobs[task.name] = job
    left = {task.name: task for task in tasks}
    try:
        while left:
            for name in [name for name in left if jobs[name].done()]:
                files[name].unlink()
                yield left.pop(name), _outcome(jobs[name])
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
        return f"its process ended ({lines[-1] if lines else type(error).__name__})"


def why(log: str, code: int) -> str:
    """The reason in the log of a failed run: the stage's own error, else its last exception, else DVC's error."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for pattern in (r"error: (.+)", r"((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*)", r"ERROR: (.+)"):
        found = [match[1] for line in lines if (match := re.fullmatch(pattern, line))]
        if found:
            return str(found[-1])
    return f"dvc ended with exit status {code} without a message" if code > 0 else f"dvc was killed by signal {-code}"
