"""Figures as PNG, SVG and PDF, byte-stable, and as inline SVG in the page's light or dark colours."""

from __future__ import annotations

import csv
import html
import itertools
import math
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike

from scpseg.benchmarks import get_benchmark
from scpseg.files import replacing
from scpseg.profiling.records import INFERENCE, MIB
from scpseg.reporting.memory import AXES, one_source
from scpseg.reporting.published import Published, title_of
from scpseg.reporting.statistics import dominators
from scpseg.reporting.summary import Line, Row, curve

COLUMN = 3.45
"""Width of a column of a paper in inches."""
DPI = 200
OVERLAP = (0.035, 0.045)
"""Marks of a Pareto plot nearer than these shares of the panel overlap."""
FONT = 8.0
INK, MUTED, FAINT, PAPER = "#1d2733", "#5c6875", "#dde2e8", "#ffffff"
THEME = {INK: "var(--ink)", MUTED: "var(--muted)", FAINT: "var(--line)", PAPER: "var(--card)"}
"""Colours of figures -> the page's variables for them."""
KINDS: tuple[str, ...] = ("png", "svg", "pdf")
METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same bytes
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.fonttype": "none", "svg.hashsalt": "scpseg", "pdf.fonttype": 42, "figure.dpi": DPI,
    "font.size": FONT, "xtick.labelsize": FONT - 1, "ytick.labelsize": FONT - 1, "legend.fontsize": FONT - 1,
    "axes.titlesize": FONT, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "text.color": INK, "axes.edgecolor": MUTED, "axes.labelcolor": INK, "xtick.color": MUTED, "ytick.color": MUTED,
    "axes.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "axes.grid": True, "grid.color": FAINT, "grid.linewidth": 0.5,
    "xtick.major.size": 2.5, "ytick.major.size": 2.5, "legend.frameon": False,
}  # fmt: skip


class Look(NamedTuple):
    """Colour and marker of a method, or of another series."""

    colour: str
    marker: str


# Colours from Okabe and Ito's palette and similar ones, distinguishable with common colour vision deficiencies.
METHODS = {
    "scpseg": Look("#D55E00", "D"),
    "patch": Look("#0072B2", "o"),
    "downscale": Look("#009E73", "s"),
    "glnet": Look("#B0578D", "^"),
    "resize": Look("#3A9BD0", "v"),
    "large": Look("#1B3A6B", "o"),
    "fctl": Look("#5E8F0F", "X"),
    "isdnet": Look("#64748B", "v"),
    "wiconet": Look("#C2366B", "X"),
    "magnet": Look("#1F8A8A", "X"),
    "rue": Look("#A4672F", "^"),
    "caswit_like": Look("#8465B0", "s"),
}
"""Looks of the suite's own methods."""
COLOURS = ["#3A9BD0", "#8465B0", "#A4672F", "#5E8F0F", "#C2366B", "#1F8A8A", "#A39A1E", "#64748B"]
FURTHER = tuple(Look(colour, marker) for marker in "P*" for colour in COLOURS)
"""Looks of methods that a user added."""
BEYOND = 6.0
"""Points by which the axis of the score reaches beyond the lowest and the highest mark for the sake of an interval."""
Group = tuple[Sequence[Line], Sequence[Published]]
"""Lines of one benchmark, and the published rows with score and memory, which are drawn with hollow marks."""
STEPS = [1, 2, 2.5, 5, 10]
"""Steps between ticks, times a power of ten."""
GROWTH = {
    "inference": ("whole-image inference", "side of the image in pixels"),
    "step": ("training step", "windows per step"),
    "prepare": ("prepare", "images"),
}
"""Workload in results/bench-growth.csv -> title of its panel, name of its axis."""
OTHERS = tuple(Look(*pair) for pair in zip(("#7A8CA3", "#B87F00", "#4C78A8", "#A34A4A"), "ph<>", strict=True))
"""Looks of series that are not methods, such as segmenters."""


def looks_of(methods: Collection[str]) -> dict[str, Look]:
    """Look by method: determined by its name, unless two methods would have the same one."""
    found = {method: METHODS[method] for method in methods if method in METHODS}
    for method in sorted(set(methods) - METHODS.keys()):
        first = zlib.crc32(method.encode()) % len(FURTHER)
        mine = FURTHER[first:] + FURTHER[:first]
        found[method] = next((look for look in mine if look not in found.values()), mine[0])
    return found


@contextmanager
def style() -> Iterator[None]:
    """Our style on matplotlib's defaults, so that a user's matplotlibrc changes nothing."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def panels(width: float, height: float, across: int = 1, down: int = 1, **ratios: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `width` x `height` inches, and its panels, row by row."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(down, across, squeeze=False, **ratios).flat)


@dataclass(frozen=True)
class Drawn:
    """A written figure: its files, its description, its SVG for the page."""

    files: tuple[Path, ...]
    about: str
    svg: str = ""


def save(
    figure: Figure, path: Path, about: str, tips: Mapping[str, str] | None = None, kinds: Sequence[str] | None = None
) -> Drawn:
    """Write `path`.png, .svg and .pdf without dates, software names or random ids.

    `tips`: group id of an artist -> text that the page shows on hover.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is computed once for all formats
    files, svg = {kind: path.with_name(f"{path.name}.{kind}") for kind in kinds or KINDS}, ""
    for kind, file in files.items():
        with replacing(file) as temporary:
            figure.savefig(temporary, dpi=DPI, metadata=METADATA[kind], facecolor="none" if kind == "svg" else PAPER)
            if kind == "svg":
                svg = inline(temporary.read_text(encoding="utf-8"), path.name, about, tips or {})
    return Drawn(tuple(files.values()), about, svg)


def inline(svg: str, name: str, about: str, tips: Mapping[str, str]) -> str:
    """Convert an SVG file to an element of the page: unique ids, the page's colours, a name for screen readers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|\s*<defs>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg))
    for group, tip in tips.items():
        svg = svg.replace(f'<g id="{group}">', f"<g><title>{html.escape(tip)}</title>")
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "'DejaVu Sans', Verdana, sans-serif", svg)
    for colour, theme in THEME.items():
        svg = svg.replace(colour, theme)
    svg = re.sub(r"(\d+\.\d{2})\d+", r"\1", re.sub(r"\s*\n\s*", "\n", svg))
    return svg.replace("<svg", f'<svg class="figure" role="img" aria-label="{html.escape(about)}"', 1).strip()


def arms(values: ArrayLike, halves: ArrayLike) -> np.ndarray[Any, Any]:
    """(2, n) lengths of the error bars below and above scores in per cent, clipped to 0..100."""
    score, half = np.asarray(values, float), np.asarray(halves, float)
    return np.stack([np.minimum(half, score), np.minimum(half, 100 - score)])


def room(low: float, high: float, least: float) -> tuple[float, float]:
    """The interval, at least `least` wide, with a fifth added on each side, so that equal values look equal."""
    middle, span = (low + high) / 2, max(high - low, least)
    return middle - 0.7 * span, middle + 0.7 * span


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Ticks at 1, 2 and 5 times powers of ten between `low` and `high`."""
    steps = [m * 10.0**e for e in range(-4, 8) for m in (1, 2, 5)]
    axis.set_major_locator(FixedLocator([step for step in steps if low <= step <= high]))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def memory_axis(axes: Axes, values: Sequence[float]) -> None:
    """Limits and ticks of a memory axis; logarithmic if the ratio is above 4 : 1."""
    low, high = min(values), max(values)
    if low > 0 and high / low > 4:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.35, high * 1.5)
        log_ticks(axes.xaxis, *axes.get_xlim())
    else:
        axes.set_xlim(*room(low, high, 0.25 * max(high, 1.0)))
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))


def label_points(
    axes: Axes, points: Sequence[tuple[float, float, str]], avoid: Sequence[tuple[float, float]] = ()
) -> list[str]:
    """Write each name right of its point, or else left, above or below, where it covers no name or point.

    Names without a free position are omitted: the table has them. `avoid` are additional points. Returns the names that
    were written.
    """
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    frame, written, taken = axes.get_window_extent(), list[str](), list[Bbox]()
    for x, y, reach in (*((x, y, 2) for x, y, _ in points), *((x, y, 4) for x, y in avoid)):
        taken.append(Bbox([axes.transData.transform((x, y))] * 2).padded(reach * DPI / 72))
    places = (((3.5, 0.0), "left", "center_baseline"), ((-3.5, 0.0), "right", "center_baseline"),
              ((0.0, 3.0), "center", "bottom"), ((0.0, -3.0), "center", "top"))  # fmt: skip
    for x, y, name in points:
        for offset, ha, va in places:
            label = axes.annotate(name, (x, y), xytext=offset, textcoords="offset points", ha=ha, va=va,
                                  fontsize=FONT - 2, color=MUTED)  # fmt: skip
            box = label.get_window_extent()
            inside = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                written.append(name)
                break
            label.remove()
    return written


def nest(axes: Axes, marks: Sequence[Line2D], bars: Sequence[LineCollection | None] = ()) -> None:
    """Make overlapping marks and vertical bars visible without moving them: each is smaller than those below it."""
    to_panel = axes.transScale + axes.transLimits  # 0..1, whatever the layout will be
    at = [to_panel.transform(np.asarray(mark.get_xydata())[0]) for mark in marks]
    near = [[bool((abs(one - other) < OVERLAP).all()) for other in at] for one in at]
    for place, mark in enumerate(marks):
        if sum(near[place]) > 1:
            mark.set_markersize(max(9.0 - 3.0 * sum(near[place][:place]), 2.5))
    for place, bar in enumerate(bars):
        if bar is not None:
            above = sum(abs(other[0] - at[place][0]) < OVERLAP[0] for other in at[place + 1 :])
            bar.set_linewidth(min(0.8 + 1.2 * above, 4.4))


def legend(figure: Figure, grid: Sequence[Axes], loc: Any, ncols: int) -> None:
    """One legend for all panels, each name once, rows of equal length; empty panels are hidden."""
    entries: dict[str, Any] = {}
    for axes in grid:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
        if not axes.has_data():
            axes.set_axis_off()
    ncols = math.ceil(len(entries) / math.ceil(len(entries) / ncols))
    made = figure.legend(list(entries.values()), list(entries), loc=loc, ncols=ncols, handletextpad=0.4,
                         handlelength=1.2, columnspacing=1.2, labelspacing=0.45, borderaxespad=0.2)  # fmt: skip
    for handle in made.legend_handles:
        if isinstance(handle, Line2D) and handle.get_markerfacecolor() != "none":  # nested marks are small
            handle.set_markersize(6.5)


def draw_cells(
    axes: Axes, shades: ArrayLike, texts: Sequence[Sequence[str]], names: Sequence[Sequence[str]], **more: Any
) -> list[list[Text]]:
    """A map of cells with a text each, and `names` across and down; `more` is for the shades. Returns the texts."""
    axes.imshow(shades, aspect="auto", interpolation="nearest", **more)
    axes.set_xticks(range(len(names[0])), names[0])
    axes.set_yticks(range(len(names[1])), names[1])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    where: Any = {"ha": "center", "va": "center", "fontsize": FONT - 0.5}
    return [[axes.text(x, y, text, **where) for x, text in enumerate(line)] for y, line in enumerate(texts)]


def mark_synthetic(axes: Axes) -> None:
    """Say in a panel that its scores are of synthetic scenes."""
    axes.set_title("synthetic scenes", loc="right", fontweight="normal", fontsize=FONT - 1, color=MUTED)


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
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    if all(row["synthetic"] for line in lines for row in line.done):
        mark_synthetic(axes)
    score = f"{spec.mean_name[0].upper() if ' ' in spec.mean_name else 'm'}{spec.mean_name[1:]} (%)"
    axes.set(title=spec.title, xlabel=AXES[one_source([line.memory for line in lines]) or ""], ylabel=score)
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
        axes.set(yscale="log", title=title, xlabel="training step", ylabel="loss (each method's own)")
        log_ticks(axes.yaxis, *axes.get_ylim())
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
        axes.grid(visible=False, axis="y")
        axes.set(ylim=(len(shown) - 0.4, -0.6), title=title, xlabel=AXES[shown[0][1].source])
        legend(figure, [axes], "outside right upper", 1)
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
                axes.plot(xs, ys, color=looks_of(methods)[line.method].colour, lw=0.8, label=line.title)
            axes.set(title=get_benchmark(benchmark).title, xlabel="images labelled", ylabel="memory (MiB)")
            axes.set_xlim(0, most)
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(min(most, 6), integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4, steps=STEPS))
        legend(figure, grid, "outside lower center", 6)
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
    looks = looks_of(list(dict.fromkeys(totals["method"])))
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
            log_ticks(axes.yaxis, *axes.get_ylim())
            across = "windows in one forward pass" if x == "windows" else "side of the patch (pixels)"
            title = get_benchmark(str(benchmark)).title
            axes.set(title=title, xlabel=across, ylabel="computed peak at inference (MiB)")
        legend(figure, grid, "outside lower center", 6)
        about = "Computed memory against windows in one forward pass, and against the side of the patch"
        return save(figure, path, about)


def draw_growth(path: Path, to: Path) -> Drawn:
    """Draw time and memory of inference, training step and prepare over their sizes, from results/bench-growth.csv."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    time, memory = Look("#0072B2", "o"), Look("#D55E00", "s")
    sides = (("seconds", "processor time in s", time), ("mib", "peak memory in MiB", memory))
    with style():
        figure, grid = panels(7.0, 2.1, across=len(GROWTH))
        for axes, (what, (title, across)) in zip(grid, GROWTH.items(), strict=True):
            right = axes.twinx()
            mine = [row for row in rows if row["what"] == what]
            for side, (key, name, look) in zip((axes, right), sides, strict=True):
                xs, ys = ([float(row[column]) for row in mine] for column in ("x", key))
                side.plot(xs, ys, color=look.colour, marker=look.marker, markersize=3)
                side.set_ylabel(name, color=look.colour)
                side.set_ylim(0, 1.08 * max(ys))
            right.spines["right"].set_visible(True)
            right.grid(False)
            axes.set(title=title, xlabel=across)
            axes.set_xlim(left=0)
        texts = [f"{GROWTH[row['what']][0]} {row['x']}: {row['seconds']} s, {row['mib']} MiB" for row in rows]
        return save(figure, to, f"Growth of time and memory. {'; '.join(texts)}", kinds=("png", "svg"))
