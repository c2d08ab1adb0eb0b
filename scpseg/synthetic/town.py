"""Streets, blocks and lots: houses, halls, yards, lawns, flat green roofs, trees, cars and clutter.

The flat roof of a hall and a paved yard have the same grey surface, a green roof and a lawn the same green one. Only
one side distinguishes them: a shadow and vents, or a row of parked cars or trees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scpseg.benchmarks.base import Mask
from scpseg.synthetic.canvas import Canvas, Floats, Material, Pair

CAR_COLOURS = ((0.85, 0.86, 0.88), (0.15, 0.16, 0.18), (0.62, 0.12, 0.10), (0.18, 0.26, 0.50), (0.55, 0.57, 0.60))
ROOF_COLOURS = ((0.62, 0.33, 0.24), (0.56, 0.38, 0.30), (0.45, 0.30, 0.26), (0.40, 0.41, 0.44), (0.68, 0.45, 0.34))
CLUTTER_COLOURS = ((0.50, 0.36, 0.24), (0.72, 0.38, 0.16), (0.25, 0.58, 0.68))
"""Rubble, a container, a pool."""
SLABS = ((0.56, 0.56, 0.55), (0.66, 0.64, 0.60), (0.47, 0.46, 0.47), (0.55, 0.50, 0.46))
LAWN = (0.36, 0.49, 0.25)
ACROSS = np.pi / 2


@dataclass(frozen=True)
class Town:
    """Parameters of a town at the scale of a benchmark; lengths in pixels."""

    block: tuple[int, int]  # distance between streets, along and across
    street: float  # width of a carriageway
    lot: float  # side of a lot; several houses share one, a hall or yard fills one
    house: Pair  # (length, width) of a typical house
    houses: int  # a lot has houses x houses of them
    tree: float  # radius of a typical crown
    garden: int  # trees per house
    car: Pair  # (length, width)
    lots: dict[str, int]  # number of each kind (house, hall, yard, lawn, green roof, grove), assigned in turn
    clutter: float = 0.0  # share of houses with a shed, rubble or a pool


def draw_town(canvas: Canvas, town: Town, where: Mask | None = None) -> None:
    """Draw streets and lots on the (H, W) mask `where`, or everywhere."""
    _Builder(canvas, town, np.ones_like(canvas.twin) if where is None else where).build()


class _Builder:
    """A town on its canvas; spots are (u, v) in the frame of the canvas."""

    def __init__(self, canvas: Canvas, town: Town, where: Mask) -> None:
        self.canvas, self.town, self.where, self.rng = canvas, town, where, canvas.rng
        self.reach = canvas.side * 0.75

    def build(self) -> None:
        canvas, town = self.canvas, self.town
        canvas.fill(self.where, Material.LAWN, LAWN, 0.07, 0.07)
        bend = canvas.noise(90) * 2
        across, along = self.lines(town.block[0]), self.lines(town.block[1])
        for lines, position, run in ((across, canvas.u + bend, canvas.v), (along, canvas.v + bend, canvas.u)):
            for line in lines:
                self.street(np.abs(position - line), run)
        margin = town.street / 2 + 4
        kinds = self.deal()
        for left, right in pairwise(across):
            for top, bottom in pairwise(along):
                self.block((left + margin, top + margin), (right - margin, bottom - margin), kinds)
        for lines, turned in ((across, True), (along, False)):
            self.traffic(lines, turned)
            self.avenues(lines, turned)

    def lines(self, distance: float) -> list[float]:
        """Positions of the streets in one direction."""
        lines = [-self.reach - self.rng.uniform(0, distance)]
        while lines[-1] < self.reach:
            lines.append(lines[-1] + distance * self.rng.uniform(0.85, 1.15))
        return lines

    def street(self, distance: Floats, run: Floats) -> None:
        """Draw pavement, carriageway and a dashed centre line; (H, W) pixels from the centre line and along it."""
        canvas, half = self.canvas, self.town.street / 2
        pavement = self.where & (distance < half + 2.5) & (canvas.material != Material.ROAD)
        canvas.fill(pavement, Material.PAVED, (0.62, 0.61, 0.58), 0.04, 0.02)
        canvas.fill(self.where & (distance < half), Material.ROAD, (0.40, 0.41, 0.43), 0.04, 0.04)
        if self.town.street >= 9:
            dashes = self.where & (distance < 0.8) & (np.mod(run, 16) < 9) & (canvas.material == Material.ROAD)
            canvas.albedo[dashes] = 0.85

    def deal(self) -> Iterator[str]:
        """Yield kinds of lots without end, shuffled in rounds, so that every image has some of each."""
        deck = [kind for kind, count in self.town.lots.items() for _ in range(count)]
        while True:
            yield from (deck[k] for k in self.rng.permutation(len(deck)))

    def block(self, start: Pair, end: Pair, kinds: Iterator[str]) -> None:
        """Divide a block into lots, and draw the visible ones."""
        columns, rows = (max(1, round((b - a) / self.town.lot)) for a, b in zip(start, end, strict=True))
        size = ((end[0] - start[0]) / columns, (end[1] - start[1]) / rows)
        for column in range(columns):
            for row in range(rows):
                centre = (start[0] + (column + 0.5) * size[0], start[1] + (row + 0.5) * size[1])
                area = self.canvas.box(centre, size[0] - 4, size[1] - 4)
                if area is None or not self.where[area.at][area.inside].any():
                    continue
                # Lots on the border of the town get single houses.
                kind = next(kinds) if self.where[area.at][area.inside].all() else "house"
                if kind == "house":
                    self.houses(centre, size)
                elif kind == "grove":
                    for _ in range(int(size[0] * size[1] / (self.town.tree**2 * 5))):
                        self.tree_on(centre, size)
                else:
                    self.slab(kind, centre, size)

    def houses(self, centre: Pair, size: Pair) -> None:
        """Draw rows of gabled houses with gardens, drives and chimneys, as far as their plots are inside `where`."""
        canvas, town, rng, number = self.canvas, self.town, self.rng, self.town.houses
        cell = (size[0] / number, size[1] / number)
        usual = rng.integers(len(ROOF_COLOURS))
        for index in range(number * number):
            middle = (centre[0] + (index // number - (number - 1) / 2) * cell[0],
                      centre[1] + (index % number - (number - 1) / 2) * cell[1])  # fmt: skip
            plot = canvas.box(middle, town.house[0] * 1.2, town.house[1] * 1.2)
            if plot is None or not self.where[plot.at][plot.inside].all() or rng.random() < 0.06:
                continue
            for _ in range(town.garden):
                self.tree_on(middle, cell)
            colour = np.array(ROOF_COLOURS[usual if rng.random() < 0.6 else rng.integers(len(ROOF_COLOURS))])
            length, width = np.array(town.house) * rng.uniform(0.85, 1.2)
            u, v = middle[0] + rng.uniform(-0.06, 0.06) * cell[0], middle[1] + rng.uniform(-0.06, 0.06) * cell[1]
            if rng.random() < town.clutter:
                self.clutter((middle[0] + cell[0] * 0.36, middle[1] + cell[1] * 0.3))
            drive = (u - length * 0.35, v + width * 0.5)
            canvas.paint(canvas.box(drive, town.car[1] * 1.8, width * 0.95), Material.PAVED, (0.60, 0.58, 0.54))
            if rng.random() < 0.6:
                self.car((drive[0], drive[1] + width * 0.2), ACROSS)
            turn = ACROSS if rng.random() < 0.3 and abs(cell[0] - cell[1]) < 0.3 * cell[0] else 0
            canvas.gable((u, v), length, width, turn, colour * rng.uniform(0.88, 1.12))
            chimney = canvas.box((u + length * 0.2, v + width * 0.12), 2.5, 2.5)
            canvas.paint(chimney, Material.ROOF, (0.35, 0.3, 0.28), height=width * 0.65)

    def slab(self, kind: str, centre: Pair, size: Pair) -> None:
        """Draw a hall or yard (grey), a green roof or lawn (green): same size, same surface, same kerb."""
        canvas, town, rng = self.canvas, self.town, self.rng
        length, width = size[0] * rng.uniform(0.78, 0.92), size[1] * rng.uniform(0.78, 0.92)
        green, raised = kind in ("lawn", "green roof"), kind in ("hall", "green roof")
        material = Material.ROOF if raised else Material.LAWN if green else Material.PAVED
        height = town.lot * rng.uniform(0.14, 0.18) if raised else 0.0
        colour = np.array(LAWN if green else SLABS[rng.integers(len(SLABS))]) * rng.uniform(0.92, 1.08)
        canvas.paint(canvas.box(centre, length + 3, width + 3), material, (0.66, 0.65, 0.62), height=height)
        canvas.paint(canvas.box(centre, length, width), material, colour, 0.05, 0.03, height, twin=True)
        if kind == "green roof":
            return
        side = rng.choice((-1, 1))
        if kind == "hall":
            for share in rng.uniform(-0.42, 0.42, 4):
                spot = (centre[0] + share * length, centre[1] + side * width * 0.4)
                vent = canvas.box(spot, town.lot * 0.09, town.lot * 0.06)
                canvas.paint(vent, Material.ROOF, (0.78, 0.79, 0.80), height=height + town.lot * 0.05)
        elif kind == "lawn":
            for share in np.arange(-0.42, 0.43, 2.2 * town.tree / length):
                spot = (centre[0] + share * length, centre[1] + side * width * 0.47)
                canvas.tree(*canvas.point(*spot), town.tree, (0.8, 1.1))
        else:  # the parking bays and cars of a yard
            pitch = town.car[1] * 1.55
            for place in np.arange(-length / 2 + pitch, length / 2 - pitch / 2, pitch):
                u, v = centre[0] + place, centre[1] + side * (width / 2 - town.car[0] * 0.6)
                line = canvas.box((u - pitch / 2, v), 1.0, town.car[0] * 1.1)
                canvas.paint(line, Material.PAVED, (0.86, 0.86, 0.84))
                if rng.random() < 0.75:
                    self.car((u, v), ACROSS)

    def car(self, spot: Pair, turn: float) -> None:
        """Draw a car; large ones have a darker cabin with a roof."""
        colour, (length, width) = CAR_COLOURS[self.rng.integers(len(CAR_COLOURS))], self.town.car
        parts = [(length, width, colour, width * 0.45)]
        if width >= 5:
            parts += [(length * 0.56, width * 0.8, (0.12, 0.14, 0.17), width * 0.6)]
            parts += [(length * 0.34, width * 0.74, colour, width * 0.62)]
        for along, across, shade, height in parts:
            self.canvas.paint(self.canvas.box(spot, along, across, turn), Material.CAR, shade, 0.02, 0, height)

    def clutter(self, spot: Pair) -> None:
        """Draw rubble, a container or a pool."""
        kind, size = self.rng.integers(3), self.town.car[0]
        area = self.canvas.box(spot, size * 1.1, size * 0.8)
        grain, height = 0.18 if kind == 0 else 0.03, 3.0 if kind == 1 else 0.0
        self.canvas.paint(area, Material.CLUTTER, CLUTTER_COLOURS[kind], grain, 0.1, height)

    def tree_on(self, centre: Pair, size: Pair) -> None:
        """Draw a tree anywhere in the rectangle `size` around `centre`."""
        offset = self.rng.uniform(-0.46, 0.46, 2) * size
        place = self.canvas.point(centre[0] + offset[0], centre[1] + offset[1])
        self.canvas.tree(*place, self.town.tree, (0.6, 1.2))

    def traffic(self, lines: list[float], turned: bool) -> None:
        """Draw cars in the lanes and along the kerb."""
        rng, town = self.rng, self.town
        for line in lines:
            for run in np.arange(-self.reach, self.reach, town.car[0] * 2.2):
                if rng.random() > 0.45:
                    continue
                offset = rng.choice((-1, 1)) * town.street * (0.22 if rng.random() < 0.4 else 0.38)
                spot = (line + offset, run) if turned else (run, line + offset)
                if self.covered(spot, Material.ROAD):
                    self.car(spot, ACROSS if turned else 0)

    def avenues(self, lines: list[float], turned: bool) -> None:
        """Draw trees along one side of some streets."""
        rng, town = self.rng, self.town
        for line in lines:
            side = rng.choice((-1, 0, 1)) * (town.street / 2 + 3.5)
            for run in np.arange(-self.reach, self.reach, town.tree * 4.2) if side else ():
                spot = (line + side, run) if turned else (run, line + side)
                pixel = self.covered(spot, Material.PAVED, Material.LAWN)
                if pixel and rng.random() < 0.8:
                    self.canvas.tree(*pixel, town.tree, (0.7, 0.95))

    def covered(self, spot: Pair, *materials: Material) -> tuple[int, int] | None:
        """The integer pixel (y, x) at `spot`, or None if it is outside the town or of another material."""
        y, x = map(int, self.canvas.point(*spot))
        inside = 0 <= y < self.canvas.side and 0 <= x < self.canvas.side and self.where[y, x]
        return (y, x) if inside and self.canvas.material[y, x] in materials else None
