"""Check the file of a benchmark, so that an error in it is reported before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources

from scpseg import IGNORE_INDEX
from scpseg.benchmarks.base import Benchmark, Colour
from scpseg.data.splits import PARTS, read_folds
from scpseg.errors import UserError


def check_benchmark(name: str, spec: Benchmark) -> None:
    """Check the benchmark with `name` in `scpseg.benchmarks`.

    Raises:
        UserError: the first error; the message names the file and the field, and what to do.
    """
    for problem in _problems(name, spec):
        raise UserError(f"scpseg/benchmarks/{name}.py: {problem}")


def _problems(name: str, spec: Benchmark) -> Iterator[str]:
    if spec.name != name:
        yield f"name is {spec.name!r}; set it to {name!r}, the name of the file"
    yield from _class_problems(spec)
    yield from _layout_problems(spec)
    yield from _split_problems(spec)
    if spec.masking and spec.masking not in spec.layout.labels:
        yield f"masking is {spec.masking!r}; set it to one of layout.labels ({', '.join(spec.layout.labels)}), or ''"
    for field in ("name", "folder"):
        if twice := _twice([getattr(source, field) for source in spec.sources]):
            yield f"two sources have the {field} {twice!r}; use different ones"
    if spec.invented and spec.miniature is None:
        yield "invented is True, so only a miniature can provide the images; set miniature"


def _class_problems(spec: Benchmark) -> Iterator[str]:
    if not 1 <= len(spec.classes) < IGNORE_INDEX:
        yield f"classes has {len(spec.classes)} entries; define at least 1 and at most {IGNORE_INDEX - 1}"
    if twice := _twice([cls.name for cls in spec.classes]):
        yield f"two classes have the name {twice!r}; rename one"
    if not spec.scored:
        yield "no class is scored; leave scored=True for those that are in the mean"
    known: dict[Colour, str] = {}
    colours = [*((f"class {cls.name!r}", cls.colour) for cls in spec.classes), *(("ignored", c) for c in spec.ignored)]
    for whose, colour in colours:
        if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
            yield f"the colour of {whose} is {colour}; use red, green and blue from 0 to 255"
        cut = spec.decoding == "threshold"
        red, green, blue = (255 * (value >= 128) if cut else value for value in colour)
        other = known.setdefault((red, green, blue), whose)
        if other != whose:
            same = "the same after each channel is thresholded at 128" if cut else f"both {colour}"
            yield f"the colours of {other} and {whose} are {same}; use different ones"


def _layout_problems(spec: Benchmark) -> Iterator[str]:
    if not spec.layout.labels:
        yield "layout.labels is empty; add a kind of labels with its pattern"
    by_folder = any(not folder for folder in spec.splits.values())
    patterns = {f"layout.labels[{kind!r}]": pattern for kind, pattern in spec.layout.labels.items()}
    for field, pattern in {"layout.image": spec.layout.image, **patterns}.items():
        try:
            groups = re.compile(pattern).groupindex
        except re.error as error:
            yield f"{field} is not a valid pattern ({error}); correct it"
            continue
        if "id" not in groups:
            yield f"{field} has no group (?P<id>...); put it around the part of the path that image and label share"
        if spec.layout.rows * spec.layout.columns > 1 and "part" not in groups:
            yield f"{field} has no group (?P<part>...), but an image has several parts; put it around their number"
        if by_folder and "split" not in groups:
            yield f"{field} has no group (?P<split>...), but folders define a split; add it, or use a list"


def _split_problems(spec: Benchmark) -> Iterator[str]:
    if not spec.splits:
        yield "splits is empty; set it to a folder of lists, or to '' if the folders of the images define the split"
    root = resources.files("scpseg.benchmarks") / "splits"
    for k, (name, folder) in enumerate(spec.splits.items()):
        if not folder:
            continue
        where = f"splits[{name!r}] names scpseg/benchmarks/splits/{folder}"
        if not (root / folder).is_dir():
            yield f"{where}, which is not a directory; put train.txt, val.txt and test.txt there"
            continue
        for found in read_folds(spec, name):
            scored = found["val"] or found["test"]
            lacking = "train.txt" if not found["train"] else "" if scored else "val.txt or test.txt"
            if lacking:
                yield f"{where}, whose {lacking} is missing or empty; list one id per line"
            sizes = tuple(len(found[part]) for part in PARTS)
            if k == 0 and sizes != spec.counts:
                yield f"counts is {spec.counts}, but the lists of split {name!r} have {sizes} ids; correct one of them"


def _twice(names: list[str]) -> str | None:
    """The first duplicate in the list."""
    return next((name for k, name in enumerate(names) if name in names[:k]), None)
