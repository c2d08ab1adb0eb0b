"""Inria Aerial Image Labeling: classes, files, splits, sources, terms and miniature."""

from __future__ import annotations

import io
import os
from pathlib import Path

from scpseg.benchmarks.base import Benchmark, Class, File, Layout, Miniature, Packed, Pictures, Scene, Source

PARTS = tuple(
    File(f"aerialimagelabeling.7z.{number:03d}", size, sha256)
    for number, (size, sha256) in enumerate(
        (
            (4294967296, "17a7d95c78e484328fd8fe5d5afa2b505e04b8db8fceb617819f3c935d1f39ec"),
            (4294967296, "b505cb223964b157823e88fbd5b0bd041afcbf39427af3ca1ce981ff9f61aff4"),
            (4294967296, "752916faa67be6fc6693f8559531598fa2798dc01b7d197263e911718038252e"),
            (4294967296, "b3893e78f92572455fc2c811af560a558d2a57f9b92eff62fa41399b607a6f44"),
            (3777396691, "a92eb20fdc9911c5ffe3afc514490b8f1e1e5b22301a6fc55d3b4e1624d8033f"),
        ),
        1,
    )
)
PAGE = "https://project.inria.fr/aerialimagelabeling"

INNER = "NEW2-AerialImageDataset.zip"
"""The only member of the 7z archive."""
SECONDS = 1577836800
"""Date of the member in the miniature: 2020-01-01 UTC, in seconds since 1970."""


def draw(side: int, seed: int, number: int) -> Scene:
    """Draw a suburb of houses, and of halls whose roofs look like paved yards."""
    from scpseg.synthetic.scenes import Canvas, Material, Town

    suburb = Town(block=(100, 140), street=9, lot=70, house=(14, 10.5), houses=4, tree=4.5, garden=2, car=(6.5, 3.2),
                  lots={"house": 5, "hall": 2, "yard": 2, "grove": 1})  # fmt: skip
    canvas = Canvas(side, (seed, 2, number), tilt=0.5)
    suburb.draw(canvas)
    return Scene(canvas.photograph(), canvas.labels({Material.ROOF: 1}), canvas.twin)


def pack(pictures: Pictures) -> Packed:
    """Pack the images; the test half has no labels, as in the original."""
    for _, name, image, label in pictures:
        yield INNER, f"AerialImageDataset/train/images/{name}.tif", image
        yield INNER, f"AerialImageDataset/train/gt/{name}.tif", pictures.colours(label)[..., 0]
    yield INNER, "AerialImageDataset/test/images/bellingham1.tif", pictures.unlabelled(0)


def wrap(folder: Path) -> None:
    """Put the zip into a 7z as its only member, split into volumes."""
    import py7zr

    inner = folder / INNER
    # 7z stores the member's date and permissions.
    os.utime(inner, (SECONDS, SECONDS))
    inner.chmod(0o644)
    whole = io.BytesIO()
    with py7zr.SevenZipFile(whole, "w", filters=[{"id": py7zr.FILTER_COPY}]) as seven:
        seven.write(inner, inner.name)
    inner.unlink()
    content = whole.getvalue()
    size = -(-len(content) // len(PARTS))
    for k, part in enumerate(PARTS):
        (folder / part.name).write_bytes(content[k * size : (k + 1) * size])


BENCHMARK = Benchmark(
    name="inria",
    title="Inria Aerial",
    side=5000,
    counts=(126, 27, 27),
    ground_sampling=0.3,
    classes=(Class("background", (0, 0, 0), scored=False), Class("building", (255, 255, 255))),
    decoding="exact",
    layout=Layout(
        image=r"(^|/)train/images/(?P<id>[a-z-]+\d+)\.tif$",
        labels={"gt": r"(^|/)train/gt/(?P<id>[a-z-]+\d+)\.tif$"},
    ),
    splits={"fctl": "inria", "official": "alternates/inria_official"},
    terms="No licence text is published with the data; read project.inria.fr/aerialimagelabeling before use.",
    citation="Maggiori et al., Can Semantic Labeling Methods Generalize to Any City? The Inria Aerial Image "
    "Labeling Benchmark, IGARSS 2017, doi 10.1109/IGARSS.2017.8127684.",
    mean_name="building IoU",
    notes=("What papers call mIoU here is the IoU of class building alone.",),
    sources=(
        Source(
            name="inria",
            folder="inria",
            how="files",
            address="https://files.inria.fr/aerialimagelabeling",
            page=PAGE,
            download=20_957_265_875,
            disk=20_957_265_875,
            estimated=False,
            files=PARTS,
            notes="Nothing to do by hand. Its certificate chain is said to be broken: if it is refused, "
            "upstream.unverified_hosts may name files.inria.fr; the checksums still hold.",
        ),
        Source(
            name="huggingface",
            folder="huggingface",
            how="huggingface",
            address="blanchon/INRIA-Aerial-Image-Labeling",
            page="https://huggingface.co/datasets/blanchon/INRIA-Aerial-Image-Labeling",
            download=13_600_000_000,
            disk=13_600_000_000,
            pattern="data/train/**",
            notes="Nothing to do by hand. No revision is pinned, since none is known; the one that is taken is noted.",
        ),
        Source(
            name="s3",
            folder="s3",
            how="files",
            address="https://public-remote-sensing-datasets.s3-eu-west-1.amazonaws.com/compressed",
            page=PAGE,
            download=21_000_000_000,
            disk=21_000_000_000,
            files=(File("Inria-NEW2-AerialImageDataset.zip"),),
            notes="Nothing to do by hand. No checksum is known.",
        ),
        Source(
            name="kaggle",
            folder="kaggle",
            how="kaggle",
            address="sagar100rathod/inria-aerial-image-labeling-dataset",
            page="https://www.kaggle.com/datasets/sagar100rathod/inria-aerial-image-labeling-dataset",
            download=21_000_000_000,
            disk=48_000_000_000,
            notes="By hand: a Kaggle token (kaggle.com/settings/api), only if Kaggle asks for one.",
        ),
    ),
    archives=PARTS,
    miniature=Miniature(draw, pack, wrap),
    by_hand=f"fetch the five parts that {PAGE} links in a browser",
)
