"""Open country: fields, rangeland, forest, lakes and rivers, bare ground and settlements, as regions of parcels.

Smooth green parcels occur among crops and on rangeland, smooth brown ones among crops and on bare ground: only the
region around such a parcel determines its class.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from scpseg.benchmarks.base import Bytes, Mask
from scpseg.synthetic.canvas import Canvas, Floats, Material
from scpseg.synthetic.town import Town, draw_town

Whole = NDArray[np.int64]
CROPS = ((0.30, 0.44, 0.17), (0.62, 0.58, 0.30), (0.42, 0.50, 0.22), (0.50, 0.38, 0.26), (0.24, 0.38, 0.16))
MEADOW, EARTH = (0.41, 0.50, 0.27), (0.58, 0.47, 0.35)


class Zone(IntEnum):
    """Land cover of a region."""

    UNKNOWN, URBAN, FARM, RANGE, FOREST, WATER, BARREN = range(7)


@dataclass(frozen=True)
class Country:
    """Parameters of a landscape at the scale of a benchmark; lengths in pixels."""

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


def draw_country(canvas: Canvas, country: Country) -> Bytes:
    """Draw a landscape and return its (H, W) uint8 map of zones."""
    zone = _regions(canvas, country)
    zone[_river(canvas, country)] = Zone.WATER
    parcel, edge, edge_u = _parcels(canvas, country.parcel)
    _ground(canvas, zone)
    _fields(canvas, country, zone == Zone.FARM, parcel, edge)
    for kind, colour, material in ((Zone.RANGE, MEADOW, Material.SHRUBLAND), (Zone.BARREN, EARTH, Material.SOIL)):
        smooth = (zone == kind) & (_draw(canvas, parcel) < country.twins * 0.9) & (edge > 1)
        canvas.fill(smooth, material, colour, 0.05, 0.03)
        canvas.relief *= 1 - ndimage.gaussian_filter(smooth.astype(np.float32), 2)
        canvas.twin |= smooth
    _roads(canvas, country.road)
    draw_town(canvas, country.town, ndimage.binary_erosion(zone == Zone.URBAN, iterations=3))
    _plants(canvas, country.crown, zone, edge_u)
    if canvas.rng.random() < country.clouds:
        zone[_cloud(canvas)] = Zone.UNKNOWN
    return zone


def _regions(canvas: Canvas, country: Country) -> Bytes:
    """(H, W) zones: cells around jittered centres, with borders distorted by noise."""
    rng, step = canvas.rng, country.region
    centres = _grid(-step / 2, canvas.side + step, step)
    centres = centres + rng.uniform(-0.32, 0.32, centres.shape) * step
    bend = [canvas.noise(60) * step * 0.10 + canvas.noise(24) * step * 0.045 + canvas.noise(12) * 1.2 for _ in range(2)]
    pixels = np.stack((canvas.y + bend[0], canvas.x + bend[1]), -1)
    _, nearest = cKDTree(centres).query(pixels.reshape(-1, 2))
    # Assign kinds to the centres nearest the middle first, so that every kind is in the image.
    order = np.argsort(np.abs(centres - canvas.side / 2).max(axis=1))
    deck = np.concatenate([rng.permutation(country.zones) for _ in range(len(centres) // len(country.zones) + 1)])
    kinds = np.empty(len(centres), np.uint8)
    kinds[order] = deck[: len(centres)]
    zones: Bytes = kinds[nearest].reshape(canvas.side, canvas.side)
    return zones


def _grid(first: float, end: float, step: float) -> NDArray[np.float64]:
    """(N, 2) points of a square grid, row by row."""
    places = np.arange(first, end, step)
    return np.stack(np.meshgrid(places, places, indexing="ij"), -1).reshape(-1, 2)


def _river(canvas: Canvas, country: Country) -> Mask:
    phase = canvas.rng.uniform(0, 6.28)
    course = 0.09 * canvas.side * np.sin(canvas.u * 5 / canvas.side + phase) + canvas.noise(90) * 6
    middle = canvas.rng.uniform(-0.35, 0.35) * canvas.side
    return np.asarray(np.abs(canvas.v - middle - course) < country.river / 2 * (1 + 0.25 * canvas.noise(60)))


def _parcels(canvas: Canvas, side: float) -> tuple[Whole, Floats, Floats]:
    """(H, W) parcel numbers, distance to the border of the parcel, and distance to its border along u; in pixels."""
    row = np.floor(canvas.v / side).astype(np.int64)
    shifted = canvas.u + canvas.rng.uniform(0, side, 4096).astype(np.float32)[row % 4096]
    column = np.floor(shifted / side).astype(np.int64)
    edge_u, edge_v = (np.minimum(a, side - a) for a in (np.mod(shifted, side), np.mod(canvas.v, side)))
    return row * 7919 + column, np.minimum(edge_u, edge_v), edge_u


def _draw(canvas: Canvas, parcel: Whole) -> Floats:
    """(H, W) one uniform random number 0..1 per parcel."""
    drawn: Floats = canvas.rng.random(8191).astype(np.float32)[parcel % 8191]
    return drawn


def _ground(canvas: Canvas, zone: Bytes) -> None:
    """Draw the background: grass, stony soil, undergrowth, and water with a pale shore."""
    barren, water = zone == Zone.BARREN, zone == Zone.WATER
    canvas.fill(zone == Zone.RANGE, Material.SHRUBLAND, (0.55, 0.52, 0.34), 0.10, 0.09)
    canvas.fill(zone == Zone.FOREST, Material.TREE, (0.16, 0.22, 0.11), 0.08, 0.05)
    canvas.fill(zone == Zone.URBAN, Material.LAWN, (0.42, 0.47, 0.29), 0.06, 0.06)
    canvas.fill(barren, Material.SOIL, (0.66, 0.57, 0.45), 0.10, 0.08)
    rough = 2.2 * canvas.noise(24) - 1.3 * np.abs(canvas.noise(12)) + 0.55 * canvas.noise(6) + 0.28 * canvas.noise(3)
    canvas.relief[barren] = rough[barren]
    depth = np.clip(ndimage.distance_transform_edt(water) / 14, 0, 1)[..., None]
    shallow, deep = np.array((0.30, 0.38, 0.34)), np.array((0.11, 0.19, 0.25))
    canvas.fill(water, Material.WATER, shallow + (deep - shallow) * depth, 0.02, 0.025)
    shore = ndimage.binary_dilation(water, iterations=2) & ~water
    canvas.albedo[shore] = canvas.albedo[shore] * 0.4 + np.array((0.62, 0.56, 0.44), np.float32) * 0.6


def _fields(canvas: Canvas, country: Country, farm: Mask, parcel: Whole, edge: Floats) -> None:
    """Draw crops in furrows, some smooth parcels, and tracks between them."""
    choice, turn, hue = _draw(canvas, parcel), _draw(canvas, parcel), _draw(canvas, parcel)
    crops = np.array(CROPS, np.float32)[(hue * len(CROPS)).astype(int)]
    canvas.fill(farm, Material.FIELD, crops, 0.06, 0.05)
    across = np.where(turn < 0.5, canvas.u, canvas.v) * (6.283 / country.furrow)
    furrows = np.sin(across + canvas.noise(40) * 0.25)
    rows = farm & (choice >= country.twins)
    canvas.albedo[rows] *= (1 + 0.17 * furrows)[rows][:, None]
    for low, high, colour in ((0.0, 0.55, MEADOW), (0.55, 1.0, EARTH)):
        smooth = farm & (choice >= low * country.twins) & (choice < high * country.twins)
        canvas.fill(smooth, Material.FIELD, colour, 0.05, 0.03)
        canvas.twin |= smooth & (edge > 1.5)
    track = farm & (edge < 1.5)
    canvas.albedo[track], canvas.twin[track] = np.array((0.62, 0.55, 0.42), np.float32), False


def _roads(canvas: Canvas, width: float) -> None:
    """Draw two crossing roads with verges, wide ones with a dashed centre line; they cross rivers on bridges."""
    for run, offset in ((canvas.u, canvas.v), (canvas.v, canvas.u)):
        curve = 0.05 * canvas.side * np.sin(run * 4 / canvas.side + canvas.rng.uniform(0, 6.28))
        distance = np.abs(offset - curve - canvas.rng.uniform(-0.3, 0.3) * canvas.side)
        dry = distance < width / 2
        verge = (distance < width / 2 + 1.5) & (canvas.material != Material.WATER)
        canvas.albedo[verge] = np.array((0.60, 0.56, 0.46), np.float32)
        canvas.fill(dry, Material.ROAD, (0.44, 0.44, 0.45), 0.04, 0.03)
        canvas.twin[verge | dry], canvas.relief[verge | dry] = False, 0
        if width >= 6:
            canvas.albedo[dry & (distance < 0.7) & (np.mod(run, 14) < 8)] = 0.85


def _plants(canvas: Canvas, crown: float, zone: Bytes, edge_u: Floats) -> None:
    """Draw forest crowns, shrubs on rangeland, and hedges along some parcels."""
    for y, x in _scatter(canvas, crown * 1.5):
        if zone[y, x] == Zone.FOREST and canvas.material[y, x] == Material.TREE:
            canvas.tree(y, x, crown, (0.8, 1.3), 0.82)
    for y, x in _scatter(canvas, crown * 2.6):
        bush = zone[y, x] == Zone.RANGE and not canvas.twin[y, x] and canvas.material[y, x] == Material.SHRUBLAND
        hedge = zone[y, x] == Zone.FARM and edge_u[y, x] < 3 and canvas.material[y, x] == Material.FIELD
        if (bush and canvas.rng.random() < 0.55) or (hedge and canvas.rng.random() < 0.6):
            canvas.tree(y, x, crown, (0.45, 0.85), 1.05, Material.SHRUBLAND if bush else Material.TREE)


def _scatter(canvas: Canvas, step: float) -> Whole:
    """(N, 2) integer pixels on a jittered grid, in random order."""
    grid = _grid(step / 2, canvas.side, step)
    jittered = grid + canvas.rng.uniform(-0.45, 0.45, grid.shape) * step
    return canvas.rng.permutation(np.clip(jittered, 0, canvas.side - 1).astype(int))


def _cloud(canvas: Canvas) -> Mask:
    """Paint a cloud, and return the mask of ground that it hides."""
    centre = canvas.rng.uniform(0.15, 0.85, 2) * canvas.side
    distance = np.hypot(canvas.y - centre[0], canvas.x - centre[1]) / canvas.rng.uniform(22, 34)
    veil = np.clip((1.25 - distance + 0.22 * canvas.noise(24) + 0.2 * canvas.noise(12)) * 1.3, 0, 1)[..., None]
    canvas.albedo[...] = canvas.albedo * (1 - veil) + veil * (0.92 + 0.03 * canvas.noise(12)[..., None])
    hidden = veil[..., 0] > 0.55
    canvas.height[hidden], canvas.relief[hidden], canvas.twin[hidden] = 0, 0, False
    return np.asarray(hidden)
