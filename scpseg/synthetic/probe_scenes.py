"""Scenes of the probe: discs whose class needs a detail of their own and a cue at a known distance.

A scene contains one cue, a square with a strong centre and a weak ring of the opposite colour. Every disc of the scene
has the kind of this cue, and its own texture, striped or chequered. Its class is the pair of kind and texture. Cues
have sides of 16, 8 or 4 pixels, the bars and squares of textures sides of 1, 2 or 4: a reduction loses the small ones.

No mean colour carries information: the mean of a cue is the ground's, that of a texture the disc's. Scenes are drawn in
groups of four that are equal to the pixel but for the kind of the cue and the textures, which are swapped. A method
that does not see the cue predicts the same kinds in two scenes of a group, and is correct in exactly one of them; the
same is true for textures. Chance level is therefore exactly 1/2 for each, not an estimate.

The distance of a disc is the Chebyshev distance of its centre to the cue's. Distances are odd multiples of half a
cue's greatest side, so that the rings that cues can cover tile the plane: a cue at distance d is completely inside a
window around the disc of half side d + 8, completely outside one of d - 8, and never cut by one whose half side is a
multiple of 16.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scpseg.benchmarks.base import Bytes
from scpseg.benchmarks.probe import CUE_SIDES, CUES, DIAMETERS, DISCS

CUE, DISC = max(CUE_SIDES), max(DIAMETERS.values())  # room in pixels that objects of any size get
GAP = 6  # minimum distance in pixels between objects, and between objects and the border
BORDER = DISC // 2 + GAP  # minimum distance from the centre of an object to the border
NEAREST = 24  # minimum distance at which a disc does not touch the cue
REACH = 0.55  # maximum distance relative to the side of a scene: more would leave few positions for the cue
TRIES = 60  # positions tried for a disc before the scene is started again
TINT = (72, 0, -72)  # added to the ground's colour in the centre of an orange cue, taken away in that of a blue one
RING = -1 / 3  # share of the tint in the ring: three times as many pixels as the centre, half as wide as the cue
DISC_COLOUR, GROUND_COLOUR = (166, 166, 166), (112, 112, 112)
CONTRAST = 40.0  # of a texture to the disc's colour, on both sides
NOISE, GRAINS = 7.0, (0.7, 12.0)  # standard deviation of each, and their sizes in pixels


class Disc(NamedTuple):
    """A disc with its texture; its centre is a corner of pixels, with `row` pixels above it."""

    row: int
    column: int
    distance: int  # to the cue's centre in pixels
    detail: int  # side in pixels of its bars or squares, a key of DIAMETERS
    texture: int  # 0 striped, 1 chequered
    upright: bool  # whether stripes are vertical
    sign: int  # 1 or -1, the brightness of the part at the centre


class ProbeScene(NamedTuple):
    """An image, its labels and the objects in it."""

    image: Bytes  # (H, W, 3)
    label: Bytes  # (H, W) training ids
    kind: int  # 0 or 1, the kind of the cue and of all discs
    cue: tuple[int, int]  # row and column of the cue's centre, as for a disc
    side: int  # of the cue in pixels, one of CUE_SIDES
    discs: tuple[Disc, ...]  # from nearest to farthest, one of each detail at every distance


def distances(side: int) -> tuple[int, ...]:
    """The distances between discs and cue in a scene of `side` pixels, at least 64: 24, 40, 56, ..."""
    return tuple(range(NEAREST, int(side * REACH) + 1, CUE))


def probe_scene(side: int, seed: int, number: int) -> ProbeScene:
    """Draw scene `number` of a mirror, with `side` at least 64 pixels.

    4 k to 4 k + 3 are the same but for the cue's kind, `number` modulo 2, and for all textures, swapped in the last
    two. The side of the cue alternates with k.
    """
    group, swapped, kind = number // 4, bool(number & 2), number % 2
    rng = np.random.default_rng(np.random.SeedSequence([seed, 5, group]))
    size = CUE_SIDES[group % len(CUE_SIDES)]
    cue, discs = _places(side, rng, swapped)
    label = np.zeros((side, side), np.uint8)
    picture = np.full((side, side, 3), GROUND_COLOUR, np.float64)
    y, x = np.mgrid[:side, :side]
    for disc in discs:
        down, right = y - disc.row, x - disc.column
        inside = (down + 0.5) ** 2 + (right + 0.5) ** 2 < (DIAMETERS[disc.detail] / 2) ** 2
        label[inside] = DISCS[kind][disc.texture]
        picture[inside] = DISC_COLOUR + CONTRAST * _texture(disc, down, right)[inside, None]
    for width, share in ((size, RING), (size // 2, 1)):
        place = tuple(slice(middle - width // 2, middle + width // 2) for middle in cue)
        picture[place], label[place] = GROUND_COLOUR + share * (1 - 2 * kind) * np.array(TINT), CUES[kind]
    noise = [ndimage.gaussian_filter(rng.standard_normal((side, side)), grain, mode="wrap") for grain in GRAINS]
    picture += np.sum([NOISE * field / field.std() for field in noise], axis=0)[..., None]  # grey, on everything
    return ProbeScene(np.clip(picture, 0, 255).astype(np.uint8), label, kind, cue, size, discs)


def _texture(disc: Disc, down: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """(H, W) 1 and -1: the texture, continued over the whole scene; `down` and `right` count pixels from the centre."""
    rows, columns = (1 - 2 * (offset // disc.detail % 2) for offset in (down, right))
    return disc.sign * (rows * columns if disc.texture else columns if disc.upright else rows)


def _places(side: int, rng: np.random.Generator, swapped: bool) -> tuple[tuple[int, int], tuple[Disc, ...]]:
    """A cue and a disc of each detail at every distance, redrawn until no objects touch each other or the border."""
    while True:
        row, column = rng.integers(BORDER, side - BORDER + 1, 2).tolist()
        discs: list[Disc] = []
        for distance, detail in product(distances(side), DIAMETERS):
            for _ in range(TRIES):  # on the square of half side `distance` around the cue
                far, along = int(rng.choice((-distance, distance))), int(rng.integers(-distance, distance + 1))
                y, x = (row + far, column + along) if rng.integers(2) else (row + along, column + far)
                inside = min(y, x) >= BORDER and max(y, x) <= side - BORDER
                if inside and all(max(abs(y - one.row), abs(x - one.column)) >= DISC + GAP for one in discs):
                    break
            else:
                break
            texture, upright, bright = rng.integers(2, size=3).tolist()
            discs.append(Disc(y, x, distance, detail, texture ^ swapped, bool(upright), 2 * bright - 1))
        else:
            return (row, column), tuple(discs)
