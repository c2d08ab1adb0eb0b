"""The charts of a report: memory against accuracy, training curves, memory in parts and over time and sizes, growth."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from scpseg.benchmarks import get_benchmark
from scpseg.profiling.records import INFERENCE, MIB, PROFILE
from scpseg.reporting import figures
from scpseg.reporting.collect import read_result
from scpseg.reporting.figures import COLUMN, MUTED, OTHERS, PAPER, STEPS, Drawn, Look, arms, panels, save, styled
from scpseg.reporting.memory import AXES
from scpseg.reporting.published import Published
from scpseg.reporting.summary import Line, Part, curve

BEYOND = 6.0
"""Points by which the axis of the score reaches beyond the lowest and the highest mark for the sake of an interval."""
Panels = Sequence[tuple[pd.DataFrame, dict[str, Any]]]
"""Frames for `figures.draw_lines`, each with properties of its axes."""
GROWTH = {
    "inference": ("whole-image inference", "side of the image in pixels"),
    "step": ("training step", "windows per step"),
    "prepare": ("prepare", "images"),
}
"""Workload in results/bench-growth.csv -> title of its panels, name of their axis."""


class Mark(NamedTuple):
    """A point of a figure of score against memory: MiB, or MB if published, score and half its interval in per cent.

    `look` is None for published points, whose marks are hollow. A `single` point has one seed, others more.
    """

    memory: float
    score: float
    name: str
    look: Look | None = None
    half: float = 0.0
    single: bool = False


def _published(row: Published, name: str = "") -> Mark:
    """The mark of a row that has both figures."""
    return Mark(float(row.memory or "nan"), float(row.miou or "nan"), name or row.method)


@styled
def draw_pareto(parts: Sequence[Part], methods: Sequence[str], path: Path) -> Drawn | None:
    """Score against memory, one panel per benchmark, with the frontier; published points have hollow marks.

    If a benchmark has methods with several seeds, the frontier is theirs, and marks of one seed are faded. Lines
    without score or memory are not drawn; benchmarks without a line have no panel. None if nothing is drawn.
    `methods` are all of the report, so that a method looks the same in all figures; `path` has no extension.
    """
    looks, tips, kept = figures.looks_of(methods), dict[str, str](), list[tuple[Part, list[Mark], list[Mark]]]()
    for part in parts:
        marks = [Mark(line.memory.mib, 100 * line.score, line.title, looks[line.method],
                      100 * (line.mean_iou.half or 0), line.method in part.singles)
                 for line in part.lines if line.score is not None and line.memory]  # fmt: skip
        if marks and part.source:
            # Names of methods for UHR images are placed first: if space is short, they matter most.
            hollow = [_published(row) for row in sorted(part.hollow, key=lambda row: row.mode != "uhr")]
            kept.append((part, marks, hollow))
    if not kept:
        return None
    alone, down = len(kept) == 1, math.ceil(len(kept) / 2)
    width, height = (1.3, 0.92 * COLUMN) if alone else (2, 2.2 * down + 0.4)
    figure, grid = panels(width * COLUMN, height, 1 if alone else 2, down)
    for number, (axes, (part, marks, hollow)) in enumerate(zip(grid, kept, strict=False)):
        tips |= _marks(axes, [*hollow, *marks], f"p{number}-")
        # Right and up: the best score for at most this memory.
        xs, ys = zip(*sorted(mark[:2] for mark in marks if not mark.single), strict=True)
        ys = np.maximum.accumulate(ys)
        axes.plot([xs[0], *xs, axes.get_xlim()[1]], [-1e3, *ys, ys[-1]], color=MUTED, lw=1, drawstyle="steps-post",
                  zorder=1, scalex=False, scaley=False)  # fmt: skip
        if part.synthetic:
            figures.mark_synthetic(axes)
        mean = part.spec.mean_name
        score = f"{mean[0].upper() if ' ' in mean else 'm'}{mean[1:]} (%)"
        axes.set(title=part.spec.title, xlabel=AXES[part.source or ""], ylabel=score)
    figures.legend(figure, grid, "outside right upper" if alone else "outside lower center", 1 if alone else 6)
    for axes, (_, marks, hollow) in zip(grid, kept, strict=False):
        figures.label_points(axes, [mark[:3] for mark in hollow], [mark[:2] for mark in marks])
    titles = ", ".join(part.spec.title for part, _, _ in kept)
    about = f"{titles}: score against peak memory, one point per method, frontier as a line"
    return save(figure, path, about, tips)


def _marks(axes: Axes, marks: Sequence[Mark], prefix: str) -> dict[str, str]:
    """Draw the marks with limits of the axes around them; return their hover texts by group id."""
    tips, ends, heights = dict[str, str](), list[float](), [mark.score for mark in marks if mark.look]
    drawn, bars = list[Line2D](), list[LineCollection | None]()
    for index, (x, y, name, look, half, single) in enumerate(marks):
        group = f"{prefix}{index}"
        if look is None:
            axes.plot([x], [y], color=MUTED, marker="o", ms=3.6, mfc="none", mew=0.8, ls="none", zorder=1.5, gid=group,
                      label=None if index else "published")  # fmt: skip
            tips[group] = f"{name}, published: {y:.1f} %, {x:.0f} MB"
            ends.append(y)
            continue
        bar = axes.errorbar([x], [y], yerr=arms([y], [half]) if half else None, fmt="none", ecolor=look.colour,
                            elinewidth=0.8, capthick=0.8, capsize=2 + index % 3, zorder=2)  # fmt: skip
        bars.append(bar[2][0] if half else None)
        drawn += axes.plot([x], [y], color=look.colour, marker=look.marker, ms=6.5, mec=PAPER, mew=0.6, ls="none",
                           label=name, zorder=3 + index / len(marks), gid=group,
                           alpha=0.4 if single else None)  # fmt: skip
        tips[group] = f"{name}: {y:.1f}{f' ± {half:.1f}' if half else ''} %, {x:.0f} MiB"
        # A bar far longer than the others leaves the panel.
        ends += [max(y - half, min(heights) - BEYOND), min(y + half, max(heights) + BEYOND)]
    figures.memory_axis(axes, [mark.memory for mark in marks])
    axes.set_ylim(*figures.score_limits(min(ends), max(ends), max(max(ends) - min(ends), 4.0)))
    figures.nest(axes, drawn, bars)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    return tips


@styled
def draw_published(rows: Sequence[Published], path: Path) -> Drawn:
    """Published score against published memory on one benchmark; `rows` have both. Nothing measured is drawn."""
    spec, times = get_benchmark(rows[0].benchmark), Counter(row.method for row in rows)
    which = [row.segmenter.split("-")[0] if row.mode == "uhr" else row.mode for row in rows]
    marks = [_published(row, f"{row.method} ({of})" if times[row.method] > 1 else "")
             for row, of in zip(rows, which, strict=True)]  # fmt: skip
    figure, (axes,) = panels(2.3 * COLUMN, 1.6 * COLUMN)
    _marks(axes, marks, "")
    axes.set(title=f"{spec.title}: as published", xlabel="memory at test (MB)", ylabel=f"{spec.mean_name} (%)")
    figures.label_points(axes, sorted((mark[:3] for mark in marks), reverse=True))
    return save(figure, path, f"{spec.title}: published score against published memory", kinds=("png",))


@styled
def _lines(
    found: Panels, methods: Sequence[str], path: Path, about: str, size: tuple[float, float], across: int = 1
) -> Drawn | None:
    """Draw a panel for each frame; None without any."""
    if not found:
        return None
    figure, grid = panels(*size, across, math.ceil(len(found) / across))
    for axes, (lines, properties) in zip(grid, found, strict=False):
        figures.draw_lines(axes, lines, figures.looks_of(methods))
        axes.set(**properties)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                figures.log_ticks(axis)
    figures.legend(figure, grid, *(("outside right upper", 1) if len(found) == 1 else ("outside lower center", 6)))
    return save(figure, path, about)


def draw_curves(part: Part, results: Path, methods: Sequence[str], path: Path) -> Drawn | None:
    """Training loss of every method on one benchmark, one line per seed, fold and phase; None if no history exists."""
    runs = [(row, curve(results, row)) for row in part.done]
    found = [history.assign(method=row["method"], seed=row["seed"], x=history["iteration"], y=history["total"])
             for row, history in runs if len(history) > 1]  # fmt: skip
    title = f"{part.spec.title}: training loss"
    axes = {"title": title, "xlabel": "training step", "ylabel": "loss (each method's own)", "yscale": "log"}
    shown = [(pd.concat(found).filter(["fold", "phase", "method", "seed", "x", "y"]), axes)] if found else []
    return _lines(shown, methods, path, f"{title} over the steps", (1.3 * COLUMN, 0.75 * COLUMN))


@styled
def draw_parts(part: Part, path: Path) -> Drawn | None:
    """Parts of the peak memory, one stacked bar per method; None if no part is known."""
    shown = [(line.title, line.memory) for line in part.lines if line.memory and line.memory.parts]
    if not shown:
        return None
    sizes = pd.DataFrame([dict(peak.parts) for _, peak in shown]).fillna(0.0)
    figure, (axes,) = panels(1.3 * COLUMN, 0.55 + 0.2 * len(shown))
    left = sizes.cumsum(axis=1) - sizes
    for (name, wide), look in zip(sizes.items(), itertools.cycle(OTHERS), strict=False):
        axes.barh(range(len(shown)), wide, left=left[name], height=0.62, color=look.colour, label=name)
    axes.set_yticks(range(len(shown)), [name for name, _ in shown])
    axes.grid(visible=False, axis="y")
    axes.set(ylim=(len(shown) - 0.4, -0.6), title=part.spec.title, xlabel=AXES[shown[0][1].source])
    figures.legend(figure, [axes], "outside right upper", 1)
    return save(figure, path, f"{part.spec.title}: what peak memory is made of")


def draw_timelines(lines: Sequence[Line], results: Path, methods: Sequence[str], path: Path) -> Drawn | None:
    """Memory over time during inference; None if no profile has a timeline.

    One panel per benchmark, and one more for each other meter and size of the image.
    """
    found: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for line in (line for line in lines if line["profile_status"] == "ok"):
        file = results / "profile" / line.benchmark / f"{line.method}.json"
        record = read_result(file, PROFILE, {"method": line.method}, True) or {}
        if len(record.get("timeline") or ()) > 1:
            at, used = np.array(record["timeline"], float).T
            # The last sample was taken at the end of the measurement, so its time is that of all images.
            frame = {"method": line.method, "x": at * record["repeats"] / max(at[-1], 1e-9), "y": used / MIB}
            key = get_benchmark(line.benchmark).title, f"{record.get('timeline_of')}, {record['height']} pixels"
            found.setdefault(key, []).append(pd.DataFrame(frame))
    titles = [title for title, _ in found]
    labels = {"xlabel": "images labelled", "ylabel": "memory (MiB)", "ylim": (0, None), "xlim": (0, None)}
    shown = [(pd.concat(frames), labels | {"title": title if titles.count(title) == 1 else f"{title} ({meter})"})
             for (title, meter), frames in found.items()]  # fmt: skip
    across, down = min(2, len(shown)), math.ceil(len(shown) / 2)
    about, size = "Memory while whole images are labelled", (COLUMN * across, 1.7 * down + 0.4)
    return _lines(shown, methods, path, about, size, across)


def draw_computed(found: pd.DataFrame, path: Path) -> Drawn | None:
    """Plot memory against the number of windows and against the patch side, for methods with the paper's segmenter."""
    totals = found[(found["workload"] == INFERENCE) & (found["channel"] == "computed")]
    names = ["segmenter", "encoder", "patch", "windows"]
    same = totals[names] == totals.groupby(["benchmark", "method"])[names].transform("first")
    network, shown = same["segmenter"] & same["encoder"], list[tuple[pd.DataFrame, dict[str, Any]]]()
    across = {"windows": "windows in one forward pass", "patch": "side of the patch (pixels)"}
    for x, fixed in (("windows", "patch"), ("patch", "windows")):
        table = totals[network & same[fixed]].drop_duplicates(["benchmark", "method", x])
        table = table[table.groupby(["benchmark", "method"])[x].transform("size") > 1].sort_values(x, kind="stable")
        if len(table):
            benchmark = str(table.groupby("benchmark")[x].nunique().idxmax())
            lines = table[table["benchmark"] == benchmark].rename(columns={x: "x", "mib": "y"})[["method", "x", "y"]]
            axes = {"title": get_benchmark(benchmark).title, "xlabel": across[x], "xscale": "log", "yscale": "log"}
            shown.append((lines, axes | {"ylabel": "computed peak at inference (MiB)"}))
    about = "Computed memory against windows in one forward pass, and against the side of the patch"
    size = (1.05 * COLUMN * len(shown), 0.85 * COLUMN)
    return _lines(shown, list(dict.fromkeys(totals["method"])), path, about, size, len(shown))


def draw_growth(path: Path, to: Path) -> Drawn | None:
    """Draw time and memory of inference, training step and prepare over their sizes, from results/bench-growth.csv."""
    found, shown = pd.read_csv(path, dtype={"seconds": str, "mib": str}).assign(method=""), []
    for key, name in (("seconds", "processor time in s"), ("mib", "peak memory in MiB")):
        for what, (title, across) in GROWTH.items():
            mine = found[found["what"] == what].assign(y=found[key].astype(float))[["method", "x", "y"]]
            limits = {"xlim": (0, None), "ylim": (0, 1.08 * mine["y"].max())}
            shown.append((mine, {"title": title, "xlabel": across, "ylabel": name, **limits}))
    rows = zip(found["what"], found["x"], found["seconds"], found["mib"], strict=True)
    texts = [f"{GROWTH[what][0]} {x}: {seconds} s, {mib} MiB" for what, x, seconds, mib in rows]
    return _lines(shown, [""], to, f"Growth of time and memory. {'; '.join(texts)}", (7.0, 3.8), len(GROWTH))
