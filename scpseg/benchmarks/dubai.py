"""Dubai, eight satellite scenes in the public domain: classes, files, folds, sources, terms."""

from __future__ import annotations

from scpseg.benchmarks.base import Benchmark, Class, File, Layout, Source

FOLDS = 4
HANDLE = "humansintheloop/semantic-segmentation-of-aerial-imagery"

BENCHMARK = Benchmark(
    name="dubai",
    title="Dubai",
    side=5805,
    any_size=True,
    counts=(5, 1, 2),
    ground_sampling=None,
    classes=(
        Class("building", (0x3C, 0x10, 0x98)),
        Class("land", (0x84, 0x29, 0xF6)),
        Class("road", (0x6E, 0xC1, 0xE4)),
        Class("vegetation", (0xFE, 0xDD, 0x3A)),
        Class("water", (0xE2, 0xA9, 0x29)),
    ),
    ignored=((0x9B, 0x9B, 0x9B), (0, 0, 0)),
    decoding="exact",
    layout=Layout(
        image=r"(^|/)tile (?P<id>[1-8])/images/image_part_(?P<part>00[1-9])\.jpg$",
        labels={"masks": r"(^|/)tile (?P<id>[1-8])/masks/image_part_(?P<part>00[1-9])\.png$"},
        rows=3,
        columns=3,
    ),
    splits={f"fold{fold}": f"dubai/fold{fold}" for fold in range(FOLDS)},
    terms="CC0 1.0 (public domain), as two public copies quote it; by Humans in the Loop and the Mohammed Bin Rashid "
    "Space Centre, Dubai.",
    citation=f"Humans in the Loop, Semantic segmentation of aerial imagery, https://www.kaggle.com/datasets/{HANDLE}.",
    notes=(
        "Eight scenes in four folds of two, of the 105 pairings the one with the most even areas and class shares. "
        "Each scene is tested once, by models that never saw it. Validation is the first scene of the next fold.",
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
    by_hand=f"fetch the data set at kaggle.com/datasets/{HANDLE} in a browser",
)
