"""DeepGlobe Land Cover: classes, files, splits, sources, terms and miniature."""

from __future__ import annotations

from scpseg.benchmarks.base import Benchmark, Class, File, Layout, Miniature, Packed, Pictures, Scene, Source

TERMS = (
    "By hand: read and accept the DeepGlobe rules (deepglobe.org); a Kaggle token (kaggle.com/settings/api), only if "
    "Kaggle asks for one."
)


def draw(side: int, seed: int, number: int) -> Scene:
    """Draw open country; some images have a cloud, below which the land cover is unknown."""
    from scpseg.synthetic.scenes import Canvas, Country, Town, Zone

    hamlet = Town(block=(58, 46), street=6, lot=14, house=(10.5, 7.5), houses=1, tree=2.8, garden=1, car=(4, 2),
                  lots={"house": 8, "grove": 1})  # fmt: skip
    zones = (Zone.URBAN, Zone.FARM, Zone.RANGE, Zone.FOREST, Zone.BARREN, Zone.WATER, Zone.FARM)
    country = Country(region=130, parcel=72, furrow=5, zones=zones, town=hamlet, road=4, crown=4.2, river=13,
                      twins=0.42, clouds=0.35)  # fmt: skip
    canvas = Canvas(side, (seed, 1, number), tilt=0.6)
    zone = country.draw(canvas)
    return Scene(canvas.photograph(), zone, canvas.twin)


def pack(pictures: Pictures) -> Packed:
    """Put all labelled images in train/, whatever their split; valid/ has no masks, and no ids of labelled images."""
    archive = "deepglobe-land-cover.zip"
    for _, name, image, label in pictures:
        yield archive, f"train/{name}_sat.jpg", image
        yield archive, f"train/{name}_mask.png", pictures.colours(label)
    for k in range(2):
        yield archive, f"valid/{100_000 + k}_sat.jpg", pictures.unlabelled(k)


BENCHMARK = Benchmark(
    name="deepglobe",
    title="DeepGlobe",
    side=2448,
    counts=(454, 207, 142),
    ground_sampling=0.5,
    classes=(
        Class("unknown", (0, 0, 0), scored=False),
        Class("urban", (0, 255, 255)),
        Class("agriculture", (255, 255, 0)),
        Class("rangeland", (255, 0, 255)),
        Class("forest", (0, 255, 0)),
        Class("water", (0, 0, 255)),
        Class("barren", (255, 255, 255)),
    ),
    decoding="threshold",
    layout=Layout(
        image=r"(^|/)(?P<id>\d+)_sat\.jpg$",
        labels={
            "unknown-as-class": r"(^|/)(?P<id>\d+)_mask\.png$",
            "unknown-ignored": r"(^|/)(?P<id>\d+)_mask\.png$",
        },
    ),
    masking="unknown-ignored",
    splits={"glnet": "deepglobe", "swapped": "alternates/deepglobe_swapped"},
    terms="DeepGlobe rules and DigitalGlobe's internal-use agreement (deepglobe.org): research use, no redistribution.",
    citation="Demir et al., DeepGlobe 2018: A Challenge to Parse the Earth through Satellite Images, "
    "CVPR Workshops 2018, arXiv 1805.06561.",
    notes=(
        "Class unknown is trained like any other and stays in the confusion matrix; only the mean leaves it out.",
        "Split 'swapped' exchanges val and test, as the counts 455/142/206 in the SCPSeg paper suggest.",
    ),
    sources=(
        Source(
            name="kaggle",
            folder="kaggle",
            how="kaggle",
            address="balraj98/deepglobe-land-cover-classification-dataset/versions/2",
            page="https://www.kaggle.com/datasets/balraj98/deepglobe-land-cover-classification-dataset",
            download=2_800_000_000,
            disk=5_600_000_000,
            notes=TERMS,
        ),
        Source(
            name="kaggle-geoap96",
            folder="kaggle-geoap96",
            how="kaggle",
            address="geoap96/deepglobe2018-landcover-segmentation-traindataset",
            page="https://www.kaggle.com/datasets/geoap96/deepglobe2018-landcover-segmentation-traindataset",
            download=1_900_000_000,
            disk=3_800_000_000,
            files=(File("data.zip", md5="f32684b0b2bf6f8d604cd359a399c061"),),
            notes=TERMS,
        ),
    ),
    archives=(File("data.zip"),),
    miniature=Miniature(draw, pack),
    by_hand="fetch the data set at kaggle.com/datasets/balraj98/deepglobe-land-cover-classification-dataset "
    "in a browser, or land-train.zip at competitions.codalab.org/competitions/18468 (login)",
)
