from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from scpseg.reporting import twins
from scpseg.reporting.twins import Accuracy, accuracy, bootstrap, pairs


def disc(image: int, seed: int, number: int, said: Any, distance: int = 24, method: str = "patch") -> dict[str, Any]:
    """Images 2 k and 2 k + 1 are twins."""
    place = {"row": 20 + 30 * number + image // 2, "column": 40}
    kind = image % 2
    return (
        {"image": f"s{image}", "seed": seed, "method": method, "kind": kind, "distance": distance}
        | place
        | {
            "centred": said,
            "grid": kind,
            "visible": 0.0,
        }
    )


def test_twins_are_found_by_the_places_of_their_discs() -> None:
    frame = pd.DataFrame([disc(image, seed, n, 0) for image in (3, 0, 2, 1) for seed in (0, 1) for n in (0, 1)])
    found = pairs(frame)
    by_image = dict(zip(frame["image"], found, strict=True))
    assert by_image["s0"] == by_image["s1"] != by_image["s2"] == by_image["s3"]


def test_the_draws_are_of_seeds_and_then_of_pairs_within_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "DRAWS", 50)
    right, total = np.array([[3, 1, 2], [0, 4, 1]]), np.array([[4, 4, 2], [4, 4, 2]])
    random = np.random.default_rng(0)
    seeds, columns = random.integers(2, size=(50, 2, 1)), random.integers(3, size=(50, 2, 3))
    shares = []
    for draw in range(50):
        hits = discs = 0
        for slot in range(2):
            for pair in columns[draw, slot]:
                hits += right[seeds[draw, slot, 0], pair]
                discs += total[seeds[draw, slot, 0], pair]
        shares.append(hits / discs)
    assert bootstrap(right, total) == pytest.approx(tuple(np.quantile(shares, [0.025, 0.975])))


def test_the_interval_is_as_wide_as_theory_has_it() -> None:
    """Seeds alike: the deviation of a mean of 400 draws."""
    right = np.random.default_rng(1).binomial(1, 0.7, size=(1, 400))
    low, high = bootstrap(np.repeat(right, 1, axis=0), np.ones((1, 400), dtype=np.int64))
    assert (high - low) / 2 == pytest.approx(1.96 * (0.7 * 0.3 / 400) ** 0.5, rel=0.1)
    # Seeds that differ widen it, however many scenes there are.
    right = np.repeat(np.array([[0], [1], [0], [1]]), 400, axis=1)
    low, high = bootstrap(right, np.ones_like(right))
    assert high - low > 0.5


def of(rows: list[dict[str, Any]]) -> Accuracy:
    frame = pd.DataFrame(rows)
    found = accuracy(frame.assign(pair=pairs(frame)), "centred")
    assert found is not None
    return found


def test_what_is_blind_is_right_by_half_as_an_identity_and_no_estimate() -> None:
    blind = [disc(image, seed, n, n % 2) for image in range(4) for seed in (0, 1) for n in (0, 1)]
    assert of(blind) == (0.5, 0.5, 0.5, 2, True)
    # No answer at all is an answer alike, but right in none.
    silent = of([one | {"centred": None} for one in blind])
    assert silent.share == 0.0 and silent.identity
    # Half of them right by luck is no identity.
    lucky = of([one | {"centred": one["kind"] if one["image"] in ("s0", "s1") else 1 - one["kind"]} for one in blind])
    assert lucky.share == 0.5 and not lucky.identity and lucky.low < 0.5 < lucky.high


def test_what_sees_everything_is_no_identity() -> None:
    assert of([disc(image, 0, n, image % 2) for image in range(4) for n in (0, 1)]) == (1.0, 1.0, 1.0, 1, False)
    assert accuracy(pd.DataFrame(), "centred") is None
