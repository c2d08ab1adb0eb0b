"""What image files declare of their pixels: converted where nothing is lost, rejected by name otherwise."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from scpseg.benchmarks import BENCHMARKS
from scpseg.data.prepare.decode import NEAR_SHARE, decode_label, read_pixels, read_size
from scpseg.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
GREY = RGB[..., 0]
SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[0:96:4, 0:128:4], 90), -1).astype(np.uint8)
OPAQUE = np.full((24, 32), 255, np.uint8)
TABLE = np.random.default_rng(1).integers(0, 256, (256, 3)).astype(np.uint8)


def tiff(pixels: np.ndarray, *more: tuple[np.ndarray, dict[str, Any]], **options: Any) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        file.write(pixels, metadata=None, **options)
        for other, changes in more:
            file.write(other, metadata=None, **changes)
    return stream.getvalue()


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def png(pixels: np.ndarray, depth: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of packed rows: `pixels` are (H, bytes a row)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    width = pixels.shape[1] * 8 // (depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour])
    header = struct.pack(">IIBBBBB", width, len(pixels), depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def read(content: bytes, folder: Path, name: str = "x.png") -> np.ndarray:
    path = folder / "file"
    path.write_bytes(content)
    pixels = read_pixels(path, name)
    assert read_size(path, name) == pixels.shape[:2]
    return pixels


def rejected(content: bytes, folder: Path, name: str = "some/x.png") -> str:
    with pytest.raises(UserError) as caught:
        read(content, folder, name)
    assert str(caught.value).startswith(name) and "\n" not in str(caught.value)
    return str(caught.value)


def turned(kind: str) -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return saved(Image.fromarray(RGB), kind, exif=exif)


COLOUR_MAP = np.moveaxis(TABLE, 0, -1).astype(np.uint16)
BITS = np.packbits(GREY > 127, axis=1)
TWO = (GREY[:, ::4] & 0xC0) | (GREY[:, 1::4] >> 6 << 4) | (GREY[:, 2::4] >> 6 << 2) | (GREY[:, 3::4] >> 6)
CONVERTED: dict[str, tuple[bytes, np.ndarray]] = {
    "tiff black is 0": (tiff(GREY, photometric="minisblack"), GREY),
    "tiff white is 0": (tiff(GREY, photometric="miniswhite"), 255 - GREY),
    "tiff palette": (tiff(GREY, photometric="palette", colormap=COLOUR_MAP * 257), TABLE[GREY]),
    "tiff palette of 8 bits": (tiff(GREY, photometric="palette", colormap=COLOUR_MAP), TABLE[GREY]),
    "tiff bilevel": (tiff(GREY > 127, photometric="minisblack"), np.where(GREY > 127, 255, 0)),
    "tiff bilevel, white is 0": (tiff(GREY > 127, photometric="miniswhite"), np.where(GREY > 127, 0, 255)),
    "tiff fax": (saved(Image.fromarray(GREY > 127), "TIFF", compression="group4"), np.where(GREY > 127, 255, 0)),
    "tiff three plain bands": (tiff(RGB, photometric="minisblack", planarconfig="contig"), RGB),
    "tiff opaque": (tiff(np.dstack([RGB, OPAQUE]), photometric="rgb", extrasamples=["unassalpha"]), RGB),
    "tiff thumbnail first": (tiff(RGB[::4, ::4], (RGB, {"photometric": "rgb"}), photometric="rgb", subfiletype=1), RGB),
    "tiff overview": (tiff(RGB, (RGB[::2, ::2], {"photometric": "rgb", "subfiletype": 1}), photometric="rgb"), RGB),
    "tiff mask": (tiff(RGB, (GREY > 9, {"photometric": "minisblack", "subfiletype": 4}), photometric="rgb"), RGB),
    "tiff upright": (tiff(RGB, photometric="rgb", extratags=[(274, 3, 1, 1, True)]), RGB),
    "png bilevel": (png(BITS, 1, 0), np.where(GREY > 127, 255, 0)),
    "png of 2 bits": (png(TWO, 2, 0), (GREY >> 6) * 85),
    "png opaque": (saved(Image.fromarray(np.dstack([RGB, OPAQUE])), "PNG"), RGB),
    "png opaque palette": (png(GREY, 8, 3, (b"PLTE", TABLE.tobytes()), (b"tRNS", b"\xff" * 256)), TABLE[GREY]),
    "png colour key that does not occur": (png(RGB.reshape(24, -1) | 1, 8, 2, (b"tRNS", b"\0\2\0\2\0\2")), RGB | 1),
    "png called tif": (saved(Image.fromarray(RGB), "PNG"), RGB),
    "jpeg upright": (saved(Image.fromarray(SMOOTH), "JPEG", quality=95, exif=Image.Exif()), SMOOTH),
}


@pytest.mark.parametrize("case", list(CONVERTED))
@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.jpg"])
def test_what_is_declared_is_what_is_read(case: str, name: str, tmp_path: Path) -> None:
    """The suffix decides nothing."""
    content, expected = CONVERTED[case]
    found = read(content, tmp_path, name)
    assert found.dtype == np.uint8
    if case.startswith("jpeg"):
        assert np.abs(found.astype(int) - expected).mean() < 2
    else:
        assert np.array_equal(found, expected)


def test_big_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "file", RGB, photometric="rgb", bigtiff=True)
    assert np.array_equal(read_pixels(tmp_path / "file", "x.tif"), RGB)


@pytest.mark.parametrize("photometric", ["ycbcr", "rgb"])
def test_jpeg_in_tiff_is_read_as_its_colours(photometric: str, tmp_path: Path) -> None:
    picture = Image.fromarray(SMOOTH)
    stored = picture.convert("YCbCr") if photometric == "ycbcr" else picture
    found = read(saved(stored, "TIFF", compression="jpeg", quality=95), tmp_path)
    assert np.abs(found.astype(int) - SMOOTH).mean() < 3


DEEP = RGB.astype(">u2") * 8
REJECTED: dict[str, tuple[Callable[[], bytes], str]] = {
    "png 16 bits": (lambda: png(DEEP.view(np.uint8).reshape(24, -1), 16, 2), "16 bits"),
    "png 16 bits, grey": (lambda: png(np.ascontiguousarray(DEEP[..., 0]).view(np.uint8), 16, 0), "16 bits"),
    "tiff 16 bits": (lambda: tiff(RGB.astype(np.uint16), photometric="rgb"), "uint16"),
    "tiff float": (lambda: tiff(RGB.astype(np.float32), photometric="rgb"), "float32"),
    "tiff signed": (lambda: tiff(GREY.astype(np.int8), photometric="minisblack"), "int8"),
    "tiff cielab": (lambda: tiff(RGB, photometric="cielab"), "CIELAB"),
    "tiff ycbcr": (lambda: saved(Image.fromarray(RGB).convert("YCbCr"), "TIFF"), "YCBCR"),
    "tiff cmyk": (lambda: saved(Image.fromarray(RGB).convert("CMYK"), "TIFF"), "SEPARATED"),
    "tiff turned": (lambda: tiff(RGB, photometric="rgb", extratags=[(274, 3, 1, 8, True)]), "orientation 8"),
    "tiff two images": (lambda: tiff(RGB, (RGB, {"photometric": "rgb"}), photometric="rgb"), "2 images"),
    "tiff thumbnail alone": (lambda: tiff(RGB, photometric="rgb", subfiletype=1), "0 images"),
    "tiff see-through": (
        lambda: tiff(np.dstack([RGB, GREY]), photometric="rgb", extrasamples=["unassalpha"]),
        "transparent",
    ),
    "jpeg turned": (lambda: turned("JPEG"), "orientation 6"),
    "png turned": (lambda: turned("PNG"), "orientation 6"),
    "jpeg cmyk": (lambda: saved(Image.fromarray(RGB).convert("CMYK"), "JPEG"), "CMYK"),
    "jpeg pair": (
        lambda: saved(Image.fromarray(RGB), "MPO", save_all=True, append_images=[Image.fromarray(RGB[::2])]),
        "2 images",
    ),
    "png animated": (
        lambda: saved(Image.fromarray(RGB), "PNG", save_all=True, append_images=[Image.fromarray(RGB[::-1])]),
        "2 images",
    ),
    "png see-through": (lambda: saved(Image.fromarray(np.dstack([RGB, GREY])), "PNG"), "transparent"),
    "png see-through entry": (
        lambda: png(GREY, 8, 3, (b"PLTE", TABLE.tobytes()), (b"tRNS", b"\0" * 256)),
        "transparent",
    ),
    "png colour key": (lambda: png(GREY, 8, 0, (b"tRNS", struct.pack(">H", int(GREY[0, 0])))), "transparent"),
    "gif": (lambda: saved(Image.fromarray(RGB), "GIF"), "not a PNG, JPEG or TIFF"),
    "bmp": (lambda: saved(Image.fromarray(RGB), "BMP"), "not a PNG, JPEG or TIFF"),
    "webp": (lambda: saved(Image.fromarray(RGB), "WEBP"), "not a PNG, JPEG or TIFF"),
    "postscript": (lambda: saved(Image.fromarray(RGB), "EPS"), "not a PNG, JPEG or TIFF"),
    "numpy": (lambda: b"\x93NUMPY\1\0" + bytes(200), "not a PNG, JPEG or TIFF"),
    "empty": (lambda: b"", "not a PNG, JPEG or TIFF"),
}


@pytest.mark.parametrize("case", list(REJECTED))
def test_what_cannot_be_read_exactly_is_rejected_by_name(case: str, tmp_path: Path) -> None:
    content, why = REJECTED[case]
    assert why in rejected(content(), tmp_path)


def test_a_strip_without_data_is_rejected(tmp_path: Path) -> None:
    """A sparse file reads as zeros, which are a class of many benchmarks."""
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, GREY, photometric="minisblack", rowsperstrip=8)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages.first.tags["StripByteCounts"].overwrite([256, 0, 256])
    assert "without data" in rejected(path.read_bytes(), tmp_path)


def test_four_bands_without_meaning_stay_four(tmp_path: Path) -> None:
    """As Potsdam's RGBIR; what needs three bands rejects them."""
    bands = np.dstack([RGB, GREY])
    assert read(tiff(bands, photometric="rgb", extrasamples=["unspecified"]), tmp_path).shape == bands.shape


def test_no_program_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *rest, **named: pytest.fail("a program was started"))
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("a program was started"))
    rejected(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", tmp_path)


PALETTES = {name: np.array([cls.colour for cls in BENCHMARKS[name].classes], np.uint8) for name in BENCHMARKS}
CUT = [name for name, spec in BENCHMARKS.items() if spec.decoding == "threshold"]


def blocks(name: str, side: int = 64) -> np.ndarray:
    """(H, W) training ids in blocks."""
    return np.kron(
        np.random.default_rng(3).integers(0, len(PALETTES[name]), (side // 8, side // 8)), np.ones((8, 8), int)
    )


def photograph(seed: int, spread: float) -> np.ndarray:
    chance = np.random.default_rng(seed)
    grey = np.kron(chance.normal(115, spread, (16, 16)), np.ones((4, 4)))
    return np.clip(grey[..., None] + [0, 8, -6] + chance.normal(0, 3, (64, 64, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("spread", [10, 25, 40])
def test_photographs_are_no_labels(name: str, spread: float) -> None:
    with pytest.raises(UserError, match=r"y\.tif: \d+% of its pixels .*check that this is a label of"):
        decode_label(photograph(1, spread), BENCHMARKS[name], "y.tif")


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("share", [0.2, 0.35])
def test_labels_painted_over_a_photograph_are_none(name: str, share: float) -> None:
    mixed = (photograph(2, 15) * (1 - share) + PALETTES[name][blocks(name)] * share).astype(np.uint8)
    with pytest.raises(UserError, match=r"y\.tif: \d+% of its pixels"):
        decode_label(mixed, BENCHMARKS[name], "y.tif")


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("scale", [1, 20, 36, 40])
def test_class_numbers_in_three_bands_are_none(name: str, scale: int) -> None:
    numbers = np.repeat(blocks(name)[..., None] * scale, 3, -1).astype(np.uint8)
    with pytest.raises(UserError, match="check that this is a label of"):
        decode_label(numbers, BENCHMARKS[name], "y.tif")


@pytest.mark.parametrize("name", CUT)
def test_labels_as_lossy_compression_leaves_them_are_labels(name: str) -> None:
    ids = blocks(name, 256)
    stream = io.BytesIO(saved(Image.fromarray(PALETTES[name][ids]), "JPEG", quality=75, subsampling=0))
    lossy = np.asarray(Image.open(stream))
    spec = replace(BENCHMARKS[name], unknown_share=0.05)
    label = decode_label(lossy, spec, "y.tif")
    assert label.near < NEAR_SHARE * ids.size
    assert (label.ids == ids).mean() > 0.95


@pytest.mark.parametrize("name", CUT)
def test_the_share_decides(name: str) -> None:
    spec = replace(BENCHMARKS[name], unknown_share=1.0)
    pixels = PALETTES[name][blocks(name, 80)[:50, :80]]
    pixels[:5] = (130, 255, 255)
    assert decode_label(pixels, spec, "y.tif").near == 400
    pixels[5, 0] = (130, 255, 255)
    with pytest.raises(UserError, match=r"10% of its pixels have a channel from 89 to 167"):
        decode_label(pixels, spec, "y.tif")


def test_an_unlabelled_mask_is_a_label() -> None:
    """All black is DeepGlobe's unknown, not class number 0."""
    assert decode_label(np.zeros((8, 8, 3), np.uint8), BENCHMARKS["deepglobe"], "y.png").pixels[0] == 64
