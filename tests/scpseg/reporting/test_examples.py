from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scpseg.benchmarks import BENCHMARKS
from scpseg.errors import UserError
from scpseg.reporting.examples import draw_examples


def plain(folder: Path, name: str, colours: dict[str, tuple[int, int, int]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, colour in colours.items():
        Image.new("RGB", (40, 40), colour).save(folder / f"{name}.{kind}.png")


def test_panels_show_image_truth_and_every_method(tmp_path: Path) -> None:
    for method, colour in (("scpseg", (0, 200, 0)), ("patch", (0, 0, 200))):
        pictures = {"image": (90, 90, 90), "truth": (200, 0, 0), "prediction": colour}
        plain(tmp_path / method, "2_13", pictures)
    folders = {method: tmp_path / method for method in ("scpseg", "patch", "glnet")}
    out = tmp_path / "out.png"
    assert draw_examples(folders, BENCHMARKS["potsdam"], out) == ("2_13",)
    with Image.open(out) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    row = pixels[pixels.shape[0] // 2]
    middles = [tuple(int(v) for v in row[int((place + 0.2) * len(row) / 5)]) for place in range(5)]
    assert middles == [(90, 90, 90), (200, 0, 0), (0, 200, 0), (0, 0, 200), (255, 255, 255)]
    again = tmp_path / "again.png"
    draw_examples(folders, BENCHMARKS["potsdam"], again)
    assert again.read_bytes() == out.read_bytes()


def test_a_white_class_has_an_edge(tmp_path: Path) -> None:
    plain(tmp_path / "scpseg", "1", dict.fromkeys(("image", "truth", "prediction"), (255, 255, 255)))
    out = tmp_path / "out.png"
    draw_examples({"scpseg": tmp_path / "scpseg"}, BENCHMARKS["potsdam"], out)
    with Image.open(out) as picture:
        row = np.asarray(picture.convert("L"))[picture.height // 2]
    # Three panels with a left and a right edge each.
    assert np.count_nonzero(np.diff((row < 230).astype(int)) == 1) + int(row[0] < 230) == 6


def test_without_pictures_nothing_is_written(tmp_path: Path) -> None:
    assert draw_examples({"scpseg": tmp_path / "none"}, BENCHMARKS["blu"], tmp_path / "out.png") == ()
    assert not (tmp_path / "out.png").exists()


def test_damaged_picture_is_named(tmp_path: Path) -> None:
    plain(tmp_path / "scpseg", "1", {"image": (0, 0, 0), "truth": (0, 0, 0), "prediction": (0, 0, 0)})
    (tmp_path / "scpseg/1.truth.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"1\.truth\.png is no readable picture"):
        draw_examples({"scpseg": tmp_path / "scpseg"}, BENCHMARKS["blu"], tmp_path / "out.png")
