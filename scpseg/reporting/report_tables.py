"""Tables of the report: their columns, and the number in each cell."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from scpseg.benchmarks import get_benchmark
from scpseg.reporting import tables
from scpseg.reporting.comparison import Part
from scpseg.reporting.published import Published, published_row, title_of
from scpseg.reporting.statistics import LEVEL, Estimate
from scpseg.reporting.summary import Line, Row, is_setting
from scpseg.reporting.tables import Cell, Column, Table, mebibytes, number, points, share, table_of, text, words

SIZES = ("patch", "context", "squeezed", "overview")
SOURCES = {"nvml": "NVML", "computed": "computed", None: "at real size"}
STAGES = {
    "environment:": "training",
    "evaluation_environment:": "evaluation",
    "profile_environment:": "memory and speed",
}
EMPTY = (None, "")
ONE_SEED = ("one seed: the interval covers images only; the difference is between two trainings, not between methods",)


def main_table(part: Part) -> Table:
    """Accuracy, memory and speed of the methods on one benchmark."""
    base, top = title_of(part.reference), {method for method, (low, _) in part.places.items() if low == 1}

    def place(line: Line) -> Cell | None:
        low, high = part.places.get(line.method, (0, 0))
        return Cell(str(low) if low == high else f"{low}–{high}", low + high / 1000) if low else None

    def score(line: Line) -> Cell:
        doubts = line.of("mean_iou") + (() if part.at_edge else line.of("rate"))
        return share(line.mean_iou, doubts, line.method in top)

    def difference(line: Line) -> Cell | None:
        found = part.pairs.get((line.method, part.reference))
        if found is None:
            return Cell("reference") if line.method == part.reference else None
        return points(Estimate(found.value, found.half, found.seeds), ONE_SEED if found.seeds < 2 else ())

    def printed(name: str, digits: int) -> Callable[[Line], Cell | None]:
        def cell(line: Line) -> Cell | None:
            value = getattr(_paper(line), name, None)
            return number(float(value), digits, line.of("published")) if value else None

        return cell

    def dominators_of(line: Line) -> str:
        names = part.dominated.get(line.method, [])
        return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")

    def seeds(line: Line) -> object:
        return len(line.rows) if len(line.done) == len(line.rows) else f"{len(line.done)} of {len(line.rows)}"

    def profiled(line: Line) -> Cell:
        return Cell("OOM") if line["profile_status"] == "oom" else mebibytes(line["memory_mib"])

    def parameters(line: Line) -> Cell | None:
        return number(line["parameters"] / 1e6, 2) if line["parameters"] else None

    def count(*names: str) -> Callable[[Line], Cell]:
        return lambda line: number(line.mean(*names), 0)

    mean, side, ours = part.spec.mean_name, part.spec.side, "of the profiled image"
    f1 = "mF1" if mean == "mIoU" else mean.replace("IoU", "F1")
    elsewhere = "as published: other machines, often another encoder"
    at_real_size = f"peak of inference on one image of {side} × {side} pixels"
    paired = f"difference to {base} in points, paired, 95 % interval"
    columns = [
        Column("method", lambda line: text(line.title, "; ".join(line.of("method"))), left=True),
        Column("place", place, "places that the paired tests leave open; a range is a tie"),
        Column(f"{mean} %", score, "over seeds, with half the 95 % t interval", key="score"),
        Column(f"to {base}", difference, paired, key="difference"),
        Column(f"memory MiB ({SOURCES[part.source]})", Line.memory_cell, at_real_size, key="memory"),
        Column(f"paper {mean} %", printed("miou", 1), elsewhere, key="paper-score"),
        Column("paper MB", printed("memory", 0), elsewhere),
        Column(f"{f1} %", lambda line: share(line.estimate("mean_f1")), key="f1"),
        Column("accuracy %", lambda line: share(line.estimate("accuracy")), "of all labelled pixels"),
        Column("s / image", lambda line: tables.seconds(line["seconds_per_image"], line.of("seconds")), ours),
        Column("MPx / s", lambda line: tables.seconds(line["megapixels_per_second"]), ours),
        Column("parameters M", parameters, "that inference needs"),
        Column("seeds", seeds),
        words("dominated by", dominators_of, "at least the score at no more memory"),
        Column("training step MiB", lambda line: mebibytes(line.memory and line.memory.training), shown=False),
        Column("steps", count("training:steps", "training:iterations"), "of the optimiser", shown=False),
        Column("samples", count("training:samples"), "windows or overviews seen in training", shown=False),
        Column("MPx seen", count("training:megapixels"), "pixels seen in training", shown=False),
        Column("training s", count("training:seconds"), shown=False),
        Column("profiled MiB", profiled, "of the profiled image, by the meter beside it", shown=False),
        Column("meter", lambda line: line["memory_backend"], left=True, shown=False),
    ]
    return table_of(f"main-{part.name}", f"{part.spec.title}: accuracy, memory and speed", columns, part.lines)


def _paper(line: Line) -> Published | None:
    """The paper's figures for a line: they are of the test images, so they are not shown next to other scores."""
    if line["split"] not in (None, "test") or get_benchmark(line.benchmark).invented:
        return None
    names = (str(line[f"segmenter:{key}"] or "") for key in ("name", "encoder"))
    return published_row(line.benchmark, line.method, *names)


def pair_table(part: Part) -> Table:
    """Every pair of methods: difference, interval, p values, and detectable difference."""
    found = part.pairs

    def verdict(pair: tuple[str, str]) -> str:
        if found[pair].seeds < 2:
            return "one seed"
        better = title_of(pair[0] if found[pair].value > 0 else pair[1])
        return "tie" if part.p_values[pair] >= LEVEL else f"{better} better"

    def p(value: float) -> Cell:
        return Cell("<0.001" if value < 0.001 else f"{value:.3f}", value)

    def change(pair: tuple[str, str]) -> Cell:
        return points(Estimate(found[pair].value, found[pair].half, 2))

    columns: list[Column[tuple[str, str]]] = [
        words("method", lambda pair: title_of(pair[0])),
        words("compared with", lambda pair: title_of(pair[1])),
        Column("difference", change, "points, 95 % interval"),
        Column("p", lambda pair: p(found[pair].p)),
        Column("p (Holm)", lambda pair: p(part.p_values[pair]), "corrected for all pairs shown here", key="holm"),
        words("verdict", verdict, f"at {100 * LEVEL:.0f} %"),
        Column("detectable", lambda pair: number(100 * found[pair].detectable), "points, with 80 % power"),
        Column("seeds", lambda pair: found[pair].seeds),
        Column("images", lambda pair: found[pair].images),
    ]
    return table_of(f"pairs-{part.name}", f"{part.spec.title}: paired differences", columns, list(found)[::2])


def class_table(part: Part) -> Table:
    """IoU of every class, tinted; classes that are not in the mean are in brackets."""
    shown = {f"iou:{cls.name}": cls.name if cls.scored else f"({cls.name})" for cls in part.spec.classes}
    return _shares(part, f"classes-{part.name}", "IoU of every class in per cent", shown)


def fold_table(part: Part) -> Table:
    """Score of every method on the test images of each fold, for benchmarks that are evaluated by rotation."""
    folds = sorted({key for row in part.done for key in row if key.startswith("fold:") and row[key] is not None})
    shown = {key: key.replace(":", " ") for key in folds}
    return _shares(part, f"folds-{part.name}", f"{part.spec.mean_name} of each fold in per cent", shown)


def _shares(part: Part, name: str, title: str, shown: Mapping[str, str]) -> Table:
    """Tinted shares: column of the frame -> title."""

    def of(column: str) -> Callable[[Line], Cell]:
        return lambda line: replace(share(line.estimate(column)), shade=line.estimate(column).mean)

    columns: list[Column[Line]] = [words("method", lambda line: line.title)]
    columns += [Column(title, of(column), key=f"c{n}") for n, (column, title) in enumerate(shown.items())]
    return table_of(name, f"{part.spec.title}: {title}", columns, part.lines if shown else ())


def network_table(part: Part) -> Table:
    """Networks, inputs and training of each method."""

    def seen(line: Line) -> str:
        found = {key.split(":")[1]: line[key] for key in line.first if re.fullmatch("trained:.*:samples", key)}
        return ", ".join(f"{name} {count}" for name, count in found.items() if count is not None)

    def of(column: str) -> Callable[[Line], Any]:
        return lambda line: line[column]

    columns = [
        words("method", lambda line: line.title),
        words("segmenter", of("segmenter:name")),
        words("encoder", of("segmenter:encoder")),
        words("initial weights", of("segmenter:weights")),
        *(Column(size, of(f"model:{size}"), "side in pixels") for size in SIZES),
        words("recipe", of("model:recipe")),
        words("samples by branch", seen),
    ]
    return table_of(f"networks-{part.name}", f"{part.spec.title}: what is compared", columns, part.lines)


def published_table(part: Part) -> Table:
    """Every published row of this benchmark, with remarks."""

    def printed(name: str, digits: int = 1) -> Callable[[Published], Cell | None]:
        def cell(row: Published) -> Cell | None:
            problem, value = row.f1_problem if name == "mf1" else None, getattr(row, name)
            return number(float(value), digits, (problem,) if problem else ()) if value else None

        return cell

    columns = [
        Column("method", lambda row: text(row.method, row.remark), left=True),
        words("network", lambda row: row.segmenter),
        words("mode", lambda row: row.mode),
        Column(f"{part.spec.mean_name} %", printed("miou"), key="score"),
        Column("mF1 %", printed("mf1")),
        Column("accuracy %", printed("accuracy")),
        Column("memory MB", printed("memory", 0)),
        words("source", lambda row: row.source),
    ]
    return table_of(f"published-{part.name}", f"{part.spec.title}: as published", columns, part.published)


def overview_table(parts: Sequence[Part]) -> Table:
    """Every method on every benchmark: score, memory, mean rank, and where it is dominated. No mean of scores."""
    lines = {(part.name, line.method): line for part in parts for line in part.lines}

    def score(part: Part) -> Callable[[str], Cell]:
        return lambda method: share(lines[part.name, method].mean_iou, (), part.places.get(method, (0, 0))[0] == 1)

    def memory(part: Part) -> Callable[[str], Cell]:
        return lambda method: lines[part.name, method].memory_cell()

    def mean_place(method: str) -> Cell | None:
        known = [sum(part.places[method]) / 2 for part in parts if method in part.places]
        return number(statistics.fmean(known)) if len(known) == len(parts) else None

    def dominated(method: str) -> str:
        return ", ".join(part.spec.title for part in parts if part.dominated.get(method))

    columns: list[Column[str]] = [words("method", title_of)]
    for part in parts:
        title = f"{part.spec.title}: {part.spec.mean_name} %"
        columns.append(Column(title, score(part), key=f"score-{part.name}"))
        columns.append(Column(f"MiB ({SOURCES[part.source]})", memory(part), key=f"memory-{part.name}"))
    columns.append(Column("mean place", mean_place, "over the benchmarks, ties at the middle of their range"))
    columns.append(words("dominated on", dominated, "another method is at least as good there at no more memory"))
    return table_of("overview", "All methods on all benchmarks", columns, dict.fromkeys(method for _, method in lines))


def settings_table(part: Part, common: Mapping[str, object]) -> Table:
    """Settings in which the methods on one benchmark differ, one per line."""

    def of(line: Line) -> Callable[[str], str]:
        return lambda key: ", ".join(dict.fromkeys(str(row[key]) for row in line.done if row.get(key) not in EMPTY))

    lines = [line for line in part.lines if line.done]
    keys = [key for key in part.lines[0].first if is_setting(key) and key not in common]
    kept = [key for key in [*keys, "revision"] if any(of(line)(key) for line in lines)]
    columns = [words("setting", plain), *(words(line.title, of(line)) for line in lines)]
    return table_of(f"settings-{part.name}", f"{part.spec.title}: settings", columns, kept)


def common_settings(rows: Iterable[Row]) -> dict[str, object]:
    """Settings that all finished runs have in common, by column."""
    run = [row for row in rows if row["status"] == "ok"]
    keys = filter(is_setting, run[0] if run else ())
    return {key: run[0][key] for key in keys if len({str(row[key]) for row in run}) == 1 and run[0][key] not in EMPTY}


def plain(key: str) -> str:
    """'training:batch' as 'batch', 'segmenter:name' as 'segmenter name'."""
    kind, _, name = key.partition(":")
    return f"{kind} {name}" if kind in ("segmenter", "inference") else name or kind


def command_table(lines: Sequence[Line]) -> Table:
    """The command that computes each row again, and its state."""

    def command(row: Row) -> str:
        kind, *name = ("scpseg",) if row["method"] == "scpseg" else ("baseline", row["method"])
        return f"dvc repro evaluate-{kind}@{'-'.join([row['benchmark'], *name, str(row['seed'])])}"

    columns: list[Column[Row]] = [
        words("benchmark", lambda row: get_benchmark(row["benchmark"]).title),
        words("method", lambda row: title_of(row["method"])),
        Column("seed", lambda row: row["seed"]),
        Column("status", lambda row: text(row["status"], row["reason"]), left=True),
        Column("mean IoU %", lambda row: number(None if row["mean_iou"] is None else 100 * row["mean_iou"], 2)),
        words("revision", lambda row: row.get("revision")),
        words("command", command, "on top of the same params.yaml"),
        words("weights", lambda row: str(row.get("training:weights_hash") or "")[:8], "start of the SHA-256"),
    ]
    return table_of("runs", "Every declared run", columns, [row for line in lines for row in line.rows])


def environments(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(stages, facts) of each distinct environment."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for kind, stage in STAGES.items():
            facts = [f"{key.removeprefix(kind)} {value}" for key, value in row.items()
                     if key.startswith(kind) and value not in EMPTY]  # fmt: skip
            if facts:
                found.setdefault(", ".join(facts), {})[stage] = None
    return [(", ".join(stages), facts) for facts, stages in found.items()]
