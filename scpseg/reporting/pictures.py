"""Pictures in the report: image, ground truth, prediction and error of each method's worst, median and best image."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import mode
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image

from scpseg.benchmarks import get_benchmark
from scpseg.benchmarks.base import Benchmark
from scpseg.files import damaged
from scpseg.reporting.figures import FONT, MUTED, Drawn, panels, save, styled
from scpseg.reporting.statistics import mean_iou
from scpseg.reporting.summary import Line, read_matrices

Pixels = NDArray[np.uint8]
KINDS = ("image", "truth", "prediction")
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


Chosen = Sequence[tuple[Line, Sequence[Example]]]
"""Methods of one benchmark with their examples."""


def pictured(folder: Path) -> list[str]:
    """Ids of the images with a full set of pictures in a folder, sorted."""
    names = (path.name.removesuffix(".prediction.png") for path in folder.glob("*.prediction.png"))
    return sorted(name for name in names if all((folder / f"{name}.{kind}.png").is_file() for kind in KINDS))


def examples(line: Line, results: Path) -> list[Example]:
    """Worst, median and best image of a method among those with pictures, by mean IoU per image.

    Uses the first seed with a result. Without confusion matrices per image, the first three pictures.
    """
    for row in line.done:
        folder = results / "metrics" / line.benchmark / line.method / str(row["seed"]) / "pictures"
        ids = pictured(folder)
        found = read_matrices(results, row) if ids else None
        if found is not None:
            scores = pd.Series(mean_iou(found[1], get_benchmark(line.benchmark).scored), found[0]).reindex(ids).dropna()
            scores, last = scores.rename(str).sort_values(kind="stable"), len(scores) - 1
            places = {last: "best", last // 2: "median", 0: "worst"} if len(scores) else {}
            return [Example(scores.index[place], places[place], f"{100 * scores.iloc[place]:.1f}", row["seed"], folder)
                    for place in sorted(places)]  # fmt: skip
        if ids:
            return [Example(name, "", "", row["seed"], folder) for name in ids[:3]]
    return []


def pixels_of(example: Example, kind: str, spec: Benchmark, side: int) -> Pixels:
    """(H, W, 3) pixels of a panel, at most `side` wide.

    Errors are red; ignored pixels are grey if no class is black, as they are black.
    """
    if kind == "error":
        truth, prediction = (pixels_of(example, other, spec, side) for other in ("truth", "prediction"))
        found = np.where((truth != prediction).any(-1, keepdims=True), WRONG, RIGHT)
        ignored = (truth == 0).all(-1, keepdims=True) & all(cls.colour != (0, 0, 0) for cls in spec.classes)
        return np.where(ignored, NOT_COUNTED, found).astype(np.uint8)
    path = example.folder / f"{example.image}.{kind}.png"
    try:
        with Image.open(path, formats=("PNG",)) as image:
            small = image.convert("RGB")
    except OSError as error:
        raise damaged(path, f"is not a readable picture ({error})") from error
    small.thumbnail((side, side), Image.Resampling.BOX if kind == "image" else Image.Resampling.NEAREST)
    return np.asarray(small)


def album(
    chosen: Mapping[str, Chosen], specs: Mapping[str, Benchmark], budget: int
) -> tuple[dict[str, str], dict[str, list[dict[str, Any]]]]:
    """Pictures of all methods with at most `budget` bytes in total: data URL -> name; benchmark -> rows of names."""

    def panels_of(one: Example, spec: Benchmark, side: int) -> Iterator[tuple[str, str]]:
        for kind, title in TITLES.items():
            pixels = pixels_of(one, kind, spec, side)
            address = _address(pixels.tobytes(), (pixels.shape[1], pixels.shape[0]), kind == "image")
            yield title, found.setdefault(address, f"p{len(found)}")

    for side in SIDES:
        found: dict[str, str] = {}
        rows = {name: [{"title": line.title, "examples": [(one, [*panels_of(one, specs[name], side)]) for one in some]}
                       for line, some in methods if some] for name, methods in chosen.items()}  # fmt: skip
        if sum(map(len, found)) <= budget:
            return found, rows
    return {}, {}


@lru_cache(256)  # all methods have the same images and ground truths
def _address(pixels: bytes, size: tuple[int, int], photo: bool) -> str:
    """A picture as a data URL: photos in lossy WebP, labels in lossless WebP."""
    stream = io.BytesIO()
    Image.frombytes("RGB", size, pixels).save(stream, "WEBP", lossless=not photo, quality=70, method=4)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


@styled
def draw_examples(chosen: Chosen, spec: Benchmark, path: Path) -> Drawn | None:
    """A figure of one image with its ground truth and every method's labels; None without pictures."""
    having = [(line.title, found[0], pictured(found[0].folder)) for line, found in chosen if found]
    if not having:
        return None
    image = mode(image for _, _, ids in having for image in ids)  # that most methods have
    have = next(one for _, one, ids in having if image in ids)
    cells = [(f"image {image}", have, "image"), ("ground truth", have, "truth")]
    cells += [(title, one, "prediction") if image in ids else (f"{title}: none", one, "") for title, one, ids in having]
    across, down = min(len(cells), 7), math.ceil(len(cells) / 7)
    figure, grid = panels(1.25 * across, 1.45 * down + 0.35, across, down)
    for axes in grid:
        axes.set_axis_off()
    for axes, (title, one, kind) in zip(grid, cells, strict=False):
        axes.set_title(title, loc="center", fontweight="normal", fontsize=FONT - 1, pad=2)
        if kind:
            pixels = pixels_of(replace(one, image=image), kind, spec, 384)
            axes.imshow(pixels, interpolation="antialiased" if kind == "image" else "nearest")
    patches = [Patch(facecolor="#{:02x}{:02x}{:02x}".format(*cls.colour), edgecolor=MUTED, lw=0.4, label=cls.name)
               for cls in spec.classes]  # fmt: skip
    figure.legend(handles=patches, loc="outside lower center", ncols=across, handlelength=1, handleheight=1)
    return save(figure, path, f"{spec.title}: labels of image {image} by method, seed {have.seed}", kinds=("png",))
