"""Accuracy against peak memory as pictures at the width of a paper's column, byte-stable as PNG and SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from scpseg.benchmarks import get_benchmark
from scpseg.files import replacing
from scpseg.reporting.labels import Named, place_names
from scpseg.reporting.looks import looks_of
from scpseg.reporting.published import title_of
from scpseg.reporting.summary import Line

COLUMN = 3.45
"""Width of a paper's column in inches."""
PANEL_HEIGHT = 2.45
DPI = 200
MARKER_SIZE = 5.5
COVERED = 4.0
"""Points that a marker is larger than the one that covers it, so that a ring of it stays in sight."""
FONT_SIZE = 8.0
AXIS_LABELS = {
    "rss": "Peak resident memory above idle (MiB, CPU)",
    "nvml": "Peak GPU process memory, NVML (MiB)",
}
LEAST_SPAN = 0.25
"""Least width of the memory axis as a share of the largest value: equal memory must look equal."""
LEAST_POINTS = 4.0
"""Least height of the accuracy axis in points of per cent, for the same reason."""
STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same bytes
    "font.size": FONT_SIZE,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.labelsize": FONT_SIZE,
    "axes.titlesize": FONT_SIZE,
    "axes.titleweight": "bold",
    "axes.titlepad": 5.0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "xtick.labelsize": FONT_SIZE - 1,
    "ytick.labelsize": FONT_SIZE - 1,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": FONT_SIZE - 1,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "scpseg",
    "savefig.facecolor": "white",
    "figure.dpi": DPI,
}


@contextmanager
def style() -> Iterator[None]:
    """Our style on matplotlib's own defaults, so that no user's matplotlibrc changes a picture."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def drawable(lines: Sequence[Line]) -> list[Line]:
    """The lines that have a score and a memory."""
    return [line for line in lines if line.mean_iou.mean is not None and line.memory is not None]


def draw_tradeoff(lines: Sequence[Line], synthetic: Mapping[str, bool], folder: Path, name: str) -> list[Path]:
    """Write `name`.png and .svg: one panel per benchmark and backend, so that backends never share an axis.

    `lines` may span several benchmarks; `synthetic` says of each whether its scenes are procedural. Methods without
    score or memory are not drawn; without any point nothing is written. Returns the paths written.
    """
    panels = list(dict.fromkeys((line.benchmark, line.backend) for line in drawable(lines)))
    if not panels:
        return []
    methods = list(dict.fromkeys(line.method for line in lines))
    across = min(len(panels), 2)
    down = math.ceil(len(panels) / across)
    with style():
        figure = Figure(figsize=(COLUMN * across, PANEL_HEIGHT * down), dpi=DPI)
        FigureCanvasAgg(figure)
        grid = list(figure.subplots(down, across, squeeze=False).flat)
        marks = []
        for axes, (benchmark, backend) in zip(grid, panels, strict=False):
            shown = [line for line in drawable(lines) if (line.benchmark, line.backend) == (benchmark, backend)]
            marks.append(_panel(axes, shown, methods, synthetic[benchmark]))
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        # Positions must be final before names are placed.
        figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06, wspace=0.05, hspace=0.03)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for axes, key, mine in zip(grid, panels, marks, strict=False):
            _uncover(axes, mine)
            _names(axes, [line for line in drawable(lines) if (line.benchmark, line.backend) == key], methods)
        return [save(figure, folder / f"{name}.{kind}") for kind in ("png", "svg")]


def save(figure: Figure, path: Path) -> Path:
    """Write a figure without date, software name or random ids."""
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}[path.suffix[1:]]
    with replacing(path) as temporary, style():
        figure.savefig(temporary, dpi=DPI, metadata=metadata)
    return path


def _panel(axes: Axes, lines: Sequence[Line], methods: Sequence[str], synthetic: bool) -> list[Line2D]:
    """Everything but names; returns the marks."""
    spec = get_benchmark(lines[0].benchmark)
    looks, marks = looks_of(methods), []
    for line in lines:
        x, y, half = _point(line)
        look = looks[line.method]
        index = methods.index(line.method)
        if half:
            # Caps of different widths tell bars apart that lie on each other: patch and SCPSeg need the same memory.
            axes.errorbar(
                [x],
                [y],
                yerr=arms(y, half),
                fmt="none",
                ecolor=look.colour,
                elinewidth=0.8,
                capthick=0.8,
                capsize=2 + index % 3,
                zorder=3 - index / len(methods),
            )
        marks += axes.plot(
            [x],
            [y],
            color=look.colour,
            marker=look.marker,
            markersize=MARKER_SIZE,
            markeredgecolor="white",
            markeredgewidth=0.5,
            linestyle="none",
            label=title_of(line.method),
            zorder=4 - index / len(methods),  # SCPSeg, the first, on top
        )
    axes.set_title(spec.title, loc="left")
    if synthetic:
        axes.set_title("synthetic scenes", loc="right", fontweight="normal", fontsize=FONT_SIZE - 1, color="#777777")
    axes.set_xlabel(AXIS_LABELS[lines[0].backend or ""])
    axes.set_ylabel(f"{spec.mean_name[0].upper() if spec.mean_name != 'mIoU' else 'm'}{spec.mean_name[1:]} (%)")
    _limits(axes, [_point(line) for line in lines])
    return marks


def _point(line: Line) -> tuple[float, float, float]:
    """Memory in MiB, score in per cent, half of its interval (0 for one seed)."""
    assert line.memory is not None and line.mean_iou.mean is not None
    return line.memory, 100 * line.mean_iou.mean, 100 * (line.mean_iou.half or 0.0)


def arms(score: float, half: float) -> list[list[float]]:
    """How far an interval is drawn below and above a score, all in per cent: no share is below 0 or above 100."""
    return [[min(half, score)], [min(half, 100 - score)]]


def _uncover(axes: Axes, marks: Sequence[Line2D]) -> None:
    """Enlarge markers that lie under others, each by its own step, so that none hides another.

    The axes' position and limits must be final.
    """
    scale = DPI / 72
    below: list[tuple[float, float, float]] = []
    for mark in sorted(marks, key=lambda line: -line.get_zorder()):
        (x, y), size = axes.transData.transform(np.column_stack(mark.get_data()))[0], MARKER_SIZE
        for at, up, width in below:
            if math.hypot(x - at, y - up) < 0.6 * MARKER_SIZE * scale:
                size = max(size, width + COVERED)
        below.append((x, y, size))
        mark.set_markersize(size)


def _limits(axes: Axes, points: Sequence[tuple[float, float, float]]) -> None:
    """Room around the points, never so little that equal things look different; logarithmic over more than 5 : 1."""
    low, high = min(x for x, _, _ in points), max(x for x, _, _ in points)
    if low > 0 and high / low > 5:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.6, high * 1.6)
        steps = [m * 10.0**e for e in range(-1, 8) for m in (1, 2, 5)]
        axes.xaxis.set_major_locator(FixedLocator([s for s in steps if low / 1.6 <= s <= high * 1.6]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xlim(*_room(low, high, LEAST_SPAN * max(high, 1.0)))
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.set_ylim(*_room(min(y - h for _, y, h in points), max(y + h for _, y, h in points), LEAST_POINTS))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _room(low: float, high: float, least: float) -> tuple[float, float]:
    """The interval with a quarter of its span added on either side, at least `least` wide before."""
    middle, span = (low + high) / 2, max(high - low, least)
    return middle - 0.7 * span, middle + 0.7 * span


def _names(axes: Axes, lines: Sequence[Line], methods: Sequence[str]) -> None:
    """Names beside the points, or a legend where they do not fit."""
    looks = looks_of(methods)
    points = [
        Named(x, y, title_of(line.method), looks[line.method].colour, half)
        for line in lines
        for x, y, half in [_point(line)]
    ]
    if not place_names(axes, points, FONT_SIZE - 0.5, MARKER_SIZE):
        axes.legend(loc="best", handletextpad=0.3, borderaxespad=0.2)
