"""Figures of sweeps; the paper's figures are in a separate panel next to the measured ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from scpseg.reporting.figures import (
    COLUMN,
    FONT,
    MUTED,
    OTHERS,
    PAPER,
    Drawn,
    Look,
    arms,
    looks_of,
    panels,
    save,
    style,
)
from scpseg.reporting.published import title_of
from scpseg.reporting.sweeps import Key, Row, Sweep, miou, published

LEAST_POINTS = 2.0
"""Minimum width of a score axis in per cent, so that random differences do not fill the panel."""
ROW_HEIGHT = 0.24
"""Height of a row of marks in inches."""
APART = 0.26
"""Share of a row between its first and its last mark."""


@dataclass(frozen=True)
class Mark:
    """A score in per cent; `half` is half of its interval, 0 for one seed."""

    score: float
    half: float = 0.0


Marks = Mapping[Key, Mark]
"""(series, x) -> score; does not contain points without a result."""


@dataclass(frozen=True)
class Frame:
    """Settings common to the panels of a figure.

    Attributes:
        xs: positions, in order.
        series: series at each position, in order.
        looks: looks by series.
        score: label of the score axis.
        axes: names of x and series.
        span: width of the score axis of every panel in per cent, so that equal differences look equal.
    """

    xs: Sequence[str]
    series: Sequence[str]
    looks: Mapping[str, Look]
    score: str
    axes: tuple[str, str]
    span: float


def draw_sweep(sweep: Sweep, rows: Sequence[Row], folder: Path) -> Drawn | None:
    """Write `sweep.name`.png, .svg and .pdf into `folder`; None if there is no result."""
    measured = {row.key: _mark(row) for row in rows if miou(row).mean is not None}
    if not measured:
        return None
    paper = {key: Mark(float(text)) for key, text in published(sweep.name).items()}
    xs = list(dict.fromkeys(row.x for row in rows))
    series = list(dict.fromkeys(row.series for row in rows))
    first = next(run for row in rows for run in row.runs)
    shown: list[tuple[str, Marks]] = [("this suite" if paper else "", measured)]
    shown += [(f"paper, {sweep.source}", paper)] if paper else []
    span = max(LEAST_POINTS, *(high - low for low, high in (_ends(marks) for _, marks in shown)))
    frame = Frame(xs, series, _looks(rows), f"{first['mean_name']} (%)", sweep.axes, span)
    draw, height = _kind(sweep, xs, series)
    with style():
        wide = COLUMN * len(shown) * (1.25 if sweep.figure in ("dots", "pairs") and len(shown) == 1 else 1)
        figure, grid = panels(wide, height, len(shown))
        for place, (axes, (title, marks)) in enumerate(zip(grid, shown, strict=True)):
            draw(axes, marks, frame, place == 0)
            axes.set_title(title)
            if first["synthetic"] == "True" and place == 0:
                axes.set_title("synthetic scenes", loc="right", fontweight="normal", fontsize=FONT - 1, color=MUTED)
        if sweep.figure != "grid" and len(series) > 1:
            handles, labels = grid[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), handletextpad=0.3)
        return save(figure, folder / sweep.name, f"{sweep.title}: {first['mean_name']} of every point")


Draw = Callable[[Axes, Marks, Frame, bool], None]


def _kind(sweep: Sweep, xs: Sequence[str], series: Sequence[str]) -> tuple[Draw, float]:
    """Drawing function, and height of the figure in inches."""
    if sweep.figure == "grid":
        return _heat_map, 0.75 + 0.32 * len(series)
    if sweep.figure == "steps":
        return _steps, 2.45
    rows = 0.75 + ROW_HEIGHT * max(3, len(xs))
    return (_pairs if sweep.figure == "pairs" else _dots), rows + (0.15 if len(series) > 1 else 0.0)


def _mark(row: Row) -> Mark:
    found = miou(row)
    assert found.mean is not None
    return Mark(100 * found.mean, 100 * (found.half or 0.0))


def _spread(marks: Marks) -> float:
    """Distance between the first and the last series at a position; 0 for marks without error bars."""
    return APART if any(mark.half for mark in marks.values()) else 0.0


def _shift(index: int, series: Sequence[str], spread: float) -> float:
    """Offset of a series from its position, so that error bars of equal scores do not overlap."""
    return 0.0 if len(series) == 1 else spread * (index / (len(series) - 1) - 0.5)


def _looks(rows: Sequence[Row]) -> dict[str, Look]:
    """Look by series: a method's own, as in all figures; another set for segmenters and others."""
    methods = looks_of({row.method for row in rows})
    found, others = {}, 0
    for row in rows:
        if row.series == title_of(row.method):
            found[row.series] = methods[row.method]
        elif row.series not in found:
            found[row.series] = OTHERS[others % len(OTHERS)]
            others += 1
    return found


def _series(axes: Axes, marks: Marks, frame: Frame, upright: bool, spread: float) -> None:
    """Marks and error bars of every series, with scores upwards or to the right."""
    for index, name in enumerate(frame.series):
        shift = _shift(index, frame.series, spread)
        places = [place for place, x in enumerate(frame.xs) if (name, x) in marks]
        found = [marks[name, frame.xs[place]] for place in places]
        look, moved, level = frame.looks[name], [place + shift for place in places], [mark.score for mark in found]
        at = (moved, level) if upright else (level, moved)
        if any(mark.half for mark in found):
            bars = {"yerr" if upright else "xerr": arms(level, [mark.half for mark in found])}
            axes.errorbar(*at, **bars, fmt="none", ecolor=look.colour, elinewidth=0.8, capsize=2)  # type: ignore[arg-type]
        axes.plot(*at, label=name, color=look.colour, marker=look.marker, ms=5.5, mec=PAPER, mew=0.5, lw=1.0,
                  ls="-" if upright else "none", zorder=3)  # fmt: skip
    across, along = (axes.xaxis, axes.yaxis) if upright else (axes.yaxis, axes.xaxis)
    across.grid(visible=False)
    along.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _steps(axes: Axes, marks: Marks, frame: Frame, own: bool) -> None:
    """One line per series over the steps."""
    _series(axes, marks, frame, True, _spread(marks) / 2)
    axes.set_xticks(range(len(frame.xs)), frame.xs)
    axes.set_xlim(-0.4, len(frame.xs) - 0.6)
    axes.set_xlabel(frame.axes[0])
    axes.set_ylabel(frame.score)
    axes.set_ylim(*_limits(marks, frame.span))


def _pairs(axes: Axes, marks: Marks, frame: Frame, own: bool) -> None:
    """One row per x with one mark per series, joined by a line."""
    spread = _spread(marks)
    for place, x in enumerate(frame.xs):
        there = [index for index, name in enumerate(frame.series) if (name, x) in marks]
        level = [marks[frame.series[index], x].score for index in there]
        axes.plot(level, [place + _shift(index, frame.series, spread) for index in there], color="#BBBBBB", zorder=1)
        if not there:
            axes.text(0.5, place, "no figure", color=MUTED, fontsize=FONT - 1, ha="center", va="center",
                      transform=axes.get_yaxis_transform())  # fmt: skip
    _rows(axes, marks, frame, own)


def _dots(axes: Axes, marks: Marks, frame: Frame, own: bool) -> None:
    """One row per x with one mark per series, and a line through the first row's marks."""
    for name in frame.series:
        if (name, frame.xs[0]) in marks:
            axes.axvline(marks[name, frame.xs[0]].score, color=frame.looks[name].colour, lw=0.8, ls=(0, (4, 3)))
    _rows(axes, marks, frame, own)


def _rows(axes: Axes, marks: Marks, frame: Frame, own: bool) -> None:
    """Marks in rows from top to bottom; only the first panel has row labels, because they are the same."""
    _series(axes, marks, frame, False, _spread(marks))
    axes.set_yticks(range(len(frame.xs)), frame.xs if own else [""] * len(frame.xs))
    axes.set_ylim(len(frame.xs) - 0.4, -0.6)
    axes.set_xlabel(frame.score)
    axes.set_xlim(*_limits(marks, frame.span))


def _heat_map(axes: Axes, marks: Marks, frame: Frame, own: bool) -> None:
    """One cell per point with its score; the best in bold, points without a result in grey."""
    xs, series = frame.xs, frame.series
    values = np.full((len(series), len(xs)), np.nan)
    for (name, x), found in marks.items():
        if name in series and x in xs:
            values[series.index(name), xs.index(x)] = found.score
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    span, middle = max(high - low, LEAST_POINTS), (low + high) / 2
    # Only the light half of the colour map, so that black numbers are readable everywhere.
    colours = colormaps["YlGnBu"]
    shade = 0.05 + 0.5 * (values - (middle - span / 2)) / span
    shades = np.where(np.isnan(values)[..., None], (0.95, 0.95, 0.95, 1.0), colours(np.nan_to_num(shade)))
    axes.imshow(shades, aspect="auto", interpolation="nearest")
    for row, name in enumerate(series):
        for column, x in enumerate(xs):
            if (name, x) not in marks:
                axes.text(column, row, "–", ha="center", va="center", color=MUTED)
                continue
            mark = marks[name, x]
            text = f"{mark.score:.1f}" + (f" ± {mark.half:.1f}" if mark.half else "")
            best = "bold" if mark.score == high else "normal"
            axes.text(column, row, text, ha="center", va="center", fontsize=FONT - 0.5, fontweight=best, color="black")
    axes.set_xticks(range(len(xs)), xs)
    axes.set_yticks(range(len(series)), series)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(frame.axes[0])
    axes.set_ylabel(frame.axes[1] if own else "")


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
