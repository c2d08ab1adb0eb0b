"""The probe in words and tables; every sentence about a method follows from its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scpseg.reporting.probe import BASE, CHANCE, Curve
from scpseg.reporting.published import title_of
from scpseg.reporting.summary import Estimate
from scpseg.reporting.tables import DASH, markdown, megabytes, percent


def section(found: Sequence[Curve], scenes: int, figure: str) -> str:
    """The part of the page.

    Args:
        found: of `curves`, not empty.
        scenes: how many were scored.
        figure: path of the picture as seen from the page, without its ending.
    """
    parts = [
        "## How far each method sees",
        f"![Accuracy against the distance of the cue]({figure}.png)\n\n[The same as SVG]({figure}.svg).",
        "\n".join(f"- {text}" for text in sentences(found, scenes)),
        _distance_table(found),
        _summary_table(found),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def sentences(found: Sequence[Curve], scenes: int) -> list[str]:
    """What is seen, about eleven sentences."""
    seeds = max(curve.mean_iou.n for curve in found)
    texts = [
        "**Question.** Discs look alike; whether a disc is *of orange* or *of blue* is told only by the scene's one "
        "cue, a square of that colour, at a known Chebyshev distance from centre to centre.",
        f"**Chance.** The {scenes} scored scenes come in twins that differ in the cue's colour alone. Without the cue "
        "both get the same answers, one set right and one wrong: exactly 50 %.",
        "**Centred windows** (middle). Each disc lies in the centre of a window, so that distance alone decides what "
        "is seen. *Above chance* below means that the "
        + (
            "95 % t-interval over seeds lies above 50 %."
            if seeds > 1
            else "figure is above 50 % (one seed: no interval)."
        ),
    ]
    texts += [_reach_sentence(curve) for curve in found]
    texts.append("**Cost.** Peak memory for one image: " + ", ".join(_cost(curve, found) for curve in found) + ".")
    texts.append(
        "**Grid windows** (right), as whole images are labelled: a disc off the centre of its window sees farther to "
        "one side and less far to the other. Telling each disc with a part of the cue in view and guessing the rest "
        "would make: "
        + "; ".join(
            f"{title_of(curve.method)} {100 * curve.all_allowed:.1f} % ({100 * curve.visible:.0f} % in view; measured "
            f"{percent(curve.all_grid)} %)"
            for curve in found
        )
        + "."
    )
    gains = [_gain(curve) for curve in found if curve.gain.mean is not None]
    if gains:
        texts.append(f"**Whole images**, over all discs, against {title_of(BASE)}: {'; '.join(gains)}.")
    missed = ", ".join(f"{title_of(curve.method)} {100 * curve.missed:.1f} %" for curve in found)
    texts.append(
        "**Counting.** A disc's kind is the one that most of its pixels are given; pixels given to ground or cue do "
        f"not vote, and a disc without any vote counts as wrong (in centred windows: {missed})."
    )
    texts.append(
        "**Reading the picture.** Markers of the methods stand side by side round the distance that they share, so "
        "that none hides another; intervals end at 100 %, above which there is nothing."
    )
    return texts


def above_chance(value: Estimate) -> bool:
    """Whether the lower end of the interval, or the only figure there is, lies above chance."""
    return value.mean is not None and value.mean - (value.half or 0.0) > CHANCE


def _reach_sentence(curve: Curve) -> str:
    seen = [distance for distance, value in curve.centred.items() if above_chance(value)]
    lost = [distance for distance in curve.centred if distance not in seen]
    within = [distance for distance in curve.centred if distance < curve.reach]
    parts = [f"{verb} {_span(curve, some)}" for verb, some in (("above chance", seen), ("at chance", lost)) if some]
    if seen == within:
        verdict = (
            "just as far as its window reaches" if lost else "at every distance tried, as it looks at the whole image"
        )
        if not lost and math.isfinite(curve.reach):
            verdict = "at every distance tried, all of which its window reaches"
    elif set(seen) < set(within):
        verdict = "less far than it looks"
    else:
        verdict = "not as its window would have it"
    return f"**{title_of(curve.method)}** looks at {curve.looks}: {'; '.join(parts)}; {verdict}."


def _span(curve: Curve, some: Sequence[int]) -> str:
    """'at 24 to 56 pixels (98.0 to 100.0 %)'."""
    values = [value.mean for value in (curve.centred[distance] for distance in some) if value.mean is not None]
    whole = list(curve.centred)
    first, last = whole.index(some[0]), whole.index(some[-1])
    unbroken = len(some) > 2 and list(some) == whole[first : last + 1]
    where = f"{some[0]} to {some[-1]}" if unbroken else " and ".join(map(str, some))
    low, high = f"{100 * min(values):.1f}", f"{100 * max(values):.1f}"
    return f"at {where} pixels ({low if low == high else f'{low} to {high}'} %)"


def _cost(curve: Curve, found: Sequence[Curve]) -> str:
    base = next((other.memory for other in found if other.method == BASE), None)
    if curve.memory is None:
        return f"{title_of(curve.method)} not measured"
    times = f" ({curve.memory / base:.2f} times {title_of(BASE)})" if base and curve.method != BASE else ""
    return f"{title_of(curve.method)} {megabytes(curve.memory)} MiB{times}"


def _gain(curve: Curve) -> str:
    gain = curve.gain
    assert gain.mean is not None
    text = f"{title_of(curve.method)} {100 * gain.mean:+.1f} points of mIoU"
    if gain.half is None:
        return f"{text} (one seed: no interval)"
    low, high = gain.mean - gain.half, gain.mean + gain.half
    zero = "excludes" if low > 0 or high < 0 else "includes"
    return (
        f"{text} (paired by seed, the 95 % t-interval over {gain.n} seeds, {100 * low:+.1f} to {100 * high:+.1f}, "
        f"{zero} zero)"
    )


def _distance_table(found: Sequence[Curve]) -> str:
    distances = list(found[0].centred)
    rows = [[title_of(curve.method), *(percent(curve.centred[d]) for d in distances)] for curve in found]
    return "Accuracy (%) in centred windows by the cue's distance in pixels:\n\n" + markdown(
        ["method", *map(str, distances)], rows
    )


def _summary_table(found: Sequence[Curve]) -> str:
    header = [
        "method",
        "looks at",
        "peak memory MiB",
        "centred, cue within reach %",
        "centred, beyond %",
        "grid %",
        "mIoU %",
        f"mIoU minus {title_of(BASE)}, points",
    ]
    rows = [
        [
            title_of(curve.method),
            curve.looks,
            megabytes(curve.memory),
            percent(curve.within),
            percent(curve.beyond),
            percent(curve.all_grid),
            percent(curve.mean_iou),
            DASH if curve.gain.mean is None else percent(curve.gain),
        ]
        for curve in found
    ]
    return markdown(header, rows, left=2)
