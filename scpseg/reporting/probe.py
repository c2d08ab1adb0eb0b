"""What the methods answered in the probe: accuracy by the cue's distance, and what geometry lets them see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from scpseg.errors import UserError
from scpseg.reporting.summary import Estimate, Line, estimate, records

PROBE = "probe"
CHANCE = 0.5
BASE = "patch"


@dataclass(frozen=True)
class Curve:
    """What one method answered; accuracies are shares 0..1 of the discs, estimated over seeds.

    Attributes:
        method: its name.
        patch: side L of what it labels, pixels.
        reach: how far it sees from the centre of a window, pixels; infinite with an overview.
        looks: what it looks at, in words.
        centred: accuracy by distance (pixels) in windows centred on the disc.
        grid: accuracy by distance under the windows of whole-image inference.
        allowed: by distance, what `grid` is for a method that tells every cue of which it sees a part and guesses
            otherwise; it may be exceeded by the few discs that a border of windows cuts.
        within: accuracy in centred windows over all distances within reach.
        beyond: likewise beyond it.
        all_grid: accuracy over all distances under the windows of whole-image inference.
        all_allowed: likewise of `allowed`.
        visible: share of all discs whose labelling window shows a part of the cue.
        missed: centred discs of which no pixel is given any kind, over all discs.
        mean_iou: from the confusion matrix of whole images.
        gain: `mean_iou` minus that of plain patches, paired by seed.
        memory: peak, MiB.
    """

    method: str
    patch: int
    reach: float
    looks: str
    centred: dict[int, Estimate]
    grid: dict[int, Estimate]
    allowed: dict[int, float]
    within: Estimate
    beyond: Estimate
    all_grid: Estimate
    all_allowed: float
    visible: float
    missed: float
    mean_iou: Estimate
    gain: Estimate
    memory: float | None


def read_answers(results: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """One row per disc of every finished run of the probe: the columns of objects.csv, method and seed.

    Raises:
        UserError: a run has no objects.csv.
    """
    parts = []
    for row in records(frame[(frame["benchmark"] == PROBE) & (frame["status"] == "ok")]):
        path = results / "metrics" / PROBE / row["method"] / str(row["seed"]) / "objects.csv"
        try:
            found = pd.read_csv(path)
        except FileNotFoundError:
            raise UserError(f"{path} is missing; run `dvc repro -f --glob 'evaluate-*@{PROBE}-*'`") from None
        parts.append(found.assign(method=row["method"], seed=row["seed"]))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def curves(answers: pd.DataFrame, frame: pd.DataFrame, lines: Sequence[Line]) -> list[Curve]:
    """A curve per method with answers, in the order of `lines`."""
    found = []
    scores = {(row["method"], row["seed"]): row["mean_iou"] for row in records(frame[frame["benchmark"] == PROBE])}
    for line in (line for line in lines if line.benchmark == PROBE and len(answers)):
        mine = answers[answers["method"] == line.method]
        if mine.empty:
            continue
        mine = mine.assign(
            right_centred=mine["centred"] == mine["kind"],
            right_grid=mine["grid"] == mine["kind"],
            seen=mine["visible"] > 0,
        )
        patch, context, _, overview = line.sizes
        assert patch is not None and context is not None
        reach = math.inf if overview is not None else context / 2
        allowed = {distance: _allowed(part) for distance, part in _by_distance(mine)}
        found.append(
            Curve(
                method=line.method,
                patch=patch,
                reach=reach,
                looks=f"{context} × {context} pixels"
                if overview is None
                else f"the whole image, reduced to {overview} × {overview}",
                centred={distance: _accuracy(part, "right_centred") for distance, part in _by_distance(mine)},
                grid={distance: _accuracy(part, "right_grid") for distance, part in _by_distance(mine)},
                allowed=allowed,
                within=_accuracy(mine[mine["distance"] < reach], "right_centred"),
                beyond=_accuracy(mine[mine["distance"] >= reach], "right_centred"),
                all_grid=_accuracy(mine, "right_grid"),
                all_allowed=_allowed(mine),
                visible=float(mine["seen"].mean()),
                missed=float(mine["centred"].isna().mean()),
                mean_iou=line.mean_iou,
                gain=_gain(scores, line.method),
                memory=line.memory,
            )
        )
    return found


def _by_distance(answers: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    return [(int(str(distance)), part) for distance, part in answers.groupby("distance", sort=True)]


def _accuracy(answers: pd.DataFrame, column: str) -> Estimate:
    return estimate(float(part[column].mean()) for _, part in answers.groupby("seed", sort=True))


def _allowed(answers: pd.DataFrame) -> float:
    return CHANCE + (1 - CHANCE) * float(answers["seen"].mean())


def _gain(scores: dict[tuple[str, int], float | None], method: str) -> Estimate:
    """Differences to plain patches of the seeds that both have."""
    if method == BASE:
        return Estimate(None, None, 0)
    pairs = [(score, scores.get((BASE, seed))) for (name, seed), score in scores.items() if name == method]
    return estimate(mine - base for mine, base in pairs if mine is not None and base is not None)
