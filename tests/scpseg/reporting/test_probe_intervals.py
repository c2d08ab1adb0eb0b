from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scpseg.reporting.probe_section import (
    BOTH,
    CENTRED,
    TEXTURE,
    Accuracy,
    Asked,
    accuracy,
    difference,
    interval,
    pairs,
)
from scpseg.reporting.statistics import draws


def disc(
    image: int, seed: int, number: int, predicted: Any, distance: int = 24, method: str = "patch"
) -> dict[str, Any]:
    """Images 4 k to 4 k + 3 belong together; the texture is always answered as striped."""
    kind, texture = image % 2, image // 2 % 2
    return {
        "image": f"s{image}",
        "row": 20 + 30 * number + image // 4,
        "column": 40,
        "seed": seed,
        "method": method,
        "kind": kind,
        "texture": texture,
        "distance": distance,
        "cue_side": 16,
        "centred": predicted,
        "grid": kind,
        "centred_texture": 0,
        "grid_texture": texture,
        "visible": 0.0,
    }


def test_twins_are_found_by_the_places_of_their_discs() -> None:
    frame = pd.DataFrame([disc(image, seed, n, 0) for image in (7, 3, 0, 4, 2, 1) for seed in (0, 1) for n in (0, 1)])
    found = pairs(frame)
    by_image = dict(zip(frame["image"], found, strict=True))
    assert by_image["s0"] == by_image["s1"] == by_image["s2"] == by_image["s3"]
    assert by_image["s4"] == by_image["s7"] != by_image["s0"]


def test_the_variance_is_that_over_groups_and_that_over_seeds() -> None:
    right, total = np.array([[3, 1, 2], [0, 4, 1]]), np.array([[4, 4, 2], [4, 4, 2]])
    shares = []
    for drawn in draws(3):
        chosen = [group for group, times in enumerate(drawn) for _ in range(times)]
        hits = sum(right[seed, group] for seed in range(2) for group in chosen)
        shares.append(hits / sum(total[seed, group] for seed in range(2) for group in chosen))
    groups, seeds = statistics.variance(shares) * 3 / 2, statistics.variance([6 / 10, 5 / 10]) / 2
    found = interval(right, total, np.zeros(3, int))
    assert (found.mean, found.seeds, found.images) == (0.55, 2, 3)
    assert found.error**2 == pytest.approx(groups + seeds)
    assert found.freedom == pytest.approx((groups + seeds) / (groups / 2 + seeds / 1))


def test_the_interval_is_as_wide_as_theory_has_it() -> None:
    """One seed: the deviation of a mean of 400 draws."""
    right = np.random.default_rng(1).binomial(1, 0.7, size=(1, 400))
    found = interval(right, np.ones((1, 400), dtype=np.int64), np.zeros(400, int))
    assert found.half == pytest.approx(1.96 * (0.7 * 0.3 / 400) ** 0.5, rel=0.1)
    # Seeds that differ widen it, however many scenes there are.
    right = np.repeat(np.array([[0], [1], [0], [1]]), 400, axis=1)
    assert interval(right, np.ones_like(right), np.zeros(400, int)).half > 0.5


def test_groups_are_drawn_within_their_size_of_cue() -> None:
    """Sizes of cues whose groups are alike leave nothing to chance, however much the sizes differ."""
    right, strata = np.array([[4, 4, 0, 0], [4, 4, 0, 0]]), np.array([16, 16, 4, 4])
    assert interval(right, np.full((2, 4), 4), strata).error == 0
    assert interval(right, np.full((2, 4), 4), np.zeros(4, int)).error > 0.2
    # Two sizes whose groups vary alike: the variance of a mean of twice as many groups.
    random = np.random.default_rng(0)
    right = random.binomial(1, 0.5, (1, 800))
    found = interval(right, np.ones_like(right), np.repeat([16, 4], 400))
    assert found.error == pytest.approx(0.5 / 800**0.5, rel=0.1) and found.freedom == 798


def test_five_seeds_are_covered() -> None:
    """Seeds that vary more than scenes."""
    random, total = np.random.default_rng(2), np.full((5, 12), 40)
    inside = 0
    for _ in range(200):
        level = 0.6 + random.normal(0, 0.1, (5, 1)) + random.normal(0, 0.05, (1, 12))
        found = interval(random.binomial(40, level.clip(0, 1)), total, np.zeros(12, int))
        inside += abs(found.mean - 0.6) < found.half
    assert 0.91 <= inside / 200 <= 0.99


def of(rows: list[dict[str, Any]], asked: Asked = CENTRED) -> Accuracy:
    frame = pd.DataFrame(rows)
    return accuracy(frame.assign(pair=pairs(frame)), asked)


def test_what_is_blind_is_right_by_half_as_an_identity_and_no_estimate() -> None:
    blind = [disc(image, seed, n, n % 2) for image in range(8) for seed in (0, 1) for n in (0, 1)]
    assert of(blind) == Accuracy(0.5, None, 2, 0.5, 0.5, True)
    # No answer at all is an answer alike, but right in none.
    silent = of([one | {"centred": None} for one in blind])
    assert silent.mean == 0.0 and silent.identity
    # Half of them correct by chance is not an identity.
    lucky = of(
        [
            one | {"centred": one["kind"] if one["image"] in ("s0", "s1", "s2", "s3") else 1 - one["kind"]}
            for one in blind
        ]
    )
    assert lucky.mean == 0.5 and not lucky.identity and lucky.low < 0.5 < lucky.high


def test_what_sees_everything_is_no_identity() -> None:
    assert of([disc(image, 0, n, image % 2) for image in range(4) for n in (0, 1)]) == Accuracy(1.0, None, 1, 1.0, 1.0)


def test_textures_and_both_factors_have_identities_of_their_own() -> None:
    scenes = [disc(image, 0, n, image % 2) for image in range(8) for n in (0, 1)]
    assert of(scenes) == Accuracy(1.0, None, 1, 1.0, 1.0)
    assert of(scenes, TEXTURE) == Accuracy(0.5, None, 1, 0.5, 0.5, True)
    assert of(scenes, {"kind": "grid", "texture": "grid_texture"}) == Accuracy(1.0, None, 1, 1.0, 1.0)
    # Nearly always correct kinds with a constant texture.
    both = of([one | {"centred": 1} if one["image"] == "s0" else one for one in scenes], BOTH)
    assert both.mean < 0.5 and not both.identity
    blind = of([one | {"centred": 1} for one in scenes], BOTH)
    assert blind == Accuracy(0.25, None, 1, 0.25, 0.25, True)
    # Blind to one factor and always right in the other: exactly half, by the design of the scenes.
    right = [one | {"centred": 1, "centred_texture": one["texture"]} for one in scenes]
    assert of(right, BOTH) == Accuracy(0.5, None, 1, 0.5, 0.5, True)
    wrong = [one | {"centred_texture": 1 - one["texture"]} if one["image"] == "s1" else one for one in right]
    assert of(wrong, BOTH).mean < 0.5 and not of(wrong, BOTH).identity
    # An identity needs all four scenes.
    assert not of([one for one in scenes if one["image"] != "s3"], TEXTURE).identity


def test_counts_of_both_factors_equal_a_loop() -> None:
    random = np.random.default_rng(0)
    rows = [disc(image, seed, n, 0) for image in range(12) for seed in (0, 1) for n in range(3)]
    for row in rows:
        for column in ("centred", "centred_texture"):
            row[column] = [0, 1, None][random.integers(3)]
    for asked in (CENTRED, BOTH):
        right = sum(all(row[predicted] == row[factor] for factor, predicted in asked.items()) for row in rows)
        assert of(rows, asked).mean == pytest.approx(right / len(rows))


def test_a_difference_is_paired_by_seed_and_scene() -> None:
    random = np.random.default_rng(3)
    frames = []
    for _ in range(2):
        rows = [disc(image, seed, n, int(random.integers(2))) for image in range(12) for seed in (0, 1) for n in (0, 1)]
        frame = pd.DataFrame(rows)
        frames.append(frame.assign(pair=pairs(frame)))
    found = difference(*frames, CENTRED)
    assert found is not None
    hits = np.zeros((2, 2, 3))
    for which, frame in enumerate(frames):
        for row in frame.to_dict("records"):
            hits[which, row["seed"], row["pair"]] += row["centred"] == row["kind"]
    gained = hits[0] - hits[1]
    assert found.mean == pytest.approx(gained.sum() / 48)
    expected = interval(gained.astype(int), np.full((2, 3), 8), np.zeros(3, int))
    assert (found.low, found.high) == pytest.approx((expected.mean - expected.half, expected.mean + expected.half))
    assert found.p == expected.p < 1
    # A method has no difference to itself, and only common seeds count.
    assert difference(frames[0], frames[0], CENTRED) == Accuracy(0.0, 0.0, 2, 0.0, 0.0)
    one = frames[1][frames[1]["seed"] == 1]
    alone = difference(frames[0], one, CENTRED)
    assert alone is not None and alone.n == 1
    assert difference(frames[0], one.assign(seed=7), CENTRED) is None
