"""Streets, blocks and lots: houses, halls, yards, lawns, flat green roofs, trees, cars and clutter.

A hall's flat roof and a paved yard are the same grey slab, a green roof and a lawn the same green one. What tells
them apart lies at one side: a shadow and vents, or a row of parked cars or of trees. All of this file is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from scpseg.synthetic.canvas import Canvas, Floats, Mask, Material

CAR_COLOURS = ((0.85, 0.86, 0.88), (0.15, 0.16, 0.18), (0.62, 0.12, 0.10), (0.18, 0.26, 0.50), (0.55, 0.57, 0.60))
ROOF_COLOURS = ((0.62, 0.33, 0.24), (0.56, 0.38, 0.30), (0.45, 0.30, 0.26), (0.40, 0.41, 0.44), (0.68, 0.45, 0.34))
LEAVES = ((0.20, 0.34, 0.14), (0.24, 0.39, 0.16), (0.17, 0.30, 0.15), (0.28, 0.40, 0.18))
ASPHALT = (0.40, 0.41, 0.43)
SLABS = ((0.56, 0.56, 0.55), (0.66, 0.64, 0.60), (0.47, 0.46, 0.47), (0.55, 0.50, 0.46))
LAWN = (0.36, 0.49, 0.25)


@dataclass(frozen=True)
class Town:
    """How a town looks at a benchmark's scale; lengths in pixels.

    Attributes:
        block: distance between streets, along and across.
        street: width of a street's carriageway.
        lot: side of a lot; houses stand several to a lot, halls and yards fill one.
        house: (length, width) of a typical house, `houses` by `houses` of them on a lot.
        tree: radius of a typical crown.
        garden: trees for each house.
        car: (length, width).
        lots: how many of house, hall, yard, lawn, green roof, grove are dealt out in turn.
        clutter: share of house lots with sheds, rubble and pools.
    """

    block: tuple[int, int]
    street: float
    lot: float
    house: tuple[float, float]
    houses: int
    tree: float
    garden: int
    car: tuple[float, float]
    lots: dict[str, int]
    clutter: float = 0.0


def draw_town(canvas: Canvas, town: Town, angle: float, where: Mask) -> None:
    """Draw streets and lots on the (H, W) mask `where`; `angle` (radians) is the streets' direction."""
    canvas.fill(where, Material.LAWN, LAWN, 0.07, 0.07)
    u, v = canvas.frame(angle)
    bend = canvas.noise(90) * 2
    reach = canvas.side * 0.75
    across = _streets(canvas, reach, town.block[0])
    along = _streets(canvas, reach, town.block[1])
    for lines, position, run in ((across, u + bend, v), (along, v + bend, u)):
        for line in lines:
            _street(canvas, town, position - line, run, where)
    margin = town.street / 2 + 4
    kinds = _deal(canvas, town)
    for left, right in pairwise(across):
        for top, bottom in pairwise(along):
            block = (left + margin, top + margin, right - margin, bottom - margin)
            _block(canvas, town, block, angle, where, kinds)
    for lines, turned in ((across, True), (along, False)):
        _traffic(canvas, town, lines, turned, angle, where, reach)
        _avenues(canvas, town, lines, turned, angle, where, reach)


def _streets(canvas: Canvas, reach: float, distance: float) -> list[float]:
    lines = [-reach - canvas.rng.uniform(0, distance)]
    while lines[-1] < reach:
        lines.append(lines[-1] + distance * canvas.rng.uniform(0.85, 1.15))
    return lines


def _street(canvas: Canvas, town: Town, offset: NDArray[np.floating], run: Floats, where: Mask) -> None:
    """Pavement, carriageway and a dashed middle line; `offset` and `run` are (H, W) pixels across and along it."""
    distance = np.abs(offset)
    canvas.fill(where & (distance < town.street / 2 + 2.5) & (canvas.material != Material.ROAD), Material.PAVED,
                (0.62, 0.61, 0.58), 0.04, 0.02)  # fmt: skip
    canvas.fill(where & (distance < town.street / 2), Material.ROAD, ASPHALT, 0.04, 0.04)
    if town.street >= 9:
        dashes = where & (distance < 0.8) & (np.mod(run, 16) < 9) & (canvas.material == Material.ROAD)
        canvas.albedo[dashes] = 0.85


def _deal(canvas: Canvas, town: Town) -> Iterator[str]:
    """Kinds of lots without end, shuffled deck by deck, so that every image has some of each."""
    deck = [kind for kind, count in town.lots.items() for _ in range(count)]
    while True:
        yield from (deck[k] for k in canvas.rng.permutation(len(deck)))


def _block(
    canvas: Canvas,
    town: Town,
    block: tuple[float, float, float, float],
    angle: float,
    where: Mask,
    kinds: Iterator[str],
) -> None:
    """Divide a block (left, top, right, bottom in the streets' frame) into lots and draw each that can be seen."""
    left, top, right, bottom = block
    columns, rows = max(1, round((right - left) / town.lot)), max(1, round((bottom - top) / town.lot))
    size = ((right - left) / columns, (bottom - top) / rows)
    for column in range(columns):
        for row in range(rows):
            centre = (left + (column + 0.5) * size[0], top + (row + 0.5) * size[1])
            area = canvas.box(canvas.point(*centre, angle), size[0] - 4, size[1] - 4, angle)
            if area is None or not where[area.at][area.inside].any():
                continue
            # What is cut by the border of the town is built up with single houses.
            kind = next(kinds) if where[area.at][area.inside].all() else "house"
            if kind == "house":
                _houses(canvas, town, centre, size, angle, where)
            elif kind == "grove":
                for _ in range(int(size[0] * size[1] / (town.tree**2 * 5))):
                    _tree_at(canvas, town, centre, size, angle)
            else:
                _slab(canvas, town, kind, centre, size, angle)


def _houses(canvas: Canvas, town: Town, centre: tuple[float, float], size: tuple[float, float], angle: float,
            where: Mask) -> None:  # fmt: skip
    """Rows of gabled houses with gardens, drives and chimneys, as far as their plots lie inside `where`."""
    rng, number = canvas.rng, town.houses
    cell = (size[0] / number, size[1] / number)
    usual = rng.integers(len(ROOF_COLOURS))
    for index in range(number * number):
        middle = (centre[0] + (index // number - (number - 1) / 2) * cell[0],
                  centre[1] + (index % number - (number - 1) / 2) * cell[1])  # fmt: skip
        plot = canvas.box(canvas.point(*middle, angle), town.house[0] * 1.2, town.house[1] * 1.2, angle)
        if plot is None or not where[plot.at][plot.inside].all() or rng.random() < 0.06:
            continue
        for _ in range(town.garden):
            _tree_at(canvas, town, middle, cell, angle)
        colour = np.array(ROOF_COLOURS[usual if rng.random() < 0.6 else rng.integers(len(ROOF_COLOURS))])
        length, width = np.array(town.house) * rng.uniform(0.85, 1.2)
        at = (middle[0] + rng.uniform(-0.06, 0.06) * cell[0], middle[1] + rng.uniform(-0.06, 0.06) * cell[1])
        if rng.random() < town.clutter:
            _clutter(canvas, town, (middle[0] + cell[0] * 0.36, middle[1] + cell[1] * 0.3), angle)
        drive = (at[0] - length * 0.35, at[1] + width * 0.5)
        path = canvas.box(canvas.point(*drive, angle), town.car[1] * 1.8, width * 0.95, angle)
        canvas.paint(path, Material.PAVED, (0.60, 0.58, 0.54))
        if rng.random() < 0.6:
            spot = (drive[0], drive[1] + width * 0.2)
            _car(canvas, town, spot, angle + np.pi / 2, angle)
        turned = angle + (np.pi / 2 if rng.random() < 0.3 and abs(cell[0] - cell[1]) < 0.3 * cell[0] else 0)
        shade = colour * rng.uniform(0.88, 1.12)
        canvas.gable(canvas.box(canvas.point(*at, angle), length, width, turned), shade, width * 0.28, 0.5, width)
        chimney = canvas.point(at[0] + length * 0.2, at[1] + width * 0.12, angle)
        canvas.paint(canvas.box(chimney, 2.5, 2.5, angle), Material.ROOF, (0.35, 0.3, 0.28), height=width * 0.65)


def _slab(canvas: Canvas, town: Town, kind: str, centre: tuple[float, float], size: tuple[float, float],
          angle: float) -> None:  # fmt: skip
    """Hall or yard (grey), green roof or lawn (green): same size, same surface, same kerb."""
    rng = canvas.rng
    length, width = size[0] * rng.uniform(0.78, 0.92), size[1] * rng.uniform(0.78, 0.92)
    at = canvas.point(*centre, angle)
    green, raised = kind in ("lawn", "green roof"), kind in ("hall", "green roof")
    material = Material.ROOF if raised else Material.LAWN if green else Material.PAVED
    height = town.lot * rng.uniform(0.14, 0.18) if raised else 0.0
    colour = np.array(LAWN if green else SLABS[rng.integers(len(SLABS))]) * rng.uniform(0.92, 1.08)
    kerb = canvas.box(at, length + 3, width + 3, angle)
    canvas.paint(kerb, material, (0.66, 0.65, 0.62), height=height)
    canvas.paint(canvas.box(at, length, width, angle), material, colour, 0.05, 0.03, height, twin=True)
    if kind == "hall":
        side = rng.choice((-1, 1))
        for share in rng.uniform(-0.42, 0.42, 4):
            vent = canvas.box(canvas.point(centre[0] + share * length, centre[1] + side * width * 0.4, angle),
                              town.lot * 0.09, town.lot * 0.06, angle)  # fmt: skip
            canvas.paint(vent, Material.ROOF, (0.78, 0.79, 0.80), height=height + town.lot * 0.05)
    if kind == "yard":
        _parking(canvas, town, centre, (length, width), angle)
    elif kind == "lawn":
        side = rng.choice((-1, 1))
        for share in np.arange(-0.42, 0.43, 2.2 * town.tree / length):
            place = canvas.point(centre[0] + share * length, centre[1] + side * width * 0.47, angle)
            canvas.tree(*place, town.tree * rng.uniform(0.8, 1.1), LEAVES[rng.integers(4)])


def _parking(canvas: Canvas, town: Town, centre: tuple[float, float], size: tuple[float, float], angle: float) -> None:
    """Bays and cars along one side of a yard."""
    rng, (length, width) = canvas.rng, size
    side, pitch = rng.choice((-1, 1)), town.car[1] * 1.55
    for place in np.arange(-length / 2 + pitch, length / 2 - pitch / 2, pitch):
        spot = (centre[0] + place, centre[1] + side * (width / 2 - town.car[0] * 0.6))
        line = canvas.box(canvas.point(spot[0] - pitch / 2, spot[1], angle), 1.0, town.car[0] * 1.1, angle)
        canvas.paint(line, Material.PAVED, (0.86, 0.86, 0.84))
        if rng.random() < 0.75:
            _car(canvas, town, spot, angle + np.pi / 2, angle)


def _car(canvas: Canvas, town: Town, spot: tuple[float, float], heading: float, angle: float) -> None:
    """A body, and a darker cabin with its windows; `spot` in the streets' frame."""
    colour = CAR_COLOURS[canvas.rng.integers(len(CAR_COLOURS))]
    at, (length, width) = canvas.point(*spot, angle), town.car
    canvas.paint(canvas.box(at, length, width, heading), Material.CAR, colour, 0.02, 0, width * 0.45)
    if width >= 5:
        canvas.paint(canvas.box(at, length * 0.56, width * 0.8, heading), Material.CAR, (0.12, 0.14, 0.17), 0.02, 0,
                     width * 0.6)  # fmt: skip
        canvas.paint(canvas.box(at, length * 0.34, width * 0.74, heading), Material.CAR, colour, 0.02, 0, width * 0.62)


def _clutter(canvas: Canvas, town: Town, spot: tuple[float, float], angle: float) -> None:
    """Rubble, a container or a pool."""
    kind, at, size = canvas.rng.integers(3), canvas.point(*spot, angle), town.car[0]
    colour = ((0.50, 0.36, 0.24), (0.72, 0.38, 0.16), (0.25, 0.58, 0.68))[kind]
    area = canvas.box(at, size * 1.1, size * 0.8, angle)
    canvas.paint(area, Material.CLUTTER, colour, 0.18 if kind == 0 else 0.03, 0.1, 3.0 if kind == 1 else 0.0)


def _tree_at(canvas: Canvas, town: Town, centre: tuple[float, float], size: tuple[float, float], angle: float) -> None:
    """A tree anywhere on the rectangle `size` about `centre`."""
    rng = canvas.rng
    offset = rng.uniform(-0.46, 0.46, 2) * size
    place = canvas.point(centre[0] + offset[0], centre[1] + offset[1], angle)
    canvas.tree(*place, town.tree * rng.uniform(0.6, 1.2), LEAVES[rng.integers(len(LEAVES))])


def _traffic(
    canvas: Canvas, town: Town, lines: list[float], turned: bool, angle: float, where: Mask, reach: float
) -> None:
    """Cars in their lanes and along the kerb."""
    rng, length = canvas.rng, town.car[0]
    for line in lines:
        for run in np.arange(-reach, reach, length * 2.2):
            if rng.random() > 0.45:
                continue
            offset = rng.choice((-1, 1)) * town.street * (0.22 if rng.random() < 0.4 else 0.38)
            spot = (line + offset, run) if turned else (run, line + offset)
            y, x = (int(value) for value in canvas.point(spot[0], spot[1], angle))
            if 0 <= y < canvas.side and 0 <= x < canvas.side and where[y, x] and canvas.material[y, x] == Material.ROAD:
                _car(canvas, town, spot, angle + (np.pi / 2 if turned else 0), angle)


def _avenues(
    canvas: Canvas, town: Town, lines: list[float], turned: bool, angle: float, where: Mask, reach: float
) -> None:
    """Trees along one side of some streets."""
    rng = canvas.rng
    for line in lines:
        side = rng.choice((-1, 0, 1)) * (town.street / 2 + 3.5)
        for run in np.arange(-reach, reach, town.tree * 4.2) if side else ():
            spot = (line + side, run) if turned else (run, line + side)
            y, x = (int(value) for value in canvas.point(spot[0], spot[1], angle))
            free = 0 <= y < canvas.side and 0 <= x < canvas.side and where[y, x]
            if free and canvas.material[y, x] in (Material.PAVED, Material.LAWN) and rng.random() < 0.8:
                canvas.tree(y, x, town.tree * rng.uniform(0.7, 0.95), LEAVES[rng.integers(len(LEAVES))])
