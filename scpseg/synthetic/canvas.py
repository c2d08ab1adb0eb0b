"""A drawing surface for synthetic aerial photographs: colour, height and material, then one lighting for all.

Roofs, crowns and cars get their lit sides and cast shadows from the height maps, never by painting; that keeps every
scene consistent with one sun. All of this file is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Colour = tuple[float, float, float] | NDArray[np.floating]


class Material(IntEnum):
    """What covers the ground at a pixel."""

    INVALID = 0
    WATER = 1
    TREE = 2
    SHRUBLAND = 3
    FIELD = 4
    LAWN = 5
    SOIL = 6
    ROAD = 7
    PAVED = 8
    ROOF = 9
    CAR = 10
    CLUTTER = 11


@dataclass(frozen=True)
class Area:
    """A turned rectangle on the canvas, clipped by its border.

    Attributes:
        at: rows and columns of its bounding box.
        u: (h, w) pixels along its length from the centre.
        v: (h, w) pixels along its width from the centre.
        inside: (h, w) whether a pixel of the bounding box belongs to it.
    """

    at: tuple[slice, slice]
    u: Floats
    v: Floats
    inside: Mask


class Canvas:
    """A square scene of `side` pixels while it is drawn.

    Attributes:
        albedo: (H, W, 3) colour before lighting, about 0..1.
        height: (H, W) pixels above ground, casts shadows.
        relief: (H, W) surface whose slope is lit; flat roofs stay out of it, so that only their shadow tells them.
        material: (H, W) uint8, `Material`.
        twin: (H, W) True where the surface looks the same in two classes and only its surroundings tell which.
    """

    def __init__(self, side: int, rng: np.random.Generator) -> None:
        """An empty canvas with its noise fields; `rng` decides everything drawn on it."""
        self.side, self.rng = side, rng
        self.albedo: Floats = np.zeros((side, side, 3), np.float32)
        self.height: Floats = np.zeros((side, side), np.float32)
        self.relief: Floats = np.zeros((side, side), np.float32)
        self.material: NDArray[np.uint8] = np.zeros((side, side), np.uint8)
        self.twin: Mask = np.zeros((side, side), bool)
        self.y, self.x = np.mgrid[:side, :side].astype(np.float32)
        self._fields: dict[float, Floats] = {}

    def noise(self, scale: float) -> Floats:
        """(H, W) smooth noise of mean 0 and deviation 1 with grains of `scale` pixels, another piece at each call."""
        if scale not in self._fields:
            if scale < 3:
                field = ndimage.gaussian_filter(self.rng.standard_normal((self.side, self.side), np.float32), scale / 2)
            else:
                cells = int(self.side / scale) + 4
                coarse = self.rng.standard_normal((cells, cells), np.float32)
                field = ndimage.zoom(coarse, scale, order=3 if scale < 30 else 2)[: self.side, : self.side]
            self._fields[scale] = (field - field.mean()) / (field.std() + 1e-6)
        turns, flip = int(self.rng.integers(4)), bool(self.rng.integers(2))
        turned = np.rot90(self._fields[scale], turns)
        return turned[::-1] if flip else turned

    def frame(self, angle: float) -> tuple[Floats, Floats]:
        """Coordinates (u, v) in pixels of axes turned by `angle` (radians) about the canvas's centre."""
        y, x = self.y - self.side / 2, self.x - self.side / 2
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        return x * cos + y * sin, y * cos - x * sin

    def point(self, u: float, v: float, angle: float) -> tuple[float, float]:
        """The place (y, x) of frame coordinates (u, v)."""
        cos, sin = float(np.cos(angle)), float(np.sin(angle))
        return v * cos + u * sin + self.side / 2, u * cos - v * sin + self.side / 2

    def box(self, centre: tuple[float, float], length: float, width: float, angle: float) -> Area | None:
        """A rectangle `length` (along `angle`) by `width` pixels about (y, x); None where it misses the canvas."""
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        reach_y, reach_x = (length * abs(sin) + width * abs(cos)) / 2, (length * abs(cos) + width * abs(sin)) / 2
        rows = slice(max(0, int(centre[0] - reach_y)), max(0, min(self.side, int(centre[0] + reach_y) + 2)))
        columns = slice(max(0, int(centre[1] - reach_x)), max(0, min(self.side, int(centre[1] + reach_x) + 2)))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return None
        y, x = self.y[rows, columns] - np.float32(centre[0]), self.x[rows, columns] - np.float32(centre[1])
        u, v = x * cos + y * sin, y * cos - x * sin
        return Area((rows, columns), u, v, (np.abs(u) <= length / 2) & (np.abs(v) <= width / 2))

    def fill(self, where: Mask, material: Material, colour: Colour, grain: float, patches: float) -> None:
        """Cover the (H, W) mask: fine noise of strength `grain`, slow noise of strength `patches`."""
        texture = 1 + grain * self.noise(1.5) + patches * (self.noise(12) + self.noise(40)) * 0.7
        self.albedo[where] = (np.asarray(colour, np.float32) * texture[..., None])[where]
        self.material[where] = material

    def paint(self, area: Area | None, material: Material, colour: Colour, grain: float = 0.03, patches: float = 0.03,
              height: float = 0, inside: Mask | None = None, twin: bool = False) -> None:  # fmt: skip
        """Cover a rectangle, or its part `inside`, and set it `height` pixels above ground."""
        if area is None:
            return
        where = area.inside if inside is None else area.inside & inside
        texture = 1 + grain * self.noise(1.5)[area.at] + patches * self.noise(12)[area.at]
        self.albedo[area.at][where] = (np.asarray(colour, np.float32) * texture[..., None])[where]
        self.material[area.at][where] = material
        self.height[area.at][where] = height
        self.relief[area.at][where] = 0
        self.twin[area.at][where] = twin

    def gable(self, area: Area | None, colour: Colour, eaves: float, slope: float, width: float) -> None:
        """A roof of two lit sides: ridge along the length, rows of tiles, a bright ridge line."""
        if area is None:
            return
        tiles = 1 + 0.05 * np.sign(np.sin(area.v * 1.9)) + 0.03 * np.sign(np.sin(area.u * 1.3))
        self.paint(area, Material.ROOF, colour, 0.05, 0.05, eaves)
        rise = np.maximum(width / 2 - np.abs(area.v), 0) * slope
        where = area.inside
        ridge = np.where(np.abs(area.v) < 0.8, 1.12, 1.0)
        self.albedo[area.at][where] *= (tiles * ridge)[..., None][where].astype(np.float32)
        self.height[area.at][where] += rise[where]
        self.relief[area.at][where] = rise[where]

    def tree(self, y: float, x: float, radius: float, colour: Colour, material: Material = Material.TREE) -> None:
        """A lumpy crown of about `radius` pixels, as high as it is wide."""
        area = self.box((y, x), 2.6 * radius, 2.6 * radius, 0)
        if area is None:
            return
        lumps = self.noise(3 if radius < 8 else 6)[area.at]
        distance = np.hypot(area.u, area.v) / (radius * (1 + 0.16 * lumps))
        dome = np.sqrt(np.maximum(0, 1 - distance**2)).astype(np.float32)
        top = self.height[area.at]
        crown = dome * radius * 1.5
        where = (distance < 1) & (crown + 0.6 * radius > top)
        leaves = 0.8 + 0.3 * dome + 0.1 * lumps + 0.07 * self.noise(1.5)[area.at]
        self.albedo[area.at][where] = (np.asarray(colour, np.float32) * leaves[..., None])[where]
        self.material[area.at][where] = material
        self.height[area.at][where] = (crown + 0.6 * radius)[where]
        self.relief[area.at][where] = (dome * radius * 0.75 + 0.09 * radius * lumps)[where]
        self.twin[area.at][where] = False

    def photograph(self, sun: float, elevation: float) -> NDArray[np.uint8]:
        """The lit scene, (H, W, 3) uint8.

        Args:
            sun: direction from which light comes, radians clockwise from the image's top.
            elevation: tangent of the sun's height; a wall of h pixels throws h / elevation pixels of shadow.
        """
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
        # A little haze, a white balance and an exposure of its own, then the sensor's noise.
        balance = self.rng.uniform(0.96, 1.04, 3) * self.rng.uniform(0.94, 1.06)
        picture = (0.03 + 0.97 * picture) * balance
        picture += self.rng.normal(0, 0.011, (self.side, self.side, 1)) + self.rng.normal(0, 0.006, picture.shape)
        return np.asarray(np.clip(picture * 255 + 0.5, 0, 255), np.uint8)

    def _shadow(self, to_sun: tuple[float, float], elevation: float) -> Floats:
        """(H, W) 0..1: how far a pixel lies below what stands between it and the sun."""
        shade = np.zeros_like(self.height)
        reach = min(self.side - 1, int(np.ceil(float(self.height.max()) / elevation)))
        for step in range(1, reach + 1):
            dy, dx = round(to_sun[0] * step), round(to_sun[1] * step)
            here, there = _overlap(self.side, dy), _overlap(self.side, dx)
            above = self.height[here[1], there[1]] - self.height[here[0], there[0]] - step * elevation
            target = shade[here[0], there[0]]
            np.maximum(target, np.clip(above, 0, 1), out=target)
        return shade


def _overlap(side: int, shift: int) -> tuple[slice, slice]:
    """Where a line of `side` pixels and the same line moved by `shift` cover each other: (targets, sources)."""
    if shift >= 0:
        return slice(0, side - shift), slice(shift, side)
    return slice(-shift, side), slice(0, side + shift)
