"""Putting names beside points so that nothing lies on anything else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
"""Where a name may stand seen from its point, dearest first; y points up."""
DISTANCES = (5.5, 10.0, 16.0, 24.0)
"""How far away, in points; from the second on a thin line leads back to the point."""
ROUNDS = 6
MARGIN = 2.0
"""Points between a name and the frame."""


@dataclass(frozen=True)
class Named:
    """A point in data coordinates with its name; `half` is the length of its error bar to either side, in y."""

    x: float
    y: float
    text: str
    colour: str
    half: float = 0.0


@dataclass(frozen=True)
class _Spot:
    """A place for a name: its box in pixels, offset and direction from the point, and how little we like it."""

    box: Bbox
    offset: tuple[float, float]
    direction: tuple[int, int]
    dislike: float
    far: bool


def place_names(axes: Axes, points: Sequence[Named], size: float, marker: float) -> bool:
    """Write each name beside its point, clear of all points, error bars, other names and the frame.

    `size` is the font size and `marker` a point's width, both in points. Returns False, and writes nothing, when the
    panel is too crowded; the caller then draws a legend. The axes' position and limits must be final.
    """
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    scale = figure.dpi / 72
    frame = axes.get_window_extent().padded(-MARGIN * scale)
    places = [_pixels(axes, point.x, point.y) for point in points]
    blocks = [_around(x, y, marker * scale / 2 + scale) for x, y in places]
    for point, (x, y) in zip(points, places, strict=True):
        if point.half:
            top = _pixels(axes, point.x, point.y + point.half)[1]
            blocks.append(Bbox.from_extents(x - 4 * scale, 2 * y - top, x + 4 * scale, top))
    options = [
        [spot for spot in _spots(axes, point, place, size, scale) if _inside(spot.box, frame)]
        for point, place in zip(points, places, strict=True)
    ]
    if not all(options):
        return False
    choice = [min(spots, key=lambda spot: _cost(spot, blocks, [])) for spots in options]
    for _ in range(ROUNDS):
        for index, spots in enumerate(options):
            others = [spot.box for place, spot in enumerate(choice) if place != index]
            choice[index] = min(spots, key=lambda spot: _cost(spot, blocks, others))
    for index, spot in enumerate(choice):
        others = [other.box for place, other in enumerate(choice) if place != index]
        if any(_overlap(spot.box, box) for box in [*blocks, *others]):
            return False
    for point, spot in zip(points, choice, strict=True):
        _write(axes, point, spot, size)
    return True


def _spots(axes: Axes, point: Named, place: tuple[float, float], size: float, scale: float) -> list[_Spot]:
    """All places for one name, the dearest first."""
    trial = _annotate(axes, point, (0, 0), (1, 1), size, line=False)
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    box = trial.get_window_extent()
    trial.remove()
    spots = []
    for far, distance in enumerate(DISTANCES):
        for rank, (right, up) in enumerate(DIRECTIONS):
            step = distance if not (right and up) else distance * math.sqrt(0.5)
            offset = (right * step, up * step)
            left = place[0] + offset[0] * scale - (0, box.width / 2, box.width)[1 - right]
            bottom = place[1] + offset[1] * scale - (0, box.height / 2, box.height)[1 - up]
            spot = Bbox.from_bounds(left, bottom, box.width, box.height)
            spots.append(_Spot(spot, offset, (right, up), rank + 10.0 * far, far > 0))
    return spots


def _cost(spot: _Spot, blocks: Sequence[Bbox], names: Sequence[Bbox]) -> float:
    """Overlapping area in pixels weighs far more than taste."""
    return spot.dislike + 1000 * sum(_overlap(spot.box, box) for box in [*blocks, *names])


def _overlap(one: Bbox, other: Bbox) -> float:
    """Common area in square pixels."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return width * height if width > 0 and height > 0 else 0.0


def _inside(box: Bbox, frame: Bbox) -> bool:
    return bool(box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1)


def _pixels(axes: Axes, x: float, y: float) -> tuple[float, float]:
    """Data coordinates in pixels of the figure."""
    place = axes.transData.transform((x, y))
    return float(place[0]), float(place[1])


def _around(x: float, y: float, half: float) -> Bbox:
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def _write(axes: Axes, point: Named, spot: _Spot, size: float) -> None:
    _annotate(axes, point, spot.offset, spot.direction, size, line=spot.far)


def _annotate(
    axes: Axes, point: Named, offset: tuple[float, float], direction: tuple[int, int], size: float, line: bool
) -> Annotation:
    right, up = direction
    return axes.annotate(
        point.text,
        (point.x, point.y),
        xytext=offset,
        textcoords="offset points",
        ha=("center", "left", "right")[right],
        va=("center_baseline", "bottom", "top")[up],
        fontsize=size,
        color=point.colour,
        arrowprops={"arrowstyle": "-", "color": point.colour, "lw": 0.5, "shrinkA": 0, "shrinkB": 3} if line else None,
        zorder=5,
    )
