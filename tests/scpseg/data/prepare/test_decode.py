import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import tifffile
from PIL import Image

from scpseg.benchmarks import BENCHMARKS
from scpseg.benchmarks.base import Benchmark
from scpseg.data.prepare.decode import BLOCK_ROWS, Label, decode_label, read_pixels, read_size
from scpseg.errors import UserError

NAMES = list(BENCHMARKS)


def slow_decode(pixels: np.ndarray, spec: Benchmark, ignore_first: bool = False) -> Label:
    """One pixel after the other, straight from the spec."""
    ids = np.zeros(pixels.shape[:2], np.uint8)
    unknown = 0
    for row in range(pixels.shape[0]):
        for column in range(pixels.shape[1]):
            value = pixels[row, column].tolist()
            colour = (value,) * 3 if isinstance(value, int) else tuple(value)
            if spec.decoding == "threshold":
                colour = tuple(255 if channel >= 128 else 0 for channel in colour)
            colours = [cls.colour for cls in spec.classes]
            if colour in colours and not (ignore_first and colours.index(colour) == 0):
                ids[row, column] = colours.index(colour)
            else:
                ids[row, column] = 255
                unknown += colour not in colours and colour not in spec.ignored
    counts = tuple(int((ids == index).sum()) for index in range(len(spec.classes)))
    near = 0
    if spec.decoding == "threshold":
        near = int((np.abs(pixels.astype(int) - 128) < 40).any(axis=2).sum())
    return Label(ids, counts, int((ids == 255).sum()), unknown, near)


def random_label(spec: Benchmark, height: int, width: int, noise: int = 0, seed: int = 0) -> np.ndarray:
    chance = np.random.default_rng(seed)
    palette = np.array([*(cls.colour for cls in spec.classes), *spec.ignored])
    pixels = palette[chance.integers(len(palette), size=(height, width))]
    return np.clip(pixels + chance.integers(-noise, noise + 1, pixels.shape), 0, 255).astype(np.uint8)


def same(one: Label, two: Label) -> bool:
    return np.array_equal(one.ids, two.ids) and one._replace(ids=two.ids) == two


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_slow_loop(name: str) -> None:
    spec = BENCHMARKS[name]
    pixels = random_label(spec, BLOCK_ROWS + 9, 23)
    assert same(decode_label(pixels, spec, "x.png"), slow_decode(pixels, spec))


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_slow_loop_on_any_colours(name: str) -> None:
    spec = replace(BENCHMARKS[name], unknown_share=1.0)
    levels = [0, 1, 127, 128, 254, 255] if spec.decoding == "threshold" else [0, 1, 124, 125, 127, 128, 254, 255]
    odd = np.random.default_rng(1).choice(np.array(levels, np.uint8), (3, 37, 3))
    pixels = np.concatenate([odd, random_label(spec, 37, 37)])
    expected = slow_decode(pixels, spec)
    assert expected.unknown > 0
    assert same(decode_label(pixels, spec, "x.png"), expected)


def test_single_band_and_masked_unknown() -> None:
    grey = np.random.default_rng(2).choice(np.array([0, 255], np.uint8), (30, 20))
    assert same(decode_label(grey, BENCHMARKS["inria"], "x.tif"), slow_decode(grey, BENCHMARKS["inria"]))
    spec = BENCHMARKS["deepglobe"]
    pixels = random_label(spec, 30, 20)
    label = decode_label(pixels, spec, "x.png", ignore_first=True)
    assert same(label, slow_decode(pixels, spec, ignore_first=True))
    assert (label.pixels[0], label.unknown) == (0, 0)
    assert label.ignored == (pixels.max(axis=2) == 0).sum()


def test_lossy_labels_decode_by_threshold() -> None:
    spec = BENCHMARKS["potsdam"]
    clean, lossy = (random_label(spec, 50, 50, noise) for noise in (0, 80))
    assert not np.array_equal(clean, lossy)
    assert same(decode_label(lossy, spec, "x.tif"), decode_label(clean, spec, "x.tif"))
    lossy[3, 4:6, 0] = 127, 129
    assert decode_label(lossy, spec, "x.tif").near == 2


def test_unknown_colour_is_counted_and_placed() -> None:
    spec = BENCHMARKS["blu"]
    pixels = random_label(spec, 300, 40)
    pixels[280, 7] = (255, 0, 255)
    pixels[290, 3:5] = (1, 2, 3)
    with pytest.raises(UserError) as caught:
        decode_label(pixels, spec, "train/label/x.png")
    message = str(caught.value)
    assert message.startswith("train/label/x.png: 3 of 12000 pixels have a colour of no class")
    assert "first at row 280, column 7 is (255, 0, 255)" in message
    assert "(1, 2, 3), (255, 0, 255)" in message
    assert "\n" not in message


def test_few_unknown_pixels_are_ignored_and_counted() -> None:
    spec = BENCHMARKS["potsdam"]
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[:, :50] = 255
    pixels[0, :10] = (255, 0, 255)
    label = decode_label(pixels, spec, "x.tif")
    assert (label.unknown, label.ignored, label.pixels[0]) == (10, 5010, 4990)
    assert (label.ids[0, :10] == 255).all()
    pixels[0, 10] = (255, 0, 255)
    with pytest.raises(UserError, match=r"11 of 10000 pixels .* \(at most 0\.1% may\)"):
        decode_label(pixels, spec, "x.tif")


@pytest.mark.parametrize(("decoding", "noise"), [("exact", 0), ("threshold", 90)])
def test_grey_labels_equal_their_three_equal_bands(decoding: Literal["exact", "threshold"], noise: int) -> None:
    spec = replace(BENCHMARKS["inria"], decoding=decoding)
    grey = random_label(spec, BLOCK_ROWS + 9, 23, noise)[..., 0]  # an odd number of pixels in each block
    assert same(decode_label(grey, spec, "x.tif"), slow_decode(np.stack([grey] * 3, axis=-1), spec))


def test_first_unknown_grey_value() -> None:
    grey = np.zeros((9, 9), np.uint8)
    grey[4, 5] = 7
    with pytest.raises(UserError, match=r"1 of 81 pixels .* row 4, column 5 is \(7,\)"):
        decode_label(grey, BENCHMARKS["inria"], "x.tif")


@pytest.mark.parametrize(("name", "shape", "bands"), [("potsdam", (8, 8), 1), ("deepglobe", (8, 8, 4), 4)])
def test_wrong_bands_of_a_label(name: str, shape: tuple[int, ...], bands: int) -> None:
    with pytest.raises(UserError, match=rf"x\.tif has {bands} band"):
        decode_label(np.zeros(shape, np.uint8), BENCHMARKS[name], "x.tif")


def written(path: Path, pixels: np.ndarray, **options: object) -> Path:
    if path.suffix.lower() == ".tif":
        tifffile.imwrite(path, pixels, **options)
    else:
        Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.png", {}),
        ("x.tif", {"photometric": "rgb"}),
        ("x.tif", {"photometric": "rgb", "compression": "lzw"}),
        ("x.tif", {"photometric": "rgb", "compression": "packbits"}),
        ("X.TIF", {"photometric": "rgb", "tile": (16, 16), "compression": "deflate"}),
        ("x.tif", {"photometric": "rgb", "planarconfig": "separate"}),
    ],
)
def test_lossless_formats(name: str, options: dict[str, object], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (33, 20, 3), dtype=np.uint8)
    stored = np.moveaxis(pixels, -1, 0) if "planarconfig" in options else pixels
    path = written(tmp_path / name, stored, **options)
    assert np.array_equal(read_pixels(path, name), pixels)
    assert read_size(path, name) == (33, 20)


def test_palette_png_is_read_as_colours(tmp_path: Path) -> None:
    pixels = random_label(BENCHMARKS["blu"], 20, 20)
    Image.fromarray(pixels).quantize(16).save(tmp_path / "x.png")
    assert np.array_equal(read_pixels(tmp_path / "x.png", "x.png"), pixels)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_damaged_file_is_named(name: str, damage: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    options = {"photometric": "rgb"} if name == "x.tif" else {}
    path = written(tmp_path / name, pixels, **options)
    data = path.read_bytes()
    data = {"truncated": data[: len(data) // 2], "empty": b"", "text": b"<html>not found</html>"}[damage]
    path.write_bytes(data)
    said = r" cannot be decoded \(.+\); the file is damaged" if damage == "truncated" else " is not a PNG, JPEG or TIFF"
    with pytest.raises(UserError, match=f"^{name}{said}") as caught:
        read_pixels(path, name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compression", [None, "lzw", "packbits", "deflate"])
def test_truncated_strips_are_not_filled_with_zeros(compression: str | None, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = written(tmp_path / "x.tif", pixels, photometric="rgb", rowsperstrip=8, compression=compression)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="damaged"):
        read_pixels(path, "x.tif")


def test_fourth_band_and_deep_channels_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.png has transparent pixels"):
        read_pixels(written(tmp_path / "x.png", np.zeros((8, 8, 4), np.uint8)), "x.png")
    with pytest.raises(UserError, match=r"x\.tif has uint16"):
        read_pixels(written(tmp_path / "x.tif", np.zeros((8, 8, 3), np.uint16), photometric="rgb"), "x.tif")


def test_a_whole_tile_is_fast_and_small() -> None:
    spec = replace(BENCHMARKS["blu"], unknown_share=1.0)
    pixels = np.tile(random_label(spec, 100, 100), (60, 60, 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    decode_label(pixels, spec, "x.png")
    assert time.process_time() - start < 5  # measured 0.4 s; the machine may be busy
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024  # KiB


def test_full_size_potsdam_label_and_its_lossy_copy(samples: Path) -> None:
    path = samples / "potsdam_label_only/5_Labels_all/top_potsdam_3_10_label.tif"
    pixels = read_pixels(path, path.name)
    label = decode_label(pixels, BENCHMARKS["potsdam"], path.name)
    assert label.ids.shape == (6000, 6000)
    assert (label.unknown, label.ignored, label.near) == (0, 0, 0)
    assert np.allclose(np.array(label.pixels) / 360_000, [23.16, 14.25, 31.75, 24.39, 1.21, 5.25], atol=0.006)
    noise = np.random.default_rng(0).integers(-80, 81, (1000, 6000, 3), dtype=np.int16)
    lossy = np.empty_like(pixels)
    for rows in range(0, 6000, 1000):
        np.clip(pixels[rows : rows + 1000] + noise, 0, 255, out=lossy[rows : rows + 1000], casting="unsafe")
    assert same(decode_label(lossy, BENCHMARKS["potsdam"], path.name), label)


@pytest.mark.parametrize(
    ("id", "index", "count"), [(172307, 0, 2), (2774, 0, 23), (6399, 1, 138), (10233, 0, 0), (855, 1, 4726)]
)
def test_real_deepglobe_masks(samples: Path, id: int, index: int, count: int) -> None:
    path = samples / f"deepglobe/train/{id}_mask.png"
    label = decode_label(read_pixels(path, path.name), BENCHMARKS["deepglobe"], path.name)
    assert label.pixels[index] == count
    assert sum(label.pixels) == 2448 * 2448


def test_real_potsdam_pair(samples: Path) -> None:
    folder = samples / "potsdam"
    image, path = "2_Ortho_RGB/top_potsdam_0_0_RGB.tif", folder / "5_Labels_all/top_potsdam_0_0_label.tif"
    assert read_pixels(folder / image, image).shape == (1000, 1000, 3)
    label = decode_label(read_pixels(path, path.name), BENCHMARKS["potsdam"], path.name)
    assert np.allclose(np.array(label.pixels) / 10_000, [56.13, 12.51, 28.83, 0.22, 2.03, 0.29], atol=0.006)
