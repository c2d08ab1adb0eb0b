"""Decode image and label files to arrays.

One rule for every format: a file must declare that its pixels are what a viewer would show as 8-bit grey or RGB,
upright and opaque. Other declarations are converted if nothing is lost, otherwise the file is rejected with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from scpseg import IGNORE_INDEX
from scpseg.benchmarks.base import Benchmark
from scpseg.errors import UserError

# UHR images exceed Pillow's limit for decompression bombs; sizes are checked against the disk instead.
Image.MAX_IMAGE_PIXELS = None

Pixels = NDArray[np.uint8]
THRESHOLD, NEAR = 128, 40
NEAR_SHARE = 0.1  # most of a label's pixels with a channel near it: 0 on real masks, 0.49 to 0.99 on photos
UNKNOWN = 254  # marks pixels without a class's colour while a label is being decoded
BLOCK_ROWS = 256  # decoded at a time, which bounds the memory for packed colours
SAMPLE, SHOWN = 100_000, 5  # pixels searched for unexpected colours, and how many of these a message names
PNG, JPEG, NUMPY = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x93NUMPY"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_DEPTH = 24  # offset of the bit depth in a PNG file
ORIENTATION = 274  # tag of EXIF and TIFF; 1 = an image stored as it is shown


class Label(NamedTuple):
    """A decoded label."""

    ids: Pixels  # (H, W) training ids, 255 = ignored
    pixels: tuple[int, ...]  # number of pixels of each training id
    ignored: int  # number of pixels that are 255, including unknown ones
    unknown: int  # number of pixels with a colour of no class
    near: int  # with threshold decoding, number of pixels with a channel within 40 of 128; otherwise 0


def read_size(path: Path, name: str) -> tuple[int, int]:
    """(height, width) in pixels from the header of an image file; UserError about `name` where it is not readable."""
    with _opened(path, name, indices=True) as (size, _):
        return size


def read_pixels(path: Path, name: str, indices: bool = False) -> Pixels:
    """Decode a PNG, JPEG, TIFF or .npy file, recognised by its content, to (H, W) grey or (H, W, C) uint8.

    With `indices`, a palette's indices are returned instead of its colours, and .npy files of class ids are accepted.
    UserError about `name` where it is damaged, or not one upright, opaque image that converts exactly to 8 bits.
    """
    with _opened(path, name, indices) as (_, read):
        pixels = read()
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise _unfit(name, f"{pixels.dtype} values of shape {pixels.shape}", "convert it to 8-bit channels")
    return np.ascontiguousarray(pixels)


def decode_label(pixels: Pixels, spec: Benchmark, name: str, ignore_first: bool = False) -> Label:
    """Convert colours, (H, W, 3), or (H, W) if all classes are grey levels, to training ids.

    With `ignore_first`, training id 0 becomes 255 (for DeepGlobe's class unknown). UserError where the number of bands
    is wrong, more pixels than `spec.unknown_share` have an unknown colour, or, with threshold decoding, more pixels
    than NEAR_SHARE are near the threshold, or they are class ids instead of colours.
    """
    only_grey, grey = all(len(set(cls.colour)) == 1 for cls in spec.classes), pixels.ndim == 2
    if not (only_grey if grey else pixels.shape[2] == 3):
        raise UserError(f"{name} has {bands_of(pixels)}; expected {'1 or ' if only_grey else ''}3 bands of a label")
    cut, near, highest = spec.decoding == "threshold", 0, 0
    # A pixel's code has the highest bit of each channel, or all of them; 8 codes, or 16 MiB filled in milliseconds.
    bits, shift = (1, 7) if cut else (8, 0)
    table = np.full(1 << 3 * bits, UNKNOWN, np.uint8)
    colours = {cls.colour: index for index, cls in enumerate(spec.classes)}
    colours |= dict.fromkeys([*spec.ignored, *(cls.colour for cls in spec.classes[:ignore_first])], IGNORE_INDEX)
    for (red, green, blue), index in colours.items():
        table[(red >> shift << 2 * bits) + (green >> shift << bits) + (blue >> shift)] = index
    bands, ids = pixels[..., None] if grey else pixels, np.empty(pixels.shape[:2], np.uint8)
    if grey:  # the codes of three equal channels
        table = table[:: 1 + (1 << bits) + (1 << 2 * bits)]
    for top in range(0, len(ids), BLOCK_ROWS):
        block = bands[top : top + BLOCK_ROWS]
        if cut:  # within NEAR of THRESHOLD: one comparison in wrapping bytes
            close = (block - np.uint8(THRESHOLD - NEAR + 1)) < np.uint8(2 * NEAR - 1)
            near += int(np.count_nonzero(close.any(axis=2)))
            highest = max(highest, int(block.max(initial=0)))
        codes = (block[..., 0] >> shift).astype(np.intp)
        for channel in range(1, block.shape[2]):
            codes <<= bits
            codes |= block[..., channel] >> shift
        np.take(table, codes, out=ids[top : top + BLOCK_ROWS])
    present = (UNKNOWN, *range(len(spec.classes)), IGNORE_INDEX)
    unknown, *counts = (int(np.count_nonzero(ids == index)) for index in present)
    why = ""
    if near > NEAR_SHARE * ids.size:
        limits = f"{THRESHOLD - NEAR + 1} to {THRESHOLD + NEAR - 1}, as photographs have"
        why = f"{near / ids.size:.0%} of its pixels have a channel from {limits}, where labels are close to 0 or 255 "
        why += f"(at most {NEAR_SHARE:.0%} may differ)"
    elif cut and 0 < highest <= len(spec.classes):
        why = f"its values are 0 to {highest}, which are class ids and not colours"
    elif unknown > spec.unknown_share * ids.size:
        found = np.flatnonzero(ids == UNKNOWN)[:SAMPLE]
        row, column = divmod(int(found[0]), pixels.shape[1])
        some = bands.reshape(ids.size, -1)[found]
        first, *others = (tuple(colour.tolist()) for colour in (some[0], *np.unique(some, axis=0)[:SHOWN]))
        why = f"{unknown} of {ids.size} pixels have a colour of no class (at most {spec.unknown_share:.1%} may), "
        why += f"the first at row {row}, column {column} is {first}; colours found: {', '.join(map(str, others))}"
    if why:
        raise UserError(f"{name}: {why}, so check that this is a label of {spec.title}")
    if unknown:
        ids[ids == UNKNOWN] = IGNORE_INDEX
    return Label(ids, tuple(counts[:-1]), counts[-1] + unknown, unknown, near)


def bands_of(pixels: Pixels) -> str:
    """The number of bands, as text."""
    return "1 band" if pixels.ndim == 2 else f"{pixels.shape[2]} bands"


@contextmanager
def _opened(path: Path, name: str, indices: bool) -> Iterator[tuple[tuple[int, int], Callable[[], Any]]]:
    """(height, width) of a file and a function that decodes it; the first bytes determine the format, not the name.

    Errors in the block become a UserError about `name`.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(PNG_DEPTH + 1)
        if indices and start.startswith(NUMPY):
            numbers = np.lib.format.open_memmap(path, mode="r")  # does not load pickles
            height, width, *_ = (*numbers.shape, 0, 0)
            yield (height, width), partial(_numbers, numbers, name)
        elif start.startswith(TIFF):
            with tifffile.TiffFile(path) as file:
                pages = [file.pages[k].aspage() for k in range(len(file.pages))]
                whole = [page for page in pages if not (page.is_reduced or page.is_mask)]
                if len(whole) != 1:
                    raise _unfit(name, f"{len(whole)} images", "keep the right one")
                yield (whole[0].imagelength, whole[0].imagewidth), partial(_tiff, whole[0], name, indices)
        elif start.startswith((PNG, JPEG)):
            with Image.open(path, formats=("PNG", "JPEG")) as picture:
                depth = start[PNG_DEPTH] if start.startswith(PNG) else 8
                yield (picture.height, picture.width), partial(_picture, picture, name, indices, depth)
        else:
            raise UserError(f"{name} is not a PNG, JPEG or TIFF image; convert it, or download it again")
    except (UserError, MemoryError):
        raise
    except Exception as error:  # on damaged bytes, Pillow, tifffile and their codecs raise errors of a dozen types
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(f"{name} cannot be decoded ({reason}); the file is damaged: download it again") from error


def _numbers(numbers: NDArray[Any], name: str) -> Pixels:
    if numbers.ndim != 2 or not np.issubdtype(numbers.dtype, np.integer):
        raise _unfit(name, f"{numbers.dtype} values of shape {numbers.shape}", "save (H, W) whole numbers")
    if numbers.size and not 0 <= numbers.min() <= numbers.max() <= 255:
        raise _unfit(name, f"values from {numbers.min()} to {numbers.max()}", "save class ids from 0 to 255")
    return numbers.astype(np.uint8)


def _picture(picture: Image.Image, name: str, indices: bool, depth: int) -> NDArray[np.generic]:
    """The pixels of a PNG of `depth` bits, or of a JPEG."""
    if depth > 8:  # Pillow would keep only the high bytes
        raise _unfit(name, f"{depth} bits per channel", "convert it to 8 bits")
    if (frames := getattr(picture, "n_frames", 1)) > 1:
        raise _unfit(name, f"{frames} images", "keep the right one")
    _check_upright(picture.getexif().get(ORIENTATION, 1), name)
    if picture.mode == "P" and indices:
        return np.asarray(picture)
    if picture.has_transparency_data:
        return _opaque(np.asarray(picture.convert("RGBA")), name)
    if picture.mode in ("P", "1"):  # palette entries and bits are not grey levels
        picture = picture.convert("RGB" if picture.mode == "P" else "L")
    if picture.mode not in ("L", "RGB"):
        raise _unfit(name, f"colours of type {picture.mode}", "convert it to RGB")
    pixels: Pixels = np.asarray(picture)  # Pillow scales grey of few bits to 0..255
    return pixels // np.uint8(255 // (2**depth - 1)) if indices and picture.mode == "L" else pixels


def _tiff(page: tifffile.TiffPage, name: str, indices: bool) -> NDArray[np.generic]:
    _check_upright(page.tags.valueof(ORIENTATION, 1), name)
    if 0 in page.databytecounts:
        raise _unfit(name, "strips or tiles without data", "download it again, or write it completely")
    pixels: NDArray[np.generic] = np.asarray(page.asarray(maxworkers=1))  # prepare runs one process per core
    if page.axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    bits, colours, kinds, most = page.bitspersample, page.photometric, tifffile.PHOTOMETRIC, 255
    if page.samplesperpixel == 1 and bits < 8 and colours != kinds.PALETTE:
        most = 2**bits - 1 if indices else 255
        pixels = pixels.astype(np.uint8) * np.uint8(most // (2**bits - 1))
    if page.tags.get("PhotometricInterpretation") is None or colours == kinds.MINISBLACK:
        pass  # bands in their order, as GDAL writes three bands
    elif colours == kinds.MINISWHITE and pixels.ndim == 2 and pixels.dtype == np.uint8:
        pixels = np.uint8(most) - pixels.astype(np.uint8)
    elif colours == kinds.PALETTE and pixels.ndim == 2 and page.colormap is not None:
        if not indices:  # tables with 8-bit colours are read as libtiff reads them
            table = page.colormap if page.colormap.max() < 256 else page.colormap >> 8
            pixels = np.moveaxis(table.astype(np.uint8)[:, pixels.astype(np.intp)], 0, -1)
    elif colours == kinds.YCBCR and page.compression == tifffile.COMPRESSION.JPEG:
        pass  # the JPEG decoder has converted it to RGB
    elif colours != kinds.RGB:
        raise _unfit(name, f"colours of type {getattr(colours, 'name', colours)}", "convert it to RGB")
    if any(kind in (1, 2) for kind in page.extrasamples) and pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels = _opaque(pixels, name)
    return pixels


def _opaque(pixels: NDArray[np.generic], name: str) -> NDArray[np.generic]:
    """Pixels without their last band, the opacity."""
    if pixels.dtype == np.uint8 and pixels[..., -1].min() < 255:
        raise _unfit(name, "transparent pixels", "save it without transparency")
    return pixels[..., :-1] if pixels.shape[2] > 2 else pixels[..., 0]


def _check_upright(orientation: object, name: str) -> None:
    if orientation not in (0, 1):  # 0 is not in the standard and has no meaning
        raise _unfit(name, f"orientation {orientation} (viewers rotate it)", "save it upright, without that tag")


def _unfit(name: str, what: str, remedy: str) -> UserError:
    return UserError(f"{name} has {what}, so its pixels are not what is expected; {remedy}")
