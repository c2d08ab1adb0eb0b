"""Inria as upstream packs it, in any size: TIFFs in a zip, the zip in a 7z, the 7z in parts."""

import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import py7zr
import pytest
import tifffile

Tile = tuple[np.ndarray, np.ndarray]
STORE = [{"id": py7zr.FILTER_COPY}]


def tile(number: int, side: int) -> Tile:
    """(H, W, 3) image that a packer squeezes to about three quarters, and (H, W) label of 0 and 255."""
    chance = np.random.default_rng(number)
    image = chance.integers(0, 64, (side, side, 3), dtype=np.uint8)
    cell = max(side // 8, 1)
    coarse = chance.integers(0, 4, (side // cell + 1, side // cell + 1, 3), dtype=np.uint8) * 64
    for row in range(0, side, cell):
        for column in range(0, side, cell):
            image[row : row + cell, column : column + cell] += coarse[row // cell, column // cell]
    label = np.zeros((side, side), np.uint8)
    for top, left in chance.integers(0, side, (40, 2)):
        label[top : top + cell, left : left + cell] = 255
    return image, label


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, metadata=None, **options)
    return stream.getvalue()


@pytest.fixture
def write_inria() -> Callable[..., Callable[[str], Tile]]:
    """write_inria(folder, ids, side): the archive; returns a function from an id to its image and label (0, 255)."""

    def write(
        folder: Path,
        ids: Sequence[str],
        side: int = 24,
        method: int = zipfile.ZIP_DEFLATED,
        filters: Sequence[dict[str, int]] = STORE,
        extra: Sequence[tuple[str, bytes]] = (),
        parts: int = 3,
        sevenfold: bool = True,
    ) -> Callable[[str], Tile]:
        folder.mkdir(parents=True, exist_ok=True)
        inner = folder / "NEW2-AerialImageDataset.zip"
        with zipfile.ZipFile(inner, "w", method, compresslevel=1) as file:
            file.mkdir("AerialImageDataset")
            # As upstream's: all labels lie before all images.
            for kind in ("gt", "images"):
                for number, id in enumerate(ids):
                    image, label = tile(number, side)
                    data = tiff(image, photometric="rgb") if kind == "images" else tiff(label, compression="lzw")
                    file.writestr(f"AerialImageDataset/train/{kind}/{id}.tif", data)
            file.writestr("AerialImageDataset/test/images/bellingham1.tif", tiff(tile(99, side)[0], photometric="rgb"))
            for name, data in extra:
                file.writestr(name, data)
        if sevenfold:
            whole = folder / "whole.7z"
            with py7zr.SevenZipFile(whole, "w", filters=list(filters)) as seven:
                seven.write(inner, inner.name)
            inner.unlink()
            size = -(-whole.stat().st_size // parts)
            with whole.open("rb") as stream:
                for part in range(1, parts + 1):
                    (folder / f"aerialimagelabeling.7z.{part:03d}").write_bytes(stream.read(size))
            whole.unlink()
        return lambda id: tile(list(ids).index(id), side)

    return write
