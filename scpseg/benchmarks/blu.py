"""BLU: classes, files, splits, sources, terms and miniature."""

from __future__ import annotations

from scpseg.benchmarks.base import Benchmark, Class, File, Layout, Miniature, Scene


def draw(side: int, seed: int, number: int) -> Scene:
    """Draw towns in open country; a corner of every fourth image is outside the survey."""
    from scpseg.synthetic.scenes import Canvas, Country, Material, Town, Zone

    district = Town(block=(72, 126), street=8, lot=54, house=(14.5, 10.5), houses=3, tree=3.2, garden=2, car=(5, 2.6),
                    lots={"house": 2, "hall": 2, "yard": 2, "grove": 1})  # fmt: skip
    zones = (Zone.URBAN, Zone.FARM, Zone.FOREST, Zone.URBAN, Zone.RANGE, Zone.WATER, Zone.BARREN, Zone.URBAN)
    country = Country(
        region=150, parcel=64, furrow=4, zones=zones, town=district, road=7, crown=3.4, river=16, twins=0.55
    )
    canvas = Canvas(side, (seed, 4, number), tilt=0.6)
    country.draw(canvas)
    if number % 4 == 1:
        outside = canvas.x + 0.35 * canvas.y < side * 0.12
        canvas.material[outside], canvas.twin[outside] = Material.INVALID, False
    green = dict.fromkeys((Material.TREE, Material.SHRUBLAND, Material.LAWN), 2)
    classes = {Material.ROOF: 1, **green, Material.WATER: 3, Material.FIELD: 4, Material.ROAD: 5}
    return Scene(canvas.photograph(), canvas.labels(classes), canvas.twin)


BENCHMARK = Benchmark(
    name="blu",
    title="BLU",
    side=2048,
    counts=(196, 28, 32),
    ground_sampling=0.8,
    classes=(
        Class("background", (255, 255, 255)),
        Class("building", (255, 0, 0)),
        Class("vegetation", (0, 255, 0)),
        Class("water", (0, 0, 255)),
        Class("farmland", (255, 255, 0)),
        Class("road", (125, 125, 125)),
    ),
    ignored=((0, 0, 0),),
    decoding="exact",
    layout=Layout(
        image=r"(^|/)(?P<split>train|val|test)/images?/(?P<id>[^/]+)\.png$",
        labels={"label": r"(^|/)(?P<split>train|val|test)/labels?/(?P<id>[^/]+)\.png$"},
    ),
    splits={"folders": ""},
    terms="No licence is published with the data; ask its authors (rslab.disi.unitn.it/dataset/BLU) about terms.",
    citation="Ding et al., Looking Outside the Window: Wide-Context Transformer for the Semantic Segmentation of "
    "High-Resolution Remote Sensing Images, IEEE TGRS 60, 2022, doi 10.1109/TGRS.2022.3168697.",
    notes=("Counts of 196/28/32 and 192/28/32 are both reported; every row names the counts found.",),
    archives=(File("BLU.zip"),),
    miniature=Miniature(draw),
    by_hand="fetch it at https://rslab.disi.unitn.it/dataset/BLU/ or "
    "https://pan.baidu.com/s/117F0c5eR56Y97cQDIXD1Sg?pwd=uf7c in a browser and ask its authors about terms",
)
