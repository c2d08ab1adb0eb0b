"""The probe, a controlled experiment of this suite: which detail does a method see, and at what distance a cue?"""

from __future__ import annotations

from scpseg.benchmarks.base import Benchmark, Class, Layout, Miniature, Scene

CUES = (1, 2)
"""Training ids of the two kinds of cue."""
DISCS = ((3, 4), (5, 6))
"""[kind][texture] training ids of discs: a cue determines the kind (orange, blue), the disc itself shows its texture
(striped, chequered)."""
CUE_SIDES = (16, 8, 4)
"""Sides of cues in pixels."""
DIAMETERS = {4: 20, 2: 18, 1: 16}
"""Side of a texture's bars or squares -> diameter of its discs, in pixels: a label alone tells the side."""


def draw(side: int, seed: int, number: int) -> Scene:
    """Draw one cue and its discs; images 4 k to 4 k + 3 differ in the cue's kind and in the textures alone."""
    from scpseg.synthetic.probe_scenes import probe_scene

    made = probe_scene(side, seed, number)
    return Scene(made.image, made.label)


BENCHMARK = Benchmark(
    name="probe",
    title="Probe",
    side=192,
    counts=(480, 24, 96),
    ground_sampling=1.0,
    classes=(
        Class("ground", (96, 104, 84), scored=False),
        Class("cue of orange centre", (214, 120, 32), scored=False),
        Class("cue of blue centre", (40, 112, 214), scored=False),
        Class("striped disc of orange", (255, 208, 150)),
        Class("chequered disc of orange", (232, 150, 84)),
        Class("striped disc of blue", (160, 205, 255)),
        Class("chequered disc of blue", (92, 148, 232)),
    ),
    decoding="exact",
    layout=Layout(
        image=r"(^|/)(?P<split>train|val|test)/image/(?P<id>[^/]+)\.png$",
        labels={"label": r"(^|/)(?P<split>train|val|test)/label/(?P<id>[^/]+)\.png$"},
    ),
    splits={"folders": ""},
    terms="none; this suite draws the scenes.",
    citation="A controlled experiment of this suite (scpseg/synthetic/probe_scenes.py).",
    invented=True,
    miniature=Miniature(draw),
    discs=tuple(disc for kind in DISCS for disc in kind),
)
