"""Synthetic aerial photographs: a canvas of colour, height and material, the towns and the open country on it.

Roofs, tree crowns and cars get lit sides and shadows from the height maps, so every scene has a single sun. Streets,
lots and parcels use frame coordinates (u, v), rotated about the centre of the canvas; lengths are in pixels.

Some surfaces are the same in two classes. The flat roof of a hall and a paved yard have the same grey one, a green roof
and a lawn the same green one; only one side distinguishes them: a shadow and vents, or a row of parked cars or trees.
Smooth green parcels occur among crops and on rangeland, smooth brown ones among crops and on bare ground: only the
region around such a parcel determines its class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain, count, pairwise, product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from scpseg import IGNORE_INDEX
from scpseg.benchmarks.base import Bytes, Mask

Floats = NDArray[np.float32]
Whole = NDArray[np.int64]
Pair = Sequence[float]
Area = tuple[tuple[slice, ...], Floats, Floats, Mask]
"""A rotated rectangle, clipped by the border: bounding box; u, v of its pixels from the centre; those inside."""
LEAVES = ((0.20, 0.34, 0.14), (0.24, 0.39, 0.16), (0.17, 0.30, 0.15), (0.28, 0.40, 0.18))
CAR_COLOURS = ((0.85, 0.86, 0.88), (0.15, 0.16, 0.18), (0.62, 0.12, 0.10), (0.18, 0.26, 0.50), (0.55, 0.57, 0.60))
ROOF_COLOURS = ((0.62, 0.33, 0.24), (0.56, 0.38, 0.30), (0.45, 0.30, 0.26), (0.40, 0.41, 0.44), (0.68, 0.45, 0.34))
CLUTTER = (((0.50, 0.36, 0.24), 0.18, 0.0), ((0.72, 0.38, 0.16), 0.03, 3.0), ((0.25, 0.58, 0.68), 0.03, 0.0))
"""Colour, grain and height of rubble, a container, a pool."""
SLABS = ((0.56, 0.56, 0.55), (0.66, 0.64, 0.60), (0.47, 0.46, 0.47), (0.55, 0.50, 0.46))
CROPS = ((0.30, 0.44, 0.17), (0.62, 0.58, 0.30), (0.42, 0.50, 0.22), (0.50, 0.38, 0.26), (0.24, 0.38, 0.16))
LAWN, MEADOW, EARTH, VENT = (0.36, 0.49, 0.25), (0.41, 0.50, 0.27), (0.58, 0.47, 0.35), (0.78, 0.79, 0.80)
ACROSS = np.pi / 2


class Material(IntEnum):
    """Surface material of a pixel; INVALID is outside the survey."""

    INVALID, WATER, TREE, SHRUBLAND, FIELD, LAWN, SOIL, ROAD, PAVED, ROOF, CAR, CLUTTER = range(12)


class Zone(IntEnum):
    """Land cover of a region."""

    UNKNOWN, URBAN, FARM, RANGE, FOREST, WATER, BARREN = range(7)


class Canvas:
    """A square scene of `side` pixels that is being drawn; all maps are (H, W) or (H, W, 3)."""

    def __init__(self, side: int, key: tuple[int, ...], tilt: float) -> None:
        """Start empty; `key` is the seed of all drawing, and the frame is rotated by at most `tilt` radians."""
        self.side, self.rng = side, np.random.default_rng(key)
        self.albedo: Floats = np.zeros((side, side, 3), np.float32)  # colour before lighting, about 0..1
        # The height above ground casts shadows; the slope of the relief is lit, and flat roofs have none.
        self.height, self.relief = np.zeros((2, side, side), np.float32)
        self.material: Bytes = np.zeros((side, side), np.uint8)
        self.twin: Mask = np.zeros((side, side), bool)  # as in `Scene`
        self.y, self.x = np.mgrid[:side, :side].astype(np.float32)
        self.reach = side * 0.75  # u and v are within it
        self._fields: dict[float, Floats] = {}
        self.angle = self.rng.uniform(-tilt, tilt)
        _, self.u, self.v, _ = self.box((side / 2, side / 2), (2 * side, 2 * side), self.angle)  # all of the canvas

    def noise(self, scale: float) -> Floats:
        """Smooth (H, W) noise with mean 0, standard deviation 1 and grain size `scale` in pixels; new at each call."""
        if scale not in self._fields:
            cells = self.side if scale < 3 else int(self.side / scale) + 4
            raw = self.rng.standard_normal((cells, cells), np.float32)
            order = 3 if scale < 30 else 2
            field = ndimage.gaussian_filter(raw, scale / 2) if scale < 3 else ndimage.zoom(raw, scale, order=order)
            field = field[: self.side, : self.side]
            self._fields[scale] = (field - field.mean()) / (field.std() + 1e-6)
        turned = np.rot90(self._fields[scale], int(self.rng.integers(4)))
        return turned[::-1] if self.rng.integers(2) else turned

    def point(self, u: float, v: float) -> Pair:
        """The pixel (y, x), with fractions, at frame coordinates (u, v)."""
        cos, sin = float(np.cos(self.angle)), float(np.sin(self.angle))
        return v * cos + u * sin + self.side / 2, u * cos - v * sin + self.side / 2

    def box(self, centre: Pair, size: Pair, angle: float) -> Area:
        """The rectangle of `size` around the pixel `centre`, rotated by `angle`; without pixels if it is outside."""
        (length, width), cos, sin = size, np.float32(np.cos(angle)), np.float32(np.sin(angle))
        reach = (length * abs(sin) + width * abs(cos)) / 2, (length * abs(cos) + width * abs(sin)) / 2
        ends = ((int(c - r), int(c + r) + 2) for c, r in zip(centre, reach, strict=True))
        at = tuple(slice(*np.clip(one, 0, self.side)) for one in ends)
        y, x = self.y[at] - np.float32(centre[0]), self.x[at] - np.float32(centre[1])
        u, v = x * cos + y * sin, y * cos - x * sin
        return at, u, v, (np.abs(u) <= length / 2) & (np.abs(v) <= width / 2)

    def fill(self, where: Mask, material: Material, colour: ArrayLike, grain: float, patches: float) -> None:
        """Cover the (H, W) mask, with fine noise of strength `grain` and coarse noise of strength `patches`."""
        texture = 1 + grain * self.noise(1.5) + patches * (self.noise(12) + self.noise(40)) * 0.7
        self.albedo[where] = (np.asarray(colour, np.float32) * texture[..., None])[where]
        self.material[where] = material

    def paint(self, spot: Pair, size: Pair, material: Material, colour: ArrayLike, grain: float = 0.03,
              rough: float = 0.03, height: float = 0, turn: float = 0, twin: bool = False) -> Area:  # fmt: skip
        """Cover the rectangle of `size` (along, across) around `spot` with a flat surface `height` pixels high."""
        at, _, _, where = area = self.box(self.point(*spot), size, self.angle + turn)
        if where.size:
            texture = 1 + grain * self.noise(1.5)[at] + rough * self.noise(12)[at]
            self.albedo[at][where] = (np.asarray(colour, np.float32) * texture[..., None])[where]
            self.material[at][where], self.height[at][where] = material, height
            self.relief[at][where], self.twin[at][where] = 0, twin
        return area

    def gable(self, spot: Pair, size: Pair, turn: float, colour: ArrayLike) -> None:
        """Draw a gable roof: ridge along the length, rows of tiles, a bright ridge line."""
        at, u, v, where = self.paint(spot, size, Material.ROOF, colour, 0.05, 0.05, size[1] * 0.28, turn)
        tiles = 1 + 0.05 * np.sign(np.sin(v * 1.9)) + 0.03 * np.sign(np.sin(u * 1.3))
        ridge = np.where(np.abs(v) < 0.8, 1.12, 1.0)
        self.albedo[at][where] *= (tiles * ridge)[..., None][where].astype(np.float32)
        rise = np.maximum(size[1] / 2 - np.abs(v), 0) * 0.5
        self.height[at][where] += rise[where]
        self.relief[at][where] = rise[where]

    def tree(self, pixel: Pair, radius: float, sizes: Pair, tint: float = 1.0, kind: Material = Material.TREE) -> None:
        """Draw an irregular crown with radius `radius` pixels times one of `sizes` (from, to), as high as wide."""
        radius *= self.rng.uniform(sizes[0], sizes[1])
        colour = np.array(LEAVES[self.rng.integers(len(LEAVES))]) * tint
        at, u, v, around = self.box(pixel, (2.6 * radius, 2.6 * radius), 0)
        if around.size:
            lumps = self.noise(3 if radius < 8 else 6)[at]
            distance = np.hypot(u, v) / (radius * (1 + 0.16 * lumps))
            dome = np.sqrt(np.maximum(0, 1 - distance**2)).astype(np.float32)
            top = dome * radius * 1.5 + 0.6 * radius
            where = (distance < 1) & (top > self.height[at])
            leaves = 0.8 + 0.3 * dome + 0.1 * lumps + 0.07 * self.noise(1.5)[at]
            self.albedo[at][where] = (np.asarray(colour, np.float32) * leaves[..., None])[where]
            self.material[at][where], self.twin[at][where], self.height[at][where] = kind, False, top[where]
            self.relief[at][where] = (dome * radius * 0.75 + 0.09 * radius * lumps)[where]

    def grid(self, first: float, end: float, step: float, jitter: float) -> NDArray[np.float64]:
        """(N, 2) points of a square grid, row by row, each moved by up to `jitter` steps."""
        places = np.arange(first, end, step)
        grid = np.stack(np.meshgrid(places, places, indexing="ij"), -1).reshape(-1, 2)
        return grid + self.rng.uniform(-jitter, jitter, grid.shape) * step

    def scatter(self, step: float) -> Whole:
        """(N, 2) integer pixels on a jittered grid, in random order."""
        return self.rng.permutation(np.clip(self.grid(step / 2, self.side, step, 0.45), 0, self.side - 1).astype(int))

    def parcels(self, side: float) -> tuple[Whole, Floats, Floats]:
        """(H, W) numbers of parcels, and distances in pixels to the border of the parcel: the least, and along u."""
        row = np.floor(self.v / side).astype(np.int64)
        shifted = self.u + self.rng.uniform(0, side, 4096).astype(np.float32)[row % 4096]
        edge_u, edge_v = (np.minimum(a, side - a) for a in (np.mod(shifted, side), np.mod(self.v, side)))
        return row * 7919 + np.floor(shifted / side).astype(np.int64), np.minimum(edge_u, edge_v), edge_u

    def chance(self, parcel: Whole) -> Floats:
        """(H, W) one uniform random number 0..1 per parcel."""
        return self.rng.random(8191).astype(np.float32)[parcel % 8191]

    def covered(self, where: Mask, spot: Pair, *materials: Material) -> tuple[int, int] | None:
        """The integer pixel (y, x) at `spot`, or None if it is outside the mask `where` or of another material."""
        y, x = map(int, self.point(*spot))
        inside = 0 <= y < self.side and 0 <= x < self.side and where[y, x]
        return (y, x) if inside and self.material[y, x] in materials else None

    def labels(self, classes: dict[Material, int]) -> Bytes:
        """(H, W) training ids; 0 for materials not in `classes`, but cars get the id of what is below them."""
        ids = {Material.INVALID: IGNORE_INDEX, **classes}
        table = np.array([ids.get(material, 0) for material in Material], np.uint8)
        cars = (self.material == Material.CAR) & (Material.CAR not in classes)
        nearest = ndimage.distance_transform_edt(cars, return_distances=False, return_indices=True)
        return np.asarray(table[self.material[tuple(nearest)]])

    def photograph(self) -> Bytes:
        """(H, W, 3) uint8: the lit scene with shadows, haze and noise; black where the material is INVALID."""
        sun, elevation = self.rng.uniform(2.4, 3.9), self.rng.uniform(0.85, 1.05)
        to_sun = (-np.cos(sun), np.sin(sun))
        gy, gx = np.gradient(self.relief)
        slope = np.sqrt(1 + gx**2 + gy**2)
        light = np.clip((elevation - (gx * to_sun[1] + gy * to_sun[0])) / (slope * elevation), 0.45, 1.5)
        around = min(self.side - 1, int(np.ceil(float(self.height.max()) / elevation)))
        shade, heights = np.zeros_like(self.height), np.pad(self.height, around)
        for step in range(1, around + 1):
            at = tuple(slice(start, start + self.side) for start in (around + round(c * step) for c in to_sun))
            np.maximum(shade, np.clip(heights[at] - self.height - step * elevation, 0, 1), out=shade)
        shadow = ndimage.gaussian_filter(shade, 0.6)[..., None]
        picture = self.albedo * light[..., None] * (1 - shadow * (1 - np.array([0.36, 0.40, 0.50], np.float32)))
        tilt = self.rng.uniform(-0.06, 0.06, 2)
        picture *= (1 + tilt[0] * (self.y / self.side - 0.5) + tilt[1] * (self.x / self.side - 0.5))[..., None]
        picture = ndimage.gaussian_filter(picture, (0.55, 0.55, 0))
        # Haze, a white balance and exposure per image, then sensor noise.
        picture = (0.03 + 0.97 * picture) * (self.rng.uniform(0.96, 1.04, 3) * self.rng.uniform(0.94, 1.06))
        picture += self.rng.normal(0, 0.011, (self.side, self.side, 1)) + self.rng.normal(0, 0.006, picture.shape)
        picture[self.material == Material.INVALID] = 0
        return np.asarray(np.clip(picture * 255 + 0.5, 0, 255), np.uint8)


@dataclass(frozen=True)
class Town:
    """A town at the scale of a benchmark; lengths in pixels, spots (u, v) in the frame of the canvas."""

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

    def draw(self, canvas: Canvas, where: Mask | None = None) -> None:
        """Draw streets and lots on the (H, W) mask `where`, or everywhere."""
        where = np.ones_like(canvas.twin) if where is None else where
        canvas.fill(where, Material.LAWN, LAWN, 0.07, 0.07)
        bend = canvas.noise(90) * 2
        across, along = (self._lines(canvas, distance) for distance in self.block)
        half, margin = self.street / 2, self.street / 2 + 4
        for lines, position, run in ((across, canvas.u + bend, canvas.v), (along, canvas.v + bend, canvas.u)):
            for distance in (np.abs(position - line) for line in lines):
                pavement = where & (distance < half + 2.5) & (canvas.material != Material.ROAD)
                canvas.fill(pavement, Material.PAVED, (0.62, 0.61, 0.58), 0.04, 0.02)
                canvas.fill(where & (distance < half), Material.ROAD, (0.40, 0.41, 0.43), 0.04, 0.04)
                dashes = (self.street >= 9) & where & (distance < 0.8) & (np.mod(run, 16) < 9)
                canvas.albedo[dashes & (canvas.material == Material.ROAD)] = 0.85
        # Without end, shuffled in rounds, so that every image has some of each kind.
        deck = [kind for kind, many in self.lots.items() for _ in range(many)]
        kinds = chain.from_iterable(canvas.rng.permutation(deck).tolist() for _ in count())
        for block in product(pairwise(across), pairwise(along)):
            self._block(canvas, where, [(first + margin, end - margin) for first, end in block], kinds)
        for lines, turned in ((across, True), (along, False)):
            self._furnish(canvas, where, lines, turned)

    def _lines(self, canvas: Canvas, distance: float) -> list[float]:
        """Positions of the streets in one direction."""
        lines = [-canvas.reach - canvas.rng.uniform(0, distance)]
        while lines[-1] < canvas.reach:
            lines.append(lines[-1] + distance * canvas.rng.uniform(0.85, 1.15))
        return lines

    def _block(self, canvas: Canvas, where: Mask, spans: list[Pair], kinds: Iterator[str]) -> None:
        """Divide a block, which spans (from, to) in u and in v, into lots, and draw the visible ones."""
        many = [max(1, round((end - first) / self.lot)) for first, end in spans]
        size = [(end - first) / number for (first, end), number in zip(spans, many, strict=True)]
        for place in product(*map(range, many)):
            centre = [spans[k][0] + (place[k] + 0.5) * size[k] for k in (0, 1)]
            at, _, _, lot = canvas.box(canvas.point(*centre), (size[0] - 4, size[1] - 4), canvas.angle)
            if not (inside := where[at][lot]).any():
                continue
            kind = next(kinds) if inside.all() else "house"  # lots on the border of the town get single houses
            if kind == "house":
                self._houses(canvas, where, centre, size)
            elif kind == "grove":
                self._trees(canvas, int(size[0] * size[1] / (self.tree**2 * 5)), centre, size)
            else:
                self._slab(canvas, kind, centre, size)

    def _houses(self, canvas: Canvas, where: Mask, centre: Pair, size: Pair) -> None:
        """Draw rows of gabled houses with gardens, drives and chimneys, as far as their plots are inside `where`."""
        rng, number = canvas.rng, self.houses
        cell = (size[0] / number, size[1] / number)
        usual = rng.integers(len(ROOF_COLOURS))
        for place in product(range(number), repeat=2):
            x, y = (c + (k - (number - 1) / 2) * side for c, k, side in zip(centre, place, cell, strict=True))
            at, _, _, plot = canvas.box(canvas.point(x, y), (self.house[0] * 1.2, self.house[1] * 1.2), canvas.angle)
            if not plot.size or not where[at][plot].all() or rng.random() < 0.06:
                continue
            self._trees(canvas, self.garden, (x, y), cell)
            colour = np.array(ROOF_COLOURS[usual if rng.random() < 0.6 else rng.integers(len(ROOF_COLOURS))])
            length, width = np.array(self.house) * rng.uniform(0.85, 1.2)
            u, v = x + rng.uniform(-0.06, 0.06) * cell[0], y + rng.uniform(-0.06, 0.06) * cell[1]
            if rng.random() < self.clutter:
                heap, grain, height = CLUTTER[rng.integers(len(CLUTTER))]
                spot, extent = (x + cell[0] * 0.36, y + cell[1] * 0.3), (self.car[0] * 1.1, self.car[0] * 0.8)
                canvas.paint(spot, extent, Material.CLUTTER, heap, grain, 0.1, height)
            drive = (u - length * 0.35, v + width * 0.5)
            canvas.paint(drive, (self.car[1] * 1.8, width * 0.95), Material.PAVED, (0.60, 0.58, 0.54))
            if rng.random() < 0.6:
                self._car(canvas, (drive[0], drive[1] + width * 0.2), ACROSS)
            turn = ACROSS if rng.random() < 0.3 and abs(cell[0] - cell[1]) < 0.3 * cell[0] else 0
            canvas.gable((u, v), (length, width), turn, colour * rng.uniform(0.88, 1.12))
            chimney = (u + length * 0.2, v + width * 0.12)
            canvas.paint(chimney, (2.5, 2.5), Material.ROOF, (0.35, 0.3, 0.28), height=width * 0.65)

    def _slab(self, canvas: Canvas, kind: str, centre: Pair, size: Pair) -> None:
        """Draw a hall or yard (grey), a green roof or lawn (green): same size, same surface, same kerb."""
        rng = canvas.rng
        length, width = size[0] * rng.uniform(0.78, 0.92), size[1] * rng.uniform(0.78, 0.92)
        green, raised = kind in ("lawn", "green roof"), kind in ("hall", "green roof")
        material = Material.ROOF if raised else Material.LAWN if green else Material.PAVED
        height = self.lot * rng.uniform(0.14, 0.18) if raised else 0.0
        colour = np.array(LAWN if green else SLABS[rng.integers(len(SLABS))]) * rng.uniform(0.92, 1.08)
        canvas.paint(centre, (length + 3, width + 3), material, (0.66, 0.65, 0.62), height=height)
        canvas.paint(centre, (length, width), material, colour, 0.05, 0.03, height, twin=True)
        side = 0 if kind == "green roof" else rng.choice((-1, 1))
        if kind == "hall":
            for share in rng.uniform(-0.42, 0.42, 4):
                vent, top = (centre[0] + share * length, centre[1] + side * width * 0.4), height + self.lot * 0.05
                canvas.paint(vent, (self.lot * 0.09, self.lot * 0.06), Material.ROOF, VENT, height=top)
        elif kind == "lawn":
            for share in np.arange(-0.42, 0.43, 2.2 * self.tree / length):
                spot = (centre[0] + share * length, centre[1] + side * width * 0.47)
                canvas.tree(canvas.point(*spot), self.tree, (0.8, 1.1))
        elif kind == "yard":  # parking bays and cars
            pitch = self.car[1] * 1.55
            for place in np.arange(-length / 2 + pitch, length / 2 - pitch / 2, pitch):
                u, v = centre[0] + place, centre[1] + side * (width / 2 - self.car[0] * 0.6)
                canvas.paint((u - pitch / 2, v), (1.0, self.car[0] * 1.1), Material.PAVED, (0.86, 0.86, 0.84))
                if rng.random() < 0.75:
                    self._car(canvas, (u, v), ACROSS)

    def _car(self, canvas: Canvas, spot: Pair, turn: float) -> None:
        """Draw a car; large ones have a darker cabin with a roof."""
        colour, (length, width) = CAR_COLOURS[canvas.rng.integers(len(CAR_COLOURS))], self.car
        parts = (1, 1, colour, 0.45), (0.56, 0.8, (0.12, 0.14, 0.17), 0.6), (0.34, 0.74, colour, 0.62)
        for along, across, shade, height in parts if width >= 5 else parts[:1]:
            size = length * along, width * across
            canvas.paint(spot, size, Material.CAR, shade, 0.02, 0, width * height, turn)

    def _trees(self, canvas: Canvas, many: int, centre: Pair, size: Pair) -> None:
        """Draw trees anywhere in the rectangle `size` around `centre`."""
        for _ in range(many):
            spot = centre + canvas.rng.uniform(-0.46, 0.46, 2) * size
            canvas.tree(canvas.point(*spot), self.tree, (0.6, 1.2))

    def _furnish(self, canvas: Canvas, where: Mask, lines: list[float], turned: bool) -> None:
        """Draw cars in the lanes and along the kerb of streets, then trees along one side of some of them."""
        rng, reach, order = canvas.rng, canvas.reach, 1 if turned else -1
        for line, run in product(lines, np.arange(-reach, reach, self.car[0] * 2.2)):
            if rng.random() <= 0.45:
                offset = rng.choice((-1, 1)) * self.street * (0.22 if rng.random() < 0.4 else 0.38)
                if canvas.covered(where, place := (line + offset, run)[::order], Material.ROAD):
                    self._car(canvas, place, ACROSS if turned else 0)
        for line in lines:
            side = rng.choice((-1, 0, 1)) * (self.street / 2 + 3.5)
            for run in np.arange(-reach, reach, self.tree * 4.2) if side else ():
                pixel = canvas.covered(where, (line + side, run)[::order], Material.PAVED, Material.LAWN)
                if pixel and rng.random() < 0.8:
                    canvas.tree(pixel, self.tree, (0.7, 0.95))


@dataclass(frozen=True)
class Country:
    """A landscape at the scale of a benchmark; lengths in pixels."""

    region: float  # typical distance between the regions' centres
    parcel: float  # side of a parcel
    furrow: float  # distance between furrows
    zones: tuple[Zone, ...]  # kinds of regions, assigned in turn
    town: Town  # what settlements look like
    road: float  # width of the country roads
    crown: float  # radius of a forest crown
    river: float  # width of the river
    twins: float  # share of parcels with a smooth surface that two classes share
    clouds: float = 0.0  # chance of an image with a cloud

    def draw(self, canvas: Canvas) -> Bytes:
        """Draw a landscape and return its (H, W) uint8 map of zones."""
        zone = self._regions(canvas)
        bends = np.sin(canvas.u * 5 / canvas.side + canvas.rng.uniform(0, 6.28))
        course = 0.09 * canvas.side * bends + canvas.noise(90) * 6
        middle = canvas.rng.uniform(-0.35, 0.35) * canvas.side
        zone[np.abs(canvas.v - middle - course) < self.river / 2 * (1 + 0.25 * canvas.noise(60))] = Zone.WATER
        parcel, edge, edge_u = canvas.parcels(self.parcel)
        self._ground(canvas, zone, parcel, edge)
        for kind, colour, material in ((Zone.RANGE, MEADOW, Material.SHRUBLAND), (Zone.BARREN, EARTH, Material.SOIL)):
            smooth = (zone == kind) & (canvas.chance(parcel) < self.twins * 0.9) & (edge > 1)
            canvas.fill(smooth, material, colour, 0.05, 0.03)
            canvas.relief *= 1 - ndimage.gaussian_filter(smooth.astype(np.float32), 2)
            canvas.twin |= smooth
        self._roads(canvas)
        self.town.draw(canvas, ndimage.binary_erosion(zone == Zone.URBAN, iterations=3))
        self._plants(canvas, zone, edge_u)
        if canvas.rng.random() < self.clouds:
            zone[self._cloud(canvas)] = Zone.UNKNOWN
        return zone

    def _regions(self, canvas: Canvas) -> Bytes:
        """(H, W) zones: cells around jittered centres, with borders distorted by noise."""
        rng, noise, step = canvas.rng, canvas.noise, self.region
        centres = canvas.grid(-step / 2, canvas.side + step, step, 0.32)
        bend = [noise(60) * step * 0.10 + noise(24) * step * 0.045 + noise(12) * 1.2 for _ in range(2)]
        _, nearest = cKDTree(centres).query(np.stack((canvas.y + bend[0], canvas.x + bend[1]), -1))
        # Kinds are dealt to the centres nearest the middle first, so that every kind is in the image.
        place = np.argsort(np.argsort(np.abs(centres - canvas.side / 2).max(axis=1)))
        deck = np.concatenate([rng.permutation(self.zones) for _ in range(len(centres) // len(self.zones) + 1)])
        return np.asarray(deck[place[nearest]], np.uint8)

    def _ground(self, canvas: Canvas, zone: Bytes, parcel: Whole, edge: Floats) -> None:
        """Draw grass, stony soil, undergrowth, water with a pale shore, and the farmland."""
        barren, water, farm, noise = zone == Zone.BARREN, zone == Zone.WATER, zone == Zone.FARM, canvas.noise
        canvas.fill(zone == Zone.RANGE, Material.SHRUBLAND, (0.55, 0.52, 0.34), 0.10, 0.09)
        canvas.fill(zone == Zone.FOREST, Material.TREE, (0.16, 0.22, 0.11), 0.08, 0.05)
        canvas.fill(zone == Zone.URBAN, Material.LAWN, (0.42, 0.47, 0.29), 0.06, 0.06)
        canvas.fill(barren, Material.SOIL, (0.66, 0.57, 0.45), 0.10, 0.08)
        canvas.relief[barren] = (2.2 * noise(24) - 1.3 * np.abs(noise(12)) + 0.55 * noise(6) + 0.28 * noise(3))[barren]
        depth = np.clip(ndimage.distance_transform_edt(water) / 14, 0, 1)[..., None]
        shallow, deep = np.array((0.30, 0.38, 0.34)), np.array((0.11, 0.19, 0.25))
        canvas.fill(water, Material.WATER, shallow + (deep - shallow) * depth, 0.02, 0.025)
        shore = ndimage.binary_dilation(water, iterations=2) & ~water
        canvas.albedo[shore] = canvas.albedo[shore] * 0.4 + np.array((0.62, 0.56, 0.44), np.float32) * 0.6
        # Crops in furrows, some smooth parcels, and tracks between them.
        choice, turn, hue = canvas.chance(parcel), canvas.chance(parcel), canvas.chance(parcel)
        canvas.fill(farm, Material.FIELD, np.array(CROPS, np.float32)[(hue * len(CROPS)).astype(int)], 0.06, 0.05)
        across = np.where(turn < 0.5, canvas.u, canvas.v) * (6.283 / self.furrow)
        furrows = np.sin(across + noise(40) * 0.25)
        rows = farm & (choice >= self.twins)
        canvas.albedo[rows] *= (1 + 0.17 * furrows)[rows][:, None]
        for low, high, colour in ((0.0, 0.55, MEADOW), (0.55, 1.0, EARTH)):
            smooth = farm & (choice >= low * self.twins) & (choice < high * self.twins)
            canvas.fill(smooth, Material.FIELD, colour, 0.05, 0.03)
            canvas.twin |= smooth & (edge > 1.5)
        track = farm & (edge < 1.5)
        canvas.albedo[track], canvas.twin[track] = np.array((0.62, 0.55, 0.42), np.float32), False

    def _roads(self, canvas: Canvas) -> None:
        """Draw two crossing roads with verges, wide ones with a dashed centre line; they cross rivers on bridges."""
        for run, offset in ((canvas.u, canvas.v), (canvas.v, canvas.u)):
            curve = 0.05 * canvas.side * np.sin(run * 4 / canvas.side + canvas.rng.uniform(0, 6.28))
            distance = np.abs(offset - curve - canvas.rng.uniform(-0.3, 0.3) * canvas.side)
            dry = distance < self.road / 2
            verge = (distance < self.road / 2 + 1.5) & (canvas.material != Material.WATER)
            canvas.albedo[verge] = np.array((0.60, 0.56, 0.46), np.float32)
            canvas.fill(dry, Material.ROAD, (0.44, 0.44, 0.45), 0.04, 0.03)
            canvas.twin[verge | dry], canvas.relief[verge | dry] = False, 0
            canvas.albedo[(self.road >= 6) & dry & (distance < 0.7) & (np.mod(run, 14) < 8)] = 0.85

    def _plants(self, canvas: Canvas, zone: Bytes, edge_u: Floats) -> None:
        """Draw forest crowns, shrubs on rangeland, and hedges along some parcels."""
        for y, x in canvas.scatter(self.crown * 1.5):
            if zone[y, x] == Zone.FOREST and canvas.material[y, x] == Material.TREE:
                canvas.tree((y, x), self.crown, (0.8, 1.3), 0.82)
        for y, x in canvas.scatter(self.crown * 2.6):
            bush = zone[y, x] == Zone.RANGE and not canvas.twin[y, x] and canvas.material[y, x] == Material.SHRUBLAND
            hedge = edge_u[y, x] < 3 and canvas.material[y, x] == Material.FIELD
            if (bush and canvas.rng.random() < 0.55) or (hedge and canvas.rng.random() < 0.6):
                canvas.tree((y, x), self.crown, (0.45, 0.85), 1.05, Material.SHRUBLAND if bush else Material.TREE)

    def _cloud(self, canvas: Canvas) -> Mask:
        """Paint a cloud, and return the mask of ground that it hides."""
        centre = canvas.rng.uniform(0.15, 0.85, 2) * canvas.side
        distance = np.hypot(canvas.y - centre[0], canvas.x - centre[1]) / canvas.rng.uniform(22, 34)
        veil = np.clip((1.25 - distance + 0.22 * canvas.noise(24) + 0.2 * canvas.noise(12)) * 1.3, 0, 1)[..., None]
        canvas.albedo[...] = canvas.albedo * (1 - veil) + veil * (0.92 + 0.03 * canvas.noise(12)[..., None])
        hidden = veil[..., 0] > 0.55
        canvas.height[hidden], canvas.relief[hidden], canvas.twin[hidden] = 0, 0, False
        return np.asarray(hidden)
