from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from PIL import Image

from scpseg.reporting.collect import collect
from scpseg.reporting.figures import COVERED, DPI, MARKER_SIZE, _limits, _uncover, arms, draw_tradeoff
from scpseg.reporting.summary import Line, summarise

METHODS = ("patch", "downscale", "glnet")


@pytest.fixture
def lines(tmp_path: Path, invented: Any, suite: Any) -> list[Line]:
    chosen = invented.fill(tmp_path / "results", suite(("potsdam", "blu"), METHODS, (0, 1, 2)))
    invented.put(tmp_path / "results", invented.profile("blu", "glnet", backend="nvml"))
    return summarise(collect(tmp_path / "results", chosen, available=False))


def test_pictures_are_the_same_bytes_twice_whatever_the_user_prefers(tmp_path: Path, lines: list[Line]) -> None:
    synthetic = {"potsdam": True, "blu": True}
    first = draw_tradeoff(lines, synthetic, tmp_path / "a", "overview")
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "pink", "svg.hashsalt": "other", "savefig.dpi": 30}):
        second = draw_tradeoff(lines, synthetic, tmp_path / "b", "overview")
    assert [path.name for path in first] == ["overview.png", "overview.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_pictures_tell_neither_date_nor_software(tmp_path: Path, lines: list[Line]) -> None:
    png, svg = draw_tradeoff(lines[:4], {"potsdam": False}, tmp_path, "potsdam")
    with Image.open(png) as image:
        assert image.width == pytest.approx(3.45 * DPI, abs=1)
        assert round(image.info["dpi"][0]) == DPI
        assert not {"Software", "Creation Time"} & set(image.info)
    text = svg.read_text(encoding="utf-8")
    assert "dc:date" not in text and "matplotlib.org/" not in text.replace("http://www.w3.org", "")


def test_meters_have_panels_of_their_own(tmp_path: Path, lines: list[Line]) -> None:
    (png, _), (single, _) = (
        draw_tradeoff(some, {"potsdam": True, "blu": True}, tmp_path, name)
        for some, name in ((lines[4:], "blu"), (lines[:4], "potsdam"))
    )
    with Image.open(png) as two, Image.open(single) as one:
        assert two.width == 2 * one.width and two.height == one.height


def test_nothing_to_draw_draws_nothing(tmp_path: Path, invented: Any, suite: Any) -> None:
    missing = summarise(collect(tmp_path, suite(), available=True))
    assert draw_tradeoff(missing, {"potsdam": False}, tmp_path / "out", "potsdam") == []
    assert not (tmp_path / "out").exists()


def test_equal_memory_looks_equal_and_far_apart_becomes_logarithmic() -> None:
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    _limits(axes, [(200.0, 70.0, 0.0), (201.0, 70.5, 0.0)])
    low, high = axes.get_xlim()
    assert 1.0 / (high - low) < 0.03
    assert axes.get_ylim()[1] - axes.get_ylim()[0] > 4
    _limits(axes, [(200.0, 70.0, 1.0), (9000.0, 75.0, 1.0)])
    assert axes.get_xscale() == "log"


def test_what_lies_under_another_marker_is_larger() -> None:
    from matplotlib.figure import Figure

    axes = Figure(figsize=(4, 3), dpi=DPI).add_subplot()
    places = [(50.0, 50.0), (50.2, 50.0), (50.1, 50.1), (80.0, 80.0)]
    marks = [axes.plot([x], [y], "o", zorder=4 - place)[0] for place, (x, y) in enumerate(places)]
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    _uncover(axes, marks)
    top, second, third, alone = [mark.get_markersize() for mark in marks]
    assert top == alone == MARKER_SIZE
    assert (second, third) == (MARKER_SIZE + COVERED, MARKER_SIZE + 2 * COVERED)


def test_no_interval_is_drawn_beyond_what_a_share_can_be() -> None:
    assert arms(98.0, 3.0) == [[3.0], [2.0]]
    assert arms(1.0, 3.0) == [[1.0], [3.0]]
    assert arms(50.0, 3.0) == [[3.0], [3.0]]
