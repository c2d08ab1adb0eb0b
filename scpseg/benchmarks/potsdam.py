"""ISPRS Potsdam: classes, files, splits, sources, terms."""

from __future__ import annotations

from scpseg.benchmarks.base import Benchmark, Class, File, Layout, Source

FILES = (
    File("2_Ortho_RGB.zip"),
    File("5_Labels_all_noBoundary.zip", labels="noBoundary"),
    File("5_Labels_all.zip", labels="bordered"),
)
SHARE = "https://seafile.projekt.uni-hannover.de/f/429be50cc79d423ab6c4/"
PAGE = "https://www.isprs.org/resources/datasets/benchmarks/UrbanSemLab/Default.aspx"
WHOLE = File("Potsdam.zip", 13324219686)
PASSWORD = "CjwcipT4-P8g"
"""Stands openly on PAGE."""
TERMS = "By hand: read the terms on the download page."


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
    by_hand=f"fetch 2_Ortho_RGB.zip and the label archive, or Potsdam.zip, from {SHARE} in a browser "
    f"(password {PASSWORD}, shown on {PAGE})",
)
