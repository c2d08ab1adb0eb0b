from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from scipy import stats

from scpseg.evaluation.confusion import metrics
from scpseg.reporting.statistics import (
    Difference,
    better,
    corrected,
    differences,
    draws,
    estimate,
    holm,
    mean_iou,
    ranks,
    resampled,
)


def test_interval_equals_a_hand_computed_one() -> None:
    # Mean 0.72; deviations -0.02, 0.00, 0.02, so s = 0.02; t(0.975, 2) = 4.30265; 4.30265 * 0.02 / sqrt(3) = 0.049683.
    found = estimate([0.70, 0.72, 0.74])
    assert found.n == 3
    assert found.mean == pytest.approx(0.72)
    assert found.half == pytest.approx(0.049683, abs=1e-6)


def test_interval_of_two_uses_one_degree_of_freedom() -> None:
    # s = 0.01 * sqrt(2); t(0.975, 1) = 12.7062; half = 12.7062 * 0.01 * sqrt(2) / sqrt(2).
    assert estimate([0.5, 0.52]).half == pytest.approx(0.127062, abs=1e-6)


def test_one_seed_has_no_interval_and_none_is_no_value() -> None:
    assert (estimate([0.4]).mean, estimate([0.4]).half, estimate([0.4]).n) == (0.4, None, 1)
    assert estimate([None, 0.4, None]) == estimate([0.4])
    assert (estimate([None]).mean, estimate([]).n) == (None, 0)


def matrices(seeds: int, images: int, classes: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 50, (seeds, images, classes, classes))


def test_mean_iou_of_many_matrices_is_that_of_the_evaluation() -> None:
    found = matrices(4, 5)
    found[0, 0, :, 2] = found[0, 0, 2, :] = 0  # class 2 is absent
    found[1, 1] = 0
    for scored in ((0, 1, 2), (1, 2)):
        flat = mean_iou(found, scored)
        for place in itertools.product(range(4), range(5)):
            slow = metrics(found[place], scored).mean_iou
            assert math.isnan(flat[place]) if slow is None else flat[place] == pytest.approx(slow, abs=1e-12)


def test_bootstrap_is_that_of_a_slow_loop() -> None:
    found, drawn = matrices(2, 6), draws(6, 20)
    assert drawn.shape == (20, 6) and (drawn.sum(1) == 6).all() and (draws(6, 20) == drawn).all()
    fast = resampled(found, (0, 1, 2), drawn)
    for number, counts in enumerate(drawn):
        scores = []
        for seed in range(2):
            total = np.zeros((3, 3), np.int64)
            for image, times in enumerate(counts):
                for _ in range(times):
                    total = total + found[seed, image]
            scores.append(metrics(total, (0, 1, 2)).mean_iou or 0.0)
        assert fast[number] == pytest.approx(statistics.fmean(scores), abs=1e-12)


def test_difference_adds_the_parts_of_images_and_seeds() -> None:
    first, second = matrices(3, 8, seed=1), matrices(3, 8, seed=2)
    given = {"a": dict(enumerate(first)), "b": dict(enumerate(second))}
    found = differences(given, (0, 1, 2), 200)["a", "b"]
    each = [
        metrics(first[s].sum(0), (0, 1, 2)).mean_iou - metrics(second[s].sum(0), (0, 1, 2)).mean_iou for s in range(3)
    ]  # type: ignore[operator]
    spread = resampled(first, (0, 1, 2), draws(8, 200)) - resampled(second, (0, 1, 2), draws(8, 200))
    images, seeds = np.var(spread, ddof=1) * 8 / 7, np.var(each, ddof=1) / 3
    assert found.mean == pytest.approx(np.mean(each)) and (found.seeds, found.images) == (3, 8)
    assert found.error == pytest.approx(math.sqrt(images + seeds))
    assert found.freedom == pytest.approx((images + seeds) / (images / 7 + seeds / 2))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(found.mean) / found.error, found.freedom))
    assert found.half == pytest.approx(stats.t.ppf(0.975, found.freedom) * found.error)
    assert found.detectable == pytest.approx(found.half + stats.t.ppf(0.8, found.freedom) * found.error)
    one = differences({name: {0: seed[0]} for name, seed in given.items()}, (0, 1, 2), 200)["a", "b"]
    assert (one.seeds, one.freedom) == (1, pytest.approx(7))
    reverse = differences(given, (0, 1, 2), 200)["b", "a"]
    assert (reverse.mean, reverse.p) == (-found.mean, found.p)


def test_equal_answers_do_not_differ_and_other_images_are_not_compared() -> None:
    one = matrices(2, 5)
    found = differences({"a": dict(enumerate(one)), "b": dict(enumerate(one))}, (0, 1))
    assert (found["a", "b"].mean, found["a", "b"].p) == (0.0, 1.0)
    assert differences({"a": {0: one[0]}, "b": {0: one[0][:3]}, "c": {1: one[1]}}, (0, 1)) == {}
    assert differences({"a": {0: one[0][:1]}, "b": {0: one[1][:1]}}, (0, 1)) == {}


def slow_holm(values: list[float]) -> list[float]:
    """By the definition: reject the smallest as long as p <= level / (number not yet rejected)."""
    levels = []
    for index, _ in enumerate(values):
        order = sorted(values)
        rank = sorted(range(len(values)), key=lambda k: values[k]).index(index)
        levels.append(min(1.0, max(order[k] * (len(values) - k) for k in range(rank + 1))))
    return levels


def test_holm_is_that_of_the_definition() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    for seed in range(50):
        values = list(np.random.default_rng(seed).uniform(0, 0.2, 7))
        assert holm(values) == pytest.approx(slow_holm(values))
    assert holm([]) == []


def difference(value: float, error: float = 0.01, seeds: int = 3) -> Difference:
    return Difference(value, error, 10.0, seeds, 20)


def test_places_are_a_range_where_methods_tie() -> None:
    pairs = {}
    for (one, x), (other, y) in itertools.permutations({"a": 0.9, "b": 0.899, "c": 0.5}.items(), 2):
        pairs[one, other] = difference(x - y)
    assert ranks("abc", pairs, corrected(pairs)) == {"a": (1, 2), "b": (1, 2), "c": (3, 3)}
    single = {pair: difference(found.mean, seeds=1) for pair, found in pairs.items()}
    assert ranks("abc", single, corrected(single)) == {}
    assert ranks("ab", {}, {}) == {} and ranks("a", {}, {}) == {}


def test_better_needs_two_seeds_and_significance() -> None:
    found = {("a", "b"): difference(0.4), ("a", "c"): difference(0.4, seeds=1), ("b", "c"): difference(0.001)}
    found |= {pair[::-1]: difference(-one.mean, seeds=one.seeds) for pair, one in found.items()}
    assert better(found, corrected(found)) == [("a", "b")]


@pytest.mark.soak
def test_intervals_hold_the_truth_in_95_of_100() -> None:
    """t interval over seeds, and paired interval with true effects of images and seeds; 2 points allowed."""
    rng = np.random.default_rng(0)
    values = rng.normal(0.7, 0.02, (4000, 3))
    hits = [abs((found := estimate(row)).mean - 0.7) <= found.half for row in values]  # type: ignore[operator]
    assert abs(np.mean(hits) - 0.95) < 0.02
    for seeds, images in ((3, 20), (5, 40), (3, 60)):
        hits = []
        for _ in range(1500):
            ease = rng.normal(0, 0.05, images)
            given: dict[str, dict[int, np.ndarray]] = {}
            for method, level in (("a", 0.75), ("b", 0.72)):
                own = rng.normal(0, 0.02, images)  # how a method takes an image, the same for all its seeds
                given[method] = {}
                for seed in range(seeds):
                    right = np.clip(level + ease + own + rng.normal(0, 0.01) + rng.normal(0, 0.005, images), 0, 1)
                    # One class right or missed, so that the IoU is the share of right pixels and has a known mean.
                    found = np.zeros((images, 2, 2), np.int64)
                    found[:, 0, 0] = np.round(right * 1e6)
                    found[:, 0, 1] = 1e6 - found[:, 0, 0]
                    given[method][seed] = found
            result = differences(given, (0,), 300)["a", "b"]
            hits.append(abs(result.mean - 0.03) <= result.half)
        assert abs(np.mean(hits) - 0.95) < 0.02, (seeds, images, np.mean(hits))
