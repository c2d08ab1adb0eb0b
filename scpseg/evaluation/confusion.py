"""Confusion matrix (int64) and all metrics computed from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scpseg.benchmarks.base import Benchmark
from scpseg.data.windows import Bytes

Matrix = NDArray[np.int64]
CHUNK = 2**18
"""Pixels that are counted at a time, which bounds the memory for their codes."""


def confusion(truth: Bytes, prediction: Bytes, classes: int) -> Matrix:
    """(K, K) counts, row = ground truth, column = prediction; pixels with ground truth 255 are not counted.

    A pixel's cell is one small integer; ignored pixels are counted in an extra row that is dropped. On a CPU, this
    takes a sixth of the time of a mask and an int64 `numpy.bincount`, and a chunk's memory instead of the image's.

    Args:
        truth: any shape, training ids and 255.
        prediction: the same shape, 0..K-1.
        classes: K, at most 255.
    """
    import torch  # not at the top: the report reads matrices and counts nothing

    cells = (classes + 1) * classes
    codes = np.empty(min(CHUNK, truth.size), dtype=np.uint8 if cells <= 256 else np.int32)
    rows, columns = truth.reshape(-1), prediction.reshape(-1)
    counts = np.zeros(cells, dtype=np.int64)
    for first in range(0, rows.size, CHUNK):
        part = codes[: rows.size - first]
        part[:] = rows[first : first + CHUNK]
        torch.from_numpy(part).clamp_(max=classes).mul_(classes)
        np.add(part, columns[first : first + CHUNK], out=part)
        counts += torch.bincount(torch.from_numpy(part), minlength=cells).numpy()
    return counts.reshape(classes + 1, classes)[:classes]


@dataclass(frozen=True)
class Metrics:
    """Metrics of one confusion matrix, all in 0..1.

    Attributes:
        mean_iou: over scored classes that occur in ground truth or prediction.
        mean_f1: over the same classes.
        accuracy: share of all labelled pixels, scored or not.
        iou: per class, None if the class is absent from ground truth and prediction.
        f1: per class, None as for `iou`.
        absent: scored classes that are not in the means.
        chance: highest mean IoU of a prediction with the same class everywhere.
    """

    mean_iou: float | None
    mean_f1: float | None
    accuracy: float | None
    iou: tuple[float | None, ...]
    f1: tuple[float | None, ...]
    absent: tuple[int, ...]
    chance: float | None


def metrics(matrix: Matrix, scored: tuple[int, ...]) -> Metrics:
    """IoU = TP / (TP + FP + FN), F1 = 2 TP / (2 TP + FP + FN), means over `scored` classes that occur."""
    right = np.diag(matrix)
    either = matrix.sum(0) + matrix.sum(1) - right
    both = matrix.sum(0) + matrix.sum(1)
    iou = tuple(float(hit / of) if of else None for hit, of in zip(right, either, strict=True))
    f1 = tuple(float(2 * hit / of) if of else None for hit, of in zip(right, both, strict=True))
    total = int(matrix.sum())
    return Metrics(
        mean_iou=_mean([iou[index] for index in scored]),
        mean_f1=_mean([f1[index] for index in scored]),
        accuracy=float(right.sum() / total) if total else None,
        iou=iou,
        f1=f1,
        absent=tuple(index for index in scored if iou[index] is None),
        chance=_chance(matrix.sum(1), scored),
    )


def _chance(truth: NDArray[np.int64], scored: tuple[int, ...]) -> float | None:
    """See `Metrics`; `truth` (K,) counts the pixels of each class."""
    found = []
    for answer in scored:
        present = sum(index == answer or truth[index] > 0 for index in scored)
        found.append(float(truth[answer] / truth.sum()) / present if truth.sum() else None)
    return max((value for value in found if value is not None), default=None)


def _mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def described(result: Metrics, spec: Benchmark) -> dict[str, Any]:
    """Metrics with class names."""
    names = [cls.name for cls in spec.classes]
    return {
        "mean_iou": result.mean_iou,
        "mean_f1": result.mean_f1,
        "chance": result.chance,
        "accuracy": result.accuracy,
        "iou": dict(zip(names, result.iou, strict=True)),
        "f1": dict(zip(names, result.f1, strict=True)),
        "absent": [names[index] for index in result.absent],
    }
