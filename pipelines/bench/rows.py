"""Interleaved measurements, and the table of their ratios.

A ratio is what the peer needs divided by what the suite needs: above 1, the suite is faster or smaller. Both sides run
in turn in one process with one thread, and their processor time counts, so that other programs on the machine slow
neither side.
"""

from __future__ import annotations

import csv
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from scpseg.errors import UserError
from scpseg.files import csv_rows, write_text
from scpseg.profiling.fresh import run_fresh

TABLE = Path("results/bench.csv")
RUNS = 5
"""Runs whose ratios a row keeps."""
EXTRA = "pip install '.[bench]'"
MIB = 2**20
SLOW = 1.0
"""Seconds above which a work is not repeated as often as the others."""
Work = Callable[[], object]
Took = Mapping[str, list[float]]
"""Seconds, or another unit, of each repeat, by name of the work."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        topic: group of rows.
        name: what is done.
        peer_name: what a user would pick instead, with its settings; '' for a row without a peer.
        peer_version: of the package, or '' for code written out in the bench.
        unit: of `ours` and `peer`.
        ours: median over the repeats, of the run in which it was lowest.
        peer: of the same run; None if the row has no peer, or if it is not installed.
        at_least: the least ratio that is aimed at; None = the row is information.
        at_most: the highest value that is aimed at, for rows without a peer.
        ratios: of each run, the oldest first: the median over its repeats; without a peer, of the values.
        spread: lowest and highest quartile, in any run, of the repeats of the peer over the median of ours; without a
            peer, of the values of `ours`.
        repeats: of each run.
        limit: how far `ours` is from what the machine allows, and where the time goes, in the same run.
        note: what else the reader must know.
        system: versions of Python, numpy and torch, and the processor.
    """

    topic: str
    name: str
    peer_name: str = ""
    peer_version: str = ""
    unit: str
    ours: float
    peer: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    ratios: tuple[float, ...]
    spread: tuple[float, float]
    repeats: int
    limit: str
    note: str
    system: str

    @property
    def key(self) -> tuple[str, ...]:
        """Rows with the same key measure the same: only their ratios can be joined."""
        return (self.topic, self.name, self.peer_name, self.peer_version, self.unit, self.system)

    @property
    def ratio(self) -> float | None:
        """Median over the runs, or None if the row has no peer."""
        return statistics.median(self.ratios) if self.ratios and self.peer_name else None

    @property
    def value(self) -> float:
        """Median over the runs, of a row without a peer."""
        return statistics.median(self.ratios or (self.ours,))

    @property
    def met(self) -> bool | None:
        """Whether the target is reached, or None if the row has no target or no peer."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None or self.ratio is None else self.ratio >= self.at_least


@dataclass(frozen=True)
class Peer:
    """What a user would pick instead.

    Attributes:
        name: with its settings.
        package: its distribution; '' for code written out in the bench.
        work: name of its work among those that were timed.
        at_least: see `Row`.
    """

    name: str
    package: str = ""
    work: str = ""
    at_least: float | None = None


def interleaved(works: Mapping[str, Work], repeats: int, clock: Callable[[], float] = time.process_time) -> Took:
    """Seconds of each work in every repeat; the works alternate, after one warm-up round.

    A work whose warm-up takes longer than `SLOW` is run once more: both runs count.
    """
    took: dict[str, list[float]] = {name: [] for name in works}
    first: dict[str, float] = {}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            if repeat > 1 and first[name] > SLOW:
                continue
            gc.collect()
            start = clock()
            work()
            spent = clock() - start
            if repeat == 0:
                first[name] = spent
            if repeat or spent > SLOW:
                took[name].append(spent)
    return took


def child_clock() -> float:
    """Processor seconds of all child processes that have ended."""
    spent = os.times()
    return spent.children_user + spent.children_system


def run(*words: str) -> None:
    """Run `python *words` silently.

    Raises:
        UserError: it fails.
    """
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"python {' '.join(words)} failed ({last}); run it alone to see why")


@cache
def version(package: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def compared(
    topic: str, name: str, unit: str, scale: float, took: Took, peers: Iterable[Peer], limit: str = "", note: str = ""
) -> list[Row]:
    """One row per peer against the work 'ours'; `scale` converts what was taken to `unit`.

    Peers that are not installed have a row without a ratio that says how to install them.
    """
    rows = []
    for peer in peers:
        found = version(peer.package) if peer.package else ""
        theirs = took.get(peer.work)
        missing = found is None or theirs is None
        middle = statistics.median(took["ours"])
        ratios = [] if missing or theirs is None else [value / middle for value in theirs]
        rows.append(
            Row(
                topic=topic,
                name=name,
                peer_name=peer.name,
                peer_version=found or "",
                unit=unit,
                ours=middle * scale,
                peer=statistics.median(theirs) * scale if theirs and not missing else None,
                at_least=peer.at_least,
                ratios=(statistics.median(ratios),) if ratios else (),
                spread=quartiles(ratios or [value * scale for value in took["ours"]]),
                repeats=len(took["ours"]),
                limit=limit,
                note=f"{peer.package} is not installed: {EXTRA}" if missing else note,
                system=system(),
            )
        )
    return rows


def alone(
    topic: str, name: str, unit: str, values: list[float], at_most: float | None = None, limit: str = "", note: str = ""
) -> Row:
    """A row without a peer; its spread is that of the values."""
    return Row(
        topic=topic,
        name=name,
        unit=unit,
        ours=statistics.median(values),
        at_most=at_most,
        ratios=(statistics.median(values),),
        spread=quartiles(values),
        repeats=len(values),
        limit=limit,
        note=note,
        system=system(),
    )


def quartiles(values: list[float]) -> tuple[float, float]:
    """Lowest and highest quartile; of a single value, the value twice."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def same(first: object, second: object, what: str) -> None:
    """Check that both sides compute the same.

    Raises:
        UserError: they do not, so their times say nothing.
    """
    import numpy as np

    if not np.array_equal(np.asarray(first), np.asarray(second)):
        raise UserError(f"{what}: both sides differ, so their times cannot be compared; report this")


@cache
def system() -> str:
    """Versions and processor, one thread."""
    import platform

    import numpy
    import torch

    from scpseg.environment import processor

    return f"Python {platform.python_version()}, numpy {numpy.__version__}, torch {torch.__version__}, {processor()}"


def peak(function: str, *arguments: object) -> float:
    """Peak MiB of resident memory above that before the work, in a fresh process.

    Args:
        function: 'module:name' of a function that makes the input from `arguments`, warms up, and returns the work.
        arguments: plain values.

    Raises:
        UserError: the system is not Linux.
    """
    if not sys.platform.startswith("linux"):
        raise UserError("peaks of memory are read from Linux's /proc; run `make bench` on Linux")
    answer = run_fresh(["pipelines.bench.child"], {"function": function, "arguments": list(arguments)})
    return float(answer["bytes"]) / MIB


def merged(old: list[Row], new: list[Row]) -> list[Row]:
    """The old rows, each replaced by the new one of its name, which takes over the ratios of runs of the same thing.

    A row without its peer does not replace one with it. New names are added at the end of their topic.
    """
    found = {(row.topic, row.name, row.peer_name): row for row in old}
    for row in new:
        name = (row.topic, row.name, row.peer_name)
        first = found.get(name)
        if first is None or first.key != row.key:
            found[name] = row if first is None or row.ratios or not first.ratios else first
        elif row.ratios or not first.ratios:
            spread = min(first.spread[0], row.spread[0]), max(first.spread[1], row.spread[1])
            quiet = min(first, row, key=lambda one: one.ours)
            found[name] = replace(quiet, ratios=(*first.ratios, *row.ratios)[-RUNS:], spread=spread)
    order = list(dict.fromkeys(row.topic for row in found.values()))
    return sorted(found.values(), key=lambda row: order.index(row.topic))


COLUMNS = [
    *("topic", "name", "ours", "peer", "unit", "peer_name", "peer_version", "ratio", "at_least", "at_most", "met"),
    *("ratios", "spread", "repeats", "limit", "note", "system"),
]


def text(rows: Iterable[Row]) -> str:
    """The rows as CSV."""
    cells = []
    for row in rows:
        values = {field.name: getattr(row, field.name) for field in fields(row)}
        values |= {"ratio": row.ratio, "met": {True: "yes", False: "no", None: None}[row.met]}
        cells.append({key: _cell(value) for key, value in values.items()})
    return csv_rows(COLUMNS, cells)


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(_cell(one) for one in value)
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def line(row: Row) -> str:
    """A row for a terminal."""
    if not row.peer_name:
        return f"{row.name}: {row.value:.3g} {row.unit}{_aim('at most', row.at_most, row.met)}\n"
    if row.ratio is None:
        return f"{row.name} / {row.peer_name}: {row.note}\n"
    figures = f"{row.ratio:.3g} x ({row.ours:.3g} against {row.peer:.3g} {row.unit})"
    return f"{row.name} / {row.peer_name}: {figures}{_aim('at least', row.at_least, row.met)}\n"


def _aim(words: str, aim: float | None, met: bool | None) -> str:
    return "" if aim is None else f", {words} {aim:g}{'' if met else ': MISSED'}"


def read(path: Path = TABLE) -> list[Row]:
    """Read the rows of a table; empty if the file does not exist.

    Raises:
        UserError: it is not such a table.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return [_row(values) for values in csv.DictReader(stream)]
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path.as_posix()} is not a table of this bench; delete it and run `make bench`") from error


def _row(values: dict[str, str]) -> Row:
    low, high = map(float, values["spread"].split())
    texts = ("topic", "name", "peer_name", "peer_version", "unit", "limit", "note", "system")
    found: dict[str, Any] = {name: values[name] for name in texts}
    found |= {name: float(values[name]) if values[name] else None for name in ("peer", "at_least", "at_most")}
    return Row(
        **found,
        ours=float(values["ours"]),
        ratios=tuple(map(float, values["ratios"].split())),
        spread=(low, high),
        repeats=int(values["repeats"]),
    )


def write(rows: list[Row], path: Path = TABLE) -> None:
    """Write the table, joined with the earlier runs in the file."""
    write_text(path, text(merged(read(path), rows)))
