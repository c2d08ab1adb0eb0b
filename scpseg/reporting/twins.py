"""Intervals of the probe's accuracies: a bootstrap over twin scenes nested in training seeds.

An interval over seeds alone would say nothing of the scenes: another draw of them would give other figures. Twins stay
together, since their answers depend on each other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

DRAWS = 2000
LEVEL = 0.95


class Accuracy(NamedTuple):
    """Share 0..1 of discs told rightly, with its 95 % interval.

    Attributes:
        share: over all seeds and scenes.
        low: lower end of the interval.
        high: upper end of the interval.
        seeds: of training.
        identity: whether twins got the same answer for every disc, which makes the share 1/2 by construction (or 0
            where no kind is given); the interval then is no estimate.
    """

    share: float
    low: float
    high: float
    seeds: int
    identity: bool


def accuracy(answers: pd.DataFrame, look: str) -> Accuracy | None:
    """Of rows of `scpseg.reporting.probe.read_answers` with a column `pair`; None where there are none.

    Args:
        answers: a row per disc, of one method.
        look: 'centred' or 'grid'.
    """
    if answers.empty:
        return None
    right, total = _counts(answers, look)
    return Accuracy(float(right.sum() / total.sum()), *bootstrap(right, total), len(right), _alike(answers, look))


def pairs(answers: pd.DataFrame) -> NDArray[np.int64]:
    """Number of the pair of every row: scenes whose discs lie in the same places are twins."""
    numbers: dict[tuple[tuple[int, int], ...], int] = {}
    of_image = {}
    for image, part in answers.groupby("image", sort=True):
        places = tuple(sorted(set(zip(part["row"], part["column"], strict=True))))
        of_image[image] = numbers.setdefault(places, len(numbers))
    return np.array([of_image[image] for image in answers["image"]], dtype=np.int64)


def bootstrap(right: NDArray[np.int64], total: NDArray[np.int64], seed: int = 0) -> tuple[float, float]:
    """Percentile interval of sum(right) / sum(total): seeds are drawn anew, and within each the pairs anew.

    Args:
        right: (S, P) discs told rightly by training seed and pair of scenes.
        total: (S, P) discs.
        seed: of the draws, so that a report is the same each time.
    """
    seeds, scenes = right.shape
    random = np.random.default_rng(seed)
    rows = random.integers(seeds, size=(DRAWS, seeds, 1))
    columns = random.integers(scenes, size=(DRAWS, seeds, scenes))
    shares = right[rows, columns].sum((1, 2)) / total[rows, columns].sum((1, 2))
    low, high = np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _counts(part: pd.DataFrame, look: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(S, P) discs told rightly, and discs."""
    grouped = part.assign(right=part[look] == part["kind"]).groupby(["seed", "pair"])["right"]
    right, total = grouped.sum().unstack(fill_value=0), grouped.size().unstack(fill_value=0)
    return np.asarray(right, dtype=np.int64), np.asarray(total, dtype=np.int64)


def _alike(part: pd.DataFrame, look: str) -> bool:
    """Whether twins got the same answer for every disc; a scene without a twin is no identity."""
    said = part.assign(said=part[look].fillna(-1)).groupby(["seed", "pair", "row", "column"])["said"]
    return bool((said.nunique() == 1).all() and (said.size() == 2).all())
