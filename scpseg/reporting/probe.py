"""Results of the probe: accuracy by distance of the cue, and the accuracy that the windows allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Rectangle
from PIL import Image

from scpseg.errors import UserError
from scpseg.reporting import detail, twins
from scpseg.reporting.figures import COLUMN, FONT, MUTED, Drawn, Look, arms, legend, looks_of, panels, save, style
from scpseg.reporting.pictures import Pixels
from scpseg.reporting.published import title_of
from scpseg.reporting.statistics import Estimate, paired
from scpseg.reporting.summary import Line, records
from scpseg.reporting.tables import Column, Table, mebibytes, points, render, share, table_of, words

PROBE = "probe"
CHANCE = 0.5
BASE = "patch"
HEIGHT = 2.9
"""Heights in inches."""
DODGE = 1.8
"""Distance in pixels between markers of neighbouring methods, so that equal values do not hide each other."""
DASHES = (0, (4, 2))
RING = 13
"""Radius in pixels of the ring around the disc in the example."""


@dataclass(frozen=True)
class Curve:
    """Results of one method; accuracies are shares 0..1 of the discs, estimated over twin scenes and seeds.

    Attributes:
        method: name of the method.
        patch: side L of the patch in pixels.
        reach: distance in pixels from the centre of a window that its input covers; infinite with an overview.
        looks: its inputs, as text.
        centred: accuracy by distance (pixels) in windows centred on the disc.
        grid: accuracy by distance under the windows of whole-image inference.
        allowed: by distance, the value of `grid` for a method that identifies every cue of which it sees a part, and
            guesses otherwise; a few discs that a border of windows cuts can exceed it.
        within: accuracy in centred windows over all distances within reach.
        beyond: accuracy in centred windows over all distances beyond reach.
        all_grid: accuracy with the windows of whole-image inference over all distances.
        all_allowed: value of `allowed` over all distances.
        visible: share of all discs whose labelling window contains a part of the cue.
        missed: share of centred discs without any pixel predicted as a disc.
        mean_iou: from the confusion matrix of whole images.
        gain: `mean_iou` minus that of plain patches, paired by seed.
        memory: peak in MiB.
    """

    method: str
    patch: int
    reach: float
    looks: str
    centred: dict[int, Estimate]
    grid: dict[int, Estimate]
    allowed: dict[int, float]
    within: Estimate
    beyond: Estimate
    all_grid: Estimate
    all_allowed: float
    visible: float
    missed: float
    mean_iou: Estimate
    gain: Estimate
    memory: float | None


def probe_part(
    results: Path, frame: pd.DataFrame, lines: Sequence[Line], methods: Sequence[str], folder: Path
) -> dict[str, Any] | None:
    """Pictures, (title, sentence) pairs and tables for the templates; None if no run of the probe is finished."""
    answers = read_answers(results, frame)
    if answers.empty:
        return None
    large = answers[answers["cue_side"] == answers["cue_side"].max()]
    found = curves(large, lines)
    halves = {curve.method: curve.reach for curve in found}
    counted = detail.between(answers, min(halves.values()), halves.get(detail.OURS, math.inf))
    sights = detail.sights(counted, {curve.method: curve.memory for curve in found})
    return {
        "figures": [
            draw_probe(found, large, results, methods, folder),
            *([detail.draw_detail(sights, folder)] if sights else []),
        ],
        "sentences": [
            *sentences(found, large["image"].nunique()),
            *detail.sentences(sights, sorted(set(counted["distance"]))),
        ],
        "tables": [distance_table(found), result_table(found), *([detail.detail_table(sights)] if sights else [])],
    }


def read_answers(results: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """One row per disc of every finished run of the probe: columns of objects.csv, method, seed and group of scenes.

    Raises:
        UserError: a run has no objects.csv.
    """
    parts = []
    for row in records(frame[(frame["benchmark"] == PROBE) & (frame["status"] == "ok")]):
        path = results / "metrics" / PROBE / row["method"] / str(row["seed"]) / "objects.csv"
        try:
            found = pd.read_csv(path)
        except FileNotFoundError:
            raise UserError(f"{path} is missing; run `dvc repro -f --glob 'evaluate-*@{PROBE}-*'`") from None
        parts.append(found.assign(method=row["method"], seed=row["seed"]))
    if not parts:
        return pd.DataFrame()
    answers = pd.concat(parts, ignore_index=True)
    return answers.assign(pair=twins.pairs(answers))


def curves(answers: pd.DataFrame, lines: Sequence[Line]) -> list[Curve]:
    """A curve per method with results, in the order of `lines`."""
    found, known = [], [line for line in lines if line.benchmark == PROBE and len(answers)]
    base = next((line.scores for line in known if line.method == BASE), {})
    for line in known:
        mine = answers[answers["method"] == line.method]
        if mine.empty:
            continue
        parts = {int(str(distance)): part for distance, part in mine.groupby("distance", sort=True)}
        patch, context, overview = (line[f"model:{name}"] for name in ("patch", "context", "overview"))
        reach = math.inf if overview is not None else context / 2
        whole = f"the whole image, reduced to {overview} × {overview}"
        found.append(
            Curve(
                method=line.method,
                patch=patch,
                reach=reach,
                looks=f"{context} × {context} pixels" if overview is None else whole,
                centred={distance: _accuracy(part, "centred") for distance, part in parts.items()},
                grid={distance: _accuracy(part, "grid") for distance, part in parts.items()},
                allowed={distance: _allowed(part) for distance, part in parts.items()},
                within=_accuracy(mine[mine["distance"] < reach], "centred"),
                beyond=_accuracy(mine[mine["distance"] >= reach], "centred"),
                all_grid=_accuracy(mine, "grid"),
                all_allowed=_allowed(mine),
                visible=float((mine["visible"] > 0).mean()),
                missed=float(mine["centred"].isna().mean()),
                mean_iou=line.mean_iou,
                gain=paired(line.scores, {} if line.method == BASE else base),
                memory=line.memory.mib if line.memory else line["memory_mib"],
            )
        )
    return found


def _accuracy(answers: pd.DataFrame, look: str) -> Estimate:
    return twins.shown(twins.accuracy(answers, look))


def _allowed(answers: pd.DataFrame) -> float:
    return CHANCE + (1 - CHANCE) * float((answers["visible"] > 0).mean())


def above_chance(value: Estimate) -> bool:
    """Whether the lower end of the interval (or the single figure) is above chance."""
    return value.mean is not None and value.mean - (value.half or 0.0) > CHANCE


def sentences(found: Sequence[Curve], scenes: int) -> list[tuple[str, str]]:
    """(title, sentence) pairs: every sentence about a method follows from its numbers."""
    made = render(
        "probe.txt.j2",
        curves=found,
        scenes=scenes,
        seeds=max(curve.mean_iou.n for curve in found),
        base=title_of(BASE),
        base_memory=next((curve.memory for curve in found if curve.method == BASE), None),
        title=title_of,
        reaches=_reaches,
        percent=lambda value: share(value).text,
        points=lambda value: points(value).text,
        mib=lambda value: mebibytes(value).text,
        math=math,
    )
    pairs = (line.partition("\t") for line in made.splitlines() if line.strip())
    return [(title.strip(), sentence.strip()) for title, _, sentence in pairs]


def _reaches(curve: Curve) -> dict[str, Any]:
    """Where a method is above chance and where not, and how this compares with its reach."""
    seen = [distance for distance, value in curve.centred.items() if above_chance(value)]
    lost = [distance for distance in curve.centred if distance not in seen]
    within = [distance for distance in curve.centred if distance < curve.reach]
    if seen == within:
        verdict = "reach" if lost else "image" if math.isinf(curve.reach) else "all"
    else:
        verdict = "less" if set(seen) < set(within) else "other"
    return {"seen": _span(curve, seen), "lost": _span(curve, lost), "verdict": verdict}


def _span(curve: Curve, some: Sequence[int]) -> dict[str, str] | None:
    """Distances, with the lowest and highest accuracy at them."""
    if not some:
        return None
    values = [value.mean for value in (curve.centred[distance] for distance in some) if value.mean is not None]
    whole = list(curve.centred)
    first, last = whole.index(some[0]), whole.index(some[-1])
    unbroken = len(some) > 2 and list(some) == whole[first : last + 1]
    where = f"{some[0]} to {some[-1]}" if unbroken else " and ".join(map(str, some))
    return {"where": where, "low": f"{100 * min(values):.1f}", "high": f"{100 * max(values):.1f}"}


def distance_table(found: Sequence[Curve]) -> Table:
    """Accuracy in centred windows by the cue's distance."""
    fields: list[Column[Curve]] = [words("method", lambda curve: title_of(curve.method))]
    fields += [Column(f"{d} px", lambda curve, d=d: share(curve.centred[d])) for d in found[0].centred]  # type: ignore[misc]
    return table_of("probe-distance", "Accuracy (%) in centred windows by the cue's distance in pixels", fields, found)


def result_table(found: Sequence[Curve]) -> Table:
    """Inputs, memory and accuracy of each method."""
    fields: list[Column[Curve]] = [
        words("method", lambda curve: title_of(curve.method)),
        words("looks at", lambda curve: curve.looks),
        Column("peak memory MiB", lambda curve: mebibytes(curve.memory)),
        Column("centred, cue within reach %", lambda curve: share(curve.within)),
        Column("centred, beyond %", lambda curve: share(curve.beyond)),
        Column("grid %", lambda curve: share(curve.all_grid)),
        Column("mIoU %", lambda curve: share(curve.mean_iou)),
        Column(f"mIoU minus {title_of(BASE)}, points", lambda curve: points(curve.gain)),
    ]
    return table_of("probe-results", "Reach, accuracy and memory", fields, found)


def draw_probe(
    found: Sequence[Curve], answers: pd.DataFrame, results: Path, methods: Sequence[str], folder: Path
) -> Drawn:
    """An example scene with windows; accuracy in centred windows; accuracy with the windows of whole-image inference.

    The scene is omitted if stage `evaluate` wrote no pictures.
    """
    example, looks = _example(found, answers, results), looks_of(methods)
    ratios = ([0.8] if example else []) + [1.0, 1.0]
    with style():
        figure, grid = panels(2.2 * COLUMN, HEIGHT, len(ratios), 1, width_ratios=ratios)
        if example:
            _scene(grid[0], found, looks, *example)
        centred, whole = grid[-2:]
        _curves(centred, found, looks, [curve.centred for curve in found])
        _ends(centred, found, looks)
        centred.set_title("centred windows")
        centred.set_ylabel("correctly classified discs (%)")
        _curves(whole, found, looks, [curve.grid for curve in found])
        for index, curve in enumerate(found):
            xs = [distance + _shift(index, found) for distance in curve.allowed]
            shares = [100 * allowed for allowed in curve.allowed.values()]
            whole.plot(xs, shares, color=looks[curve.method].colour, lw=0.9, ls=DASHES, zorder=1)
        (allowed,) = whole.plot([], [], color=MUTED, lw=0.9, ls=DASHES)
        whole.legend([allowed], ["what geometry allows"], loc="lower left", handlelength=2.2, borderaxespad=0.2)
        whole.set_title("grid windows")
        whole.tick_params(labelleft=False)
        legend(figure, [centred], "outside upper right", 5)
        return save(figure, folder / "probe-distance", "Accuracy against the distance of the cue, by method")


def _curves(
    axes: Axes, found: Sequence[Curve], looks: Mapping[str, Look], values: Sequence[Mapping[int, Estimate]]
) -> None:
    """One line per method with intervals, and the line of chance."""
    axes.axhline(100 * CHANCE, color=MUTED, lw=0.8, ls=":", zorder=0)
    for index, (curve, accuracies) in enumerate(zip(found, values, strict=True)):
        known = [(distance, one.mean, one.half or 0.0) for distance, one in accuracies.items() if one.mean is not None]
        xs, shares, halves = ([row[place] for row in known] for place in range(3))
        percent, half = 100 * np.array(shares), 100 * np.array(halves)
        memory = "" if curve.memory is None else f", {mebibytes(curve.memory).text} MiB"
        look = looks[curve.method]
        axes.errorbar(np.array(xs) + _shift(index, found), percent, yerr=arms(percent, half), color=look.colour,
                      marker=look.marker, ms=4.2, mec="white", mew=0.4, lw=1.1, elinewidth=0.8, capsize=1.8,
                      label=f"{title_of(curve.method)}{memory}", zorder=4 - index / len(found))  # fmt: skip
    distances = list(found[0].centred)
    step = distances[1] - distances[0] if len(distances) > 1 else 16
    axes.set_xticks(distances)
    axes.set_xlim(distances[0] - step * 0.75, distances[-1] + step * 0.75)
    axes.set_ylim(42, 106)
    axes.set_yticks([50, 60, 70, 80, 90, 100])
    axes.set_xlabel("distance of the cue (pixels)")


def _shift(index: int, found: Sequence[Curve]) -> float:
    return DODGE * (index - (len(found) - 1) / 2)


def _ends(axes: Axes, found: Sequence[Curve], looks: Mapping[str, Look]) -> None:
    """Mark the ends of the windows, and label chance."""
    axes.text(axes.get_xlim()[0] + 1.5, 100 * CHANCE - 1.2, "chance", va="top", color=MUTED, fontsize=FONT - 1.5)
    ends = {curve.reach: curve for curve in reversed(found) if math.isfinite(curve.reach)}
    for reach, curve in ends.items():
        colour, name = looks[curve.method].colour, "L/2" if reach == curve.patch / 2 else "G/2"
        axes.axvline(reach, color=colour, lw=0.9, ls=(0, (1, 1.2)), zorder=0)
        axes.annotate(f"{name} = {reach:g}", (reach, 44), xytext=(2.5, 0), textcoords="offset points", color=colour,
                      fontsize=FONT - 1.5)  # fmt: skip


def _example(found: Sequence[Curve], answers: pd.DataFrame, results: Path) -> tuple[Pixels, tuple[int, int]] | None:
    """A scene with a picture, and a disc in it whose cue is outside the smallest window only."""
    reaches = sorted({curve.reach for curve in found})
    for (name, method, seed), mine in answers.groupby(["image", "method", "seed"], sort=False):
        path = results / "metrics" / PROBE / str(method) / str(seed) / "pictures" / f"{name}.image.png"
        if path.is_file():
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            between = mine[(mine["distance"] >= reaches[0]) & (mine["distance"] < reaches[-1])]
            rows = (between if len(between) else mine)[["row", "column"]].to_numpy()
            # The disc nearest to the centre of the picture, so that its windows are inside.
            row, column = rows[np.abs(rows - len(pixels) / 2).max(axis=1).argmin()]
            return pixels, (int(row), int(column))
    return None


def _scene(
    axes: Axes, found: Sequence[Curve], looks: Mapping[str, Look], pixels: Pixels, disc: tuple[int, int]
) -> None:
    """A scene with a ring around one disc, and the reach of each method around it."""
    height, width = pixels.shape[:2]
    axes.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest")
    row, column = disc
    axes.add_patch(Circle((column, row), RING, fill=False, lw=1.3, edgecolor="white"))
    for curve in sorted(found, key=lambda one: one.reach):
        reach = min(curve.reach, max(width, height))
        # Clipped here, so that the edge of a window stays visible where it leaves the scene.
        left, top = max(column - reach, 1.0), max(row - reach, 1.0)
        right, bottom = min(column + reach, width - 1.0), min(row + reach, height - 1.0)
        colour = looks[curve.method].colour
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, lw=1.5, edgecolor=colour))
    axes.set_anchor("N")
    axes.set_axis_off()
    axes.set_title("a scene")
