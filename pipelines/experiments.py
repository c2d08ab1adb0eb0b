"""Run DVC experiments one after another, and recognise them later by everything that their result depends on.

Each experiment is one `dvc exp run --temp`: in its own folder, with the cache of this repository. DVC's task queue is
not used: if its worker is killed, the experiment continues alone, a new worker starts the next one at the same time,
and the result of the first one is lost while it stays listed as running.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import yaml

from scpseg.errors import UserError
from scpseg.params import MachineParams
from scpseg.validation import parse_yaml

SCRATCH = Path(".scratch/sweeps")
"""Folder of the lock and the logs."""
TEMPORARY = Path(".dvc/tmp/exps/standalone")
"""Where DVC keeps the folders of `--temp` runs."""
NUMBERLESS = ("check", "report")
"""Stages that do not affect the numbers of a run; of the report, only the code for results/summary.csv counts."""
GRACE = 30.0
"""Seconds that an interrupted run gets to save its checkpoint."""


def hardware(machine: MachineParams) -> dict[str, Any]:
    """`machine.device` and `machine.threads` as a run on this machine uses them, without defaults of the library.

    Memory and speed depend on them, and so, by rounding, do trained weights. DVC knows the parameters only: with
    `threads: 0` it would restore results measured under another OMP_NUM_THREADS. On a GPU, threads do not matter.

    Raises:
        UserError: the device is not available.
    """
    import torch

    from scpseg.environment import choose_device

    device = choose_device(machine.device).type
    threads = machine.threads or (torch.get_num_threads() if device == "cpu" else 0)
    return {"machine.device": device, "machine.threads": threads}


def identity(values: Mapping[str, Any], methods: Sequence[str], benchmark: str, device: str) -> str:
    """Eight hex digits of all parameters, the name of the device, and all code and data of the runs of `methods`.

    The code is that of the working tree, found through the dependencies in dvc.yaml: edits and commits of other files
    do not invalidate an experiment. The data are those recorded by the last `dvc repro` or forced download.
    """
    digest = hashlib.sha256(json.dumps([values, device], sort_keys=True).encode())
    digest.update(code(methods).encode())
    lock = Path("dvc.lock")
    known = yaml.safe_load(lock.read_text(encoding="utf-8")) if lock.is_file() else {}
    manifest = known.get("stages", {}).get(f"download@{benchmark}", {}).get("outs")
    digest.update(json.dumps(manifest, sort_keys=True).encode())
    return digest.hexdigest()[:8]


def code(methods: Sequence[str]) -> str:
    """Digest of the code in the working tree on which the runs of `methods` depend."""
    digest = hashlib.sha256()
    for path in _sources(methods):
        digest.update(f"\0{path}\0".encode() + path.read_bytes())
    return digest.hexdigest()


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
    import dvc.api
    from dvc.exceptions import DvcException

    try:
        text = dvc.api.read("results/summary.csv", rev=revision, encoding="utf-8")
    except (DvcException, FileNotFoundError):
        return None
    return [{key: value or None for key, value in row.items()} for row in csv.DictReader(io.StringIO(text))]


def params_of(revision: str) -> dict[str, Any] | None:
    """params.yaml of a revision or experiment; None if it does not exist."""
    import dvc.api
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        found: dict[str, Any] = yaml.safe_load(dvc.api.read("params.yaml", rev=revision, encoding="utf-8"))
    except (DvcException, SCMError, FileNotFoundError):
        return None
    return found


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
    return ["exp", "run", "--temp", *(part for setting in settings for part in ("-S", setting))]


@contextmanager
def turn() -> Iterator[int]:
    """Hold the lock for experiments: wait for other sweeps in this repository, and for runs of killed ones.

    Yields the descriptor of the lock. Each run inherits it: if a sweep is killed, its last run ends normally and holds
    the lock until then.
    """
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with (SCRATCH / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another sweep, or for the last run of a killed one", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        _clear()
        yield lock.fileno()


def _clear() -> None:
    """Remove folders of `--temp` runs whose dvc was killed, after ending the processes that it left there."""
    inside: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ValueError):
            place = Path(process.cwd()).relative_to(TEMPORARY.resolve())
            inside.setdefault(place.parts[0], []).append(process)
    for folder in TEMPORARY.glob("tmp*"):
        processes = inside.get(folder.name, [])
        if any("dvc" in Path(part).name for process in processes for part in _command(process)[:3]):
            continue  # the user's own experiment
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.terminate()  # a training saves its checkpoint first
        _, alive = psutil.wait_procs(processes, GRACE)
        for process in alive:
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return list(process.cmdline())
    return []


def run(name: str, settings: Sequence[str], lock: int) -> str | None:
    """Run one experiment and return None, or the reason of its failure. The log stays in `SCRATCH`.

    Ctrl-C or SIGTERM is passed to the run, which saves its state; then KeyboardInterrupt is raised.
    """
    log = SCRATCH / f"{name}.log"
    # Stages use this interpreter as `python`, whether or not the environment is active.
    environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with log.open("w", encoding="utf-8") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "dvc", *arguments(settings), "--name", name],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[lock],
                process_group=0,
            )
            try:
                code = process.wait()
            except KeyboardInterrupt:
                _stop(process)
                raise
            finally:
                # No process may remain: the next run would share its checkpoint and its memory.
                _signal(process.pid, signal.SIGKILL)
    finally:
        signal.signal(signal.SIGTERM, before)
    return None if code == 0 else why(log.read_text(encoding="utf-8", errors="replace"), code)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End all processes of a run, with stronger signals after each timeout; Ctrl-C shortens the timeouts."""
    for number in (signal.SIGINT, signal.SIGTERM):
        _signal(process.pid, number)
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:
            try:
                process.wait(timeout=0.2)
                return
            except subprocess.TimeoutExpired:
                continue
            except KeyboardInterrupt:
                break


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def why(log: str, code: int) -> str:
    """The reason in the log of a failed run: the stage's own error, else its last exception, else DVC's error."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for pattern in (r"error: (.+)", r"((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*)", r"ERROR: (.+)"):
        found = [match[1] for line in lines if (match := re.fullmatch(pattern, line))]
        if found:
            return str(found[-1])
    return f"dvc ended with exit status {code} without a message" if code > 0 else f"dvc was killed by signal {-code}"
