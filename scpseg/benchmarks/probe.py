"""The probe, a controlled experiment of this suite: at what distance does a method use context?"""

from __future__ import annotations

from scpseg.benchmarks.base import Benchmark, Class, Layout, Miniature, Scene

CUES, DISCS = (1, 2), (3, 4)
"""Training ids of the two kinds of cue, and of the discs whose class a cue determines."""


def draw(side: int, seed: int, number: int) -> Scene:
    """Draw one cue and discs that look alike; images 2 k and 2 k + 1 are twins."""
    from scpseg.synthetic.probe import probe_scene

    made = probe_scene(side, seed, number)
    return Scene(made.image, made.label)


BENCHMARK = Benchmark(
    name="probe",
    title="Probe",
    side=192,
    counts=(200, 2, 64),
    ground_sampling=1.0,
    classes=(
        Class("ground", (96, 104, 84), scored=False),
        Class("cue of orange centre", (214, 120, 32), scored=False),
        Class("cue of blue centre", (40, 112, 214), scored=False),
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
    citation="A controlled experiment of this suite (scpseg/synthetic/probe.py).",
    invented=True,
    miniature=Miniature(draw),
    discs=DISCS,
)
