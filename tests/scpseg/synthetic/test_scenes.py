import functools

import numpy as np
import pytest
from scipy import ndimage

from scpseg.benchmarks import BENCHMARKS, REAL
from scpseg.benchmarks.base import NOTE, Scene

SIDE = 384
DRAWN = [name for name in REAL if BENCHMARKS[name].miniature]
Drawn = tuple[str, list[Scene]]


@functools.cache
def draw(benchmark: str, side: int, seed: int, number: int) -> Scene:
    miniature = BENCHMARKS[benchmark].miniature
    assert miniature
    return miniature.draw(side, seed, number)


@pytest.fixture(scope="module", params=DRAWN)
def drawn(request: pytest.FixtureRequest) -> Drawn:
    return request.param, [draw(request.param, SIDE, 0, number) for number in range(3)]


@pytest.mark.parametrize("benchmark", DRAWN)
def test_the_same_arguments_give_the_same_bytes_and_others_do_not(benchmark: str) -> None:
    one, again = draw(benchmark, 128, 5, 1), draw.__wrapped__(benchmark, 128, 5, 1)
    assert np.array_equal(one.image, again.image) and np.array_equal(one.label, again.label)
    for other in ((6, 1), (5, 2)):
        assert not np.array_equal(one.image, draw(benchmark, 128, *other).image)


@pytest.mark.parametrize("benchmark", DRAWN)
@pytest.mark.parametrize("side", [64, 150])
def test_shapes_and_types(benchmark: str, side: int) -> None:
    image, label, _ = draw(benchmark, side, 0, 0)
    assert image.shape == (side, side, 3) and image.dtype == np.uint8
    assert label.shape == (side, side) and label.dtype == np.uint8


def test_labels_are_training_ids_and_every_scored_class_is_present(drawn: Drawn) -> None:
    benchmark, scenes = drawn
    spec = BENCHMARKS[benchmark]
    for one in scenes:
        present = set(np.unique(one.label)) - {255}
        assert present <= set(range(len(spec.classes)))
        assert set(spec.scored) <= present


def test_no_scored_class_is_rare_nor_rules(drawn: Drawn) -> None:
    benchmark, scenes = drawn
    labels = np.stack([one.label for one in scenes])
    for index in BENCHMARKS[benchmark].scored:
        assert 0.01 < (labels == index).mean() < 0.6


def test_a_fair_share_of_surfaces_is_told_only_by_its_surroundings(drawn: Drawn) -> None:
    benchmark, scenes = drawn
    twins = [one.twin for one in scenes if one.twin is not None]
    if not twins:
        pytest.skip(f"the scenes of {benchmark} do not say which surfaces two classes share")
    assert 0.1 < np.mean(twins) < 0.4


@pytest.mark.soak
def test_the_note_says_how_much_only_a_wider_window_tells() -> None:
    found: dict[int, list[float]] = {64: [], 128: []}
    for benchmark in ("deepglobe", "inria", "potsdam", "blu"):
        twins = np.array([draw(benchmark, SIDE, 0, number).twin for number in range(8)])
        assert 0.15 < twins.mean() < 0.25
        for window, shares in found.items():
            shares.append(sum(held(twin, window) for twin in twins) / twins.sum())
    for window, words in ((64, "2 to 6 %"), (128, "36 to 68 %")):
        assert f"{100 * min(found[window]):.0f} to {100 * max(found[window]):.0f} %" == words and words in NOTE


def held(twin: np.ndarray, window: int) -> int:
    """Pixels of `twin` whose window, about their 64-pixel patch, holds their whole surface and 4 pixels around it."""
    surfaces, _ = ndimage.label(twin)
    count = 0
    for index, box in enumerate(ndimage.find_objects(surfaces), 1):
        first = np.maximum(0, [side.start - 4 for side in box])
        end = np.minimum(SIDE, [side.stop + 4 for side in box])
        start = np.argwhere(surfaces == index) // 64 * 64 - (window - 64) // 2
        count += int(((start <= first) & (start + window >= end)).all(axis=1).sum())
    return count


@pytest.mark.parametrize(("benchmark", "one", "other"), [("inria", 0, 1), ("potsdam", 0, 1), ("potsdam", 2, 1)])
def test_twin_surfaces_of_two_classes_look_alike(benchmark: str, one: int, other: int) -> None:
    scenes = [draw(benchmark, SIDE, 0, number) for number in range(6)]
    colours = {}
    for index in (one, other):
        where = [drawn.twin & (drawn.label == index) for drawn in scenes]
        pixels = np.concatenate([drawn.image[mask] for drawn, mask in zip(scenes, where, strict=True)]).astype(float)
        green = pixels[:, 1] > pixels[:, 0] + 8
        pixels = pixels[green if one == 2 else ~green]
        assert len(pixels) > 2000
        colours[index] = pixels
    spread = np.concatenate(list(colours.values())).std(axis=0)
    assert (np.abs(colours[one].mean(axis=0) - colours[other].mean(axis=0)) < 0.8 * spread).all()


def test_invalid_pixels_are_black_and_ignored() -> None:
    image, label, _ = draw("blu", 128, 0, 1)
    assert (label == 255).any()
    assert (image[label == 255] == 0).all()
