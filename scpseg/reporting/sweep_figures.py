"""Figures of sweeps; the paper's figures are in a separate panel next to the measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from scpseg.reporting import figures
from scpseg.reporting.figures import COLUMN, FONT, MUTED, Drawn, Look, arms, draw_cells, legend, panels, save, style
from scpseg.reporting.published import title_of
from scpseg.reporting.sweeps import Key, Row, Sweep, published

LEAST_POINTS = 2.0
"""Minimum width of a score axis in per cent, so that random differences do not fill the panel."""
ROW_HEIGHT = 0.24
"""Height of a row of marks in inches."""
APART = 0.26
"""Share of a row between its first and its last mark, if they have error bars."""


class Mark(NamedTuple):
    """A score in per cent; `half` is half of its interval, 0 for one seed."""

    score: float
    half: float = 0.0

    @property
    def text(self) -> str:
        """'71.2 ± 0.5' for several seeds."""
        return f"{self.score:.1f}" + (f" ± {self.half:.1f}" if self.half else "")


Marks = Mapping[Key, Mark]
"""(series, x) -> score; does not contain points without a result."""


def draw_sweep(sweep: Sweep, rows: Sequence[Row], folder: Path) -> Drawn | None:
    """Write `sweep.name`.png, .svg and .pdf into `folder`; None if there is no result."""
    found = {row.key: row.miou for row in rows}
    measured = {key: Mark(100 * one.mean, 100 * (one.half or 0)) for key, one in found.items() if one.mean is not None}
    if not measured:
        return None
    paper = {key: Mark(float(text)) for key, text in published(sweep.name).items()}
    xs, series = list(dict.fromkeys(row.x for row in rows)), list(dict.fromkeys(row.series for row in rows))
    first, looks = next(run for row in rows for run in row.runs), _looks(rows)
    shown: list[tuple[str, Marks]] = [("this suite" if paper else "", measured)]
    shown += [(f"paper, {sweep.source}", paper)] if paper else []
    span = max(LEAST_POINTS, *(high - low for low, high in (_ends(marks) for _, marks in shown)))
    rowed = sweep.figure in ("dots", "pairs")
    high = 0.75 + ROW_HEIGHT * max(3, len(xs)) + 0.15 * (len(series) > 1) if rowed else 2.45
    high = 0.75 + 0.32 * len(series) if sweep.figure == "grid" else high
    with style():
        figure, grid = panels(COLUMN * len(shown) * (1.25 if rowed and not paper else 1), high, len(shown))
        for place, (axes, (title, marks)) in enumerate(zip(grid, shown, strict=True)):
            if sweep.figure == "grid":
                _heat_map(axes, marks, xs, series)
                axes.set_xlabel(sweep.axes[0])
                axes.set_ylabel("" if place else sweep.axes[1])
            else:
                _series(axes, marks, xs, series, looks, sweep, span)
                (axes.set_xlabel if rowed else axes.set_ylabel)(f"{first['mean_name']} (%)")
                if rowed and place:  # the rows are those of the first panel
                    axes.set_yticklabels([])
            axes.set_title(title)
            if first["synthetic"] == "True" and place == 0:
                figures.mark_synthetic(axes)
        if sweep.figure != "grid" and len(series) > 1:
            legend(figure, grid[:1], "outside lower center", 4)
        return save(figure, folder / sweep.name, f"{sweep.title}: {first['mean_name']} of every point")


def _looks(rows: Sequence[Row]) -> dict[str, Look]:
    """Look by series: a method's own, as in all figures; another set for segmenters and others."""
    methods, found = figures.looks_of({row.method for row in rows}), dict[str, Look]()
    others = list(dict.fromkeys(row.series for row in rows if row.series != title_of(row.method)))
    for row in rows:
        other = figures.OTHERS[others.index(row.series) % len(figures.OTHERS)] if row.series in others else None
        found[row.series] = other or methods[row.method]
    return found


def _series(
    axes: Axes,
    marks: Marks,
    xs: Sequence[str],
    series: Sequence[str],
    looks: Mapping[str, Look],
    sweep: Sweep,
    span: float,
) -> None:
    """Marks and error bars of every series: 'steps' with scores upwards and a line, others in rows."""
    upright = sweep.figure == "steps"
    spread = sweep.figure == "pairs" or any(mark.half for mark in marks.values())
    apart = spread * APART / (1 + upright)
    shift = {
        name: apart * (place / max(len(series) - 1, 1) - 0.5) * (len(series) > 1) for place, name in enumerate(series)
    }
    for place, x in enumerate(xs):
        there = [name for name in series if (name, x) in marks]
        if sweep.figure == "pairs":
            ends = [marks[name, x].score for name in there]
            axes.plot(ends, [place + shift[name] for name in there], color="#BBBBBB", zorder=1)
        if sweep.figure == "pairs" and not there:
            axes.text(0.5, place, "no figure", color=MUTED, fontsize=FONT - 1, ha="center", va="center",
                      transform=axes.get_yaxis_transform())  # fmt: skip
    for name in series:
        look, places = looks[name], [place for place, x in enumerate(xs) if (name, x) in marks]
        found, at = [marks[name, xs[place]] for place in places], [place + shift[name] for place in places]
        level, half = [mark.score for mark in found], [mark.half for mark in found]
        points = (at, level) if upright else (level, at)
        if sweep.figure == "dots" and 0 in places:  # the first row is what the others are compared with
            axes.axvline(level[0], color=look.colour, lw=0.8, ls=(0, (4, 3)))
        if any(half):
            bars = arms(level, half)
            axes.errorbar(*points, yerr=bars if upright else None, xerr=None if upright else bars, fmt="none",
                          ecolor=look.colour, elinewidth=0.8, capsize=2)  # fmt: skip
        axes.plot(*points, label=name, color=look.colour, marker=look.marker, ms=5.5, mec=figures.PAPER, mew=0.5,
                  lw=1.0, ls="-" if upright else "none", zorder=3)  # fmt: skip
    across, along = (axes.xaxis, axes.yaxis) if upright else (axes.yaxis, axes.xaxis)
    across.grid(visible=False)
    across.set_ticks(range(len(xs)), xs)
    along.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if upright:
        axes.set_xlim(-0.4, len(xs) - 0.6)
        axes.set_ylim(*_limits(marks, span))
        axes.set_xlabel(sweep.axes[0])
    else:
        axes.set_ylim(len(xs) - 0.4, -0.6)
        axes.set_xlim(*_limits(marks, span))


def _heat_map(axes: Axes, marks: Marks, xs: Sequence[str], series: Sequence[str]) -> None:
    """One cell per point with its score; the best in bold, points without a result in grey."""
    values = np.array([[marks.get((name, x), Mark(np.nan)).score for x in xs] for name in series])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    span, middle = max(high - low, LEAST_POINTS), (low + high) / 2
    # Only the light half of the colour map, so that black numbers are readable everywhere.
    shade = 0.05 + 0.5 * (values - (middle - span / 2)) / span
    empty = (0.95, 0.95, 0.95, 1.0)
    shades = np.where(np.isnan(values)[..., None], empty, colormaps["YlGnBu"](np.nan_to_num(shade)))
    known = [[marks.get((name, x)) for x in xs] for name in series]
    texts = [[mark.text if mark else "–" for mark in row] for row in known]
    drawn = draw_cells(axes, shades, texts, xs, series)
    for text, mark in zip(chain(*drawn), chain(*known), strict=True):
        text.set(color="black" if mark else MUTED, fontweight="bold" if mark and mark.score == high else "normal")


def _ends(marks: Marks) -> tuple[float, float]:
    """The lowest and the highest drawn score, including intervals."""
    low = min(mark.score - mark.half for mark in marks.values())
    high = max(mark.score + mark.half for mark in marks.values())
    return max(low, 0.0), min(high, 100.0)


def _limits(marks: Marks, span: float) -> tuple[float, float]:
    """Limits of a score axis of width `span` with a margin, above 100 % only as far as needed."""
    low, high = _ends(marks)
    top = min((low + high) / 2 + 0.6 * span, max(100.0, high + 0.1 * span))
    return top - 1.2 * span, top
