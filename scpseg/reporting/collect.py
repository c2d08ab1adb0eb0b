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
from scpseg.reporting.published import read_table

SCHEMA = 2
"""Increased when a column changes its meaning, unit or name, but not for a new column."""
_DESCRIBED = {row["name"]: (row["unit"], row["meaning"]) for row in read_table("columns.csv")}
FAMILIES = {name: text for name, text in _DESCRIBED.items() if name.endswith(":")}
"""Prefixes of columns that depend on benchmarks and methods -> unit and meaning."""
LAST = {name: _DESCRIBED[name] for name in ("absent", "warnings")}
"""The last columns, with unit and meaning."""
FIRST = {name: text for name, text in _DESCRIBED.items() if name not in FAMILIES.keys() | LAST.keys()}
"""The first columns in order, with unit and meaning."""
SEPARATOR = " | "
"""Separator of sentences in a cell."""
HEADLINE = {"rss": "rss", "nvml": "nvml_process"}
"""Backend -> the memory channel in tables and figures."""
RUN_FIELDS = [*FIRST][[*FIRST].index("split") : [*FIRST].index("mean_iou")]
PROFILE_FIELDS = [*FIRST][[*FIRST].index("height") :]
State = tuple[str, str]
"""Status of a declared run that is not current ('stale', 'failed', 'missing'), and its reason."""
States = Mapping[tuple[str, str, int | None], State]
"""By (benchmark, method, seed); seed None = the profile. Does not contain current runs."""
_SHARE, _COUNT, _TEXT = (float, None), (int, None), (str, None)
_METRICS: Shape = {
    **dict.fromkeys(("split", "split_list", "image_sizes", "source", "mean_name"), str),
    **dict.fromkeys(("images", "images_of", "train_images", "train_images_of"), int),
    "labels": _TEXT,
    "synthetic": bool,
    "model": {"patch": int, "recipe?": str, str: object},
    "segmenter": dict,
    "training": {**dict.fromkeys(("iterations?", "steps?", "samples?"), _COUNT), "megapixels?": _SHARE,
                 "branches": {str: {str: _SHARE}}, str: object},
    "branches": {str: _SHARE},
    "folds?": [{"mean_iou": _SHARE, str: object}],
    "inference": dict,
    "warnings": [str],
    "metrics": {**dict.fromkeys(("mean_iou", "mean_f1", "accuracy", "chance"), _SHARE),
                "iou": {str: _SHARE}, "f1": {str: _SHARE}, "absent": [str]},
}  # fmt: skip
_TRAINING: Shape = {"seconds": float, "branch_seconds?": {str: float}, "revision": _TEXT, "environment": dict,
                    "devices?": int, "batch_norm?": str}  # fmt: skip
NO_METRICS, NO_PROFILE = "no metrics: the run was not trained and evaluated", "no profile: it was not measured"


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
        for method in ("scpseg", *suite.baselines):
            names: dict[str, Any] = {"benchmark": benchmark, "method": method}
            path, state = results / "profile" / benchmark / f"{method}.json", states.get((benchmark, method, None))
            found = None if state else read_result(path, PROFILE, names, available)
            gone = dict(zip(("profile_status", "profile_reason"), state or ("missing", NO_PROFILE), strict=True))
            profile = _profile_columns(found) if found else gone
            for seed in suite.seeds:
                state = states.get((benchmark, method, seed))
                found = None if state else _run_columns(results, {**names, "seed": seed}, available)
                gone = dict(zip(("status", "reason"), state or ("missing", NO_METRICS), strict=True))
                rows.append({"schema": SCHEMA, **names, "seed": seed, **profile, **(found or gone)})
    classes = dict.fromkeys(cls.name for name in suite.benchmarks for cls in get_benchmark(name).classes)
    scores = [f"{kind}:{name}" for kind in ("iou", "f1") for name in classes]
    rest = sorted({key for row in rows for key in row} - {*FIRST, *scores, *LAST})
    columns = [*FIRST, *scores, *rest, *LAST]
    # Stored as objects, so that integers stay integers and missing cells stay empty in every column.
    return pd.DataFrame([[row.get(name) for name in columns] for row in rows], columns=columns, dtype=object)


def _run_columns(results: Path, identity: dict[str, Any], available: bool) -> dict[str, Any] | None:
    """The scores of a run with its provenance; None if a file is missing and this is allowed."""
    place = "/".join(map(str, identity.values()))
    found = read_result(results / f"metrics/{place}/metrics.json", _METRICS, identity, available)
    trained = read_result(results / f"provenance/{place}/training.json", _TRAINING, identity, available)
    evaluated = read_result(results / f"provenance/{place}/evaluation.json", {"environment": dict}, identity, available)
    if found is None or trained is None or evaluated is None:
        return None
    training, scores = dict(found["training"]), found["metrics"]
    training |= {name: trained[name] for name in ("seconds", "devices", "batch_norm") if name in trained}
    seconds, branches = trained.get("branch_seconds", {}), training.pop("branches")
    branches = {name: branch | {"seconds": seconds.get(name)} for name, branch in branches.items()}
    row: dict[str, Any] = {"status": "ok", "reason": None, "revision": trained["revision"]}
    row |= {name: found[name] for name in RUN_FIELDS}
    row |= {name: scores[name] for name in ("mean_iou", "mean_f1", "accuracy", "chance")}
    row |= {"absent": "; ".join(scores["absent"]), "warnings": SEPARATOR.join(found["warnings"])}
    folds = {str(number): fold["mean_iou"] for number, fold in enumerate(found.get("folds", ()))}
    parts = {"model": found["model"], "inference": found["inference"], "branch": found["branches"], "fold": folds}
    parts |= {"environment": trained["environment"], "evaluation_environment": evaluated["environment"]}
    parts |= {"segmenter": _segmenter(found["segmenter"], found["model"]), "iou": scores["iou"], "f1": scores["f1"]}
    return row | _flat(parts | {"trained": branches, "training": training})


def _profile_columns(found: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in found.items() if key not in ("benchmark", "method", "timeline")}
    backend, channels, unavailable = rest.pop("backend"), rest.pop("memory"), rest.pop("unavailable")
    status, reason = rest.pop("status"), rest.pop("reason") or None
    row: dict[str, Any] = {"profile_status": status, "profile_reason": reason, "memory_backend": backend}
    if status == "ok":
        if backend not in HEADLINE:
            why = f"the profile of {found['method']} on {found['benchmark']} has backend {backend!r}"
            raise UserError(f"{why}, but {', '.join(HEADLINE)} are known; run `make profile`")
        channel = HEADLINE[backend]
        if channels.get(channel) is None:
            row["profile_reason"] = f"{channel} is unavailable: {unavailable.get(channel)}"
        else:
            row["memory_mib"] = round(channels[channel] / MIB, 2)
    row |= {name: rest.pop(name) for name in PROFILE_FIELDS}
    # The record of a failed workload has no model and, if it was killed, no environment.
    model, environment = rest.pop("model") or {}, rest.pop("environment", {})
    segmenter = _segmenter(rest.pop("segmenter"), model)
    # A run's own model and segmenter replace those without prefix, which are for runs that are missing.
    parts = {"memory": channels, "unavailable": unavailable, "profile_environment": environment, "profile": rest}
    return row | _flat(parts | {f"{prefix}{name}": value for prefix in ("", "profile_")
                                for name, value in (("model", model), ("segmenter", segmenter))})  # fmt: skip


def _segmenter(asked: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """Segmenter of a row: a method that reports its own encoder does not use the common segmenter."""
    if "encoder" not in model:
        return asked
    return {**asked, "name": "own", "encoder": model["encoder"], "output_stride": None}


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


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`key:key` for every scalar of nested mappings; lists become text."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}:")
        else:
            flat[prefix + key] = "; ".join(map(str, value)) if isinstance(value, list) else value
    return flat
