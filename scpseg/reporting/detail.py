"""Second axis of the probe: how small a cue and how fine a texture a method sees, and both at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from scpseg.reporting import twins
from scpseg.reporting.figures import COLUMN, Drawn, draw_cells, panels, save, style
from scpseg.reporting.published import title_of
from scpseg.reporting.statistics import Estimate
from scpseg.reporting.tables import Cell, Column, Table, mebibytes, points, render, share, table_of, words
from scpseg.reporting.twins import Accuracy, Difference, shown

OURS = "scpseg"
ACROSS = 6
"""Panels in a row of the figure."""
HALF_CUE = 8
"""Pixels from the centre of the largest cue to its edge."""
CHANCE = {"kind": 0.5, "texture": 0.5, "both": 0.25}


@dataclass(frozen=True)
class Sight:
    """What one method sees in centred windows, at the distances of `between`.

    Attributes:
        method: name of the method.
        memory: peak in MiB.
        kinds: side of the cue in pixels -> accuracy of kinds.
        textures: side of the texture's parts in pixels -> accuracy of textures.
        classes: (side of the cue, side of the texture's parts) -> share with both right.
        both: share with both right over all sides.
        behind: `both` of SCPSeg minus that of this method; None for SCPSeg.
    """

    method: str
    memory: float | None
    kinds: dict[int, Accuracy]
    textures: dict[int, Accuracy]
    classes: dict[tuple[int, int], Accuracy]
    both: Accuracy
    behind: Difference | None


def between(answers: pd.DataFrame, patch: float, window: float) -> pd.DataFrame:
    """The discs whose cue is completely outside half a `patch`, and completely inside half a `window`, in pixels."""
    outside, inside = answers["distance"] - HALF_CUE >= patch, answers["distance"] + HALF_CUE <= window
    return answers[outside & inside]


def sights(answers: pd.DataFrame, memory: Mapping[str, float | None]) -> list[Sight]:
    """One per method of `memory` with results, in its order.

    Args:
        answers: rows of `scpseg.reporting.probe.read_answers` with a column `pair`, of `between`.
        memory: method -> peak in MiB.
    """
    found = []
    for method, mib in memory.items():
        mine = answers[answers["method"] == method]
        if mine.empty:
            continue
        sides, details = (sorted({int(side) for side in mine[key]}, reverse=True) for key in ("cue_side", "detail"))
        cue, detail = mine["cue_side"], mine["detail"]
        kinds = {side: _of(mine[cue == side], "centred") for side in sides}
        textures = {side: _of(mine[detail == side], "centred_texture") for side in details}
        pairs = [(one, other) for one in sides for other in details]
        classes = {pair: _of(mine[(cue == pair[0]) & (detail == pair[1])], "centred_both") for pair in pairs}
        ours = answers[answers["method"] == OURS]
        behind = None if method == OURS else twins.difference(ours, mine, "centred_both")
        found.append(Sight(method, mib, kinds, textures, classes, _of(mine, "centred_both"), behind))
    return found


def _of(answers: pd.DataFrame, look: str) -> Accuracy:
    found = twins.accuracy(answers, look)
    assert found is not None  # groups have rows
    return found


def seen(values: Mapping[int, Accuracy], chance: float) -> list[int]:
    """The sides at which the lower end of the interval (of one seed: over scenes) is above chance."""
    return [side for side, value in values.items() if not value.identity and value.low > chance]


def sentences(found: Sequence[Sight], where: Sequence[int]) -> list[tuple[str, str]]:
    """(title, sentence) pairs: every sentence about a method follows from its numbers.

    Args:
        found: of every method.
        where: distances of the discs that count.
    """
    if not found:
        return []
    made = render(
        "probe-detail.txt.j2",
        sights=found,
        where=_listed(list(where)),
        seeds=max(sight.both.seeds for sight in found),
        title=title_of,
        cues=lambda sight: _verdict(sight.kinds, CHANCE["kind"]),
        textures=lambda sight: _verdict(sight.textures, CHANCE["texture"]),
        share=lambda value: share(shown(value)).text,
        points=lambda value: points(Estimate(value, None, 1)).text,
    )
    pairs = (line.partition("\t") for line in made.splitlines() if line.strip())
    return [(title.strip(), sentence.strip()) for title, _, sentence in pairs]


def _verdict(values: Mapping[int, Accuracy], chance: float) -> str:
    """Which sides are above chance and which are not."""
    above = seen(values, chance)
    lost = [side for side in values if side not in above]
    parts = [f"of {_listed(above)} pixels"] if above else []
    parts += [f"not of {_listed(lost)}" + ("" if above else " pixels")] if lost else []
    return ", ".join(parts)


def _listed(numbers: Sequence[int]) -> str:
    texts = [str(value) for value in numbers]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def detail_table(found: Sequence[Sight]) -> Table:
    """Accuracy by side of the cue, by side of the texture's parts, and of both; memory."""

    def of(name: str, side: int) -> Callable[[Sight], Cell]:
        return lambda sight: share(shown(getattr(sight, name)[side]))

    fields: list[Column[Sight]] = [words("method", lambda sight: title_of(sight.method))]
    fields += [Column(f"kind, cue {side} px %", of("kinds", side)) for side in found[0].kinds]
    fields += [Column(f"texture {side} px %", of("textures", side)) for side in found[0].textures]
    fields += [
        Column("both %", lambda sight: share(shown(sight.both))),
        Column(f"{title_of(OURS)} minus this, both, points", lambda sight: points(shown(sight.behind))),
        Column("peak memory MiB", lambda sight: mebibytes(sight.memory)),
    ]
    return table_of("probe-detail", "Kind by side of the cue, texture by side of its parts, both", fields, found)


def draw_detail(found: Sequence[Sight], folder: Path) -> Drawn:
    """Share of discs with both factors right, one map per method: cues shrink to the right, textures downwards."""
    down = -(-len(found) // ACROSS)
    across = -(-len(found) // down)
    with style():
        figure, grid = panels(2.2 * COLUMN, 1.75 * down + 0.25, across, down)
        for axes, sight in zip(grid, found, strict=False):
            _map(axes, sight)
        for axes in grid[len(found) :]:
            axes.set_axis_off()
        for axes in grid[::across]:
            axes.set_ylabel("texture (pixels)")
        return save(figure, folder / "probe-detail", "Kind and texture right, by side of the cue and of the texture")


def _map(axes: Axes, sight: Sight) -> None:
    cues, details = list(sight.kinds), list(sight.textures)
    values = [[sight.classes[cue, detail].share for cue in cues] for detail in details]
    texts = [[f"{100 * value:.0f}" for value in line] for line in values]
    drawn = draw_cells(axes, values, texts, list(map(str, cues)), list(map(str, details)), cmap="cividis",
                       vmin=CHANCE["both"], vmax=1.0)  # fmt: skip
    for text, value in zip(chain(*drawn), chain(*values), strict=True):
        text.set_color("white" if value < 0.65 else "black")
    axes.set_xlabel("cue (pixels)")
    memory = "" if sight.memory is None else f"\n{mebibytes(sight.memory).text} MiB"
    axes.set_title(f"{title_of(sight.method)}{memory}")
