"""The reference table: every method x benchmark on one GPU, the most important cells first, each workload once.

Needs no torch: the process that fills the table must not take memory on the device that it measures.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scpseg.errors import UserError
from scpseg.profiling.fresh import ChildTooSlow
from scpseg.profiling.meter import CHANNELS, HEADLINES

PAIR, SINGLE = ("scpseg", "patch"), ("glnet", "downscale")
"""Measured first, benchmark by benchmark, since they are compared with each other; then these; then any other."""
NOT_MEASURED = "not measured"
GPU_CHANNELS = tuple(name for name in CHANNELS if name != "rss")
FACTS = ("gpu", "driver", "torch", "cuda", "cudnn")
"""Of the fingerprint, in every row."""
PLAIN = (
    "status",
    "reason",
    "limit",
    "height",
    "width",
    "windows_per_batch",
    "windows",
    "repeats",
    "overlap",
    "backend",
)
COSTS = ("seconds_per_image", "seconds_per_step", "megapixels_per_second", "parameters", "multiply_adds", "image_bytes")
SAMPLING = ("samples", "period_ms", "longest_gap_ms", "context_bytes", "exclusive", "foreign_processes")
COLUMNS = (
    "workload",
    "method",
    "benchmark",
    *PLAIN,
    "patch",
    "same_as",
    "phase",
    "peak_by_phase",
    *GPU_CHANNELS,
    "computed",
    "unavailable",
    *COSTS,
    *SAMPLING,
    *FACTS,
)
"""`same_as`: the benchmark with the same workload that was measured. Memory in bytes; `computed` from the graph."""

Request = dict[str, Any]
Ask = Callable[[Request, float], dict[str, Any]]
"""Measures a request in a fresh process within so many seconds, and answers its record."""


@dataclass(frozen=True)
class Cell:
    """One workload of one method on one benchmark."""

    workload: str
    method: str
    benchmark: str


def ordered(workloads: Sequence[str], methods: Sequence[str], benchmarks: Sequence[str]) -> list[Cell]:
    """All cells, the most important first: `workloads` in their order, in each SCPSeg beside `patch`, then rivals."""
    pair = [method for method in PAIR if method in methods]
    rest = [method for method in SINGLE if method in methods]
    rest += [method for method in methods if method not in (*PAIR, *SINGLE)]
    cells = []
    for workload in workloads:
        cells += [Cell(workload, method, benchmark) for benchmark in benchmarks for method in pair]
        cells += [Cell(workload, method, benchmark) for method in rest for benchmark in benchmarks]
    return cells


class Table:
    """Rows by cell; all are there from the start, so that none vanishes however the run ends."""

    def __init__(self, requests: dict[Cell, Request], fingerprint: dict[str, Any]) -> None:
        """Begin with nothing measured; `requests` in the order of measuring."""
        self.requests = requests
        self.facts = {name: fingerprint[name] for name in FACTS}
        self.rows = {cell: self._empty(cell, NOT_MEASURED, "the run ended before it") for cell in requests}
        self.measured: dict[str, tuple[Cell, dict[str, Any]]] = {}

    def fill(self, ask: Ask, left: Callable[[], float], save: Callable[[], None]) -> None:
        """Measure cell by cell while seconds are `left`; `save` after each."""
        save()
        for cell, request in self.requests.items():
            twin = self._twin(request)
            if twin:
                self.rows[cell] = self._row(cell, twin[1]) | {"same_as": twin[0].benchmark}
            else:
                self.rows[cell] = self._measured(cell, request, ask, left)
            save()

    def failed(self) -> list[Cell]:
        """Cells whose measurement failed, out of memory not among them."""
        return [cell for cell, row in self.rows.items() if row["status"] == "failed"]

    def text(self) -> str:
        """As CSV, LF line ends."""
        stream = io.StringIO()
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows.values())
        return stream.getvalue()

    def _measured(self, cell: Cell, request: Request, ask: Ask, left: Callable[[], float]) -> dict[str, Any]:
        seconds = left()
        if seconds <= 0:
            return self._empty(cell, NOT_MEASURED, "time budget")
        try:
            record = ask(request, seconds)
        except ChildTooSlow:
            return self._empty(cell, NOT_MEASURED, "time budget")
        except UserError as error:
            return self._empty(cell, "failed", str(error))
        if record["status"] in ("ok", "oom"):
            self.measured[identity(request, sizes=True)] = cell, record
            if record.get("units") == ["window"]:
                self.measured[identity(request, sizes=False)] = cell, record
        return self._row(cell, record)

    def _twin(self, request: Request) -> tuple[Cell, dict[str, Any]] | None:
        """A cell already measured whose workload is the same, with its record."""
        return self.measured.get(identity(request, sizes=True)) or self.measured.get(identity(request, sizes=False))

    def _row(self, cell: Cell, record: dict[str, Any]) -> dict[str, Any]:
        found = {name: record.get(name) for name in (*PLAIN, *COSTS, *SAMPLING, "phase", "computed")}
        memory = {name: record["memory"][name] for name in GPU_CHANNELS}
        gone = "; ".join(f"{name}: {why}" for name, why in record["unavailable"].items() if name in GPU_CHANNELS)
        peaks = record.get("peak_by_phase", {})
        told = (
            " ".join([f"{record['peak_of']}:", *(f"{name}={used}" for name, used in peaks.items())]) if peaks else None
        )
        row = self._empty(cell, record["status"], record["reason"]) | found | memory
        sizes = {name: self.requests[cell]["workload"][name] for name in ("height", "width")}
        return row | sizes | {"unavailable": gone if record["status"] == "ok" else None, "peak_by_phase": told}

    def _empty(self, cell: Cell, status: str, reason: str | None) -> dict[str, Any]:
        request = self.requests[cell]
        workload = request["workload"]
        return {
            **dict.fromkeys(COLUMNS),
            "workload": cell.workload,
            "method": cell.method,
            "benchmark": cell.benchmark,
            "status": status,
            "reason": reason,
            "height": workload["height"],
            "width": workload["width"],
            "windows_per_batch": workload["batch"],
            "repeats": workload["repeats"],
            "patch": request["params"][cell.benchmark]["patch"],
            **self.facts,
        }


def identity(request: Request, sizes: bool) -> str:
    """The same for requests whose workloads are the same; without `sizes` the image's do not count.

    A training step on windows does not depend on the size of the image that they are cut from.
    """
    workload = {key: value for key, value in request["workload"].items() if sizes or key not in ("height", "width")}
    patch = request["params"][request["benchmark"]]["patch"]
    return json.dumps([request["kind"], request["method"], patch, sizes, workload], sort_keys=True)


def largest(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the phases of one training step the one with the highest peak, with every phase's under `peak_by_phase`.

    One that did not end well stands for all: the step cannot be trained.
    """
    units = sorted({str(record.get("unit")) for record in records})
    bad = [record for record in records if record["status"] != "ok"]
    if bad:
        named = f"phase {bad[0]['phase']}: " if bad[0].get("phase") and len(records) > 1 else ""
        return {**bad[0], "reason": f"{named}{bad[0]['reason']}", "units": units}
    # Compared by a channel that every phase has.
    channel = next(
        (name for name in HEADLINES if all(record["memory"][name] is not None for record in records)), "torch_allocated"
    )
    peaks = {record["phase"]: record["memory"][channel] for record in records}
    most = max(records, key=lambda record: record["memory"][channel] or 0)
    return {**most, "peak_by_phase": peaks, "peak_of": channel, "units": units}


def slug(name: str) -> str:
    """A device's name as a folder's: 'NVIDIA H100 80GB HBM3' -> 'nvidia-h100-80gb-hbm3'."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
