"""Drawing surface for synthetic aerial photographs: colour, height and material, then lighting.

Roofs, tree crowns and cars get lit sides and shadows from the height maps, so every scene has a single sun. Streets
and parcels use frame coordinates (u, v), rotated about the centre of the canvas; lengths are in pixels.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scpseg import IGNORE_INDEX
from scpseg.benchmarks.base import Bytes, Mask

Floats = NDArray[np.float32]
Pair = tuple[float, float]
Colour = tuple[float, float, float] | NDArray[np.floating]
LEAVES = ((0.20, 0.34, 0.14), (0.24, 0.39, 0.16), (0.17, 0.30, 0.15), (0.28, 0.40, 0.18))


class Material(IntEnum):
    """Surface material of a pixel; INVALID is outside the survey."""

    INVALID, WATER, TREE, SHRUBLAND, FIELD, LAWN, SOIL, ROAD, PAVED, ROOF, CAR, CLUTTER = range(12)


class Area(NamedTuple):
    """A rotated rectangle, clipped by the border: bounding box, and per pixel of the box u, v from the centre."""

    at: tuple[slice, slice]
    u: Floats
    v: Floats
    inside: Mask


class Canvas:
    """A square scene of `side` pixels that is being drawn; all maps are (H, W) or (H, W, 3)."""

    def __init__(self, side: int, key: tuple[int, ...], tilt: float) -> None:
        """Start empty; `key` is the seed of all drawing, and the frame is rotated by at most `tilt` radians."""
        self.side, self.rng = side, np.random.default_rng(key)
        self.albedo: Floats = np.zeros((side, side, 3), np.float32)  # colour before lighting, about 0..1
        self.height: Floats = np.zeros((side, side), np.float32)  # above ground; casts shadows
        self.relief: Floats = np.zeros((side, side), np.float32)  # its slope is lit; flat roofs have none
        self.material: Bytes = np.zeros((side, side), np.uint8)
        self.twin: Mask = np.zeros((side, side), bool)  # as in `Scene`
        self.y, self.x = np.mgrid[:side, :side].astype(np.float32)
        self._fields: dict[float, Floats] = {}
        self.angle = self.rng.uniform(-tilt, tilt)
        y, x, cos, sin = self.y - side / 2, self.x - side / 2, *_direction(self.angle)
        self.u, self.v = x * cos + y * sin, y * cos - x * sin

    def noise(self, scale: float) -> Floats:
        """Smooth (H, W) noise with mean 0, standard deviation 1 and grain size `scale` in pixels; new at each call."""
        if scale not in self._fields:
            if scale < 3:
                field = ndimage.gaussian_filter(self.rng.standard_normal((self.side, self.side), np.float32), scale / 2)
            else:
                cells = int(self.side / scale) + 4
                coarse = self.rng.standard_normal((cells, cells), np.float32)
                field = ndimage.zoom(coarse, scale, order=3 if scale < 30 else 2)[: self.side, : self.side]
            self._fields[scale] = (field - field.mean()) / (field.std() + 1e-6)
        turned = np.rot90(self._fields[scale], int(self.rng.integers(4)))
        return turned[::-1] if self.rng.integers(2) else turned

    def point(self, u: float, v: float) -> Pair:
        """The pixel (y, x), with fractions, at frame coordinates (u, v)."""
        cos, sin = float(np.cos(self.angle)), float(np.sin(self.angle))
        return v * cos + u * sin + self.side / 2, u * cos - v * sin + self.side / 2

    def box(self, spot: Pair, length: float, width: float, turn: float = 0) -> Area | None:
        """The rectangle around `spot` (u, v), rotated by `turn` in the frame; None if it is outside the canvas."""
        return self._box(self.point(*spot), length, width, self.angle + turn)

    def _box(self, centre: Pair, length: float, width: float, angle: float) -> Area | None:
        cos, sin = _direction(angle)
        reach = (length * abs(sin) + width * abs(cos)) / 2, (length * abs(cos) + width * abs(sin)) / 2
        rows, columns = (
            slice(max(0, int(c - r)), max(0, min(self.side, int(c + r) + 2)))
            for c, r in zip(centre, reach, strict=True)
        )
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return None
        y, x = self.y[rows, columns] - np.float32(centre[0]), self.x[rows, columns] - np.float32(centre[1])
        u, v = x * cos + y * sin, y * cos - x * sin
        return Area((rows, columns), u, v, (np.abs(u) <= length / 2) & (np.abs(v) <= width / 2))

    def fill(self, where: Mask, material: Material, colour: Colour, grain: float, patches: float) -> None:
        """Cover the (H, W) mask, with fine noise of strength `grain` and coarse noise of strength `patches`."""
        texture = 1 + grain * self.noise(1.5) + patches * (self.noise(12) + self.noise(40)) * 0.7
        self.albedo[where] = (np.asarray(colour, np.float32) * texture[..., None])[where]
        self.material[where] = material

    def paint(self, area: Area | None, material: Material, colour: Colour, grain: float = 0.03, patches: float = 0.03,
              height: float = 0, twin: bool = False) -> None:  # fmt: skip
        """Cover a rectangle with a flat surface at `height` pixels above ground."""
        if area is None:
            return
        at, where = area.at, area.inside
        texture = 1 + grain * self.noise(1.5)[at] + patches * self.noise(12)[at]
        self.albedo[at][where] = (np.asarray(colour, np.float32) * texture[..., None])[where]
        self.material[at][where], self.height[at][where] = material, height
        self.relief[at][where], self.twin[at][where] = 0, twin

    def gable(self, spot: Pair, length: float, width: float, turn: float, colour: Colour) -> None:
        """Draw a gable roof: ridge along the length, rows of tiles, a bright ridge line."""
        area = self.box(spot, length, width, turn)
        if area is None:
            return
        self.paint(area, Material.ROOF, colour, 0.05, 0.05, width * 0.28)
        at, where = area.at, area.inside
        tiles = 1 + 0.05 * np.sign(np.sin(area.v * 1.9)) + 0.03 * np.sign(np.sin(area.u * 1.3))
        ridge = np.where(np.abs(area.v) < 0.8, 1.12, 1.0)
        self.albedo[at][where] *= (tiles * ridge)[..., None][where].astype(np.float32)
        rise = np.maximum(width / 2 - np.abs(area.v), 0) * 0.5
        self.height[at][where] += rise[where]
        self.relief[at][where] = rise[where]

    def tree(self, y: float, x: float, radius: float, sizes: Pair, tint: float = 1.0,
             material: Material = Material.TREE) -> None:  # fmt: skip
        """Draw an irregular crown with radius `radius` pixels times one of `sizes` (from, to), as high as wide."""
        radius *= self.rng.uniform(*sizes)
        colour = np.array(LEAVES[self.rng.integers(len(LEAVES))]) * tint
        area = self._box((y, x), 2.6 * radius, 2.6 * radius, 0)
        if area is None:
            return
        lumps = self.noise(3 if radius < 8 else 6)[area.at]
        distance = np.hypot(area.u, area.v) / (radius * (1 + 0.16 * lumps))
        dome = np.sqrt(np.maximum(0, 1 - distance**2)).astype(np.float32)
        top = dome * radius * 1.5 + 0.6 * radius
        where = (distance < 1) & (top > self.height[area.at])
        leaves = 0.8 + 0.3 * dome + 0.1 * lumps + 0.07 * self.noise(1.5)[area.at]
        self.albedo[area.at][where] = (np.asarray(colour, np.float32) * leaves[..., None])[where]
        self.material[area.at][where], self.twin[area.at][where] = material, False
        self.height[area.at][where] = top[where]
        self.relief[area.at][where] = (dome * radius * 0.75 + 0.09 * radius * lumps)[where]

    def labels(self, classes: dict[Material, int]) -> Bytes:
        """(H, W) training ids; 0 for materials not in `classes`, but cars get the id of what is below them."""
        table = np.zeros(len(Material), np.uint8)
        table[Material.INVALID] = IGNORE_INDEX
        table[list(classes)] = list(classes.values())
        cars = (self.material == Material.CAR) & (Material.CAR not in classes)
        nearest = ndimage.distance_transform_edt(cars, return_distances=False, return_indices=True)
        ids: Bytes = table[self.material[tuple(nearest)]]
        return ids

    def photograph(self) -> Bytes:
        """(H, W, 3) uint8: the lit scene with haze and noise; black where the material is INVALID."""
        sun, elevation = self.rng.uniform(2.4, 3.9), self.rng.uniform(0.85, 1.05)
        to_sun = (-np.cos(sun), np.sin(sun))
        gy, gx = np.gradient(self.relief)
        slope = np.sqrt(1 + gx**2 + gy**2)
        light = np.clip((elevation - (gx * to_sun[1] + gy * to_sun[0])) / (slope * elevation), 0.45, 1.5)
        shadow = ndimage.gaussian_filter(self._shadow(to_sun, elevation), 0.6)[..., None]
        dark = np.array([0.36, 0.40, 0.50], np.float32)
        picture = self.albedo * light[..., None] * (1 - shadow * (1 - dark))
        tilt = self.rng.uniform(-0.06, 0.06, 2)
        picture *= (1 + tilt[0] * (self.y / self.side - 0.5) + tilt[1] * (self.x / self.side - 0.5))[..., None]
        picture = ndimage.gaussian_filter(picture, (0.55, 0.55, 0))
        # Haze, a white balance and exposure per image, then sensor noise.
        balance = self.rng.uniform(0.96, 1.04, 3) * self.rng.uniform(0.94, 1.06)
        picture = (0.03 + 0.97 * picture) * balance
        picture += self.rng.normal(0, 0.011, (self.side, self.side, 1)) + self.rng.normal(0, 0.006, picture.shape)
        picture[self.material == Material.INVALID] = 0
        return np.asarray(np.clip(picture * 255 + 0.5, 0, 255), np.uint8)

    def _shadow(self, to_sun: Pair, elevation: float) -> Floats:
        """(H, W) 0..1: depth of the shadow at each pixel."""
        shade = np.zeros_like(self.height)
        reach = min(self.side - 1, int(np.ceil(float(self.height.max()) / elevation)))
        around = np.pad(self.height, reach)
        for step in range(1, reach + 1):
            rows, columns = (slice(start, start + self.side) for start in (reach + round(c * step) for c in to_sun))
            np.maximum(shade, np.clip(around[rows, columns] - self.height - step * elevation, 0, 1), out=shade)
        return shade


def _direction(angle: float) -> tuple[np.float32, np.float32]:
    return np.float32(np.cos(angle)), np.float32(np.sin(angle))
