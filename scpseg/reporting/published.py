"""Numbers reported in papers, which are shown next to measured ones, in their own columns and marks."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

from scpseg.benchmarks import get_benchmark

PAPER = "Liu et al., Squeezing Context into Patches, IJCAI 2025, doi 10.24963/IJCAI.2025/179"
REMARKS: dict[tuple[str, str, str], str] = {
    ("potsdam", "SCPSeg", "deeplabv3plus-resnet18"): "The mF1 of 87.5 is as printed; an mF1 cannot be below its mIoU "
    "(87.6), so it is probably a slip.",
    ("deepglobe", "SCPSeg", "deeplabv3plus-resnet18"): "The paper counts 455/142/206 images for train/val/test where "
    "the lists it cites have 454/207/142, so its figure may come from other test images than ours.",
    ("inria", "SCPSeg", ""): "The paper does not say which segmenter this figure belongs to.",
}
"""Remarks on published rows: (benchmark, method, segmenter) -> sentence."""
TITLES = {"caswit_like": "CASWiT-like", "large": "Large patch"}
"""Display names of methods that are in no published row."""


@dataclass(frozen=True)
class Published:
    """A published row. Scores in per cent, memory in MB as printed; None = not reported.

    `source` is the paper or page with the row, `note` a remark for the reader.
    """

    benchmark: str
    method: str
    segmenter: str
    mode: str
    miou: str | None
    mf1: str | None
    accuracy: str | None
    memory: str | None
    source: str = PAPER
    note: str | None = None

    @property
    def remark(self) -> str | None:
        """Remarks on this row for the reader."""
        return self.note or REMARKS.get((self.benchmark, self.method, self.segmenter))

    @property
    def f1_problem(self) -> str | None:
        """Why mIoU and mF1 cannot come from the same confusion matrix, or None.

        With one scored class, F1 = 2 IoU / (1 + IoU). With several, mean F1 is between mean IoU and this value of it,
        because the function is concave. Both may be off by half a unit of the last printed digit.
        """
        if self.miou is None or self.mf1 is None:
            return None
        iou, f1 = float(self.miou), float(self.mf1)
        low, high = (
            200 * bound / (100 + bound) + sign * _half_unit(self.mf1)
            for sign, bound in ((-1, iou - _half_unit(self.miou)), (1, iou + _half_unit(self.miou)))
        )
        if len(get_benchmark(self.benchmark).scored) > 1:
            low = iou - _half_unit(self.miou) - _half_unit(self.mf1)
        if low <= f1 <= high:
            return None
        bounds = f"at most {high:.2f}" if f1 > high else f"at least {low:.2f}"
        return f"mF1 {self.mf1} does not fit mIoU {self.miou}: one confusion matrix gives {bounds}"


def _half_unit(text: str) -> float:
    """Half a unit of the last digit of a printed number."""
    return 0.5 * float(10.0 ** -len(text.partition(".")[2]))


@cache
def read_table(name: str) -> tuple[dict[str, str], ...]:
    """Rows of a file in published/."""
    with resources.files("scpseg.reporting").joinpath("published", name).open(encoding="utf-8") as stream:
        return tuple(csv.DictReader(stream))


@cache
def _rows(name: str) -> tuple[Published, ...]:
    return tuple(
        Published(
            benchmark=row["benchmark"],
            method=row["method"],
            segmenter=row["segmenter"],
            mode=row["mode"],
            miou=row["miou"] or None,
            mf1=row["mf1"] or None,
            accuracy=row["acc"] or None,
            memory=row["memory_mb"] or None,
            source=row.get("source") or PAPER,
            note=row.get("remark") or None,
        )
        for row in read_table(name)
    )


def published() -> tuple[Published, ...]:
    """All rows of tables 1-4 of the SCPSeg paper, digits as printed."""
    return _rows("main_results.csv")


def elsewhere() -> tuple[Published, ...]:
    """Rows from other sources: methods for very large images, and rows that differ from the paper's."""
    return _rows("elsewhere.csv")


def published_row(benchmark: str, method: str, segmenter: str, encoder: str) -> Published | None:
    """The paper's row for our method name and segmenter, or None.

    Searched in this order: the same segmenter and encoder, the same segmenter with another encoder, a row without
    segmenter. A row with another segmenter does not match. Names are compared without case ('glnet' is GLNet).
    """
    rows = [row for row in published() if row.benchmark == benchmark and row.method.lower() == method]
    for fits in (f"{segmenter}-{encoder}", f"{segmenter}-", ""):
        for row in rows:
            if row.segmenter == fits or (fits.endswith("-") and row.segmenter.startswith(fits)):
                return row
    return None


@cache
def _titles() -> dict[str, str]:
    return {row.method.lower(): row.method for row in (*elsewhere(), *published())} | TITLES


def title_of(method: str) -> str:
    """Display name of a method: as in papers, or else our name with a capital letter."""
    return _titles().get(method, method[:1].upper() + method[1:])
