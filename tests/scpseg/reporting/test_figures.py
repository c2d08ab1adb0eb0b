from __future__ import annotations

import re

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from scpseg.reporting.charts import Mark, _marks
from scpseg.reporting.figures import (
    DPI,
    FURTHER,
    METHODS,
    OTHERS,
    STYLE,
    arms,
    label_points,
    looks_of,
    memory_axis,
    score_limits,
)


def test_equal_memory_looks_equal_and_far_apart_becomes_logarithmic() -> None:
    axes = Figure().add_subplot()
    memory_axis(axes, [200.0, 201.0])
    low, high = axes.get_xlim()
    assert 1.0 / (high - low) < 0.03
    memory_axis(axes, [200.0, 9000.0])
    assert axes.get_xscale() == "log"
    low, high = score_limits(70.0, 70.5, 4.0)
    assert low < 70 and high > 70.5 and high - low > 4


def test_marks_that_overlap_are_nested_and_stay_where_they_are() -> None:
    axes = Figure().add_subplot()
    looks = [METHODS[name] for name in ("scpseg", "patch", "glnet", "large")]
    at = [(20.0, 50.0), (20.0, 50.0), (20.0, 50.1), (80.0, 60.0)]
    tips = _marks(axes, [Mark(*one, look.marker, look, 5.0) for one, look in zip(at, looks, strict=True)], "p")
    marks = [line for line in axes.lines if line.get_gid() in tips]
    assert [mark.get_gid() for mark in sorted(marks, key=lambda mark: mark.get_zorder())] == ["p0", "p1", "p2", "p3"]
    sizes = [mark.get_markersize() for mark in marks]
    widths = [bar.get_linewidth()[0] for bar in axes.collections]
    assert len(marks) == len(widths) == 4
    for found in (sizes, widths):
        assert found[0] > found[1] > found[2] > 0.5
    assert (sizes[3], widths[3]) == (6.5, 0.8)  # as if it were alone
    assert [(mark.get_xdata()[0], mark.get_ydata()[0]) for mark in marks] == at
    assert all(bar.get_zorder() < min(mark.get_zorder() for mark in marks) for bar in axes.collections)


def test_no_interval_is_drawn_beyond_what_a_share_can_be() -> None:
    assert arms([98.0, 1.0, 50.0], [3.0, 3.0, 3.0]).tolist() == [[3, 1, 3], [2, 3, 3]]


def test_names_cover_neither_each_other_nor_a_point() -> None:
    with mpl.style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(4, 3), dpi=DPI)
        axes = figure.add_subplot()
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        points = [(50.0, 50.0, "first"), (51.0, 50.0, "second"), (97.0, 90.0, "at the edge"), (50.5, 50.2, "third")]
        label_points(axes, points, [(60.0, 50.0)])
        assert [label.get_text() for label in axes.texts][:3] == ["first", "second", "at the edge"]
        boxes = [annotation.get_window_extent() for annotation in axes.texts]
        frame = axes.get_window_extent()
        for number, box in enumerate(boxes):
            assert frame.x0 <= box.x0 and box.x1 <= frame.x1
            assert not any(box.overlaps(other) for other in boxes[:number])
        label_points(axes, [(20.0, 20.0, f"name {n}") for n in range(9)])
        label_points(axes, [])
    assert 0 < len(axes.texts) - len(boxes) < 9


def test_looks_do_not_depend_on_what_is_beside_them() -> None:
    assert looks_of(["glnet", "scpseg"]) == {name: METHODS[name] for name in ("scpseg", "glnet")}
    alone = looks_of(["mine"])["mine"]
    assert looks_of(["mine", "scpseg", "patch"])["mine"] == alone and alone in FURTHER
    many = looks_of([*METHODS, *(f"m{number}" for number in range(len(FURTHER)))])
    assert len(set(many.values())) == len(many)
    every = [*METHODS.values(), *FURTHER, *OTHERS]
    assert len(set(every)) == len(every) and np.all([re.fullmatch("#[0-9A-F]{6}", look.colour) for look in every])
