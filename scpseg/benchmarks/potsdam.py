"""ISPRS Potsdam: classes, files, splits, sources, terms and miniature."""

from __future__ import annotations

import io

from scpseg import IGNORE_INDEX
from scpseg.benchmarks.base import Benchmark, Bytes, Class, File, Layout, Miniature, Packed, Pictures, Scene, Source

FILES = (
    File("2_Ortho_RGB.zip"),
    File("5_Labels_all_noBoundary.zip", labels="noBoundary"),
    File("5_Labels_all.zip", labels="bordered"),
)
SHARE = "https://seafile.projekt.uni-hannover.de/f/429be50cc79d423ab6c4/"
PAGE = "https://www.isprs.org/resources/datasets/benchmarks/UrbanSemLab/Default.aspx"
WHOLE = File("Potsdam.zip", 13324219686)
PASSWORD = "CjwcipT4-P8g"
"""Published on PAGE."""
TERMS = "By hand: read the terms on the download page."
LOSSY, MISCODED = "4_12", "6_7"
"""The two label tiles with errors in the original; both are in the train list."""
BORDER = 2.0
"""Pixels ignored on each side of a class border in the miniature; the original's 3 would leave little of its cars."""


def draw(side: int, seed: int, number: int) -> Scene:
    """Draw large houses and gardens; flat roofs look like paved yards and like lawns."""
    from scpseg.synthetic.scenes import Canvas, Material, Town

    quarter = Town(block=(168, 204), street=24, lot=84, house=(50, 33), houses=1, tree=10.5, garden=7, car=(23, 11),
                   lots={"house": 3, "hall": 1, "yard": 1, "lawn": 1, "green roof": 1, "grove": 1},
                   clutter=0.8)  # fmt: skip
    canvas = Canvas(side, (seed, 3, number), tilt=0.5)
    quarter.draw(canvas)
    classes = {Material.ROOF: 1, Material.LAWN: 2, Material.TREE: 3, Material.CAR: 4, Material.CLUTTER: 5}
    return Scene(canvas.photograph(), canvas.labels(classes), canvas.twin)


def pack(pictures: Pictures) -> Packed:
    """Pack the images: the image zip has a top folder, the label zips have none; two label tiles have errors."""
    for _, name, image, label in pictures:
        yield FILES[0].name, f"2_Ortho_RGB/top_potsdam_{name}_RGB.tif", image
        for file, ending, ids in ((FILES[1], "_noBoundary", without_borders(label)), (FILES[2], "", label)):
            colours = pictures.colours(ids)
            if name == LOSSY:
                colours = lossy(colours)
            elif name == MISCODED:
                colours = miscoded(colours, ids)
            yield file.name, f"top_potsdam_{name}_label{ending}.tif", colours


def without_borders(label: Bytes) -> Bytes:
    """`label` (H, W), in which all pixels within `BORDER` pixels of another class are ignored."""
    import numpy as np
    from scipy import ndimage

    if label.min() == label.max():
        return label.copy()
    inner = np.full_like(label, IGNORE_INDEX)
    for index in np.unique(label):
        depth = ndimage.distance_transform_edt(np.pad(label == index, 1, mode="edge"))[1:-1, 1:-1]
        inner[depth > BORDER] = index
    return inner


def lossy(colours: Bytes) -> Bytes:
    """A label image (H, W, 3) as after lossy compression: thousands of colours, each channel at least 40 from 128."""
    import numpy as np
    from PIL import Image

    squeezed = io.BytesIO()
    Image.fromarray(colours).save(squeezed, "JPEG", quality=60)
    noise = np.random.default_rng(0).integers(-9, 10, colours.shape)
    low, high = np.where(colours < 128, 0, 168), np.where(colours < 128, 87, 255)
    result: Bytes = np.clip(np.asarray(Image.open(squeezed)) + noise, low, high).astype(np.uint8)
    return result


def miscoded(colours: Bytes, ids: Bytes) -> Bytes:
    """`colours` (H, W, 3) of `ids` (H, W) with wrong colours (252, 255, 0) for all cars except 10, 20, 30 ..."""
    from scipy import ndimage

    cars, _ = ndimage.label(ids == 4)
    colours[(cars > 0) & (cars % 10 != 0)] = (252, 255, 0)
    return colours


BENCHMARK = Benchmark(
    name="potsdam",
    title="ISPRS Potsdam",
    side=6000,
    counts=(18, 6, 14),
    ground_sampling=0.05,
    classes=(
        Class("impervious surface", (255, 255, 255)),
        Class("building", (0, 0, 255)),
        Class("low vegetation", (0, 255, 255)),
        Class("tree", (0, 255, 0)),
        Class("car", (255, 255, 0)),
        Class("clutter", (255, 0, 0), scored=False),
    ),
    ignored=((0, 0, 0),),
    decoding="threshold",
    unknown_share=0.001,
    layout=Layout(
        image=r"(^|/)top_potsdam_(?P<id>\d+_\d+)_RGB\.tif$",
        labels={
            "noBoundary": r"(^|/)top_potsdam_(?P<id>\d+_\d+)_label_noBoundary\.tif$",
            "bordered": r"(^|/)top_potsdam_(?P<id>\d+_\d+)_label\.tif$",
        },
    ),
    splits={
        "candidate_volpi_18_6_14": "potsdam",
        "volpi_17_7_14": "alternates/potsdam_volpi_17_7_14",
        "official": "alternates/potsdam_official",
    },
    terms="ISPRS WG II/4: research use, no redistribution, acknowledge ISPRS.",
    citation="Rottensteiner et al., The ISPRS Benchmark on Urban Object Classification and 3D Building "
    "Reconstruction, ISPRS Annals I-3, 2012, doi 10.5194/isprsannals-I-3-293-2012.",
    notes=(
        "The test tiles are very probably those of the papers; their train and val ids are not published, so "
        "ours are a choice, and validation and ablation figures are not comparable tile by tile.",
    ),
    sources=(
        Source(
            name="isprs",
            folder="isprs",
            how="members",
            address=SHARE,
            page=PAGE,
            download=3_000_000_000,
            disk=3_000_000_000,
            files=FILES,
            password=PASSWORD,
            notes=TERMS,
        ),
        Source(
            name="isprs-whole",
            folder="isprs-whole",
            how="share",
            address=SHARE,
            page=PAGE,
            download=13_324_219_686,
            disk=13_324_219_686,
            estimated=False,
            files=(WHOLE,),
            password=PASSWORD,
            notes=TERMS,
        ),
        Source(
            name="drive",
            folder="drive",
            how="drive",
            address="1w3EJuyUGet6_qmLwGAWZ9vw5ogeG0zLz",
            page="https://drive.google.com/drive/folders/1w3EJuyUGet6_qmLwGAWZ9vw5ogeG0zLz",
            download=3_000_000_000,
            disk=3_000_000_000,
            files=FILES,
            notes="By hand: read the ISPRS terms. Drive stops at a daily quota: try again the next day.",
        ),
    ),
    archives=FILES,
    miniature=Miniature(draw, pack, kept=(LOSSY, MISCODED)),
    by_hand=f"fetch 2_Ortho_RGB.zip and the label archive, or Potsdam.zip, from {SHARE} in a browser "
    f"(password {PASSWORD}, shown on {PAGE})",
)
