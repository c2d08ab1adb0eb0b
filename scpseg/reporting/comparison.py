"""The comparison of the methods on one benchmark: paired differences, places, and what a reader must know."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scpseg.benchmarks import get_benchmark
from scpseg.benchmarks.base import Benchmark
from scpseg.reporting.memory import one_source
from scpseg.reporting.published import Published, elsewhere, published, title_of
from scpseg.reporting.statistics import Counts, Difference, corrected, differences, dominators, ranks
from scpseg.reporting.summary import Line, Row, read_matrices
from scpseg.tuning import GRID

SCORED = ("split", "images", "images_of", "train_images", "train_images_of", "split_list", "labels")


@dataclass(frozen=True)
class Part:
    """A benchmark's part of the report, with the comparison of its methods."""

    lines: Sequence[Line]
    results: Path
    reference: str

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return self.lines[0].benchmark

    @property
    def spec(self) -> Benchmark:
        """The benchmark."""
        return get_benchmark(self.name)

    @property
    def done(self) -> list[Row]:
        """Rows with a result."""
        return [row for line in self.lines for row in line.done]

    @property
    def synthetic(self) -> bool:
        """Whether it has results, all on synthetic scenes."""
        return bool(self.done) and all(map(invented, self.done))

    @property
    def real(self) -> bool:
        """Whether it has results, all on real images."""
        return bool(self.done) and not any(map(invented, self.done))

    @property
    def source(self) -> str | None:
        """Source of the memory at real size, or None if there is not exactly one."""
        return one_source([line.memory for line in self.lines])

    @property
    def ranked(self) -> list[Line]:
        """Lines in the ranking: those with a score and the common recipe."""
        return [line for line in self.lines if line.score is not None and line["model:recipe"] in (None, "suite")]

    @property
    def at_edge(self) -> bool:
        """Whether the learning rate of every ranked method is an extreme candidate; the note is then printed once."""
        return bool(self.ranked) and all(line.of("rate") for line in self.ranked)

    @cached_property
    def pairs(self) -> dict[tuple[str, str], Difference]:
        """Paired differences of all methods that were scored on the same images."""
        found: dict[str, dict[int, Counts]] = {}
        ids: list[str] | None = None
        for line in self.ranked:
            for row in line.done:
                read = read_matrices(self.results, row)
                if read is not None and (ids is None or ids == read[0]):
                    ids = read[0]
                    found.setdefault(line.method, {})[row["seed"]] = read[1]
        return differences(found, self.spec.scored)

    @cached_property
    def p_values(self) -> dict[tuple[str, str], float]:
        """Holm's p value of every pair."""
        return corrected(self.pairs)

    @cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        """Best and worst rank that the comparisons allow, for methods with at least two seeds."""
        return ranks([line.method for line in self.ranked if line.mean_iou.n > 1], self.pairs, self.p_values)

    @cached_property
    def dominated(self) -> dict[str, list[str]]:
        """Method -> display names of methods that are at least as good with at most its memory."""
        known = {line.method: (line.memory.mib, line.score) for line in self.ranked if line.memory and line.score}
        return {name: [title_of(other) for other in found] for name, found in dominators(known).items()}

    @property
    def published(self) -> list[Published]:
        """Published rows of this benchmark."""
        return [row for row in (*published(), *elsewhere()) if row.benchmark == self.name]

    @property
    def hollow(self) -> list[Published]:
        """Published rows in figures: those with score and memory, and only next to scores on the real test images."""
        tested = {row["split"] for row in self.done} == {"test"} and not self.synthetic
        return [row for row in self.published if tested and row.miou and row.memory]

    @property
    def detectable(self) -> float | None:
        """Smallest difference in per cent that is detected with 80 % power, the median over all pairs."""
        found = [pair.detectable for pair in list(self.pairs.values())[::2]]
        return 100 * statistics.median(found) if found else None

    @property
    def facts(self) -> dict[str, object]:
        """The images and sizes behind the scores and the memory, for the templates."""
        warnings = [text for row in self.done for text in str(row["warnings"] or "").split(" | ") if text]
        runs = dict.fromkeys(tuple(row[key] for key in SCORED) for row in self.done)
        return {
            "sizes": list(dict.fromkeys(str(row["image_sizes"]) for row in self.done)),
            "runs": [dict(zip(SCORED, run, strict=True)) for run in runs],
            "profiled": next((line.first for line in self.lines if line.first["height"] is not None), None),
            "notes": list(dict.fromkeys([*warnings, *self.spec.notes])),
            "detectable": self.detectable,
            "candidates": ", ".join(GRID) if self.at_edge else "",
            "folds": max((sum(key.startswith("fold:") and row[key] is not None for key in row) for row in self.done),
                         default=0),
            "n": max((line.mean_iou.n for line in self.lines), default=0),
        }  # fmt: skip


def invented(row: Row) -> bool:
    """Whether a row is of synthetic scenes."""
    return row["synthetic"] in (True, "True")
