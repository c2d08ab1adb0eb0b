"""What a sweep runs: the points of the named sweeps and of the user's own grids, and an experiment for each."""

from __future__ import annotations

import argparse
import copy
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines import experiments
from pipelines.check import check
from pipelines.methods import METHODS
from pipelines.plan import device_name
from scpseg.benchmarks import BENCHMARKS
from scpseg.environment import resolved
from scpseg.errors import UserError
from scpseg.method.csm import Sizes, sizes
from scpseg.params import LAST_SEED, MachineParams, Params
from scpseg.reporting.published import title_of
from scpseg.reporting.sweeps import Kind, Sweep, short, tidy
from scpseg.segmenters.build import KINDS, feature_stride
from scpseg.segmenters.encoders import weights_problem
from scpseg.tuning import GRID
from scpseg.validation import ADVICE, nearest, parse_yaml

TINY = "tu-test_"
"""Prefixes of encoders for a CPU; with one of them, sweeps run at sample scale."""
PAPER = {"csm.ratio": 0.75, "srd.weight": 0.5, "lfa.weight": 0.5}
RATIOS = (0.5, 0.625, 0.75, 0.875, 1.0)
CONTEXTS = (342 / 256, 2.0, 3.0)
CHOICES: dict[str, tuple[Any, ...]] = {
    "csm.kernel": ("bilinear", "antialias"),
    "csm.supervise": ("centre", "frame"),
    "srd.weight": (1.5, 0.5),  # 1.5 on the mean over channels equals the paper's 0.5 on their sum
    "lfa.stride": (1, "k"),
    "lfa.detach": (False, True),
    "lfa.window": (3, 7),
    "inference.overlap": (0.5, 0.0),
    "train.flips": (False, True),
    "train.turns": (False, True),
    "train.momentum": (0.0, 0.9),
    "train.weight_decay": (0.0, 5e-4),
}
"""Our choices where the paper says nothing: the sweep uses the first value that differs from params.yaml."""


@dataclass(frozen=True)
class Point:
    """One experiment of a sweep.

    Attributes:
        x: position on the x axis, as text.
        series: the line, row or group that it belongs to; '' if each method is one.
        settings: 'section.key' -> value, changes to params.yaml.
        methods: methods whose results are rows.
        reference: (series, x) of the row with which it is compared; series '' = its own.
        notes: remarks for the reader, such as a value that had to be changed.
    """

    x: str
    series: str
    settings: Mapping[str, Any]
    methods: tuple[str, ...] = ("scpseg",)
    reference: tuple[str, str] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """A point with all its parameters, and the name and `section.key=value` settings of its experiment.

    `identity` is equal for points that are the same experiment; `device` is what they run on; `error` says why the
    parameters are not valid.
    """

    point: Point
    params: Params
    device: str
    identity: str = ""
    name: str = ""
    settings: tuple[str, ...] = ()
    error: str = ""


def tiny(params: Params) -> bool:
    """Whether the parameters are at sample scale."""
    return str(params.values["segmenter"]["encoder"]).startswith(TINY)


def changed(params: Params, settings: Mapping[str, Any]) -> Params:
    """The parameters with `settings` applied.

    Raises:
        UserError: a key does not exist.
    """
    values: dict[str, Any] = copy.deepcopy(dict(params.values))
    for name, value in settings.items():
        section, _, key = name.partition(".")
        if key not in values.get(section, {}):
            known = [f"{part}.{entry}" for part, entries in values.items() for entry in entries]
            raise UserError(f"-S {name}: {params.path.name} has no such parameter; {nearest(name, known)}")
        values[section][key] = value
    return Params(values, params.path)


def effective(params: Params, benchmark: str) -> Sizes:
    """Effective sides in pixels of SCPSeg, which are equal if two experiments use the same network.

    Raises:
        UserError: see `scpseg.method.csm.sizes`.
    """
    csm, name = params.values["csm"], params.values["segmenter"]["name"]
    return sizes(params.benchmark(benchmark).patch, float(csm["ratio"]), float(csm["context"]), feature_stride(name))


def segmenter_of(params: Params, name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Settings and notes of a segmenter as in the paper; at sample scale, with its smallest encoder."""
    kind, asked = KINDS[name], params.values["segmenter"]
    encoder, stride = kind.published
    if tiny(params):
        encoder = asked["encoder"] if kind.encoders is None else kind.encoders[0]
        stride = asked["output_stride"] if asked["output_stride"] in kind.output_strides else kind.output_strides[0]
    weights = asked["weights"] if weights_problem(encoder) is None else "random"
    notes = () if weights == asked["weights"] else (f"random weights, because {encoder} has no ImageNet weights",)
    settings = {"name": name, "encoder": encoder, "output_stride": stride, "weights": weights}
    return {f"segmenter.{key}": value for key, value in settings.items()}, notes


def fitted(params: Params, point: Point, benchmark: str) -> Point:
    """The point with the largest LFA window that fits its feature maps; a note says if it was changed."""
    own = changed(params, point.settings)
    window = own.values["lfa"]["window"]
    try:
        cells = effective(own, benchmark).squeezed // feature_stride(own.values["segmenter"]["name"])
    except UserError:
        return point  # the check of all parameters rejects it with the reason
    if not own.values["lfa"]["weight"] or window <= cells:
        return point
    note = f"lfa.window {cells} instead of {window}: the features of the squeezed patch have {cells} × {cells} cells"
    return replace(point, settings={**point.settings, "lfa.window": cells}, notes=(*point.notes, note))


def components(params: Params) -> tuple[Sweep, list[Point]]:
    """Table 6 of the paper: CSM, SRD and LFA are added one after another, on its two segmenters."""
    off = {"csm.ratio": 1.0, "srd.weight": 0.0, "lfa.weight": 0.0}
    points = []
    for name in ("fcn8s", "deeplabv3plus"):
        settings, notes = segmenter_of(params, name)
        step = dict(off)
        for label, key in (("plain", ""), ("+ CSM", "csm.ratio"), ("+ SRD", "srd.weight"), ("+ LFA", "lfa.weight")):
            if key:
                section, _, entry = key.partition(".")
                own = float(params.values[section][entry])
                step[key] = PAPER[key] if own == off[key] else own
            title = KINDS[name].title
            points.append(Point(label, title, {**settings, **step}, ("scpseg",), ("", "plain"), notes))
    return Sweep("components", "What each part adds", "steps", ("parts", "segmenter"), "table 6"), points


def segmenters(params: Params) -> tuple[Sweep, list[Point]]:
    """Table 5 of the paper: every segmenter on plain patches and with SCPSeg."""
    points = []
    for name, kind in KINDS.items():
        settings, notes = segmenter_of(params, name)
        reference = (title_of("patch"), kind.title)
        points.append(Point(kind.title, "", settings, ("patch", "scpseg"), reference, notes))
    sweep = Sweep("segmenters", "Segmenters without and with SCPSeg", "pairs", ("segmenter", "method"), "table 5")
    return sweep, points


def sizes_(params: Params) -> tuple[Sweep, list[Point]]:
    """Figure 5 of the paper: side of the squeezed patch against side of the context window."""
    own, points = params.values["segmenter"]["name"], list[Point]()
    settings, notes = ({}, ()) if tiny(params) else segmenter_of(params, "fcn8s")
    about = f"{KINDS[own].title} as in params.yaml, not the paper's FCN-8s." if tiny(params) and own != "fcn8s" else ""
    for ratio, context in itertools.product(RATIOS, CONTEXTS):
        here = {**settings, "csm.ratio": ratio, "csm.context": context}
        plain = ("no frame, so the window has no effect: one run for all of them",) if ratio == 1 else ()
        reference = (short(1.0), short(context))
        points.append(Point(short(context), short(ratio), here, ("scpseg",), reference, (*notes, *plain)))
    axes = ("csm.context = G / L", "csm.ratio = D / L")
    return Sweep("sizes", "How much context, and how much room for it", "grid", axes, "figure 5", about), points


def choices(params: Params) -> tuple[Sweep, list[Point]]:
    """Open choices of the paper: one of them is changed at a time."""
    points = [Point("as it is", "", {}, ("scpseg",), ("", "as it is"))]
    for name, tried in CHOICES.items():
        section, _, key = name.partition(".")
        other = next(value for value in tried if value != params.values[section][key])
        points.append(replace(points[0], x=f"{name} = {tidy(other)}", settings={name: other}))
    title = "Choices that the paper leaves open, changed one at a time"
    return Sweep("choices", title, "dots", ("change", "method"), None), points


def tuning(params: Params) -> tuple[Sweep, list[Point]]:
    """The same optimisers and learning rates for every method; the best on the validation split go into `tuned`."""
    methods = ("scpseg", *params.suite.baselines)
    pairs = [(pair, {f"tuned.{method}": pair for method in methods}) for pair in GRID]
    points = [Point(pair, "", settings, methods, ("", GRID[0])) for pair, settings in pairs]
    title = "Optimiser and learning rate: the same three candidates for every method"
    return Sweep("tuning", title, "dots", ("optimiser and rate", "method"), None), points


NAMED = {"components": components, "segmenters": segmenters, "sizes": sizes_, "choices": choices, "tuning": tuning}


def product(name: str, grid: Mapping[str, Sequence[Any]], methods: tuple[str, ...]) -> tuple[Sweep, list[Point]]:
    """All combinations of the user's values; plotted as a line (one numeric key), a heat map (two keys) or dots."""
    figure: Kind = "dots"
    if len(grid) == 1 and all(type(value) in (int, float) for values in grid.values() for value in values):
        figure = "steps"
    elif len(grid) == 2 and len(methods) == 1:
        figure = "grid"
    keys = list(grid)
    points: list[Point] = []
    for combination in itertools.product(*grid.values()):
        settings = dict(zip(keys, combination, strict=True))
        x, series = ", ".join(f"{key} = {tidy(value)}" for key, value in settings.items()), ""
        if len(keys) == 1:
            x = tidy(combination[0])
        elif figure == "grid":
            series, x = map(tidy, combination)
        points.append(Point(x, series, settings, methods))
    first = (points[0].series, points[0].x)
    axes = (keys[-1], keys[0]) if figure == "grid" else (keys[0] if len(grid) == 1 else "settings", "method")
    return Sweep(name, " × ".join(keys), figure, axes, None), [replace(point, reference=first) for point in points]


def parse(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Parse `-S` of the command line: 'section.key=a,b' -> values, read as YAML.

    Raises:
        UserError: a key or value is missing, or a key is duplicated.
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key or not values or key in grid:
            problem = "sets a parameter twice" if key in grid else "is not a setting"
            raise UserError(f"-S {text} {problem}; write each as -S csm.ratio=0.5,0.75")
        if key.startswith("suite.") or key == "evaluation.split":
            raise UserError(f"-S {text}: a sweep sets it itself; use --benchmark, --seeds, --split or --methods")
        made = parse_yaml(f"[{values}]", f"-S {key}")
        if any(isinstance(value, list | dict) for value in made):
            raise UserError(f"-S {text} is not a setting; write each as -S csm.ratio=0.5,0.75")
        grid[key] = made
    return grid


def methods_for(grid: Mapping[str, Any], asked: str | None) -> tuple[str, ...]:
    """Methods whose results are shown: those of --methods, else rivals whose sections are swept, else SCPSeg.

    Raises:
        UserError: unknown method.
    """
    names = tuple(asked.split(",")) if asked else tuple(key.partition(".")[0] for key in grid)
    found = tuple(dict.fromkeys(name for name in names if name in METHODS))
    unknown = [name for name in names if name not in METHODS]
    if asked and unknown:
        raise UserError(f"--methods {asked}: unknown method {unknown[0]!r}; {nearest(unknown[0], METHODS)}")
    return found or ("scpseg",)


def planned(base: Params, given: argparse.Namespace) -> tuple[Params, Sweep, list[Job]]:
    """The sweep of a command line: the parameters common to its points, and an experiment for each point.

    Raises:
        UserError: see `with_suite` and `points_of`.
    """
    params, sweep, points = points_of(with_suite(base, given), given)
    return params, sweep, [job_of(sweep.name, params, base, point, given) for point in points]


def with_suite(base: Params, given: argparse.Namespace) -> Params:
    """The parameters restricted to one benchmark, its split and the requested seeds.

    Raises:
        UserError: seeds that are not valid or duplicated, or an unknown benchmark.
    """
    if given.benchmark not in BENCHMARKS:
        raise UserError(f"--benchmark {given.benchmark}: unknown benchmark; {nearest(given.benchmark, BENCHMARKS)}")
    seeds = list(base.suite.seeds)
    if given.seeds is not None:
        seeds = [int(seed) if re.fullmatch("[0-9]{1,10}", seed) else -1 for seed in given.seeds.split(",")]
        if len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) > LAST_SEED:
            why = f"give whole numbers from 0 to {LAST_SEED}, each once, such as --seeds 0,1,2"
            raise UserError(f"--seeds {given.seeds}: {why}")
    settings = {"suite.benchmarks": [given.benchmark], "suite.seeds": seeds, "evaluation.split": given.split}
    return changed(base, settings)


def points_of(params: Params, given: argparse.Namespace) -> tuple[Params, Sweep, list[Point]]:
    """The sweep with its points, and the parameters common to all of them, including -S with a single value.

    Raises:
        UserError: a name or parameter that is not valid, a grid without -S, or several values for a named sweep.
    """
    grid = parse(given.set)
    many = [key for key, values in grid.items() if len(values) > 1]
    fixed = {key: values[0] for key, values in grid.items() if len(values) == 1}
    params = changed(params, fixed)
    check(params)
    if given.name in NAMED:
        sweep, points = NAMED[given.name](params)
        own = {key for point in points for key in point.settings}
        wrong = [f"-S {key}" for key in grid if key in own or key in many] + ["--methods"] * bool(given.methods)
        if wrong:
            raise UserError(f"{wrong[0]}: {given.name} sets its own points; give your own grid another name")
        return params, sweep, [fitted(params, point, given.benchmark) for point in points]
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", given.name):
        raise UserError(f"{given.name!r} is not a valid name of a sweep: use lower-case letters, digits and hyphens")
    if not grid:
        known = ", ".join(NAMED)
        raise UserError(f"unknown sweep {given.name!r} (known: {known}); define your own grid with -S")
    swept = {key: grid[key] for key in many or grid}
    return params, *product(given.name, swept, methods_for(grid, given.methods))


def job_of(sweep: str, params: Params, base: Params, point: Point, given: argparse.Namespace) -> Job:
    """The experiment of a point, or the error if its parameters are not valid."""
    rivals = [method for method in point.methods if method != "scpseg"]
    own, device = changed(params, {**point.settings, "suite.baselines": rivals}), "Slurm"
    try:
        check(own)
        if given.on == "local":
            # DVC knows the parameters only: it would restore results of another number of threads.
            own, device = changed(own, resolved(own.section("machine", MachineParams))), device_name(own)
    except UserError as error:
        return Job(point, own, device, error=str(error).partition(ADVICE)[0])
    sides = effective(own, given.benchmark)
    network = changed(own, {"csm.ratio": sides.squeezed, "csm.context": sides.context})
    identity = experiments.identity(network.values, point.methods, given.benchmark, device)
    words = re.sub(r"[^a-z0-9.]+", "-", f"{sweep} {point.series} {point.x}".lower().replace("+", "plus"))
    name = re.sub(r"\.{2,}", ".", words)[:60].strip("-.")
    return Job(
        point, own, device, identity, f"{name}-{identity}", tuple(experiments.settings_for(own.values, base.values))
    )
