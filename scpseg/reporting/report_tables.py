"""The tables of the report."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from scpseg.benchmarks import BENCHMARKS, get_benchmark
from scpseg.errors import UserError
from scpseg.profiling.records import INFERENCE, MEASURED, MIB, TRAINING, Record, read_references
from scpseg.reporting.published import PAPER, Published, published_row, read_table, title_of
from scpseg.reporting.statistics import LEVEL, Estimate
from scpseg.reporting.summary import PUBLISHED_MODES, Line, Part, Row, is_setting
from scpseg.reporting.tables import Cell, Column, Table, mebibytes, number, points, seconds, share, text, words

SOURCES = {"nvml": "NVML", "computed": "computed", None: "at real size"}
CHANNELS = {
    "MiB (NVML)": "nvml_process",
    "MiB (reserved)": "torch_reserved",
    "MiB (allocated)": "torch_allocated",
    "MiB (computed)": "computed",
}
CLOCKS = {INFERENCE: "seconds_per_image", TRAINING: "seconds_per_step"}
STAGES = {
    "environment:": "training",
    "evaluation_environment:": "evaluation",
    "profile_environment:": "memory and speed",
}
ONE_SEED = ("one seed: the interval covers images only; the difference is between two trainings, not between methods",)


def main_table(part: Part) -> Table:
    """Accuracy, memory and speed of the methods on one benchmark."""
    base, lines, mean, side = title_of(part.reference), part.lines, part.spec.mean_name, part.spec.side

    def place(line: Line) -> Cell:
        low, high = part.places.get(line.method, (0, 0))
        return Cell(str(low) if low == high else f"{low}–{high}", low + high / 1000) if low else Cell()

    def score(line: Line) -> Cell:
        doubts = line.of("mean_iou") + (() if part.at_edge else line.of("rate"))
        return share(line.mean_iou, doubts, part.places.get(line.method, (0, 0))[0] == 1)

    def difference(line: Line) -> Cell:
        found = part.pairs.get((line.method, part.reference))
        if found is None:
            return Cell("reference") if line.method == part.reference else Cell()
        return points(Estimate(found.value, found.half, found.seeds), ONE_SEED if found.seeds < 2 else ())

    def printed(line: Line, name: str, digits: int) -> Cell:
        row = _paper(line)
        value, source = getattr(row, name, None), getattr(row, "source", PAPER)
        flags = (*line.of("published"), *([f"from {source}"] if source != PAPER else []))
        return number(value, digits, flags if value else ())

    def dominators_of(line: Line) -> str:
        names = part.dominated.get(line.method, [])
        return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")

    def seeds(line: Line) -> object:
        return len(line.rows) if len(line.done) == len(line.rows) else f"{len(line.done)} of {len(line.rows)}"

    def profiled(line: Line) -> Cell:
        return Cell("OOM") if line["profile_status"] == "oom" else mebibytes(line["memory_mib"])

    def hidden(title: str, about: str, *names: str) -> Column:
        return Column(title, [number(line.mean(*names), 0) for line in lines], about, shown=False)

    f1 = "mF1" if mean == "mIoU" else mean.replace("IoU", "F1")
    ours, elsewhere = "of the profiled image", "as published: other machines, often another encoder"
    at_real_size = f"peak of inference on one image of {side} × {side} pixels"
    paired = f"difference to {base} in points, paired, 95 % interval"
    speed = [seconds(line["seconds_per_image"], line.of("seconds")) for line in lines]
    steps = [mebibytes(line.memory.training if line.memory else None) for line in lines]
    columns = [
        words("method", [text(line.title, "; ".join(line.of("method"))) for line in lines]),
        Column("place", map(place, lines), "places that the paired tests leave open; a range is a tie"),
        Column(f"{mean} %", map(score, lines), "over seeds, with half the 95 % t interval", key="score"),
        Column(f"to {base}", map(difference, lines), paired, key="difference"),
        Column(f"memory MiB ({SOURCES[part.source]})", map(_memory, lines), at_real_size, key="memory"),
        Column(f"paper {mean} %", [printed(line, "miou", 1) for line in lines], elsewhere, key="paper-score"),
        Column("paper MB", [printed(line, "memory", 0) for line in lines], elsewhere),
        Column(f"{f1} %", [share(line.estimate("mean_f1")) for line in lines], key="f1"),
        Column("accuracy %", [share(line.estimate("accuracy")) for line in lines], "of all labelled pixels"),
        Column("s / image", speed, ours),
        Column("MPx / s", [seconds(line["megapixels_per_second"]) for line in lines], ours),
        Column("parameters M", [number(line["parameters"], 2, scale=1e-6) for line in lines], "that inference needs"),
        Column("seeds", map(seeds, lines)),
        words("dominated by", map(dominators_of, lines), "at least the score at no more memory"),
        Column("training step MiB", steps, shown=False),
        hidden("steps", "of the optimiser", "training:steps", "training:iterations"),
        hidden("samples", "windows or overviews seen in training", "training:samples"),
        hidden("MPx seen", "pixels seen in training", "training:megapixels"),
        hidden("training s", "", "training:seconds"),
        Column("profiled MiB", map(profiled, lines), "of the profiled image, by the meter beside it", shown=False),
        Column("meter", [line["memory_backend"] for line in lines], left=True, shown=False),
    ]
    return Table.of(f"main-{part.name}", f"{part.spec.title}: accuracy, memory and speed", columns)


def _memory(line: Line) -> Cell:
    """Memory at real size."""
    return mebibytes(line.memory.mib if line.memory else None, line.of("memory"))


def _paper(line: Line) -> Published | None:
    """The published figures for a line: of the test images, so they are not shown next to other scores."""
    if line["split"] not in (None, "test") or get_benchmark(line.benchmark).invented:
        return None
    names = (str(line[f"segmenter:{key}"] or "") for key in ("name", "encoder"))
    return published_row(line.benchmark, line.method, *names)


def pair_table(part: Part) -> Table:
    """Every pair of methods: difference, interval, p values, and detectable difference."""
    pairs = list(part.pairs)[::2]
    found = [part.pairs[pair] for pair in pairs]

    def verdict(pair: tuple[str, str]) -> str:
        if part.pairs[pair].seeds < 2:
            return "one seed"
        better = title_of(pair[0] if part.pairs[pair].value > 0 else pair[1])
        return "tie" if part.p_values[pair] >= LEVEL else f"{better} better"

    def p(value: float) -> Cell:
        return Cell("<0.001" if value < 0.001 else f"{value:.3f}", value)

    columns = [
        words("method", [title_of(one) for one, _ in pairs]),
        words("compared with", [title_of(other) for _, other in pairs]),
        Column("difference", [points(Estimate(one.value, one.half, 2)) for one in found], "points, 95 % interval"),
        Column("p", [p(one.p) for one in found]),
        Column(
            "p (Holm)", [p(part.p_values[pair]) for pair in pairs], "corrected for all pairs shown here", key="holm"
        ),
        words("verdict", map(verdict, pairs), f"at {100 * LEVEL:.0f} %"),
        Column("detectable", [number(100 * one.detectable) for one in found], "points, with 80 % power"),
        Column("seeds", [one.seeds for one in found]),
        Column("images", [one.images for one in found]),
    ]
    return Table.of(f"pairs-{part.name}", f"{part.spec.title}: paired differences", columns)


def class_table(part: Part) -> Table:
    """IoU of every class, tinted; classes that are not in the mean are in brackets."""
    shown = {f"iou:{cls.name}": cls.name if cls.scored else f"({cls.name})" for cls in part.spec.classes}
    return _shares(part, f"classes-{part.name}", "IoU of every class in per cent", shown)


def fold_table(part: Part) -> Table:
    """Score of every method on the test images of each fold, for benchmarks that are evaluated by rotation."""
    folds = sorted({key for row in part.done for key in row if key.startswith("fold:") and row[key] is not None})
    shown = {key: key.replace(":", " ") for key in folds}
    return _shares(part, f"folds-{part.name}", f"{part.spec.mean_name} of each fold in per cent", shown)


def branch_table(part: Part) -> Table:
    """Score of the methods that have branches, and of each branch alone."""
    keys = [key for key in (part.done[0] if part.done else ()) if key.startswith("branch:")]
    lines = [line for line in part.lines if any(line[key] is not None for key in keys)]
    shown = {"mean_iou": "output", **{key: f"{key.partition(':')[2]} alone" for key in keys}} if lines else {}
    return _shares(part, f"branches-{part.name}", f"{part.spec.mean_name} of branches in per cent", shown, lines)


def _shares(part: Part, name: str, title: str, shown: Mapping[str, str], lines: Sequence[Line] | None = None) -> Table:
    """Tinted shares of `lines`, by default all: column of the frame -> title."""
    lines = (part.lines if lines is None else lines) if shown else ()
    columns = [words("method", [line.title for line in lines])]
    for n, (column, heading) in enumerate(shown.items()):
        found = [line.estimate(column) for line in lines]
        columns.append(Column(heading, [replace(share(one), shade=one.mean) for one in found], key=f"c{n}"))
    return Table.of(name, f"{part.spec.title}: {title}", columns)


def network_table(part: Part) -> Table:
    """Networks, inputs and training of each method."""

    def seen(line: Line) -> str:
        found = {key.split(":")[1]: line[key] for key in line.first if re.fullmatch("trained:.*:samples", key)}
        return ", ".join(f"{name} {count}" for name, count in found.items() if count is not None)

    def of(column: str) -> list[Any]:
        return [line[column] for line in part.lines]

    def authors(line: Line) -> Cell:
        rows = [row for row in read_table("published/parameters.csv") if row["method"] == line.method]
        mine = [row for row in rows if row["value"] == str(line[f"model:{row['setting']}"] or "")]
        return number(mine[0]["parameters"], 2, [mine[0]["source"]], 1e-6) if mine else Cell()

    columns = [
        words("method", [line.title for line in part.lines]),
        words("segmenter", of("segmenter:name")),
        words("encoder", of("segmenter:encoder")),
        words("initial weights", of("segmenter:weights")),
        *(Column(name, of(f"model:{name}"), "side in pixels") for name in ("patch", "context", "squeezed", "overview")),
        words("recipe", of("model:recipe")),
        words("samples by branch", map(seen, part.lines)),
        Column("parameters M", [number(line["parameters"], 2, scale=1e-6) for line in part.lines], "at test"),
        Column("authors' M", map(authors, part.lines), "in the authors' code, for 7 classes"),
    ]
    return Table.of(f"networks-{part.name}", f"{part.spec.title}: what is compared", columns)


def published_table(part: Part) -> Table:
    """Every published row of this benchmark, with remarks."""
    rows = part.published
    columns = [
        words("method", [text(row.method, row.remark) for row in rows]),
        words("network", [row.segmenter for row in rows]),
        words("mode", [row.mode for row in rows]),
        Column(f"{part.spec.mean_name} %", [number(row.miou) for row in rows], key="score"),
        Column("mF1 %", [number(row.mf1, 1, filter(None, [row.f1_problem])) for row in rows]),
        Column("accuracy %", [number(row.accuracy) for row in rows]),
        Column("memory MB", [number(row.memory, 0) for row in rows]),
        words("source", [row.source for row in rows]),
    ]
    return Table.of(f"published-{part.name}", f"{part.spec.title}: as published", columns)


def overview_table(parts: Sequence[Part]) -> Table:
    """Every method on every benchmark: score, memory, mean rank, and where it is dominated. No mean of scores."""
    lines = {(part.name, line.method): line for part in parts for line in part.lines}
    methods = list(dict.fromkeys(method for _, method in lines))

    def mean_place(method: str) -> Cell:
        known = [sum(part.places[method]) / 2 for part in parts if method in part.places]
        return number(fmean(known) if len(known) == len(parts) else None)

    def dominated(method: str) -> str:
        return ", ".join(part.spec.title for part in parts if part.dominated.get(method))

    columns = [words("method", map(title_of, methods))]
    for part in parts:
        mine = [lines[part.name, method] for method in methods]
        shares = [share(line.mean_iou, (), part.places.get(line.method, (0, 0))[0] == 1) for line in mine]
        columns.append(Column(f"{part.spec.title}: {part.spec.mean_name} %", shares, key=f"score-{part.name}"))
        columns.append(Column(f"MiB ({SOURCES[part.source]})", map(_memory, mine), key=f"memory-{part.name}"))
    columns += [
        Column("mean place", map(mean_place, methods), "over the benchmarks, ties at the middle of their range"),
        words("dominated on", map(dominated, methods), "another method is at least as good there at no more memory"),
    ]
    return Table.of("overview", "All methods on all benchmarks", columns)


def settings_table(part: Part, common: Mapping[str, object]) -> Table:
    """Settings in which the methods on one benchmark differ, one per line."""

    def of(line: Line, key: str) -> str:
        return ", ".join(dict.fromkeys(str(row[key]) for row in line.done if row.get(key) not in (None, "")))

    lines = [line for line in part.lines if line.done]
    keys = [key for key in part.lines[0].first if is_setting(key) and key not in common]
    kept = [key for key in (*keys, "revision") if any(of(line, key) for line in lines)]
    columns = [words("setting", map(plain, kept)), *(words(one.title, [of(one, key) for key in kept]) for one in lines)]
    return Table.of(f"settings-{part.name}", f"{part.spec.title}: settings", columns)


def common_settings(rows: Iterable[Row]) -> dict[str, object]:
    """Settings that all finished runs have in common, by column."""
    run = [row for row in rows if row["status"] == "ok"]
    keys = [key for key in (run[0] if run else ()) if is_setting(key) and run[0][key] not in (None, "")]
    return {key: run[0][key] for key in keys if len({str(row[key]) for row in run}) == 1}


def plain(key: str) -> str:
    """'training:batch' as 'batch', 'segmenter:name' as 'segmenter name'."""
    kind, _, name = key.partition(":")
    return f"{kind} {name}" if kind in ("segmenter", "inference") else name or kind


def command_table(rows: Sequence[Row]) -> Table:
    """The command that computes each row again, and its state."""

    def command(row: Row) -> str:
        kind, *name = ("scpseg",) if row["method"] == "scpseg" else ("baseline", row["method"])
        return f"dvc repro evaluate-{kind}@{'-'.join([row['benchmark'], *name, str(row['seed'])])}"

    hashes = [str(row.get("training:weights_hash") or "")[:8] for row in rows]
    columns = [
        words("benchmark", [get_benchmark(row["benchmark"]).title for row in rows]),
        words("method", [title_of(row["method"]) for row in rows]),
        Column("seed", [row["seed"] for row in rows]),
        words("status", [text(row["status"], row["reason"]) for row in rows]),
        Column("mean IoU %", [number(row["mean_iou"], 2, scale=100) for row in rows]),
        words("revision", [row.get("revision") for row in rows]),
        words("command", map(command, rows), "on top of the same params.yaml"),
        words("weights", hashes, "start of the SHA-256"),
    ]
    return Table.of("runs", "Every declared run", columns)


def environments(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(stages, facts) of each distinct environment."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for kind, stage in STAGES.items():
            facts = [f"{key.removeprefix(kind)} {value}" for key, value in row.items()
                     if key.startswith(kind) and value not in (None, "")]  # fmt: skip
            if facts:
                found.setdefault(", ".join(facts), {})[stage] = None
    return [(", ".join(stages), facts) for facts, stages in found.items()]


def reference_tables(folder: Path) -> list[Table]:
    """Memory and time measured on each GPU in `folder`, results/reference; empty if nothing is committed.

    Raises:
        UserError: as `read_references`.
    """
    return [_reference(*one, place) for place, one in enumerate(read_references(folder)) if one[1]]


def _reference(facts: dict[str, Any], records: list[Record], place: int) -> Table:
    found = {(one["workload"], one["benchmark"], one["method"]): one for one in records}
    blind = Counter(map(_blind, records))
    # The file is in the order of measurement, but readers compare the methods on one benchmark.
    benchmarks = list(dict.fromkeys(one["benchmark"] for one in records))
    tried = {item: one for item, one in found.items() if one["status"] != "not measured"}
    items = sorted({item[1:]: None for item in tried}, key=lambda item: benchmarks.index(item[0]))

    def memory(record: Record, first: bool, channel: str) -> Cell:
        if record["status"] == "ok":
            peak = record["memory"].get(channel)
            return mebibytes(peak and peak / MIB, _notes(record, blind) if first else ())
        if not first:
            return Cell()
        reason = record.get("reason") or ("" if record["status"] in (*MEASURED, "missing") else record["status"])
        return replace(Cell("OOM") if record["status"] == "oom" else Cell(), flags=(reason,) if reason else ())

    columns = _names(items)
    for workload, clock in CLOCKS.items():
        mine = [found.get((workload, *item), {"status": "missing"}) for item in items]
        for name, channel in CHANNELS.items():
            cells = [memory(record, channel == "nvml_process", channel) for record in mine]
            columns.append(Column(f"{workload} {name}", cells))
        columns.append(Column(f"{workload} s", [seconds(record.get(clock)) for record in mine]))
    software = [f"{name} {facts[name.lower()]}" for name in ("torch", "CUDA", "driver") if facts[name.lower()]]
    title = f"{facts['gpu']} ({', '.join(software)}), {len(tried)} of {len(found)} workloads"
    return Table.of(f"reference-{place}", title, columns)


def _names(items: Sequence[tuple[str, str]]) -> list[Column]:
    """Columns of (benchmark, method) pairs."""
    titles = [get_benchmark(benchmark).title for benchmark, _ in items]
    return [words("benchmark", titles), words("method", [title_of(method) for _, method in items])]


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


def bench_table(path: Path) -> Table | None:
    """Speed of the suite beside other tools, results/bench.csv of `make bench`; None without any.

    Raises:
        UserError: the file is not such a table.
    """
    if not path.is_file():
        return None

    def figure(row: Mapping[str, str], name: str, judged: bool = False) -> Cell:
        if not row[name]:
            return Cell()
        value, flags = float(row[name]), ("the target is missed",) if judged and row["met"] == "no" else ()
        return Cell(f"{value:.0f}" if value >= 100 else f"{value:.3g}", value, flags)

    def aim(row: Mapping[str, str]) -> str:
        least, most = row["at_least"], row["at_most"]
        return f"at least {least}" if least else f"at most {most} {row['unit']}".strip() if most else ""

    def hidden(name: str, about: str = "") -> Column:
        return Column(name, [row[name] for row in rows], about, left=True, shown=False)

    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, strict=True))
        columns = [
            words("what", [row["name"] for row in rows]),
            Column(
                "ratio", [figure(row, "ratio", True) for row in rows], "the other over the suite, median of the runs"
            ),
            words("target", map(aim, rows)),
            Column("the suite", [figure(row, "ours", bool(row["at_most"])) for row in rows]),
            Column("the other", [figure(row, "peer") for row in rows]),
            words("unit", [row["unit"] for row in rows]),
            words("the other is", [f"{row['peer_name']} {row['peer_version']}".strip() for row in rows]),
            hidden("ratios", "of each run, the oldest first"),
            hidden("limit", "how far from what the machine allows"),
            hidden("note"),
        ]
        systems = "; ".join(dict.fromkeys(row["system"] for row in rows))
        return Table.of("bench", f"Speed of the suite beside other tools ({systems})", columns) if rows else None
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        why = f"{path.as_posix()} is not a table of `make bench`"
        raise UserError(f"{why}; restore it with git, or delete it and run `make bench`") from error


def computed_table(found: pd.DataFrame) -> Table:
    """Inference, with the parts of its peak, and one training step of every method on every benchmark."""
    # The first row of each cell has the paper's segmenter and sizes; the sweeps follow.
    first = found.drop_duplicates(["benchmark", "method", "workload", "phase", "channel"])
    largest = first.groupby(["benchmark", "method", "workload", "channel"])["mib"].max().to_dict()
    known = dict.fromkeys(first[["benchmark", "method", "segmenter", "encoder"]].itertuples(index=False, name=None))
    cells = sorted(known, key=lambda cell: list(BENCHMARKS).index(cell[0]))
    items = [cell[:2] for cell in cells]

    def of(workload: str, channel: str, title: str) -> Column:
        about = "largest phase" if workload == TRAINING else "one window at once, fp32"
        return Column(title, [mebibytes(largest.get((*item, workload, channel))) for item in items], about)

    def printed(benchmark: str, method: str, segmenter: str, encoder: str) -> Cell:
        row = published_row(benchmark, method, segmenter, encoder)
        modes = [f"published with {key} {value}" for key, value in PUBLISHED_MODES.get(method, {}).items()]
        return number(row.memory, 0, [row.source, *modes]) if row and row.memory else Cell()

    columns = [*_names(items), of(INFERENCE, "computed", "inference MiB")]
    columns += [of(INFERENCE, f"computed:{part}", f"of it {part}") for part in ("weights", "state", "activations")]
    columns.append(of(TRAINING, "computed", "training step MiB"))
    columns.append(Column("published MB", [printed(*cell) for cell in cells], "at test, on other machines"))
    return Table.of("computed", "Computed memory at the paper's sizes", columns)
