import numpy as np
import pytest

from scpseg.evaluation.confusion import confusion, metrics


def test_equals_a_slow_loop() -> None:
    random = np.random.default_rng(0)
    truth = random.choice([0, 1, 2, 3, 255], size=(13, 17)).astype(np.uint8)
    prediction = random.integers(4, size=(13, 17), dtype=np.uint8)
    expected = np.zeros((4, 4), dtype=np.int64)
    for row, column in np.ndindex(truth.shape):
        if truth[row, column] != 255:
            expected[truth[row, column], prediction[row, column]] += 1
    result = confusion(truth, prediction, 4)
    assert result.dtype == np.int64 and (result == expected).all()


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
