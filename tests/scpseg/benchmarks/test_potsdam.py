import numpy as np

from scpseg.benchmarks.potsdam import BENCHMARK, BORDER, draw, lossy, miscoded, without_borders
from scpseg.params import MirrorParams
from scpseg.synthetic.miniatures import Pictures

PICTURES = Pictures(BENCHMARK, MirrorParams(seed=0, side=384, train=2, val=1, test=1))


def slow_erosion(label: np.ndarray, reach: float) -> np.ndarray:
    """Every pixel against every pixel."""
    places = np.stack(np.meshgrid(*map(np.arange, label.shape), indexing="ij"), -1).reshape(-1, 2)
    flat, result = label.reshape(-1), label.reshape(-1).copy()
    for k, place in enumerate(places):
        near = ((places - place) ** 2).sum(axis=1) <= reach**2
        if (flat[near] != flat[k]).any():
            result[k] = 255
    return result.reshape(label.shape)


def test_borders_are_eroded_as_a_slow_loop_does_it() -> None:
    label = np.zeros((40, 36), np.uint8)
    label[5:20, :9], label[18:30, 12:30], label[24:, 28:], label[10, 30] = 1, 2, 255, 5
    label[np.tri(40, 36, -25, dtype=bool)] = 3
    assert len(np.unique(label)) > 2
    assert np.array_equal(without_borders(label), slow_erosion(label, BORDER))


def test_a_label_of_one_class_has_no_border() -> None:
    label = np.full((5, 6), 3, np.uint8)
    assert np.array_equal(without_borders(label), label)


def test_lossy_label_decodes_by_threshold_and_not_exactly() -> None:
    label = draw(256, 0, 0).label
    colours = PICTURES.colours(without_borders(label))
    noisy = lossy(colours)
    assert len(np.unique(noisy.reshape(-1, 3), axis=0)) > 2000
    assert np.abs(noisy.astype(int) - 127.5).min() >= 40
    assert np.array_equal(np.where(noisy >= 128, 255, 0), colours)
    assert (noisy == colours).all(axis=-1).mean() < 0.5


def test_most_cars_are_miscoded_and_nothing_else() -> None:
    label = draw(384, 0, 0).label
    colours = PICTURES.colours(label)
    wrong = miscoded(colours.copy(), label)
    changed = (wrong != colours).any(axis=-1)
    assert (wrong[changed] == (252, 255, 0)).all()
    assert (label[changed] == 4).all()
    assert 0.7 < changed.sum() / (label == 4).sum() < 1
