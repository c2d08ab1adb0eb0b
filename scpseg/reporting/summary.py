"""Summarise rows to one line per benchmark and method: means over seeds, memory at real size, and doubts."""

from __future__ import annotations

import csv
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scpseg.benchmarks import get_benchmark
from scpseg.files import damaged
from scpseg.reporting.memory import Peak
from scpseg.reporting.published import title_of
from scpseg.reporting.sceptic import flags
from scpseg.reporting.statistics import Counts, Estimate, estimate

Row = dict[str, Any]
Flag = tuple[str, str]
"""A remark: the column of the number to which it belongs, and its text."""
_FOUND = "seconds weights_hash parameters_training log_every revision steps samples megapixels"
NOT_SETTINGS = tuple(f"training:{name}" for name in _FOUND.split())
"""Keys of a training's record that are results or descriptions, not settings."""
_SETTINGS = ("model:", "segmenter:", "inference:", "training:")
_DATA = ("split", "split_list", "labels", "images")
_PROFILED = {
    **{name: f"profile_{name}" for name in ("segmenter:name", "segmenter:encoder", "segmenter:output_stride")},
    "inference:overlap": "profile:overlap",
    "inference:batch": "windows_per_batch",
}
"""Settings that affect memory and speed, and the columns with their values during the measurement."""


DOUBTED = {"mode": "published", "edge": "rate"}
"""Kind of doubt -> what it is about, if not the score."""


@dataclass(frozen=True)
class Line:
    """One benchmark and method.

    Attributes:
        benchmark: name of the benchmark.
        method: name of the method.
        rows: rows of `collect`, one per declared seed.
        mean_iou: share 0..1, estimated over seeds; also `mean_f1`, `accuracy` and `iou` (by class).
        memory: peak at the benchmark's real size, None if unknown.
        flags: remarks on numbers.
    """

    benchmark: str
    method: str
    rows: tuple[Row, ...]
    mean_iou: Estimate
    mean_f1: Estimate
    accuracy: Estimate
    iou: dict[str, Estimate]
    memory: Peak | None
    flags: tuple[Flag, ...]

    @property
    def first(self) -> Row:
        """The first row with a result, else the first row."""
        return next((row for row in self.rows if row["status"] == "ok"), self.rows[0])

    @property
    def title(self) -> str:
        """The method's display name."""
        return title_of(self.method)

    @property
    def done(self) -> list[Row]:
        """Rows with a result."""
        return [row for row in self.rows if row["status"] == "ok"]

    def mean(self, column: str) -> float | None:
        """Mean over seeds of a numeric column, None if no row has a value."""
        found = [float(row[column]) for row in self.rows if is_number(row.get(column))]
        return float(np.mean(found)) if found else None

    def of(self, column: str) -> tuple[str, ...]:
        """Remarks on the numbers in this column."""
        return tuple(text for where, text in self.flags if where == column)


def is_number(value: Any) -> bool:
    """Whether a cell is a number; booleans are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def records(frame: pd.DataFrame) -> list[Row]:
    """The rows of the frame as dicts."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def summarise(
    frame: pd.DataFrame,
    peaks: Mapping[tuple[str, str], Peak] | None = None,
    unknown: Mapping[tuple[str, str], str] | None = None,
) -> list[Line]:
    """One line per benchmark and method, in the order of the frame; lines without results have empty estimates.

    Args:
        frame: frame of `collect`.
        peaks: (benchmark, method) -> memory at the real size.
        unknown: (benchmark, method) -> reason why it is unknown.
    """
    rows = records(frame)
    usual = {what: common(device(row, what) for row in rows) for what in ("environment", "profile_environment")}
    lines = []
    for benchmark, method in dict.fromkeys((row["benchmark"], row["method"]) for row in rows):
        mine = [row for row in rows if (row["benchmark"], row["method"]) == (benchmark, method)]
        found = [*_gaps(mine), *_settings(mine), *_hardware(mine, usual)]
        found += [(DOUBTED.get(doubt.kind, "mean_iou"), doubt.text) for doubt in flags(mine)]
        why = (unknown or {}).get((benchmark, method))
        lines.append(
            Line(
                benchmark=benchmark,
                method=method,
                rows=tuple(mine),
                mean_iou=estimate(row["mean_iou"] for row in mine),
                mean_f1=estimate(row["mean_f1"] for row in mine),
                accuracy=estimate(row["accuracy"] for row in mine),
                iou={
                    cls.name: estimate(row.get(f"iou:{cls.name}") for row in mine)
                    for cls in get_benchmark(benchmark).classes
                },
                memory=(peaks or {}).get((benchmark, method)),
                flags=tuple(dict.fromkeys([*found, *([("memory", why)] if why else [])])),
            )
        )
    return lines


def device(row: Row, kind: str = "profile_environment") -> str | None:
    """Hardware of a row; for memory and speed, which depend on it, also the number of threads."""
    name, threads = row.get(f"{kind}:device"), row.get(f"{kind}:threads")
    return f"{name}, {threads} threads" if name and threads and kind.startswith("profile") else name


def common(devices: Iterable[str | None]) -> str | None:
    """The device of most rows; the first one in a tie."""
    counts = Counter(found for found in devices if found is not None)
    return counts.most_common(1)[0][0] if counts else None


def _seeds(rows: Sequence[Row], of: int) -> str:
    """'seeds 1, 2: ', or '' if all of several seeds are concerned."""
    names = ", ".join(str(row["seed"]) for row in rows)
    return "" if len(rows) == of > 1 else f"seed{'s' * (len(rows) > 1)} {names}: "


def _gaps(rows: Sequence[Row]) -> list[Flag]:
    """Runs and figures that are missing, with the reason."""
    found: list[Flag] = []
    for status, reason in dict.fromkeys((row["status"], row["reason"]) for row in rows if row["status"] != "ok"):
        mine = [row for row in rows if (row["status"], row["reason"]) == (status, reason)]
        found.append(("mean_iou", f"{_seeds(mine, len(rows))}{status}: {reason}"))
    for absent in dict.fromkeys(row["absent"] for row in rows if row["absent"]):
        mine = [row for row in rows if row["absent"] == absent]
        text = f"in neither ground truth nor prediction, left out of the mean: {absent}"
        found.append(("mean_iou", _seeds(mine, len(rows)) + text))
    empty = [row for row in rows if row["status"] == "ok" and row["mean_iou"] is None]
    if empty:
        found.append(("mean_iou", f"{_seeds(empty, len(rows))}no scored class occurs in the images"))
    first = rows[0]
    if first["profile_status"] != "ok" or first["profile_reason"]:
        what = {"oom": "out of memory", "ok": "memory not measured"}.get(
            first["profile_status"], first["profile_status"]
        )
        found.append(("seconds", f"memory and speed {what}: {first['profile_reason']}"))
    return found


def _settings(rows: Sequence[Row]) -> list[Flag]:
    """Seeds, or a run and its profile, with different settings."""
    found: list[Flag] = []
    run = [row for row in rows if row["status"] == "ok"]
    for key in rows[0]:
        if key in _DATA or (key.startswith(_SETTINGS) and not key.startswith(NOT_SETTINGS)):
            values = list(dict.fromkeys(row[key] for row in run))
            if len(values) > 1:
                found.append(("mean_iou", f"seeds differ in {key.replace(':', ' ')}: {', '.join(map(str, values))}"))
    first = rows[0]
    pairs = {key: f"profile_{key}" for key in first if key.startswith("model:")} | _PROFILED
    for key, other in pairs.items():
        measured = first.get(other)
        if run and measured is not None and measured != run[0].get(key):
            name = key.removeprefix("model:").replace(":", " ")
            text = f"profile of other settings: {name} {measured} against {run[0].get(key)}"
            found.append(("seconds", text))
    if run and run[0].get("model:recipe") not in (None, "suite"):
        found.append(
            ("method", f"recipe {run[0]['model:recipe']}: not the common one, so it takes no part in the ranking")
        )
    return found


def _hardware(rows: Sequence[Row], usual: dict[str, str | None]) -> list[Flag]:
    """Rows made on other hardware than most."""
    found: list[Flag] = []
    if any(device(row, "environment") not in (None, usual["environment"]) for row in rows):
        found.append(("mean_iou", "trained on other hardware than most rows of this report"))
    if device(rows[0]) not in (None, usual["profile_environment"]):
        text = "speed and resident memory measured on other hardware, or with another number of threads, than most rows"
        found.append(("seconds", f"{text}; not comparable with them"))
    return found


def curve(results: Path, row: Row) -> list[dict[str, str]]:
    """Rows of a run's training history; empty if the file is missing."""
    path = results / "runs" / row["benchmark"] / row["method"] / str(row["seed"]) / "history.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def read_matrices(results: Path, row: Row) -> tuple[list[str], Counts] | None:
    """Ids of the test images and their (images, K, K) confusion matrices; None if the file is missing.

    Raises:
        UserError: the file is damaged.
    """
    path = results / "metrics" / row["benchmark"] / row["method"] / str(row["seed"]) / "confusion.npz"
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
            ids, matrices = [str(name) for name in found["ids"]], found["matrices"].astype(np.int64)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise damaged(path, "is damaged") from error
    classes = len(get_benchmark(row["benchmark"]).classes)
    if matrices.shape != (len(ids), classes, classes):
        raise damaged(path, f"does not hold one {classes} x {classes} matrix per image")
    return ids, matrices
