"""DeepGlobe Land Cover: classes, files, splits, sources, terms."""

from __future__ import annotations

from scpseg.benchmarks.base import Benchmark, Class, File, Layout, Source

TERMS = (
    "By hand: read and accept the DeepGlobe rules (deepglobe.org); a Kaggle token (kaggle.com/settings/api), only if "
    "Kaggle asks for one."
)

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
    splits={"glnet": "deepglobe", "swapped": "deepglobe"},
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
    by_hand="fetch the data set at kaggle.com/datasets/balraj98/deepglobe-land-cover-classification-dataset "
    "in a browser, or land-train.zip at competitions.codalab.org/competitions/18468 (login)",
)
