"""Doubts about a row that a critical reader would raise; the report finds them itself and prints them at the number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from scpseg.tuning import GRID, at_edge

Kind = Literal["branch", "loss", "chance", "edge", "mode"]
PUBLISHED_MODES: dict[str, tuple[str, str]] = {"glnet": ("direction", "both")}
"""Method -> the setting, and its value, with which its published figures were measured."""


@dataclass(frozen=True)
class Flag:
    """A doubt about a method on a benchmark.

    Attributes:
        kind: 'branch' = the combined output scores below one of its branches; 'loss' = a training loss ended above its
            start; 'chance' = not better than one class everywhere; 'edge' = the tuned learning rate is the lowest or
            highest candidate; 'mode' = the published figure is of another mode.
        text: a sentence without the name of the method.
    """

    kind: Kind
    text: str


def flags(rows: Sequence[Mapping[str, Any]]) -> list[Flag]:
    """The doubts about one method on one benchmark.

    Args:
        rows: rows of `scpseg.reporting.collect.collect`, one per seed; those without scores are ignored.
    """
    run = [row for row in rows if row["status"] == "ok" and row["mean_iou"] is not None]
    return [*_branches(run), *_losses(run), *_chance(run), *_edge(run), *_mode(run)] if run else []


def _branches(run: Sequence[Mapping[str, Any]]) -> Iterator[Flag]:
    for key in _keys(run, "branch:"):
        pairs = [(row["mean_iou"], row[key]) for row in run if row.get(key) is not None]
        if not pairs:
            continue
        whole, part = (fmean(values) for values in zip(*pairs, strict=True))
        if whole < part:
            below = sum(own < other for own, other in pairs)
            name, seeds = key.partition(":")[2], f"{len(pairs)} seed{'s' * (len(pairs) > 1)}"
            text = f"scores {100 * whole:.1f} %, below its own {name} branch alone with {100 * part:.1f} %"
            yield Flag("branch", f"{text} (in {below} of {seeds})")


def _losses(run: Sequence[Mapping[str, Any]]) -> Iterator[Flag]:
    for end in _keys(run, "trained:"):
        name, _, what = end.removeprefix("trained:").rpartition(":")
        if what != "loss_end":
            continue
        rose = [row for row in run if _above(row.get(end), row.get(f"trained:{name}:loss_start"))]
        if rose:
            first, last = rose[0][f"trained:{name}:loss_start"], rose[0][end]
            seeds = ", ".join(str(row["seed"]) for row in rose)
            text = f"training loss of {name} ended above its start ({first:.3g} to {last:.3g}; seed {seeds})"
            yield Flag("loss", text)


def _chance(run: Sequence[Mapping[str, Any]]) -> Iterator[Flag]:
    pairs = [(row["mean_iou"], row["chance"]) for row in run if row.get("chance") is not None]
    if not pairs:
        return
    score, chance = (fmean(values) for values in zip(*pairs, strict=True))
    if score <= chance:
        yield Flag("chance", f"scores {100 * score:.1f} %; one class everywhere scores {100 * chance:.1f} %")


def _edge(run: Sequence[Mapping[str, Any]]) -> Iterator[Flag]:
    first = run[0]
    optimizer, rate = first.get("training:optimizer"), first.get("training:learning_rate")
    own = first.get("model:recipe") == "author"  # was not chosen by the suite
    if own or optimizer is None or not isinstance(rate, (int, float)) or not at_edge(optimizer, rate):
        return
    tried = ", ".join(choice for choice in GRID if choice.split()[0] == optimizer) or "none"
    yield Flag(
        "edge", f"{optimizer} {rate:g} is at the edge of its candidates ({tried}), so a better one may be outside them"
    )


def _mode(run: Sequence[Mapping[str, Any]]) -> Iterator[Flag]:
    key, published = PUBLISHED_MODES.get(run[0]["method"], ("", ""))
    mine = run[0].get(f"model:{key}")
    if mine is not None and mine != published:
        yield Flag("mode", f"the published figure is of {key} '{published}', this row of '{mine}'")


def _keys(run: Sequence[Mapping[str, Any]], prefix: str) -> list[str]:
    return [key for key in run[0] if key.startswith(prefix)]


def _above(end: float | None, start: float | None) -> bool:
    return end is not None and start is not None and end > start
