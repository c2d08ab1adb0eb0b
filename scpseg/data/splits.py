"""Which image belongs to train, val and test: the committed lists, or the user's own.

The committed lists are in `scpseg/benchmarks/splits`; docs/data.md says where they come from.
"""

from __future__ import annotations

import os
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from scpseg.benchmarks.base import Benchmark, Ids
from scpseg.errors import UserError

PARTS = ("train", "val", "test")


def read_split(spec: Benchmark, name: str) -> Ids:
    """Image ids of split `name` by 'train', 'val' and 'test', in the order of the lists.

    `name` is one of `spec.splits` or a folder with the user's own train.txt, val.txt and test.txt (one id a line;
    a missing list is an empty one). Empty mapping: the folders of the unpacked images give the split (BLU).

    Raises:
        UserError: neither a known name nor a folder, no list in the folder, or an id that stands twice.
    """
    if name not in spec.splits:
        return _checked(_read(_own_folder(spec, name)), f"{spec.name}.split folder {name}")
    if not spec.splits[name]:
        return {}
    return _checked(_read(resources.files("scpseg.benchmarks").joinpath("splits", spec.splits[name])), f"split {name}")


def _own_folder(spec: Benchmark, name: str) -> Path:
    """The user's folder; a relative one may count from the repository's root, where queued experiments do not run."""
    for folder in (Path(name).expanduser(), Path(os.environ.get("DVC_ROOT", ".")) / name):
        if name and folder.is_dir():
            if not any((folder / f"{part}.txt").is_file() for part in PARTS):
                raise UserError(
                    f"{spec.name}.split: folder {name} holds no list; put train.txt, val.txt, test.txt there"
                )
            return folder
    raise UserError(
        f"{spec.name}.split is {name!r}, which is neither a split (known: {', '.join(spec.splits)}) "
        "nor an existing folder of lists; name one of them"
    )


def _read(folder: Traversable | Path) -> Ids:
    """The lists of a folder; blank lines do not count."""
    ids: Ids = {}
    for part in PARTS:
        file = folder / f"{part}.txt"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        ids[part] = tuple(line.strip() for line in lines if line.strip())
    return ids


def _checked(ids: Ids, where: str) -> Ids:
    seen: dict[str, str] = {}
    for part, names in ids.items():
        for name in names:
            if name in seen:
                raise UserError(
                    f"{where}: id {name!r} stands in {seen[name]}.txt and again in {part}.txt; keep it once"
                )
            seen[name] = part
    return ids
