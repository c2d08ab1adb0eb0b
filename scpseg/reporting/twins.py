"""Intervals of the probe's accuracies: a bootstrap over groups of scenes, nested in training seeds.

An interval over seeds alone would ignore that other scenes give other figures. The four scenes of a group, which differ
in the kind of the cue or in the textures alone, are drawn together, because their results depend on each other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scpseg.reporting.statistics import Estimate

DRAWS = 2000
LEVEL = 0.95
FACTORS = ("kind", "texture")
LOOKS = {
    "centred": {"kind": "centred"},
    "grid": {"kind": "grid"},
    "centred_texture": {"texture": "centred_texture"},
    "grid_texture": {"texture": "grid_texture"},
    "centred_both": {"kind": "centred", "texture": "centred_texture"},
    "grid_both": {"kind": "grid", "texture": "grid_texture"},
}
"""Question about a disc -> its factors, each with the column of the prediction; all factors must be correct."""


class Accuracy(NamedTuple):
    """Share 0..1 of correctly classified discs, with its 95 % interval.

    Attributes:
        share: over all seeds and scenes.
        low: lower end of the interval.
        high: upper end of the interval.
        seeds: number of training seeds.
        identity: whether scenes that differ only in these factors have the same prediction for every disc.
            That makes the share exactly 1/2, of two factors 1/4 (or 0 without any prediction); the interval is then
            not an estimate.
    """

    share: float
    low: float
    high: float
    seeds: int
    identity: bool


class Difference(NamedTuple):
    """Difference of two shares -1..1 with its 95 % interval, over `seeds` training seeds."""

    share: float
    low: float
    high: float
    seeds: int


def shown(value: Accuracy | Difference | None) -> Estimate:
    """With half of its interval; none for identities and single seeds, n = 0 without a value."""
    if value is None:
        return Estimate(None, None, 0)
    identity = isinstance(value, Accuracy) and value.identity
    half = None if identity or value.seeds < 2 else (value.high - value.low) / 2
    return Estimate(value.share, half, value.seeds)


def accuracy(answers: pd.DataFrame, look: str) -> Accuracy | None:
    """Estimate from rows of `scpseg.reporting.probe.read_answers` with a column `pair`; None without rows.

    Args:
        answers: one row per disc, of one method.
        look: a key of LOOKS.
    """
    if answers.empty:
        return None
    right, total = _counts(answers, look)
    return Accuracy(float(right.sum() / total.sum()), *bootstrap(right, total), len(right), _alike(answers, look))


def difference(one: pd.DataFrame, other: pd.DataFrame, look: str) -> Difference | None:
    """Accuracy of one method minus that of another on the same discs, for the seeds that both have, or None.

    Seeds and groups are drawn for both at once.
    """
    common = sorted(set(one["seed"]) & set(other["seed"]))
    if not common:
        return None
    counts = [_counts(part[part["seed"].isin(common)], look) for part in (one, other)]
    gained, total = counts[0][0] - counts[1][0], counts[0][1]
    return Difference(float(gained.sum() / total.sum()), *bootstrap(gained, total), len(common))


def pairs(answers: pd.DataFrame) -> NDArray[np.int64]:
    """Group number of every row: scenes whose discs are at the same positions belong together."""
    numbers: dict[tuple[tuple[int, int], ...], int] = {}
    of_image = {}
    for image, part in answers.groupby("image", sort=True):
        places = tuple(sorted(set(zip(part["row"], part["column"], strict=True))))
        of_image[image] = numbers.setdefault(places, len(numbers))
    return np.array([of_image[image] for image in answers["image"]], dtype=np.int64)


def bootstrap(right: NDArray[np.int64], total: NDArray[np.int64], seed: int = 0) -> tuple[float, float]:
    """Percentile interval of sum(right) / sum(total): seeds are resampled, and groups within each seed.

    Args:
        right: (S, P) correctly classified discs by training seed and group of scenes.
        total: (S, P) numbers of discs.
        seed: random seed, so that a report is reproducible.
    """
    seeds, scenes = right.shape
    random = np.random.default_rng(seed)
    rows = random.integers(seeds, size=(DRAWS, seeds, 1))
    columns = random.integers(scenes, size=(DRAWS, seeds, scenes))
    shares = right[rows, columns].sum((1, 2)) / total[rows, columns].sum((1, 2))
    low, high = np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _counts(part: pd.DataFrame, look: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(S, P) correctly classified discs, and all discs."""
    right = np.logical_and.reduce([part[predicted] == part[factor] for factor, predicted in LOOKS[look].items()])
    grouped = part.assign(right=right).groupby(["seed", "pair"])["right"]
    hits, total = grouped.sum().unstack(fill_value=0), grouped.size().unstack(fill_value=0)
    return np.asarray(hits, dtype=np.int64), np.asarray(total, dtype=np.int64)


def _alike(part: pd.DataFrame, look: str) -> bool:
    """Whether scenes that differ only in the factors of `look` have the same predictions; false if one is missing."""
    same = [factor for factor in FACTORS if factor not in LOOKS[look]]
    grouped = part.groupby(["seed", "pair", "row", "column", *same])
    counts = [grouped[column].nunique(dropna=False) for column in LOOKS[look].values()]
    return bool(all((number == 1).all() for number in counts) and (grouped.size() == 2 ** len(LOOKS[look])).all())
