"""Compare two or more runs side by side: changed parameters, then scores and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scpseg.benchmarks import BENCHMARKS
from scpseg.reporting.published import title_of
from scpseg.reporting.statistics import estimate, paired
from scpseg.reporting.summary import scores
from scpseg.reporting.tables import Cell, Column, Table, mebibytes, points, render, share, words

Key = tuple[str, str]
"""Benchmark and method."""
CODE = "code: git revision of the training"


@dataclass(frozen=True)
class Side:
    """A run: name, parameters by 'section.key', rows of results/summary.csv (as texts, None if empty), summary.json."""

    name: str
    params: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, str]:
        """Parameters and code as texts."""
        revisions = ", ".join(dict.fromkeys(row["revision"] for row in self.rows if row.get("revision")))
        return {CODE: revisions} | {key: str(value) for key, value in self.params.items()}

    def of(self, key: Key) -> list[Mapping[str, Any]]:
        """Rows of a benchmark and method."""
        return [row for row in self.rows if (row["benchmark"], row["method"]) == key]

    def score(self, key: Key) -> Cell:
        """Mean over the seeds, and why runs have no score."""
        gone = [f"{row['status']}: {row['reason']}" for row in self.of(key) if row.get("status") not in (None, "ok")]
        return share(estimate(scores(self.of(key)).values()), dict.fromkeys(gone))

    def profiled(self, key: Key) -> Cell:
        """Memory of stage profile in MiB."""
        return mebibytes(next((float(row["memory_mib"]) for row in self.of(key) if row.get("memory_mib")), None))

    def memory(self, key: Key) -> Cell:
        """Memory at real size in MiB."""
        return mebibytes(self.summary.get(key[0], {}).get(key[1], {}).get("memory_mib"))


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """'section.key' -> value of a parameter file."""
    return {
        f"{section}.{key}": value
        for section, entries in values.items()
        for key, value in (entries.items() if isinstance(entries, Mapping) else [("", entries)])
    }


def page(sides: Sequence[Side]) -> str:
    """The comparison in Markdown; differences are to the first run."""
    n = max((len(scores(side.of(key))) for side in sides for key in _keys(sides)), default=0)
    names = [side.name for side in sides]
    return render("compare.md.j2", names=names, changed=changed(sides), results=results(sides), one_seed=n < 2)


def _keys(sides: Sequence[Side]) -> list[Key]:
    return list(dict.fromkeys((row["benchmark"], row["method"]) for side in sides for row in side.rows))


def changed(sides: Sequence[Side]) -> Table:
    """Parameters that differ, one per line."""
    settings = {side.name: side.settings for side in sides}
    keys = dict.fromkeys(key for found in settings.values() for key in found)
    differing = [key for key in keys if len({found.get(key) for found in settings.values()}) > 1]
    columns = [words(name, [found.get(key) for key in differing]) for name, found in settings.items()]
    return Table.of("changed", "Changed parameters", [words("parameter", differing), *columns])


def results(sides: Sequence[Side]) -> Table:
    """Scores and memory of all benchmarks and methods in any run."""
    keys, first = _keys(sides), sides[0]
    benchmarks = [BENCHMARKS[name].title if name in BENCHMARKS else name for name, _ in keys]
    columns = [words("benchmark", benchmarks), words("method", [title_of(method) for _, method in keys])]
    for side in sides:
        columns.append(Column(f"{side.name}: mean IoU %", map(side.score, keys)))
        if side is not first:
            gains = [points(paired(scores(side.of(key)), scores(first.of(key)))) for key in keys]
            columns.append(Column(f"{side.name} − {first.name}", gains, key=f"to-{side.name}"))
    columns += [Column(f"{side.name}: MiB", map(side.memory, keys)) for side in sides]
    columns += [Column(f"{side.name}: profiled MiB", map(side.profiled, keys)) for side in sides]
    return Table.of("results", "Scores and memory", columns)
