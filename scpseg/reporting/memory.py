"""Peak memory at the benchmarks' real sizes: measured by NVML if a reference is committed, otherwise computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from scpseg.benchmarks import BENCHMARKS, get_benchmark
from scpseg.files import damaged
from scpseg.profiling.records import COLUMNS, INFERENCE, MIB, TRAINING, read_records, read_references

AXES = {
    "nvml": "Peak GPU process memory at real size (MiB, NVML)",
    "computed": "Peak memory at real size (MiB, computed: live tensors)",
}
"""Source of a peak -> label of the axis."""
Cell = tuple[str, str]
"""Benchmark and method."""


@dataclass(frozen=True)
class Peak:
    """Peak memory in MiB of whole-image inference at the benchmark's real size.

    `source` is 'nvml' or 'computed', which are never on the same axis; `parts` are (part, MiB) of the peak, if known;
    `training` is the peak of one training step in MiB.
    """

    mib: float
    source: str
    parts: tuple[tuple[str, float], ...] = ()
    training: float | None = None


def read_peaks(results: Path, problem: str | None = None) -> tuple[dict[Cell, Peak], dict[Cell, str]]:
    """Peaks by benchmark and method, and the reasons for missing ones.

    `problem` is the reason why memory.json is not current: then no figure of that file is used. On one benchmark, all
    peaks are measured or all are computed: measured if a committed reference of the same networks has every method. If
    there are several, the first reference by name is used.

    Raises:
        UserError: a file is damaged.
    """
    path = results / "memory.json"
    records = read_records(path) if path.is_file() else []
    steps, peaks, reasons = dict[Cell, float](), dict[Cell, Peak](), dict[Cell, str]()
    for record in records:
        cell, total = (record["benchmark"], record["method"]), record["memory"].get("computed")
        if problem:
            reasons[cell] = f"memory not computed: {problem}"
        elif record["workload"] == TRAINING:
            steps[cell] = max(steps.get(cell, 0.0), (total or 0) / MIB)
        elif record["status"] == "ok" and total:
            parts = sorted((record.get("parts") or {}).items(), reverse=True)  # weights first
            peaks[cell] = Peak(total / MIB, "computed", tuple((name, size / MIB) for name, size in parts))
        else:
            reasons[cell] = f"memory not computed: {record.get('reason') or record['status']}"
    peaks = {cell: replace(peak, training=steps.get(cell) or None) for cell, peak in peaks.items()}
    done = set[str]()
    for _, reference in read_references(results / "reference"):
        measured = dict[Cell, float]()
        for record in reference:
            real = record.get("height") == get_benchmark(record["benchmark"]).side
            size, same = record["memory"].get("nvml_process"), any(_same(record, one) for one in records or [record])
            usable = record["status"] == "ok" and not record.get("outdated")
            if record["workload"] == INFERENCE and usable and real and size and same:
                measured[record["benchmark"], record["method"]] = size / MIB
        for benchmark in {benchmark for benchmark, _ in measured} - done:
            cells = [cell for cell in {*peaks, *reasons} if cell[0] == benchmark]
            if all(cell in measured for cell in cells):
                done.add(benchmark)
                peaks |= {cell: Peak(measured[cell], "nvml", (), steps.get(cell) or None)
                          for cell in cells or [cell for cell in measured if cell[0] == benchmark]}  # fmt: skip
    return peaks, {cell: reason for cell, reason in reasons.items() if cell not in peaks}


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records are of one network with the same sizes; settings that only one of them has do not count."""
    models, segmenters = ([record.get(name) or {} for record in (one, other)] for name in ("model", "segmenter"))
    sizes = [key for key in models[0] if key in models[1] and not key.startswith(("srd_", "lfa_"))]
    return (
        all(one.get(key) == other.get(key) for key in ("benchmark", "method", "patch", "parameters"))
        and one.get("windows_per_batch", 1) == other.get("windows_per_batch", 1)
        and all(models[0][key] == models[1][key] for key in sizes)
        and all(segmenters[0].get(key) == segmenters[1].get(key) for key in ("name", "encoder", "output_stride"))
    )


def read_computed(results: Path) -> pd.DataFrame | None:
    """Successful rows of results/reference/computed/memory.csv; None if the file does not exist.

    Raises:
        UserError: the file is damaged.
    """
    path = results / "reference/computed/memory.csv"
    try:
        found = pd.read_csv(path)[list(COLUMNS)]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError) as error:
        raise damaged(path, f"is not a table of computed memory ({error})") from None
    return found[(found["status"] == "ok") & found["benchmark"].isin(BENCHMARKS)]
