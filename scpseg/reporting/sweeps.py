"""What a sweep found: rows, means and differences over seeds, the paper's figures for the same points."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from scpseg.reporting.summary import Estimate, estimate, profile_device, usual

SEGMENTERS = {"fcn8s-resnet50": "FCN-8s", "deeplabv3plus-resnet18": "DeepLabv3+"}
"""The paper's two segmenters of table 6, as titles."""
STEPS = {"000": "plain", "100": "+ CSM", "110": "+ SRD", "111": "+ LFA"}
"""csm, srd, lfa of table 6 -> what the step adds."""
PAPER_SEGMENTER = {"sizes": "FCN-8s with ResNet-50"}
POINT_COLUMNS = (
    "series",
    "x",
    "method",
    "seed",
    "status",
    "reason",
    "settings",
    "notes",
    "experiment",
    "paper_miou",
)
Key = tuple[str, str]
"""(series, x)."""
Kind = Literal["steps", "pairs", "grid", "dots"]
Status = Literal["ok", "failed", "refused", "missing"]


@dataclass(frozen=True)
class Sweep:
    """A set of experiments that are read together.

    Attributes:
        name: of its folder.
        title: what it asks, in words.
        figure: 'steps' = lines over steps, 'pairs' = two marks per row, 'grid' = heat map, 'dots' = a mark per row.
        axes: what x and series are called.
        source: the paper's table or figure with the same points, or None.
        about: a sentence on how the points were chosen, or ''.
    """

    name: str
    title: str
    figure: Kind
    axes: tuple[str, str]
    source: str | None
    about: str = ""


@dataclass(frozen=True)
class Row:
    """One method at one point.

    Attributes:
        x: place along the figure.
        series: line, group or row of the heat map.
        method: name of the method.
        settings: 'section.key=value' of the point, without those of the whole sweep.
        status: 'ok', 'failed', 'refused' or 'missing' (not run yet).
        reason: why it is not 'ok'.
        notes: what a reader must know.
        reference: key of the row that it is compared with.
        experiment: name of the DVC experiment; '' for a refused point.
        command: that runs it again.
        runs: rows of results/summary.csv, one per seed, values as texts; none unless 'ok'.
    """

    x: str
    series: str
    method: str
    settings: tuple[str, ...]
    status: Status
    reason: str
    notes: tuple[str, ...]
    reference: Key | None
    experiment: str
    command: str
    runs: tuple[dict[str, Any], ...]

    @property
    def key(self) -> Key:
        """(series, x)."""
        return self.series, self.x


def tidy(value: Any) -> str:
    """A parameter's value as people write it: 2.0 as 2, True as true."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def short(value: float) -> str:
    """A ratio in three digits."""
    return f"{value:.3g}"


def scores(row: Row) -> dict[str, float]:
    """Mean IoU (0..1) by seed."""
    return {run["seed"]: float(run["mean_iou"]) for run in row.runs if run["mean_iou"] is not None}


def miou(row: Row) -> Estimate:
    """Mean over seeds of the mean IoU."""
    return estimate(scores(row).values())


def difference(row: Row, rows: Sequence[Row]) -> Estimate | None:
    """Mean IoU less that of the reference row, seed by seed; None for the reference itself, n = 0 where one is missing.

    Equal seeds start from equal weights and see equal windows, so their differences vary less than the scores.
    """
    if row.reference is None or row.key == row.reference:
        return None
    base: dict[str, float] = next((scores(other) for other in rows if other.key == row.reference), {})
    mine = scores(row)
    return estimate(mine[seed] - base[seed] for seed in mine if seed in base)


def memory(row: Row) -> tuple[float | None, str | None]:
    """Headline memory in MiB, and its meter."""
    if not row.runs or row.runs[0]["memory_mib"] is None:
        return None, None
    return float(row.runs[0]["memory_mib"]), str(row.runs[0]["memory_backend"])


def measured_elsewhere(rows: Sequence[Row]) -> list[Row]:
    """Rows whose memory was measured on other hardware, or with another number of threads, than that of most rows."""
    devices = [profile_device(row.runs[0]) if memory(row)[0] is not None else None for row in rows]
    most = usual(devices)
    return [row for row, device in zip(rows, devices, strict=True) if device not in (None, most)]


@cache
def published(sweep: str) -> dict[Key, str]:
    """Mean IoU in per cent as the paper prints it, by (series, x); empty for a sweep that the paper lacks."""
    found: dict[Key, str] = {}
    if sweep == "components":
        for row in _table("ablation_components.csv"):
            step = STEPS[row["csm"] + row["srd"] + row["lfa"]]
            found[SEGMENTERS[row["segmenter"]], step] = row["miou"]
    elif sweep == "segmenters":
        for row in _table("ablation_segmenters.csv"):
            found["Patch", row["segmenter"]] = row["miou_without"]
            found["SCPSeg", row["segmenter"]] = row["miou_with"]
    elif sweep == "sizes":
        for row in _table("ablation_sizes.csv"):
            context = float(row["context"]) / float(row["patch"])
            found[short(float(row["csm_ratio"])), short(context)] = row["miou"]
    return found


def _table(name: str) -> list[dict[str, str]]:
    source = resources.files("scpseg.reporting").joinpath("published", name)
    with source.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def csv_text(sweep: Sweep, rows: Sequence[Row]) -> str:
    """One line per row and seed: the point, then every column of results/summary.csv."""
    lines = []
    for row in rows:
        point = {
            "series": row.series,
            "x": row.x,
            "method": row.method,
            "status": row.status,
            "reason": row.reason,
            "settings": " ".join(row.settings),
            "notes": "; ".join(row.notes),
            "experiment": row.experiment,
            "paper_miou": published(sweep.name).get(row.key, ""),
        }
        lines += [{**run, **point} for run in row.runs] or [point]
    rest = dict.fromkeys(key for line in lines for key in line if key not in POINT_COLUMNS)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*POINT_COLUMNS, *rest], lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()
