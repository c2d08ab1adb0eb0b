"""The charts of a report: memory against accuracy, training curves, memory in parts and over time and sizes, growth."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from scpseg.benchmarks import get_benchmark
from scpseg.profiling.records import INFERENCE, MIB
from scpseg.reporting import figures
from scpseg.reporting.figures import COLUMN, MUTED, OTHERS, PAPER, STEPS, Drawn, Look, arms, panels, save, style
from scpseg.reporting.memory import AXES, one_source
from scpseg.reporting.published import Published, title_of
from scpseg.reporting.statistics import dominators
from scpseg.reporting.summary import Line, Row, curve

BEYOND = 6.0
"""Points by which the axis of the score reaches beyond the lowest and the highest mark for the sake of an interval."""
Group = tuple[Sequence[Line], Sequence[Published]]
"""Lines of one benchmark, and the published rows with score and memory, which are drawn with hollow marks."""
GROWTH = {
    "inference": ("whole-image inference", "side of the image in pixels"),
    "step": ("training step", "windows per step"),
    "prepare": ("prepare", "images"),
}
"""Workload in results/bench-growth.csv -> title of its panel, name of its axis."""


def draw_pareto(groups: Sequence[Group], methods: Sequence[str], path: Path) -> Drawn | None:
    """Score against memory, one panel per benchmark, with the frontier; published points have hollow marks.

    Lines without score or memory are not drawn; benchmarks without a line have no panel. None if nothing is drawn.
    `methods` are all of the report, so that a method looks the same in all figures; `path` has no extension.
    """
    kept = [([line for line in lines if line.score is not None and line.memory], more) for lines, more in groups]
    kept = [(lines, more) for lines, more in kept if one_source([line.memory for line in lines])]
    if not kept:
        return None
    alone, tips = len(kept) == 1, dict[str, str]()
    with style():
        figure, grid = panels(1.3 * COLUMN, 0.92 * COLUMN) if alone else _pairs(len(kept), 2.2)
        for number, (axes, (lines, more)) in enumerate(zip(grid, kept, strict=False)):
            tips |= _pareto(axes, lines, more, figures.looks_of(methods), f"p{number}-")
        figures.legend(figure, grid, "outside right upper" if alone else "outside lower center", 1 if alone else 6)
        for axes, (lines, more) in zip(grid, kept, strict=False):
            # Names of methods for UHR images are placed first: if space is short, they matter most.
            named = [(*_printed(row), row.method) for row in sorted(more, key=lambda row: row.mode != "uhr")]
            if named:
                figures.label_points(axes, named, [(x, y) for x, y, _ in _measured(lines)])
        titles = ", ".join(get_benchmark(lines[0].benchmark).title for lines, _ in kept)
        about = f"{titles}: score against peak memory, one point per method, frontier as a line"
        return save(figure, path, about, tips)


def _pairs(number: int, height: float) -> tuple[Figure, list[Axes]]:
    """Panels in up to two columns, with room for a legend below."""
    across, down = min(2, number), math.ceil(number / 2)
    return panels(COLUMN * across, height * down + 0.4, across, down)


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
    tips |= _hollow(axes, hollow, prefix)
    figures.memory_axis(axes, sizes)
    axes.set_ylim(*figures.room(min(ends), max(ends), 4.0))
    figures.nest(axes, marks, bars)
    # Right and up: the best score for at most this memory.
    worse = dominators({line.method: (x, y) for x, y, line in points})
    xs, ys = zip(*sorted((x, y) for x, y, line in points if not worse[line.method]), strict=True)
    axes.plot([xs[0], *xs, axes.get_xlim()[1]], [-1e3, *ys, ys[-1]], color=MUTED, lw=1, drawstyle="steps-post",
              zorder=1, scalex=False, scaley=False)  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    if all(row["synthetic"] for line in lines for row in line.done):
        figures.mark_synthetic(axes)
    score = f"{spec.mean_name[0].upper() if ' ' in spec.mean_name else 'm'}{spec.mean_name[1:]} (%)"
    axes.set(title=spec.title, xlabel=AXES[one_source([line.memory for line in lines]) or ""], ylabel=score)
    return tips


def _hollow(axes: Axes, rows: Sequence[Published], prefix: str) -> dict[str, str]:
    """Draw published points; return their hover texts by group id."""
    tips = dict[str, str]()
    for number, row in enumerate(rows):
        name, (x, y) = f"{prefix}hollow{number}", _printed(row)
        axes.plot([x], [y], color=MUTED, marker="o", ms=3.6, mfc="none", mew=0.8, ls="none", zorder=1.5, gid=name,
                  label=None if number else "published")  # fmt: skip
        tips[name] = f"{row.method}, published: {y:.1f} %, {x:.0f} MB"
    return tips


def draw_published(rows: Sequence[Published], path: Path) -> Drawn:
    """Published score against published memory on one benchmark; `rows` have both. Nothing measured is drawn."""
    spec, times = get_benchmark(rows[0].benchmark), Counter(row.method for row in rows)
    with style():
        figure, (axes,) = panels(2.3 * COLUMN, 1.6 * COLUMN)
        _hollow(axes, rows, "")
        figures.memory_axis(axes, [x for x, _ in map(_printed, rows)])
        axes.set(title=f"{spec.title}: as published", xlabel="memory at test (MB)", ylabel=f"{spec.mean_name} (%)")
        which = [row.segmenter.split("-")[0] if row.mode == "uhr" else row.mode for row in rows]
        names = [f"{row.method} ({of})" if times[row.method] > 1 else row.method
                 for row, of in zip(rows, which, strict=True)]  # fmt: skip
        points = [(*_printed(row), name) for row, name in zip(rows, names, strict=True)]
        figures.label_points(axes, sorted(points, reverse=True))
        return save(figure, path, f"{spec.title}: published score against published memory", kinds=("png",))


def draw_curves(lines: Sequence[Line], results: Path, methods: Sequence[str], path: Path) -> Drawn | None:
    """Training loss of every method on one benchmark, one line per seed, fold and phase; None if no history exists."""
    found = [(line, curve(results, row)) for line in lines for row in line.done]
    found = [(line, history) for line, history in found if len(history) > 1]
    if not found:
        return None
    title = f"{get_benchmark(lines[0].benchmark).title}: training loss"
    with style():
        figure, (axes,) = panels(1.3 * COLUMN, 0.75 * COLUMN)
        for line, history in found:
            look = figures.looks_of(methods)[line.method]
            kinds = [*history.columns.intersection(["fold", "phase"])]
            for _, phase in history.groupby(kinds, sort=False, dropna=False):
                axes.plot(phase["iteration"], phase["total"], color=look.colour, lw=0.9,
                          ls="--" if look.marker == "X" else "-", alpha=0.85, marker="." if len(phase) == 1 else "",
                          label=line.title)  # fmt: skip
        axes.set(yscale="log", title=title, xlabel="training step", ylabel="loss (each method's own)")
        figures.log_ticks(axes.yaxis)
        figures.legend(figure, [axes], "outside right upper", 1)
        return save(figure, path, f"{title} over the steps")


def draw_parts(lines: Sequence[Line], path: Path) -> Drawn | None:
    """Parts of the peak memory, one stacked bar per method; None if no part is known."""
    shown = [(line.title, line.memory) for line in lines if line.memory is not None and line.memory.parts]
    if not shown:
        return None
    parts = pd.DataFrame([dict(peak.parts) for _, peak in shown]).fillna(0.0)
    title = get_benchmark(lines[0].benchmark).title
    with style():
        figure, (axes,) = panels(1.3 * COLUMN, 0.55 + 0.2 * len(shown))
        left = np.zeros(len(shown))
        for (name, wide), look in zip(parts.items(), itertools.cycle(OTHERS), strict=False):
            axes.barh(range(len(shown)), wide, left=left, height=0.62, color=look.colour, label=name)
            left = left + wide.to_numpy()
        axes.set_yticks(range(len(shown)), [name for name, _ in shown])
        axes.grid(visible=False, axis="y")
        axes.set(ylim=(len(shown) - 0.4, -0.6), title=title, xlabel=AXES[shown[0][1].source])
        figures.legend(figure, [axes], "outside right upper", 1)
        return save(figure, path, f"{title}: what peak memory is made of")


def draw_timelines(traces: Sequence[tuple[Line, Row]], methods: Sequence[str], path: Path) -> Drawn | None:
    """Memory over time during inference, one panel per benchmark; `traces` are lines with their profile records."""
    sampled = [(line, record) for line, record in traces if len(record.get("timeline") or ()) > 1]
    benchmarks = list(dict.fromkeys(line.benchmark for line, _ in sampled))
    if not benchmarks:
        return None
    with style():
        figure, grid = _pairs(len(benchmarks), 1.7)
        for axes, benchmark in zip(grid, benchmarks, strict=False):
            most = 1
            for line, record in (pair for pair in sampled if pair[0].benchmark == benchmark):
                # The last sample was taken at the end of the measurement, so its time is that of all images.
                most = max(most, record["repeats"])
                scale = record["repeats"] / max(record["timeline"][-1][0], 1e-9)
                xs, ys = zip(*((at * scale, used / MIB) for at, used in record["timeline"]), strict=True)
                axes.plot(xs, ys, color=figures.looks_of(methods)[line.method].colour, lw=0.8, label=line.title)
            axes.set(title=get_benchmark(benchmark).title, xlabel="images labelled", ylabel="memory (MiB)")
            axes.set_xlim(0, most)
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(min(most, 6), integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4, steps=STEPS))
        figures.legend(figure, grid, "outside lower center", 6)
        return save(figure, path, "Memory while whole images are labelled")


def draw_computed(found: pd.DataFrame, path: Path) -> Drawn | None:
    """Plot memory against the number of windows and against the patch side, for methods with the paper's segmenter."""
    totals = found[(found["workload"] == INFERENCE) & (found["channel"] == "computed")]
    names = ["segmenter", "encoder", "patch", "windows"]
    same = totals[names] == totals.groupby(["benchmark", "method"])[names].transform("first")
    network = same["segmenter"] & same["encoder"]
    shown = (totals[network & same["patch"]], "windows"), (totals[network & same["windows"]], "patch")
    swept = [(table, x) for table, x in shown if table.groupby(["benchmark", "method"])[x].nunique().max() > 1]
    if not swept:
        return None
    looks = figures.looks_of(list(dict.fromkeys(totals["method"])))
    with style():
        figure, grid = panels(1.05 * COLUMN * len(swept), 0.85 * COLUMN, len(swept))
        for axes, (table, x) in zip(grid, swept, strict=True):
            benchmark = table.groupby("benchmark")[x].nunique().idxmax()
            for method, rows in table[table["benchmark"] == benchmark].groupby("method", sort=False):
                rows = rows.drop_duplicates(x).sort_values(x)
                if len(rows) > 1:
                    look, label = looks[str(method)], title_of(str(method))
                    axes.plot(rows[x], rows["mib"], color=look.colour, marker=look.marker, ms=4, lw=1, label=label)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            figures.log_ticks(axes.yaxis)
            across = "windows in one forward pass" if x == "windows" else "side of the patch (pixels)"
            title = get_benchmark(str(benchmark)).title
            axes.set(title=title, xlabel=across, ylabel="computed peak at inference (MiB)")
        figures.legend(figure, grid, "outside lower center", 6)
        about = "Computed memory against windows in one forward pass, and against the side of the patch"
        return save(figure, path, about)


def draw_growth(path: Path, to: Path) -> Drawn:
    """Draw time and memory of inference, training step and prepare over their sizes, from results/bench-growth.csv."""
    found = pd.read_csv(path, dtype={"x": str, "seconds": str, "mib": str})
    time, memory = Look("#0072B2", "o"), Look("#D55E00", "s")
    sides = (("seconds", "processor time in s", time), ("mib", "peak memory in MiB", memory))
    with style():
        figure, grid = panels(7.0, 2.1, across=len(GROWTH))
        for axes, (what, (title, across)) in zip(grid, GROWTH.items(), strict=True):
            right = axes.twinx()
            for side, (key, name, look) in zip((axes, right), sides, strict=True):
                mine = found.loc[found["what"] == what, ["x", key]].astype(float)
                side.plot(mine["x"], mine[key], color=look.colour, marker=look.marker, markersize=3)
                side.set_ylabel(name, color=look.colour)
                side.set_ylim(0, 1.08 * mine[key].max())
            right.spines["right"].set_visible(True)
            right.grid(False)
            axes.set(title=title, xlabel=across)
            axes.set_xlim(left=0)
        rows = zip(found["what"], found["x"], found["seconds"], found["mib"], strict=True)
        texts = [f"{GROWTH[what][0]} {x}: {seconds} s, {mib} MiB" for what, x, seconds, mib in rows]
        return save(figure, to, f"Growth of time and memory. {'; '.join(texts)}", kinds=("png", "svg"))
