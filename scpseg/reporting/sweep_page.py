"""The page of a sweep: reports/sweeps/NAME/README.md with its picture and runs.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scpseg.benchmarks import get_benchmark
from scpseg.files import write_text
from scpseg.reporting.page import RANDOM, SYNTHETIC
from scpseg.reporting.published import PAPER, title_of
from scpseg.reporting.sections import METERS, environments
from scpseg.reporting.summary import Estimate
from scpseg.reporting.sweep_figures import draw_sweep
from scpseg.reporting.sweeps import (
    PAPER_SEGMENTER,
    Row,
    Sweep,
    csv_text,
    difference,
    measured_elsewhere,
    memory,
    miou,
    published,
)
from scpseg.reporting.tables import DASH, ELSEWHERE, PROFILED_ELSEWHERE, markdown, megabytes, percent

STATUS = {"failed": "failed", "refused": "refused", "missing": "not run yet"}
NOISE = (
    "The paper prints one figure per point without an interval. In its figure 5 the three points at ratio 1 have no "
    "frame and should agree, yet differ by 0.6 mIoU: so much is chance."
)


def write_sweep(sweep: Sweep, rows: Sequence[Row], folder: Path) -> None:
    """Write README.md, runs.csv and, where there is a result, NAME.png and NAME.svg into `folder`."""
    write_text(folder / "runs.csv", csv_text(sweep, rows))
    pictures = draw_sweep(sweep, rows, folder)
    for old in {*folder.glob("*.png"), *folder.glob("*.svg")} - set(pictures):
        old.unlink()
    write_text(folder / "README.md", render(sweep, rows, bool(pictures)))


def render(sweep: Sweep, rows: Sequence[Row], drawn: bool) -> str:
    """The page as Markdown."""
    runs = [run for row in rows for run in row.runs]
    parts = [*_banner(rows, runs), f"# {sweep.title}", _about(sweep, runs)]
    parts.append(table(sweep, rows).rstrip("\n"))
    notes = _notes(sweep, rows)
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    if drawn:
        parts.append(f"![{sweep.title}]({sweep.name}.png)\n\n[The same as SVG]({sweep.name}.svg).")
    parts.append("Every run with all that was recorded of it: [runs.csv](runs.csv).")
    parts.append(_commands(rows))
    parts.append(environments(runs).rstrip("\n"))
    if published(sweep.name):
        parts.append(f"Columns and panels named *paper*: {PAPER}.")
    return "\n\n".join(parts) + "\n"


def table(sweep: Sweep, rows: Sequence[Row]) -> str:
    """One line per row."""
    paper = published(sweep.name)
    several = len({row.series for row in rows}) > 1
    told = all(setting.partition("=")[0] in f"{row.x} {sweep.axes}" for row in rows for setting in _own(row))
    mean = next((run["mean_name"] for row in rows for run in row.runs), "mIoU")
    header = [*_place(sweep, sweep.axes[0], sweep.axes[1], several), *([] if told else ["settings"])]
    left = len(header) + 1
    meters = {meter for _, meter in map(memory, rows) if meter}
    unit = f"MiB ({', '.join(meters)})" if len(meters) == 1 else "MiB"
    header += ["network", "patch / context / squeezed", f"{mean} %", "difference", "seeds", f"peak memory {unit}"]
    header += ["meter"] if len(meters) > 1 else []
    if paper:
        header.append("paper: mIoU %")
    lines, elsewhere = [], measured_elsewhere(rows)
    for row in rows:
        size, meter = memory(row)
        line = [*_place(sweep, row.x, row.series, several), *([] if told else [", ".join(_own(row)) or DASH])]
        line += [_segmenter(row), _sizes(row), percent(miou(row)) if row.status == "ok" else STATUS[row.status]]
        mark = f" {PROFILED_ELSEWHERE}" if row in elsewhere else ""
        line += [_difference(difference(row, rows)), str(miou(row).n or DASH), megabytes(size) + mark]
        line += [meter or DASH] if len(meters) > 1 else []
        lines.append([*line, *([paper.get(row.key, DASH)] if paper else [])])
    return markdown(header, lines, left)


def _place(sweep: Sweep, x: str, series: str, several: bool) -> list[str]:
    """The first cells of a line: what changes slowest comes first."""
    if not several:
        return [x]
    return [x, series] if sweep.figure in ("pairs", "dots") else [series, x]


def _own(row: Row) -> list[str]:
    """Settings that the columns of segmenter do not tell."""
    return [setting for setting in row.settings if not setting.startswith("segmenter.")]


def _segmenter(row: Row) -> str:
    if not row.runs:
        return DASH
    run = row.runs[0]
    return f"{run['segmenter:name']}, {run['segmenter:encoder']}"


def _sizes(row: Row) -> str:
    if not row.runs:
        return DASH
    return " / ".join(str(row.runs[0].get(f"model:{name}") or DASH) for name in ("patch", "context", "squeezed"))


def _difference(value: Estimate | None) -> str:
    if value is None:
        return "reference"
    if value.mean is None:
        return DASH
    half = "" if value.half is None else f" ± {100 * value.half:.1f}"
    return f"{100 * value.mean:+.1f}{half}".replace("-", "−")


def _banner(rows: Sequence[Row], runs: Sequence[dict[str, Any]]) -> list[str]:
    parts = []
    if any(run["synthetic"] == "True" for run in runs):
        parts.append(SYNTHETIC)
    random = [row for row in rows if any(str(run["segmenter:weights"]).startswith("random") for run in row.runs)]
    done = [row for row in rows if row.runs]
    if random:
        names = list(dict.fromkeys(_segmenter(row) for row in random))
        parts.append(RANDOM.format(who="All networks" if len(random) == len(done) else "; ".join(names)))
    if len(done) < len(rows):
        parts.append(f"> **Incomplete.** {len(rows) - len(done)} of {len(rows)} rows have no result.")
    return ["\n>\n".join(parts)] if parts else []


def _about(sweep: Sweep, runs: Sequence[dict[str, Any]]) -> str:
    """What the rows stand on."""
    if not runs:
        return "No run is there yet."
    run = runs[0]
    seeds = sorted({run["seed"] for run in runs}, key=int)
    facts = (
        f"{get_benchmark(run['benchmark']).title}, scored on {run['images']} of {run['images_of']} {run['split']} "
        f"images, trained on {run['train_images']} of {run['train_images_of']} (split `{run['split_list']}`), "
        f"{run['training:iterations']} iterations of {run['training:batch']} windows, "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}."
    )
    return " ".join(part for part in (facts, sweep.about) if part)


def _notes(sweep: Sweep, rows: Sequence[Row]) -> list[str]:
    by_text: dict[str, list[str]] = {}
    for row in rows:
        texts = [*row.notes, *([f"{STATUS[row.status]}: {row.reason}"] if row.reason else [])]
        for text in texts:
            by_text.setdefault(text.rstrip("."), []).append(_label(row, rows))
    notes = [f"{'; '.join(dict.fromkeys(labels))}: {text}." for text, labels in by_text.items()]
    ran = [row for row in rows if row.runs]
    if ran:
        several = max(miou(row).n for row in ran) > 1
        spread = "± and bars are half the 95 % t-interval over seeds, of the differences seed by seed."
        notes.append(spread if several else "One seed per row: differences may be chance.")
        notes.append("Differences are of unrounded figures, so they can be 0.1 off what the printed ones make.")
    if measured_elsewhere(rows):
        notes.append(ELSEWHERE.format(page="page"))
    meters = sorted({meter for row in ran for _, meter in [memory(row)] if meter})
    if meters:
        size = f"{ran[0].runs[0]['height']} × {ran[0].runs[0]['width']}"
        explained = "; ".join(METERS[meter] for meter in meters)
        notes.append(f"Memory: inference on one image of {size} pixels in a fresh process; {explained}.")
    if sweep.figure == "grid":
        notes.append("Heat map: shades are relative within a panel, the highest figure is bold.")
    elif published(sweep.name):
        notes.append("Both panels of the picture span equally many points, so that equal differences look equal.")
    if published(sweep.name):
        base = PAPER_SEGMENTER.get(sweep.name)
        what = f"the paper's {sweep.source}{f', {base}' if base else ''}, Potsdam validation set, 40,000 iterations"
        notes.append(
            f"paper: {what}. Compare differences, not levels: images, sizes and schedule are not these. {NOISE}"
        )
    return notes


def _label(row: Row, rows: Sequence[Row]) -> str:
    several = len({other.series for other in rows}) > 1
    return f"{row.series}, {row.x}" if several else row.x


def _commands(rows: Sequence[Row]) -> str:
    """What runs each row again, once for rows of the same experiment."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.command:
            found.setdefault(row.experiment, []).append(row)
    if not found:
        return "No point of this sweep is valid."
    lines = []
    for experiment, mine in found.items():
        points = dict.fromkeys(
            row.x if row.series == title_of(row.method) else f"{row.series}, {row.x}" for row in mine
        )
        lines += [f"# {'; '.join(points)}: {experiment}", mine[0].command]
    about = (
        "Each runs one experiment again, on top of the committed params.yaml. Behind its rows stands the name of the "
        "experiment in the repository where it ran; a clone has the results in runs.csv, not the experiments."
    )
    return "\n".join(["## Commands", "", about, "", "```", *lines, "```"])
