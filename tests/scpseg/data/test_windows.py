import itertools
import math

import numpy as np
import pytest

from scpseg.data.windows import cut_image, cut_label, mirrored, starts


def mirrored_slowly(index: int, size: int) -> int:
    while not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
        if size == 1:
            return 0
    return index


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("start", range(-9, 10))
def test_mirrored_indices_walk_back_and_forth(size: int, start: int) -> None:
    length = 25
    found = np.full(length, -1)
    for filled, source in mirrored(start, length, size):
        assert (found[filled] == -1).all()
        found[filled] = np.arange(size)[source]
    assert found.tolist() == [mirrored_slowly(index, size) for index in range(start, start + length)]


@pytest.mark.parametrize(("top", "left"), [(0, 0), (-3, 2), (4, -5), (6, 7), (-20, 30)])
def test_cut_equals_pixel_by_pixel(top: int, left: int) -> None:
    random = np.random.default_rng(0)
    image = random.integers(256, size=(9, 11, 3), dtype=np.uint8)
    label = random.integers(6, size=(9, 11), dtype=np.uint8)
    side = 8
    window, truth = cut_image(image, top, left, side, side), cut_label(label, top, left, side)
    assert np.array_equal(cut_image(image, top, left, side, 5), window[:, :, :5])
    assert np.array_equal(cut_image(image, top, left, 3, side), window[:, :3])
    for row in range(side):
        for column in range(side):
            y, x = top + row, left + column
            assert (window[:, row, column] == image[mirrored_slowly(y, 9), mirrored_slowly(x, 11)]).all()
            inside = 0 <= y < 9 and 0 <= x < 11
            assert truth[row, column] == (label[y, x] if inside else 255)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("length", [5, 16, 17, 40, 48])
def test_starts_cover_without_leaving(length: int, overlap: float) -> None:
    side = 16
    tops = starts(length, side, overlap)
    assert tops == sorted(set(tops)) and tops[0] == 0
    covered = {index for top in tops for index in range(top, top + side)}
    assert covered >= set(range(length))
    assert tops[-1] + side == max(length, side)
    for before, after in itertools.pairwise(tops):
        assert after - before <= side * (1 - overlap)


@pytest.mark.parametrize(("length", "side", "least"), [(2448, 508, 50), (5000, 536, 50), (100, 64, 63), (64, 64, 10)])
def test_neighbours_share_at_least_so_many_pixels(length: int, side: int, least: int) -> None:
    tops = starts(length, side, 0.0, least)
    assert tops[0] == 0 and tops[-1] == length - side
    assert all(above + side - below >= least for above, below in itertools.pairwise(tops))
    # One window fewer would not do.
    assert len(tops) == 1 + math.ceil((length - side) / (side - least))
    assert starts(length, side, 0.5, least) == starts(length, side, max(0.5, least / side))
