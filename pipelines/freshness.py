"""Find out which declared results are current: made from the present parameters, code, data and weights.

DVC's lock file records the inputs of each stage. They are compared with the working tree and, along the pipeline, with
the recorded outputs of the stages before. Nothing is computed, and torch is not imported.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import paths
from scpseg.errors import UserError
from scpseg.files import read_json, write_json
from scpseg.params import SuiteParams
from scpseg.reporting import MEMORY

ERRORS = Path("results/errors")
"""Folder with one file per stage whose last run failed or did not end."""
UNENDED = "it is still running, or was killed without a message (perhaps for lack of memory)"
State = tuple[str, str]
"""'stale', 'missing' or 'failed', and the reason."""
Key = tuple[str, str, int | None]
"""Benchmark, method and seed; None for the seed of a profile."""


def states(suite: SuiteParams) -> dict[Key, State]:
    """State of every declared run (its scores) and profile, and of `MEMORY`, that is not current.

    'stale': the result was made from other parameters, code, data or weights; 'failed': there is no current result,
    because one of its stages failed with the given error; 'missing': it was not made. Without dvc.yaml, stages were run
    by hand and their inputs are unknown: then the answer is empty.

    Raises:
        UserError: DVC cannot read its files.
    """
    if not Path("dvc.yaml").is_file() or not Path(".dvc").is_dir():
        return {}
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    wanted: dict[Key, Path] = {MEMORY: paths.memory()}
    for benchmark in suite.benchmarks:
        for method in ("scpseg", *suite.baselines):
            wanted[benchmark, method, None] = paths.profile(benchmark, method)
            wanted |= {(benchmark, method, seed): paths.scores(benchmark, method, seed) for seed in suite.seeds}
    found: dict[Key, State] = {}
    try:
        with Repo(".") as repo:
            pipeline = _Pipeline(repo.index.stages)
            for key, path in wanted.items():
                if problem := pipeline.problem_of(path.as_posix()):
                    found[key] = "failed" if problem.failed else "stale" if path.exists() else "missing", problem.reason
    except DvcException as error:
        reason = " ".join(str(error).split())
        raise UserError(f"DVC cannot find out which results are current ({reason}); run `dvc status`") from None
    return found


@dataclass(frozen=True)
class _Problem:
    """Reason why a result is not current; `failed` if a stage failed with it."""

    reason: str
    failed: bool = False


class _Pipeline:
    """Stages by their outputs, and the problems that were found."""

    def __init__(self, stages: Any) -> None:
        self.producers = {out.def_path: (stage, out) for stage in stages for out in stage.outs}
        self.known: dict[str, _Problem | None] = {}

    def problem_of(self, path: str) -> _Problem | None:
        """Reason why an output of a stage is not current, or None."""
        if path not in self.producers:
            return _Problem(f"no stage of dvc.yaml writes {path}")
        stage, _ = self.producers[path]
        if stage.addressing not in self.known:
            self.known[stage.addressing] = self._problem(stage)
        return self.known[stage.addressing]

    def _problem(self, stage: Any) -> _Problem | None:
        before = [dep.def_path for dep in stage.deps if dep.def_path in self.producers]
        # The output of `check` is constant, so a parameter does not make every result stale.
        problems = [self.problem_of(path) for path in before if self.producers[path][0].name != "check"]
        if own := self._difference(stage):
            problems.append(_Problem(own))
        found = [problem for problem in problems if problem is not None]
        first = next((problem for problem in found if problem.failed), found[0] if found else None)
        if first is None or first.failed or (failure := _failure(stage)) is None:
            return first
        sentence, same = failure
        if same:
            return _Problem(sentence, failed=True)
        return _Problem(f"{first.reason}; its last run, with other parameters or code, failed: {sentence}")

    def _difference(self, stage: Any) -> str | None:
        """The first difference between the recorded and the present inputs and outputs of a stage."""
        if not any(out.hash_info for out in stage.outs):
            there = any(out.exists for out in stage.outs)
            return "dvc.lock does not record its inputs: run `dvc repro`" if there else "it was not run yet"
        if stage.cmd_changed:
            return "its command has changed"
        for dep in stage.deps:
            if dep.def_path in self.producers:
                if dep.hash_info != self.producers[dep.def_path][1].hash_info:
                    return f"{dep.def_path} has changed since it was made"
            elif hasattr(dep, "params"):
                if changes := _changes(dep):
                    return "; ".join(changes)
            elif dep.workspace_status():
                return f"{dep.def_path} has changed"
        for out in stage.outs:
            # Data and weights may be deleted once their scores exist; everything else is part of a result row.
            needed = out.exists or not out.def_path.startswith(("data/", "results/runs/"))
            if needed and (status := out.workspace_status()):
                return (
                    f"{out.def_path} was {'deleted' if 'deleted' in status.values() else 'changed since it was made'}"
                )
        return None


def _changes(dep: Any) -> list[str]:
    """Parameters that differ from the recorded ones, with both values."""
    was, now = (_flat(values) for values in (dep.hash_info.value or {}, dep.read_params()))
    keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    return [f"{key} was {_said(was.get(key))}, is {_said(now.get(key))}" for key in keys]


def _said(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix.removesuffix("."): values}
    return {name: value for key in values for name, value in _flat(values[key], f"{prefix}{key}.").items()}


def _failure(stage: Any) -> tuple[str, bool] | None:
    """Error of the last run of a stage, and whether it ran with the present parameters and code."""
    path = error_file(stage.cmd.partition("pipelines.")[2].split())
    if not path.is_file():
        return None
    record = read_json(path, {"error": str, "settings": str})
    return record["error"], record["settings"] == settings()


def error_file(words: list[str]) -> Path:
    """File that stores the error of `python -m pipelines.WORDS`."""
    return ERRORS / f"{'-'.join(words)}.json"


def record_error(words: list[str], sentence: str) -> None:
    """Store the error of a stage for the report."""
    write_json(error_file(words), {"error": " ".join(sentence.split()), "settings": settings()})


def settings() -> str:
    """Digest of all present parameters and code, to see whether a failed stage would run with the same."""
    digest = hashlib.sha256()
    code = [path for folder in paths.CODE for path in sorted(Path(folder).rglob("*.py"))]
    for path in (Path("params.yaml"), *code):
        digest.update(f"\0{path.as_posix()}\0".encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()[:16]
