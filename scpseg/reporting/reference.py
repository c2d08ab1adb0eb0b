"""The section on committed GPU measurements: results/reference/<gpu>/profile.csv, written by `make gpu`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from scpseg.benchmarks import get_benchmark
from scpseg.reporting.published import title_of
from scpseg.reporting.reference_table import INFERENCE, MEASURED, TRAINING, Row, number, read_table
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


def reference_section(folder: Path) -> str:
    """What is committed under `folder`, or plainly that nothing is.

    Raises:
        UserError: as `read_table`.
    """
    parts = ["## Reference measurements"]
    tables = [read_table(path) for path in sorted(folder.glob("*/profile.csv"))]
    parts += [part for rows in tables for part in _table(rows)] if tables else [NONE]
    if tables:
        parts.insert(1, ABOUT)
    return "\n\n".join(parts) + "\n"


def _table(rows: list[Row]) -> list[str]:
    first = rows[0]
    software = [
        f"{name} {first[key]}"
        for name, key in (("torch", "torch"), ("CUDA", "cuda"), ("driver", "driver"))
        if first[key]
    ]
    header = ["benchmark", "method", "inference MiB", "s / image", "training step MiB", "s / step"]
    found = {(row["workload"], row["benchmark"], row["method"]): row for row in rows}
    # The file's order is that of measuring; a reader compares the methods of one benchmark.
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in rows))
    cells = dict.fromkeys((row["benchmark"], row["method"]) for row in rows)
    lines = [
        [
            get_benchmark(benchmark).title,
            title_of(method),
            *_cells(found.get((INFERENCE, benchmark, method)), "seconds_per_image"),
            *_cells(found.get((TRAINING, benchmark, method)), "seconds_per_step"),
        ]
        for benchmark, method in sorted(cells, key=lambda cell: benchmarks.index(cell[0]))
    ]
    parts = [f"**{first['gpu']}** ({', '.join(software)}):", markdown(header, lines, left=2).rstrip("\n")]
    notes = _notes(rows)
    return [*parts, "\n".join(f"- {note}" for note in notes)] if notes else parts


def _cells(row: Row | None, clock: str) -> list[str]:
    """Memory and seconds of a cell; a workload that did not fit is a result, not a gap."""
    if row is None or row["status"] not in MEASURED:
        return [DASH, DASH]
    if row["status"] == "oom":
        return ["OOM", DASH]
    peaks = [number(row[name]) for name in ("nvml_process", "torch_reserved", "torch_allocated")]
    memory = " / ".join(megabytes(None if peak is None else peak / 2**20) for peak in peaks)
    return [memory, seconds(number(row[clock]))]


def _notes(rows: Sequence[Row]) -> list[str]:
    """Sizes other than the real ones, missing figures, phases, company on the GPU, what was measured once for two."""
    notes = []
    for benchmark, side in dict.fromkeys((row["benchmark"], row["height"]) for row in rows):
        spec = get_benchmark(benchmark)
        if side != str(spec.side):
            notes.append(
                f"{spec.title}: images of {side} × {side} pixels, not the benchmark's {spec.side} × {spec.side}."
            )
    gaps = Counter(row["reason"] or row["status"] for row in rows if row["status"] not in MEASURED)
    for reason, many in gaps.items():
        notes.append(f"{many} of {len(rows)} workloads without a figure: {reason}.")
    phases: dict[str, dict[str, None]] = {}
    for row in rows:
        if row["phase"] not in ("", "all"):
            phases.setdefault(row["method"], {})[row["phase"]] = None
    for method, names in phases.items():
        notes.append(f"Training step of {title_of(method)}: of the phase with the highest peak ({', '.join(names)}).")
    for why in dict.fromkeys(row["unavailable"] for row in rows if row["unavailable"]):
        many = sum(row["unavailable"] == why for row in rows)
        notes.append(f"Not seen in {many} of {len(rows)} workloads: {why}.")
    shared = sum(row["exclusive"] == "False" for row in rows)
    if shared:
        notes.append(f"In {shared} of {len(rows)} workloads other processes used the GPU too.")
    twins: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["same_as"]:
            twins.setdefault((row["workload"], row["benchmark"], row["same_as"]), []).append(title_of(row["method"]))
    for (workload, benchmark, same), methods in twins.items():
        where, there = get_benchmark(benchmark).title, get_benchmark(same).title
        named = ", ".join(methods)
        notes.append(f"{workload.capitalize()} on {where}: the same workload as on {there}, measured once ({named}).")
    return notes
