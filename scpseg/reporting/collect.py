"""Collect result files in one tidy frame: one row per declared benchmark x method x seed, finished or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from scpseg.benchmarks import get_benchmark
from scpseg.errors import UserError
from scpseg.files import Shape, read_json
from scpseg.params import SuiteParams
from scpseg.profiling.records import MIB, PROFILE
from scpseg.reporting.columns import FIRST, LAST, SCHEMA

SEPARATOR = " | "
"""Separator of sentences in a cell."""
HEADLINE = {"rss": "rss", "nvml": "nvml_process"}
"""Backend -> the memory channel in tables and figures."""

_NAMES = list(FIRST)
RUN_FIELDS = _NAMES[_NAMES.index("split") : _NAMES.index("mean_iou")]
PROFILE_FIELDS = _NAMES[_NAMES.index("height") :]
State = tuple[str, str]
"""Status of a declared run that is not current ('stale', 'failed', 'missing'), and its reason."""
States = Mapping[tuple[str, str, int | None], State]
"""By (benchmark, method, seed); seed None = the profile. Does not contain current runs."""
_SHARE = (float, None)
_COUNT = (int, None)
_TEXT = (str, None)
_METRICS: Shape = {
    "split": str,
    "split_list": str,
    "labels": _TEXT,
    "images": int,
    "image_sizes": str,
    "images_of": int,
    "train_images": int,
    "train_images_of": int,
    "synthetic": bool,
    "source": str,
    "mean_name": str,
    "model": {"patch": int, "recipe?": str, str: object},
    "segmenter": dict,
    "training": {"iterations?": _COUNT, "branches": {str: {str: _SHARE}}, str: object}
    | dict.fromkeys(("steps?", "samples?"), _COUNT)
    | {"megapixels?": _SHARE},
    "branches": {str: _SHARE},
    "inference": dict,
    "warnings": [str],
    "metrics": {
        "mean_iou": _SHARE,
        "mean_f1": _SHARE,
        "accuracy": _SHARE,
        "chance": _SHARE,
        "iou": {str: _SHARE},
        "f1": {str: _SHARE},
        "absent": [str],
    },
}
_TRAINING: Shape = {"seconds": float, "revision": _TEXT, "environment": dict}
_EVALUATION: Shape = {"environment": dict}
NO_METRICS = "no metrics: the run was not trained and evaluated"
NO_PROFILE = "no profile: it was not measured"


def collect(results: Path, suite: SuiteParams, available: bool, states: States | None = None) -> pd.DataFrame:
    """One row per declared benchmark x (scpseg + baselines) x seed, in the declared order; other files are ignored.

    A run without a current result has a row with its status and reason, but no figures of an earlier run. Scores are
    shares 0..1 or None, memory channels (`memory:<channel>`) are in bytes, `memory_mib` is the headline channel of the
    row's backend. Nested settings become columns such as `model:patch`, `training:batch`, `environment:torch`;
    `trained:<branch>:samples` is the training of a branch, `branch:<branch>` the mean IoU of a part that labels alone.

    Raises:
        UserError: a file is damaged or belongs to another run, or is missing and `available` is false.
    """
    rows, states = [], states or {}
    for benchmark in suite.benchmarks:
        for method in methods_of(suite):
            names: dict[str, Any] = {"benchmark": benchmark, "method": method}
            path = results / "profile" / benchmark / f"{method}.json"
            state = states.get((benchmark, method, None), ("missing", NO_PROFILE))
            outdated = (benchmark, method, None) in states
            found = None if outdated else read_result(path, PROFILE, names, available)
            profile = _profile_columns(found, state)
            for seed in suite.seeds:
                state = states.get((benchmark, method, seed), ("missing", NO_METRICS))
                outdated = (benchmark, method, seed) in states
                found = None if outdated else read_run(results, benchmark, method, seed, available)
                metrics = _metrics_columns(found, state)
                rows.append({"schema": SCHEMA, **names, "seed": seed, **profile, **metrics})
    columns = _columns(rows, suite)
    # Stored as objects, so that integers stay integers and missing cells stay empty in every column.
    return pd.DataFrame([[row.get(name) for name in columns] for row in rows], columns=columns, dtype=object)


def methods_of(suite: SuiteParams) -> tuple[str, ...]:
    """The compared methods, SCPSeg first."""
    return ("scpseg", *suite.baselines)


def _metrics_columns(found: dict[str, Any] | None, state: State) -> dict[str, Any]:
    if found is None:
        return {"status": state[0], "reason": state[1]}
    training = dict(found["training"])
    scores = found["metrics"]
    row: dict[str, Any] = {"status": "ok", "reason": None, "revision": training.pop("revision", None)}
    row.update({name: found[name] for name in RUN_FIELDS})
    row.update({name: scores[name] for name in ("mean_iou", "mean_f1", "accuracy", "chance")})
    row.update(_flat("iou", scores["iou"]) | _flat("f1", scores["f1"]))
    for part in ("model", "environment", "evaluation_environment", "inference"):
        row.update(_flat(part, found[part]))
    row.update(_flat("segmenter", _segmenter(found["segmenter"], found["model"])))
    row.update(_flat("trained", training.pop("branches")) | _flat("training", training))
    row.update(_flat("branch", found["branches"]))
    row["absent"] = "; ".join(scores["absent"])
    row["warnings"] = SEPARATOR.join(found["warnings"])
    return row


def _profile_columns(found: dict[str, Any] | None, state: State) -> dict[str, Any]:
    if found is None:
        return {"profile_status": state[0], "profile_reason": state[1]}
    rest = dict(found)
    for name in ("benchmark", "method", "timeline"):
        rest.pop(name)
    backend, channels, unavailable = rest.pop("backend"), rest.pop("memory"), rest.pop("unavailable")
    row: dict[str, Any] = {
        "profile_status": rest.pop("status"),
        "profile_reason": rest.pop("reason") or None,
        "memory_backend": backend,
    }
    if row["profile_status"] == "ok":
        if backend not in HEADLINE:
            known = ", ".join(HEADLINE)
            raise UserError(
                f"the profile of {found['method']} on {found['benchmark']} has backend {backend!r}, but {known} are "
                "known; run `make profile`"
            )
        peak = channels.get(HEADLINE[backend])
        if peak is None:
            row["profile_reason"] = f"{HEADLINE[backend]} is unavailable: {unavailable.get(HEADLINE[backend])}"
        else:
            row["memory_mib"] = round(peak / MIB, 2)
    row.update({name: rest.pop(name) for name in PROFILE_FIELDS})
    row.update(_flat("memory", channels) | _flat("unavailable", unavailable))
    # The record of a failed workload has no model and, if it was killed, no environment.
    model, segmenter, environment = rest.pop("model") or {}, rest.pop("segmenter"), rest.pop("environment", {})
    row.update(_flat("profile_environment", environment))
    # A run's own model and segmenter replace the first two, which are for runs that are missing.
    row.update(_flat("segmenter", _segmenter(segmenter, model)))
    row.update(_flat("profile_segmenter", _segmenter(segmenter, model)))
    row.update(_flat("model", model) | _flat("profile_model", model))
    # How it was measured.
    row.update(_flat("profile", rest))
    return row


def _segmenter(asked: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """Segmenter of a row: a method that reports its own encoder does not use the common segmenter."""
    if "encoder" not in model:
        return asked
    return {**asked, "name": "own", "encoder": model["encoder"], "output_stride": None}


def read_run(results: Path, benchmark: str, method: str, seed: int, available: bool) -> dict[str, Any] | None:
    """The scores of a run with its provenance; None if a file is missing and this is allowed.

    Raises:
        UserError: see `read_result`.
    """
    identity = {"benchmark": benchmark, "method": method, "seed": seed}
    place = Path(benchmark) / method / str(seed)
    scores = read_result(results / "metrics" / place / "metrics.json", _METRICS, identity, available)
    training = read_result(results / "provenance" / place / "training.json", _TRAINING, identity, available)
    evaluation = read_result(results / "provenance" / place / "evaluation.json", _EVALUATION, identity, available)
    if scores is None or training is None or evaluation is None:
        return None
    measured = {name: training[name] for name in ("seconds", "revision")}
    environments = {"environment": training["environment"], "evaluation_environment": evaluation["environment"]}
    return {**scores, "training": {**scores["training"], **measured}, **environments}


def read_result(path: Path, shape: Shape, identity: dict[str, Any], available: bool) -> dict[str, Any] | None:
    """The file's mapping, None when it is missing and may be.

    Raises:
        UserError: it is damaged, of another shape, of another run, or missing and may not be.
    """
    try:
        found: dict[str, Any] = read_json(path, shape)
    except FileNotFoundError:
        if available:
            return None
        name = " ".join(str(value) for value in identity.values())
        raise UserError(
            f"{path} is missing ({name}); run `dvc repro`, or build the report from what is there with `make report`"
        ) from None
    for key, value in identity.items():
        if found.get(key) != value:
            raise UserError(f"{path} does not belong to {key} {value!r}; delete it and run `dvc repro` again")
    return found


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """`{prefix}:{key}` for every scalar; keys of nested values are appended after a colon, lists become text."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(f"{prefix}:{key}", value))
        else:
            flat[f"{prefix}:{key}"] = "; ".join(map(str, value)) if isinstance(value, list) else value
    return flat


def _columns(rows: list[dict[str, Any]], suite: SuiteParams) -> list[str]:
    """Order of columns: fixed ones, classes in the order of their benchmarks, all others by name, texts last."""
    classes = [cls.name for name in suite.benchmarks for cls in get_benchmark(name).classes]
    scores = [f"{kind}:{name}" for kind in ("iou", "f1") for name in dict.fromkeys(classes)]
    rest = {key for row in rows for key in row} - {*FIRST, *scores, *LAST}
    return [*FIRST, *scores, *sorted(rest), *LAST]
