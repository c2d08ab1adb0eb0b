"""The probe's picture: a scene with the windows, accuracy in centred windows, accuracy in the windows of the grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from PIL import Image

from scpseg.reporting.figures import COLUMN, DPI, FONT_SIZE, arms, save, style
from scpseg.reporting.looks import looks_of
from scpseg.reporting.probe import CHANCE, PROBE, Curve
from scpseg.reporting.published import title_of
from scpseg.reporting.summary import Estimate
from scpseg.reporting.tables import megabytes

HEIGHT = 2.75
"""Inches."""
DODGE = 1.8
"""Pixels of distance between the markers of neighbouring methods, so that equal values do not hide each other."""
GREY = "#777777"
DASHES = (0, (4, 2))
RING = 13
"""Radius of the ring round the example's disc in pixels."""


def draw_probe(found: Sequence[Curve], answers: pd.DataFrame, results: Path, folder: Path) -> list[Path]:
    """Write probe-distance.png and .svg to `folder` and return their paths.

    The scene is left out where stage `evaluate` wrote no pictures.
    """
    example = _example(found, answers, results)
    methods = [curve.method for curve in found]
    ratios = ([0.8] if example else []) + [1.0, 1.0]
    with style():
        figure = Figure(figsize=(2 * COLUMN, HEIGHT), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        panels = list(figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False).flat)
        if example:
            _scene(panels[0], found, methods, *example)
        centred, grid = panels[-2:]
        _curves(centred, found, methods, {curve.method: curve.centred for curve in found})
        _reaches(centred, found, methods)
        centred.set_title("centred windows", loc="left")
        centred.set_ylabel("discs told rightly (%)")
        _curves(grid, found, methods, {curve.method: curve.grid for curve in found})
        for index, curve in enumerate(found):
            grid.plot(
                [distance + _shift(index, found) for distance in curve.allowed],
                [100 * share for share in curve.allowed.values()],
                color=looks_of(methods)[curve.method].colour,
                lw=0.9,
                ls=DASHES,
                zorder=1,
            )
        (allowed,) = grid.plot([], [], color=GREY, lw=0.9, ls=DASHES)
        grid.legend([allowed], ["what geometry allows"], loc="lower left", handlelength=2.2, borderaxespad=0.2)
        grid.set_title("grid windows", loc="left")
        grid.tick_params(labelleft=False)
        handles, labels = centred.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper right", ncols=len(labels), handletextpad=0.3, columnspacing=1.6
        )
        return [save(figure, folder / f"probe-distance.{kind}") for kind in ("png", "svg")]


def _curves(
    axes: Axes, found: Sequence[Curve], methods: Sequence[str], values: Mapping[str, Mapping[int, Estimate]]
) -> None:
    """One line per method with intervals, and the line of chance."""
    axes.axhline(100 * CHANCE, color=GREY, lw=0.8, ls=":", zorder=0)
    for index, curve in enumerate(found):
        points = [(distance, one) for distance, one in values[curve.method].items() if one.mean is not None]
        memory = "" if curve.memory is None else f", {megabytes(curve.memory)} MiB"
        axes.errorbar(
            [distance + _shift(index, found) for distance, _ in points],
            [100 * (one.mean or 0.0) for _, one in points],
            yerr=np.hstack([arms(100 * (one.mean or 0.0), 100 * (one.half or 0.0)) for _, one in points]),
            color=looks_of(methods)[curve.method].colour,
            marker=looks_of(methods)[curve.method].marker,
            markersize=4.2,
            markeredgecolor="white",
            markeredgewidth=0.4,
            lw=1.1,
            elinewidth=0.8,
            capsize=1.8,
            label=f"{title_of(curve.method)}{memory}",
            zorder=4 - index / len(found),
        )
    distances = list(found[0].centred)
    axes.set_xticks(distances)
    step = distances[1] - distances[0] if len(distances) > 1 else 16
    axes.set_xlim(distances[0] - step * 0.75, distances[-1] + step * 0.75)
    axes.set_ylim(42, 106)
    axes.set_yticks([50, 60, 70, 80, 90, 100])
    axes.set_xlabel("distance of the cue (pixels)")


def _shift(index: int, found: Sequence[Curve]) -> float:
    return DODGE * (index - (len(found) - 1) / 2)


def _reaches(axes: Axes, found: Sequence[Curve], methods: Sequence[str]) -> None:
    """Where windows end, and the word for chance."""
    axes.text(axes.get_xlim()[0] + 1.5, 100 * CHANCE - 1.2, "chance", va="top", color=GREY, fontsize=FONT_SIZE - 1.5)
    ends: dict[float, Curve] = {}
    for curve in reversed(found):
        if math.isfinite(curve.reach):
            ends[curve.reach] = curve
    for reach, curve in ends.items():
        name = "L/2" if reach == curve.patch / 2 else "G/2"
        axes.axvline(reach, color=looks_of(methods)[curve.method].colour, lw=0.9, ls=(0, (1, 1.2)), zorder=0)
        axes.annotate(
            f"{name} = {reach:g}",
            (reach, 44),
            xytext=(2.5, 0),
            textcoords="offset points",
            color=looks_of(methods)[curve.method].colour,
            fontsize=FONT_SIZE - 1.5,
        )


def _example(
    found: Sequence[Curve], answers: pd.DataFrame, results: Path
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], tuple[int, int]] | None:
    """A scene that was saved as a picture, and a disc in it whose cue lies beyond the smallest window only."""
    reaches = sorted({curve.reach for curve in found})
    for name in dict.fromkeys(answers["image"]):
        for method, seed in dict.fromkeys(zip(answers["method"], answers["seed"], strict=True)):
            path = results / "metrics" / PROBE / str(method) / str(seed) / "pictures" / f"{name}.image.png"
            if not path.is_file():
                continue
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            mine = answers[(answers["image"] == name) & (answers["method"] == method) & (answers["seed"] == seed)]
            between = mine[(mine["distance"] >= reaches[0]) & (mine["distance"] < reaches[-1])]
            rows = (between if len(between) else mine)[["row", "column"]].to_numpy()
            # The disc that is nearest to the middle of the picture, so that its windows lie inside.
            row, column = rows[np.abs(rows - len(pixels) / 2).max(axis=1).argmin()]
            return pixels, (int(row), int(column))
    return None


def _scene(
    axes: Axes,
    found: Sequence[Curve],
    methods: Sequence[str],
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    disc: tuple[int, int],
) -> None:
    """A scene, one disc ringed, and how far each method sees round it."""
    height, width = pixels.shape[:2]
    axes.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest")
    row, column = disc
    axes.add_patch(Circle((column, row), RING, fill=False, lw=1.3, edgecolor="white"))
    for curve in sorted(found, key=lambda one: one.reach):
        reach = min(curve.reach, max(width, height))
        # Clipped by hand, so that a window's edge stays visible where it leaves the scene.
        left, top = max(column - reach, 1.0), max(row - reach, 1.0)
        right, bottom = min(column + reach, width - 1.0), min(row + reach, height - 1.0)
        colour = looks_of(methods)[curve.method].colour
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, lw=1.5, edgecolor=colour))
    axes.set_anchor("N")
    axes.set_axis_off()
    axes.set_title("a scene", loc="left")
