"""One picture per benchmark: image, truth and every method's labels side by side, with the classes' colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from PIL import Image

from scpseg.benchmarks.base import Benchmark
from scpseg.errors import UserError
from scpseg.reporting.figures import DPI, save, style
from scpseg.reporting.published import title_of

PANEL = 1.35
"""Side of a panel in inches."""
ROWS = 3
"""At most so many images."""


def draw_examples(pictures: dict[str, Path], spec: Benchmark, path: Path) -> tuple[str, ...]:
    """Write `path` from the evaluate stage's pictures; returns the ids shown, none when there are no pictures.

    `pictures`: method -> folder with <id>.image.png, <id>.truth.png, <id>.prediction.png. A method without a picture of
    an image keeps its panel, which says so.

    Raises:
        UserError: a picture cannot be read.
    """
    ids = sorted({name for folder in pictures.values() for name in _ids(folder)})[:ROWS]
    if not ids:
        return ()
    methods = list(pictures)
    across = 2 + len(methods)
    classes = [(cls.name, cls.colour) for cls in spec.classes] + [("ignored", colour) for colour in spec.ignored[:1]]
    # Inches of an entry, roughly: swatch and gaps, then its letters.
    rows = math.ceil(sum(0.35 + 0.058 * len(label) for label, _ in classes) / (across * PANEL))
    legend = 0.17 * rows + 0.06
    with style():
        height = 0.2 + len(ids) * PANEL + legend
        figure = Figure(figsize=(across * PANEL, height), dpi=DPI)
        FigureCanvasAgg(figure)
        for place, name in enumerate(ids):
            for column in range(across):
                gap = 0.03
                axes = figure.add_axes(
                    (
                        (column + gap / 2) / across,
                        (legend + (len(ids) - 1 - place + gap / 2) * PANEL) / height,
                        (1 - gap) / across,
                        (1 - gap) * PANEL / height,
                    )
                )
                axes.set_axis_off()
                if place == 0:
                    axes.set_title(_title(column, methods), pad=3)
                panel = _picture(pictures, name, column, methods)
                if panel is None:
                    axes.text(0.5, 0.5, "no picture", ha="center", va="center", color="#777777")
                else:
                    axes.imshow(panel, interpolation="antialiased" if column == 0 else "nearest", aspect="equal")
                    # White is the colour of a class too.
                    frame = Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor="#999999", lw=0.5)
                    axes.add_patch(frame).set_clip_on(False)
        handles = [
            Patch(facecolor="#{:02x}{:02x}{:02x}".format(*colour), edgecolor="#777777", linewidth=0.4, label=label)
            for label, colour in classes
        ]
        figure.legend(
            handles=handles,
            loc="lower center",
            ncols=math.ceil(len(classes) / rows),
            handlelength=1,
            handleheight=1,
            columnspacing=1.2,
            handletextpad=0.4,
            borderaxespad=0.1,
            labelspacing=0.25,
        )
        save(figure, path)
    return tuple(ids)


def _ids(folder: Path) -> list[str]:
    suffix = ".image.png"
    return [path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}")]


def _title(column: int, methods: Sequence[str]) -> str:
    return ("Image", "Truth", *map(title_of, methods))[column]


def _picture(pictures: dict[str, Path], name: str, column: int, methods: Sequence[str]) -> np.ndarray | None:
    """Pixels (H, W, 3) uint8 of one panel; None when no method has it."""
    kind = ("image", "truth")[column] if column < 2 else "prediction"
    folders = list(pictures.values()) if column < 2 else [pictures[methods[column - 2]]]
    path = next((found for folder in folders if (found := folder / f"{name}.{kind}.png").is_file()), None)
    if path is None:
        return None
    try:
        with Image.open(path) as image:
            # Real images have 25 million pixels; a panel shows a quarter of a million at most.
            small = image.convert("RGB")
            small.thumbnail((512, 512), Image.Resampling.BOX if kind == "image" else Image.Resampling.NEAREST)
            return np.asarray(small)
    except OSError as error:
        raise UserError(f"{path} is no readable picture ({error}); delete it and run `dvc repro` again") from None
