from __future__ import annotations

import itertools

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from scpseg.reporting.labels import MARGIN, Named, place_names


@pytest.fixture
def axes() -> Axes:
    figure = Figure(figsize=(3.45, 2.45), dpi=200)
    FigureCanvasAgg(figure)
    found = figure.add_axes((0.15, 0.15, 0.8, 0.75))
    found.set_xlim(0, 10)
    found.set_ylim(0, 10)
    return found


def boxes(axes: Axes) -> list[Bbox]:
    """Of the texts alone, without the lines that lead to the points."""
    for text in axes.texts:
        text.get_window_extent()  # brings its position up to date
    return [Text.get_window_extent(text) for text in axes.texts]


def test_names_of_points_on_each_other_do_not_touch(axes: Axes) -> None:
    points = [Named(5.0 + 0.02 * index, 5.0, f"Method {index}", "black", 1.5) for index in range(3)]
    assert place_names(axes, points, 7.5, 5.5)
    assert [text.get_text() for text in axes.texts] == ["Method 0", "Method 1", "Method 2"]
    frame = axes.get_window_extent()
    for box in boxes(axes):
        x, y = axes.transData.transform((5.02, 5.0))
        assert not (box.x0 < x < box.x1 and box.y0 < y < box.y1)
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1
    for one, other in itertools.combinations(boxes(axes), 2):
        assert not one.overlaps(other)


def test_a_lone_name_stands_on_the_right(axes: Axes) -> None:
    assert place_names(axes, [Named(5, 5, "Alone", "black")], 7.5, 5.5)
    assert boxes(axes)[0].x0 > axes.transData.transform((5, 5))[0]


def test_no_name_touches_the_frame(axes: Axes) -> None:
    frame = axes.get_window_extent()
    for tenths in range(80, 100):
        assert place_names(axes, [Named(tenths / 10, 5, "Name", "black")], 7.5, 5.5)
    assert max(box.x1 for box in boxes(axes)) <= frame.x1 - MARGIN * 200 / 72 + 1e-6


def test_a_crowd_gets_no_names(axes: Axes) -> None:
    points = [Named(5.0, 5.0, f"A rather long name {index}", "black") for index in range(30)]
    assert not place_names(axes, points, 7.5, 5.5)
    assert not axes.texts
