"""Pictures in the report: image, ground truth, prediction and error of each method's worst, median and best image."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image

from scpseg.benchmarks import get_benchmark
from scpseg.benchmarks.base import Benchmark
from scpseg.files import damaged
from scpseg.reporting.figures import FONT, MUTED, Drawn, panels, save, style
from scpseg.reporting.statistics import mean_iou
from scpseg.reporting.summary import Line, Row, read_matrices

Pixels = NDArray[np.uint8]
KINDS = ("image", "truth", "prediction", "error")
TITLES = {"image": "image", "truth": "ground truth", "prediction": "prediction", "error": "error"}
WRONG, RIGHT, NOT_COUNTED = (213, 62, 49), (222, 228, 233), (120, 128, 136)
SIDES = (176, 128, 96, 64)
"""Sides of a picture in the page, largest first: the first with which all pictures fit into the budget is used."""


@dataclass(frozen=True)
class Example:
    """An image labelled by a method: `rank` is worst, median, best or empty, `score` its mean IoU in per cent."""

    image: str
    rank: str
    score: str
    seed: int
    folder: Path


@dataclass
class Album:
    """Pictures of the page as data URLs, each stored once under a number."""

    side: int
    found: dict[str, str] = field(default_factory=dict)
    known: dict[tuple[str, ...], str] = field(default_factory=dict)

    def add(self, key: tuple[str, ...], pixels: Pixels, photo: bool) -> str:
        """Name of the picture under `key`: photos in lossy WebP, labels in lossless WebP."""
        if key not in self.known:
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "WEBP", lossless=not photo, quality=70, method=4)
            address = f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
            self.known[key] = self.found.setdefault(address, f"p{len(self.found)}")
        return self.known[key]

    @property
    def size(self) -> int:
        """Number of bytes in the page."""
        return sum(map(len, self.found))


def examples(line: Line, results: Path) -> list[Example]:
    """Worst, median and best image of a method among those with pictures, by mean IoU per image.

    Uses the first seed with a result. Without confusion matrices per image, the first three pictures.
    """
    for row in line.done:
        folder = results / "metrics" / line.benchmark / line.method / str(row["seed"]) / "pictures"
        names = (path.name.removesuffix(".prediction.png") for path in folder.glob("*.prediction.png"))
        ids = sorted(name for name in names if all((folder / f"{name}.{kind}.png").is_file() for kind in KINDS[:2]))
        if ids:
            return _ranked(row, ids, folder, results)
    return []


def _ranked(row: Row, ids: Sequence[str], folder: Path, results: Path) -> list[Example]:
    found = read_matrices(results, row)
    if found is None:
        return [Example(name, "", "", row["seed"], folder) for name in ids[:3]]
    scores = dict(zip(found[0], mean_iou(found[1], get_benchmark(row["benchmark"]).scored).tolist(), strict=True))
    order = sorted(
        (name for name in ids if math.isfinite(scores.get(name, math.nan))), key=lambda name: (scores[name], name)
    )
    places = {"worst": 0, "median": (len(order) - 1) // 2, "best": len(order) - 1}
    chosen = {place: rank for rank, place in reversed(places.items())} if order else {}
    return [
        Example(order[place], chosen[place], f"{100 * scores[order[place]]:.1f}", row["seed"], folder)
        for place in sorted(chosen)
    ]


def pixels_of(example: Example, kind: str, spec: Benchmark, side: int) -> Pixels:
    """(H, W, 3) pixels of a panel, at most `side` wide."""
    if kind == "error":
        truth, prediction = (pixels_of(example, other, spec, side) for other in ("truth", "prediction"))
        return errors(truth, prediction, spec)
    path = example.folder / f"{example.image}.{kind}.png"
    try:
        with Image.open(path, formats=("PNG",)) as image:
            small = image.convert("RGB")
    except OSError as error:
        raise damaged(path, f"is not a readable picture ({error})") from error
    small.thumbnail((side, side), Image.Resampling.BOX if kind == "image" else Image.Resampling.NEAREST)
    return np.asarray(small)


def errors(truth: Pixels, prediction: Pixels, spec: Benchmark) -> Pixels:
    """Pixels where two label pictures differ; ignored pixels are grey if no class is black, as they are black."""
    found = np.full(truth.shape, RIGHT, dtype=np.uint8)
    found[(truth != prediction).any(-1)] = WRONG
    if all(cls.colour != (0, 0, 0) for cls in spec.classes):
        found[(truth == 0).all(-1)] = NOT_COUNTED
    return found


def album(
    chosen: Mapping[str, Sequence[tuple[Line, Sequence[Example]]]], specs: Mapping[str, Benchmark], budget: int
) -> tuple[Album, dict[str, Any]]:
    """Pictures of all methods with at most `budget` bytes in total, and benchmark -> rows for the page."""
    for side in SIDES:
        made, rows = Album(side), dict[str, Any]()
        for benchmark, methods in chosen.items():
            rows[benchmark] = [
                {
                    "title": line.title,
                    "examples": [(one, _panels(made, benchmark, line, one, specs[benchmark])) for one in found],
                }
                for line, found in methods
                if found
            ]
        if made.size <= budget:
            return made, rows
    return Album(0), {}


def _panels(made: Album, benchmark: str, line: Line, one: Example, spec: Benchmark) -> list[tuple[str, str]]:
    """(kind, name of the picture) of the four panels."""
    own = (line.method, str(one.seed))
    return [
        (TITLES[kind], made.add((benchmark, one.image, kind, *(own if kind in KINDS[2:] else ())),
                                pixels_of(one, kind, spec, made.side), kind == "image"))
        for kind in KINDS
    ]  # fmt: skip


def draw_examples(
    lines: Sequence[tuple[Line, Sequence[Example]]], spec: Benchmark, path: Path
) -> tuple[Drawn, str] | None:
    """A figure of one image with its ground truth and every method's labels, and its caption; None without pictures."""
    shown = [(line, one) for line, found in lines for one in found[:1]]
    images = [one.image for _, found in lines for one in found]
    if not shown:
        return None
    image = max(dict.fromkeys(images), key=images.count)
    kept = [(line, next((one for one in found if one.image == image), None)) for line, found in lines]
    have = next(one for _, one in kept if one is not None)
    cells: list[tuple[str, Example | None, str]] = [("image", have, "image"), ("ground truth", have, "truth")]
    cells += [(line.title, one, "prediction") for line, one in kept]
    across = min(len(cells), 7)
    down = math.ceil(len(cells) / across)
    with style():
        figure, grid = panels(1.25 * across, 1.45 * down + 0.35, across, down)
        for axes in grid:
            axes.set_axis_off()
        for axes, (title, one, kind) in zip(grid, cells, strict=False):
            axes.set_title(title, loc="center", fontweight="normal", fontsize=FONT - 1, pad=2)
            if one is None:
                axes.text(0.5, 0.5, "no picture", ha="center", va="center", color=MUTED, transform=axes.transAxes)
            else:
                axes.imshow(
                    pixels_of(one, kind, spec, 384), interpolation="antialiased" if kind == "image" else "nearest"
                )
        patches = [
            Patch(facecolor="#{:02x}{:02x}{:02x}".format(*colour), edgecolor=MUTED, linewidth=0.4, label=label)
            for label, colour in [(cls.name, cls.colour) for cls in spec.classes]
        ]
        figure.legend(handles=patches, loc="outside lower center", ncols=across, handlelength=1, handleheight=1)
        drawn = save(figure, path, f"{spec.title}: labels of one image by method", kinds=("png",))
    return drawn, f"Image {image}, seed {have.seed}."
