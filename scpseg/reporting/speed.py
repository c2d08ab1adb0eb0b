"""Figure of the bench: how time and memory grow."""

from __future__ import annotations

import csv
from pathlib import Path

from scpseg.reporting.figures import Drawn, Look, panels, save, style

GROWTH = Path("results/bench-growth.csv")
PANELS = {
    "inference": ("whole-image inference", "side of the image in pixels"),
    "step": ("training step", "windows per step"),
    "prepare": ("prepare", "images"),
}
TIME, MEMORY = Look("#0072B2", "o"), Look("#D55E00", "s")


def draw_growth(path: Path, to: Path) -> Drawn:
    """Draw time and memory of inference, training step and prepare over their sizes, from results/bench-growth.csv."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
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
