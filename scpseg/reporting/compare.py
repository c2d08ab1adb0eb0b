"""Compare two or more runs side by side: changed parameters, then scores and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scpseg.benchmarks import BENCHMARKS
from scpseg.reporting.pages import Section, markdown, texts
from scpseg.reporting.published import title_of
from scpseg.reporting.statistics import estimate, paired
from scpseg.reporting.summary import scores
from scpseg.reporting.tables import Column, Table, made

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

    def values(self, benchmark: str, method: str, base: Side) -> dict[str, Any]:
        """Score, why runs have none, its difference to `base`, memory at real size and of stage profile in MiB."""
        rows, other = ([row for row in side.rows if (row["benchmark"], row["method"]) == (benchmark, method)]
                       for side in (self, base))  # fmt: skip
        gone = [f"{row['status']}: {row['reason']}" for row in rows if row.get("status") not in (None, "ok")]
        return {
            "score": (estimate(scores(rows).values()), dict.fromkeys(gone)),
            "gain": None if self is base else paired(scores(rows), scores(other)),
            "memory": self.summary.get(benchmark, {}).get(method, {}).get("memory_mib"),
            "profiled": next((row["memory_mib"] for row in rows if row.get("memory_mib")), None),
        }


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """'section.key' -> value of a parameter file."""
    return {
        f"{section}.{key}": value
        for section, entries in values.items()
        for key, value in (entries.items() if isinstance(entries, Mapping) else [("", entries)])
    }


def page(sides: Sequence[Side]) -> str:
    """The comparison in Markdown; differences are to the first run."""
    different, found, names = changed(sides), results(sides), [side.name for side in sides]
    several = any("±" in cell.text for row in found.rows for cell in row)
    blocks = [different if different.rows else texts().same, found, texts().compared(names[0], several)]
    return markdown(Section(" against ".join(names), blocks), Path())


def changed(sides: Sequence[Side]) -> Table:
    """Parameters that differ, one per line."""
    settings: dict[str, Mapping[str, Any]] = {side.name: side.settings for side in sides}
    keys = dict.fromkeys(key for found in settings.values() for key in found)
    rows = [{"parameter": key, **{f"of {name}": found.get(key) for name, found in settings.items()}} for key in keys]
    differing = [row for row in rows if len({*[*row.values()][1:]}) > 1]
    return made("changed", differing, [Column(name, "text", "", f"of {name}") for name in settings])


def results(sides: Sequence[Side]) -> Table:
    """Scores and memory of all benchmarks and methods in any run."""
    first, rows = sides[0], list[dict[str, Any]]()
    for benchmark, method in dict.fromkeys((row["benchmark"], row["method"]) for side in sides for row in side.rows):
        title = BENCHMARKS[benchmark].title if benchmark in BENCHMARKS else benchmark
        rows.append({"benchmark": title, "method": title_of(method)})
        for side in sides:
            found = side.values(benchmark, method, first)
            rows[-1] |= {f"{side.name} {key}": value for key, value in found.items()}
    titles = [("score", "{}: mean IoU %", "share"), ("gain", "{} − {}", "points"), ("memory", "{}: MiB", "mib"),
              ("profiled", "{}: profiled MiB", "mib")]  # fmt: skip
    columns = [Column(title.format(side.name, first.name), kind, "", f"{side.name} {key}")
               for key, title, kind in titles for side in sides]  # fmt: skip
    return made("results", rows, columns)
