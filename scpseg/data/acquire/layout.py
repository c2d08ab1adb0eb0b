"""Match files to the images and labels of a benchmark, and images to splits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from scpseg.benchmarks.base import Benchmark, Ids
from scpseg.data.acquire.unpacker import is_hidden
from scpseg.data.splits import PARTS
from scpseg.errors import UserError
from scpseg.files import comparable

Kind = Literal["image", "label"]
KINDS: tuple[Kind, Kind] = ("image", "label")
SHOWN = 5  # ids or files named in a message
LONGEST = 255 - len(".image.json")  # bytes of an id, in the longest name that a file of it has
EXTRACT = "_for_participants"
"""Potsdam.zip has the training labels twice: with all labels, and alone in archives with this in their name."""


class Slot(NamedTuple):
    """What a file is or becomes: the image or label of an id in a split ('' = not known), or part `number` of it."""

    split: str
    id: str
    kind: Kind
    number: int = 0


class Pairing(NamedTuple):
    """The images that have a label."""

    ids: Mapping[str, tuple[str, ...]]  # those of each split, in the order of its list
    paths: Mapping[Slot, str]  # the file of each slot
    expected: Mapping[str, int]  # how many the lists name by split
    warnings: tuple[str, ...]  # sentences for people


def role_of(spec: Benchmark, variant: str, path: str) -> Slot | None:
    """The role of the file at posix `path`, or None (hidden files, other kinds of labels, ...)."""
    for kind, pattern in zip(KINDS, (spec.layout.image, spec.layout.labels[variant]), strict=True):
        if (match := re.search(pattern, path, re.IGNORECASE)) and not is_hidden(path):
            found = match.groupdict()
            return Slot((found.get("split") or "").lower(), found["id"], kind, int(found.get("part") or 1) - 1)
    return None


def pair_files(spec: Benchmark, variant: str, split: str, lists: Ids, paths: Iterable[str], partial: bool) -> Pairing:
    """Pair the files at posix `paths`, images with labels, and sort them into splits.

    `lists` is empty if folders define the split. UserError where an id has two files, an image has no label or lacks a
    part, or, without `partial`, an image is missing.
    """
    by_folder, numbers = not lists, range(spec.layout.rows * spec.layout.columns)
    files: dict[Slot, str] = {}
    # The id as it is written, and the first file, by kind, and by split ('' if lists define it) and comparable id.
    found: dict[Kind, dict[tuple[str, str], tuple[str, str]]] = {kind: {} for kind in KINDS}
    for path in sorted(paths, key=lambda path: (EXTRACT in path, path)):
        if role := role_of(spec, variant, path):
            key = (role.split if by_folder else "", comparable(role.id))
            first = files.setdefault(Slot(*key, role.kind, role.number), path)
            if first != path and EXTRACT not in path:
                what = f"{first} and {path} are both the {role.kind} of {role.id}"
                raise UserError(f"{spec.name}: {what}; remove or rename one of them")
            found[role.kind].setdefault(key, (role.id, path))
            if len(os.fsencode(role.id)) > LONGEST:
                raise UserError(f"{spec.name}: {path} has an id of more than {LONGEST} bytes; rename image and label")
    images, labels = found["image"], found["label"]
    if by_folder:
        lists = {part: tuple(sorted(id for (place, _), (id, _) in images.items() if place == part)) for part in PARTS}
    keys = {(part, id): (part if by_folder else "", comparable(id)) for part, ids in lists.items() for id in ids}
    chosen = {part: tuple(id for id in ids if keys[part, id] in images) for part, ids in lists.items()}
    slots: dict[Slot, str] = {}
    for (part, id), key in ((name, key) for name, key in keys.items() if key in images):
        if key not in labels:
            why = f"image {images[key][1]} has no label file ({variant})"
            raise UserError(f"{spec.name}: {why}; add the label or remove the image")
        for kind in KINDS:
            if absent := [str(number + 1) for number in numbers if Slot(*key, kind, number) not in files]:
                why = f"of the {len(numbers)} parts that {found[kind][key][1]} belongs to, part {', '.join(absent)}"
                raise UserError(f"{spec.name}: {why} is missing; add it, or remove the others")
            slots |= {Slot(part, id, kind, number): files[Slot(*key, kind, number)] for number in numbers}
    counts, expected = ({part: len(ids) for part, ids in named.items()} for named in (chosen, lists))
    missing, used = [id for (_, id), key in keys.items() if key not in images], set(keys.values())
    unused = [path for key, (_, path) in images.items() if key in labels and key not in used]
    alone = [path for key, (_, path) in labels.items() if key not in images and (by_folder or key in used)]
    odd = {f"labelled images are in no list of split {split!r}": unused, "labels have no image": alone}
    warnings = [f"{spec.name}: {len(p)} {what} and not used, e.g. {few(p)}" for what, p in odd.items() if p]
    if by_folder and spec.counts:
        expected = dict(zip(PARTS, spec.counts, strict=True))
        if counts != expected:
            there, published = ("/".join(map(str, number.values())) for number in (counts, expected))
            warnings.append(f"{spec.name}: {there} images in train/val/test, but {published} are published")
    total = f"{sum(counts.values())} of {sum(expected.values())} images of split {split!r} found"
    if not any(counts.values()):
        todo = f"put images of its lists into data.source, or name other lists in {spec.name}.split"
        raise UserError(f"{spec.name}: {total}; {todo}")
    lacking = [f"no image in {part}" for part, number in expected.items() if number and not counts[part]]
    if (missing or lacking) and not partial:
        parts = ", ".join(f"{part} {counts[part]} of {number}" for part, number in expected.items())
        why = f"missing e.g. {few(missing)}" if missing else " and ".join(lacking)
        todo = "complete data.source, or set data.partial: true to use the part that is there"
        raise UserError(f"{spec.name}: only {total} ({parts}), {why}; {todo}")
    return Pairing(chosen, slots, expected, tuple(warnings))


def few(names: list[str]) -> str:
    """The first names, as text."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
