"""Dubai, eight satellite scenes in the public domain: classes, files, folds, sources, terms and miniature."""

from __future__ import annotations

from scpseg import IGNORE_INDEX
from scpseg.benchmarks.base import Benchmark, Class, File, Layout, Miniature, Packed, Pictures, Scene, Source

FOLDS = 4
HANDLE = "humansintheloop/semantic-segmentation-of-aerial-imagery"
ROOT = "Semantic segmentation dataset"
UNLABELLED = (0x9B, 0x9B, 0x9B)


def draw(side: int, seed: int, number: int) -> Scene:
    """Draw towns between sand, gardens and the sea; a corner of every fourth image is unlabelled."""
    from scpseg.synthetic.scenes import Canvas, Country, Material, Town, Zone

    district = Town(block=(84, 110), street=8, lot=42, house=(15, 11), houses=2, tree=2.6, garden=1, car=(5, 2.6),
                    lots={"house": 3, "hall": 2, "yard": 2})  # fmt: skip
    zones = (Zone.URBAN, Zone.BARREN, Zone.WATER, Zone.BARREN, Zone.URBAN, Zone.FOREST)
    country = Country(region=130, parcel=58, furrow=4, zones=zones, town=district, road=7, crown=3, river=18, twins=0.5)
    canvas = Canvas(side, (seed, 6, number), tilt=0.6)
    country.draw(canvas)
    green = dict.fromkeys((Material.TREE, Material.SHRUBLAND, Material.FIELD, Material.LAWN), 3)
    land = dict.fromkeys((Material.SOIL, Material.PAVED, Material.CLUTTER), 1)
    label = canvas.labels({Material.ROOF: 0, **land, Material.ROAD: 2, **green, Material.WATER: 4})
    if number % 4 == 1:
        label[canvas.x + 0.5 * canvas.y < side * 0.1] = IGNORE_INDEX
    return Scene(canvas.photograph(), label)


def pack(pictures: Pictures) -> Packed:
    """Split every image into nine parts of nearly equal size, in a folder of its own."""
    import numpy as np

    rows, columns = BENCHMARK.layout.rows, BENCHMARK.layout.columns
    for _, id, image, label in pictures:
        colours = pictures.colours(label)
        colours[label == IGNORE_INDEX] = UNLABELLED
        for kind, picture, ending in (("images", image, "jpg"), ("masks", colours, "png")):
            parts = [part for row in np.array_split(picture, rows) for part in np.array_split(row, columns, axis=1)]
            for number, part in enumerate(parts, 1):
                yield "Dubai.zip", f"{ROOT}/Tile {id}/{kind}/image_part_{number:03d}.{ending}", part


BENCHMARK = Benchmark(
    name="dubai",
    title="Dubai",
    side=5805,
    any_size=True,
    public_domain=True,
    counts=(5, 1, 2),
    ground_sampling=None,
    classes=(
        Class("building", (0x3C, 0x10, 0x98)),
        Class("land", (0x84, 0x29, 0xF6)),
        Class("road", (0x6E, 0xC1, 0xE4)),
        Class("vegetation", (0xFE, 0xDD, 0x3A)),
        Class("water", (0xE2, 0xA9, 0x29)),
    ),
    ignored=(UNLABELLED, (0, 0, 0)),
    decoding="exact",
    layout=Layout(
        image=r"(^|/)tile (?P<id>[1-8])/images/image_part_(?P<part>00[1-9])\.jpg$",
        labels={"masks": r"(^|/)tile (?P<id>[1-8])/masks/image_part_(?P<part>00[1-9])\.png$"},
        rows=3,
        columns=3,
    ),
    splits={**{f"fold{fold}": f"dubai/fold{fold}" for fold in range(FOLDS)}, "rotation": "dubai"},
    terms="CC0 1.0 (public domain), as two public copies quote it; by Humans in the Loop and the Mohammed Bin Rashid "
    "Space Centre, Dubai.",
    citation=f"Humans in the Loop, Semantic segmentation of aerial imagery, https://www.kaggle.com/datasets/{HANDLE}.",
    notes=(
        "Eight scenes in four folds of two, of the 105 pairings the one with the most even areas and class shares. "
        "In split rotation, each scene is tested once, by models that never saw it. Validation is the first scene of "
        "the next fold.",
        "Parts of a scene were labelled one by one, so labels jump where parts meet.",
        "The colours are those of the masks; classes.json names others.",
    ),
    sources=(
        Source(
            name="kaggle",
            folder="kaggle",
            how="kaggle",
            address=HANDLE,
            page=f"https://www.kaggle.com/datasets/{HANDLE}",
            download=34_000_000,
            disk=68_000_000,
            notes="By hand: a Kaggle token (kaggle.com/settings/api), only if Kaggle asks for one. No version is "
            "pinned, since none is known; the one that is taken is noted.",
        ),
    ),
    archives=(File("Dubai.zip"),),
    miniature=Miniature(draw, pack),
    by_hand=f"fetch the data set at kaggle.com/datasets/{HANDLE} in a browser",
)
