"""Summaries of rows: a line per benchmark and method with doubts at its numbers, a part of the report per benchmark."""

from __future__ import annotations

import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, median, mode
from typing import Any

import numpy as np
import pandas as pd

from scpseg.benchmarks import get_benchmark
from scpseg.benchmarks.base import NOTE
from scpseg.errors import UserError
from scpseg.files import damaged
from scpseg.reporting.collect import SEPARATOR
from scpseg.reporting.memory import Peak
from scpseg.reporting.published import published, title_of
from scpseg.reporting.statistics import Counts, Estimate, better, corrected, differences, estimate, ranks
from scpseg.tuning import GRID, at_edge

Row = dict[str, Any]
Flag = tuple[str, str]
"""A remark: the column of the number to which it belongs, and its text."""
_FOUND = "seconds weights_hash parameters_training log_every revision steps samples megapixels"
NOT_SETTINGS = tuple(f"training:{name}" for name in _FOUND.split())
"""Keys of a training's record that are results or descriptions, not settings."""
_DATA = ("split", "split_list", "labels", "images")
_SCORED = ("split", "images", "images_of", "train_images", "train_images_of", "split_list", "labels")
_PROFILED = {
    **{name: f"profile_{name}" for name in ("segmenter:name", "segmenter:encoder", "segmenter:output_stride")},
    "inference:overlap": "profile:overlap",
    "inference:batch": "windows_per_batch",
}
"""Settings that affect memory and speed, and the columns with their values during the measurement."""
_TRAINING_ONLY = ("model:srd_", "model:lfa_")
"""Settings of parts that a method drops after training, so their change does not repeat the measurement."""
PUBLISHED_MODES: dict[str, dict[str, object]] = {
    "glnet": {"direction": "both"},
    "fctl": {"head": 4096, "views": "1 or 8, not stated"},
    "magnet": {"fast": False},
    "rue": {"share": 1.0},
}
"""Method -> the settings, and their values, with which its published figures were measured."""


@dataclass(frozen=True)
class Line:
    """One benchmark and method; `line[column]` is the value in the first row with a result, or else the first row.

    `rows` are those of `collect`, one per declared seed; `memory` is the peak at the benchmark's real size, if known.
    `alone`: no method of the benchmark has such a peak, so the memory of stage profile is used instead.
    """

    benchmark: str
    method: str
    rows: tuple[Row, ...]
    memory: Peak | None
    flags: tuple[Flag, ...]
    alone: bool = True

    def __getitem__(self, column: str) -> Any:
        """Value of a column, or None if the column does not exist."""
        return self.first.get(column)

    @property
    def done(self) -> list[Row]:
        """Rows with a result."""
        return [row for row in self.rows if row["status"] == "ok"]

    @property
    def first(self) -> Row:
        """The first row with a result, or else the first row."""
        return (*self.done, *self.rows)[0]

    @property
    def title(self) -> str:
        """The method's display name."""
        return title_of(self.method)

    def estimate(self, column: str) -> Estimate:
        """Mean over seeds of a column with shares 0..1, and its interval."""
        return estimate(row.get(column) for row in self.rows)

    @cached_property
    def mean_iou(self) -> Estimate:
        """Mean IoU, 0..1."""
        return self.estimate("mean_iou")

    @property
    def score(self) -> float | None:
        """Mean IoU, 0..1, mean over the seeds."""
        return self.mean_iou.mean

    @property
    def peak(self) -> float | None:
        """Memory in MiB at the real size; of stage profile if no method of the benchmark has the other."""
        return self.memory.mib if self.memory else self["memory_mib"] if self.alone else None

    def mean(self, *columns: str) -> float | None:
        """Mean over seeds of the first of these columns with numbers, None if none has any."""
        found = ([row[name] for row in self.rows if row.get(name) is not None] for name in columns)
        return next((fmean(values) for values in found if values), None)

    def of(self, column: str) -> tuple[str, ...]:
        """Remarks on the numbers in this column."""
        return tuple(text for where, text in self.flags if where == column)


def scores(rows: Iterable[Mapping[str, Any]]) -> dict[Any, float]:
    """Mean IoU, 0..1, by seed, of the rows that have one; values may be texts, as in results/summary.csv."""
    return {row["seed"]: float(row["mean_iou"]) for row in rows if row.get("mean_iou") not in (None, "")}


def is_setting(key: str) -> bool:
    """Whether a column is a setting of a run."""
    return key.startswith(("model:", "segmenter:", "training:", "inference:")) and not key.startswith(NOT_SETTINGS)


def invented(row: Row) -> bool:
    """Whether a row is of synthetic scenes."""
    return row["synthetic"] in (True, "True")


def records(frame: pd.DataFrame) -> list[Row]:
    """The rows of the frame as dicts."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def summarise(
    frame: pd.DataFrame,
    peaks: Mapping[tuple[str, str], Peak] | None = None,
    unknown: Mapping[tuple[str, str], str] | None = None,
    remarks: Mapping[tuple[str, str], str] | None = None,
) -> list[Line]:
    """One line per benchmark and method, in the order of the frame; lines without results have empty estimates.

    By (benchmark, method), `peaks` is the memory at the real size, `unknown` the reason why it is unknown, and
    `remarks` what was found about a score.
    """
    rows, found = records(frame), dict[tuple[str, str], list[Row]]()
    usual = {what: common(device(row, what) for row in rows) for what in ("environment", "profile_environment")}
    for row in rows:
        found.setdefault((row["benchmark"], row["method"]), []).append(row)
    lines, known = [], {benchmark for benchmark, _ in peaks or {}}
    for cell, mine in found.items():
        notes = {"memory": (unknown or {}).get(cell), "mean_iou": (remarks or {}).get(cell)}
        flags = [*_gaps(mine), *_settings(mine, usual), *doubts(mine)]
        flags += [(where, text) for where, text in notes.items() if text]
        peak = (peaks or {}).get(cell)
        lines.append(Line(*cell, tuple(mine), peak, tuple(dict.fromkeys(flags)), cell[0] not in known))
    return lines


def read_remarks(path: Path) -> dict[tuple[str, str], str]:
    """What someone found about the scores of (benchmark, method), from a table beside the page; empty without one.

    Raises:
        UserError: the file is not a table of benchmark, method, remark.
    """
    try:
        found = pd.read_csv(path, dtype=str, keep_default_na=False)[["benchmark", "method", "remark"]]
    except FileNotFoundError:
        return {}
    except (KeyError, ValueError):
        raise UserError(f"{path.as_posix()} must be CSV with the columns benchmark, method, remark") from None
    return {(benchmark, method): remark for benchmark, method, remark in found.itertuples(index=False, name=None)}


def device(row: Row, kind: str = "profile_environment") -> str | None:
    """Hardware of a row; for memory and speed, which depend on it, also the number of threads."""
    name, threads = row.get(f"{kind}:device"), row.get(f"{kind}:threads")
    return f"{name}, {threads} threads" if name and threads and kind.startswith("profile") else name


def common(devices: Iterable[str | None]) -> str | None:
    """The device of most rows; the first one in a tie."""
    known = [found for found in devices if found is not None]
    return mode(known) if known else None


def _gaps(rows: Sequence[Row]) -> Iterator[Flag]:
    """Runs and figures that are missing, with the reason and, unless all of several seeds are concerned, the seeds."""
    texts = defaultdict[str, list[str]](list)
    for row in rows:
        done, absent = row["status"] == "ok", row["absent"]
        found = {
            f"{row['status']}: {row['reason']}": not done,
            "no scored class occurs in the images": done and row["mean_iou"] is None,
            f"in neither ground truth nor prediction, left out of the mean: {absent}": absent,
        }
        for text in (text for text, holds in found.items() if holds):
            texts[text].append(str(row["seed"]))
    for text, seeds in texts.items():
        those = "" if len(seeds) == len(rows) > 1 else f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}: "
        yield "mean_iou", those + text
    status, reason = rows[0]["profile_status"], rows[0]["profile_reason"]
    if status != "ok" or reason:
        what = {"oom": "out of memory", "ok": "memory not measured"}.get(status, status)
        yield "seconds", f"memory and speed {what}: {reason}"


def _settings(rows: Sequence[Row], usual: Mapping[str, str | None]) -> Iterator[Flag]:
    """Seeds, or a run and its profile, with different settings; rows made on other hardware than most."""
    run, first = [row for row in rows if row["status"] == "ok"], rows[0]
    for key in (key for key in first if key in _DATA or is_setting(key)):
        values = list(dict.fromkeys(row[key] for row in run))
        if len(values) > 1:
            yield "mean_iou", f"seeds differ in {key.replace(':', ' ')}: {', '.join(map(str, values))}"
    models = [key for key in first if key.startswith("model:") and not key.startswith(_TRAINING_ONLY)]
    for key, other in ({key: f"profile_{key}" for key in models} | _PROFILED).items():
        if run and first.get(other) is not None and first[other] != run[0].get(key):
            name = key.removeprefix("model:").replace(":", " ")
            yield "seconds", f"profile of other settings: {name} {first[other]} against {run[0].get(key)}"
    recipe = run[0].get("model:recipe") if run else None
    if recipe not in (None, "suite"):
        yield "method", f"recipe {recipe}: not the common one, so it is not ranked"
    if any(device(row, "environment") not in (None, usual["environment"]) for row in rows):
        yield "mean_iou", "trained on other hardware than most rows of this report"
    if device(first) not in (None, usual["profile_environment"]):
        text = "speed and resident memory measured on other hardware, or with another number of threads, than most rows"
        yield "seconds", f"{text}; not comparable with them"


def doubts(rows: Sequence[Mapping[str, Any]]) -> Iterator[Flag]:
    """The doubts that a critical reader would raise about one method on one benchmark.

    About 'mean_iou': the combined output scores below one of its branches, a training loss ended above its start, or
    the score is not better than one class everywhere. About 'rate': the tuned learning rate is at the edge of its
    candidates. About 'published': the published figure is of another mode.
    """
    run = [row for row in rows if row["status"] == "ok" and row["mean_iou"] is not None]
    if not run:
        return
    for key in run[0]:
        kind, _, name = key.partition(":")
        known = [row for row in run if row.get(key) is not None]
        if known and (kind == "branch" or key == "chance"):
            whole, part = (fmean(row[column] for row in known) for column in ("mean_iou", key))
            if key == "chance" and whole <= part:
                yield "mean_iou", f"scores {100 * whole:.1f} %; one class everywhere scores {100 * part:.1f} %"
            elif kind == "branch" and whole < part:
                below, seeds = sum(row["mean_iou"] < row[key] for row in known), "s" * (len(known) > 1)
                text = f"scores {100 * whole:.1f} %, below its own {name} branch alone with {100 * part:.1f} %"
                yield "mean_iou", f"{text} (in {below} of {len(known)} seed{seeds})"
        elif kind == "trained" and name.endswith(":loss_end"):
            start = key.replace(":loss_end", ":loss_start")
            rose = [row for row in known if row.get(start) is not None and row[key] > row[start]]
            if rose:
                text = f"training loss of {name.removesuffix(':loss_end')} ended above its start"
                seeds = ", ".join(str(row["seed"]) for row in rose)
                yield "mean_iou", f"{text} ({rose[0][start]:.3g} to {rose[0][key]:.3g}; seed {seeds})"
    optimizer, rate = run[0].get("training:optimizer"), run[0].get("training:learning_rate")
    own = run[0].get("model:recipe") == "author"  # was not chosen by the suite
    if not own and optimizer is not None and isinstance(rate, (int, float)) and at_edge(optimizer, rate):
        tried = ", ".join(choice for choice in GRID if choice.split()[0] == optimizer) or "none"
        at = f"{optimizer} {rate:g} is at the edge of its candidates ({tried})"
        yield "rate", f"{at}, so a better one may be outside them"
    for key, theirs in PUBLISHED_MODES.get(run[0]["method"], {}).items():
        mine = run[0].get(f"model:{key}")
        if mine not in (None, theirs):
            yield "published", f"the published figure is of {key} '{theirs}', this row of '{mine}'"


def titles(rows: Iterable[Row]) -> str:
    """Display names of the rows' benchmarks."""
    return ", ".join(dict.fromkeys(get_benchmark(row["benchmark"]).title for row in rows))


def landscapes(rows: Iterable[Row]) -> bool:
    """Whether any row is of synthetic landscapes, for which `NOTE` holds; the probe is made differently."""
    return any(invented(row) and not get_benchmark(row["benchmark"]).discs for row in rows)


def notices(
    rows: Sequence[Row], name: Callable[[Row], str] = lambda row: f"{row['method']} on {row['benchmark']}"
) -> list[tuple[str, str]]:
    """Warnings that must be read before any number, as (title, sentence); `name` is that of a row's network."""
    done, found = [row for row in rows if row.get("status", "ok") == "ok"], []
    drawn = [row for row in done if invented(row)]
    if drawn:
        what = "The images behind this report" if drawn == done else f"Images of {titles(drawn)}"
        sentence = f"{what} are procedural scenes; the numbers say nothing about the real benchmarks."
        found.append(("Synthetic scenes.", f"{sentence} {NOTE}" if drawn == done and landscapes(drawn) else sentence))
    random = [row for row in done if str(row.get("segmenter:weights")).startswith("random")]
    if random:
        who = "All networks" if random == done else f"Networks of {', '.join(dict.fromkeys(map(name, random)))}"
        found.append(("Random weights.", f"{who} started training from random weights, not from ImageNet."))
    counts = Counter(str(row["status"]) for row in rows if row.get("status", "ok") != "ok")
    if counts:
        many = ", ".join(f"{count} {status}" for status, count in counts.items())
        sentence = f"{counts.total()} of {len(rows)} declared runs have no current result ({many})."
        found.append(("Incomplete.", sentence))
    return found


def curve(results: Path, row: Row) -> pd.DataFrame:
    """A run's training history; empty if the file is missing."""
    path = results / "runs" / row["benchmark"] / row["method"] / str(row["seed"]) / "history.csv"
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()


def read_matrices(results: Path, row: Row) -> tuple[list[str], Counts] | None:
    """Ids of the test images and their (images, K, K) confusion matrices; None if the file is missing.

    Raises:
        UserError: the file is damaged.
    """
    path = results / "metrics" / row["benchmark"] / row["method"] / str(row["seed"]) / "confusion.npz"
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
            ids, matrices = [str(name) for name in found["ids"]], found["matrices"].astype(np.int64)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise damaged(path, "is damaged") from error
    classes = len(get_benchmark(row["benchmark"]).classes)
    if matrices.shape != (len(ids), classes, classes):
        raise damaged(path, f"does not hold one {classes} x {classes} matrix per image")
    return ids, matrices


class Part:
    """A benchmark's part of the report, with the comparison of its methods.

    Attributes:
        synthetic, real: whether there are results (`done`), all on synthetic scenes, or all on real images.
        source: source of the memory at real size; None if there is none, or several, which are not comparable.
        ranked: lines in the ranking: those with a score and the common recipe.
        at_edge: whether every ranked method has an extreme learning rate, so that this is said once.
        pairs: paired differences of all methods that were scored on the same images; `p_values` are Holm's.
        places: best and worst rank that the comparisons allow, for methods with at least two seeds.
        singles: methods with one seed where others have several: not part of the frontier.
        dominated: method -> display names of methods that are significantly better with at most its memory.
        published: published rows of this benchmark.
        hollow: those with score and memory, for figures, and only beside scores on the real test images.
        notes, sizes, runs, folds, n: warnings, sizes of images, splits and numbers of images, folds, most seeds.
        profiled: a row with the size of the profiled image.
        detectable: median over pairs with several seeds, in points.
    """

    def __init__(self, lines: Sequence[Line], results: Path, reference: str) -> None:
        """Compare the methods of `lines`; `reference` is the one to which differences are shown."""
        self.lines, self.reference, self.name = lines, reference, lines[0].benchmark
        self.spec = get_benchmark(self.name)
        self.done = [row for line in lines for row in line.done]
        self.synthetic = bool(self.done) and all(map(invented, self.done))
        self.real = bool(self.done) and not any(map(invented, self.done))
        sources = {line.memory.source for line in lines if line.memory}
        self.source = sources.pop() if len(sources) == 1 else None
        scored = [line for line in lines if line.score is not None]
        self.ranked = [line for line in scored if line["model:recipe"] in (None, "suite")]
        self.at_edge = bool(self.ranked) and all(line.of("rate") for line in self.ranked)
        matrices, ids = dict[str, dict[int, Counts]](), list[str]()
        for line, row in ((one, row) for one in self.ranked for row in one.done):
            read = read_matrices(results, row)
            if read is not None and (not ids or ids == read[0]):  # the same images as the first
                ids = read[0]
                matrices.setdefault(line.method, {})[row["seed"]] = read[1]
        self.pairs = differences(matrices, self.spec.scored)
        self.p_values = corrected(self.pairs)
        self.places = ranks([line.method for line in self.ranked if line.mean_iou.n > 1], self.pairs, self.p_values)
        memory, self.dominated = {line.method: line.memory.mib for line in lines if line.memory}, defaultdict(list)
        for one, other in better(self.pairs, self.p_values):
            if one in memory and other in memory and memory[one] <= memory[other]:
                self.dominated[other].append(title_of(one))
        self.published = [row for row in published() if row.benchmark == self.name]
        tested = {row["split"] for row in self.done} == {"test"} and not self.synthetic
        self.hollow = [row for row in self.published if tested and row.miou and row.memory]
        warnings = [text for row in self.done for text in str(row["warnings"] or "").split(SEPARATOR) if text]
        self.notes = list(dict.fromkeys([*warnings, *self.spec.notes]))
        self.sizes = list(dict.fromkeys(str(row["image_sizes"]) for row in self.done))
        runs = dict.fromkeys(tuple(row[key] for key in _SCORED) for row in self.done)
        self.runs = [dict(zip(_SCORED, run, strict=True)) for run in runs]
        self.profiled = next((line.first for line in lines if line["height"] is not None), None)
        power = [pair.detectable for pair in list(self.pairs.values())[::2] if pair.seeds > 1]
        self.detectable = 100 * median(power) if power else None
        folds = [sum(key.startswith("fold:") and row[key] is not None for key in row) for row in self.done]
        self.folds, self.n = max(folds, default=0), max((line.mean_iou.n for line in lines), default=0)
        seeds = {line.method: line.mean_iou.n for line in scored if line.memory}
        self.singles = {method for method, n in seeds.items() if n < 2 <= max(seeds.values())}
