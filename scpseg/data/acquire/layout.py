"""Which file is which image or label of a benchmark, and which image belongs to which split."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from scpseg.benchmarks.base import Benchmark, Ids
from scpseg.data.splits import PARTS
from scpseg.errors import UserError

Kind = Literal["image", "label"]
Key = tuple[str, str]
"""(folder split or '', id in lower case): what an image and its label have in common."""
Files = dict[Key, dict[int, str]]
"""Paths by key and number."""
KINDS: tuple[Kind, Kind] = ("image", "label")
SHOWN = 5
"""Ids or files named in a message."""
EXTRACT = "_for_participants"
"""Potsdam.zip has the training labels twice: among all labels, and alone in archives with this in their name."""


@dataclass(frozen=True)
class Role:
    """What a path is: image or label, of which id, in which split's folder ('' where folders do not give the split).

    `number` counts the files of one image from 0 where it comes in parts.
    """

    kind: Kind
    split: str
    id: str
    number: int = 0

    @property
    def key(self) -> Key:
        """What image and label share."""
        return self.split, self.id.lower()


class Slot(NamedTuple):
    """What a file becomes: the image or label, or a part of it, of an id in a split of the store."""

    split: str
    id: str
    kind: Kind
    number: int = 0


@dataclass(frozen=True)
class Pair:
    """One image and its label, each as paths of the manifest: one, or the parts in their order."""

    id: str
    images: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Pairing:
    """The pairs of each split in the order of its list, how many the lists name, and warnings."""

    pairs: Mapping[str, tuple[Pair, ...]]
    expected: Mapping[str, int]
    warnings: tuple[str, ...]

    def paths(self) -> dict[Slot, str]:
        """The file for each slot."""
        return {
            Slot(split, pair.id, kind, number): path
            for split, pairs in self.pairs.items()
            for pair in pairs
            for kind, files in zip(KINDS, (pair.images, pair.labels), strict=True)
            for number, path in enumerate(files)
        }


def role_of(spec: Benchmark, variant: str, path: str) -> Role | None:
    """What the file at posix `path` is, None for everything else (hidden files, other label variants, ...)."""
    if any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(path).parts):
        return None
    for kind, pattern in zip(KINDS, (spec.layout.image, spec.layout.labels[variant]), strict=True):
        match = re.search(pattern, path, re.IGNORECASE)
        if match:
            found = match.groupdict()
            return Role(kind, (found.get("split") or "").lower(), found["id"], int(found.get("part") or 1) - 1)
    return None


def slots_of(spec: Benchmark, variant: str, lists: Ids) -> Callable[[str], Slot | None]:
    """A function that gives the slot of a file by its posix path, None where it is not wanted."""
    places = {id.lower(): (part, id) for part, ids in lists.items() for id in ids}

    def slot(path: str) -> Slot | None:
        role = role_of(spec, variant, path)
        if role is None:
            return None
        place = places.get(role.id.lower()) if lists else (role.split, role.id)
        return place and Slot(*place, role.kind, role.number)

    return slot


def pair_files(spec: Benchmark, variant: str, split: str, lists: Ids, paths: Iterable[str], partial: bool) -> Pairing:
    """Pair images with labels and sort them into splits.

    Args:
        spec: the benchmark.
        variant: which of its label files.
        split: name of the split, for messages.
        lists: ids by 'train', 'val', 'test'; empty where the folders give the split.
        paths: the manifest's files, posix.
        partial: part of the benchmark may be used.

    Raises:
        UserError: two files for one id, an image without label, a missing part of an image, or part of the benchmark
            although `partial` is false.
    """
    images, labels = _by_key(spec, variant, paths)
    by_folder = not lists
    if by_folder:
        roles = [role for files in images.values() if (role := role_of(spec, variant, next(iter(files.values()))))]
        lists = {part: tuple(sorted(role.id for role in roles if role.split == part)) for part in PARTS}
    else:
        images, labels = _without_folders(images), _without_folders(labels)
    chosen: dict[str, tuple[Pair, ...]] = {}
    missing: list[str] = []
    used: set[Key] = set()
    for part, ids in lists.items():
        keys = {id: (part if by_folder else "", id.lower()) for id in ids}
        missing += [id for id in ids if keys[id] not in images]
        used |= set(keys.values())
        chosen[part] = tuple(
            Pair(id, _parts(spec, images[key]), _label_of(spec, variant, images[key], labels.get(key)))
            for id, key in keys.items()
            if key in images
        )
    expected = {part: len(ids) for part, ids in lists.items()}
    unused = [min(files.values()) for key, files in images.items() if key in labels and key not in used]
    alone = [min(files.values()) for key, files in labels.items() if key not in images and (by_folder or key in used)]
    warnings = _told(spec, unused, f"labelled images are in no list of split {split!r} and not used")
    warnings += _told(spec, alone, "labels have no image and are not used")
    if by_folder and spec.counts:
        expected = dict(zip(PARTS, spec.counts, strict=True))
        warnings += _other_counts(spec, chosen)
    _expect_whole(spec, split, chosen, expected, missing, partial)
    return Pairing(chosen, expected, tuple(warnings))


def _by_key(spec: Benchmark, variant: str, paths: Iterable[str]) -> tuple[Files, Files]:
    found: dict[str, Files] = {kind: {} for kind in KINDS}
    for path in sorted(paths, key=lambda path: (EXTRACT in path, path)):
        role = role_of(spec, variant, path)
        if role is None:
            continue
        first = found[role.kind].setdefault(role.key, {}).setdefault(role.number, path)
        if first != path and EXTRACT not in path:
            raise UserError(
                f"{spec.name}: {first} and {path} are both the {role.kind} of {role.id}; remove one of them"
            )
    return found["image"], found["label"]


def _without_folders(found: Files) -> Files:
    """The same files by id alone, for lists that sort the images of a benchmark anew."""
    plain: Files = {}
    for (_, id), files in found.items():
        first = plain.setdefault(("", id), files)
        if first is not files:
            raise UserError(
                f"{min(first.values())} and {min(files.values())} have the same id {id}, so a list cannot tell them "
                "apart; rename one of them, or use the split that the folders give"
            )
    return plain


def _parts(spec: Benchmark, files: Mapping[int, str]) -> tuple[str, ...]:
    count = spec.layout.rows * spec.layout.columns
    if lacking := [number + 1 for number in range(count) if number not in files]:
        raise UserError(
            f"{spec.name}: of the {count} parts that {min(files.values())} belongs to, part "
            f"{', '.join(map(str, lacking))} is missing; add it, or remove the others"
        )
    return tuple(files[number] for number in range(count))


def _label_of(
    spec: Benchmark, variant: str, image: Mapping[int, str], label: Mapping[int, str] | None
) -> tuple[str, ...]:
    if label is None:
        raise UserError(
            f"{spec.name}: image {min(image.values())} has no label file ({variant}); add the label or remove the image"
        )
    return _parts(spec, label)


def _told(spec: Benchmark, paths: list[str], what: str) -> list[str]:
    return [f"{spec.name}: {len(paths)} {what}, e.g. {_few(paths)}"] if paths else []


def _other_counts(spec: Benchmark, chosen: Mapping[str, tuple[Pair, ...]]) -> list[str]:
    counts = tuple(len(chosen[part]) for part in PARTS)
    if counts == spec.counts:
        return []
    return [f"{spec.name}: {_slashes(counts)} images in train/val/test, where {_slashes(spec.counts)} are reported"]


def _expect_whole(
    spec: Benchmark,
    split: str,
    chosen: Mapping[str, tuple[Pair, ...]],
    expected: Mapping[str, int],
    missing: list[str],
    partial: bool,
) -> None:
    found = {part: len(pairs) for part, pairs in chosen.items()}
    count = f"{sum(found.values())} of {sum(expected.values())} images of split {split!r} found"
    if not any(found.values()):
        raise UserError(
            f"{spec.name}: {count}; put images of its lists into data.source, or name other lists in {spec.name}.split"
        )
    empty = [part for part, number in expected.items() if number and not found[part]]
    if partial or not (missing or empty):
        return
    parts = ", ".join(f"{part} {found[part]} of {number}" for part, number in expected.items())
    lacking = f"missing e.g. {_few(missing)}" if missing else f"no image in {' and '.join(empty)}"
    raise UserError(
        f"{spec.name}: only {count} ({parts}), {lacking}; complete data.source, "
        "or set data.partial: true to use the part that is there"
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _slashes(counts: Iterable[int]) -> str:
    return "/".join(map(str, counts))
