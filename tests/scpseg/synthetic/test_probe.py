from itertools import pairwise

import numpy as np
import pytest

from scpseg.benchmarks import BENCHMARKS
from scpseg.benchmarks.probe import CUES, DISCS
from scpseg.synthetic.probe import CUE, DISC, EACH, GAP, distances, probe_scene

SIDES = [64, 150, 192, 384]


def test_distances_cover_the_plane_with_rings_that_windows_do_not_cut() -> None:
    assert distances(192) == (24, 40, 56, 72, 88, 104)
    rings = [(distance - CUE // 2, distance + CUE // 2) for distance in distances(384)]
    assert all(one[1] == other[0] for one, other in pairwise(rings))
    # Half a patch, half a context of the profile.
    assert {32, 64} <= {edge for ring in rings for edge in ring}


@pytest.mark.parametrize("side", SIDES)
def test_things_stand_where_the_scene_says(side: int) -> None:
    drawn = probe_scene(side, 3, 7)
    y, x = np.mgrid[:side, :side]
    kind = drawn.kind
    half = CUE // 2
    cue = np.maximum(abs(y + 0.5 - drawn.cue[0]), abs(x + 0.5 - drawn.cue[1])) < half
    assert np.array_equal(drawn.label == CUES[kind], cue) and cue.sum() == CUE**2
    discs = np.zeros((side, side), int)
    for disc in drawn.discs:
        discs += np.hypot(y + 0.5 - disc.row, x + 0.5 - disc.column) < DISC / 2
        assert max(abs(disc.row - drawn.cue[0]), abs(disc.column - drawn.cue[1])) == disc.distance
    assert discs.max() == 1
    assert np.array_equal(drawn.label == DISCS[kind], discs == 1)
    assert set(np.unique(drawn.label)) == {0, CUES[kind], DISCS[kind]}
    assert [disc.distance for disc in drawn.discs] == [d for d in distances(side) for _ in range(EACH)]


@pytest.mark.parametrize("side", SIDES)
def test_things_are_clear_of_each_other_and_of_the_border(side: int) -> None:
    for number in range(0, 8, 2):
        drawn = probe_scene(side, 0, number)
        boxes = [(disc.row, disc.column, DISC / 2) for disc in drawn.discs] + [(*drawn.cue, CUE / 2)]
        for k, (row, column, half) in enumerate(boxes):
            assert min(row, column, side - row, side - column) >= half + GAP
            for other_row, other_column, other in boxes[:k]:
                assert max(abs(row - other_row), abs(column - other_column)) >= half + other + GAP


def test_twins_differ_in_the_cue_alone() -> None:
    one, other = probe_scene(192, 0, 4), probe_scene(192, 0, 5)
    assert (one.kind, other.kind) == (0, 1)
    assert (one.cue, one.discs) == (other.cue, other.discs)
    differs = (one.image != other.image).any(axis=2)
    assert differs.any() and not differs[one.label != CUES[0]].any()
    # Every pixel of the cue is of the other colour in the twin.
    assert differs[one.label == CUES[0]].all()
    swap = np.array([0, 2, 1, 4, 3])
    assert np.array_equal(swap[one.label], other.label)


def test_the_same_arguments_give_the_same_bytes_and_others_do_not() -> None:
    drawn = probe_scene(128, 5, 2)
    assert np.array_equal(drawn.image, probe_scene(128, 5, 2).image)
    assert not np.array_equal(drawn.image, probe_scene(128, 6, 2).image)
    assert not np.array_equal(drawn.image, probe_scene(128, 5, 4).image)


def test_training_ids_are_those_of_the_spec() -> None:
    classes = BENCHMARKS["probe"].classes
    assert [("orange" in classes[i].name, "cue" in classes[i].name) for i in CUES] == [
        (True, True),
        (False, True),
    ]
    assert BENCHMARKS["probe"].scored == DISCS


@pytest.mark.parametrize("number", range(0, 12, 2))
def test_no_mean_colour_tells_the_kind(number: int) -> None:
    """Of the image, of the cue, and so of any window that holds the whole cue."""
    one, other = probe_scene(192, 0, number), probe_scene(192, 0, number + 1)
    assert not np.array_equal(one.image, other.image)
    assert np.array_equal(one.image.sum((0, 1), dtype=np.int64), other.image.sum((0, 1), dtype=np.int64))
    # Nor does the image turned or mirrored have another cue.
    rows, columns = np.nonzero(one.label == CUES[0])
    cue = one.image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(int)
    redder = cue[..., 0] > cue[..., 2]
    assert redder.sum() == redder.size / 2
    assert all(np.array_equal(np.rot90(redder, turn), redder) for turn in range(4))
    assert np.array_equal(redder[:, ::-1], redder)
