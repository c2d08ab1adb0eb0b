"""The page people read: reports/README.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from scpseg.benchmarks import get_benchmark
from scpseg.benchmarks.base import Benchmark
from scpseg.reporting.collect import SEPARATOR
from scpseg.reporting.figures import drawable
from scpseg.reporting.published import title_of
from scpseg.reporting.sections import environments, guide, settings, sources
from scpseg.reporting.summary import Line, records
from scpseg.reporting.tables import (
    ELSEWHERE,
    TRAINED_ELSEWHERE,
    class_table,
    main_table,
    network_table,
    overview_table,
    paper_of,
    published_table,
)

SYNTHETIC = (
    "> **Synthetic scenes.** The images behind this report are procedural scenes; "
    "its numbers are no statement about the real benchmarks."
)
PARTLY_SYNTHETIC = (
    "> **Partly synthetic scenes.** Images of {names} are procedural scenes; "
    "numbers there are no statement about the real benchmarks."
)
RANDOM = "> **Random weights.** {who} started training from random weights, not from ImageNet."


def render(
    frame: pd.DataFrame,
    lines: Sequence[Line],
    figures: dict[str, str],
    examples: dict[str, tuple[str, str]],
    reference: str,
    probe: str = "",
    timelines: str = "",
) -> str:
    """The page as Markdown.

    Args:
        frame: rows of `collect`.
        lines: of `summarise`.
        figures: benchmark or 'overview' -> path of the picture as seen from the page, without its ending.
        examples: benchmark -> (path of the picture of labels as seen from the page, its caption).
        reference: the part about committed tables of GPUs.
        probe: the part about the probe, or empty.
        timelines: the part about memory over time, or empty.
    """
    rows = records(frame)
    benchmarks = list(dict.fromkeys(line.benchmark for line in lines))
    parts = [*_warnings_on_top(rows), "# Accuracy against peak memory\n"]
    parts.append(
        "Every method labels whole images through one inference routine, is scored by one confusion matrix "
        "and measured by one memory meter. Each figure below is computed from `results/summary.csv`, one row per "
        "benchmark, method and seed.\n"
    )
    parts += [probe] if probe else []
    parts.append(_overview(lines, figures))
    for name in benchmarks:
        mine = [line for line in lines if line.benchmark == name]
        parts.append(_benchmark([row for row in rows if row["benchmark"] == name], mine, figures, examples))
    parts += [timelines] if timelines else []
    parts += [reference, guide(lines), settings(rows), environments(rows), sources(benchmarks)]
    return "\n".join(parts)


def _warnings_on_top(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What must be read before any number; the first line of the page when scenes are synthetic."""
    run = [row for row in rows if row["status"] == "ok"]
    parts = []
    invented = list(dict.fromkeys(row["benchmark"] for row in run if row["synthetic"]))
    if invented:
        whole = all(row["synthetic"] for row in run)
        parts.append(
            SYNTHETIC if whole else PARTLY_SYNTHETIC.format(names=_and([get_benchmark(n).title for n in invented]))
        )
    random = [row for row in run if str(row.get("segmenter:weights")).startswith("random")]
    if random:
        methods = list(dict.fromkeys(title_of(row["method"]) for row in random))
        parts.append(RANDOM.format(who="All networks" if len(random) == len(run) else _and(methods)))
    missing = [row for row in rows if row["status"] != "ok"]
    if missing:
        parts.append(f"> **Incomplete.** {len(missing)} of {len(rows)} declared runs are missing.")
    # An empty quoted line keeps the sentences apart as paragraphs.
    return ["\n>\n".join(parts) + "\n"] if parts else []


def _overview(lines: Sequence[Line], figures: dict[str, str]) -> str:
    parts = [overview_table(lines), *_list(_marks(lines))]
    if "overview" in figures:
        parts.append(_picture("Accuracy against peak memory on every benchmark", figures["overview"]))
        parts.append("Up and to the left is better. " + _interval_note(lines))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _benchmark(
    rows: Sequence[dict[str, Any]],
    lines: Sequence[Line],
    figures: dict[str, str],
    examples: dict[str, tuple[str, str]],
) -> str:
    spec = get_benchmark(lines[0].benchmark)
    parts = [f"## {spec.title}", _facts(spec, rows), main_table(lines), *_list(_notes(spec, rows, lines))]
    parts += ["What is compared:", network_table(lines)]
    paper = published_table(lines)
    parts += ["What the paper prints:", paper] if paper else []
    parts.append("IoU of every class in per cent" + _brackets(spec) + ":")
    parts.append(class_table(lines))
    if spec.name in figures:
        parts.append(_picture(f"{spec.title}: {spec.mean_name} against peak memory", figures[spec.name]))
        absent = [title_of(line.method) for line in lines if line not in drawable(lines)]
        if absent:
            parts.append(f"Not drawn, for want of a score or a memory: {_and(absent)}.")
    if spec.name in examples:
        path, caption = examples[spec.name]
        parts += [f"![{spec.title}: labels by method]({path})", caption]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _facts(spec: Benchmark, rows: Sequence[dict[str, Any]]) -> str:
    """Images, split, labels and the size at which memory was measured, as found in the rows."""
    pairs = []
    for row in rows:
        if row["status"] == "ok":
            labels = f", labels `{row['labels']}`" if row["labels"] else ""
            scored = f"scored on {row['images']} of {row['images_of']} {row['split']} images"
            trained = f"trained on {row['train_images']} of {row['train_images_of']}"
            if not row["synthetic"]:
                scored = f"images of {spec.side} × {spec.side} pixels of {spec.ground_sampling:g} m, {scored}"
            pairs.append((f"{scored}, {trained} (split `{row['split_list']}`{labels})", title_of(row["method"])))
    for row in rows:
        if row["height"] is not None:
            own = "the benchmark's own size" if row["real_size"] else f"not the benchmark's {spec.side} × {spec.side}"
            size = f"memory and speed on images of {row['height']} × {row['width']} pixels, {own}"
            many = row["windows_per_batch"]
            pairs.append((f"{size}, {many} window{'s' * (many != 1)} a batch", title_of(row["method"])))
    if not pairs:
        return "Nothing of this benchmark is there yet."
    # Said once for all methods, and with names only where methods differ.
    everyone = list(dict.fromkeys(title for _, title in pairs))
    texts = [text if who == everyone else f"{_and(who)}: {text}" for text, who in _by_text(pairs)]
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in texts)


def _notes(spec: Benchmark, rows: Sequence[dict[str, Any]], lines: Sequence[Line]) -> list[str]:
    """Marks explained, missing runs, warnings of the data, remarks on published figures."""
    notes = _marks(lines)
    for problem, methods in _by_text((problem, title_of(line.method)) for line in lines for problem in line.problems):
        notes.append(f"{_and(methods)}: {problem}.")
    texts = (
        (text, title_of(row["method"])) for row in rows if row["warnings"] for text in row["warnings"].split(SEPARATOR)
    )
    run = list(dict.fromkeys(title_of(row["method"]) for row in rows if row["status"] == "ok"))
    for text, methods in _by_text(texts):
        notes.append(text if methods == run else f"{_and(methods)}: {text}")
    other = sorted({line.split for line in lines if line.split not in (None, "test")})
    if other and not spec.invented:
        notes.append(
            f"The paper's figures are of the test images and not shown beside scores of the {_and(other)} images."
        )
    for line in lines:
        paper = paper_of(line)
        if paper and paper.remark:
            notes.append(f"{paper.method} as published: {paper.remark}")
    return [*notes, *spec.notes]


def _marks(lines: Sequence[Line]) -> list[str]:
    """The marks in a table, explained."""
    marks = []
    if any(line.profiled_elsewhere for line in lines):
        marks.append(f"{ELSEWHERE.format(page='report')} `make profile` measures all anew.")
    if any(line.trained_elsewhere for line in lines):
        marks.append(f"{TRAINED_ELSEWHERE} trained on other hardware than most rows of this report.")
    backends = sorted({line.backend for line in lines if line.backend and line.memory is not None})
    if len(backends) > 1:
        marks.append(
            f"Memory was measured by different meters ({_and(backends)}), which are not comparable: the picture has a "
            "panel for each."
        )
    return marks


def _by_text(pairs: Any) -> list[tuple[str, list[str]]]:
    """Each text once, with the methods it concerns, in order of appearance."""
    found: dict[str, list[str]] = {}
    for text, method in pairs:
        methods = found.setdefault(text.rstrip("."), [])
        if method not in methods:
            methods.append(method)
    return list(found.items())


def _list(items: Sequence[str]) -> list[str]:
    """One Markdown list, or nothing."""
    return ["\n".join(f"- {item}" for item in items)] if items else []


def _brackets(spec: Benchmark) -> str:
    out = [cls.name for cls in spec.classes if not cls.scored]
    return f" ({_and(out)} in brackets: not part of {spec.mean_name})" if out else ""


def _picture(title: str, path: str) -> str:
    return f"![{title}]({path}.png)\n\n[The same as SVG]({path}.svg)."


def _interval_note(lines: Sequence[Line]) -> str:
    most = max(line.mean_iou.n for line in lines)
    if most < 2:
        return "One seed per method: differences may be chance."
    return "Bars are 95 % t-intervals of the mean over seeds."


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
