"""Scenes of the probe: discs that look alike, with the class of one cue at a known distance. This file is ours.

A scene contains one cue, a square with rings in two colours; all discs in the scene have the cue's class, so no other
cue can be nearer. Both kinds of cue have the same number of pixels of each colour, so the mean colour of an image, or
of a window that contains the whole cue, carries no information: the cue must be resolved. Scenes come in twins that
differ only in the order of the cue's colours (and so in the labels): a method that does not see the cue gives the same
answer in both and is correct in exactly one, so chance level is exactly 1/2, not an estimate.

The distance of a disc is the Chebyshev distance of its centre to the cue's. Distances are odd multiples of half a
cue's side, so that the rings that cues can cover tile the plane: a cue at distance d is completely inside a window
around the disc of half side d + 8, completely outside one of d - 8, and never cut by one whose half side is a multiple
of 16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scpseg.benchmarks.probe import CUES, DISCS

Bytes = NDArray[np.uint8]
CUE = 16
"""Side of a cue in pixels."""
DISC = 20
"""Diameter of a disc in pixels."""
GAP = 6
"""Minimum distance in pixels between objects, and between objects and the border."""
BORDER = DISC // 2 + GAP
"""Minimum distance from the centre of an object to the border."""
NEAREST = 24
"""Minimum distance at which a disc does not touch the cue."""
REACH = 0.55
"""Maximum distance relative to the side of a scene: more would leave few positions for the cue."""
EACH = 3
"""Discs per scene at each distance."""
TRIES = 60
"""Positions tried for a disc before the scene is started again."""
CUE_COLOURS = ((214, 120, 32), (40, 112, 214))
"""Colours: the centre of one kind is the ring of the other."""
CORE, BAND = 4, 12
"""Sides of the squares at which the centre and the ring around it end; 4² + 16² - 12² = 12² - 4² pixels."""
DISC_COLOUR = (206, 202, 190)
GROUND_COLOUR = (104, 112, 92)
NOISE = 7.0
GRAINS = (0.7, 12.0)
"""Pixels."""


@dataclass(frozen=True)
class Disc:
    """Centre (a corner of pixels: `row` pixels are above it) and distance to the cue's centre, in pixels."""

    row: int
    column: int
    distance: int


@dataclass(frozen=True)
class ProbeScene:
    """An image, its labels and the objects in it.

    Attributes:
        image: (H, W, 3) uint8.
        label: (H, W) uint8 training ids.
        kind: 0 or 1, the kind of the cue and of all discs.
        cue: row and column of the cue's centre, as for a disc.
        discs: from nearest to farthest.
    """

    image: Bytes
    label: Bytes
    kind: int
    cue: tuple[int, int]
    discs: tuple[Disc, ...]


def distances(side: int) -> tuple[int, ...]:
    """The distances between discs and cue in a scene of `side` pixels, at least 64: 24, 40, 56, ..."""
    return tuple(range(NEAREST, int(side * REACH) + 1, CUE))


def probe_scene(side: int, seed: int, number: int) -> ProbeScene:
    """Draw scene `number` of a mirror, with `side` at least 64 pixels; 2 k and 2 k + 1 are twins."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 5, number // 2]))
    kind = number % 2
    cue, discs = _places(side, rng)
    y, x = np.mgrid[:side, :side] + 0.5
    label = np.zeros((side, side), np.uint8)
    picture = np.full((side, side, 3), GROUND_COLOUR, np.float64)
    for disc in discs:
        inside = (y - disc.row) ** 2 + (x - disc.column) ** 2 < (DISC / 2) ** 2
        label[inside], picture[inside] = DISCS[kind], DISC_COLOUR
    _paint(picture, cue, CUE, CUE_COLOURS[kind])
    _paint(picture, cue, BAND, CUE_COLOURS[1 - kind])
    _paint(picture, cue, CORE, CUE_COLOURS[kind])
    _paint(label, cue, CUE, CUES[kind])
    picture += _noise(side, rng)[..., None]
    return ProbeScene(np.clip(picture, 0, 255).astype(np.uint8), label, kind, cue, discs)


def _paint(canvas: NDArray[Any], centre: tuple[int, int], side: int, value: int | tuple[int, int, int]) -> None:
    """Fill the square of `side` pixels around a centre."""
    rows, columns = (slice(middle - side // 2, middle + side // 2) for middle in centre)
    canvas[rows, columns] = value


def _places(side: int, rng: np.random.Generator) -> tuple[tuple[int, int], tuple[Disc, ...]]:
    """A cue and EACH discs at every distance, redrawn until no objects touch each other or the border."""
    while True:
        row, column = (int(value) for value in rng.integers(BORDER, side - BORDER + 1, 2))
        discs: list[Disc] = []
        for distance in (distance for distance in distances(side) for _ in range(EACH)):
            disc = _free_place(side, row, column, distance, discs, rng)
            if disc is None:
                break
            discs.append(disc)
        else:
            return (row, column), tuple(discs)


def _free_place(
    side: int, row: int, column: int, distance: int, others: list[Disc], rng: np.random.Generator
) -> Disc | None:
    """A disc anywhere on the square of half side `distance` around the cue, or None if no position was found."""
    for _ in range(TRIES):
        far, along = int(rng.choice((-distance, distance))), int(rng.integers(-distance, distance + 1))
        down, right = (far, along) if rng.integers(2) else (along, far)
        disc = Disc(row + down, column + right, distance)
        inside = all(BORDER <= value <= side - BORDER for value in (disc.row, disc.column))
        if inside and all(_chebyshev(disc, other) >= DISC + GAP for other in others):
            return disc
    return None


def _chebyshev(one: Disc, other: Disc) -> int:
    return max(abs(one.row - other.row), abs(one.column - other.column))


def _noise(side: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(H, W) grey noise with a fine and a coarse grain, over objects and background."""
    noise = np.zeros((side, side))
    for grain in GRAINS:
        field = ndimage.gaussian_filter(rng.standard_normal((side, side)), grain, mode="wrap")
        noise += NOISE * field / field.std()
    return noise
