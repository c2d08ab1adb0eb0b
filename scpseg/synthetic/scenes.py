"""Synthetic aerial photographs with their truth, one kind for each benchmark. All of this file is ours.

They stand in for the real images where those cannot be: in the tests and in the sample profile. A fifth of a scene
or so shows surfaces that look the same in two classes over 50 to 70 pixels. What tells them apart lies at one side or
around them: often outside a 64-pixel patch, seldom outside a window of twice its side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scpseg import IGNORE_INDEX
from scpseg.benchmarks import get_benchmark
from scpseg.benchmarks.probe import DISCS
from scpseg.synthetic.canvas import Canvas, Mask, Material
from scpseg.synthetic.land import Country, Zone, draw_country
from scpseg.synthetic.probe import probe_scene
from scpseg.synthetic.town import Town, draw_town

Bytes = NDArray[np.uint8]
NUMBERS = {"deepglobe": 1, "inria": 2, "potsdam": 3, "blu": 4}

# fmt: off
HAMLET = Town(
    block=(58, 46), street=6, lot=14, house=(10.5, 7.5), houses=1, tree=2.8, garden=1, car=(4, 2),
    lots={"house": 8, "grove": 1},
)
SUBURB = Town(
    block=(100, 140), street=9, lot=70, house=(14, 10.5), houses=4, tree=4.5, garden=2, car=(6.5, 3.2),
    lots={"house": 5, "hall": 2, "yard": 2, "grove": 1},
)
QUARTER = Town(
    block=(168, 204), street=24, lot=84, house=(50, 33), houses=1, tree=10.5, garden=7, car=(23, 11), clutter=0.8,
    lots={"house": 3, "hall": 1, "yard": 1, "lawn": 1, "green roof": 1, "grove": 1},
)
DISTRICT = Town(
    block=(72, 126), street=8, lot=54, house=(14.5, 10.5), houses=3, tree=3.2, garden=2, car=(5, 2.6),
    lots={"house": 2, "hall": 2, "yard": 2, "grove": 1},
)
# fmt: on
COUNTRIES = {
    "deepglobe": Country(
        region=130,
        parcel=72,
        furrow=5,
        town=HAMLET,
        road=4,
        crown=4.2,
        river=13,
        twins=0.42,
        clouds=0.35,
        zones=(Zone.URBAN, Zone.FARM, Zone.RANGE, Zone.FOREST, Zone.BARREN, Zone.WATER, Zone.FARM),
    ),
    "blu": Country(
        region=150,
        parcel=64,
        furrow=4,
        town=DISTRICT,
        road=7,
        crown=3.4,
        river=16,
        twins=0.55,
        zones=(Zone.URBAN, Zone.FARM, Zone.FOREST, Zone.URBAN, Zone.RANGE, Zone.WATER, Zone.BARREN, Zone.URBAN),
    ),
}  # fmt: skip
TOWNS = {"inria": SUBURB, "potsdam": QUARTER}
CLASSES = {
    "inria": {Material.ROOF: 1},
    "potsdam": {
        Material.ROAD: 0, Material.PAVED: 0, Material.ROOF: 1, Material.LAWN: 2, Material.SOIL: 2, Material.TREE: 3,
        Material.CAR: 4, Material.CLUTTER: 5,
    },
    "blu": {
        Material.ROOF: 1, Material.TREE: 2, Material.SHRUBLAND: 2, Material.LAWN: 2, Material.WATER: 3,
        Material.FIELD: 4, Material.ROAD: 5, Material.INVALID: IGNORE_INDEX,
    },
}  # fmt: skip
"""Training id of each material; those not named are id 0, a car that is not named is what it stands on."""


@dataclass(frozen=True)
class Scene:
    """A picture and its truth.

    Attributes:
        image: (H, W, 3) uint8.
        label: (H, W) uint8 training ids, 255 = ignored.
        twin: (H, W) True where the surface itself does not tell the class.
    """

    image: Bytes
    label: Bytes
    twin: Mask


def scene(benchmark: str, side: int, seed: int, number: int) -> tuple[Bytes, Bytes]:
    """Image (H, W, 3) and training ids (H, W), 255 = ignored, both uint8; the same for the same four arguments.

    Raises:
        UserError: there is no such benchmark.
    """
    drawn = draw(benchmark, side, seed, number)
    return drawn.image, drawn.label


def draw(benchmark: str, side: int, seed: int, number: int) -> Scene:
    """The scene with its map of surfaces that two classes share.

    Args:
        benchmark: decides scale, content and classes.
        side: pixels; features keep their size, a larger scene holds more of them.
        seed: of the whole miniature.
        number: of the image, 0 and up.

    Raises:
        UserError: there is no such benchmark.
    """
    get_benchmark(benchmark)
    if benchmark == "probe":
        made = probe_scene(side, seed, number)
        return Scene(made.image, made.label, np.isin(made.label, DISCS))
    rng = np.random.default_rng(np.random.SeedSequence([seed, NUMBERS[benchmark], number]))
    canvas = Canvas(side, rng)
    if benchmark in COUNTRIES:
        label = draw_country(canvas, COUNTRIES[benchmark])
    else:
        draw_town(canvas, TOWNS[benchmark], float(rng.uniform(-0.5, 0.5)), np.ones((side, side), bool))
    image = canvas.photograph(float(rng.uniform(2.4, 3.9)), float(rng.uniform(0.85, 1.05)))
    if benchmark == "blu" and number % 4 == 1:
        outside = canvas.x + 0.35 * canvas.y < side * 0.12
        image[outside], canvas.material[outside], canvas.twin[outside] = 0, Material.INVALID, False
    if benchmark in CLASSES:
        table = np.zeros(len(Material), np.uint8)
        for material, index in CLASSES[benchmark].items():
            table[material] = index
        label = table[_without_cars(canvas.material) if Material.CAR not in CLASSES[benchmark] else canvas.material]
    return Scene(image, label, canvas.twin)


def _without_cars(material: Bytes) -> Bytes:
    """Each car's pixels as the nearest surface beside it."""
    nearest = ndimage.distance_transform_edt(material == Material.CAR, return_distances=False, return_indices=True)
    ground: Bytes = material[tuple(nearest)]
    return ground
