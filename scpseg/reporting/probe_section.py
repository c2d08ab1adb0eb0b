"""Results of the probe: accuracy by distance of the cue, by its size and by that of textures, with intervals.

Intervals have the variance over groups of scenes, by bootstrap, and that over training seeds, in closed form because
they are few: an interval over seeds alone would ignore that other scenes give other figures. The four scenes of a
group, which differ in the kind of the cue or in the textures alone, are drawn together, because their results depend on
each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from numpy.typing import NDArray
from PIL import Image

from scpseg.errors import UserError
from scpseg.reporting import figures
from scpseg.reporting.figures import COLUMN, FONT, MUTED, Drawn, Look
from scpseg.reporting.pages import Block, Section, listed, texts
from scpseg.reporting.published import title_of
from scpseg.reporting.statistics import DRAWS, Difference, Estimate, draws, estimate, holm, paired, uncertain
from scpseg.reporting.summary import Line, records, scores
from scpseg.reporting.tables import Column, Table, made, mebibytes

PROBE, OURS, BASE = "probe", "scpseg", "patch"
CHANCE = 0.5
"""Of kinds and of textures; of both at once it is the square."""
HALF_CUE = 8
"""Pixels from the centre of the largest cue to its edge."""
CENTRED, TEXTURE, GRID = {"kind": "centred"}, {"texture": "centred_texture"}, {"kind": "grid"}
"""Questions about a disc: the factors, each with the column of the prediction; all factors must be correct."""
BOTH = CENTRED | TEXTURE
DODGE = 1.8
"""Pixels between markers of neighbouring methods, so that equal values do not hide each other."""
DASHES = (0, (4, 2))
Counts = NDArray[np.int64]
Looks = Mapping[str, Look]
Asked = Mapping[str, str]
"""CENTRED or another of these questions."""


@dataclass(frozen=True)
class Accuracy(Estimate):
    """Share 0..1 of correctly classified discs, or a difference of two, with the ends of its 95 % interval.

    `half` is half of it; None for identities and single seeds. `identity`: scenes that differ only in the factors asked
    for have the same prediction for every disc. That makes the share exactly 1/2, of two factors 1/4, or 1/2 if the
    other is always right (or 0 without any prediction); the interval is then not an estimate. `p` is the two-sided p
    value of a difference.
    """

    mean: float
    low: float
    high: float
    identity: bool = False
    p: float = 1.0


class Curve:
    """Results of one method; accuracies are shares 0..1 of the discs, estimated over twin scenes and seeds.

    Attributes:
        patch, looks, memory: side L of the patch in pixels; its inputs, as text; peak in MiB.
        reach: distance in pixels from the centre of a window that its input covers; infinite with an overview.
        centred, grid: by distance (pixels), accuracy in windows centred on the disc, and under those of whole images.
        allowed: by distance, the value of `grid` for a method that identifies every cue of which it sees a part, and
            guesses otherwise; a few discs that a border of windows cuts can exceed it.
        within, beyond: accuracy in centred windows over all distances within reach, and beyond it.
        all_grid, all_allowed: `grid` and `allowed` over all distances.
        visible, missed: share of discs whose labelling window has a part of the cue; of centred ones labelled nowhere.
        gain: mean IoU of whole images minus that of plain patches, paired by seed.
    """

    def __init__(self, line: Line, answers: pd.DataFrame, base: Mapping[int, float]) -> None:
        """Estimate from the answers of one method; `base` are the scores of plain patches by seed."""
        self.method, self.title, self.mean_iou = line.method, line.title, line.mean_iou
        self.patch, context, overview = (line[f"model:{name}"] for name in ("patch", "context", "overview"))
        self.reach = math.inf if overview is not None else context / 2
        whole = f"the whole image, reduced to {overview} × {overview}"
        self.looks = f"{context} × {context} pixels" if overview is None else whole
        self.centred, self.grid = (accuracies(answers, "distance", asked) for asked in (CENTRED, GRID))
        inside, visible = answers["distance"] < self.reach, answers["visible"] > 0
        self.allowed = (CHANCE + (1 - CHANCE) * visible.groupby(answers["distance"]).mean()).to_dict()
        self.within, self.beyond = (accuracy(part, CENTRED) if len(part) else estimate([])
                                    for part in (answers[inside], answers[~inside]))  # fmt: skip
        self.all_grid, self.all_allowed = accuracy(answers, GRID), CHANCE + (1 - CHANCE) * visible.mean()
        self.visible, self.missed = visible.mean(), answers["centred"].isna().mean()
        self.gain = paired(scores(line.rows), {} if line.method == BASE else base)
        self.memory = line.peak

    @property
    def word(self) -> str:
        """How the distances above chance compare with the reach: a key of a list in texts.j2."""
        above, within = seen(self.centred), [distance for distance in self.centred if distance < self.reach]
        if above != within:
            return "less" if set(above) < set(within) else "other"
        return "reach" if len(within) < len(self.centred) else "image" if math.isinf(self.reach) else "all"


class Sight:
    """What one method sees in centred windows, at the distances of `between`; `memory` is its peak in MiB.

    `kinds` and `textures` are accuracies by side of the cue, and of the texture's parts, in pixels, largest first;
    `classes` (by both sides) and `both` those of both at once; `behind` is `both` of SCPSeg minus that of this method,
    None for SCPSeg; `holm` is its p value corrected for all methods with several seeds.
    """

    holm: float | None = None

    def __init__(self, method: str, memory: float | None, answers: pd.DataFrame) -> None:
        """Estimate from the answers of all methods."""
        mine, ours = answers[answers["method"] == method], answers[answers["method"] == OURS]
        self.method, self.title, self.memory = method, title_of(method), memory
        self.kinds = dict(reversed(accuracies(mine, "cue_side", CENTRED).items()))
        self.textures = dict(reversed(accuracies(mine, "detail", TEXTURE).items()))
        self.classes, self.both = accuracies(mine, ["cue_side", "detail"], BOTH), accuracy(mine, BOTH)
        self.behind = None if method == OURS else difference(ours, mine, BOTH)


def probe_section(
    results: Path, frame: pd.DataFrame, lines: Sequence[Line], methods: Sequence[str], folder: Path
) -> Section | None:
    """Pictures, sentences and tables; None if no run of the probe is finished."""
    answers = read_answers(results, frame)
    if answers.empty:
        return None
    large = answers[answers["cue_side"] == answers["cue_side"].max()]
    found = curves(large, lines)
    halves = {curve.method: curve.reach for curve in found}
    counted = between(answers, min(halves.values()), halves.get(OURS, math.inf))
    tables = [table("probe-distance", found, centred="{} px"), table("probe-results", found)]
    said = texts().probe(found, large["image"].nunique(), verdict)
    blocks: list[Block] = [draw_probe(found, large, results, methods, folder)]
    if len(counted):
        seeing = sights({curve.method: curve.memory for curve in found}, counted)
        said += texts().detail(seeing, " and ".join(map(str, sorted(set(counted["distance"])))), verdict)
        blocks.append(draw_detail(seeing, folder))
        tables.append(table("probe-detail", seeing, kinds="kind, cue {} px %", textures="texture {} px %"))
    return Section("How far each method sees", [*blocks, listed(said), *tables])


def sights(memory: Mapping[str, float | None], answers: pd.DataFrame) -> list[Sight]:
    """What each method sees, with corrected p values; `memory` is the peak by method in MiB."""
    found = [Sight(method, peak, answers) for method, peak in memory.items()]
    tested = [(sight, sight.behind.p) for sight in found if sight.behind and sight.behind.n > 1]
    for (sight, _), p in zip(tested, holm([p for _, p in tested]), strict=True):
        sight.holm = p
    return found


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
    return answers.assign(pair=pairs(answers))


def pairs(answers: pd.DataFrame) -> Counts:
    """Group number of every row: scenes whose discs are at the same positions belong together."""
    places = {image: frozenset(zip(scene["row"], scene["column"], strict=True))
              for image, scene in answers.groupby("image")}  # fmt: skip
    numbers = dict(zip(places, pd.factorize(pd.Series(places))[0], strict=True))
    return answers["image"].map(numbers).to_numpy()


def accuracy(answers: pd.DataFrame, asked: Asked) -> Accuracy:
    """Estimate from rows of `read_answers` of one method, at least one."""
    found = interval(*_counts(answers, asked))
    blind = any(_alike(answers, {factor: predicted}) for factor, predicted in asked.items())
    identity = _alike(answers, asked) or (blind and found.error == 0)
    half = None if identity or found.seeds < 2 else found.half
    low, high = max(0.0, found.mean - found.half), min(1.0, found.mean + found.half)
    return Accuracy(found.mean, half, found.seeds, low, high, identity)


def accuracies(answers: pd.DataFrame, by: str | list[str], asked: Asked) -> dict[Any, Accuracy]:
    """`accuracy` by the values of these columns, in ascending order."""
    return {key: accuracy(part, asked) for key, part in answers.groupby(by)}


def difference(one: pd.DataFrame, other: pd.DataFrame, asked: Asked) -> Accuracy | None:
    """Accuracy of one method minus that of another on the same discs, for the seeds that both have, or None."""
    parts = one[one["seed"].isin(other["seed"])], other[other["seed"].isin(one["seed"])]
    if parts[0].empty:
        return None
    (right, total, strata), (others, *_) = (_counts(part, asked) for part in parts)
    found = interval(right - others, total, strata)
    half = None if found.seeds < 2 else found.half
    low, high = found.mean - found.half, found.mean + found.half
    return Accuracy(found.mean, half, found.seeds, low, high, p=found.p)


def interval(right: Counts, total: Counts, strata: Counts) -> Difference:
    """sum(right) / sum(total), where both are (S, P): discs by training seed and group of scenes.

    Groups are drawn for all seeds at once, because all seeds are tested on the same scenes, and within `strata` (P,):
    the number of groups with each size of cue is fixed.
    """
    (seeds, groups), parts, kinds = right.shape, list[tuple[float, float]](), np.unique(strata)
    if groups > len(kinds):
        hits = counts = np.zeros(DRAWS)
        for number, kind in enumerate(kinds):
            here = strata == kind
            drawn = np.roll(draws(int(here.sum())), number, axis=0)  # strata of equal size are drawn independently
            hits, counts = hits + drawn @ right[:, here].sum(0), counts + drawn @ total[:, here].sum(0)
        free = groups - len(kinds)
        parts.append((float((hits / counts).var(ddof=1)) * groups / free, float(free)))
    if seeds > 1:
        shares = right.sum(1) / total.sum(1)
        parts.append((float(shares.var(ddof=1)) / seeds, seeds - 1.0))
    return uncertain(float(right.sum() / total.sum()), parts, seeds, groups)


def _counts(part: pd.DataFrame, asked: Asked) -> tuple[Counts, Counts, Counts]:
    """(S, P) correctly classified discs, and all discs; (P,) sides of the cue."""
    right = np.logical_and.reduce([part[predicted] == part[factor] for factor, predicted in asked.items()])
    found = part.assign(right=right).pivot_table("right", "seed", "pair", ["sum", "size"], fill_value=0)
    sides = part.groupby("pair")["cue_side"].first()
    return found["sum"].to_numpy(np.int64), found["size"].to_numpy(np.int64), sides.to_numpy(np.int64)


def _alike(part: pd.DataFrame, asked: Asked) -> bool:
    """Whether scenes that differ only in the factors of `asked` have the same predictions; false if one is missing."""
    same = [factor for factor in BOTH if factor not in asked]
    grouped = part.groupby(["seed", "pair", "row", "column", *same])
    found = grouped[[*asked.values()]].nunique(dropna=False)
    return bool((found == 1).all(axis=None) and (grouped.size() == 2 ** len(asked)).all())


def curves(answers: pd.DataFrame, lines: Sequence[Line]) -> list[Curve]:
    """A curve per method with results, in the order of `lines`."""
    base = next((scores(line.rows) for line in lines if line.method == BASE), {})
    parts = dict(iter(answers.groupby("method")))
    return [Curve(line, parts[line.method], base) for line in lines if line.method in parts]


def between(answers: pd.DataFrame, patch: float, window: float) -> pd.DataFrame:
    """The discs whose cue is completely outside half a `patch`, and completely inside half a `window`, in pixels."""
    outside, inside = answers["distance"] - HALF_CUE >= patch, answers["distance"] + HALF_CUE <= window
    return answers[outside & inside]


def seen(values: Mapping[int, Accuracy]) -> list[int]:
    """The sides at which the lower end of the interval (of one seed: over scenes) is above chance."""
    return [side for side, value in values.items() if not value.identity and value.low > CHANCE]


def verdict(values: Mapping[int, Accuracy]) -> str:
    """At which distances or sides a method is above, at or below chance, with the lowest and highest accuracy."""
    above, keys, parts = seen(values), list(values), list[str]()
    below = [key for key, value in values.items() if not value.identity and value.high < CHANCE]
    at = [key for key in keys if key not in (*above, *below)]
    for name, some in (("above", above), ("at", at), ("below", below)):
        if some:
            unbroken = len(some) > 2 and some == keys[keys.index(some[0]) :][: len(some)]
            where = f"{some[0]} to {some[-1]}" if unbroken else " and ".join(map(str, some))
            low, high = (f"{100 * pick(values[key].mean for key in some):.1f}" for pick in (min, max))
            parts.append(f"{name} chance at {where} pixels ({low if low == high else f'{low} to {high}'} %)")
    return "; ".join(parts)


def table(kind: str, found: Sequence[Curve] | Sequence[Sight], **spread: str) -> Table:
    """A table of tables.csv with a row per method; `spread`: attributes whose keys are columns, and titles of these."""
    columns = [Column(title.format(key), "share", "", f"{name} {key}") for name, title in spread.items()
               for key in getattr(found[0], name)]  # fmt: skip
    rows = [vars(one) | {"method": one.title} | {f"{name} {key}": value for name in spread
            for key, value in getattr(one, name).items()} for one in found]  # fmt: skip
    return made(kind, rows, columns)


@figures.styled
def draw_probe(
    found: Sequence[Curve], answers: pd.DataFrame, results: Path, methods: Sequence[str], folder: Path
) -> Drawn:
    """An example scene with windows; accuracy in centred windows; accuracy with the windows of whole-image inference.

    The scene is omitted if stage `evaluate` wrote no pictures.
    """
    looks, folders = figures.looks_of(methods), results / "metrics" / PROBE
    paths = {folders / method / str(seed) / "pictures" / f"{image}.image.png": image for image, method, seed
             in answers[["image", "method", "seed"]].drop_duplicates().itertuples(index=False, name=None)}  # fmt: skip
    example = next((path for path in paths if path.is_file()), None)
    ratios = [0.8, 1.0, 1.0] if example else [1.0, 1.0]
    figure, grid = figures.panels(2.2 * COLUMN, 2.9, len(ratios), 1, width_ratios=ratios)
    if example:
        _scene(grid[0], found, looks, example, answers[answers["image"] == paths[example]])
    for axes, windows in zip(grid[-2:], ("centred", "grid"), strict=True):
        _curves(axes, found, looks, windows)
        axes.tick_params(labelleft=windows == "centred")
    grid[-2].set_ylabel("correctly classified discs (%)")
    for reach, curve in {curve.reach: curve for curve in reversed(found) if math.isfinite(curve.reach)}.items():
        colour, name = looks[curve.method].colour, "L/2" if reach == curve.patch / 2 else "G/2"
        grid[-2].axvline(reach, color=colour, lw=0.9, ls=(0, (1, 1.2)), zorder=0)
        grid[-2].text(reach + 1, 44, f"{name} = {reach:g}", color=colour, fontsize=FONT - 1.5)
    figures.legend(figure, grid[-2:], "outside upper right", 5)
    return figures.save(figure, folder / "probe-distance", "Accuracy against the distance of the cue, by method")


def _curves(axes: Axes, found: Sequence[Curve], looks: Looks, windows: str) -> None:
    """One line per method with intervals, the line of chance, and with grid windows what geometry allows."""
    axes.axhline(100 * CHANCE, color=MUTED, lw=0.8, ls=":", zorder=0, label="chance")
    notes = {one.method: f", {mebibytes(one.memory).text} MiB" for one in found if one.memory is not None}
    for index, curve in enumerate(found):
        values: Mapping[int, Accuracy] = getattr(curve, windows)
        xs = np.array(list(values)) + min(DODGE, 9 / len(found)) * (index - (len(found) - 1) / 2)
        percent, half = 100 * np.array([[one.mean, one.half or 0.0] for one in values.values()]).T
        line = pd.DataFrame({"method": curve.method, "x": xs, "y": percent, "half": half})
        figures.draw_lines(axes, line, looks, notes)
        if windows == "grid":
            allowed = 100 * np.array(list(curve.allowed.values()))
            axes.plot(xs, allowed, color=looks[curve.method].colour, lw=0.9, ls=DASHES, zorder=1)
    if windows == "grid":
        axes.plot([], [], color=MUTED, lw=0.9, ls=DASHES, label="what geometry allows")
    distances = list(found[0].centred)
    step = distances[1] - distances[0] if len(distances) > 1 else 16
    axes.set(xticks=distances, xlim=(distances[0] - step * 0.75, distances[-1] + step * 0.75), ylim=(42, 106))
    axes.set(yticks=range(50, 101, 10), xlabel="distance of the cue (pixels)", title=f"{windows} windows")


def _scene(axes: Axes, found: Sequence[Curve], looks: Looks, path: Path, answers: pd.DataFrame) -> None:
    """A scene with a ring around the disc nearest to its centre, and the reach of each method around it."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    height, width = pixels.shape[:2]
    places = answers[["row", "column"]].to_numpy()
    row, column = places[np.abs(places - height / 2).max(axis=1).argmin()]
    axes.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest")
    axes.add_patch(Circle((column, row), 13, fill=False, lw=1.3, edgecolor="white"))
    for curve in sorted(found, key=lambda one: one.reach):
        # Clipped here, so that the edge of a window stays visible where it leaves the scene.
        left, right = np.clip([column - curve.reach, column + curve.reach], 1.0, width - 1.0)
        top, bottom = np.clip([row - curve.reach, row + curve.reach], 1.0, height - 1.0)
        xs, ys = [left, right, right, left, left], [top, top, bottom, bottom, top]
        axes.plot(xs, ys, lw=1.5, color=looks[curve.method].colour)
    axes.set(anchor="N", title="a scene")
    axes.set_axis_off()


@figures.styled
def draw_detail(found: Sequence[Sight], folder: Path) -> Drawn:
    """Share of discs with both factors right, one map per method: cues shrink to the right, textures downwards."""
    down = math.ceil(len(found) / 6)
    across = math.ceil(len(found) / down)
    figure, grid = figures.panels(2.2 * COLUMN, 1.75 * down + 0.25, across, down)
    for axes in grid[len(found) :]:
        axes.set_axis_off()
    for axes, sight in zip(grid, found, strict=False):
        values = np.array([[sight.classes[cue, side].mean for cue in sight.kinds] for side in sight.textures])
        names = list(map(str, sight.kinds)), list(map(str, sight.textures))
        shown = [f"{100 * value:.0f}" for value in values.flat]
        drawn = figures.draw_cells(axes, values, shown, names, cmap="cividis", vmin=CHANCE**2, vmax=1.0)
        for text, value in zip(drawn, values.flat, strict=True):
            text.set_color("white" if value < 0.65 else "black")
        memory = "" if sight.memory is None else f"\n{mebibytes(sight.memory).text} MiB"
        axes.set(xlabel="cue (pixels)", title=f"{sight.title}{memory}")
    for axes in grid[::across]:
        axes.set_ylabel("texture (pixels)")
    about = "Kind and texture right, by side of the cue and of the texture"
    return figures.save(figure, folder / "probe-detail", about)
