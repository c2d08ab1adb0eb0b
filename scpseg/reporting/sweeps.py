"""Results of sweeps as page, table, picture and CSV; the paper's figures are beside the measured ones, never mixed."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from scpseg.benchmarks import get_benchmark
from scpseg.files import write_text
from scpseg.reporting import figures, report_tables, summary, tables
from scpseg.reporting.figures import COLUMN, FONT, MUTED, Drawn, Look, arms, draw_cells, inline, legend, panels
from scpseg.reporting.published import PAPER, read_table, title_of
from scpseg.reporting.statistics import Estimate, estimate, paired
from scpseg.reporting.tables import Cell, Column, Table, mebibytes, number, points, share, text, words

STATUS = {"failed": "failed", "invalid": "not valid", "missing": "not run yet"}
LEAST_POINTS = 2.0
"""Minimum width of a score axis in per cent, so that random differences do not fill the panel."""
ROW_HEIGHT, APART = 0.24, 0.26
"""Height of a row of marks in inches; share of it between its first and its last mark, if they have error bars."""
OTHER = ("measured on other hardware, or with another number of threads, than most rows",)
Key = tuple[str, str]
"""(series, x)."""
Kind = Literal["steps", "pairs", "grid", "dots"]
Status = Literal["ok", "failed", "invalid", "missing"]


@dataclass(frozen=True)
class Sweep:
    """A set of experiments that are compared; `name` is that of its folder, `title` its question.

    `figure`: 'steps' = lines over steps, 'pairs' = two marks per row, 'grid' = heat map, 'dots' = one mark per row;
    `axes`: names of x and series; `source`: the paper's table or figure with the same points; `about`: a sentence on
    the choice of the points.
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
        x, series: position on the x axis; line, group or row of the heat map.
        settings: 'section.key=value' of the point, without those of the whole sweep.
        status, reason: 'missing' is not run yet; the reason why it is not 'ok'.
        notes: remarks for the reader.
        reference: key of the row with which it is compared.
        experiment, command: name of the DVC experiment, '' if the parameters are not valid; command that runs it again.
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
        return summary.scores(self.runs)

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
    devices = [summary.device(row.runs[0]) if row.memory is not None else None for row in rows]
    most = summary.common(devices)
    return [row for row, found in zip(rows, devices, strict=True) if found not in (None, most)]


def published(sweep: str) -> dict[Key, str]:
    """Mean IoU in per cent as printed in the paper, by (series, x); empty if the paper has no such sweep."""
    rows = read_table("published/ablations.csv")
    return {(row["series"], row["x"]): row["miou"] for row in rows if row["sweep"] == sweep}


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
    table, drawn = sweep_table(sweep, rows), draw_sweep(sweep, rows, folder)
    write_text(folder / "runs.csv", csv_text(sweep, rows))
    write_text(folder / "table.csv", tables.csv_text(table))
    pictures = {path for path in folder.iterdir() if path.suffix in (".png", ".svg", ".pdf")}
    for old in pictures - set(drawn.files if drawn else ()):
        old.unlink()
    write_text(folder / "README.md", sweep_page(sweep, rows, drawn))


def sweep_page(sweep: Sweep, rows: Sequence[Row], drawn: Drawn | None) -> str:
    """The page in Markdown."""
    runs, done = [run for row in rows for run in row.runs], [row for row in rows if row.runs]
    random = [row for row in done if any(str(run["segmenter:weights"]).startswith("random") for run in row.runs)]
    all_random = random and len(random) == len(done)
    who = "All networks" if all_random else "; ".join(dict.fromkeys(str(row.network) for row in random))
    scenes = "The images behind this report are procedural scenes; its numbers say nothing about the real benchmarks."
    found = {
        ("Synthetic scenes.", scenes): any(summary.invented(run) for run in runs),
        ("Random weights.", f"{who} started training from random weights, not from ImageNet."): who,
        ("Incomplete.", f"{len(rows) - len(done)} of {len(rows)} rows have no result."): len(done) < len(rows),
    }
    commands: dict[str, tuple[str, dict[str, None]]] = {}
    for row in (row for row in rows if row.command):
        point = row.x if row.series == title_of(row.method) else f"{row.series}, {row.x}"
        commands.setdefault(row.experiment, (row.command, {}))[1][point] = None
    return tables.render(
        "sweep.md.j2",
        sweep=sweep,
        table=sweep_table(sweep, rows),
        drawn=drawn,
        run=runs[0] if runs else None,
        title=get_benchmark(runs[0]["benchmark"]).title if runs else "",
        seeds=sorted({run["seed"] for run in runs}, key=int),
        several=max((row.miou.n for row in done), default=0) > 1,
        notices=[notice for notice, holds in found.items() if holds],
        commands=commands,
        environments=report_tables.environments(runs),
        paper=PAPER if published(sweep.name) else "",
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

    x, series = words(sweep.axes[0], [row.x for row in rows]), words(sweep.axes[1], [row.series for row in rows])
    columns = [x, series] if sweep.figure in ("pairs", "dots") else [series, x]  # the slowest changing one is first
    columns = columns if len({row.series for row in rows}) > 1 else [x]
    # Without the settings that are in the column of the network.
    own = {row.key: [one for one in row.settings if not one.startswith("segmenter.")] for row in rows}
    if any(one.partition("=")[0] not in f"{row.x} {sweep.axes}" for row in rows for one in own[row.key]):
        columns.append(words("settings", [", ".join(own[row.key]) for row in rows]))
    memory = [mebibytes(row.memory, OTHER if row in elsewhere else ()) for row in rows]
    columns += [
        words("network", [row.network for row in rows]),
        Column("patch / context / squeezed", map(sizes, rows)),
        Column(f"{mean} %", map(score, rows)),
        Column("difference", map(change, rows), "to the reference row, seed by seed, in points"),
        Column("seeds", [row.miou.n or None for row in rows]),
        Column("profiled MiB", memory, "of the profiled image, by the meter of the next column"),
        words("meter", [row.runs[0]["memory_backend"] if row.memory is not None else None for row in rows]),
        Column("paper: mIoU %", [number(paper.get(row.key)) for row in rows]),
    ]
    return Table.of(f"sweep-{sweep.name}", sweep.title, columns)


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
        columns = [Column(head, [text(None if line[n] == tables.DASH else tables.csv_plain(line[n])) for line in lines],
                          left=n < 2, key=f"c{n}") for n, head in enumerate(header)]  # fmt: skip
        svg = [inline(path.read_text(encoding="utf-8"), name, title, {}) for path in path.parent.glob("*.svg")]
        table = Table.of(f"sweep-{name}", title, columns)
        found.append({"title": title, "table": table, "figure": Drawn((), title, svg[0]) if svg else None})
    return found


def _marks(scores: Mapping[Key, tuple[float, float]]) -> pd.DataFrame:
    """Columns series, x, score in per cent, and half of its interval, 0 for one seed."""
    return pd.DataFrame([(*key, *one) for key, one in scores.items()], columns=["series", "x", "score", "half"])


def draw_sweep(sweep: Sweep, rows: Sequence[Row], folder: Path) -> Drawn | None:
    """Write `sweep.name`.png, .svg and .pdf into `folder`; None if no result exists."""
    known = {row.key: row.miou for row in rows}
    found = {key: (100 * one.mean, 100 * (one.half or 0)) for key, one in known.items() if one.mean is not None}
    if not found:
        return None
    paper = {key: (float(text), 0.0) for key, text in published(sweep.name).items()}
    xs, series = list(dict.fromkeys(row.x for row in rows)), list(dict.fromkeys(row.series for row in rows))
    first, looks = next(run for row in rows for run in row.runs), _looks(rows)
    shown = [("this suite" if paper else "", _marks(found))]
    shown += [(f"paper, {sweep.source}", _marks(paper))] if paper else []
    span = max(LEAST_POINTS, *(high - low for low, high in (_ends(marks) for _, marks in shown)))
    rowed = sweep.figure in ("dots", "pairs")
    rows_high = 0.75 + ROW_HEIGHT * max(3, len(xs)) + 0.15 * (len(series) > 1)
    high = {"grid": 0.75 + 0.32 * len(series), "steps": 2.45}.get(sweep.figure, rows_high)
    with figures.style():
        figure, grid = panels(COLUMN * len(shown) * (1.25 if rowed and not paper else 1), high, len(shown))
        for place, (axes, (title, marks)) in enumerate(zip(grid, shown, strict=True)):
            if sweep.figure == "grid":
                _heat_map(axes, marks, xs, series)
                axes.set(xlabel=sweep.axes[0], ylabel="" if place else sweep.axes[1])
            else:
                _series(axes, marks, xs, looks, sweep, span)
                (axes.set_xlabel if rowed else axes.set_ylabel)(f"{first['mean_name']} (%)")
                if rowed and place:  # the rows are those of the first panel
                    axes.set_yticklabels([])
            axes.set_title(title)
            if first["synthetic"] == "True" and place == 0:
                figures.mark_synthetic(axes)
        if sweep.figure != "grid" and len(series) > 1:
            legend(figure, grid[:1], "outside lower center", 4)
        return figures.save(figure, folder / sweep.name, f"{sweep.title}: {first['mean_name']} of every point")


def _looks(rows: Sequence[Row]) -> dict[str, Look]:
    """Look by series: a method's own, as in all figures; another set for segmenters and others."""
    methods, found = figures.looks_of({row.method for row in rows}), dict[str, Look]()
    others = list(dict.fromkeys(row.series for row in rows if row.series != title_of(row.method)))
    for row in rows:
        other = figures.OTHERS[others.index(row.series) % len(figures.OTHERS)] if row.series in others else None
        found[row.series] = other or methods[row.method]
    return found


def _series(
    axes: Axes, marks: pd.DataFrame, xs: list[str], looks: Mapping[str, Look], sweep: Sweep, span: float
) -> None:
    """Marks and error bars of every series: 'steps' with scores upwards and a line, others in rows."""
    upright, series = sweep.figure == "steps", list(looks)
    spread = sweep.figure == "pairs" or marks["half"].any()
    apart = spread * APART / (1 + upright) * (len(series) > 1)
    shift = {name: apart * (place / max(len(series) - 1, 1) - 0.5) for place, name in enumerate(series)}
    shown = marks[marks["series"].isin(series) & marks["x"].isin(xs)]
    shown = shown.assign(at=shown["x"].map(xs.index) + shown["series"].map(shift)).sort_values("at", kind="stable")
    for place, x in enumerate(xs if sweep.figure == "pairs" else ()):
        pair = shown[shown["x"] == x]
        axes.plot(pair["score"], pair["at"], color="#BBBBBB", zorder=1)
        if pair.empty:
            axes.text(0.5, place, "no figure", color=MUTED, fontsize=FONT - 1, ha="center", va="center",
                      transform=axes.get_yaxis_transform())  # fmt: skip
    for name, look in looks.items():
        mine = shown[shown["series"] == name]
        level, half = mine["score"], mine["half"]
        where = (mine["at"], level) if upright else (level, mine["at"])
        if sweep.figure == "dots" and xs[0] in set(mine["x"]):  # the first row is what the others are compared with
            axes.axvline(level.iloc[0], color=look.colour, lw=0.8, ls=(0, (4, 3)))
        if half.any():
            bars: dict[str, Any] = {"yerr" if upright else "xerr": arms(level, half)}
            axes.errorbar(*where, **bars, fmt="none", ecolor=look.colour, elinewidth=0.8, capsize=2)
        axes.plot(*where, label=name, color=look.colour, marker=look.marker, ms=5.5, mec=figures.PAPER, mew=0.5,
                  lw=1.0, ls="-" if upright else "none", zorder=3)  # fmt: skip
    across, along = (axes.xaxis, axes.yaxis) if upright else (axes.yaxis, axes.xaxis)
    across.grid(visible=False)
    across.set_ticks(range(len(xs)), xs)
    along.set_major_locator(MaxNLocator(5, steps=figures.STEPS))
    if upright:
        axes.set(xlim=(-0.4, len(xs) - 0.6), ylim=_limits(marks, span), xlabel=sweep.axes[0])
    else:
        axes.set(ylim=(len(xs) - 0.4, -0.6), xlim=_limits(marks, span))


def _heat_map(axes: Axes, marks: pd.DataFrame, xs: Sequence[str], series: Sequence[str]) -> None:
    """One cell per point with its score; the best in bold, points without a result in grey."""
    cells = marks.set_index(["series", "x"]).reindex(pd.MultiIndex.from_product([series, xs]))
    values = cells["score"].to_numpy().reshape(len(series), len(xs))
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    span, middle = max(high - low, LEAST_POINTS), (low + high) / 2
    # Only the light half of the colour map, so that black numbers are readable everywhere.
    shade = 0.05 + 0.5 * (values - (middle - span / 2)) / span
    empty = (0.95, 0.95, 0.95, 1.0)
    shades = np.where(np.isnan(values)[..., None], empty, colormaps["YlGnBu"](np.nan_to_num(shade)))
    scores = [f"{score:.1f}" + (f" ± {half:.1f}" if half else "") for score, half in cells.to_numpy()]
    texts = np.where(np.isnan(values), tables.DASH, np.reshape(scores, values.shape))
    for cell, score in zip(chain(*draw_cells(axes, shades, texts.tolist(), (xs, series))), values.flat, strict=True):
        cell.set(color=MUTED if np.isnan(score) else "black", fontweight="bold" if score == high else "normal")


def _ends(marks: pd.DataFrame) -> tuple[float, float]:
    """The lowest and the highest drawn score, including intervals."""
    low, high = (marks["score"] - marks["half"]).min(), (marks["score"] + marks["half"]).max()
    return max(low, 0.0), min(high, 100.0)


def _limits(marks: pd.DataFrame, span: float) -> tuple[float, float]:
    """Limits of a score axis of width `span` with a margin, above 100 % only as far as needed."""
    low, high = _ends(marks)
    top = min((low + high) / 2 + 0.6 * span, max(100.0, high + 0.1 * span))
    return top - 1.2 * span, top
