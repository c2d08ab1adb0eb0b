import itertools
import warnings

import numpy as np
import pytest
import torch

from scpseg.contract import Needs
from scpseg.data.overviews import Overview, overviews, reduce_image, reduce_label
from scpseg.data.sampling import ImageDataset, WindowDataset, loader, turned, turned_box
from scpseg.data.windows import cut_label


class FakeStore:
    """Two images whose pixels tell their place: red = row, green = column, label = row mod 7."""

    def __init__(self, sides: tuple[int, ...] = (40, 56)) -> None:
        self.sides = {f"i{number}": side for number, side in enumerate(sides)}

    def ids(self, split: str) -> tuple[str, ...]:
        return tuple(self.sides)

    def image(self, split: str, name: str) -> np.ndarray:
        rows, columns = np.mgrid[: self.sides[name], : self.sides[name]]
        return np.stack([rows, columns, rows * 0], axis=-1).astype(np.uint8)

    def label(self, split: str, name: str) -> np.ndarray:
        return self.image(split, name)[..., 0] % 7


def dataset(needs: Needs | None = None, **changes: object) -> WindowDataset:
    settings: dict = {"seed": 3, "batch": 4, "flips": True, "turns": True} | changes
    return WindowDataset(FakeStore(), "train", needs or Needs(16, 32), **settings)


def equal(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_sample_is_a_pure_function_of_seed_and_index() -> None:
    first, second = dataset(), dataset()
    order = [5, 0, 17, 5]
    for index in order:
        assert equal(first[index], second[index])
    assert not equal(first[0], first[1])
    assert not equal(first[0], dataset(seed=4)[0])


def test_resuming_and_workers_change_nothing() -> None:
    alone = list(loader(dataset(), 0, 4, workers=0, pin=False))
    late = list(loader(dataset(), 2, 4, workers=0, pin=False))
    helped = list(loader(dataset(), 0, 4, workers=2, pin=False))
    for (views, labels), (others, truth) in itertools.chain(
        zip(alone[2:], late, strict=True), zip(alone, helped, strict=True)
    ):
        assert torch.equal(views.context, others.context) and torch.equal(labels.context, truth.context)
        assert torch.equal(views.place, others.place)


def test_label_and_place_belong_to_the_window() -> None:
    windows = dataset(Needs(16, 16), flips=False, turns=False)
    for index in range(12):
        sample = windows[index]
        side = round(16 / float(sample["place"][2]))
        top, left = (round(float(share) * side) for share in sample["place"][:2])
        assert sample["context"][0, 0, 0] == top and sample["context"][1, 0, 0] == left
        assert torch.equal(sample["label"], sample["context"][0] % 7)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_place_moves_with_the_picture(flip: bool, turns: int) -> None:
    picture = np.zeros((40, 40), dtype=np.uint8)
    picture[4:14, 20:36] = 1
    moved = turned(picture, flip, turns)
    top, left, height, width = (round(40 * part) for part in turned_box((0.1, 0.5, 0.25, 0.4), flip, turns))
    expected = torch.zeros(40, 40, dtype=torch.uint8)
    expected[top : top + height, left : left + width] = 1
    assert torch.equal(moved, expected)


def test_overview_moves_with_the_window_and_its_patch_is_found_by_place() -> None:
    store = FakeStore((64,))
    reduced = overviews(store, "train", 32)
    windows = WindowDataset(
        store, "train", Needs(32, 32, 32), seed=0, batch=4, flips=True, turns=True, overviews=reduced
    )
    for index in range(8):
        sample = windows[index]
        top, left, height, width = (round(float(share) * 32) for share in sample["place"])
        cut = sample["overview"][:2, top : top + height, left : left + width].float()
        whole = sample["context"][:2].float().reshape(2, 16, 2, 16, 2).mean((2, 4))
        assert (cut - whole).abs().max() <= 2.0


def test_places_are_uniform_over_pixels() -> None:
    windows = dataset(Needs(16, 16), flips=False, turns=False)
    sides = [round(16 / float(windows[index]["place"][2])) for index in range(600)]
    expected = 56**2 / (56**2 + 40**2)
    assert abs(np.mean(np.array(sides) == 56) - expected) < 0.06


def test_image_smaller_than_the_patch_is_mirrored_and_ignored_outside() -> None:
    store = FakeStore((12,))
    sample = WindowDataset(store, "train", Needs(16, 24), seed=0, batch=1, flips=False, turns=False)[0]
    assert torch.equal(sample["label"], torch.from_numpy(cut_label(store.label("train", "i0"), -4, -4, 24)))
    assert (sample["label"] == 255).sum() == 24 * 24 - 12 * 12
    assert sample["context"][0, 3, 10] == 1  # row -1 mirrors row 1


def test_turns_switched_off_move_no_patch() -> None:
    """What a parameter switches off must be all that two runs differ in."""
    with_turns, without = (dataset(turns=turns) for turns in (True, False))
    # A place turned back by hand: only its distance to the image's centre is the same in every turn.
    for index in range(20):
        boxes = [one[index]["place"] for one in (with_turns, without)]
        far = [(box[:2] + box[2:] / 2 - 0.5).square().sum() for box in boxes]
        assert torch.allclose(far[0], far[1])
    assert any(not torch.equal(with_turns[index]["place"], without[index]["place"]) for index in range(20))


@pytest.mark.parametrize(
    ("height", "width", "side"), [(24, 24, 8), (61, 47, 16), (47, 61, 47), (50, 33, 32), (9, 9, 9)]
)
def test_reduction_by_area(height: int, width: int, side: int) -> None:
    image = np.random.default_rng(1).integers(256, size=(height, width, 3), dtype=np.uint8)

    def shares(size: int) -> np.ndarray:
        """How much of each pixel lies in each cell, counted on a grid on which both fall on whole points."""
        return np.repeat(np.eye(size), side, axis=0).reshape(side, size, size).mean(1)

    exact = np.einsum("ih,jw,hwc->cij", shares(height), shares(width), image)
    image.flags.writeable = False  # as an image of the store is
    with warnings.catch_warnings(action="error"):
        reduced = reduce_image(image, side)
    assert reduced.shape == (3, side, side) and reduced.dtype == np.uint8
    assert np.abs(reduced - exact).max() <= 0.5 + 1e-3
    assert np.array_equal(reduce_image(image[:, ::-1], side), reduced[:, :, ::-1])


def test_reduction_of_labels_takes_the_nearest() -> None:
    random = np.random.default_rng(1)
    image = random.integers(256, size=(24, 24, 3), dtype=np.uint8)
    label = random.integers(7, size=(24, 24), dtype=np.uint8)
    assert (reduce_label(label, 8) == label[1::3, 1::3]).all()
    assert isinstance(Overview(reduce_image(image, 8), reduce_label(label, 8)), Overview)


def images_of(store: FakeStore, batch: int = 1, seed: int = 3, **changes: object) -> ImageDataset:
    settings: dict = {"flips": True, "turns": True, "overviews": overviews(store, "train", 32)} | changes
    return ImageDataset(WindowDataset(store, "train", Needs(16, 24, 32), seed=seed, batch=batch, **settings))


def test_an_image_comes_with_all_its_windows_and_one_overview() -> None:
    store = FakeStore((40, 56))
    counts = []
    for index in range(2):
        views, labels = images_of(store, flips=False, turns=False)[index]
        side = {9: 40, 16: 56}[len(views.place)]
        assert views.overview is not None and views.overview.shape == (1, 3, 32, 32)
        assert labels.overview is not None and labels.overview.shape == (1, 32, 32)
        covered = np.zeros((side, side), dtype=int)
        for context, label, place in zip(views.context, labels.context, views.place, strict=True):
            top, left = (round(float(share) * side) for share in place[:2])
            assert (context[0, 4:-4, 4:-4] == torch.arange(top, top + 16)[:, None]).all()
            assert torch.equal(label[4:-4, 4:-4], context[0, 4:-4, 4:-4] % 7)
            covered[top : top + 16, left : left + 16] += 1
        assert (covered > 0).all()
        counts.append(len(views.place))
    assert sorted(counts) == [9, 16]


def test_images_are_a_pure_function_of_seed_and_index_and_pass_by_evenly() -> None:
    store = FakeStore((40, 56, 72))
    sizes = [len(images_of(store)[index][0].place) for index in (11, *range(12))]
    assert sizes[0] == sizes[12]
    assert all(sorted(sizes[1 + first : 4 + first]) == [9, 16, 25] for first in range(0, 12, 3))
    again = [len(images_of(store, seed=4)[index][0].place) for index in range(12)]
    assert again != sizes[1:]
    alone = list(loader(images_of(store, batch=2), 0, 4, workers=0, pin=False))
    late = list(loader(images_of(store, batch=2), 2, 4, workers=1, pin=False))
    for images, others in zip(alone[2:], late, strict=True):
        assert len(images) == 2
        for (views, labels), (other, truth) in zip(images, others, strict=True):
            assert torch.equal(views.context, other.context) and torch.equal(labels.context, truth.context)
            assert torch.equal(views.overview, other.overview) and torch.equal(labels.overview, truth.overview)


def test_an_image_is_flipped_and_turned_as_a_whole() -> None:
    store = FakeStore((64,))
    seen = set()
    for index in range(24):
        views, _ = images_of(store)[index]
        assert views.overview is not None
        for context, place in zip(views.context, views.place, strict=True):
            top, left, height, width = (round(float(share) * 32) for share in place)
            cut = views.overview[0, :2, top : top + height, left : left + width].float()
            whole = context[:2, 4:-4, 4:-4].float().reshape(2, 8, 2, 8, 2).mean((2, 4))
            assert (cut - whole).abs().max() <= 2.0
        seen.add(tuple(views.overview[0, :2, 0, 0].tolist()))
    assert len(seen) == 4
