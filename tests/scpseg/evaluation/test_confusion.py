import numpy as np
import pytest

from scpseg.evaluation.confusion import CHUNK, confusion, metrics


@pytest.mark.parametrize("classes", [1, 4, 15, 16, 255])  # 15 is the last whose cells fit a byte
def test_equals_a_slow_loop(classes: int) -> None:
    random = np.random.default_rng(0)
    truth = random.choice([*range(classes), 255], size=(53, 47)).astype(np.uint8)
    truth[0, 0], prediction = classes - 1, random.integers(classes, size=(53, 47), dtype=np.uint8)
    prediction[0, 0] = classes - 1
    expected = np.zeros((classes, classes), dtype=np.int64)
    for row, column in np.ndindex(truth.shape):
        if truth[row, column] != 255:
            expected[truth[row, column], prediction[row, column]] += 1
    result = confusion(truth, prediction, classes)
    assert result.dtype == np.int64 and (result == expected).all()


@pytest.mark.parametrize("size", [0, CHUNK - 1, CHUNK, 2 * CHUNK + 1])
def test_every_pixel_is_counted_once_however_many_chunks(size: int) -> None:
    truth = np.zeros(size, dtype=np.uint8)
    truth[-1:] = 1
    assert confusion(truth, 1 - truth, 2).tolist() == [[0, max(size - 1, 0)], [min(size, 1), 0]]


def test_arrays_of_any_layout_are_counted_and_not_changed() -> None:
    random = np.random.default_rng(1)
    truth, prediction = random.integers(3, size=(2, 40, 30), dtype=np.uint8)
    for array in (truth, prediction):
        array.flags.writeable = False
    assert (
        confusion(truth[::2, ::-1].T, prediction[::2, ::-1].T, 3) == confusion(truth[::2], prediction[::2], 3)
    ).all()


def test_metrics_by_hand() -> None:
    matrix = np.array([[6, 2, 0, 0], [1, 3, 0, 0], [4, 0, 0, 0], [0, 0, 0, 0]])
    result = metrics(matrix, scored=(0, 1, 3))
    assert result.iou[0] == pytest.approx(6 / 13) and result.iou[1] == pytest.approx(3 / 6)
    assert result.iou[2] == 0.0 and result.iou[3] is None and result.absent == (3,)
    assert result.mean_iou == pytest.approx((6 / 13 + 0.5) / 2)
    assert result.f1[0] == pytest.approx(12 / 19) and result.mean_f1 == pytest.approx((12 / 19 + 6 / 9) / 2)
    assert result.accuracy == pytest.approx(9 / 16)


def test_unscored_truth_still_makes_false_positives() -> None:
    """A tree predicted on clutter is a false tree (the field's rule)."""
    matrix = np.array([[5, 0], [5, 0]])
    assert metrics(matrix, scored=(0,)).mean_iou == pytest.approx(0.5)


def test_nothing_labelled_has_no_metric() -> None:
    result = metrics(np.zeros((2, 2), dtype=np.int64), scored=(0, 1))
    assert result.mean_iou is None and result.accuracy is None and result.absent == (0, 1)


@pytest.mark.parametrize("scored", [(0, 1, 2), (0, 1, 3), (1,), (3,)])
def test_chance_is_the_best_of_all_answers_of_one_class(scored: tuple[int, ...]) -> None:
    truth = np.array([6] * 8 + [1] * 4 + [2] * 4, dtype=np.uint8) % 4  # 2: 12 pixels, 1: 4, none of 0 and 3
    answers = [confusion(truth, np.full_like(truth, index), 4) for index in scored]
    result = metrics(answers[0], scored)
    assert result.chance == pytest.approx(max(metrics(matrix, scored).mean_iou or 0.0 for matrix in answers))
    assert metrics(np.zeros((2, 2), dtype=np.int64), scored=(0, 1)).chance is None
