"""Write synthetic miniatures of the benchmarks with the archive layouts, names, formats and colours of the originals.

The stages that verify, unpack and decode the real archives process them with the same code. The same parameters give
the same bytes: archives have one fixed date and contain nothing from the machine.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from scpseg.benchmarks.base import Benchmark, Bytes, Ids, Packed, Scene
from scpseg.data.splits import PARTS, read_split
from scpseg.errors import UserError
from scpseg.files import sha256, write_json
from scpseg.params import MirrorParams


@dataclass(frozen=True)
class Pictures:
    """The images of a miniature, drawn on demand; those of a split do not depend on the sizes of the other splits."""

    spec: Benchmark
    params: MirrorParams

    def __iter__(self) -> Iterator[tuple[str, str, Bytes, Bytes]]:
        """(split, id, image, training ids) of every labelled image."""
        for place, (split, ids) in enumerate(miniature_ids(self.spec, self.params).items()):
            for k, name in enumerate(ids):
                yield split, name, *self.draw(10_000 * place + k)[:2]

    def unlabelled(self, k: int) -> Bytes:
        """Image number `k` of those that the original publishes without labels."""
        return self.draw(30_000 + k).image

    def draw(self, number: int) -> Scene:
        """Draw one scene of this miniature."""
        side = self.params.side
        assert self.spec.miniature is not None
        scene = self.spec.miniature.draw(side, self.params.seed, number)
        got = [(array.shape, str(array.dtype)) for array in scene[:2]]
        if got != [((side, side, 3), "uint8"), ((side, side), "uint8")]:
            why = f"draws {got}; an image (side, side, 3) and training ids (side, side), both uint8, are required"
            raise UserError(f"scpseg/benchmarks/{self.spec.name}.py {why}")
        return scene

    def colours(self, label: Bytes) -> Bytes:
        """Convert (H, W) training ids to (H, W, 3) colours of the label files; ignored pixels are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.spec.classes)] = [cls.colour for cls in self.spec.classes]
        return table[label]


def write_miniature(spec: Benchmark, folder: Path, params: MirrorParams | None) -> list[dict[str, Any]]:
    """Write the archives of a miniature and archives.json to `folder`, atomically.

    Without `params`, no archives are written: the data come from elsewhere, but the stage needs an output. Returns
    name, size (bytes) and sha256 of each archive, as in archives.json.

    Raises:
        UserError: the benchmark has no miniature, or its drawing function returns the wrong type.
    """
    note = "no miniature: data.source names another source"
    partial = folder.with_name(f".{folder.name}-partial")
    shutil.rmtree(partial, ignore_errors=True)  # what a killed run left
    partial.mkdir(parents=True)
    try:
        if params:
            if (miniature := spec.miniature) is None:
                raise UserError(f"{spec.name} has no synthetic miniature; set data.source to the location of its files")
            _write_zips(partial, (miniature.pack or pack_folders)(Pictures(spec, params)))
            if miniature.wrap:
                miniature.wrap(partial)
            note = f"synthetic miniature of {spec.title}: synthetic scenes, no statement about the real benchmark"
        files = sorted(partial.iterdir())
        archives = [{"name": path.name, "size": path.stat().st_size, "sha256": sha256(path)} for path in files]
        write_json(partial / "archives.json", {"benchmark": spec.name, "archives": archives, "note": note})
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        return archives
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def miniature_ids(spec: Benchmark, params: MirrorParams) -> Ids:
    """The first ids of each list of the benchmark's default split, or invented names if folders define the split."""
    counts, lists = asdict(params), read_split(spec, next(iter(spec.splits)))
    kept = spec.miniature.kept if spec.miniature else ()
    if not lists:
        lists = {part: tuple(f"area{k}_{n:03d}" for n in range(counts[part])) for k, part in enumerate(PARTS, 1)}
    chosen = sorted(lists["train"], key=lambda name: name not in kept)[: params.train]
    lists["train"] = tuple(name for name in lists["train"] if name in chosen)
    return {part: lists[part][: counts[part]] for part in PARTS}


def pack_folders(pictures: Pictures) -> Packed:
    """Pack <title>.zip with PNG pairs <Split>/image/<id>.png and <Split>/label/<id>.png."""
    for split, name, image, label in pictures:
        for kind, picture in (("image", image), ("label", pictures.colours(label))):
            yield f"{pictures.spec.title}.zip", f"{split.capitalize()}/{kind}/{name}.png", picture


def _write_zips(folder: Path, members: Packed) -> None:
    """Write the zips, which contain fixed dates and permissions only, and pictures without metadata."""
    with ExitStack() as stack:
        archive = cache(lambda name: stack.enter_context(zipfile.ZipFile(folder / name, "w")))
        for name, path, picture in members:
            member = zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0))
            member.create_system, member.external_attr = 3, 0o644 << 16
            content = io.BytesIO()
            if path.endswith(".tif"):
                photometric, compression = ("rgb", None) if picture.ndim == 3 else ("minisblack", "lzw")
                tifffile.imwrite(content, picture, photometric=photometric, compression=compression, metadata=None,
                                 software=False, rowsperstrip=16)  # fmt: skip
            else:
                Image.fromarray(picture).save(content, "PNG" if path.endswith(".png") else "JPEG", quality=90)
            archive(name).writestr(member, content.getvalue(), zipfile.ZIP_DEFLATED)
