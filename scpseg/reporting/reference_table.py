"""Reading a committed GPU table, results/reference/<gpu>/profile.csv: nothing damaged is shown as a measurement."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from scpseg.benchmarks import BENCHMARKS
from scpseg.errors import UserError

INFERENCE, TRAINING = "inference", "training step"
MEASURED = ("ok", "oom")
STATUSES = (*MEASURED, "failed", "not measured")
NUMBERS = ("nvml_process", "torch_reserved", "torch_allocated", "seconds_per_image", "seconds_per_step")
"""Columns whose cells are numbers, or empty."""
FACTS = ("gpu", "driver", "torch", "cuda")
"""Columns that are the same in all rows: one GPU and its software."""
USED = (
    "workload",
    "method",
    "benchmark",
    "status",
    "reason",
    "height",
    "same_as",
    "phase",
    "unavailable",
    "exclusive",
    *FACTS,
    *NUMBERS,
)
Row = dict[str, str]


def read_table(path: Path) -> list[Row]:
    """The rows as `make gpu` writes them, one per workload, method and benchmark, measured or not.

    Raises:
        UserError: the file cannot be read, or is not such a table.
    """
    try:
        text = path.read_text(encoding="utf-8")
        reader = csv.DictReader(io.StringIO(text))
        rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error):
        rows, problem = [], "is no readable text file"
    else:
        missing = [name for name in USED if name not in (reader.fieldnames or ())]
        problem = f"has no column {missing[0]}" if missing else next(_problems(text, rows), "")
    if problem:
        place = "/".join(path.parts[-3:])
        raise UserError(f"the reference table {place} {problem}; restore it with git, or measure anew: make gpu")
    return rows


def number(text: str) -> float | None:
    """A cell of `NUMBERS`; None where it is empty."""
    return float(text) if text else None


def _problems(text: str, rows: Sequence[Row]) -> Iterator[str]:
    """What is wrong with a table that has all columns."""
    if not rows:
        yield "has no rows"
    for place, row in enumerate(rows, 1):
        # The reader fills short rows with None, and keeps what is too much under None.
        if None in row or None in row.values():
            yield f"has too few or too many cells in row {place}"
            return
    if not text.endswith("\n"):
        yield "is cut off at its end"
    for name, known in (("workload", (INFERENCE, TRAINING)), ("status", STATUSES), ("benchmark", tuple(BENCHMARKS))):
        yield from (f"has the unknown {name} {row[name]!r}" for row in rows if row[name] not in known)
    yield from (
        f"has the unknown benchmark {row['same_as']!r}" for row in rows if row["same_as"] not in ("", *BENCHMARKS)
    )
    for name in NUMBERS:
        yield from (f"has {row[name]!r} where a number belongs ({name})" for row in rows if not _is_number(row[name]))
    yield from (f"has {row['height']!r} where a number belongs (height)" for row in rows if not row["height"].isdigit())
    for name in FACTS:
        values = list(dict.fromkeys(row[name] for row in rows))
        if len(values) > 1:
            yield f"has several values of {name} ({', '.join(values)}), but one table is of one GPU"
    cells = [(row["workload"], row["method"], row["benchmark"]) for row in rows]
    yield from (f"has {', '.join(cell)} twice" for place, cell in enumerate(cells) if cell in cells[:place])
    methods, benchmarks = (list(dict.fromkeys(row[name] for row in rows)) for name in ("method", "benchmark"))
    for cell in product((INFERENCE, TRAINING), methods, benchmarks):
        if cell not in cells:
            yield f"lacks a row for {', '.join(cell)}"


def _is_number(text: str) -> bool:
    """Whether a cell is empty, or finite and not below zero."""
    try:
        value = number(text)
    except ValueError:
        return False
    return value is None or (math.isfinite(value) and value >= 0)
