"""The confusion matrix of one image of 25 megapixels."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pipelines.bench.rows import MIB, Peer, Row, Work, compared, interleaved, peak, same, version
from scpseg.data.windows import Bytes
from scpseg.evaluation.confusion import confusion

SIDE, CLASSES = 5000, 6
NAME = "confusion matrix, 25 megapixels, 6 classes, 1 % ignored"
PEERS = (
    Peer("numpy.bincount of the pixels that a mask keeps", "numpy", "numpy", 3.0),
    Peer("scikit-learn's confusion_matrix of the same pixels", "scikit-learn", "sklearn", 10.0),
    Peer(
        "torchmetrics MulticlassConfusionMatrix(ignore_index=255, validate_args=False)",
        "torchmetrics",
        "torchmetrics",
        10.0,
    ),
)


def labels() -> tuple[Bytes, Bytes]:
    """Truth and prediction, (H, W) uint8; the first rows of the truth are ignored."""
    random = np.random.default_rng(0)
    truth, prediction = random.integers(0, CLASSES, (2, SIDE, SIDE), dtype=np.uint8)
    truth[: SIDE // 100] = 255
    return truth, prediction


def masked(truth: Bytes, prediction: Bytes) -> object:
    """The usual form: a mask, then int64."""
    keep = truth != 255
    cells = truth[keep].astype(np.int64) * CLASSES + prediction[keep]
    return np.bincount(cells, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def by_sklearn(truth: Bytes, prediction: Bytes) -> object:
    """As scikit-learn's documentation has it."""
    from sklearn.metrics import confusion_matrix

    keep = truth != 255
    return confusion_matrix(truth[keep], prediction[keep], labels=np.arange(CLASSES))


def by_torchmetrics(truth: Bytes, prediction: Bytes) -> object:
    """A batch of one image, in the form that is fastest: bytes, without checks."""
    from torchmetrics.classification import MulticlassConfusionMatrix

    metric = MulticlassConfusionMatrix(num_classes=CLASSES, ignore_index=255, validate_args=False)
    return metric(torch.from_numpy(prediction)[None], torch.from_numpy(truth)[None]).numpy()


def ours(truth: Bytes, prediction: Bytes) -> object:
    """The suite's."""
    return confusion(truth, prediction, CLASSES)


def ready(name: str) -> Work:
    """For a fresh process: the work of that name, warmed up on a small image."""
    work = {"ours": ours, "numpy": masked}[name]
    truth, prediction = labels()
    work(truth[:60, :60], prediction[:60, :60])
    return lambda: work(truth, prediction)


def rows(folder: Path, repeats: int) -> Iterator[Row]:
    """Time against every peer, and memory against numpy."""
    truth, prediction = labels()
    forms = {"ours": ours, "numpy": masked}
    if version("scikit-learn"):
        forms["sklearn"] = by_sklearn
    if version("torchmetrics"):
        forms["torchmetrics"] = by_torchmetrics
    for name, form in forms.items():
        same(ours(truth[:200], prediction[:200]), form(truth[:200], prediction[:200]), f"confusion matrix by {name}")
    works: dict[str, Work] = {name: partial(form, truth, prediction) for name, form in forms.items()}
    took = interleaved(works, repeats)
    copied = interleaved({"copy": lambda: (truth.copy(), prediction.copy())}, repeats)["copy"]
    share = statistics.median(copied) / statistics.median(took["ours"])
    limit = f"copying both label maps takes {share:.0%} of it; the rest counts one byte per pixel"
    yield from compared("scores", NAME, "ms", 1e3, took, PEERS, limit)
    memory = {name: [peak(f"{__name__}:ready", name)] for name in ("ours", "numpy")}
    note = f"peak above the label maps ({truth.nbytes * 2 / MIB:.0f} MiB)"
    yield from compared(
        "scores",
        f"memory of the {NAME}",
        "MiB",
        1.0,
        memory,
        PEERS[:1],
        "the counts themselves are less than 1 KiB",
        note,
    )
