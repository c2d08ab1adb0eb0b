"""Charts of the report: score against memory, training curves, parts of the memory, memory over time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from scpseg.benchmarks import get_benchmark
from scpseg.profiling.records import MIB
from scpseg.reporting.figures import (
    COLUMN,
    MUTED,
    OTHERS,
    PAPER,
    Drawn,
    Look,
    arms,
    label_points,
    legend,
    log_ticks,
    looks_of,
    mark_synthetic,
    memory_axis,
    nest,
    panels,
    room,
    save,
    style,
)
from scpseg.reporting.memory import AXES, one_source
from scpseg.reporting.published import Published
from scpseg.reporting.statistics import dominators
from scpseg.reporting.summary import Line, Row, curve

BEYOND = 6.0
"""Points by which the axis of the score reaches beyond the lowest and the highest mark for the sake of an interval."""
Group = tuple[Sequence[Line], Sequence[Published]]
"""Lines of one benchmark, and the published rows with score and memory, which are drawn with hollow marks."""


def draw_pareto(groups: Sequence[Group], methods: Sequence[str], path: Path) -> Drawn | None:
    """Score against memory, one panel per benchmark, with the frontier; published points have hollow marks.

    Lines without score or memory are not drawn; benchmarks without a line have no panel. None if nothing is drawn.

    Args:
        groups: one group per benchmark.
        methods: all methods of the report, so that a method looks the same in all figures.
        path: path of the figure without its extension.
    """
    kept = [([line for line in lines if line.score is not None and line.memory], more) for lines, more in groups]
    kept = [(lines, more) for lines, more in kept if one_source([line.memory for line in lines])]
    if not kept:
        return None
    alone, across, down, tips = len(kept) == 1, min(2, len(kept)), math.ceil(len(kept) / 2), dict[str, str]()
    with style():
        size = (1.3 * COLUMN, 0.92 * COLUMN) if alone else (COLUMN * across, 2.2 * down + 0.4)
        figure, grid = panels(*size, across, down)
        for number, (axes, (lines, more)) in enumerate(zip(grid, kept, strict=False)):
            tips |= _pareto(axes, lines, more, looks_of(methods), f"p{number}-")
        legend(figure, grid, "outside right upper" if alone else "outside lower center", 1 if alone else 6)
        for axes, (lines, more) in zip(grid, kept, strict=False):
            # Names of methods for UHR images are placed first: if space is short, they matter most.
            named = [(*_printed(row), row.method) for row in sorted(more, key=lambda row: row.mode != "uhr")]
            if named:
                label_points(axes, named, [(x, y) for x, y, _ in _measured(lines)])
        titles = ", ".join(get_benchmark(lines[0].benchmark).title for lines, _ in kept)
        about = f"{titles}: score against peak memory, one point per method, frontier as a line"
        return save(figure, path, about, tips)


def _measured(lines: Sequence[Line]) -> list[tuple[float, float, Line]]:
    """(MiB, score in per cent, line) of lines that have both."""
    return [(line.memory.mib, 100 * line.score, line) for line in lines if line.memory and line.score is not None]


def _printed(row: Published) -> tuple[float, float]:
    """(MB, score in per cent) of a row that has both."""
    return float(row.memory or "nan"), float(row.miou or "nan")


def _pareto(
    axes: Axes, lines: Sequence[Line], hollow: Sequence[Published], looks: Mapping[str, Look], prefix: str
) -> dict[str, str]:
    """Draw a panel without names of published points; return the hover texts of its marks by group id."""
    spec, points, tips, marks = get_benchmark(lines[0].benchmark), _measured(lines), dict[str, str](), list[Line2D]()
    bars: list[LineCollection | None] = []
    ends, sizes = [y for _, y in map(_printed, hollow)], [x for x, _ in map(_printed, hollow)]
    heights = [y for _, y, _ in points]
    for index, (x, y, line) in enumerate(points):
        look, half, name = looks[line.method], 100 * (line.mean_iou.half or 0.0), f"{prefix}{index}"
        if half:
            drawn = axes.errorbar([x], [y], yerr=arms([y], [half]), fmt="none", ecolor=look.colour, elinewidth=0.8,
                                  capthick=0.8, capsize=2 + index % 3, zorder=2)  # fmt: skip
        bars.append(drawn[2][0] if half else None)
        marks += axes.plot([x], [y], color=look.colour, marker=look.marker, ms=6.5, mec=PAPER, mew=0.6, ls="none",
                           label=line.title, zorder=3 + index / len(points), gid=name)  # fmt: skip
        tips[name] = f"{line.title}: {y:.1f}{f' ± {half:.1f}' if half else ''} %, {x:.0f} MiB"
        sizes.append(x)
        # A bar far longer than the others leaves the panel.
        ends += [max(y - half, min(heights) - BEYOND), min(y + half, max(heights) + BEYOND)]
    for number, row in enumerate(hollow):
        name, (x, y) = f"{prefix}hollow{number}", _printed(row)
        axes.plot([x], [y], color=MUTED, marker="o", ms=3.6, mfc="none", mew=0.8, ls="none", zorder=1.5, gid=name,
                  label=None if number else "published")  # fmt: skip
        tips[name] = f"{row.method}, published: {y:.1f} %, {x:.0f} MB"
    memory_axis(axes, sizes)
    axes.set_ylim(*room(min(ends), max(ends), 4.0))
    nest(axes, marks, bars)
    # Right and up: the best score for at most this memory.
    worse = dominators({line.method: (x, y) for x, y, line in points})
    xs, ys = zip(*sorted((x, y) for x, y, line in points if not worse[line.method]), strict=True)
    axes.plot([xs[0], *xs, axes.get_xlim()[1]], [-1e3, *ys, ys[-1]], color=MUTED, lw=1, drawstyle="steps-post",
              zorder=1, scalex=False, scaley=False)  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.set_title(spec.title)
    if all(row["synthetic"] for line in lines for row in line.done):
        mark_synthetic(axes)
    axes.set_xlabel(AXES[one_source([line.memory for line in lines]) or ""])
    axes.set_ylabel(f"{spec.mean_name[0].upper() if ' ' in spec.mean_name else 'm'}{spec.mean_name[1:]} (%)")
    return tips


def draw_curves(lines: Sequence[Line], results: Path, methods: Sequence[str], path: Path) -> Drawn | None:
    """Training loss of every method on one benchmark, one line per seed, fold and phase; None if no history exists."""
    found = [(line, curve(results, row)) for line in lines for row in line.done]
    found = [(line, records) for line, records in found if len(records) > 1]
    if not found:
        return None
    title = f"{get_benchmark(lines[0].benchmark).title}: training loss"
    with style():
        figure, (axes,) = panels(1.3 * COLUMN, 0.75 * COLUMN)
        for line, records in found:
            look = looks_of(methods)[line.method]
            for _, phase in itertools.groupby(records, lambda record: (record.get("fold"), record.get("phase"))):
                steps, losses = zip(*((int(r["iteration"]), float(r["total"] or "nan")) for r in phase), strict=True)
                axes.plot(steps, losses, color=look.colour, lw=0.9, ls="--" if look.marker == "X" else "-", alpha=0.85,
                          marker="." if len(steps) == 1 else "", label=line.title)  # fmt: skip
        axes.set_yscale("log")
        log_ticks(axes.yaxis, *axes.get_ylim())
        axes.set_title(title)
        axes.set_xlabel("training step")
        axes.set_ylabel("loss (each method's own)")
        legend(figure, [axes], "outside right upper", 1)
        return save(figure, path, f"{title} over the steps")


def draw_parts(lines: Sequence[Line], path: Path) -> Drawn | None:
    """Parts of the peak memory, one stacked bar per method; None if no part is known."""
    shown = [(line.title, line.memory) for line in lines if line.memory is not None and line.memory.parts]
    if not shown:
        return None
    names = list(dict.fromkeys(name for _, peak in shown for name, _ in peak.parts))
    title = get_benchmark(lines[0].benchmark).title
    with style():
        figure, (axes,) = panels(1.3 * COLUMN, 0.55 + 0.2 * len(shown))
        left = np.zeros(len(shown))
        for name, look in zip(names, itertools.cycle(OTHERS), strict=False):
            wide = np.array([dict(peak.parts).get(name, 0.0) for _, peak in shown])
            axes.barh(range(len(shown)), wide, left=left, height=0.62, color=look.colour, label=name)
            left += wide
        axes.set_yticks(range(len(shown)), [name for name, _ in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_title(title)
        axes.set_xlabel(AXES[shown[0][1].source])
        legend(figure, [axes], "outside right upper", 1)
        return save(figure, path, f"{title}: what peak memory is made of")


def draw_timelines(traces: Sequence[tuple[Line, Row]], methods: Sequence[str], path: Path) -> Drawn | None:
    """Memory over time during inference, one panel per benchmark; `traces` are lines with their profile records."""
    sampled = [(line, record) for line, record in traces if len(record.get("timeline") or ()) > 1]
    benchmarks = list(dict.fromkeys(line.benchmark for line, _ in sampled))
    if not benchmarks:
        return None
    across, down = min(2, len(benchmarks)), math.ceil(len(benchmarks) / 2)
    with style():
        figure, grid = panels(COLUMN * across, 1.7 * down + 0.4, across, down)
        for axes, benchmark in zip(grid, benchmarks, strict=False):
            most = 1
            for line, record in (pair for pair in sampled if pair[0].benchmark == benchmark):
                # The last sample was taken at the end of the measurement, so its time is that of all images.
                most = max(most, record["repeats"])
                scale = record["repeats"] / max(record["timeline"][-1][0], 1e-9)
                xs, ys = zip(*((at * scale, used / MIB) for at, used in record["timeline"]), strict=True)
                axes.plot(xs, ys, color=looks_of(methods)[line.method].colour, lw=0.8, label=line.title)
            axes.set_title(get_benchmark(benchmark).title)
            axes.set_xlim(0, most)
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(min(most, 6), integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
            axes.set_xlabel("images labelled")
            axes.set_ylabel("memory (MiB)")
        legend(figure, grid, "outside lower center", 6)
        return save(figure, path, "Memory while whole images are labelled")
