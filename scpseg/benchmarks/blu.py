"""BLU: classes, files, splits, sources, terms."""

from __future__ import annotations

from scpseg.benchmarks.base import Benchmark, Class, File, Layout

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
    notes=("Counts of 196/28/32 and 192/28/32 are both reported; the counts found stand in every row.",),
    archives=(File("BLU.zip"),),
    by_hand="fetch it at https://rslab.disi.unitn.it/dataset/BLU/ or "
    "https://pan.baidu.com/s/117F0c5eR56Y97cQDIXD1Sg?pwd=uf7c in a browser and ask its authors about terms",
)
