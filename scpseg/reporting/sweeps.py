"""Results of sweeps as page, table and CSV: rows, means and differences over seeds, and the paper's figures."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from scpseg.benchmarks import get_benchmark
from scpseg.files import write_text
from scpseg.reporting import tables
from scpseg.reporting.figures import Drawn, inline
from scpseg.reporting.published import PAPER, read_table, title_of
from scpseg.reporting.report_tables import environments
from scpseg.reporting.statistics import Estimate, estimate, paired
from scpseg.reporting.summary import common, device
from scpseg.reporting.tables import Cell, Column, Table, mebibytes, number, points, share, table_of, text, words

SEGMENTERS = {"fcn8s-resnet50": "FCN-8s", "deeplabv3plus-resnet18": "DeepLabv3+"}
"""Titles of the paper's two segmenters in table 6."""
STEPS = {"000": "plain", "100": "+ CSM", "110": "+ SRD", "111": "+ LFA"}
"""csm, srd, lfa of table 6 -> name of the step."""
PAPER_SEGMENTER = {"sizes": "FCN-8s with ResNet-50"}
STATUS = {"failed": "failed", "invalid": "not valid", "missing": "not run yet"}
OTHER = ("measured on other hardware, or with another number of threads, than most rows",)
Key = tuple[str, str]
"""(series, x)."""
Kind = Literal["steps", "pairs", "grid", "dots"]
Status = Literal["ok", "failed", "invalid", "missing"]


@dataclass(frozen=True)
class Sweep:
    """A set of experiments that are compared.

    Attributes:
        name: name of its folder.
        title: its question, as text.
        figure: 'steps' = lines over steps, 'pairs' = two marks per row, 'grid' = heat map, 'dots' = one mark per row.
        axes: names of x and series.
        source: the paper's table or figure with the same points, or None.
        about: a sentence on the choice of the points, or ''.
    """

    name: str
    title: str
    figure: Kind
    axes: tuple[str, str]
    source: str | None
    about: str = ""


@dataclass(frozen=True)
class Row:
    """One method at one point.

    Attributes:
        x: position on the x axis.
        series: line, group or row of the heat map.
        method: name of the method.
        settings: 'section.key=value' of the point, without those of the whole sweep.
        status: 'ok', 'failed', 'invalid' or 'missing' (not run yet).
        reason: reason if the status is not 'ok'.
        notes: remarks for the reader.
        reference: key of the row with which it is compared.
        experiment: name of the DVC experiment; '' for a point whose parameters are not valid.
        command: command that runs it again.
        runs: rows of results/summary.csv, one per seed, values as texts; empty unless 'ok'.
    """

    x: str
    series: str
    method: str
    settings: tuple[str, ...]
    status: Status
    reason: str
    notes: tuple[str, ...]
    reference: Key | None
    experiment: str
    command: str
    runs: tuple[dict[str, Any], ...]

    @property
    def key(self) -> Key:
        """(series, x)."""
        return self.series, self.x

    @property
    def scores(self) -> dict[str, float]:
        """Mean IoU (0..1) by seed."""
        return {run["seed"]: float(run["mean_iou"]) for run in self.runs if run["mean_iou"] is not None}

    @property
    def miou(self) -> Estimate:
        """Mean over seeds of the mean IoU."""
        return estimate(self.scores.values())

    @property
    def memory(self) -> float | None:
        """Profiled memory in MiB."""
        return float(self.runs[0]["memory_mib"]) if self.runs and self.runs[0]["memory_mib"] is not None else None

    @property
    def network(self) -> str | None:
        """'fcn8s, resnet50'."""
        return f"{self.runs[0]['segmenter:name']}, {self.runs[0]['segmenter:encoder']}" if self.runs else None

    @property
    def own_settings(self) -> list[str]:
        """Settings that are not in the column of the network."""
        return [setting for setting in self.settings if not setting.startswith("segmenter.")]


def tidy(value: Any) -> str:
    """A parameter's value as text: 2.0 as 2, True as true."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def short(value: float) -> str:
    """A ratio with three digits."""
    return f"{value:.3g}"


def difference(row: Row, rows: Sequence[Row]) -> Estimate | None:
    """Mean IoU minus that of the reference row, by seed; None for the reference itself, n = 0 if one is missing."""
    if row.reference is None or row.key == row.reference:
        return None
    return paired(row.scores, next((other.scores for other in rows if other.key == row.reference), {}))


def measured_elsewhere(rows: Sequence[Row]) -> list[Row]:
    """Rows whose memory was measured on other hardware or with another number of threads than most rows."""
    devices = [device(row.runs[0]) if row.memory is not None else None for row in rows]
    most = common(devices)
    return [row for row, found in zip(rows, devices, strict=True) if found not in (None, most)]


@cache
def published(sweep: str) -> dict[Key, str]:
    """Mean IoU in per cent as printed in the paper, by (series, x); empty if the paper has no such sweep."""
    if sweep == "components":
        return {(SEGMENTERS[row["segmenter"]], STEPS[row["csm"] + row["srd"] + row["lfa"]]): row["miou"]
                for row in read_table("ablation_components.csv")}  # fmt: skip
    if sweep == "segmenters":
        return {(series, row["segmenter"]): row[f"miou_{which}"] for row in read_table("ablation_segmenters.csv")
                for series, which in (("Patch", "without"), ("SCPSeg", "with"))}  # fmt: skip
    if sweep == "sizes":
        return {(short(float(row["csm_ratio"])), short(float(row["context"]) / float(row["patch"]))): row["miou"]
                for row in read_table("ablation_sizes.csv")}  # fmt: skip
    return {}


def csv_text(sweep: Sweep, rows: Sequence[Row]) -> str:
    """One line per row and seed: the point, then all columns of results/summary.csv."""
    lines: list[dict[str, Any]] = []
    for row in rows:
        known: dict[str, Any] = dict.fromkeys(("series", "x", "method", "seed", "status", "reason"))
        known |= {"settings": " ".join(row.settings), "notes": "; ".join(row.notes), "experiment": row.experiment}
        known |= {"paper_miou": published(sweep.name).get(row.key, "")}
        own = {name: getattr(row, name) for name in ("series", "x", "method", "status", "reason")}
        lines += [known | run | own | {"notes": known["notes"]} for run in row.runs or ({},)]
    return pd.DataFrame(lines, dtype=object).to_csv(index=False, lineterminator="\n")


def write_sweep(sweep: Sweep, rows: Sequence[Row], folder: Path) -> None:
    """Write README.md, runs.csv, table.csv and, if there is a result, NAME.png, .svg and .pdf into `folder`."""
    from scpseg.reporting.sweep_figures import draw_sweep

    table, drawn = sweep_table(sweep, rows), draw_sweep(sweep, rows, folder)
    write_text(folder / "runs.csv", csv_text(sweep, rows))
    write_text(folder / "table.csv", tables.csv_text(table))
    pictures = {path for path in folder.iterdir() if path.suffix in (".png", ".svg", ".pdf")}
    for old in pictures - set(drawn.files if drawn else ()):
        old.unlink()
    write_text(folder / "README.md", sweep_page(sweep, rows, drawn))


def sweep_page(sweep: Sweep, rows: Sequence[Row], drawn: Drawn | None) -> str:
    """The page in Markdown."""
    runs = [run for row in rows for run in row.runs]
    done = [row for row in rows if row.runs]
    random = [row for row in done if any(str(run["segmenter:weights"]).startswith("random") for run in row.runs)]
    commands: dict[str, dict[str, Any]] = {}
    for row in (row for row in rows if row.command):
        found = commands.setdefault(row.experiment, {"points": {}, "command": row.command})
        found["points"][row.x if row.series == title_of(row.method) else f"{row.series}, {row.x}"] = None
    return tables.render(
        "sweep.md.j2",
        sweep=sweep,
        table=sweep_table(sweep, rows),
        drawn=drawn,
        run=runs[0] if runs else None,
        title=get_benchmark(runs[0]["benchmark"]).title if runs else "",
        seeds=sorted({run["seed"] for run in runs}, key=int),
        several=max((row.miou.n for row in done), default=0) > 1,
        synthetic=any(run["synthetic"] == "True" for run in runs),
        random=["All networks"] if len(random) == len(done) else list(dict.fromkeys(row.network for row in random)),
        missing=len(rows) - len(done),
        rows=len(rows),
        commands=commands,
        environments=environments(runs),
        paper=PAPER if published(sweep.name) else "",
        paper_segmenter=PAPER_SEGMENTER.get(sweep.name, ""),
    )


def sweep_table(sweep: Sweep, rows: Sequence[Row]) -> Table:
    """One line per row."""
    paper, elsewhere = published(sweep.name), measured_elsewhere(rows)
    mean = next((run["mean_name"] for row in rows for run in row.runs), "mIoU")

    def score(row: Row) -> Cell:
        flags = [note.rstrip(".") for note in row.notes]
        flags += [f"{STATUS[row.status]}: {row.reason.rstrip('.')}"] if row.reason else []
        return share(row.miou, flags) if row.status == "ok" else Cell(STATUS[row.status], flags=tuple(flags))

    def change(row: Row) -> Cell:
        found = difference(row, rows)
        return Cell("reference") if found is None else points(found)

    def sizes(row: Row) -> str | None:
        kinds = ("patch", "context", "squeezed")
        return " / ".join(str(row.runs[0].get(f"model:{name}") or tables.DASH) for name in kinds) if row.runs else None

    x: Column[Row] = words(sweep.axes[0], lambda row: row.x)
    series: Column[Row] = words(sweep.axes[1], lambda row: row.series)
    columns = [x, series] if sweep.figure in ("pairs", "dots") else [series, x]  # the slowest changing one is first
    columns = columns if len({row.series for row in rows}) > 1 else [x]
    if any(setting.partition("=")[0] not in f"{row.x} {sweep.axes}" for row in rows for setting in row.own_settings):
        columns.append(words("settings", lambda row: ", ".join(row.own_settings)))
    columns += [
        words("network", lambda row: row.network),
        Column("patch / context / squeezed", sizes),
        Column(f"{mean} %", score),
        Column("difference", change, "to the reference row, seed by seed, in points"),
        Column("seeds", lambda row: row.miou.n or None),
        Column("profiled MiB", lambda row: mebibytes(row.memory, OTHER if row in elsewhere else ()),
               "of the profiled image, by the meter of the next column"),
        words("meter", lambda row: row.runs[0]["memory_backend"] if row.memory is not None else None),
        Column("paper: mIoU %", lambda row: number(float(paper[row.key]), 1) if row.key in paper else None),
    ]  # fmt: skip
    return table_of(f"sweep-{sweep.name}", sweep.title, columns, rows)


def finished_sweeps(folder: Path) -> list[dict[str, Any]]:
    """Title, table and figure of every sweep with files in `folder`, for the page of the report."""
    found = []
    for path in sorted(folder.glob("*/table.csv")):
        with path.open(encoding="utf-8", newline="") as stream:
            header, *lines = list(csv.reader(stream)) or [[]]
        if not header or any(len(line) != len(header) for line in lines):
            continue  # written by another version; the sweep will write it again
        name = path.parent.name
        title = (path.parent / "README.md").read_text(encoding="utf-8").partition("\n# ")[2].partition("\n")[0]
        columns: list[Column[list[str]]] = [
            Column(title, _cell(n), left=n < 2, key=f"c{n}") for n, title in enumerate(header)
        ]
        svg = [inline(path.read_text(encoding="utf-8"), name, title, {}) for path in path.parent.glob("*.svg")]
        table = table_of(f"sweep-{name}", title, columns, lines)
        found.append({"title": title, "table": table, "figure": Drawn((), title, svg[0]) if svg else None})
    return found


def _cell(place: int) -> Callable[[list[str]], Cell]:
    return lambda line: text(None if line[place] == tables.DASH else tables.csv_plain(line[place]))
