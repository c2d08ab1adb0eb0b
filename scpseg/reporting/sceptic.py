"""Doubts about a row that a critical reader would raise; the report finds them itself and prints them at the number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from scpseg.tuning import GRID, at_edge

PUBLISHED_MODES: dict[str, tuple[str, str]] = {"glnet": ("direction", "both")}
"""Method -> the setting, and its value, with which its published figures were measured."""


def doubts(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """The doubts about one method on one benchmark: what each is about, and a sentence without the method's name.

    About 'mean_iou': the combined output scores below one of its branches, a training loss ended above its start, or
    the score is not better than one class everywhere. About 'rate': the tuned learning rate is at the edge of its
    candidates. About 'published': the published figure is of another mode.

    Args:
        rows: rows of `scpseg.reporting.collect.collect`, one per seed; those without scores are ignored.
    """
    run = [row for row in rows if row["status"] == "ok" and row["mean_iou"] is not None]
    for key in run[0] if run else ():
        kind, _, name = key.partition(":")
        pairs = [(row["mean_iou"], row[key]) for row in run if row.get(key) is not None]
        if (kind == "branch" or key == "chance") and pairs:
            whole, part = (fmean(values) for values in zip(*pairs, strict=True))
            if kind == "chance" and whole <= part:
                yield "mean_iou", f"scores {100 * whole:.1f} %; one class everywhere scores {100 * part:.1f} %"
            elif kind == "branch" and whole < part:
                below, seeds = sum(own < other for own, other in pairs), "seed" if len(pairs) == 1 else "seeds"
                text = f"scores {100 * whole:.1f} %, below its own {name} branch alone with {100 * part:.1f} %"
                yield "mean_iou", f"{text} (in {below} of {len(pairs)} {seeds})"
        elif kind == "trained" and name.endswith(":loss_end"):
            branch = name.removesuffix(":loss_end")
            losses = [(row["seed"], row.get(f"trained:{branch}:loss_start"), row.get(key)) for row in run]
            rose = [(seed, start, end) for seed, start, end in losses if start is not None and end and end > start]
            if rose:
                text = f"training loss of {branch} ended above its start ({rose[0][1]:.3g} to {rose[0][2]:.3g}"
                yield "mean_iou", f"{text}; seed {', '.join(str(loss[0]) for loss in rose)})"
    if run:
        yield from _settings(run[0])


def _settings(first: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    optimizer, rate = first.get("training:optimizer"), first.get("training:learning_rate")
    own = first.get("model:recipe") == "author"  # was not chosen by the suite
    if not own and optimizer is not None and isinstance(rate, (int, float)) and at_edge(optimizer, rate):
        tried = ", ".join(choice for choice in GRID if choice.split()[0] == optimizer) or "none"
        at = f"{optimizer} {rate:g} is at the edge of its candidates ({tried})"
        yield "rate", f"{at}, so a better one may be outside them"
    key, published = PUBLISHED_MODES.get(first["method"], ("", ""))
    mine = first.get(f"model:{key}")
    if mine is not None and mine != published:
        yield "published", f"the published figure is of {key} '{published}', this row of '{mine}'"
