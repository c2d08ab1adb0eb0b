"""Image and label files to arrays: decoded once, in prepare, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from scpseg import IGNORE_INDEX
from scpseg.benchmarks.base import Benchmark
from scpseg.errors import UserError

# UHR images exceed Pillow's guard against decompression bombs; sizes are checked against the disk instead.
Image.MAX_IMAGE_PIXELS = None

Pixels = NDArray[np.uint8]
THRESHOLD, NEAR = 128, 40
UNKNOWN = 254
"""Marks pixels without a class's colour while a label is being decoded."""
BLOCK_ROWS = 256
"""Rows decoded at a time, which bounds the memory for packed colours."""
SAMPLE = 100_000
"""Pixels looked at to name strange colours."""
SHOWN = 5
"""Strange colours named in a message."""


@dataclass(frozen=True)
class Label:
    """A decoded label.

    Attributes:
        ids: (H, W) uint8 training ids, 255 = ignored.
        pixels: number of pixels of each training id.
        ignored: number of pixels that are 255, unknown ones among them.
        unknown: number of pixels that had no class's colour.
        near: where channels are cut at 128, number of pixels with a channel within 40 of it; else 0. Upstream's faulty
            labels are said to have none, so that a cut elsewhere would give the same.
    """

    ids: Pixels
    pixels: tuple[int, ...]
    ignored: int
    unknown: int
    near: int


def read_size(path: Path, name: str) -> tuple[int, int]:
    """(height, width) in pixels from the header of an image file; `name` is for the message.

    Raises:
        UserError: the file cannot be read as an image.
    """
    with _damage_named(name):
        if _is_tiff(name):
            with tifffile.TiffFile(path) as file:
                page = file.pages.first
                return page.imagelength, page.imagewidth
        with Image.open(path) as picture:
            return picture.height, picture.width


def read_pixels(path: Path, name: str) -> Pixels:
    """Decode a file (JPEG, PNG or TIFF, by the suffix of `name`) to (H, W) or (H, W, C) uint8.

    Raises:
        UserError: the file is damaged, or a channel has not 8 bits.
    """
    with _damage_named(name):
        if _is_tiff(name):
            with tifffile.TiffFile(path) as file:
                page = file.pages.first
                pixels = np.asarray(page.asarray(maxworkers=1))  # prepare already runs one process per core
                if page.axes == "SYX":
                    pixels = np.moveaxis(pixels, 0, -1)
        else:
            with Image.open(path) as picture:
                # Indices and bits are not grey levels.
                plain = {"P": "RGB", "1": "L"}.get(picture.mode)
                pixels = np.asarray(picture.convert(plain) if plain else picture)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise UserError(f"{name} holds {pixels.dtype} values of shape {pixels.shape}; expected 8-bit channels")
    return np.ascontiguousarray(pixels)


def check_image(pixels: Pixels, name: str) -> Pixels:
    """The pixels of an image, (H, W, 3).

    Raises:
        UserError: there are not three bands.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise UserError(f"{name} has {_bands(pixels)}; expected an RGB image of 3 bands")
    return pixels


def decode_label(pixels: Pixels, spec: Benchmark, name: str, ignore_first: bool = False) -> Label:
    """Turn colours into training ids.

    Args:
        pixels: (H, W, 3), or (H, W) where all classes are grey levels.
        spec: its colours, and whether they are exact or each channel is cut at 128 first.
        name: file name for messages.
        ignore_first: training id 0 becomes 255 (DeepGlobe's unknown as a switch).

    Raises:
        UserError: wrong number of bands, or more pixels without a class's colour than `spec.unknown_share`.
    """
    grey = pixels.ndim == 2
    only_grey = all(len(set(cls.colour)) == 1 for cls in spec.classes)
    if (grey and not only_grey) or (not grey and pixels.shape[2] != 3):
        raise UserError(f"{name} has {_bands(pixels)}; expected a label of {'1 or ' if only_grey else ''}3 bands (RGB)")
    table = _table(spec, ignore_first)
    ids = np.empty(pixels.shape[:2], np.uint8)
    counts = np.zeros(256, np.int64)
    near = 0
    for top in range(0, len(ids), BLOCK_ROWS):
        rows = slice(top, top + BLOCK_ROWS)
        if spec.decoding == "threshold":
            near += _near(pixels[rows])
        np.take(table, _codes(pixels[rows], spec.decoding == "threshold"), out=ids[rows])
        counts += np.bincount(ids[rows].ravel(), minlength=256)
    unknown = int(counts[UNKNOWN])
    if unknown > spec.unknown_share * ids.size:
        raise UserError(_unknown_text(pixels, ids, spec, name, unknown))
    if unknown:
        ids[ids == UNKNOWN] = IGNORE_INDEX
    classes = tuple(int(count) for count in counts[: len(spec.classes)])
    return Label(ids, classes, int(counts[IGNORE_INDEX]) + unknown, unknown, near)


def _near(block: Pixels) -> int:
    """Pixels with a channel within NEAR of THRESHOLD: one comparison in wrapping bytes."""
    close = (block - np.uint8(THRESHOLD - NEAR + 1)) < np.uint8(2 * NEAR - 1)
    return int(np.count_nonzero(close if block.ndim == 2 else close.any(axis=2)))


def _codes(block: Pixels, threshold: bool) -> NDArray[np.intp]:
    """One number per pixel: the three bits of channels >= 128, or the packed 24-bit colour."""
    if threshold:
        block = (block >> 7).astype(np.uint8, copy=False)
    red, green, blue = (block, block, block) if block.ndim == 2 else (block[..., 0], block[..., 1], block[..., 2])
    step = 1 if threshold else 8
    codes = red.astype(np.intp)
    for channel in (green, blue):
        codes <<= step
        codes |= channel
    return codes


def _table(spec: Benchmark, ignore_first: bool) -> Pixels:
    """Training id by code; 8 entries for bits, 16 MiB for whole colours, which is filled in milliseconds."""
    threshold = spec.decoding == "threshold"
    table = np.full(8 if threshold else 1 << 24, UNKNOWN, np.uint8)
    colours = {cls.colour: index for index, cls in enumerate(spec.classes)}
    if ignore_first:
        colours[spec.classes[0].colour] = IGNORE_INDEX
    colours.update(dict.fromkeys(spec.ignored, IGNORE_INDEX))
    for colour, index in colours.items():
        table[_codes(np.array([[colour]], np.uint8), threshold)] = index
    return table


def _unknown_text(pixels: Pixels, ids: Pixels, spec: Benchmark, name: str, unknown: int) -> str:
    places = np.flatnonzero(ids == UNKNOWN)[:SAMPLE]
    row, column = divmod(int(places[0]), ids.shape[1])
    colours = pixels.reshape(ids.size, -1)[places]
    first = tuple(colours[0].tolist())
    allowed = f"at most {spec.unknown_share:.1%} may be so" if spec.unknown_share else "none may be so"
    strange = [tuple(colour.tolist()) for colour in np.unique(colours, axis=0)[:SHOWN]]
    return (
        f"{name}: {unknown} of {ids.size} pixels have no class's colour, the first at row {row}, "
        f"column {column} is {first}; colours found: {', '.join(map(str, strange))}; "
        f"{allowed}, so check that this is a label of {spec.title}"
    )


def _bands(pixels: Pixels) -> str:
    bands = 1 if pixels.ndim == 2 else pixels.shape[2]
    return f"{bands} band{'s' if bands > 1 else ''}"


def _is_tiff(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in (".tif", ".tiff")


@contextmanager
def _damage_named(name: str) -> Iterator[None]:
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        # Pillow, tifffile and the codecs below them let errors of a dozen types escape from damaged bytes.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{name} cannot be decoded ({reason.rstrip('.')}); the file is damaged: fetch it again"
        ) from error
