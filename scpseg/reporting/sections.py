"""The parts of the page below the results: reading guide, settings, environment, sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scpseg.benchmarks import get_benchmark
from scpseg.reporting.published import PAPER, title_of
from scpseg.reporting.summary import NOT_SETTINGS, Line
from scpseg.reporting.tables import DASH, markdown

METERS = {
    "rss": "`rss`: peak resident memory of the process above its idle state, on a CPU; it is no estimate of GPU memory",
    "nvml": "`nvml`: peak GPU memory of the whole process as the driver reports it, CUDA context included (the figure "
    "that gpustat shows)",
}
SETTING_KINDS = ("model:", "segmenter:", "training:", "inference:")
EMPTY = (None, "")


def guide(lines: Sequence[Line]) -> str:
    """What each number means, in the words of a reader."""
    meters = [text for backend, text in METERS.items() if any(line.backend == backend for line in lines)]
    paper = [
        f"**paper: ...**: as printed in {PAPER}, measured by its authors and those they cite on other machines; never "
        "mixed with our numbers. Its segmenter stands beside it and may have another encoder than ours."
    ]
    if all(get_benchmark(line.benchmark).invented for line in lines):
        paper = []
    items = [
        "**mIoU**: intersection over union per class from one confusion matrix over all scored images, averaged over "
        "the classes that count. A class that is in neither truth nor prediction is left out of the mean and named. On "
        "Inria the figure is the **building IoU**, which the field prints under the name mIoU.",
        "**mF1** and **accuracy** come from the same matrix; accuracy counts every labelled pixel.",
        "**±** is half the 95 % t-interval of the mean over seeds; with one seed there is none. With two or three "
        "seeds it is wide, and rightly so.",
        "**Peak memory**: inference on one whole image in a fresh process. "
        + ("; ".join(meters) + "." if meters else "Not measured yet."),
        "**s / image** and **MPx / s**: whole-image inference without reading files, after a warm-up; the median of "
        "few images, in two digits. On a shared or small machine times vary by tens of per cent: what this suite "
        "claims is memory, not time.",
        "**parameters**: those that inference needs; what only training uses is not counted.",
        "**patch / context / squeezed / overview**: sides in pixels of what is labelled at once, what is seen around "
        f"it, what the patch is squeezed to, and the reduced whole image. {DASH} = not part of the method.",
        *paper,
        f"{DASH} = not measured or not reported.",
    ]
    return "## What each number means\n\n" + "\n".join(f"- {item}" for item in items) + "\n"


def settings(rows: Sequence[dict[str, Any]]) -> str:
    """Settings that all runs share, then those in which they differ; benchmarks of equal settings share a table."""
    run = [row for row in rows if row["status"] == "ok"]
    if not run:
        return "## Settings of the runs\n\nNo run is there yet.\n"
    keys = [key for key in run[0] if key.startswith(SETTING_KINDS) and key not in NOT_SETTINGS]
    common = [key for key in keys if len({str(row[key]) for row in run}) == 1 and run[0][key] not in EMPTY]
    differing = [key for key in keys if key not in common and any(row[key] not in EMPTY for row in run)]
    parts = ["## Settings of the runs"]
    if common:
        parts.append("The same in all runs: " + ", ".join(f"{_plain(key)} `{run[0][key]}`" for key in common) + ".")
    tables: dict[str, list[str]] = {}
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        table = _settings_table([row for row in rows if row["benchmark"] == benchmark], [*differing, "revision"])
        tables.setdefault(table, []).append(get_benchmark(benchmark).title)
    for table, titles in tables.items():
        parts += [f"{', '.join(titles)}:", table.rstrip("\n")]
    return "\n\n".join(parts) + "\n"


def _settings_table(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> str:
    """One line per setting that some method has, one column per method of a benchmark."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = []
    for key in keys:
        values = [[row[key] for row in rows if row["method"] == method and row["status"] == "ok"] for method in methods]
        cells = [_distinct(found) for found in values]
        if set(cells) != {DASH}:
            lines.append([_plain(key), *cells])
    return markdown(["setting", *map(title_of, methods)], lines, left=1 + len(methods))


def environments(rows: Sequence[dict[str, Any]]) -> str:
    """Each distinct environment once, with what was done in it."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for kind, what in (
            ("environment:", "training"),
            ("evaluation_environment:", "evaluation"),
            ("profile_environment:", "memory and speed"),
        ):
            facts = [(key.removeprefix(kind), row[key]) for key in row if key.startswith(kind) and row[key] is not None]
            if facts:
                text = ", ".join(f"{name} {value}" for name, value in facts)
                found.setdefault(text, {})[what] = None
    items = [f"- {', '.join(done)}: {text}." for text, done in found.items()]
    return "## Environment\n\n" + ("\n".join(items) if items else "Nothing was run yet.") + "\n"


def sources(benchmarks: Sequence[str]) -> str:
    """Terms and citation of every benchmark used, and of the method."""
    items = [
        f"- **{get_benchmark(name).title}**: {get_benchmark(name).citation} Terms: {get_benchmark(name).terms}"
        for name in benchmarks
    ]
    items.append(f"- **SCPSeg**: {PAPER}.")
    return "## Licences and citations\n\n" + "\n".join(items) + "\n"


def _plain(key: str) -> str:
    """'training:batch' as 'batch', 'segmenter:name' as 'segmenter name'."""
    kind, _, name = key.partition(":")
    return f"{kind} {name}" if kind in ("segmenter", "inference") else name or kind


def _distinct(values: Sequence[Any]) -> str:
    """The values of a method's seeds, each once."""
    texts = dict.fromkeys(DASH if value in EMPTY else str(value) for value in values)
    return ", ".join(texts) or DASH
