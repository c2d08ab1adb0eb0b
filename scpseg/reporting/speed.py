"""Section on speed: the table of the bench, and how time and memory grow."""

from __future__ import annotations

import csv
from pathlib import Path

from scpseg.errors import UserError
from scpseg.reporting.figures import Drawn, Look, panels, save, style

BENCH, GROWTH = Path("results/bench.csv"), Path("results/bench-growth.csv")
PANELS = {
    "inference": ("whole-image inference", "side of the image in pixels"),
    "step": ("training step", "windows per step"),
    "prepare": ("prepare", "images"),
}
TIME, MEMORY = Look("#0072B2", "o"), Look("#D55E00", "s")


def read(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file of the bench; none if it was not run.

    Raises:
        UserError: the file is not such a table.
    """
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or (not {"unit", "ratio"} <= rows[0].keys() and not {"what", "x", "seconds", "mib"} <= rows[0].keys()):
        raise UserError(f"{path.as_posix()} is not a table of the bench; delete it and run `make bench`")
    return rows


def draw_growth(path: Path, to: Path) -> Drawn | None:
    """Draw time and memory of inference, training step and prepare over their sizes; None without measurements."""
    rows = read(path)
    if not rows:
        return None
    with style():
        figure, axes = panels(7.0, 2.1, across=len(PANELS))
        for panel, (what, (title, x_name)) in zip(axes, PANELS.items(), strict=True):
            points = [row for row in rows if row["what"] == what]
            x = [float(row["x"]) for row in points]
            right = panel.twinx()
            for side, key, name, look in (
                (panel, "seconds", "processor time in s", TIME),
                (right, "mib", "peak memory in MiB", MEMORY),
            ):
                side.plot(x, [float(row[key]) for row in points], color=look.colour, marker=look.marker, markersize=3)
                side.set_ylabel(name, color=look.colour)
                side.set_ylim(bottom=0)
            right.spines["right"].set_visible(True)
            right.grid(False)
            panel.set_title(title)
            panel.set_xlabel(x_name)
            panel.set_xlim(left=0)
        texts = [f"{PANELS[row['what']][0]} {row['x']}: {row['seconds']} s, {row['mib']} MiB" for row in rows]
        return save(figure, to, f"Growth of time and memory. {'; '.join(texts)}", kinds=("png", "svg"))
