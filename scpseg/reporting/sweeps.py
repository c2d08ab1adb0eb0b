"""Results of sweeps as page, table, picture and CSV; the paper's figures are beside the measured ones, never mixed."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from scpseg.reporting.figures import COLUMN, Drawn, Look, arms, draw_cells, inline, score_limits
from scpseg.reporting.pages import Markup, Section, listed, markdown, texts
from scpseg.reporting.published import PAPER, read_table, title_of
from scpseg.reporting.statistics import Estimate, estimate, paired
from scpseg.reporting.tables import Cell, Column, Table

STATUS = {"failed": "failed", "invalid": "not valid", "missing": "not run yet"}
LEAST_POINTS = 2.0
"""Minimum width of a score axis in per cent, so that random differences do not fill the panel."""
ROW_HEIGHT, APART = 0.24, 0.26
"""Height of a row of marks in inches; share of it between its first and its last mark."""
OTHER = ("measured on other hardware, or with another number of threads, than most rows",)
FIRST = ("series", "x", "method", "seed", "status", "reason", "settings", "notes", "experiment", "paper_miou")
"""The first columns of runs.csv."""
Key = tuple[str, str]
"""(series, x)."""
Kind = Literal["steps", "pairs", "grid", "dots"]
Status = Literal["ok", "failed", "invalid", "missing"]


@dataclass(frozen=True)
class Sweep:
    """A set of experiments that are compared; `name` is that of its folder, `title` its question.

    `figure`: 'grid' = heat map, others a row per x with a mark per series: 'steps' = joined by lines, 'dots' = with a
    line at the first mark, 'pairs' = neither; `axes`: names of x and series; `source`: the paper's table or figure with
    the same points; `about`: a sentence on the choice of the points.
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
    lines, paper = list[dict[str, Any]](), published(sweep.name)
    for row in rows:
        own = {name: getattr(row, name) for name in ("series", "x", "method", "status", "reason", "experiment")}
        own |= {"settings": " ".join(row.settings), "notes": "; ".join(row.notes), "paper_miou": paper.get(row.key, "")}
        lines += [dict.fromkeys(FIRST) | own | run | own for run in row.runs or ({},)]
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
    runs, done, said = [run for row in rows for run in row.runs], [row for row in rows if row.runs], texts()
    notices = summary.notices(runs, lambda run: f"{run['segmenter:name']}, {run['segmenter:encoder']}")
    if len(done) < len(rows):
        notices.append(("Incomplete.", f"{len(rows) - len(done)} of {len(rows)} rows have no result."))
    commands = dict[str, tuple[str, list[str]]]()
    for row in (row for row in rows if row.command):
        point = row.x if row.series == title_of(row.method) else f"{row.series}, {row.x}"
        commands.setdefault(row.experiment, (row.command, []))[1].append(point)
    listing = "\n".join(f"# {'; '.join(dict.fromkeys(points))}: {experiment}\n{command}"
                        for experiment, (command, points) in commands.items())  # fmt: skip
    about = said.no_run
    if runs:
        title, seeds = get_benchmark(runs[0]["benchmark"]).title, sorted({run["seed"] for run in runs}, key=int)
        about = said.sweep(sweep, title, runs[0], seeds)
    several, paper = max((row.miou.n for row in done), default=0) > 1, PAPER if published(sweep.name) else ""
    how = [said.commands_of_sweep, Markup(f"```\n{listing}\n```")] if commands else [said.no_command]
    blocks = [
        about,
        sweep_table(sweep, rows),
        listed(said.sweep_notes(sweep, runs[0], several, paper)) if runs else [],
        drawn,
        Markup("All recorded values of every run: [runs.csv](runs.csv)."),
        Section("Commands", how),
        Section("Environment", [report_tables.environments(runs) or said.nothing]),
    ]
    return markdown(Section(sweep.title, blocks), drawn.files[0].parent if drawn else Path(), notices)


def sweep_table(sweep: Sweep, rows: Sequence[Row]) -> Table:
    """One line per row."""
    paper, elsewhere = published(sweep.name), measured_elsewhere(rows)

    def values(row: Row) -> dict[str, Any]:
        found, run, memory = difference(row, rows), (row.runs or ({},))[0], row.memory
        flags = [note.rstrip(".") for note in row.notes]
        flags += [f"{STATUS[row.status]}: {row.reason.rstrip('.')}"] if row.reason else []
        sizes = (str(run.get(f"model:{name}") or tables.DASH) for name in ("patch", "context", "squeezed"))
        # Without the settings that are in the column of the network.
        own = [one for one in row.settings if not one.startswith("segmenter.")]
        return {
            "x": row.x, "series": row.series, "network": row.network, "sizes": " / ".join(sizes) if run else None,
            "settings": ", ".join(own), "score": (row.miou if row.status == "ok" else Cell(STATUS[row.status]), flags),
            "difference": found or Cell("reference"), "seeds": row.miou.n or None, "paper": paper.get(row.key),
            "memory": (memory, OTHER if row in elsewhere else ()), "meter": memory and run["memory_backend"],
        }  # fmt: skip

    found = [values(row) for row in rows]
    # The columns of the axes say all settings, unless one is part of no name.
    if all(one.partition("=")[0] in f"{row['x']} {sweep.axes}" for row in found for one in row["settings"].split(", ")):
        found = [row | {"settings": None} for row in found]
    columns = [Column(name, "text", "", key) for name, key in zip(sweep.axes, ("x", "series"), strict=True)]
    columns = columns if sweep.figure in ("pairs", "dots") else columns[::-1]  # the slowest changing one is first
    columns = columns if len({row.series for row in rows}) > 1 else [one for one in columns if one.key == "x"]
    mean = next((run["mean_name"] for row in rows for run in row.runs), "mIoU")
    return tables.made("sweep", found, columns, sweep.name, question=sweep.title, mean=mean)


def finished_sweeps(folder: Path) -> list[Section]:
    """Title, figure and table of every sweep with files in `folder`, for the page of the report."""
    found = []
    for path in sorted(folder.glob("*/table.csv")):
        with path.open(encoding="utf-8", newline="") as stream:
            header, *lines = list(csv.reader(stream)) or [[]]
        if not header or any(len(line) != len(header) for line in lines):
            continue  # written by another version; the sweep will write it again
        title = re.search("^# (.*)", (path.parent / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
        name, caption = path.parent.name, title[1] if title else path.parent.name
        columns = [Column(head, "text" if n < 2 else "", "", f"c{n}") for n, head in enumerate(header)]
        rows = [[_read(column, field) for column, field in zip(columns, line, strict=True)] for line in lines]
        svg = [inline(path.read_text(encoding="utf-8"), name, caption, {}) for path in path.parent.glob("*.svg")]
        table = Table(f"sweep-{name}", caption, tuple(columns), tuple(map(tuple, rows))).filled
        found.append(Section(caption, [Drawn((), caption, "".join(svg)), table]))
    return found


def _read(column: Column, field: str) -> Cell:
    """A cell of table.csv; a number, also with its interval, is sorted as one."""
    cell = column.cell("" if field == tables.DASH else tables.csv_plain(field))
    number = re.match(r"([−+]?[\d.]+)( ±|$)", cell.text)
    return replace(cell, value=float(number[1].replace("−", "-"))) if number and not column.left else cell


@figures.styled
def draw_sweep(sweep: Sweep, rows: Sequence[Row], folder: Path) -> Drawn | None:
    """Write `sweep.name`.png, .svg and .pdf into `folder`; None if no result exists."""
    found = {row.key: (100 * row.miou.mean, 100 * (row.miou.half or 0)) for row in rows if row.miou.mean is not None}
    if not found:
        return None
    paper = {key: (float(text), 0.0) for key, text in published(sweep.name).items()}
    xs, looks = list(dict.fromkeys(row.x for row in rows)), _looks(rows)
    first, grid_like = next(run for row in rows for run in row.runs), sweep.figure == "grid"
    shown = [("this suite" if paper else "", _marks(found))]
    shown += [(f"paper, {sweep.source}", _marks(paper))] if paper else []
    span = max(LEAST_POINTS, *((marks["high"].max() - marks["low"].min()) for _, marks in shown))
    high = 0.75 + 0.32 * len(looks) if grid_like else 0.9 + ROW_HEIGHT * max(3, len(xs))
    figure, grid = figures.panels(COLUMN * len(shown) * (1 if paper or grid_like else 1.25), high, len(shown))
    for place, (axes, (title, marks)) in enumerate(zip(grid, shown, strict=True)):
        if grid_like:
            _heat_map(axes, marks, xs, list(looks))
            axes.set(xlabel=sweep.axes[0], ylabel="" if place else sweep.axes[1])
        else:
            _rows(axes, marks, xs, looks, sweep.figure)
            axes.set(xlim=score_limits(marks["low"].min(), marks["high"].max(), span))
            axes.set_xlabel(f"{first['mean_name']} (%)")
            axes.tick_params(labelleft=not place)  # the rows are those of the first panel
        axes.set_title(title)
    if summary.invented(first):
        figures.mark_synthetic(grid[0])
    if not grid_like and len(looks) > 1:
        figures.legend(figure, grid[:1], "outside lower center", 4)
    return figures.save(figure, folder / sweep.name, f"{sweep.title}: {first['mean_name']} of every point")


def _marks(scores: Mapping[Key, tuple[float, float]]) -> pd.DataFrame:
    """Columns series, x, score in per cent, half of its interval, 0 for one seed, and the ends of the interval."""
    found = pd.DataFrame([(*key, *one) for key, one in scores.items()], columns=["series", "x", "score", "half"])
    low, high = found["score"] - found["half"], found["score"] + found["half"]
    return found.assign(low=low.clip(lower=0), high=high.clip(upper=100))


def _looks(rows: Sequence[Row]) -> dict[str, Look]:
    """Look by series: a method's own, as in all figures; another set for segmenters and others."""
    methods, others = figures.looks_of({row.method for row in rows}), figures.OTHERS
    more = list(dict.fromkeys(row.series for row in rows if row.series != title_of(row.method)))
    return {row.series: others[more.index(row.series) % len(others)] if row.series in more else methods[row.method]
            for row in rows}  # fmt: skip


def _rows(axes: Axes, marks: pd.DataFrame, xs: list[str], looks: Mapping[str, Look], kind: Kind) -> None:
    """A row for each of `xs`, with a mark and an error bar for every series."""
    for place, (name, look) in enumerate(looks.items()):
        mine = marks[(marks["series"] == name) & marks["x"].isin(xs)]
        at = mine["x"].map(xs.index) + (APART * (place / (len(looks) - 1) - 0.5) if len(looks) > 1 else 0)
        if kind == "dots" and xs[0] in set(mine["x"]):  # the first row is what the others are compared with
            axes.axvline(mine["score"].iloc[0], color=look.colour, lw=0.8, ls=(0, (4, 3)))
        bars = np.where(mine["half"], arms(mine["score"], mine["half"]), np.nan)
        axes.errorbar(mine["score"], at, xerr=bars, label=name, color=look.colour, marker=look.marker, ms=5.5, lw=1.0,
                      mec=figures.PAPER, mew=0.5, ls="-" if kind == "steps" else "none", elinewidth=0.8, capsize=2,
                      zorder=3)  # fmt: skip
    axes.set_yticks(range(len(xs)), xs)
    axes.set_ylim(len(xs) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=figures.STEPS))


def _heat_map(axes: Axes, marks: pd.DataFrame, xs: Sequence[str], series: Sequence[str]) -> None:
    """One cell per point with its score; the best in bold, points without a result in grey."""
    cells = marks.set_index(["series", "x"]).reindex(pd.MultiIndex.from_product([series, xs]))
    values = cells["score"].to_numpy().reshape(len(series), len(xs))
    high = float(np.nanmax(values))
    span = max(high - float(np.nanmin(values)), LEAST_POINTS)
    low = (high + float(np.nanmin(values)) - span) / 2
    # Only the light half of the colour map, so that black numbers are readable everywhere.
    shades = {"cmap": colormaps["YlGnBu"].with_extremes(bad="0.95"), "vmin": low - 0.1 * span, "vmax": low + 1.9 * span}
    texts = [tables.DASH if np.isnan(score) else f"{score:.1f}" + (f" ± {half:.1f}" if half else "")
             for score, half in zip(cells["score"], cells["half"], strict=True)]  # fmt: skip
    for cell, score in zip(draw_cells(axes, values, texts, (xs, series), **shades), values.flat, strict=True):
        cell.set(color=figures.MUTED if np.isnan(score) else "black", fontweight="bold" if score == high else "normal")
