"""Compare two or more runs side by side: changed parameters, then scores and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scpseg.benchmarks import BENCHMARKS
from scpseg.reporting.published import title_of
from scpseg.reporting.statistics import estimate
from scpseg.reporting.tables import Cell, Column, Table, mebibytes, points, render, share, table_of, words

Key = tuple[str, str]
"""Benchmark and method."""


@dataclass(frozen=True)
class Side:
    """A run: its name, parameters by 'section.key', rows of results/summary.csv (as texts, None if empty)."""

    name: str
    params: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    def scores(self, key: Key) -> dict[str, float]:
        """Mean IoU by seed."""
        return {row["seed"]: float(row["mean_iou"]) for row in self.of(key) if row.get("mean_iou")}

    def of(self, key: Key) -> list[Mapping[str, Any]]:
        """Rows of a benchmark and method."""
        return [row for row in self.rows if (row["benchmark"], row["method"]) == key]


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """'section.key' -> value of a parameter file."""
    return {
        f"{section}.{key}": value
        for section, entries in values.items()
        for key, value in (entries.items() if isinstance(entries, Mapping) else [("", entries)])
    }


def page(sides: Sequence[Side]) -> str:
    """The comparison in Markdown; differences are to the first run."""
    return render("compare.md.j2", names=[side.name for side in sides], changed=changed(sides), results=results(sides))


def changed(sides: Sequence[Side]) -> Table:
    """Parameters that differ, one per line."""

    def of(side: Side) -> Callable[[str], Any]:
        return lambda key: str(side.params[key]) if key in side.params else None

    keys = dict.fromkeys(key for side in sides for key in side.params)
    differing = [key for key in keys if len({str(side.params.get(key)) for side in sides}) > 1]
    fields: list[Column[str]] = [words("parameter", str), *(words(side.name, of(side)) for side in sides)]
    return table_of("changed", "Changed parameters", fields, differing)


def results(sides: Sequence[Side]) -> Table:
    """Scores and profiled memory of all benchmarks and methods in any run."""
    first = sides[0]

    def score(side: Side) -> Callable[[Key], Cell]:
        return lambda key: share(estimate(side.scores(key).values()), _why(side, key))

    def change(side: Side) -> Callable[[Key], Cell]:
        def cell(key: Key) -> Cell:
            mine, base = side.scores(key), first.scores(key)
            return points(estimate(mine[seed] - base[seed] for seed in mine if seed in base))

        return cell

    def memory(side: Side) -> Callable[[Key], Cell]:
        def cell(key: Key) -> Cell:
            found = next((row["memory_mib"] for row in side.of(key) if row.get("memory_mib")), None)
            return mebibytes(None if found is None else float(found))

        return cell

    fields: list[Column[Key]] = [
        words("benchmark", lambda key: BENCHMARKS[key[0]].title if key[0] in BENCHMARKS else key[0]),
        words("method", lambda key: title_of(key[1])),
    ]
    for side in sides:
        fields.append(Column(f"{side.name}: mean IoU %", score(side)))
        fields += [] if side is first else [Column(f"{side.name} − {first.name}", change(side), key=f"to-{side.name}")]
    fields += [Column(f"{side.name}: profiled MiB", memory(side)) for side in sides]
    keys = dict.fromkeys((row["benchmark"], row["method"]) for side in sides for row in side.rows)
    return table_of("results", "Scores and memory", fields, keys)


def _why(side: Side, key: Key) -> tuple[str, ...]:
    reasons = (f"{row['status']}: {row['reason']}" for row in side.of(key) if row.get("status") not in (None, "ok"))
    return tuple(dict.fromkeys(reasons))
