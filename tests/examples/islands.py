"""Islands: an invented benchmark that shows everything a benchmark's file holds."""

from __future__ import annotations

from scpseg.benchmarks.base import Benchmark, Class, File, Layout, Miniature, Scene


def draw(side: int, seed: int, number: int) -> Scene:
    """Islands of sand or wood in the sea; the same arguments give the same picture."""
    import numpy as np

    rng = np.random.default_rng((seed, number))
    y, x = np.mgrid[:side, :side]
    label = np.zeros((side, side), np.uint8)
    for index in (1, 2, 1, 2, 1, 2):
        row, column, radius = rng.uniform(0, 1, 3) * side
        label[np.hypot(y - row, x - column) < 0.1 * side + 0.1 * radius] = index
    colours = np.array([(40, 70, 110), (205, 190, 140), (60, 95, 45)])
    image = colours[label] + rng.normal(0, 12, (side, side, 1))
    return Scene(np.clip(image, 0, 255).astype(np.uint8), label)


BENCHMARK = Benchmark(
    name="islands",
    title="Islands",
    side=4096,
    counts=(120, 20, 40),
    ground_sampling=0.5,
    classes=(
        Class("sea", (0, 0, 255), scored=False),
        Class("sand", (255, 255, 0)),
        Class("wood", (0, 255, 0)),
    ),
    decoding="exact",
    layout=Layout(
        image=r"(^|/)(?P<split>train|val|test)/image/(?P<id>[^/]+)\.png$",
        labels={"label": r"(^|/)(?P<split>train|val|test)/label/(?P<id>[^/]+)\.png$"},
    ),
    splits={"folders": ""},
    terms="None: an example.",
    citation="An example of this suite.",
    archives=(File("Islands.zip"),),
    by_hand="there is nothing to fetch",
    miniature=Miniature(draw),
)
