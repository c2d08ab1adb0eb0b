"""Summarise rows to one line per benchmark and method: means over seeds, memory at real size, and doubts."""

from __future__ import annotations

import csv
import math
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from scpseg.benchmarks import get_benchmark
from scpseg.files import damaged
from scpseg.reporting.memory import Peak
from scpseg.reporting.published import title_of
from scpseg.reporting.sceptic import doubts
from scpseg.reporting.statistics import Counts, Estimate, estimate
from scpseg.reporting.tables import Cell, mebibytes

Row = dict[str, Any]
Flag = tuple[str, str]
"""A remark: the column of the number to which it belongs, and its text."""
_FOUND = "seconds weights_hash parameters_training log_every revision steps samples megapixels"
NOT_SETTINGS = tuple(f"training:{name}" for name in _FOUND.split())
"""Keys of a training's record that are results or descriptions, not settings."""
_DATA = ("split", "split_list", "labels", "images")
_PROFILED = {
    **{name: f"profile_{name}" for name in ("segmenter:name", "segmenter:encoder", "segmenter:output_stride")},
    "inference:overlap": "profile:overlap",
    "inference:batch": "windows_per_batch",
}
"""Settings that affect memory and speed, and the columns with their values during the measurement."""


@dataclass(frozen=True)
class Line:
    """One benchmark and method; `line[column]` is the value in the first row with a result, or else the first row.

    Attributes:
        benchmark: name of the benchmark.
        method: name of the method.
        rows: rows of `collect`, one per declared seed.
        memory: peak at the benchmark's real size, None if unknown.
        flags: remarks on numbers.
    """

    benchmark: str
    method: str
    rows: tuple[Row, ...]
    memory: Peak | None
    flags: tuple[Flag, ...]

    def __getitem__(self, column: str) -> Any:
        """Value of a column, or None if the column does not exist."""
        return self.first.get(column)

    @property
    def done(self) -> list[Row]:
        """Rows with a result."""
        return [row for row in self.rows if row["status"] == "ok"]

    @property
    def first(self) -> Row:
        """The first row with a result, or else the first row."""
        return (*self.done, *self.rows)[0]

    @property
    def title(self) -> str:
        """The method's display name."""
        return title_of(self.method)

    def estimate(self, column: str) -> Estimate:
        """Mean over seeds of a column with shares 0..1, and its interval."""
        return estimate(row.get(column) for row in self.rows)

    @cached_property
    def mean_iou(self) -> Estimate:
        """Mean IoU, 0..1."""
        return self.estimate("mean_iou")

    @property
    def score(self) -> float | None:
        """Mean IoU, 0..1, mean over the seeds."""
        return self.mean_iou.mean

    @property
    def scores(self) -> dict[int, float]:
        """Mean IoU, 0..1, by seed."""
        return {row["seed"]: row["mean_iou"] for row in self.done if row["mean_iou"] is not None}

    def mean(self, *columns: str) -> float | None:
        """Mean over seeds of the first of these columns with numbers, None if none has any."""
        found = ([float(row[name]) for row in self.rows if is_number(row.get(name))] for name in columns)
        return next((fmean(values) for values in found if values), None)

    def of(self, column: str) -> tuple[str, ...]:
        """Remarks on the numbers in this column."""
        return tuple(text for where, text in self.flags if where == column)

    def memory_cell(self) -> Cell:
        """Memory at real size as a cell of a table."""
        return mebibytes(self.memory.mib if self.memory else None, self.of("memory"))


def is_number(value: Any) -> bool:
    """Whether a cell is a finite number; booleans are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_setting(key: str) -> bool:
    """Whether a column is a setting of a run."""
    return key.startswith(("model:", "segmenter:", "training:", "inference:")) and not key.startswith(NOT_SETTINGS)


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
    rows, lines = records(frame), []
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["benchmark"], row["method"]), []).append(row)
    usual = {what: common(device(row, what) for row in rows) for what in ("environment", "profile_environment")}
    for (benchmark, method), mine in groups.items():
        found = [*_gaps(mine), *_settings(mine), *_hardware(mine, usual), *doubts(mine)]
        why = (unknown or {}).get((benchmark, method))
        flags = tuple(dict.fromkeys([*found, *([("memory", why)] if why else [])]))
        peak = (peaks or {}).get((benchmark, method))
        lines.append(Line(benchmark, method, tuple(mine), peak, flags))
    return lines


def device(row: Row, kind: str = "profile_environment") -> str | None:
    """Hardware of a row; for memory and speed, which depend on it, also the number of threads."""
    name, threads = row.get(f"{kind}:device"), row.get(f"{kind}:threads")
    return f"{name}, {threads} threads" if name and threads and kind.startswith("profile") else name


def common(devices: Iterable[str | None]) -> str | None:
    """The device of most rows; the first one in a tie."""
    counts = Counter(found for found in devices if found is not None)
    return counts.most_common(1)[0][0] if counts else None


def _gaps(rows: Sequence[Row]) -> Iterator[Flag]:
    """Runs and figures that are missing, with the reason and, unless all of several seeds are concerned, the seeds."""
    texts: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] != "ok":
            texts.setdefault(f"{row['status']}: {row['reason']}", []).append(str(row["seed"]))
        elif row["mean_iou"] is None:
            texts.setdefault("no scored class occurs in the images", []).append(str(row["seed"]))
        if row["absent"]:
            text = f"in neither ground truth nor prediction, left out of the mean: {row['absent']}"
            texts.setdefault(text, []).append(str(row["seed"]))
    for text, seeds in texts.items():
        those = "" if len(seeds) == len(rows) > 1 else f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}: "
        yield "mean_iou", those + text
    status, reason = rows[0]["profile_status"], rows[0]["profile_reason"]
    if status != "ok" or reason:
        what = {"oom": "out of memory", "ok": "memory not measured"}.get(status, status)
        yield "seconds", f"memory and speed {what}: {reason}"


def _settings(rows: Sequence[Row]) -> Iterator[Flag]:
    """Seeds, or a run and its profile, with different settings."""
    run, first = [row for row in rows if row["status"] == "ok"], rows[0]
    for key in (key for key in first if key in _DATA or is_setting(key)):
        values = list(dict.fromkeys(row[key] for row in run))
        if len(values) > 1:
            yield "mean_iou", f"seeds differ in {key.replace(':', ' ')}: {', '.join(map(str, values))}"
    for key, other in ({key: f"profile_{key}" for key in first if key.startswith("model:")} | _PROFILED).items():
        if run and first.get(other) is not None and first[other] != run[0].get(key):
            name = key.removeprefix("model:").replace(":", " ")
            yield "seconds", f"profile of other settings: {name} {first[other]} against {run[0].get(key)}"
    recipe = run[0].get("model:recipe") if run else None
    if recipe not in (None, "suite"):
        yield "method", f"recipe {recipe}: not the common one, so it is not ranked"


def _hardware(rows: Sequence[Row], usual: dict[str, str | None]) -> Iterator[Flag]:
    """Rows made on other hardware than most."""
    if any(device(row, "environment") not in (None, usual["environment"]) for row in rows):
        yield "mean_iou", "trained on other hardware than most rows of this report"
    if device(rows[0]) not in (None, usual["profile_environment"]):
        text = "speed and resident memory measured on other hardware, or with another number of threads, than most rows"
        yield "seconds", f"{text}; not comparable with them"


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
