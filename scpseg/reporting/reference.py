"""Committed memory figures as tables and a figure: of GPUs, results/reference/<gpu>, and computed ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from scpseg.benchmarks import BENCHMARKS, get_benchmark
from scpseg.files import damaged
from scpseg.profiling.records import COLUMNS, INFERENCE, MEASURED, MIB, TRAINING, Record, read_references
from scpseg.reporting.figures import COLUMN, Drawn, legend, log_ticks, looks_of, panels, save, style
from scpseg.reporting.published import title_of
from scpseg.reporting.tables import Cell, Column, Table, mebibytes, seconds, table_of, words

CHANNELS = {
    "MiB (NVML)": "nvml_process",
    "MiB (reserved)": "torch_reserved",
    "MiB (allocated)": "torch_allocated",
    "MiB (computed)": "computed",
}
CLOCKS = {INFERENCE: "seconds_per_image", TRAINING: "seconds_per_step"}
TOTAL = "computed"
PARTS = ("weights", "state", "activations")
Item = tuple[str, str]
"""Benchmark and method."""
NAMES: list[Column[Item]] = [
    words("benchmark", lambda item: get_benchmark(item[0]).title),
    words("method", lambda item: title_of(item[1])),
]


def reference_tables(folder: Path) -> list[Table]:
    """One table per GPU in `folder`; empty if nothing is committed.

    Raises:
        UserError: as `read_references`.
    """
    return [_table(*one, place) for place, one in enumerate(read_references(folder)) if one[1]]


def _table(facts: dict[str, Any], records: list[Record], place: int) -> Table:
    found = {(one["workload"], one["benchmark"], one["method"]): one for one in records}
    blind = Counter(map(_blind, records))

    def memory(workload: str, channel: str) -> Callable[[Item], Cell | None]:
        def cell(item: Item) -> Cell | None:
            record = found.get((workload, *item), {"status": "missing", "memory": {}})
            if record["status"] == "ok":
                peak, first = record["memory"].get(channel), channel == "nvml_process"
                return mebibytes(peak and peak / MIB, _notes(record, blind) if first else ())
            if channel != "nvml_process":
                return None
            reason = record.get("reason") or ("" if record["status"] in (*MEASURED, "missing") else record["status"])
            return Cell("OOM" if record["status"] == "oom" else Cell().text, flags=(reason,) if reason else ())

        return cell

    def time(workload: str) -> Callable[[Item], Cell]:
        return lambda item: seconds(found.get((workload, *item), {}).get(CLOCKS[workload]))

    columns = [*NAMES]
    for workload in CLOCKS:
        columns += [Column(f"{workload} {name}", memory(workload, channel)) for name, channel in CHANNELS.items()]
        columns.append(Column(f"{workload} s", time(workload)))
    software = [f"{name} {facts[name.lower()]}" for name in ("torch", "CUDA", "driver") if facts[name.lower()]]
    # The file is in the order of measurement, but readers compare the methods on one benchmark.
    benchmarks = list(dict.fromkeys(one["benchmark"] for one in records))
    tried = {item: one for item, one in found.items() if one["status"] != "not measured"}
    items = sorted({item[1:]: None for item in tried}, key=lambda item: benchmarks.index(item[0]))
    title = f"{facts['gpu']} ({', '.join(software)}), {len(tried)} of {len(found)} workloads"
    return table_of(f"reference-{place}", title, columns, items)


def _blind(record: Record) -> str:
    """Channels of the GPU that a workload which ended well was not seen by, and why."""
    gone = record.get("unavailable") or {}
    return "; ".join(f"{name}: {why}" for name, why in gone.items() if name != "rss" and record["status"] == "ok")


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


def computed_table(found: pd.DataFrame) -> Table:
    """Inference and one training step of every method on every benchmark, with the parts of the peak."""
    # The first row of each cell has the paper's segmenter and sizes; the sweeps follow.
    first = found.drop_duplicates(["benchmark", "method", "workload", "phase", "channel"])
    largest = first.groupby(["benchmark", "method", "workload", "channel"])["mib"].max().to_dict()

    def of(workload: str, channel: str, title: str) -> Column[Item]:
        about = "largest phase" if workload == TRAINING else "one window at once, fp32"
        return Column(title, lambda item: mebibytes(largest.get((*item, workload, channel))), about)

    columns = [*NAMES, of(INFERENCE, TOTAL, "inference MiB")]
    columns += [of(INFERENCE, f"{TOTAL}:{part}", f"of it {part}") for part in PARTS]
    columns.append(of(TRAINING, TOTAL, "training step MiB"))
    items = dict.fromkeys(zip(first["benchmark"], first["method"], strict=True))
    order = sorted(items, key=lambda item: list(BENCHMARKS).index(item[0]))
    return table_of("computed", "Computed memory at the paper's sizes", columns, order)


def draw_computed(found: pd.DataFrame, path: Path) -> Drawn | None:
    """Plot memory against the number of windows and against the patch side, for methods with the paper's segmenter."""
    totals = found[(found["workload"] == INFERENCE) & (found["channel"] == TOTAL)]
    names = ["segmenter", "encoder", "patch", "windows"]
    same = totals[names] == totals.groupby(["benchmark", "method"])[names].transform("first")
    network = same["segmenter"] & same["encoder"]
    shown = (totals[network & same["patch"]], "windows"), (totals[network & same["windows"]], "patch")
    swept = [(table, x) for table, x in shown if table.groupby(["benchmark", "method"])[x].nunique().max() > 1]
    if not swept:
        return None
    looks = looks_of(list(dict.fromkeys(totals["method"])))
    with style():
        figure, grid = panels(1.05 * COLUMN * len(swept), 0.85 * COLUMN, len(swept))
        for axes, (table, x) in zip(grid, swept, strict=True):
            benchmark = table.groupby("benchmark")[x].nunique().idxmax()
            for method, rows in table[table["benchmark"] == benchmark].groupby("method", sort=False):
                rows = rows.drop_duplicates(x).sort_values(x)
                if len(rows) > 1:
                    look, label = looks[str(method)], title_of(str(method))
                    axes.plot(rows[x], rows["mib"], color=look.colour, marker=look.marker, ms=4, lw=1, label=label)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            log_ticks(axes.yaxis, *axes.get_ylim())
            axes.set_title(get_benchmark(str(benchmark)).title)
            axes.set_xlabel("windows in one forward pass" if x == "windows" else "side of the patch (pixels)")
            axes.set_ylabel("computed peak at inference (MiB)")
        legend(figure, grid, "outside lower center", 6)
        about = "Computed memory against windows in one forward pass, and against the side of the patch"
        return save(figure, path, about)
