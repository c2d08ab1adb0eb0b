"""Tables of the report: their columns, and the number in each cell."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from scpseg.benchmarks import get_benchmark
from scpseg.benchmarks.base import Benchmark
from scpseg.reporting.memory import one_source
from scpseg.reporting.published import Published, elsewhere, published, published_row, title_of
from scpseg.reporting.statistics import LEVEL, Counts, Difference, Estimate, corrected, differences, dominators, ranks
from scpseg.reporting.summary import NOT_SETTINGS, Line, Row, read_matrices
from scpseg.reporting.tables import Cell, Field, Table, mebibytes, number, points, seconds, share, table_of, text, words
from scpseg.tuning import GRID

SETTING_KINDS = ("model:", "segmenter:", "training:", "inference:")
SCORED = ("split", "images", "images_of", "train_images", "train_images_of", "split_list", "labels")
SIZES = ("patch", "context", "squeezed", "overview")
SOURCES = {"nvml": "NVML", "computed": "computed", None: "at real size"}
EMPTY = (None, "")


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
    def mean(self) -> str:
        """Name of the mean IoU on this benchmark."""
        return self.spec.mean_name

    @property
    def synthetic(self) -> bool:
        """Whether all its runs used synthetic scenes."""
        done = [row for line in self.lines for row in line.done]
        return bool(done) and all(row["synthetic"] in (True, "True") for row in done)

    @property
    def real(self) -> bool:
        """Whether it has results, all on real images."""
        done = [row for line in self.lines for row in line.done]
        return bool(done) and not any(row["synthetic"] in (True, "True") for row in done)

    @property
    def source(self) -> str | None:
        """Source of the memory at real size, or None if there is not exactly one."""
        return one_source([line.memory for line in self.lines])

    @property
    def ranked(self) -> list[Line]:
        """Lines in the ranking: those with a score and the common recipe."""
        return [line for line in self.lines if line.mean_iou.mean is not None and _common(line)]

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
        several = [line.method for line in self.ranked if line.mean_iou.n > 1]
        return ranks(several, self.pairs, self.p_values)

    @cached_property
    def dominated(self) -> dict[str, list[str]]:
        """Method -> display names of methods that are at least as good with at most its memory."""
        known = {
            line.method: (line.memory.mib, line.mean_iou.mean)
            for line in self.ranked
            if line.memory is not None and line.mean_iou.mean is not None
        }
        return {name: [title_of(other) for other in found] for name, found in dominators(known).items()}

    @property
    def at_edge(self) -> bool:
        """Whether the learning rate of every ranked method is at the edge of its candidates: then it is said once."""
        return bool(self.ranked) and all(line.of("rate") for line in self.ranked)

    @property
    def hollow(self) -> list[Published]:
        """Published rows in figures: those with score and memory, and only next to scores on the real test images."""
        splits = {row["split"] for line in self.lines for row in line.done}
        if self.synthetic or splits - {"test"} or not splits:
            return []
        return [row for row in (*published(), *elsewhere()) if row.benchmark == self.name and row.miou and row.memory]


def _common(line: Line) -> bool:
    return line.first.get("model:recipe") in (None, "suite")


def place(part: Part, line: Line) -> Cell:
    """'1', or '1-3' for ties; a dash if there is only one seed."""
    if line.method not in part.places:
        return Cell()
    low, high = part.places[line.method]
    return Cell(str(low) if low == high else f"{low}–{high}", low + high / 1000)


def main_table(part: Part) -> Table:
    """Accuracy, memory and speed of the methods on one benchmark."""
    f1 = "mF1" if part.mean == "mIoU" else part.mean.replace("IoU", "F1")
    base = title_of(part.reference)
    top = {method for method, (low, _) in part.places.items() if low == 1}
    paper = {line.method: _paper(line) for line in part.lines}

    def printed(column: str, digits: int) -> Callable[[Line], Cell]:
        def cell(line: Line) -> Cell:
            value = _float(getattr(paper[line.method], column, None))
            return number(value, digits, line.of("published") if value is not None else ())

        return cell

    def mean(column: str, *others: str) -> Callable[[Line], Cell]:
        return lambda line: number(next((m for c in (column, *others) if (m := line.mean(c)) is not None), None), 0)

    def counted(line: Line) -> Cell:
        done, declared = len(line.done), len(line.rows)
        return text(f"{done} of {declared}" if done < declared else declared)

    def profiled(line: Line) -> Cell:
        return Cell("OOM") if line.first["profile_status"] == "oom" else mebibytes(line.first["memory_mib"])

    def parameters(line: Line) -> Cell:
        found = line.first["parameters"]
        return number(None if found is None else found / 1e6, 2)

    def dominators_of(line: Line) -> str:
        names = part.dominated.get(line.method, [])
        return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")

    def doubts(line: Line) -> tuple[str, ...]:
        return line.of("mean_iou") + (() if part.at_edge else line.of("rate"))

    side, meter = f"{part.spec.side} × {part.spec.side}", SOURCES[part.source]
    score, scored = f"{part.mean} %", "over seeds, with half the 95 % t interval"
    paired, ours = f"difference to {base} in points, paired, 95 % interval", "of the profiled image"
    elsewhere = "as published: other machines, often another encoder"
    fields = [
        Field("method", lambda line: text(line.title, "; ".join(line.of("method"))), left=True),
        Field("place", lambda line: place(part, line), "what the paired tests leave open; a range is a tie"),
        Field(score, lambda line: share(line.mean_iou, doubts(line), line.method in top), scored, key="score"),
        Field(f"to {base}", lambda line: _difference(part, line), paired, key="difference"),
        Field(f"memory MiB ({meter})", _memory, f"peak of inference on one image of {side} pixels", key="memory"),
        Field(f"paper {part.mean} %", printed("miou", 1), elsewhere, key="paper-score"),
        Field("paper MB", printed("memory", 0), elsewhere),
        Field(f"{f1} %", lambda line: share(line.mean_f1), key="f1"),
        Field("accuracy %", lambda line: share(line.accuracy), "of all labelled pixels"),
        Field("s / image", lambda line: seconds(line.first["seconds_per_image"], line.of("seconds")), ours),
        Field("MPx / s", lambda line: seconds(line.first["megapixels_per_second"]), ours),
        Field("parameters M", parameters, "that inference needs"),
        Field("seeds", counted),
        words("dominated by", dominators_of, "at least the score at no more memory"),
        Field("training step MiB", lambda line: mebibytes(line.memory.training if line.memory else None), shown=False),
        Field("steps", mean("training:steps", "training:iterations"), "of the optimiser", shown=False),
        Field("samples", mean("training:samples"), "windows or overviews seen in training", shown=False),
        Field("MPx seen", mean("training:megapixels"), "pixels seen in training", shown=False),
        Field("training s", mean("training:seconds"), shown=False),
        Field("profiled MiB", profiled, "of the profiled image, by the meter beside it", shown=False),
        Field("meter", lambda line: text(line.first["memory_backend"]), left=True, shown=False),
    ]
    return table_of(f"main-{part.name}", f"{part.spec.title}: accuracy, memory and speed", fields, part.lines)


def _difference(part: Part, line: Line) -> Cell:
    if line.method == part.reference:
        return Cell("reference")
    found = part.pairs.get((line.method, part.reference))
    one = ("one seed: the interval is over images alone, and a difference of two trainings, not of methods",)
    return points(Estimate(found.value, found.half, found.seeds), one if found.seeds < 2 else ()) if found else Cell()


def _memory(line: Line) -> Cell:
    return mebibytes(line.memory.mib if line.memory else None, line.of("memory"))


def _paper(line: Line) -> Published | None:
    """The paper's figures for a line: they are of the test images, so they are not shown next to other scores."""
    if line.first.get("split") not in (None, "test") or get_benchmark(line.benchmark).invented:
        return None
    names = (str(line.first.get(f"segmenter:{key}") or "") for key in ("name", "encoder"))
    return published_row(line.benchmark, line.method, *names)


def pair_table(part: Part) -> Table:
    """Every pair of methods: difference, interval, p values, and detectable difference."""

    def verdict(pair: tuple[str, str]) -> str:
        found = part.pairs[pair]
        if found.seeds < 2:
            return "one seed"
        return "tie" if part.p_values[pair] >= LEVEL else f"{title_of(pair[0] if found.value > 0 else pair[1])} better"

    def change(pair: tuple[str, str]) -> Cell:
        return points(Estimate(found[pair].value, found[pair].half, found[pair].seeds))

    found = part.pairs
    fields: list[Field[tuple[str, str]]] = [
        words("method", lambda pair: title_of(pair[0])),
        words("compared with", lambda pair: title_of(pair[1])),
        Field(
            "difference", lambda pair: points(Estimate(found[pair].value, found[pair].half, 2)), "points, 95 % interval"
        ),
        Field("p", lambda pair: _p(found[pair].p)),
        Field(
            "p (Holm)", lambda pair: _p(part.p_values[pair]), "corrected for all pairs of this benchmark", key="holm"
        ),
        words("verdict", verdict, f"at {100 * LEVEL:.0f} %"),
        Field(
            "detectable", lambda pair: number(100 * found[pair].detectable), "smallest difference shown with 80 % power"
        ),
        Field("seeds", lambda pair: number(found[pair].seeds, 0)),
        Field("images", lambda pair: number(found[pair].images, 0)),
    ]
    return table_of(f"pairs-{part.name}", f"{part.spec.title}: paired differences", fields, list(found)[::2])


def _p(value: float) -> Cell:
    return Cell("<0.001" if value < 0.001 else f"{value:.3f}", value)


def detectable(part: Part) -> float | None:
    """Smallest difference in per cent that is detected with 80 % power, the median over all pairs."""
    found = [pair.detectable for pair in list(part.pairs.values())[::2]]
    return 100 * statistics.median(found) if found else None


def class_table(part: Part) -> Table:
    """IoU of every class, tinted; classes that are not in the mean are in brackets."""

    def tinted(name: str) -> Callable[[Line], Cell]:
        return lambda line: replace(share(line.iou[name]), shade=line.iou[name].mean)

    fields: list[Field[Line]] = [words("method", lambda line: line.title)]
    fields += [
        Field(cls.name if cls.scored else f"({cls.name})", tinted(cls.name), key=f"class{n}")
        for n, cls in enumerate(part.spec.classes)
    ]
    return table_of(f"classes-{part.name}", f"{part.spec.title}: IoU of every class in per cent", fields, part.lines)


def network_table(part: Part) -> Table:
    """Networks, inputs and training of each method."""

    def seen(line: Line) -> str:
        found = {key.split(":")[1]: line.first[key] for key in line.first if re.fullmatch("trained:.*:samples", key)}
        return ", ".join(f"{name} {count}" for name, count in found.items() if count is not None)

    def of(column: str) -> Callable[[Line], Any]:
        return lambda line: line.first.get(column)

    def size_of(column: str) -> Callable[[Line], Cell]:
        return lambda line: text(line.first.get(column))

    fields: list[Field[Line]] = [
        words("method", lambda line: line.title),
        words("segmenter", of("segmenter:name")),
        words("encoder", of("segmenter:encoder")),
        words("initial weights", of("segmenter:weights")),
        *(Field(size, size_of(f"model:{size}"), "side in pixels") for size in SIZES),
        words("recipe", of("model:recipe")),
        words("samples by branch", seen),
    ]
    return table_of(f"networks-{part.name}", f"{part.spec.title}: what is compared", fields, part.lines)


def published_table(part: Part) -> Table:
    """Every published row of this benchmark, with remarks."""
    fields: list[Field[Published]] = [
        Field("method", lambda row: text(row.method, row.remark), left=True),
        words("network", lambda row: row.segmenter),
        words("mode", lambda row: row.mode),
        Field(f"{part.mean} %", lambda row: number(_float(row.miou), 1), key="score"),
        Field("mF1 %", lambda row: number(_float(row.mf1), 1, (row.f1_problem,) if row.f1_problem else ())),
        Field("accuracy %", lambda row: number(_float(row.accuracy), 1)),
        Field("memory MB", lambda row: number(_float(row.memory), 0)),
        words("source", lambda row: row.source),
    ]
    rows = [row for row in (*published(), *elsewhere()) if row.benchmark == part.name]
    return table_of(f"published-{part.name}", f"{part.spec.title}: as published", fields, rows)


def _float(printed: str | None) -> float | None:
    return float(printed) if printed else None


def overview_table(parts: Sequence[Part]) -> Table:
    """Every method on every benchmark: score, memory, mean rank, and where it is dominated. No mean of scores."""
    lines = {(part.name, line.method): line for part in parts for line in part.lines}

    def score(part: Part) -> Callable[[str], Cell]:
        return lambda method: share(lines[part.name, method].mean_iou, (), part.places.get(method, (0, 0))[0] == 1)

    def memory(part: Part) -> Callable[[str], Cell]:
        return lambda method: _memory(lines[part.name, method])

    def mean_place(method: str) -> Cell:
        known = [sum(part.places[method]) / 2 for part in parts if method in part.places]
        return number(statistics.fmean(known) if len(known) == len(parts) else None)

    def dominated(method: str) -> str:
        return ", ".join(part.spec.title for part in parts if part.dominated.get(method))

    fields: list[Field[str]] = [words("method", title_of)]
    for part in parts:
        fields.append(Field(f"{part.spec.title}: {part.mean} %", score(part), key=f"score-{part.name}"))
        fields.append(Field(f"MiB ({SOURCES[part.source]})", memory(part), key=f"memory-{part.name}"))
    fields.append(Field("mean place", mean_place, "over the benchmarks, ties at the middle of their range"))
    marks = "another method is at least as good there at no more memory"
    fields.append(
        words("dominated on", lambda method: ", ".join(p.spec.title for p in parts if p.dominated.get(method)), marks)
    )
    methods = dict.fromkeys(line.method for part in parts for line in part.lines)
    return table_of("overview", "All methods on all benchmarks", fields, methods)


def settings_table(part: Part, common: Mapping[str, object]) -> Table:
    """Settings in which the methods on one benchmark differ, one per line."""

    def values(line: Line) -> Callable[[str], str]:
        def of(key: str) -> str:
            return ", ".join(dict.fromkeys(str(row[key]) for row in line.done if row.get(key) not in EMPTY))

        return of

    lines = [line for line in part.lines if line.done]
    fields = [words("setting", plain), *(words(line.title, values(line)) for line in lines)]
    keys = [key for key in part.lines[0].first if is_setting(key) and key not in common]
    kept = [key for key in [*keys, "revision"] if any(values(line)(key) for line in lines)]
    return table_of(f"settings-{part.name}", f"{part.spec.title}: settings", fields, kept)


def is_setting(key: str) -> bool:
    """Whether a column is a setting of a run."""
    return key.startswith(SETTING_KINDS) and not key.startswith(NOT_SETTINGS)


def common_settings(rows: Iterable[Row]) -> dict[str, object]:
    """Settings that all finished runs have in common, by column."""
    run = [row for row in rows if row["status"] == "ok"]
    keys = [
        key for key in (run[0] if run else {}) if key.startswith(SETTING_KINDS) and not key.startswith(NOT_SETTINGS)
    ]
    return {key: run[0][key] for key in keys if len({str(row[key]) for row in run}) == 1 and run[0][key] not in EMPTY}


def plain(key: str) -> str:
    """'training:batch' as 'batch', 'segmenter:name' as 'segmenter name'."""
    kind, _, name = key.partition(":")
    return f"{kind} {name}" if kind in ("segmenter", "inference") else name or kind


def command_table(lines: Sequence[Line]) -> Table:
    """The command that computes each row again, and its state."""

    def stage(row: Row) -> str:
        if row["method"] == "scpseg":
            return f"dvc repro evaluate-scpseg@{row['benchmark']}-{row['seed']}"
        return f"dvc repro evaluate-baseline@{row['benchmark']}-{row['method']}-{row['seed']}"

    fields: list[Field[Row]] = [
        words("benchmark", lambda row: get_benchmark(row["benchmark"]).title),
        words("method", lambda row: title_of(row["method"])),
        Field("seed", lambda row: number(row["seed"], 0)),
        Field("status", lambda row: text(row["status"], row["reason"]), left=True),
        Field("mean IoU %", lambda row: number(None if row["mean_iou"] is None else 100 * row["mean_iou"], 2)),
        words("revision", lambda row: row.get("revision")),
        words("command", stage, "on top of the same params.yaml"),
        words("weights", lambda row: str(row.get("training:weights_hash") or "")[:8], "start of the SHA-256"),
    ]
    return table_of("runs", "Every declared run", fields, [row for line in lines for row in line.rows])


def environments(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(stage, facts) of each distinct environment."""
    found: dict[str, dict[str, None]] = {}
    kinds = {
        "environment:": "training",
        "evaluation_environment:": "evaluation",
        "profile_environment:": "memory and speed",
    }
    for row in rows:
        for kind, what in kinds.items():
            facts = [
                (key.removeprefix(kind), row[key]) for key in row if key.startswith(kind) and row[key] not in EMPTY
            ]
            if facts:
                found.setdefault(", ".join(f"{name} {value}" for name, value in facts), {})[what] = None
    return [(", ".join(done), facts) for facts, done in found.items()]


def facts(part: Part) -> dict[str, object]:
    """The images and sizes behind the scores and the memory of one benchmark, for the templates."""
    done = [row for line in part.lines for row in line.done]
    warnings = [text for row in done for text in str(row["warnings"] or "").split(" | ") if text]
    runs = dict.fromkeys(tuple(row[key] for key in SCORED) for row in done)
    return {
        "sizes": list(dict.fromkeys(str(row["image_sizes"]) for row in done)),
        "runs": [dict(zip(SCORED, run, strict=True)) for run in runs],
        "profiled": next((line.first for line in part.lines if line.first["height"] is not None), None),
        "notes": list(dict.fromkeys([*warnings, *part.spec.notes])),
        "detectable": detectable(part),
        "candidates": ", ".join(GRID) if part.at_edge else "",
        "n": max((line.mean_iou.n for line in part.lines), default=0),
    }
