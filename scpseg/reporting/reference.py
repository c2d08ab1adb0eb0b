"""Committed GPU measurements, results/reference/<gpu>/profile.csv, as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from scpseg.benchmarks import get_benchmark
from scpseg.profiling.records import MIB
from scpseg.reporting.published import title_of
from scpseg.reporting.reference_table import INFERENCE, MEASURED, TRAINING, Row, number, read_table
from scpseg.reporting.tables import Cell, Field, Table, mebibytes, seconds, table_of, words

CHANNELS = ("nvml_process", "torch_reserved", "torch_allocated")


def reference_tables(folder: Path) -> list[Table]:
    """A table per GPU in `folder`, none where nothing is committed.

    Raises:
        UserError: as `read_table`.
    """
    return [_table(read_table(path), number) for number, path in enumerate(sorted(folder.glob("*/profile.csv")))]


def _table(rows: list[Row], place: int) -> Table:
    first = rows[0]
    found = {(row["workload"], row["benchmark"], row["method"]): row for row in rows}
    fields: list[Field[tuple[str, str]]] = [
        words("benchmark", lambda cell: get_benchmark(cell[0]).title),
        words("method", lambda cell: title_of(cell[1])),
    ]

    def part(workload: str, clock: str, column: int) -> Callable[[tuple[str, str]], Cell]:
        return lambda cell: _cells(found.get((workload, *cell)), clock, rows)[column]

    for workload, clock in ((INFERENCE, "seconds_per_image"), (TRAINING, "seconds_per_step")):
        for column, name in enumerate(("MiB (NVML)", "MiB (reserved)", "MiB (allocated)", "s")):
            fields.append(Field(f"{workload} {name}", part(workload, clock, column)))
    software = [f"{name} {first[name.lower()]}" for name in ("torch", "CUDA", "driver") if first[name.lower()]]
    # The file's order is that of measuring; a reader compares the methods of one benchmark.
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in rows))
    cells = dict.fromkeys((row["benchmark"], row["method"]) for row in rows)
    items = sorted(cells, key=lambda cell: benchmarks.index(cell[0]))
    return table_of(f"reference-{place}", f"{first['gpu']} ({', '.join(software)})", fields, items)


def _cells(row: Row | None, clock: str, rows: list[Row]) -> list[Cell]:
    """Memory by channel and seconds of a cell; a workload that did not fit is a result, not a gap."""
    if row is None or row["status"] not in MEASURED:
        reason = (row["reason"] or row["status"]) if row else ""
        return [Cell(flags=(reason,) if reason else ()), Cell(), Cell(), Cell()]
    if row["status"] == "oom":
        return [Cell("OOM", flags=(row["reason"],) if row["reason"] else ()), Cell(), Cell(), Cell()]
    peaks = [number(row[name]) for name in CHANNELS]
    notes = _notes(row, Counter(other["unavailable"] for other in rows))
    return [
        *(
            mebibytes(None if peak is None else peak / MIB, notes if not place else ())
            for place, peak in enumerate(peaks)
        ),
        seconds(number(row[clock])),
    ]


def _notes(row: Row, unavailable: Counter[str]) -> list[str]:
    """Sizes other than the real ones, phases, company on the GPU, what was measured once for two benchmarks."""
    spec, notes = get_benchmark(row["benchmark"]), []
    if row["height"] != str(spec.side):
        notes.append(
            f"image of {row['height']} × {row['height']} pixels, not the benchmark's {spec.side} × {spec.side}"
        )
    if row["phase"] not in ("", "all"):
        notes.append(f"of the phase with the highest peak ({row['phase']})")
    if row["unavailable"]:
        notes.append(f"not seen in {unavailable[row['unavailable']]} workloads: {row['unavailable']}")
    if row["exclusive"] == "False":
        notes.append("other processes used the GPU too")
    if row["same_as"]:
        notes.append(f"the same workload as on {get_benchmark(row['same_as']).title}, measured once")
    return notes
