"""Which file is which image or label of a benchmark, and which image belongs to which split."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from scpseg.benchmarks.base import Benchmark, Ids
from scpseg.data.splits import PARTS
from scpseg.errors import UserError

Key = tuple[str, str]
"""(folder split or '', id in lower case): what an image and its label have in common."""
Slot = tuple[str, str, str]
"""Place of a file in the store: split, id, 'image' or 'label'."""
KINDS = ("image", "label")
SHOWN = 5
"""Ids or files named in a message."""
EXTRACT = "_for_participants"
"""Potsdam.zip holds the training labels twice: among all labels, and alone in archives whose name has this in it."""


@dataclass(frozen=True)
class Role:
    """What a path is: image or label, of which id, in which split's folder ('' where folders say nothing)."""

    kind: Literal["image", "label"]
    split: str
    id: str

    @property
    def key(self) -> Key:
        """What image and label share."""
        return self.split, self.id.lower()


@dataclass(frozen=True)
class Pair:
    """One image and its label, as paths of the manifest."""

    id: str
    image: str
    label: str


@dataclass(frozen=True)
class Pairing:
    """The pairs of each split in the order of its list, how many the lists name, and what deserves a word."""

    pairs: Mapping[str, tuple[Pair, ...]]
    expected: Mapping[str, int]
    warnings: tuple[str, ...]


def role_of(spec: Benchmark, variant: str, path: str) -> Role | None:
    """What the file at posix `path` is, None for everything else (hidden files, other label variants, ...)."""
    if any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(path).parts):
        return None
    patterns: tuple[tuple[Literal["image", "label"], str], ...] = (
        ("image", spec.layout.image),
        ("label", spec.layout.labels[variant]),
    )
    for kind, pattern in patterns:
        match = re.search(pattern, path, re.IGNORECASE)
        if match:
            found = match.groupdict()
            return Role(kind, (found.get("split") or "").lower(), found["id"])
    return None


def slots_of(spec: Benchmark, variant: str, lists: Ids) -> Callable[[str], Slot | None]:
    """A function that says of a posix path where in the store the file goes, None where it is not wanted."""
    places = {id.lower(): (part, id) for part, ids in lists.items() for id in ids}

    def slot(path: str) -> Slot | None:
        role = role_of(spec, variant, path)
        if role is None:
            return None
        place = places.get(role.id.lower()) if lists else (role.split, role.id)
        return place and (*place, role.kind)

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
        UserError: two files for one id, an image without label, a part of the benchmark without leave.
    """
    images, labels = _by_key(spec, variant, paths)
    by_folder = not lists
    if by_folder:
        roles = [role for path in images.values() if (role := role_of(spec, variant, path))]
        lists = {part: tuple(sorted(role.id for role in roles if role.split == part)) for part in PARTS}
    else:
        images, labels = _without_folders(images), _without_folders(labels)
    chosen: dict[str, tuple[Pair, ...]] = {}
    missing: list[str] = []
    used: set[Key] = set()
    for part, ids in lists.items():
        pairs = []
        for id in ids:
            key = (part if by_folder else "", id.lower())
            if key not in images:
                missing.append(id)
                continue
            used.add(key)
            pairs.append(Pair(id, images[key], _label_of(spec, variant, images[key], labels.get(key))))
        chosen[part] = tuple(pairs)
    expected = {part: len(ids) for part, ids in lists.items()}
    warnings = _unused(spec, split, [path for key, path in images.items() if key in labels and key not in used])
    if by_folder:
        expected = dict(zip(PARTS, spec.counts, strict=True))
        warnings += _other_counts(spec, chosen)
    _refuse_part(spec, split, chosen, expected, missing, partial)
    return Pairing(chosen, expected, tuple(warnings))


def _by_key(spec: Benchmark, variant: str, paths: Iterable[str]) -> tuple[dict[Key, str], dict[Key, str]]:
    found: dict[str, dict[Key, str]] = {"image": {}, "label": {}}
    for path in sorted(paths, key=lambda path: (EXTRACT in path, path)):
        role = role_of(spec, variant, path)
        if role is None:
            continue
        first = found[role.kind].setdefault(role.key, path)
        if first != path and EXTRACT not in path:
            raise UserError(
                f"{spec.name}: {first} and {path} are both the {role.kind} of {role.id}; remove one of them"
            )
    return found["image"], found["label"]


def _without_folders(found: Mapping[Key, str]) -> dict[Key, str]:
    """The same files by id alone, for lists that sort the images of a benchmark anew."""
    plain: dict[Key, str] = {}
    for (_, id), path in found.items():
        if ("", id) in plain:
            raise UserError(
                f"{plain['', id]} and {path} have the same id {id}, so a list cannot tell them apart; "
                "rename one of them, or take the split that the folders give"
            )
        plain["", id] = path
    return plain


def _label_of(spec: Benchmark, variant: str, image: str, label: str | None) -> str:
    if label is None:
        raise UserError(f"{spec.name}: image {image} has no label file ({variant}); add the label or remove the image")
    return label


def _unused(spec: Benchmark, split: str, paths: list[str]) -> list[str]:
    if not paths:
        return []
    return [
        f"{spec.name}: {len(paths)} labelled images are in no list of split {split!r} and not used, e.g. {_few(paths)}"
    ]


def _other_counts(spec: Benchmark, chosen: Mapping[str, tuple[Pair, ...]]) -> list[str]:
    counts = tuple(len(chosen[part]) for part in PARTS)
    if counts == spec.counts:
        return []
    return [f"{spec.name}: {_slashes(counts)} images in train/val/test, where {_slashes(spec.counts)} are reported"]


def _refuse_part(
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
