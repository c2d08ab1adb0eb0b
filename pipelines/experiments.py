"""DVC experiments one after another, each known again by what its result depends on.

Every experiment is one `dvc exp run --temp`: in a folder of its own, with the cache of this repository. DVC's task
queue is not used: when its worker is killed, the experiment goes on alone, a new worker starts the next one beside
it, and the result of the first is lost while it stays on the list as running.
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
"""Lock and logs."""
TEMPORARY = Path(".dvc/tmp/exps/standalone")
"""Where DVC keeps the folders of `--temp` runs."""
NUMBERLESS = ("check", "report")
"""Stages that decide no number of a run; of the report only what writes results/summary.csv counts."""
GRACE = 30.0
"""Seconds that an interrupted run has to save its checkpoint."""


def hardware(machine: MachineParams) -> dict[str, Any]:
    """`machine.device` and `machine.threads` as a run here has them, with nothing left to the library.

    Memory and speed depend on them, and so, by rounding, do trained weights. DVC knows only the parameters: with
    `threads: 0` it would restore what was measured under another OMP_NUM_THREADS. Threads do not matter to a GPU.

    Raises:
        UserError: the device is not there.
    """
    import torch

    from scpseg.environment import choose_device

    device = choose_device(machine.device).type
    threads = machine.threads or (torch.get_num_threads() if device == "cpu" else 0)
    return {"machine.device": device, "machine.threads": threads}


def identity(values: Mapping[str, Any], methods: Sequence[str], benchmark: str, device: str) -> str:
    """Eight hex digits of all parameters, the name of the device, and what else the runs of `methods` depend on.

    That is code and data files. The code is that of the working tree, found through the dependencies in dvc.yaml: an
    edit or a commit that they do not name makes no experiment stale. The data are those that the last `dvc repro` or
    forced download has on record.
    """
    digest = hashlib.sha256(json.dumps([values, device], sort_keys=True).encode())
    digest.update(code(methods).encode())
    lock = Path("dvc.lock")
    known = yaml.safe_load(lock.read_text(encoding="utf-8")) if lock.is_file() else {}
    manifest = known.get("stages", {}).get(f"download@{benchmark}", {}).get("outs")
    digest.update(json.dumps(manifest, sort_keys=True).encode())
    return digest.hexdigest()[:8]


def code(methods: Sequence[str]) -> str:
    """Digest of the code in the working tree that the runs of `methods` depend on."""
    digest = hashlib.sha256()
    for path in _sources(methods):
        digest.update(f"\0{path}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _sources(methods: Sequence[str]) -> list[Path]:
    """dvc.yaml and the files behind the dependencies of its stages, outputs of stages left out."""
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
    """Name and revision of every experiment of this repository, by the last part of its name, its identity."""
    from dvc.repo import Repo

    with Repo(".") as repo:
        every = repo.experiments.ls(all_commits=True)
    return {name.rpartition("-")[2]: (name, revision) for pairs in every.values() for name, revision in pairs}


def summary_of(revision: str) -> list[dict[str, Any]] | None:
    """Rows of results/summary.csv of an experiment, empty cells as None; None where the cache has lost the file."""
    import dvc.api
    from dvc.exceptions import DvcException

    try:
        text = dvc.api.read("results/summary.csv", rev=revision, encoding="utf-8")
    except (DvcException, FileNotFoundError):
        return None
    return [{key: value or None for key, value in row.items()} for row in csv.DictReader(io.StringIO(text))]


def params_of(revision: str) -> dict[str, Any] | None:
    """params.yaml of a revision or experiment; None where there is no such revision."""
    import dvc.api
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        found: dict[str, Any] = yaml.safe_load(dvc.api.read("params.yaml", rev=revision, encoding="utf-8"))
    except (DvcException, SCMError, FileNotFoundError):
        return None
    return found


def settings_for(values: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """`section.key=value` wherever `values` differ from the committed params.yaml or from `current`, the one at hand.

    They give the same run in the working tree as it is and in a fresh checkout of the commit.

    Raises:
        UserError: there is no commit with a params.yaml.
    """
    show = ["git", "show", "HEAD:./params.yaml"]
    done = subprocess.run(show, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError("a sweep needs a git commit with params.yaml in it: commit the project, then start again")
    head = parse_yaml(done.stdout, "params.yaml of the commit")
    return [
        f"{section}.{key}={_text(value)}"
        for section, entries in values.items()
        for key, value in entries.items()
        if key in head.get(section, {}) and (head[section][key] != value or current[section][key] != value)
    ]


def _text(value: Any) -> str:
    """A value in the grammar of `-S`."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, str):
        # What would be read as a number, a truth value or a list must be quoted.
        plain = re.fullmatch(r"[A-Za-z_~/][\w./~-]*", value) and not isinstance(yaml.safe_load(value), bool)
        return value if plain else "'" + value.replace("'", "\\'") + "'"
    return json.dumps(value)


def arguments(settings: Sequence[str]) -> list[str]:
    """Of `dvc`, for one experiment."""
    return ["exp", "run", "--temp", *(part for setting in settings for part in ("-S", setting))]


@contextmanager
def turn() -> Iterator[int]:
    """Wait until no other sweep works in this repository, nor a run that a killed one left; then it is ours.

    Yields the descriptor of the lock. Each run inherits it: when a sweep is killed, its last run ends in order, and the
    lock is free only then.
    """
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with (SCRATCH / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another sweep, or the last run of one that was killed", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        _clear()
        yield lock.fileno()


def _clear() -> None:
    """Remove folders of `--temp` runs whose dvc was killed, after ending what it left running in there."""
    inside: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ValueError):
            place = Path(process.cwd()).relative_to(TEMPORARY.resolve())
            inside.setdefault(place.parts[0], []).append(process)
    for folder in TEMPORARY.glob("tmp*"):
        processes = inside.get(folder.name, [])
        if any("dvc" in Path(part).name for process in processes for part in _command(process)[:3]):
            continue  # somebody's own experiment
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
    """Run one experiment to its end; None, or the sentence that says why it failed. The log stays in `SCRATCH`.

    Ctrl-C or SIGTERM is handed to the run, which saves its state; KeyboardInterrupt follows when it has ended.
    """
    log = SCRATCH / f"{name}.log"
    # `python` of the stages is this one, whether or not the environment is active.
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
                # Nothing may outlive it: the next run would share its checkpoint and its memory.
                _signal(process.pid, signal.SIGKILL)
    finally:
        signal.signal(signal.SIGTERM, before)
    return None if code == 0 else why(log.read_text(encoding="utf-8", errors="replace"), code)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a run's whole group, more and more firmly; Ctrl-C hastens it."""
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
    """The sentence of a failed run's log that says why: the stage's own, else its last exception, else DVC's."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for pattern in (r"error: (.+)", r"((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*)", r"ERROR: (.+)"):
        found = [match[1] for line in lines if (match := re.fullmatch(pattern, line))]
        if found:
            return str(found[-1])
    return f"dvc ended with exit status {code} and said nothing" if code > 0 else f"dvc was killed by signal {-code}"
