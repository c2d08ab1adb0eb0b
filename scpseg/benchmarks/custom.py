"""A benchmark from the user's own files, without code: <data.source>/custom with images/, labels/ and classes.csv.

It exists if that folder contains a classes.csv with the columns id, name, colour and scored:

    id,name,colour,scored
    0,ground,#808080,no
    1,roof,#ff0000,yes
    255,unlabelled,#000000,ignore

`id` is the value in labels of kind 'index' (PNG, also with a palette, TIFF or .npy), `colour` that in labels of kind
'colour'. Classes have the order of the rows; a row with `scored` 'ignore' is neither trained on nor scored.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from scpseg.benchmarks.base import Benchmark, Class, Colour, Ids, Layout
from scpseg.errors import UserError
from scpseg.files import comparable, root
from scpseg.validation import parse_yaml

NAME, FILE = "custom", "classes.csv"
COLUMNS = ("id", "name", "colour", "scored")
SEEDS = 5
"""Splits that are drawn at random: 'drawn0' to 'drawn4'."""
SHARES = {"test": 0.2, "val": 0.1}
"""Shares of the images, at least one image each; the others are for training."""
INDEX, COLOUR = "index", "colour"


def custom_folder() -> Path | None:
    """The folder of the user's benchmark, or None if params.yaml has none with a classes.csv."""
    try:
        values = parse_yaml(Path("params.yaml").read_text(encoding="utf-8"), "params.yaml")
        source = values["data"]["source"]
        folder = root() / Path(source).expanduser() / NAME
        return folder if (folder / FILE).is_file() else None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, UserError):  # reported when parameters are read
        return None


def read_benchmark(folder: Path) -> Benchmark:
    """Read the benchmark that `folder` describes.

    Raises:
        UserError: classes.csv does not have the format above.
    """
    classes, values, ignored = _read(folder / FILE)
    return Benchmark(
        name=NAME,
        title="Custom",
        side=2048,
        any_size=True,
        counts=(0, 0, 0),
        ground_sampling=None,
        classes=classes,
        values=values,
        ignored=ignored,
        decoding="exact",
        layout=Layout(
            image=r"(^|/)images/(?P<split>)(?P<id>[^/]+)\.(png|jpe?g|tiff?)$",
            labels={
                INDEX: r"(^|/)labels/(?P<split>)(?P<id>[^/]+)\.(png|tiff?|npy)$",
                COLOUR: r"(^|/)labels/(?P<split>)(?P<id>[^/]+)\.(png|tiff?)$",
            },
        ),
        splits={f"drawn{seed}": "" for seed in range(SEEDS)},
        terms="your own files.",
        citation="your own files.",
        by_hand=f"put images/, labels/ and {FILE} into the folder {NAME} of data.source",
    )


def with_values(spec: Benchmark, labels: str) -> Benchmark:
    """`spec` with the decoding for this kind of labels: class ids as grey values if the kind is 'index'."""
    if labels != INDEX or not spec.values:
        return spec
    count = len(spec.classes)
    grey: list[Colour] = [(value, value, value) for value in spec.values]
    classes = tuple(replace(cls, colour=colour) for cls, colour in zip(spec.classes, grey[:count], strict=True))
    return replace(spec, classes=classes, ignored=tuple(grey[count:]), indexed=True)


def draw_split(name: str, ids: Iterable[str]) -> Ids:
    """Image ids by 'train', 'val' and 'test', drawn with the seed in `name`; equal ids give equal splits everywhere.

    Raises:
        UserError: fewer than three images.
    """
    order = sorted({comparable(id): id for id in ids}.values(), key=lambda id: _draw(name, id))
    if len(order) < 3:
        raise UserError(
            f"{NAME} has {len(order)} images; train, val and test need one each: add images to {NAME}/images"
        )
    found, first = {}, 0
    for part, share in SHARES.items():
        last = first + max(1, round(len(order) * share))
        found[part], first = tuple(sorted(order[first:last])), last
    return {"train": tuple(sorted(order[first:])), "val": found["val"], "test": found["test"]}


def _draw(name: str, id: str) -> bytes:
    return hashlib.sha256(f"{name}/{comparable(id)}".encode()).digest()


def _read(path: Path) -> tuple[tuple[Class, ...], tuple[int, ...], tuple[Colour, ...]]:
    where = f"{NAME}/{FILE}"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where} cannot be read ({error}); save it as UTF-8 text") from error
    table = csv.DictReader(lines, skipinitialspace=True)
    if lacking := [name for name in COLUMNS if name not in (table.fieldnames or ())]:
        raise UserError(f"{where} lacks column {', '.join(lacking)}; its first line must be {','.join(COLUMNS)}")
    found: dict[str, list[tuple[int, Class]]] = {"yes": [], "no": [], "ignore": []}
    rows: list[tuple[int, Class]] = []
    for row in table:
        number = table.line_num  # counts blank lines too
        value, name, colour, scored = ((row[key] or "").strip() for key in COLUMNS)
        if not value.isdecimal() or int(value) > 255:
            raise UserError(f"{where}, line {number}: id is {value!r}; use a whole number from 0 to 255")
        if not (match := re.fullmatch(r"#?([0-9a-fA-F]{6})", colour)):
            raise UserError(f"{where}, line {number}: colour is {colour!r}; write it like #ff8000")
        if not name or scored not in found:
            raise UserError(f"{where}, line {number}: add a name, and yes, no or ignore in column scored")
        red, green, blue = bytes.fromhex(match[1])
        entry = int(value), Class(name, (red, green, blue), scored == "yes")
        found[scored].append(entry)
        rows.append(entry)
    for what, keys in (
        ("id", [value for value, _ in rows]),
        ("name", [cls.name for _, cls in rows]),
        ("colour", [cls.colour for _, cls in rows]),
    ):
        if twice := [key for k, key in enumerate(keys) if key in keys[:k]]:
            raise UserError(f"{where}: {what} {twice[0]} is duplicated; use different ones")
    classes = [entry for entry in rows if entry not in found["ignore"]]
    if not found["yes"] or len(classes) < 2:
        raise UserError(
            f"{where} has {len(classes)} classes, {len(found['yes'])} scored; define at least two, one scored"
        )
    values = tuple(value for value, _ in (*classes, *found["ignore"]))
    return tuple(cls for _, cls in classes), values, tuple(cls.colour for _, cls in found["ignore"])
