"""Read contributed results, results/contributed/*.csv, with strict checks; the report has a section for them."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd

from scpseg.benchmarks import BENCHMARKS
from scpseg.errors import UserError
from scpseg.files import write_text
from scpseg.reporting.published import read_table
from scpseg.reporting.tables import Table, made
from scpseg.validation import nearest

MAPS, REPORTED, MEASURED = "label maps handed in", "reported by its authors", "measured around a command"
KINDS = (MAPS, REPORTED, MEASURED)
COLUMNS = tuple(row["name"] for row in read_table("contributed.csv"))
"""Columns of a contributed file, all required, in this order; only the first three need a value in every row."""
SHARES, POSITIVE = ("mean_iou", "mean_f1", "accuracy"), ("images", "memory_mib", "seconds")
Row = dict[str, str]


def read_contributed(folder: Path) -> list[Row]:
    """Rows of every file in `folder`, by file name.

    Raises:
        UserError: see `read_file`.
    """
    return [row for path in sorted(folder.glob("*.csv")) for row in read_file(path)]


def read_file(path: Path) -> list[Row]:
    """Rows of one file.

    Raises:
        UserError: the file does not have this format; the message names file, line and column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            found, header = list(reader), list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path.as_posix()} cannot be read as CSV in UTF-8 ({error}); save it as such") from None
    problem = next(_problems(header, found), None)
    if problem:
        raise UserError(f"{path.as_posix()} {problem}")
    return found


def _problems(header: Sequence[str], rows: Sequence[Mapping[Any, str | None]]) -> Iterator[str]:
    """Errors in a file, and how to correct them."""
    lacking = [name for name in COLUMNS if name not in header]
    more = [name for name in header if name not in COLUMNS]
    if lacking:
        yield f"lacks the column {lacking[0]}; the header is {','.join(COLUMNS)}"
    if more:
        yield f"has the unknown column {more[0]!r}; {nearest(more[0], COLUMNS)}"
    for place, row in enumerate(rows, 2):
        if None in row or None in row.values():
            many = "more" if None in row else "fewer"
            yield f"line {place} has {many} cells than the header; quote texts with commas"
            return
        given = {name: value or "" for name, value in row.items()}
        benchmark, kind, split, code = (given[name] for name in ("benchmark", "kind", "split", "code"))
        numbers = {name: pd.to_numeric(given[name] or "1", errors="coerce") for name in (*SHARES, *POSITIVE)}
        checks = [
            (benchmark in BENCHMARKS, f"benchmark: {benchmark!r} is unknown; {nearest(benchmark, BENCHMARKS)}"),
            (given["method"].strip(), "method is empty; write the method's display name"),
            (kind in KINDS, f"kind: {kind!r} is unknown; write one of: {', '.join(KINDS)}"),
            (split in ("", "test", "val"), f"split: {split!r} is unknown; write test or val"),
            *((0 <= numbers[name] <= 1, f"{name}: {given[name]!r} is not a share from 0 to 1; write 0.713 for 71.3 %")
              for name in SHARES),
            *((0 < numbers[name] < math.inf, f"{name}: {given[name]!r} is not a positive number") for name in POSITIVE),
            (given["memory_kind"] or not given["memory_mib"],
             "memory_kind is empty; say how memory_mib was measured, such as nvml"),
            (not code or (urlsplit(code).scheme == "https" and not re.search(r"\s", code)),
             f"code: {code!r} is not an https address"),
            (kind == MEASURED or given["mean_iou"], f"mean_iou is empty; a row of kind {kind!r} needs its score"),
        ]  # fmt: skip
        yield from (f"line {place}, column {problem}" for holds, problem in checks if not holds)


def add_row(path: Path, row: Mapping[str, object]) -> None:
    """Add a row to a contributed file; replaces a row with the same benchmark, method, kind and split.

    Raises:
        UserError: see `read_contributed`; the file does not change.
    """
    made = {name: "" if row.get(name) is None else str(row[name]) for name in COLUMNS}
    identity = ["benchmark", "method", "kind", "split"]
    others = [old for old in read_file(path) if any(old[key] != made[key] for key in identity)] if path.exists() else []
    problem = next(_problems(COLUMNS, [made]), None)
    if problem:
        raise UserError(f"{path.as_posix()}: {problem.partition(', ')[2]}")
    rows = pd.DataFrame([*others, made], columns=list(COLUMNS)).sort_values(identity, kind="stable")
    write_text(path, rows.to_csv(index=False, lineterminator="\n"))


def contributed_table(folder: Path) -> Table | None:
    """All contributed rows as a table, or None.

    Raises:
        UserError: see `read_contributed`.
    """
    names = {name: spec.title for name, spec in BENCHMARKS.items()}
    rows = [{**row, "benchmark": names[row["benchmark"]], "method": (row["method"], [row["note"]]),
             "split": f"{row['split_list']} {row['split']}".strip()} for row in read_contributed(folder)]  # fmt: skip
    return made("contributed", rows) if rows else None
