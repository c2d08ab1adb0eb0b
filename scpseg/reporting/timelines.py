"""How memory rises and falls while whole images are labelled: one panel per benchmark and meter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scpseg.benchmarks import get_benchmark
from scpseg.errors import UserError
from scpseg.reporting.collect import HEADLINE, MIB, read_result
from scpseg.reporting.figures import COLUMN, DPI, save, style
from scpseg.reporting.looks import looks_of
from scpseg.reporting.published import title_of
from scpseg.reporting.tables import megabytes

PANEL_HEIGHT = 1.75
AXIS_LABELS = {"rss": "Resident memory\nabove idle (MiB, CPU)", "nvml": "GPU process memory,\nNVML (MiB)"}


@dataclass(frozen=True)
class Trace:
    """Memory of one method on one benchmark while `images` images are labelled one after another.

    Attributes:
        points: (images done, 0..images; MiB), at most 200: each is the largest of the samples it stands for.
        peak: the figure of the tables in MiB; between two samples memory may have been higher than any point.
    """

    benchmark: str
    method: str
    backend: str
    images: int
    points: tuple[tuple[float, float], ...]
    peak: float


def read_traces(results: Path, frame: pd.DataFrame) -> list[Trace]:
    """The timelines of the workloads in `frame` (of `collect`) that ended well and were sampled.

    Raises:
        UserError: a file is damaged.
    """
    traces = []
    measured = frame[frame["memory_mib"].notna()].drop_duplicates(["benchmark", "method"])
    for _, row in measured.iterrows():
        names = {"benchmark": str(row["benchmark"]), "method": str(row["method"])}
        path = results / "profile" / names["benchmark"] / f"{names['method']}.json"
        found = read_result(path, names, False)
        assert found is not None
        if not found["timeline"] or found.get("timeline_of") != HEADLINE[found["backend"]]:
            continue
        try:
            # The last sample was forced at the end of the stretch, so its time is that of all images.
            scale = found["repeats"] / max(found["timeline"][-1][0], 1e-9)
            points = tuple((at * scale, used / MIB) for at, used in found["timeline"])
        except (TypeError, ValueError):
            raise UserError(f"{path} has a damaged timeline; delete it and run `dvc repro` again") from None
        traces.append(
            Trace(**names, backend=found["backend"], images=found["repeats"], points=points, peak=row.memory_mib)
        )
    return traces


def draw_timelines(traces: Sequence[Trace], methods: Sequence[str], folder: Path) -> list[Path]:
    """Write timelines.png and .svg; without a trace nothing. `methods` in the order of the report."""
    panels = list(dict.fromkeys((trace.benchmark, trace.backend) for trace in traces))
    if not panels:
        return []
    across = min(len(panels), 2)
    down = math.ceil(len(panels) / across)
    with style():
        figure = Figure(figsize=(COLUMN * across, PANEL_HEIGHT * down + 0.3), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        grid = list(figure.subplots(down, across, squeeze=False).flat)
        for axes, key in zip(grid, panels, strict=False):
            _panel(axes, [trace for trace in traces if (trace.benchmark, trace.backend) == key], methods)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        return [save(figure, folder / f"timelines.{kind}") for kind in ("png", "svg")]


def section(traces: Sequence[Trace], picture: str) -> str:
    """The page's part; `picture` as seen from the page, without its ending."""
    images = sorted({trace.images for trace in traces})
    many = "one image" if images == [1] else f"{' or '.join(map(str, images))} images one after another"
    return (
        "## Memory over time\n\n"
        f"![Memory while whole images are labelled]({picture}.png)\n\n[The same as SVG]({picture}.svg).\n\n"
        f"The measured stretch of each method: {many}, after a warm-up, model and image already in memory. The time "
        "axis is each method's own, so that images lie below each other; how long one takes is in the tables. "
        "Each point is the largest of the samples that it stands for; in the names, the peak of the tables in MiB.\n"
    )


def _panel(axes: Axes, traces: Sequence[Trace], methods: Sequence[str]) -> None:
    for trace in traces:
        index = methods.index(trace.method)
        axes.plot(
            *zip(*trace.points, strict=True),
            color=looks_of(methods)[trace.method].colour,
            linewidth=0.8,
            label=f"{title_of(trace.method)} {megabytes(trace.peak)}",
            zorder=4 - index / len(methods),  # SCPSeg, the first, on top
        )
    most = max(trace.images for trace in traces)
    axes.set_title(get_benchmark(traces[0].benchmark).title, loc="left")
    axes.set_xlim(0, most)
    axes.xaxis.set_major_locator(MaxNLocator(min(most, 6), integer=True))
    axes.set_ylim(0, 1.12 * max(used for trace in traces for _, used in trace.points))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.set_xlabel("Images labelled")
    axes.set_ylabel(AXIS_LABELS[traces[0].backend])
    axes.legend(loc="best", ncols=2, handlelength=1.2, columnspacing=1.0)
