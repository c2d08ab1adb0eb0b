"""The tables of the report: values of rows by the keys of tables.csv."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from scpseg.benchmarks import BENCHMARKS, get_benchmark
from scpseg.errors import UserError
from scpseg.profiling.records import INFERENCE, MIB, TRAINING, Record, read_references
from scpseg.reporting.published import PAPER, published_row, read_table, title_of
from scpseg.reporting.statistics import LEVEL
from scpseg.reporting.summary import PUBLISHED_MODES, Line, Part, Row, is_setting
from scpseg.reporting.tables import Cell, Column, Table, made, share

SOURCES = {"nvml": "NVML", "computed": "computed", None: "at real size"}
CLOCKS = {INFERENCE: "seconds_per_image", TRAINING: "seconds_per_step"}
STAGES = {
    "environment:": "training",
    "evaluation_environment:": "evaluation",
    "profile_environment:": "memory and speed",
}
SHARES = ("mean_iou", "mean_f1", "accuracy", "iou:", "fold:", "branch:")
"""Columns of the frame, or their beginnings, with shares that are averaged over seeds."""
TRAINED = ("steps", "samples", "megapixels", "seconds")
ONE_SEED = "one seed: the interval covers images only; the difference is between two trainings, not between methods"


def part_tables(part: Part, common: Mapping[str, object]) -> dict[str, Table]:
    """The tables of one benchmark by kind; `common` are settings that all runs have in common, which are left out."""
    spec, rows = part.spec, [method_values(part, line) for line in part.lines]
    f1 = "mF1" if spec.mean_name == "mIoU" else spec.mean_name.replace("IoU", "F1")
    words = {"benchmark": spec.title, "mean": spec.mean_name, "f1": f1, "side": spec.side}
    words |= {"base": title_of(part.reference), "source": SOURCES[part.source]}
    keys = part.lines[0].first
    classes = {f"iou:{cls.name}": cls.name if cls.scored else f"({cls.name})" for cls in spec.classes}
    folds = {key: key.replace(":", " ") for key in keys if key.startswith("fold:")}
    alone = {key: f"{key.partition(':')[2]} alone" for key in keys if key.startswith("branch:")}
    printed = [vars(row) | {"method": (row.method, [row.remark]), "mf1": (row.mf1, [row.f1_problem])}
               for row in part.published]  # fmt: skip

    names = {f"of {line.method}": line.title for line in part.lines}

    def of(
        kind: str, found: Iterable[Mapping[str, Any]], titles: Mapping[str, str] | None = None, cells: str = "shade"
    ) -> Table:
        more = [Column(title, cells, "", key) for key, title in (titles or {}).items()]
        return made(kind, found, more, part.name, **words)

    def having(titles: Mapping[str, str]) -> list[dict[str, Any]]:
        return [row for row in rows if any(row[key].mean is not None for key in titles)]

    return {
        "main": of("main", rows),
        "pairs": of("pairs", _pairs(part)),
        "classes": of("classes", rows, classes),
        "folds": of("folds", rows if having(folds) else (), folds),
        "branches": of("branches", having(alone), alone),
        "networks": of("networks", rows),
        "training": of("training", _training(part)),
        "published": of("published", printed),
        "settings": of("settings", _settings(part, common), names, "text"),
    }


def method_values(part: Part, line: Line) -> dict[str, Any]:
    """What the tables show of a method: columns of the frame, shares as estimates over seeds, and what is computed."""
    first, peak, spec = line.first, line.memory, get_benchmark(line.benchmark)
    low, high = part.places.get(line.method, (0, 0))
    pair = part.pairs.get((line.method, part.reference))
    names = part.dominated.get(line.method, [])
    paper = None
    if line["split"] in (None, "test") and not spec.invented:  # published figures are of the test images
        found = (str(line[f"segmenter:{key}"] or "") for key in ("name", "encoder"))
        paper = published_row(line.benchmark, line.method, *found)
    remarks = (*line.of("published"), f"from {paper.source}" if paper and paper.source != PAPER else "")
    miou, memory = (paper.miou, paper.memory) if paper else (None, None)
    # The authors' count at this row's setting, or else at their first, which the note then names.
    authors = [row for row in read_table("published/parameters.csv") if row["method"] == line.method]
    same = [row for row in authors if row["value"] == str(line[f"model:{row['setting']}"] or "")]
    counted = next(((row["parameters"], [row["source"]] + [f"with {row['setting']} {row['value']}"] * (not same))
                    for row in same or authors), None)  # fmt: skip
    return {
        **first,
        **{key: line.estimate(key) for key in first if key.startswith(SHARES)},
        **{key: line.mean(key) for key in ("training:samples", "training:megapixels", "training:seconds")},
        "method": (line.title, line.of("method")),
        "place": Cell(str(low) if low == high else f"{low}–{high}", low + high / 1000) if low else None,
        "score": (replace(share(line.mean_iou), best=low == 1),
                  line.of("mean_iou") + (() if part.at_edge else line.of("rate"))),
        "difference": (pair, [ONE_SEED if pair.seeds < 2 else ""]) if pair
        else Cell("reference") if line.method == part.reference else None,
        "memory": (peak and peak.mib, line.of("memory")),
        "paper-score": (miou, remarks if miou else ()),
        "paper-memory": (memory, remarks if memory else ()),
        "speed": (line["seconds_per_image"], line.of("seconds")),
        "seeds": len(line.rows) if len(line.done) == len(line.rows) else f"{len(line.done)} of {len(line.rows)}",
        "dominated": ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else ""),
        "step": peak and peak.training,
        "steps": line.mean("training:steps", "training:iterations"),
        "profiled": Cell("OOM") if line["profile_status"] == "oom" else line["memory_mib"],
        "authors": counted,
    }  # fmt: skip


def _training(part: Part) -> Iterator[dict[str, Any]]:
    """What the branches of each method were trained on; means over seeds."""
    for line in part.lines:
        for name in dict.fromkeys(key.split(":")[1] for key in line.first if key.startswith("trained:")):
            if line[f"trained:{name}:steps"] is not None:
                found = {key: line.mean(f"trained:{name}:{key}") for key in TRAINED}
                yield {"method": line.title, "branch": name, **found}


def _pairs(part: Part) -> Iterator[dict[str, Any]]:
    """Every pair of methods: difference, interval, p values, and detectable difference."""
    for (one, other), found in list(part.pairs.items())[::2]:
        holm, better = part.p_values[one, other], title_of(one if found.mean > 0 else other)
        verdict = "one seed" if found.seeds < 2 else "tie" if holm >= LEVEL else f"{better} better"
        names = {"method": title_of(one), "other": title_of(other), "verdict": verdict}
        values = {"difference": found, "p": found.p, "holm": holm, "detectable": 100 * found.detectable}
        yield {**names, **values, "seeds": found.seeds, "images": found.images}


def overview_table(parts: Sequence[Part]) -> Table:
    """Every method on every benchmark: score, memory, mean rank, and where it is dominated. No mean of scores."""
    columns, rows = list[Column](), dict[str, dict[str, Any]]()
    for part in parts:
        score, memory = f"score-{part.name}", f"memory-{part.name}"
        columns.append(Column(f"{part.spec.title}: {part.spec.mean_name} %", "share", key=score))
        columns.append(Column(f"MiB ({SOURCES[part.source]})", "mib", key=memory))
        for line in part.lines:
            row, values = rows.setdefault(line.method, {}), method_values(part, line)
            row |= {score: values["score"][0], memory: values["memory"]}
    for method, row in rows.items():
        places = [sum(part.places[method]) / 2 for part in parts if method in part.places]
        row |= {"method": title_of(method), "place": fmean(places) if len(places) == len(parts) else None}
        row["dominated"] = ", ".join(part.spec.title for part in parts if part.dominated.get(method))
    return made("overview", rows.values(), columns)


def _settings(part: Part, common: Mapping[str, object]) -> Iterator[dict[str, str]]:
    """Settings in which the methods on one benchmark differ, one per line."""
    for key in (*filter(is_setting, part.lines[0].first), "revision"):
        found = {line.method: dict.fromkeys(str(row[key]) for row in line.done if row.get(key) not in (None, ""))
                 for line in part.lines}  # fmt: skip
        if key not in common and any(found.values()):
            yield {"setting": plain(key)} | {f"of {method}": ", ".join(values) for method, values in found.items()}


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

    def values(row: Row) -> dict[str, Any]:
        kind = ["scpseg"] if row["method"] == "scpseg" else ["baseline", row["method"]]
        command = f"dvc repro evaluate-{kind[0]}@{'-'.join([row['benchmark'], *kind[1:], str(row['seed'])])}"
        status, weights = (row["status"], [row["reason"]]), str(row.get("training:weights_hash") or "")[:8]
        names = _names(row["benchmark"], row["method"])
        return {**row, **names, "status": status, "command": command, "weights": weights}

    return made("runs", map(values, rows))


def _names(benchmark: str, method: str) -> dict[str, Any]:
    """Display names of a benchmark and a method."""
    return {"benchmark": get_benchmark(benchmark).title, "method": title_of(method)}


def environments(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(stages, facts) of each distinct environment."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for kind, stage in STAGES.items():
            facts = [f"{key.removeprefix(kind)} {value}" for key, value in row.items()
                     if key.startswith(kind) and value not in (None, "")]  # fmt: skip
            if facts:
                found.setdefault(", ".join(facts), {})[stage] = None
    return [(f"{', '.join(stages)}:", facts) for facts, stages in found.items()]


def reference_tables(folder: Path) -> list[Table]:
    """Memory and time measured on each GPU in `folder`, results/reference; empty if nothing is committed.

    Raises:
        UserError: as `read_references`.
    """
    return [_reference(*one, place) for place, one in enumerate(read_references(folder)) if one[1]]


def _reference(facts: dict[str, Any], found: list[Record], place: int) -> Table:
    measured = [record for record in found if record["status"] != "not measured"]
    # The file is in the order of measurement, but readers compare the methods on one benchmark.
    benchmarks = list(dict.fromkeys(record["benchmark"] for record in found))
    cells = dict.fromkeys((record["benchmark"], record["method"]) for record in measured)
    rows = {cell: _names(*cell) for cell in sorted(cells, key=lambda cell: benchmarks.index(cell[0]))}
    for record in (record for record in found if (record["benchmark"], record["method"]) in rows):
        row, workload, status = rows[record["benchmark"], record["method"]], record["workload"], record["status"]
        row[f"{workload} s"] = record.get(CLOCKS[workload])
        if status == "ok":
            row |= {f"{workload} {channel}": size / MIB for channel, size in record["memory"].items() if size}
            row[f"{workload} nvml_process"] = (row.get(f"{workload} nvml_process"), _notes(record))
        else:
            shown, reason = (Cell("OOM"), "") if status == "oom" else (None, status)
            row[f"{workload} nvml_process"] = (shown, [record.get("reason") or reason])
    software = [f"{name} {facts[name.lower()]}" for name in ("torch", "CUDA", "driver") if facts[name.lower()]]
    caption = f"{facts['gpu']} ({', '.join(software)}), {len(measured)} of {len(found)} workloads"
    return made("reference", rows.values(), (), place, caption=caption)


def _notes(record: Record) -> list[str]:
    """Remarks: sizes other than the real ones, phases, other processes, workloads measured once for two benchmarks."""
    side, real, phase = record.get("height"), get_benchmark(record["benchmark"]).side, record.get("phase")
    unseen = [f"{name}: {why}" for name, why in (record.get("unavailable") or {}).items() if name != "rss"]
    same = record.get("same_as")
    notes = {
        f"image of {side} × {side} pixels, not the benchmark's {real} × {real}": side != real,
        f"of the phase with the highest peak ({phase})": phase not in (None, "all"),
        f"not seen in {'; '.join(unseen)}": unseen,
        "other processes used the GPU too": record.get("exclusive") is False,
        str(record.get("outdated")): record.get("outdated"),
        f"the same workload as on {same and get_benchmark(same).title}, measured once": same,
    }
    return [note for note, holds in notes.items() if holds]


def bench_table(path: Path) -> Table | None:
    """Speed of the suite beside other tools, results/bench.csv of `make bench`; None without any.

    Raises:
        UserError: the file is not such a table.
    """

    def values(row: Mapping[str, str]) -> dict[str, Any]:
        least, most, missed = row["at_least"], row["at_most"], ["the target is missed"] if row["met"] == "no" else []
        target = f"at least {least}" if least else f"at most {most} {row['unit']}".strip() if most else ""
        ratio, ours = (row["ratio"], missed if row["ratio"] else []), (row["ours"], missed if most else [])
        what = f"{row['peer_name']} {row['peer_version']}".strip()
        return {**row, "ratio": ratio, "ours": ours, "target": target, "what": what}

    if not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, strict=True))
        systems = "; ".join(dict.fromkeys(row["system"] for row in rows))
        return made("bench", map(values, rows), systems=systems) if rows else None
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        why = f"{path.as_posix()} is not a table of `make bench`"
        raise UserError(f"{why}; restore it with git, or delete it and run `make bench`") from error


def computed_table(found: pd.DataFrame) -> Table:
    """Inference, with the parts of its peak, and one training step of every method on every benchmark."""
    # The first row of each cell has the paper's segmenter and sizes; the sweeps follow.
    first = found.drop_duplicates(["benchmark", "method", "workload", "channel"])
    rows = []
    for _, cell in first.groupby(["benchmark", "method"], sort=False):
        benchmark, method, *network = map(str, cell.iloc[0][["benchmark", "method", "segmenter", "encoder"]])
        peaks = cell.groupby(cell["workload"] + " " + cell["channel"])["mib"].max()
        row = _names(benchmark, method) | {str(key): mib for key, mib in peaks.items()}
        paper = published_row(benchmark, method, *network)
        if paper and paper.memory:
            modes = [f"published with {key} {value}" for key, value in PUBLISHED_MODES.get(method, {}).items()]
            row["published"] = (paper.memory, [paper.source, *modes])
        rows.append((list(BENCHMARKS).index(benchmark), row))
    return made("computed", [row for _, row in sorted(rows, key=lambda pair: pair[0])])
