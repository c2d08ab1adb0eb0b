"""Figures as PNG, SVG and PDF, byte-stable, and as inline SVG in the page's light or dark colours."""

from __future__ import annotations

import html
import math
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike

from scpseg.files import replacing
from scpseg.reporting.published import read_table, title_of

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
styled = matplotlib.style.context(STYLE, after_reset=True)
"""Decorator: draw in our style on matplotlib's defaults, so that a user's matplotlibrc changes nothing."""


class Look(NamedTuple):
    """Colour and marker of a method, or of another series."""

    colour: str
    marker: str


# Colours from Okabe and Ito's palette and similar ones, distinguishable with common colour vision deficiencies.
METHODS = {row["method"]: Look(row["colour"], row["marker"]) for row in read_table("methods.csv")}
"""Looks of the suite's own methods."""
COLOURS = ["#3A9BD0", "#8465B0", "#A4672F", "#5E8F0F", "#C2366B", "#1F8A8A", "#A39A1E", "#64748B"]
FURTHER = tuple(Look(colour, marker) for marker in "P*" for colour in COLOURS)
"""Looks of methods that a user added."""
STEPS = [1, 2, 2.5, 5, 10]
"""Steps between ticks, times a power of ten."""
FEW = 12
"""Lines with fewer points have marks."""
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
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg)
    # 72 points are 9 rem at most, so that texts are equally large in all figures.
    svg = re.sub(r'(<svg[^>]*?) width="([\d.]+)pt"', r'\1 style="max-width:calc(\2rem / 8)"', svg)
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


def score_limits(low: float, high: float, span: float) -> tuple[float, float]:
    """Limits of an axis of scores in per cent of width `span` with a margin, above 100 % only as far as needed."""
    top = min((low + high) / 2 + 0.6 * span, max(100.0, high + 0.1 * span))
    return top - 1.2 * span, top


def log_ticks(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 times powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=99))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def memory_axis(axes: Axes, values: Sequence[float]) -> None:
    """Limits and ticks of a memory axis; logarithmic if the ratio is above 4 : 1."""
    low, high = min(values), max(values)
    if low > 0 and high / low > 4:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.35, high * 1.5)
        log_ticks(axes.xaxis)
    else:
        middle, span = (low + high) / 2, max(high - low, 0.25 * max(high, 1.0))  # equal values look equal
        axes.set_xlim(middle - 0.7 * span, middle + 0.7 * span)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))


def label_points(
    axes: Axes, points: Sequence[tuple[float, float, str]], avoid: Sequence[tuple[float, float]] = ()
) -> None:
    """Write each name right of its point, or else left, above or below, where it covers no name or point.

    Names without a free position are omitted: the table has them. `avoid` are additional points.
    """
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    frame, taken = axes.get_window_extent(), list[Bbox]()
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
            if inside and not box.count_overlaps(taken):
                taken.append(box)
                break
            label.remove()


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
    if not entries:
        return
    ncols = math.ceil(len(entries) / math.ceil(len(entries) / ncols))
    made = figure.legend(list(entries.values()), list(entries), loc=loc, ncols=ncols, handletextpad=0.4,
                         handlelength=1.2, columnspacing=1.2, labelspacing=0.45, borderaxespad=0.2)  # fmt: skip
    for handle in made.legend_handles:
        if isinstance(handle, Line2D) and handle.get_markerfacecolor() != "none":  # marks differ in size
            handle.set_markersize(6.5)


def draw_lines(
    axes: Axes, lines: pd.DataFrame, looks: Mapping[str, Look], notes: Mapping[str, str] | None = None
) -> None:
    """Draw a line for each combination of values in the columns other than x, y and half (of a score's interval).

    One of the columns is method; `notes` are added to the methods' names. Lines of few points have marks.
    """
    for _, line in lines.groupby([*lines.columns.difference(["x", "y", "half"], sort=False)], sort=False, dropna=False):
        method = str(line["method"].iloc[0])
        look, few, bars = looks[method], len(line) < FEW, arms(line["y"], line["half"]) if "half" in line else None
        axes.errorbar(line["x"], line["y"], yerr=bars, color=look.colour, marker=look.marker if few else "", ms=4.2,
                      ls="--" if look.marker == "X" and not few else "-", lw=1, mec=PAPER, mew=0.4, elinewidth=0.8,
                      capsize=1.8, label=title_of(method) + (notes or {}).get(method, ""), zorder=3)  # fmt: skip


def draw_cells(
    axes: Axes, shades: ArrayLike, texts: Sequence[str], names: Sequence[Sequence[str]], **more: Any
) -> list[Text]:
    """A map of cells with a text each, row by row, and `names` across and down; `more` is for the shades.

    Returns the texts.
    """
    axes.imshow(shades, aspect="auto", interpolation="nearest", **more)
    axes.set_xticks(range(len(names[0])), names[0])
    axes.set_yticks(range(len(names[1])), names[1])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    where: Any = {"ha": "center", "va": "center", "fontsize": FONT - 0.5}
    return [axes.text(n % len(names[0]), n // len(names[0]), text, **where) for n, text in enumerate(texts)]


def mark_synthetic(axes: Axes) -> None:
    """Say in a panel that its scores are of synthetic scenes."""
    axes.set_title("synthetic scenes", loc="right", fontweight="normal", fontsize=FONT - 1, color=MUTED)
