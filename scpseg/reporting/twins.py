"""Intervals of the probe's accuracies: a bootstrap over twin scenes nested in training seeds.

An interval over seeds alone would say nothing of the scenes: another draw of them would give other figures. Twins stay
together, since their answers depend on each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

DRAWS = 2000
LEVEL = 0.95
KEYS = ("method", "look", "distance")
LOOKS = ("centred", "grid")


def accuracies(answers: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by method, look ('centred' or 'grid') and distance, with its 95 % interval.

    Args:
        answers: of `scpseg.reporting.probe.read_answers`: a row per disc.

    Returns:
        Columns `KEYS`, share, low, high (0..1), seeds, pairs, discs, and identity: whether twins got the same answer
        for every disc, which makes the share 1/2 by construction; low and high then are no estimate.
    """
    marked = answers.assign(pair=pairs(answers))
    rows = []
    for (method, distance), part in marked.groupby(["method", "distance"], sort=True):
        for look in LOOKS:
            right, total = _counts(part, look)
            low, high = bootstrap(right, total)
            rows.append(
                {
                    "method": method,
                    "look": look,
                    "distance": distance,
                    "share": right.sum() / total.sum(),
                    "low": low,
                    "high": high,
                    "seeds": right.shape[0],
                    "pairs": right.shape[1],
                    "discs": int(total.sum()),
                    "identity": _alike(part, look),
                }
            )
    return pd.DataFrame(rows)


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
    places: Sequence[str] = ["seed", "pair", "row", "column"]
    said = part.assign(said=part[look].fillna(-1)).groupby(list(places))["said"]
    return bool((said.nunique() == 1).all() and (said.size() == 2).all())
