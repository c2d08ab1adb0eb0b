"""The four benchmarks and the probe as facts: classes, colours, what is scored, split lists, layout, terms, citation.

A class's place in `classes` is its training id, the number that stands in the store and that networks predict.
Facts come from the benchmarks' pages and the programs of the field; the README names those that could not be
checked against the original archives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from scpseg.errors import UserError

Colour = tuple[int, int, int]
Ids = dict[str, tuple[str, ...]]
"""Image ids by split: 'train', 'val', 'test'."""


@dataclass(frozen=True)
class Class:
    """One class: name, colour in the label files (a grey value three times for one band), counted in the mean."""

    name: str
    colour: Colour
    scored: bool = True


@dataclass(frozen=True)
class Layout:
    """Which files belong together: patterns on the path below the unpacked folder, ignoring case; labels by kind.

    Each pattern has the group `id`; BLU's have `split` too, its split being given by folders.
    """

    image: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Spec:
    """One benchmark.

    Attributes:
        name: as in params.yaml.
        title: for tables.
        side: side of an image in pixels; all images are square.
        counts: labelled images in (train, val, test).
        ground_sampling: metres per pixel.
        classes: in the order of the training ids.
        ignored: colours of pixels that are neither trained on nor counted.
        decoding: 'exact' colours, or 'threshold' = each channel cut at 128 first.
        masking: the kind of labels in which training id 0 is ignored; '' = none.
        unknown_share: share of an image's pixels that may carry no class's colour; they become ignored.
        layout: which files are images and labels.
        splits: split name -> folder under scpseg/data/splits; empty where the folders give the split.
        mean_name: what the mean over scored classes is called, 'mIoU' or 'building IoU'.
        invented: no real benchmark: only the mirror can write it.
        terms: what the user must know before downloading.
        citation: what to cite.
    """

    name: str
    title: str
    side: int
    counts: tuple[int, int, int]
    ground_sampling: float
    classes: tuple[Class, ...]
    decoding: Literal["exact", "threshold"]
    layout: Layout
    splits: Mapping[str, str]
    terms: str
    citation: str
    ignored: tuple[Colour, ...] = ()
    masking: str = ""
    unknown_share: float = 0.0
    mean_name: str = "mIoU"
    invented: bool = False
    notes: tuple[str, ...] = field(default=())

    @property
    def scored(self) -> tuple[int, ...]:
        """Training ids that enter the means."""
        return tuple(index for index, cls in enumerate(self.classes) if cls.scored)


SPECS: dict[str, Spec] = {
    "deepglobe": Spec(
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
        terms="DeepGlobe rules and DigitalGlobe's internal-use agreement (deepglobe.org): "
        "research use, no redistribution.",
        citation="Demir et al., DeepGlobe 2018: A Challenge to Parse the Earth through Satellite Images, "
        "CVPR Workshops 2018, arXiv 1805.06561.",
        notes=(
            "Class unknown is trained like any other and stays in the confusion matrix; only the mean leaves it out.",
            "Split 'swapped' exchanges val and test, as the counts 455/142/206 in the SCPSeg paper suggest.",
        ),
    ),
    "inria": Spec(
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
    ),
    "potsdam": Spec(
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
    ),
    "blu": Spec(
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
        notes=("Counts of 196/28/32 and 192/28/32 are both reported; the counts found stand in every row.",),
    ),
    "probe": Spec(
        name="probe",
        title="Probe",
        side=192,
        counts=(200, 2, 64),
        ground_sampling=1.0,
        classes=(
            Class("ground", (96, 104, 84), scored=False),
            Class("orange cue", (214, 120, 32), scored=False),
            Class("blue cue", (40, 112, 214), scored=False),
            Class("disc of orange", (255, 208, 150)),
            Class("disc of blue", (160, 205, 255)),
        ),
        decoding="exact",
        layout=Layout(
            image=r"(^|/)(?P<split>train|val|test)/image/(?P<id>[^/]+)\.png$",
            labels={"label": r"(^|/)(?P<split>train|val|test)/label/(?P<id>[^/]+)\.png$"},
        ),
        splits={"folders": ""},
        terms="none; this suite draws the scenes.",
        citation="A controlled experiment of this suite (scpseg/data/synthetic/probe.py).",
        invented=True,
    ),
}
REAL = tuple(name for name, spec in SPECS.items() if not spec.invented)
"""The published benchmarks: all but the probe."""
PROBE_CUES, PROBE_DISCS = (1, 2), (3, 4)
"""Training ids of the probe's two kinds of cue, and of the discs whose kind they tell."""


def spec_of(name: str) -> Spec:
    """The spec of a benchmark.

    Raises:
        UserError: there is no such benchmark.
    """
    if name not in SPECS:
        raise UserError(f"{name!r} is no benchmark; known: {', '.join(SPECS)}")
    return SPECS[name]
