"""Committed GPU measurements, results/reference/<gpu>/memory.json, as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scpseg.benchmarks import get_benchmark
from scpseg.profiling.records import INFERENCE, MEASURED, MIB, TRAINING, Record, read_references
from scpseg.reporting.published import title_of
from scpseg.reporting.tables import Cell, Field, Table, mebibytes, seconds, table_of, words

CHANNELS = ("nvml_process", "torch_reserved", "torch_allocated")


def reference_tables(folder: Path) -> list[Table]:
    """One table per GPU in `folder`; empty if nothing is committed.

    Raises:
        UserError: as `read_references`.
    """
    return [_table(*one, place) for place, one in enumerate(read_references(folder)) if one[1]]


def _table(facts: dict[str, Any], records: list[Record], place: int) -> Table:
    found = {(one["workload"], one["benchmark"], one["method"]): one for one in records}
    fields: list[Field[tuple[str, str]]] = [
        words("benchmark", lambda cell: get_benchmark(cell[0]).title),
        words("method", lambda cell: title_of(cell[1])),
    ]

    def part(workload: str, clock: str, column: int) -> Callable[[tuple[str, str]], Cell]:
        return lambda cell: _cells(found.get((workload, *cell)), clock, records)[column]

    for workload, clock in ((INFERENCE, "seconds_per_image"), (TRAINING, "seconds_per_step")):
        for column, name in enumerate(("MiB (NVML)", "MiB (reserved)", "MiB (allocated)", "s")):
            fields.append(Field(f"{workload} {name}", part(workload, clock, column)))
    software = [f"{name} {facts[name.lower()]}" for name in ("torch", "CUDA", "driver") if facts[name.lower()]]
    # The file is in the order of measurement, but readers compare the methods on one benchmark.
    benchmarks = list(dict.fromkeys(one["benchmark"] for one in records))
    cells = dict.fromkeys((one["benchmark"], one["method"]) for one in records)
    items = sorted(cells, key=lambda cell: benchmarks.index(cell[0]))
    return table_of(f"reference-{place}", f"{facts['gpu']} ({', '.join(software)})", fields, items)


def _cells(record: Record | None, clock: str, records: list[Record]) -> list[Cell]:
    """Memory by channel and seconds of a cell; a workload that did not fit is a result as well."""
    if record is None or record["status"] not in MEASURED:
        reason = (record.get("reason") or record["status"]) if record else ""
        return [Cell(flags=(reason,) if reason else ()), Cell(), Cell(), Cell()]
    if record["status"] == "oom":
        return [Cell("OOM", flags=(record["reason"],) if record.get("reason") else ()), Cell(), Cell(), Cell()]
    peaks = [record["memory"].get(name) for name in CHANNELS]
    notes = _notes(record, Counter(map(_blind, records)))
    return [
        *(
            mebibytes(None if peak is None else peak / MIB, notes if not place else ())
            for place, peak in enumerate(peaks)
        ),
        seconds(record.get(clock)),
    ]


def _blind(record: Record) -> str:
    """Channels of the GPU that a workload which ended well was not seen by, and why."""
    gone = record.get("unavailable") or {}
    shown = [f"{name}: {why}" for name, why in gone.items() if name != "rss"]
    return "; ".join(shown) if record["status"] == "ok" else ""


def _notes(record: Record, blind: Counter[str]) -> list[str]:
    """Remarks: sizes other than the real ones, phases, other processes, workloads measured once for two benchmarks."""
    side, real, notes = record.get("height"), get_benchmark(record["benchmark"]).side, []
    if side != real:
        notes.append(f"image of {side} × {side} pixels, not the benchmark's {real} × {real}")
    if record.get("phase") not in (None, "all"):
        notes.append(f"of the phase with the highest peak ({record['phase']})")
    if _blind(record):
        notes.append(f"not seen in {blind[_blind(record)]} workloads: {_blind(record)}")
    if record.get("exclusive") is False:
        notes.append("other processes used the GPU too")
    if record.get("same_as"):
        notes.append(f"the same workload as on {get_benchmark(record['same_as']).title}, measured once")
    return notes
