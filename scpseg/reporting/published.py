"""Numbers reported in papers, which are shown next to measured ones, in their own columns and marks."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

from scpseg.benchmarks import get_benchmark

PAPER = "Liu et al., Squeezing Context into Patches, IJCAI 2025, doi 10.24963/IJCAI.2025/179"


@dataclass(frozen=True)
class Published:
    """A published row. Scores in per cent, memory in MB as printed; None = not reported.

    `source` is the paper or page with the row, `remark` a note for the reader.
    """

    benchmark: str
    method: str
    segmenter: str = ""
    mode: str = ""
    miou: str | None = None
    mf1: str | None = None
    accuracy: str | None = None
    memory: str | None = None
    source: str = PAPER
    remark: str | None = None

    @property
    def f1_problem(self) -> str | None:
        """Why mIoU and mF1 cannot come from the same confusion matrix, or None.

        With one scored class, F1 = 2 IoU / (1 + IoU). With several, mean F1 is between mean IoU and this value of it,
        because the function is concave. Both may be off by half a unit of the last printed digit.
        """
        if self.miou is None or self.mf1 is None:
            return None
        # Half a unit of the last printed digit.
        iou_error, f1_error = (0.5 * 10.0 ** -len(text.partition(".")[2]) for text in (self.miou, self.mf1))
        f1, low, high = float(self.mf1), float(self.miou) - iou_error, float(self.miou) + iou_error
        if len(get_benchmark(self.benchmark).scored) == 1:
            low = 200 * low / (100 + low)
        low, high = low - f1_error, 200 * high / (100 + high) + f1_error
        if low <= f1 <= high:
            return None
        bounds = f"at most {high:.2f}" if f1 > high else f"at least {low:.2f}"
        return f"mF1 {self.mf1} does not fit mIoU {self.miou}: one confusion matrix gives {bounds}"


@cache
def read_table(name: str) -> tuple[dict[str, str], ...]:
    """Rows of a CSV file in this folder."""
    with resources.files("scpseg.reporting").joinpath(name).open(encoding="utf-8") as stream:
        return tuple(csv.DictReader(stream))


@cache
def published() -> tuple[Published, ...]:
    """All rows with values as printed, which tables round: tables 1-4 of the SCPSeg paper, then other sources.

    The latter are methods for very large images, and rows that differ from the paper's.
    """
    rows = (*read_table("published/main_results.csv"), *read_table("published/elsewhere.csv"))
    return tuple(Published(**{key: value for key, value in row.items() if value}) for row in rows)


def published_row(benchmark: str, method: str, segmenter: str, encoder: str) -> Published | None:
    """The published row for our method name and segmenter, or None; the SCPSeg paper's come before those of others.

    Searched in this order: the same segmenter and encoder, the same segmenter with another encoder, a row without
    segmenter; for methods with a network of their own ('own'), any row. A row with another segmenter does not match
    otherwise. Names are compared without case ('glnet' is GLNet).
    """
    rows = [row for row in published() if (row.benchmark, row.method.lower()) == (benchmark, method)]
    ranked = [row for row in rows if row.segmenter == f"{segmenter}-{encoder}"]
    ranked += [row for row in rows if row.segmenter.startswith(f"{segmenter}-")]
    ranked += [row for row in rows if not row.segmenter or segmenter == "own"]
    return ranked[0] if ranked else None


@cache
def title_of(method: str) -> str:
    """Display name of a method: ours, that of papers, or else its key with a capital letter."""
    known = {row.method.lower(): row.method for row in reversed(published())}
    known |= {row["method"]: row["title"] for row in read_table("methods.csv")}
    return known.get(method, method[:1].upper() + method[1:])
