"""Split lists: which image belongs to train, val and test, from the committed lists or the user's own.

The committed lists are in `scpseg/benchmarks/splits`; docs/data.md describes their origin.
"""

from __future__ import annotations

import os
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import takewhile
from pathlib import Path, PurePosixPath

from scpseg.benchmarks.base import Benchmark, Ids
from scpseg.errors import UserError
from scpseg.files import comparable, root

PARTS = ("train", "val", "test")
FOLD, MOST_FOLDS = "fold", 100
"""Name of the folders of a rotation, before their number; their largest number."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".npy")
"""File extensions in lists of file names instead of ids."""


def read_split(spec: Benchmark, name: str) -> Ids:
    """Image ids of split `name`, as `read_folds`; of a rotation, those of its first fold."""
    return read_folds(spec, name)[0]


def read_folds(spec: Benchmark, name: str) -> tuple[Ids, ...]:
    """Image ids of split `name` by 'train', 'val' and 'test', in the order of the lists, for each fold of a rotation.

    `name` is one of `spec.splits` or a folder with the user's own train.txt, val.txt and test.txt (one id per line; a
    missing list is empty). A folder with fold0, fold1, ... instead is a rotation: each image is tested in one of the
    folds, by models that were not trained on it. Other splits have one fold; it is empty if the folders of the
    unpacked images define the split (BLU).

    Raises:
        UserError: the name is neither a split nor a folder, the folder has no list, a list is not text or has a
            duplicated id, or an image is not tested exactly once in a rotation.
    """
    if name not in spec.splits:
        folder: Traversable | Path = _own_folder(spec, name)
        where = f"{spec.name}.split folder {name}"
    elif spec.splits[name]:
        folder, where = resources.files("scpseg.benchmarks").joinpath("splits", spec.splits[name]), f"split {name}"
    else:
        return ({},)
    parts = [folder / f"{FOLD}{number}" for number in range(MOST_FOLDS)]
    if not parts[0].is_dir():
        return (_read(spec, folder, where),)
    folds = [_read(spec, part, f"{where}, {part.name}") for part in takewhile(lambda part: part.is_dir(), parts)]
    return _rotation(folds, where)


def over_folds(counts: Mapping[str, int], folds: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, int]:
    """Numbers of images by part; of a rotation, those scored in all `folds`, and those the first is trained on."""
    return {part: sum(len(fold[part]) for fold in folds if part != "train") or counts[part] for part in counts}


def _rotation(folds: list[Ids], where: str) -> tuple[Ids, ...]:
    """The folds with ids spelled as in the first one, checked."""
    spelled = {comparable(id): id for ids in folds[0].values() for id in ids}
    tested: dict[str, str] = {}
    for number, fold in enumerate(folds):
        lacking = spelled.keys() ^ {comparable(id) for ids in fold.values() for id in ids}
        if lacking:
            raise UserError(
                f"{where}: id {min(lacking)!r} is in {FOLD}0 or {FOLD}{number}, but not in both; list every image in "
                "each fold"
            )
        for id in fold["test"]:
            first = tested.setdefault(comparable(id), f"{FOLD}{number}")
            if first != f"{FOLD}{number}":
                raise UserError(f"{where}: id {id!r} is tested in {first} and {FOLD}{number}; keep it in one test.txt")
    if untested := spelled.keys() - tested.keys():
        raise UserError(f"{where}: id {spelled[min(untested)]!r} is tested in no fold; add it to one test.txt")
    return tuple({part: tuple(spelled[comparable(id)] for id in ids) for part, ids in fold.items()} for fold in folds)


def _own_folder(spec: Benchmark, name: str) -> Path:
    """The user's folder; a relative path can also start at the root of the repository of a queued experiment."""
    for folder in (Path(name).expanduser(), root() / name):
        if name and folder.is_dir():
            if not (any((folder / f"{part}.txt").is_file() for part in PARTS) or (folder / f"{FOLD}0").is_dir()):
                raise UserError(
                    f"{spec.name}.split: folder {name} contains no list; put train.txt, val.txt, test.txt there, or "
                    f"in {FOLD}0, {FOLD}1, ... in it"
                )
            return folder
    raise UserError(
        f"{spec.name}.split is {name!r}, which is neither a split (known: {', '.join(spec.splits)}) "
        "nor an existing folder of lists; use one of them"
    )


def _read(spec: Benchmark, folder: Traversable | Path, where: str) -> Ids:
    """The lists in a folder, without blank lines and lines that start with #; file names are converted to ids.

    Raises:
        UserError: a list cannot be read as text, or has a duplicated id.
    """
    ids: Ids = {}
    seen: dict[str, str] = {}
    for part in PARTS:
        file, names = folder / f"{part}.txt", []
        for line in _text(file, f"{where}: {file.name}").splitlines() if _is_list(file, where) else ():
            if not (name := line.strip()) or name.startswith("#"):
                continue
            names.append(_id_of(spec, name))
            first = seen.setdefault(comparable(names[-1]), part)
            if first != part or len(seen) != sum(map(len, ids.values())) + len(names):
                raise UserError(f"{where}: id {names[-1]!r} is in {first}.txt and again in {part}.txt; keep it once")
        ids[part] = tuple(names)
    return ids


def _is_list(file: Traversable | Path, where: str) -> bool:
    if not file.is_file() and isinstance(file, Path) and os.path.lexists(file):
        raise UserError(f"{where}: {file.name} is not a file; make it a text file of ids")
    return file.is_file()


def _text(file: Traversable | Path, where: str) -> str:
    """The text of a list in UTF-8, or in UTF-16 with a byte order mark, as editors on Windows write it."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror}); change its permissions") from error
    coding = "utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(coding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not {'UTF-8' if coding == 'utf-8-sig' else 'UTF-16'} text; save it as UTF-8"
        ) from error
    if unprintable := next((letter for letter in text if not letter.isprintable() and letter not in "\r\n\t"), ""):
        raise UserError(f"{where} has the character {unprintable!r}, so it is not plain text; save it as UTF-8")
    return text


def _id_of(spec: Benchmark, name: str) -> str:
    """The id in a line: the line itself, or the id of the image or label file that it names."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.suffix.lower() not in SUFFIXES:
        return name
    for pattern in (spec.layout.image, *spec.layout.labels.values()):
        if match := re.search(pattern, path.as_posix(), re.IGNORECASE):
            return match["id"]
    return path.stem
