"""Reading random windows, and whole training batches."""

from __future__ import annotations

import itertools
import os
import pickle
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines.bench.rows import MIB, Peer, Row, Work, compared, interleaved, same, version
from pipelines.bench.scene import scene, write_store
from scpseg.contract import Needs
from scpseg.data.sampling import Cut, WindowDataset, loader
from scpseg.data.store import Store, image_path
from scpseg.data.windows import Bytes, cut_image

SIDE, WINDOW, TILE = 5000, 512, 256
"""Sides in pixels of the image, of a window, and of the tiles of the peers' files (GDAL's default)."""
MANY, COLD = 100, 20
"""Windows read per repeat, from a warm and from a cold page cache."""
GDAL_CACHE = 16
"""MiB of GDAL's cache of decoded tiles: less than an image, as a benchmark has more images than memory."""
BATCH, STEPS, PATCH = 16, 4, 256
"""Windows per batch, batches per repeat, and the patch in the middle of each window of `WINDOW` pixels."""
Read = Callable[[int, int], Bytes]
TIFF = "tiles of 256, dataset kept open, block cache of 16 MiB"
READERS = (
    Peer(f"rasterio, uncompressed GeoTIFF, {TIFF}", "rasterio", "plain", 1.0),
    Peer(f"rasterio, GeoTIFF with zstd (level 9, predictor 2), {TIFF}", "rasterio", "zstd", 10.0),
    Peer(
        "tensorstore, zarr without codec, chunks of 3 x 256 x 256, array kept open", "tensorstore", "tensorstore", 2.0
    ),
    Peer("torchgeo, RasterDataset on the uncompressed GeoTIFF", "torchgeo", "torchgeo", 10.0),
    Peer("Pillow, whole image from PNG, then a crop", "pillow", "png", 500.0),
    Peer("Pillow, whole image from JPEG (quality 95), then a crop", "pillow", "jpeg", 500.0),
)


class Files:
    """The scene in every format, in one folder."""

    def __init__(self, folder: Path) -> None:
        """Write them."""
        self.folder = folder
        self.image, self.label = scene(SIDE)
        write_store(folder / "store", self.image, self.label)
        self.store = Store(folder / "store")
        Image.fromarray(self.image).save(folder / "image.png", compress_level=6)
        Image.fromarray(self.image).save(folder / "image.jpg", quality=95)
        if version("rasterio"):
            self._write_tiff("plain-image", self.image.transpose(2, 0, 1))
            self._write_tiff("zstd-image", self.image.transpose(2, 0, 1), compress="zstd", predictor=2)
            self._write_tiff("plain-label", self.label[None])
        if version("tensorstore"):
            self.tensorstore = self._write_zarr()

    def _write_tiff(self, name: str, bands: Bytes, **options: Any) -> None:
        import rasterio
        from rasterio.transform import from_origin

        profile = {"driver": "GTiff", "dtype": "uint8", "tiled": True, "blockxsize": TILE, "blockysize": TILE}
        sizes = {"count": len(bands), "height": SIDE, "width": SIDE}
        place = {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, 1, 1)}
        path = self.folder / f"{name}.tif"
        with rasterio.open(path, "w", **profile, **sizes, **place, interleave="pixel", **options) as file:
            file.write(bands)

    def _write_zarr(self) -> Any:
        import tensorstore

        one = {"limit": 1}
        spec = {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": str(self.folder / "zarr")},
            "metadata": {"shape": [3, SIDE, SIDE], "chunks": [3, TILE, TILE], "dtype": "|u1", "compressor": None},
            "context": {
                "data_copy_concurrency": one,
                "file_io_concurrency": one,
                "cache_pool": {"total_bytes_limit": 0},
            },
        }
        array = tensorstore.open(spec, create=True, delete_existing=True).result()
        array.write(self.image.transpose(2, 0, 1)).result()
        return array

    def readers(self) -> dict[str, Read]:
        """Functions that return the window (3, 512, 512) at (top, left), by name."""
        found: dict[str, Read] = {
            "ours": lambda top, left: cut_image(self.store.image("train", "0"), top, left, WINDOW, WINDOW),
            "png": lambda top, left: decoded(self.folder / "image.png", top, left),
            "jpeg": lambda top, left: decoded(self.folder / "image.jpg", top, left),
        }
        if version("rasterio"):
            found |= {name: _gdal(self.folder / f"{name}-image.tif") for name in ("plain", "zstd")}
        if version("tensorstore"):
            found["tensorstore"] = self._from_zarr
        if version("torchgeo"):
            found["torchgeo"] = _Geo(self.folder).window
        return found

    def _from_zarr(self, top: int, left: int) -> Bytes:
        found: Bytes = self.tensorstore[:, top : top + WINDOW, left : left + WINDOW].read(order="C").result()
        return found


def decoded(path: Path, top: int, left: int) -> Bytes:
    """Decode a whole file, then copy the window."""
    with Image.open(path) as picture:
        return cut_image(np.asarray(picture), top, left, WINDOW, WINDOW)


def _gdal(path: Path) -> Read:
    """Reads from a dataset that stays open."""
    import rasterio
    from rasterio.windows import Window

    file = rasterio.open(path)

    def read(top: int, left: int) -> Bytes:
        found: Bytes = file.read(window=Window(left, top, WINDOW, WINDOW))
        return found

    return read


class _Geo:
    """The data set that a user of torchgeo would write: images and masks by file name, and its random sampler."""

    def __init__(self, folder: Path) -> None:
        from torchgeo.datasets import RasterDataset

        class Images(RasterDataset):  # type: ignore[misc]
            filename_glob = "plain-image.tif"

        class Masks(RasterDataset):  # type: ignore[misc]
            filename_glob = "plain-label.tif"
            is_image = False

        self.images, self.masks = Images(folder), Masks(folder)
        self.left, self.top = 500_000, 5_000_000

    def window(self, top: int, left: int) -> Bytes:
        """The window at a position, as the sampler would ask for it; float32."""
        x, y = self.left + left, self.top - top
        found: Bytes = self.images[slice(x, x + WINDOW), slice(y - WINDOW, y)]["image"].numpy()
        return found

    def batches(self, steps: int) -> Work:
        """Random batches of image and mask, flipped and turned by kornia, in one process."""
        import kornia.augmentation as augment
        from torch.utils.data import DataLoader
        from torchgeo.datasets import stack_samples
        from torchgeo.samplers import RandomGeoSampler

        both = self.images & self.masks
        turn = augment.AugmentationSequential(
            augment.RandomHorizontalFlip(p=0.5), augment.RandomRotation90((0, 3), p=1.0), data_keys=None
        )

        def work() -> None:
            sampler = RandomGeoSampler(both, size=WINDOW, length=steps * BATCH)
            for batch in DataLoader(both, batch_size=BATCH, sampler=sampler, collate_fn=stack_samples):
                turn({"image": batch["image"], "mask": batch["mask"].float()})

        return work


def reading(files: Files, repeats: int) -> list[Row]:
    """Random windows from a warm and from a cold page cache."""
    random = np.random.default_rng(0)
    corners = [(int(top), int(left)) for top, left in random.integers(0, SIDE - WINDOW, (MANY, 2))]
    readers = files.readers()
    whole = {"png", "jpeg"}
    for name, read in readers.items():
        for corner in corners[:1] if name in whole else corners:
            if name != "jpeg":  # loses details
                same(readers["ours"](*corner), read(*corner), f"windows by {name}")
    works = {name: _each(read, corners[:1] if name in whole else corners) for name, read in readers.items()}
    took = dict(interleaved(works, repeats))
    for name in whole & took.keys():
        took[name] = [seconds * MANY for seconds in took[name]]
    copied = interleaved({"copy": partial(copy_all, files.store, corners)}, repeats)["copy"]
    share = statistics.median(copied) / statistics.median(took["ours"])
    limit = f"copying the same bytes from the page cache takes {share:.0%} of it"
    note = f"the same {MANY} windows; processor time of all threads"
    scale = 1e3 / MANY
    rows = compared("windows", "random 512 windows of 5000 x 5000, warm", "ms", scale, took, READERS, limit, note)
    return rows + _held(readers, corners, repeats) + _cold(files, readers, corners[:COLD], repeats)


def _held(readers: dict[str, Read], corners: list[tuple[int, int]], repeats: int) -> list[Row]:
    """The same where GDAL's cache holds the whole decoded image, as with few or small images."""
    if "zstd" not in readers:
        return []
    from rasterio._env import set_gdal_config

    set_gdal_config("GDAL_CACHEMAX", 2**30)
    took = interleaved({name: _each(readers[name], corners) for name in ("ours", "zstd")}, repeats)
    set_gdal_config("GDAL_CACHEMAX", GDAL_CACHE * MIB)
    peers = [Peer("rasterio, GeoTIFF with zstd, every tile decoded before", "rasterio", "zstd")]
    note = "the store keeps nothing decoded but what the page cache holds"
    return compared(
        "windows", "the same, image in GDAL's block cache", "ms", 1e3 / len(corners), took, peers, note=note
    )


def _each(read: Read, corners: list[tuple[int, int]]) -> Work:
    """Read windows, none of which is kept: the memory of all would be new, and its pages would count as reading."""

    def work() -> None:
        for corner in corners:
            read(*corner)

    return work


def copy_all(store: Store, corners: list[tuple[int, int]]) -> None:
    """The lower limit: a copy of each window as it is stored."""
    pixels = store.image("train", "0")
    for top, left in corners:
        pixels[top : top + WINDOW, left : left + WINDOW].copy(order="K")


def _cold(files: Files, readers: dict[str, Read], corners: list[tuple[int, int]], repeats: int) -> list[Row]:
    """Wall clock: what counts is waiting for the disk."""
    if "plain" not in readers:
        return []
    path = image_path(files.folder / "store", "train", "0")
    files.store.image("train", "0")  # its checksum is checked once

    def ours() -> None:
        # Without the mapped array, whose pages cannot leave the cache.
        files.store = pickle.loads(pickle.dumps(files.store))
        _dropped(path, _each(readers["ours"], corners))

    works: dict[str, Work] = {
        "ours": ours,
        "plain": lambda: _dropped(
            files.folder / "plain-image.tif", lambda: _each(_gdal(files.folder / "plain-image.tif"), corners)()
        ),
    }
    took = interleaved(works, repeats, time.perf_counter)
    peers = [Peer(f"rasterio, uncompressed GeoTIFF, {TIFF}", "rasterio", "plain", 0.5)]
    limit = "a window has 512 rows in 512 places of the file, and in tiles 4 to 9 places"
    note = f"the file leaves the page cache before the {len(corners)} windows; wall clock"
    return compared("windows", "the same, cold page cache", "ms", 1e3 / len(corners), took, peers, limit, note)


def _dropped(path: Path, work: Work) -> None:
    """Drop a file from the page cache, then do the work."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
    work()


class _Plain(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """What a torchvision user writes: decoded arrays in memory, transforms of v2 on each sample."""

    def __init__(self, image: Bytes, label: Bytes) -> None:
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        self.image = tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))))
        self.label = tv_tensors.Mask(torch.from_numpy(label))
        turns = [v2.RandomRotation((angle, angle)) for angle in (0, 90, 180, 270)]
        self.change = v2.Compose([v2.RandomCrop(WINDOW), v2.RandomHorizontalFlip(), v2.RandomChoice(turns)])

    def __len__(self) -> int:
        return STEPS * BATCH

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index >= len(self):
            raise IndexError(index)
        found: tuple[torch.Tensor, torch.Tensor] = self.change(self.image, self.label)
        return found


class _Quick(_Plain):
    """The same by hand: slices, flip and `rot90` of tensors."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index >= len(self):
            raise IndexError(index)
        top, left = torch.randint(SIDE - WINDOW + 1, (2,)).tolist()
        return self.at(top, left, bool(torch.randint(2, ())), int(torch.randint(4, ())))

    def at(self, top: int, left: int, flip: bool, turns: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The window at a position, flipped left to right and turned by quarters."""
        cuts = [
            part.as_subclass(torch.Tensor)[..., top : top + WINDOW, left : left + WINDOW]
            for part in (self.image, self.label)
        ]
        cuts = [torch.rot90(part.flip(-1) if flip else part, turns, (-2, -1)) for part in cuts]
        return cuts[0], cuts[1]


def batches(files: Files, repeats: int) -> list[Row]:
    """Training batches of context windows with flips and quarter turns, loaded in the main process."""
    needs = Needs(patch=PATCH, context=WINDOW)
    windows = WindowDataset(files.store, "train", needs, seed=0, batch=BATCH, flips=True, turns=True)
    plain, quick = _Plain(files.image, files.label), _Quick(files.image, files.label)

    for flip, turns in itertools.product((False, True), range(4)):
        middle = (WINDOW - PATCH) // 2
        found = windows.cut([Cut("0", 3 + middle, 5 + middle, flip, turns)])
        for mine, theirs in zip((found["context"], found["label"]), quick.at(3, 5, flip, turns), strict=True):
            same(mine[0], theirs, "windows of a batch")

    def torchvision(data: _Plain) -> Work:
        return lambda: [None for _ in torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=False)]

    works: dict[str, Work] = {
        "ours": lambda: [None for _ in loader(windows, 0, STEPS, 0, False)],
        "torchvision": torchvision(plain),
        "quick": torchvision(quick),
    }
    if version("torchgeo"):
        works["torchgeo"] = _Geo(files.folder).batches(STEPS)
    took = interleaved(works, repeats)
    peers = [
        Peer("torchgeo DataLoader, RandomGeoSampler, kornia's flips and quarter turns", "torchgeo", "torchgeo", 5.0),
        Peer(
            "torchvision v2: crop, flip and rotation of decoded arrays in memory",
            "torchvision",
            "torchvision",
            2.0,
        ),
        Peer("torch slices, flip and rot90 of decoded arrays in memory", "torch", "quick"),
    ]
    copies = [np.empty((WINDOW, 3, WINDOW), np.uint8).transpose(0, 2, 1) for _ in range(BATCH)]
    source = files.store.image("train", "0")

    def copy() -> None:
        for target in copies * STEPS:
            target[:] = source[:WINDOW, :WINDOW]

    planes = np.zeros((4, WINDOW, WINDOW), np.uint8)

    def turn() -> None:
        for _ in range(BATCH * STEPS // 2):  # half of all windows are turned by an odd number of quarters
            for plane in planes:
                np.ascontiguousarray(plane.T)

    bare = {
        name: statistics.median(values) for name, values in interleaved({"copy": copy, "turn": turn}, repeats).items()
    }
    copied, turned = (bare[name] / statistics.median(took["ours"]) for name in ("copy", "turn"))
    limit = f"one copy of the windows takes {copied:.0%} of it, numpy's turn of half of them by a quarter {turned:.0%}"
    name = f"training batches: {BATCH} windows of {WINDOW} with flips and quarter turns, no worker"
    return compared("windows", name, "ms a batch", 1e3 / STEPS, took, peers, limit)


def rows(folder: Path, repeats: int) -> Iterator[Row]:
    """All rows of this topic, with the scene's files in `folder`."""
    files = Files(folder)
    yield from reading(files, repeats)
    yield from batches(files, repeats)
