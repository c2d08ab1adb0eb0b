import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from scpseg.data.sampling import turned, turned_box
from scpseg.data.windows import starts
from scpseg.geometry import Stitched, cells, cut, enlarge


def boxes(height: int, width: int, patch: int) -> list[tuple[float, float, float, float]]:
    corners = itertools.product(starts(height, patch, 0.0), starts(width, patch, 0.0))
    return [(top / height, left / width, patch / height, patch / width) for top, left in corners]


def test_cells_of_the_papers_patches() -> None:
    # 508 of 2448 pixels are 26 of 127 cells at stride 4 and 3 of 16 at stride 32.
    (box,) = cells(torch.tensor([[0.0, 388 / 2448, 508 / 2448, 508 / 2448]]), (127, 16))
    assert box == (slice(0, 26), slice(3, 6))


@pytest.mark.parametrize("side", [2, 3, 4, 16, 24, 128])
@pytest.mark.parametrize(("image", "patch"), [((2448, 2448), 512), ((384, 300), 64), ((100, 100), 100)])
def test_boxes_of_touching_windows_leave_no_cell_out(side: int, image: tuple[int, int], patch: int) -> None:
    seen = np.zeros((side, side), dtype=int)
    for rows, columns in cells(torch.tensor(boxes(*image, patch)), (side, side)):
        assert 0 <= rows.start < rows.stop <= side and 0 <= columns.start < columns.stop <= side
        seen[rows, columns] += 1
    assert (seen > 0).all()


def test_a_box_that_leaves_the_image_keeps_its_place_and_size() -> None:
    """A window larger than the image, or centred on a point near its border."""
    boxes = torch.tensor([[0.0, 0.9, 1.5, 0.2], [-0.25, -0.2, 0.5, 0.5]])
    assert cells(boxes, (8, 10)) == [(slice(0, 12), slice(9, 11)), (slice(-2, 2), slice(-2, 3))]
    rows, columns = torch.arange(8.0)[:, None].expand(8, 10), torch.arange(10.0).expand(8, 10)
    for box, (low, high), (left, right) in zip(boxes, ((0, 12), (-2, 2)), ((9, 11), (-2, 3)), strict=True):
        crop = cut(torch.stack([rows, columns])[None], box[None], (high - low, right - left))[0]
        for k in range(high - low):  # outside, the nearest cell
            assert (crop[0, k] == min(max(low + k, 0), 7)).all()
        for k in range(right - left):
            assert (crop[1, :, k] == min(max(left + k, 0), 9)).all()
        stitched = Stitched(torch.empty(1, 2, 8, 10))
        stitched.add(crop[None], box[None])
        pasted = stitched.mean()[0]
        inside = slice(max(low, 0), min(high, 8)), slice(max(left, 0), min(right, 10))
        assert torch.equal(pasted[0][inside], rows[inside])  # what is outside goes nowhere
        assert pasted.sum(0).count_nonzero() <= pasted[0][inside].numel()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_a_cut_moves_with_the_image(flip: bool, turns: int) -> None:
    random = np.random.default_rng(0)
    for side in (6, 24, 96):
        maps = random.random((3, side, side), dtype=np.float32)
        for top, left in random.integers(321, size=(20, 2)):
            box = (top / 384, left / 384, 64 / 384, 64 / 384)
            place = torch.tensor([turned_box(box, flip, turns)], dtype=torch.float32)
            moved = cut(turned(maps, flip, turns)[None], place, (16, 16))
            still = cut(torch.from_numpy(maps)[None], torch.tensor([box], dtype=torch.float32), (16, 16))
            torch.testing.assert_close(moved[0], turned(still[0].numpy(), flip, turns))


def test_each_patch_is_cut_from_its_own_image_or_all_from_one() -> None:
    maps = torch.arange(2 * 64.0).reshape(2, 1, 8, 8)
    place = torch.tensor([[0.0, 0.5, 0.25, 0.25], [0.5, 0.0, 0.25, 0.25]])
    own, shared = cut(maps, place, (2, 2)), cut(maps[:1], place, (2, 2))
    assert torch.equal(own[0], maps[0, :, :2, 4:6]) and torch.equal(own[1], maps[1, :, 4:6, :2])
    assert torch.equal(shared[0], own[0]) and torch.equal(shared[1], maps[0, :, 4:6, :2])


def test_stitched_equals_a_slow_paste_and_average() -> None:
    torch.manual_seed(0)
    places = torch.tensor(boxes(150, 130, 64) + boxes(150, 130, 50))
    windows = torch.randn(len(places), 3, 5, 7)
    stitched = Stitched(torch.empty(1, 3, 12, 9))
    for part in torch.arange(len(places)).split(4):
        stitched.add(windows[part], places[part])
    values: dict[tuple[int, int], list[torch.Tensor]] = {}
    for window, (top, left, height, width) in zip(windows, places.tolist(), strict=True):
        first, last = round(top * 12), round((top + height) * 12)
        left_cell, right_cell = round(left * 9), round((left + width) * 9)
        small = F.interpolate(window[None], (last - first, right_cell - left_cell), mode="bilinear")[0]
        for row, column in itertools.product(range(first, last), range(left_cell, right_cell)):
            values.setdefault((row, column), []).append(small[:, row - first, column - left_cell])
    result = stitched.mean()
    assert len(values) == 12 * 9 and max(map(len, values.values())) > 1
    for (row, column), found in values.items():
        torch.testing.assert_close(result[0, :, row, column], torch.stack(found).mean(0))


def test_cells_without_a_window_are_zero() -> None:
    stitched = Stitched(torch.empty(1, 2, 4, 4))
    stitched.add(torch.ones(1, 2, 3, 3), torch.tensor([[0.0, 0.0, 0.5, 0.5]]))
    expected = torch.zeros(1, 2, 4, 4)
    expected[..., :2, :2] = 1
    assert torch.equal(stitched.mean(), expected)


@pytest.mark.parametrize("height", [64, 150])
def test_enlarge_equals_a_cut_of_the_whole_enlarged_map(height: int) -> None:
    torch.manual_seed(0)
    maps = torch.randn(1, 3, 12, 9)
    places = boxes(height, 130, 64)
    whole = F.interpolate(maps, (height, 130), mode="bilinear")
    found = enlarge(maps, torch.tensor(places), (64, 64))
    for patch, (top, left, _, _) in zip(found, places, strict=True):
        row, column = round(top * height), round(left * 130)
        torch.testing.assert_close(patch, whole[0, :, row : row + 64, column : column + 64], rtol=1e-4, atol=1e-5)


def test_enlarge_takes_each_patch_from_its_own_map() -> None:
    maps = torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    found = enlarge(maps, torch.tensor([[0.0, 0.0, 0.5, 0.5]]).repeat(2, 1), (8, 8))
    assert (found[0] == 1).all() and (found[1] == 2).all()
