"""Intervals of the probe's accuracies: a bootstrap over twin scenes, nested in training seeds.

An interval over seeds alone would ignore that other scenes give other figures. Twins are drawn together, because their
results depend on each other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

DRAWS = 2000
LEVEL = 0.95


class Accuracy(NamedTuple):
    """Share 0..1 of correctly classified discs, with its 95 % interval.

    Attributes:
        share: over all seeds and scenes.
        low: lower end of the interval.
        high: upper end of the interval.
        seeds: number of training seeds.
        identity: whether twins have the same prediction for every disc, which makes the share exactly 1/2 (or 0 without
            any prediction); the interval is then not an estimate.
    """

    share: float
    low: float
    high: float
    seeds: int
    identity: bool


def accuracy(answers: pd.DataFrame, look: str) -> Accuracy | None:
    """Estimate from rows of `scpseg.reporting.probe.read_answers` with a column `pair`; None without rows.

    Args:
        answers: one row per disc, of one method.
        look: 'centred' or 'grid'.
    """
    if answers.empty:
        return None
    right, total = _counts(answers, look)
    return Accuracy(float(right.sum() / total.sum()), *bootstrap(right, total), len(right), _alike(answers, look))


def pairs(answers: pd.DataFrame) -> NDArray[np.int64]:
    """Pair number of every row: scenes whose discs are at the same positions are twins."""
    numbers: dict[tuple[tuple[int, int], ...], int] = {}
    of_image = {}
    for image, part in answers.groupby("image", sort=True):
        places = tuple(sorted(set(zip(part["row"], part["column"], strict=True))))
        of_image[image] = numbers.setdefault(places, len(numbers))
    return np.array([of_image[image] for image in answers["image"]], dtype=np.int64)


def bootstrap(right: NDArray[np.int64], total: NDArray[np.int64], seed: int = 0) -> tuple[float, float]:
    """Percentile interval of sum(right) / sum(total): seeds are resampled, and pairs within each seed.

    Args:
        right: (S, P) correctly classified discs by training seed and pair of scenes.
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
    grouped = part.assign(right=part[look] == part["kind"]).groupby(["seed", "pair"])["right"]
    right, total = grouped.sum().unstack(fill_value=0), grouped.size().unstack(fill_value=0)
    return np.asarray(right, dtype=np.int64), np.asarray(total, dtype=np.int64)


def _alike(part: pd.DataFrame, look: str) -> bool:
    """Whether twins have the same prediction for every disc; false if a scene has no twin."""
    said = part.assign(said=part[look].fillna(-1)).groupby(["seed", "pair", "row", "column"])["said"]
    return bool((said.nunique() == 1).all() and (said.size() == 2).all())
