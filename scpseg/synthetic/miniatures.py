"""Procedural miniatures of the benchmarks in their upstreams' own archive layouts, names, formats and palettes.

The stages that fetch, verify, unpack and decode the real archives handle these with the same code. The same seed gives
the same bytes: archives carry one fixed date and nothing of the machine.
"""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import py7zr
import tifffile

from scpseg.benchmarks import get_benchmark
from scpseg.benchmarks.base import Benchmark, Ids
from scpseg.data.splits import PARTS, read_split
from scpseg.files import sha256, write_json
from scpseg.params import MirrorParams
from scpseg.synthetic.label_pictures import encoded, lossy, miscoded, palette, without_borders
from scpseg.synthetic.scenes import Bytes, scene

DATE = (2020, 1, 1, 0, 0, 0)
SECONDS = 1577836800
"""`DATE` for file systems: seconds since 1970, UTC."""
BAD_TILES = ("4_12", "6_7")
"""Potsdam's two faulty label tiles; upstream both lie in the train list, and the miniature keeps them."""
VOLUMES = 5
CLASS_NAMES = ("unknown", "urban_land", "agriculture_land", "rangeland", "forest_land", "water", "barren_land")
CITY_WITHOUT_LABELS = "bellingham1"


def write_miniature(benchmark: str, folder: Path, params: MirrorParams) -> list[dict[str, Any]]:
    """Write the archives of a miniature and archives.json to `folder`, which is there whole or not at all.

    Returns:
        Name, size (bytes) and sha256 of each archive, as archives.json lists them.

    Raises:
        UserError: there is no such benchmark.
    """
    spec = get_benchmark(benchmark)

    def write(partial: Path) -> None:
        WRITERS[benchmark](spec, partial, params)
        files = sorted(path for path in partial.iterdir())
        archives = [{"name": path.name, "size": path.stat().st_size, "sha256": sha256(path)} for path in files]
        note = f"procedural miniature of {spec.title}: synthetic scenes, no statement about the real benchmark"
        write_json(partial / "archives.json", {"benchmark": benchmark, "archives": archives, "note": note})
        listed.extend(archives)

    listed: list[dict[str, Any]] = []
    _replace_folder(folder, write)
    return listed


def write_nothing(benchmark: str, folder: Path) -> None:
    """Write an archives.json without archives: the data come from elsewhere, and the stage's output must exist."""
    listing = {"benchmark": benchmark, "archives": [], "note": "no miniature: data.source names another source"}
    _replace_folder(folder, lambda partial: write_json(partial / "archives.json", listing))


def miniature_ids(spec: Benchmark, params: MirrorParams) -> Ids:
    """The first ids of each list of the benchmark's default split; Potsdam's train holds its two faulty tiles.

    BLU and the probe have no lists, so their names are made up.
    """
    counts = dict(zip(PARTS, (params.train, params.val, params.test), strict=True))
    lists = read_split(spec, next(iter(spec.splits)))
    if not lists:
        return {part: tuple(f"area{PARTS.index(part) + 1}_{k:03d}" for k in range(counts[part])) for part in PARTS}
    if spec.name == "potsdam":
        others = [name for name in lists["train"] if name not in BAD_TILES]
        kept = {*BAD_TILES, *others[: params.train - len(BAD_TILES)]}
        lists["train"] = tuple(name for name in lists["train"] if name in kept)
    return {part: lists[part][: counts[part]] for part in PARTS}


def _scenes(spec: Benchmark, params: MirrorParams) -> Iterator[tuple[str, str, Bytes, Bytes]]:
    """(split, id, image, label) of every labelled image; a split's scenes do not depend on the others' number."""
    for part, names in miniature_ids(spec, params).items():
        for k, name in enumerate(names):
            yield part, name, *scene(spec.name, params.side, params.seed, 10_000 * PARTS.index(part) + k)


def _unlabelled(spec: Benchmark, params: MirrorParams, k: int) -> Bytes:
    return scene(spec.name, params.side, params.seed, 30_000 + k)[0]


def _write_deepglobe(spec: Benchmark, folder: Path, params: MirrorParams) -> None:
    """Every labelled image lies in train/, whatever its split; valid/ has no masks."""
    colours = [("name", "r", "g", "b"), *((n, *c.colour) for n, c in zip(CLASS_NAMES, spec.classes, strict=True))]
    rows = [("image_id", "split", "sat_image_path", "mask_path")]
    known = {name for names in read_split(spec, "glnet").values() for name in names}
    with zipfile.ZipFile(folder / "deepglobe-land-cover.zip", "w") as archive:
        for _, name, image, label in _scenes(spec, params):
            paths = f"train/{name}_sat.jpg", f"train/{name}_mask.png"
            _add(archive, paths[0], encoded(image, "JPEG", quality=90))
            _add(archive, paths[1], encoded(palette(spec)[label], "PNG"))
            rows.append((name, "train", *paths))
        free = (str(number) for number in range(100_000, 1_000_000) if str(number) not in known)
        for k, name in zip(range(2), free, strict=False):
            _add(archive, f"valid/{name}_sat.jpg", encoded(_unlabelled(spec, params, k), "JPEG", quality=90))
            rows.append((name, "valid", f"valid/{name}_sat.jpg", ""))
        for path, table in (("class_dict.csv", colours), ("metadata.csv", rows)):
            _add(archive, path, "".join(",".join(map(str, row)) + "\n" for row in table).encode())


def _write_inria(spec: Benchmark, folder: Path, params: MirrorParams) -> None:
    """A stored zip as the only member of a 7z cut into volumes; upstream's test half has no labels."""
    inner = folder / "NEW2-AerialImageDataset.zip"
    with zipfile.ZipFile(inner, "w") as archive:
        for _, name, image, label in _scenes(spec, params):
            _add(archive, f"AerialImageDataset/train/images/{name}.tif", _tiff(image), stored=True)
            _add(
                archive,
                f"AerialImageDataset/train/gt/{name}.tif",
                _tiff(palette(spec)[label][..., 0], "lzw"),
                stored=True,
            )
        test = _tiff(_unlabelled(spec, params, 0))
        _add(archive, f"AerialImageDataset/test/images/{CITY_WITHOUT_LABELS}.tif", test, stored=True)
    # 7z keeps the member's date and permissions.
    os.utime(inner, (SECONDS, SECONDS))
    inner.chmod(0o644)
    whole = folder / "aerialimagelabeling.7z"
    with py7zr.SevenZipFile(whole, "w", filters=[{"id": py7zr.FILTER_COPY}]) as seven:
        seven.write(inner, inner.name)
    inner.unlink()
    size = -(-whole.stat().st_size // VOLUMES)
    with whole.open("rb") as stream:
        for volume in range(1, VOLUMES + 1):
            (folder / f"{whole.name}.{volume:03d}").write_bytes(stream.read(size))
    whole.unlink()


def _write_potsdam(spec: Benchmark, folder: Path, params: MirrorParams) -> None:
    """The image zip has a top folder, the label zips have none; two label tiles are faulty."""
    with (
        zipfile.ZipFile(folder / "2_Ortho_RGB.zip", "w") as images,
        zipfile.ZipFile(folder / "5_Labels_all.zip", "w") as bordered,
        zipfile.ZipFile(folder / "5_Labels_all_noBoundary.zip", "w") as eroded,
    ):
        for _, name, image, label in _scenes(spec, params):
            _add(images, f"2_Ortho_RGB/top_potsdam_{name}_RGB.tif", _tiff(image))
            for archive, variant, ids in (
                (bordered, "label", label),
                (eroded, "label_noBoundary", without_borders(label)),
            ):
                colours = palette(spec)[ids]
                if name == BAD_TILES[0]:
                    colours = lossy(colours, params.seed)
                elif name == BAD_TILES[1]:
                    colours = miscoded(colours, ids == 4)
                _add(archive, f"top_potsdam_{name}_{variant}.tif", _tiff(colours))


def _write_folders(spec: Benchmark, folder: Path, params: MirrorParams) -> None:
    """PNG pairs in folders that give the split."""
    with zipfile.ZipFile(folder / f"{spec.title}.zip", "w") as archive:
        for part, name, image, label in _scenes(spec, params):
            _add(archive, f"{part.capitalize()}/image/{name}.png", encoded(image, "PNG"))
            _add(archive, f"{part.capitalize()}/label/{name}.png", encoded(palette(spec)[label], "PNG"))


WRITERS: dict[str, Callable[[Benchmark, Path, MirrorParams], None]] = {
    "deepglobe": _write_deepglobe,
    "inria": _write_inria,
    "potsdam": _write_potsdam,
    "blu": _write_folders,
    "probe": _write_folders,
}


def _tiff(picture: Bytes, compression: str | None = None) -> bytes:
    stream = io.BytesIO()
    photometric = "rgb" if picture.ndim == 3 else "minisblack"
    tifffile.imwrite(
        stream,
        picture,
        photometric=photometric,
        compression=compression,
        metadata=None,
        software=False,
        rowsperstrip=16,
    )
    return stream.getvalue()


def _add(archive: zipfile.ZipFile, name: str, content: bytes, stored: bool = False) -> None:
    """Add a member with the one date; date and permissions are all that a zip keeps of a machine."""
    member = zipfile.ZipInfo(name, DATE)
    member.create_system, member.external_attr = 3, 0o644 << 16
    archive.writestr(member, content, zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)


def _replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside `folder`, then put it in its place; what a killed run left there is removed."""
    partial, old = folder.with_name(f".{folder.name}-partial"), folder.with_name(f".{folder.name}-old")
    for left in (partial, old):
        if left.exists():
            shutil.rmtree(left)
    partial.mkdir(parents=True)
    try:
        write(partial)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    finally:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)
