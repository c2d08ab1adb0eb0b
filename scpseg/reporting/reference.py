"""The section on committed GPU measurements: results/reference/<gpu>/profile.csv, written by `make gpu`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from scpseg.data.specs import spec_of
from scpseg.errors import UserError
from scpseg.reporting.published import title_of
from scpseg.reporting.tables import DASH, markdown, megabytes, seconds

NONE = (
    "There is no committed reference table from an NVIDIA GPU yet (`make gpu` writes one), so nothing is claimed here "
    "about GPU memory at the paper's sizes; figures of the meter `rss` say nothing about it."
)
ABOUT = (
    "Measured by `make gpu` (`profiles/paper.yaml` unless another file was named): inference on one image, and one "
    "training step at the benchmark's batch, random weights and pixels. Memory is the peak of the process as NVML "
    "reports it / reserved by torch / allocated by torch, in MiB; no figure of another meter or machine stands beside "
    "it."
)
INFERENCE, TRAINING = "inference", "training step"
USED = (
    "workload",
    "method",
    "benchmark",
    "status",
    "reason",
    "height",
    "same_as",
    "phase",
    "gpu",
    "driver",
    "torch",
    "cuda",
    "nvml_process",
    "torch_reserved",
    "torch_allocated",
    "seconds_per_image",
    "seconds_per_step",
)
Row = dict[str, str]


def reference_section(folder: Path) -> str:
    """What is committed under `folder`, or plainly that nothing is.

    Raises:
        UserError: a table lacks a column or has none of its rows.
    """
    parts = ["## Reference measurements"]
    tables = [_read(path) for path in sorted(folder.glob("*/profile.csv"))]
    parts += [part for rows in tables for part in _table(rows)] if tables else [NONE]
    if tables:
        parts.insert(1, ABOUT)
    return "\n\n".join(parts) + "\n"


def _read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        rows, columns = list(reader), reader.fieldnames or []
    missing = [name for name in USED if name not in columns]
    if missing or not rows:
        problem = f"has no column {missing[0]}" if missing else "has no rows"
        place = "/".join(path.parts[-3:])
        raise UserError(f"the reference table {place} {problem}; restore it with git, or measure anew: make gpu")
    return rows


def _table(rows: list[Row]) -> list[str]:
    first = rows[0]
    software = [
        f"{name} {first[key]}"
        for name, key in (("torch", "torch"), ("CUDA", "cuda"), ("driver", "driver"))
        if first[key]
    ]
    header = ["benchmark", "method", "inference MiB", "s / image", "training step MiB", "s / step"]
    found = {(row["workload"], row["benchmark"], row["method"]): row for row in rows}
    lines = [
        [
            spec_of(benchmark).title,
            title_of(method),
            *_cells(found.get((INFERENCE, benchmark, method)), "seconds_per_image"),
            *_cells(found.get((TRAINING, benchmark, method)), "seconds_per_step"),
        ]
        for benchmark, method in dict.fromkeys((row["benchmark"], row["method"]) for row in rows)
    ]
    parts = [f"**{first['gpu']}** ({', '.join(software)}):", markdown(header, lines, left=2).rstrip("\n")]
    notes = _notes(rows)
    return [*parts, "\n".join(f"- {note}" for note in notes)] if notes else parts


def _cells(row: Row | None, clock: str) -> list[str]:
    """Memory and seconds of a cell; a workload that did not fit is a result, not a gap."""
    if row is None or row["status"] not in ("ok", "oom"):
        return [DASH, DASH]
    if row["status"] == "oom":
        return ["OOM", DASH]
    peaks = [_number(row[name]) for name in ("nvml_process", "torch_reserved", "torch_allocated")]
    memory = " / ".join(megabytes(None if peak is None else peak / 2**20) for peak in peaks)
    return [memory, seconds(_number(row[clock]))]


def _number(text: str) -> float | None:
    return float(text) if text else None


def _notes(rows: Sequence[Row]) -> list[str]:
    """What the dashes mean, what was not measured twice, which phase a figure is of, other sizes than the real ones."""
    notes = []
    for benchmark, side in dict.fromkeys((row["benchmark"], row["height"]) for row in rows):
        spec = spec_of(benchmark)
        if side != str(spec.side):
            notes.append(
                f"{spec.title}: images of {side} × {side} pixels, not the benchmark's {spec.side} × {spec.side}."
            )
    for reason in dict.fromkeys(row["reason"] for row in rows if row["status"] not in ("ok", "oom")):
        many = sum(row["reason"] == reason for row in rows)
        notes.append(f"{many} of {len(rows)} workloads without a figure: {reason}.")
    phases: dict[str, dict[str, None]] = {}
    for row in rows:
        if row["phase"] not in ("", "all"):
            phases.setdefault(row["method"], {})[row["phase"]] = None
    for method, names in phases.items():
        notes.append(f"Training step of {title_of(method)}: of the phase with the highest peak ({', '.join(names)}).")
    for row in rows:
        if row["same_as"]:
            where, there = spec_of(row["benchmark"]).title, spec_of(row["same_as"]).title
            notes.append(
                f"{title_of(row['method'])}, {row['workload']}: the same on {where} as on {there}, measured once."
            )
    return notes
