"""Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from scpseg.benchmarks import get_benchmark
from scpseg.reporting.published import Published, published_row, title_of
from scpseg.reporting.summary import Estimate, Line

DASH = "–"
TRAINED_ELSEWHERE = "‡"
PROFILED_ELSEWHERE = "†"
ELSEWHERE = (
    f"{PROFILED_ELSEWHERE} memory and speed measured on other hardware, or with another number of threads, than most "
    "rows of this {page}; not comparable with them."
)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table; the first `left` columns are aligned left, all others right."""
    assert all(len(row) == len(header) for row in rows)
    marks = [":--" if index < left else "--:" for index in range(len(header))]
    lines = [header, marks, *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def percent(value: Estimate) -> str:
    """A share in per cent, '71.2 ± 0.5' for several seeds."""
    if value.mean is None:
        return DASH
    if value.half is None:
        return f"{100 * value.mean:.1f}"
    return f"{100 * value.mean:.1f} ± {100 * value.half:.1f}"


def number(value: float | None, digits: int) -> str:
    """A number with `digits` after the point, or a dash."""
    return DASH if value is None else f"{value:.{digits}f}"


def megabytes(value: float | None) -> str:
    """MiB, with one digit after the point where a whole number would hide a per cent."""
    return number(value, 1 if value is not None and value < 100 else 0)


def seconds(value: float | None) -> str:
    """Two significant digits: images take from milliseconds to minutes, and no time is repeatable to a third."""
    if value is None:
        return DASH
    rounded = float(f"{value:.1e}")
    return f"{rounded:.0f}" if rounded >= 10 else f"{rounded:#.2g}"


def count(line: Line) -> str:
    """Seeds found, 'k of n' when some are missing."""
    return str(line.declared) if line.mean_iou.n == line.declared else f"{line.mean_iou.n} of {line.declared}"


def main_table(lines: Sequence[Line]) -> str:
    """Accuracy, memory and speed of the methods of one benchmark."""
    mean, f1 = _means(lines)
    memory, several = _unit(lines)
    meters = ["meter"] if several else []
    scores = [f"{mean} %", f"{f1} %", "accuracy %"]
    header = ["method", *scores, f"peak memory {memory}", *meters, "s / image", "MPx / s", "seeds"]
    rows = [
        [
            title_of(line.method),
            percent(line.mean_iou) + _trained(line),
            percent(line.mean_f1),
            percent(line.accuracy),
            _memory(line) + _profiled(line),
            *([line.backend or DASH] if several else []),
            seconds(line.seconds) + _profiled(line),
            seconds(line.megapixels) + _profiled(line),
            count(line),
        ]
        for line in lines
    ]
    return markdown(header, rows)


def network_table(lines: Sequence[Line]) -> str:
    """What each method of one benchmark consists of and looks at."""
    rows = [
        [
            title_of(line.method),
            f"{line.segmenter}, {line.encoder}" if line.segmenter else DASH,
            " / ".join(DASH if size is None else str(size) for size in line.sizes),
            number(None if line.parameters is None else line.parameters / 1e6, 2),
        ]
        for line in lines
    ]
    return markdown(["method", "segmenter", "patch / context / squeezed / overview", "parameters M"], rows, left=3)


def published_table(lines: Sequence[Line]) -> str:
    """What the paper prints for the methods of one benchmark; empty for a benchmark that it cannot have."""
    if get_benchmark(lines[0].benchmark).invented:
        return ""
    mean, f1 = _means(lines)
    names = ("segmenter", f"{mean} %", f"{f1} %", "accuracy %", "memory MB")
    rows = []
    for line in lines:
        paper = paper_of(line)
        cells = [paper.segmenter or "not stated", paper.miou, paper.mf1, paper.accuracy, paper.memory] if paper else []
        rows.append([title_of(line.method), *(cell or DASH for cell in cells or [None] * len(names))])
    return markdown(["method", *(f"paper: {name}" for name in names)], rows, left=2)


def _means(lines: Sequence[Line]) -> tuple[str, str]:
    """What the mean IoU and the mean F1 are called."""
    mean = get_benchmark(lines[0].benchmark).mean_name
    return mean, "mF1" if mean == "mIoU" else mean.replace("IoU", "F1")


def _unit(lines: Sequence[Line]) -> tuple[str, bool]:
    """'MiB (rss)', or 'MiB' and True where there are several meters."""
    backends = {line.backend for line in lines if line.memory is not None}
    return (f"MiB ({backends.pop()})", False) if len(backends) == 1 else ("MiB", len(backends) > 1)


def paper_of(line: Line) -> Published | None:
    """What the paper reports for a line, whose figures are of the test images: None beside scores of other images."""
    if line.split not in (None, "test"):
        return None
    return published_row(line.benchmark, line.method, line.segmenter, line.encoder)


def class_table(lines: Sequence[Line]) -> str:
    """IoU of every class; those outside the mean stand in brackets."""
    classes = get_benchmark(lines[0].benchmark).classes
    header = ["method", *(cls.name if cls.scored else f"({cls.name})" for cls in classes)]
    return markdown(header, [[title_of(line.method), *(percent(line.iou[c.name]) for c in classes)] for line in lines])


def overview_table(lines: Sequence[Line]) -> str:
    """Mean IoU and peak memory of every method on every benchmark."""
    benchmarks = list(dict.fromkeys(line.benchmark for line in lines))
    methods = list(dict.fromkeys(line.method for line in lines))
    found = {(line.benchmark, line.method): line for line in lines}
    unit, several = _unit(lines)
    header = ["method"]
    for name in benchmarks:
        header += [f"{get_benchmark(name).title}: {get_benchmark(name).mean_name} %", unit]
    rows = []
    for method in methods:
        row = [title_of(method)]
        for name in benchmarks:
            line = found[name, method]
            meter = f" {line.backend}" if several and line.memory is not None else ""
            row += [percent(line.mean_iou) + _trained(line), _memory(line) + meter + _profiled(line)]
        rows.append(row)
    return markdown(header, rows)


def _memory(line: Line) -> str:
    """Peak memory; a workload that did not fit is a result, not a gap."""
    return "OOM" if line.profile_status == "oom" else megabytes(line.memory)


def _trained(line: Line) -> str:
    return f" {TRAINED_ELSEWHERE}" if line.trained_elsewhere else ""


def _profiled(line: Line) -> str:
    return f" {PROFILED_ELSEWHERE}" if line.profiled_elsewhere else ""


def _cell(text: str) -> str:
    """Text that cannot break out of its cell."""
    return " ".join(text.replace("|", "\\|").split())
