"""Numbers reported by the SCPSeg paper, to stand beside measured ones in columns of their own."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

PAPER = "Liu et al., Squeezing Context into Patches, IJCAI 2025, doi 10.24963/IJCAI.2025/179"
REMARKS: dict[tuple[str, str, str], str] = {
    ("potsdam", "SCPSeg", "deeplabv3plus-resnet18"): "The mF1 of 87.5 is as printed; an mF1 cannot lie below its mIoU "
    "(87.6), so it is probably a slip.",
    ("deepglobe", "SCPSeg", "deeplabv3plus-resnet18"): "The paper counts 455/142/206 images for train/val/test where "
    "the lists it cites have 454/207/142, so its figure may come from other test images than ours.",
    ("inria", "SCPSeg", ""): "The paper does not say which segmenter this figure belongs to.",
}
"""What a reader of a published row must know: (benchmark, method, segmenter) -> sentence."""


@dataclass(frozen=True)
class Published:
    """One row of the paper's tables 1-4. Scores in per cent, memory in MB as printed; None = not reported."""

    benchmark: str
    method: str
    segmenter: str
    mode: str
    miou: str | None
    mf1: str | None
    accuracy: str | None
    memory: str | None

    @property
    def remark(self) -> str | None:
        """What a reader of this row must know."""
        return REMARKS.get((self.benchmark, self.method, self.segmenter))


@cache
def published() -> tuple[Published, ...]:
    """All rows of the paper's tables 1-4, digits as printed."""
    source = resources.files("scpseg.reporting").joinpath("published", "main_results.csv")
    with source.open(encoding="utf-8") as stream:
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
            )
            for row in csv.DictReader(stream)
        )


def published_row(benchmark: str, method: str, segmenter: str, encoder: str) -> Published | None:
    """What the paper reports for our method name and segmenter, or None.

    In this order: the same segmenter and encoder, the same segmenter with another encoder, a row whose segmenter is not
    stated. A row of another segmenter is no match. Names agree but for upper and lower case ('glnet' is GLNet).
    """
    rows = [row for row in published() if row.benchmark == benchmark and row.method.lower() == method]
    for fits in (f"{segmenter}-{encoder}", f"{segmenter}-", ""):
        for row in rows:
            if row.segmenter == fits or (fits.endswith("-") and row.segmenter.startswith(fits)):
                return row
    return None


def title_of(method: str) -> str:
    """A method's name for people: as the paper spells it, else ours with a capital letter."""
    known = {row.method.lower(): row.method for row in published()}
    return known.get(method, method[:1].upper() + method[1:])
