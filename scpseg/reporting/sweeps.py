"""Results of sweeps as page, table and CSV: rows, means and differences over seeds, and the paper's figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from scpseg.benchmarks import get_benchmark
from scpseg.files import write_text
from scpseg.reporting.figures import Drawn, inline
from scpseg.reporting.published import PAPER, title_of
from scpseg.reporting.statistics import Estimate, estimate
from scpseg.reporting.summary import common, device
from scpseg.reporting.tables import DASH, Cell, Column, Table, csv_plain, mebibytes, number, points, render, share, text
from scpseg.reporting.tables import csv_text as table_csv
from scpseg.reporting.views import environments

SEGMENTERS = {"fcn8s-resnet50": "FCN-8s", "deeplabv3plus-resnet18": "DeepLabv3+"}
"""Titles of the paper's two segmenters in table 6."""
STEPS = {"000": "plain", "100": "+ CSM", "110": "+ SRD", "111": "+ LFA"}
"""csm, srd, lfa of table 6 -> name of the step."""
PAPER_SEGMENTER = {"sizes": "FCN-8s with ResNet-50"}
POINT_COLUMNS = (
    "series",
    "x",
    "method",
    "seed",
    "status",
    "reason",
    "settings",
    "notes",
    "experiment",
    "paper_miou",
)
STATUS = {"failed": "failed", "invalid": "not valid", "missing": "not run yet"}
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


def tidy(value: Any) -> str:
    """A parameter's value as text: 2.0 as 2, True as true."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def short(value: float) -> str:
    """A ratio with three digits."""
    return f"{value:.3g}"


def scores(row: Row) -> dict[str, float]:
    """Mean IoU (0..1) by seed."""
    return {run["seed"]: float(run["mean_iou"]) for run in row.runs if run["mean_iou"] is not None}


def miou(row: Row) -> Estimate:
    """Mean over seeds of the mean IoU."""
    return estimate(scores(row).values())


def difference(row: Row, rows: Sequence[Row]) -> Estimate | None:
    """Mean IoU minus that of the reference row, by seed; None for the reference itself, n = 0 if one is missing.

    Equal seeds start from equal weights and use equal windows, so their differences vary less than the scores.
    """
    if row.reference is None or row.key == row.reference:
        return None
    base: dict[str, float] = next((scores(other) for other in rows if other.key == row.reference), {})
    mine = scores(row)
    return estimate(mine[seed] - base[seed] for seed in mine if seed in base)


def memory(row: Row) -> tuple[float | None, str | None]:
    """Profiled memory in MiB, and its meter."""
    if not row.runs or row.runs[0]["memory_mib"] is None:
        return None, None
    return float(row.runs[0]["memory_mib"]), str(row.runs[0]["memory_backend"])


def measured_elsewhere(rows: Sequence[Row]) -> list[Row]:
    """Rows whose memory was measured on other hardware or with another number of threads than most rows."""
    devices = [device(row.runs[0]) if memory(row)[0] is not None else None for row in rows]
    most = common(devices)
    return [row for row, found in zip(rows, devices, strict=True) if found not in (None, most)]


@cache
def published(sweep: str) -> dict[Key, str]:
    """Mean IoU in per cent as printed in the paper, by (series, x); empty if the paper has no such sweep."""
    found: dict[Key, str] = {}
    if sweep == "components":
        for row in _table("ablation_components.csv"):
            step = STEPS[row["csm"] + row["srd"] + row["lfa"]]
            found[SEGMENTERS[row["segmenter"]], step] = row["miou"]
    elif sweep == "segmenters":
        for row in _table("ablation_segmenters.csv"):
            found["Patch", row["segmenter"]] = row["miou_without"]
            found["SCPSeg", row["segmenter"]] = row["miou_with"]
    elif sweep == "sizes":
        for row in _table("ablation_sizes.csv"):
            context = float(row["context"]) / float(row["patch"])
            found[short(float(row["csm_ratio"])), short(context)] = row["miou"]
    return found


def _table(name: str) -> list[dict[str, str]]:
    source = resources.files("scpseg.reporting").joinpath("published", name)
    with source.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def csv_text(sweep: Sweep, rows: Sequence[Row]) -> str:
    """One line per row and seed: the point, then all columns of results/summary.csv."""
    lines = []
    for row in rows:
        point = {
            "series": row.series,
            "x": row.x,
            "method": row.method,
            "status": row.status,
            "reason": row.reason,
            "settings": " ".join(row.settings),
            "notes": "; ".join(row.notes),
            "experiment": row.experiment,
            "paper_miou": published(sweep.name).get(row.key, ""),
        }
        lines += [{**run, **point} for run in row.runs] or [point]
    rest = dict.fromkeys(key for line in lines for key in line if key not in POINT_COLUMNS)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*POINT_COLUMNS, *rest], lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def write_sweep(sweep: Sweep, rows: Sequence[Row], folder: Path) -> None:
    """Write README.md, runs.csv, table.csv and, if there is a result, NAME.png, .svg and .pdf into `folder`."""
    from scpseg.reporting.sweep_figures import draw_sweep

    write_text(folder / "runs.csv", csv_text(sweep, rows))
    write_text(folder / "table.csv", table_csv(sweep_table(sweep, rows)))
    drawn = draw_sweep(sweep, rows, folder)
    for old in {path for kind in ("png", "svg", "pdf") for path in folder.glob(f"*.{kind}")} - set(
        drawn.files if drawn else ()
    ):
        old.unlink()
    write_text(folder / "README.md", sweep_page(sweep, rows, drawn))


def sweep_page(sweep: Sweep, rows: Sequence[Row], drawn: Drawn | None) -> str:
    """The page in Markdown."""
    runs = [run for row in rows for run in row.runs]
    random = [row for row in rows if any(str(run["segmenter:weights"]).startswith("random") for run in row.runs)]
    done = [row for row in rows if row.runs]
    commands: dict[str, dict[str, Any]] = {}
    for row in (row for row in rows if row.command):
        found = commands.setdefault(row.experiment, {"points": {}, "command": row.command})
        found["points"][row.x if row.series == title_of(row.method) else f"{row.series}, {row.x}"] = None
    return render(
        "sweep.md.j2",
        sweep=sweep,
        table=sweep_table(sweep, rows),
        drawn=drawn,
        run=runs[0] if runs else None,
        title=get_benchmark(runs[0]["benchmark"]).title if runs else "",
        seeds=sorted({run["seed"] for run in runs}, key=int),
        several=max((miou(row).n for row in done), default=0) > 1,
        synthetic=any(run["synthetic"] == "True" for run in runs),
        random=["All networks"] if len(random) == len(done) else list(dict.fromkeys(map(network, random))),
        missing=len(rows) - len(done),
        rows=len(rows),
        commands=commands,
        environments=environments(runs),
        paper=PAPER if published(sweep.name) else "",
        paper_segmenter=PAPER_SEGMENTER.get(sweep.name, ""),
    )


def sweep_table(sweep: Sweep, rows: Sequence[Row]) -> Table:
    """One line per row."""
    paper = published(sweep.name)
    several = len({row.series for row in rows}) > 1
    told = all(setting.partition("=")[0] in f"{row.x} {sweep.axes}" for row in rows for setting in own_settings(row))
    mean = next((run["mean_name"] for row in rows for run in row.runs), "mIoU")
    columns = [Column(f"place{n}", name, left=True) for n, name in enumerate(_place(sweep, *sweep.axes, several))]
    columns += [] if told else [Column("settings", "settings", left=True)]
    columns += [
        Column("network", "network", left=True),
        Column("sizes", "patch / context / squeezed"),
        Column("score", f"{mean} %"),
        Column("difference", "difference", "to the reference row, seed by seed, in points"),
        Column("seeds", "seeds"),
        Column("memory", "profiled MiB", "of the profiled image, by the meter of the next column"),
        Column("meter", "meter", left=True),
        Column("paper", "paper: mIoU %"),
    ]
    elsewhere, lines = measured_elsewhere(rows), []
    for row in rows:
        size, meter = memory(row)
        flags = [note.rstrip(".") for note in row.notes]
        flags += [f"{STATUS[row.status]}: {row.reason.rstrip('.')}"] if row.reason else []
        other = (
            ("measured on other hardware, or with another number of threads, than most rows",)
            if row in elsewhere
            else ()
        )
        score = share(miou(row), flags) if row.status == "ok" else Cell(STATUS[row.status], flags=tuple(flags))
        change = difference(row, rows)
        line = [text(part) for part in _place(sweep, row.x, row.series, several)]
        line += [] if told else [text(", ".join(own_settings(row)))]
        line += [text(network(row) if row.runs else None), text(_sizes(row)), score]
        line += [Cell("reference") if change is None else points(change), text(miou(row).n or None)]
        line += [mebibytes(size, other), text(meter)]
        line.append(number(float(paper[row.key]) if row.key in paper else None, 1))
        lines.append(tuple(line))
    return Table(f"sweep-{sweep.name}", sweep.title, tuple(columns), tuple(lines)).filled


def _place(sweep: Sweep, x: str, series: str, several: bool) -> list[str]:
    """The first cells of a line; the slowest changing one is first."""
    if not several:
        return [x]
    return [x, series] if sweep.figure in ("pairs", "dots") else [series, x]


def own_settings(row: Row) -> list[str]:
    """Settings that are not in the column of the network."""
    return [setting for setting in row.settings if not setting.startswith("segmenter.")]


def network(row: Row) -> str:
    """'fcn8s, resnet50'."""
    return f"{row.runs[0]['segmenter:name']}, {row.runs[0]['segmenter:encoder']}"


def _sizes(row: Row) -> str | None:
    if not row.runs:
        return None
    return " / ".join(str(row.runs[0].get(f"model:{name}") or DASH) for name in ("patch", "context", "squeezed"))


def finished_sweeps(folder: Path) -> list[dict[str, Any]]:
    """Title, table and figure of every sweep with files in `folder`, for the page of the report."""
    found = []
    for path in sorted(folder.glob("*/table.csv")):
        with path.open(encoding="utf-8", newline="") as stream:
            header, *lines = list(csv.reader(stream)) or [[]]
        if not header or any(len(line) != len(header) for line in lines):
            continue  # written by another version; the sweep will write it again
        title = (path.parent / "README.md").read_text(encoding="utf-8").partition("\n# ")[2].partition("\n")[0]
        columns = tuple(Column(f"c{n}", name, left=n < 2) for n, name in enumerate(header))
        rows = tuple(tuple(text(None if value == DASH else csv_plain(value)) for value in line) for line in lines)
        svg = "".join(
            inline(picture.read_text(encoding="utf-8"), path.parent.name, title, {})
            for picture in sorted(path.parent.glob("*.svg"))[:1]
        )
        table = Table(f"sweep-{path.parent.name}", title, columns, rows)
        found.append({"title": title, "table": table, "figure": Drawn((), title, svg) if svg else None})
    return found
