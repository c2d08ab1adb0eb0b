"""Everything the report consists of, in one pass over the result files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from scpseg.benchmarks import get_benchmark
from scpseg.errors import UserError
from scpseg.files import write_json, write_text
from scpseg.params import SuiteParams
from scpseg.reporting.collect import States, collect
from scpseg.reporting.examples import draw_examples
from scpseg.reporting.figures import draw_tradeoff
from scpseg.reporting.page import render
from scpseg.reporting.probe import curves, read_answers
from scpseg.reporting.probe_figure import draw_probe
from scpseg.reporting.probe_page import section
from scpseg.reporting.published import title_of
from scpseg.reporting.reference import reference_section
from scpseg.reporting.summary import Line, summarise
from scpseg.reporting.timelines import draw_timelines, read_traces
from scpseg.reporting.timelines import section as timeline_section


def build_report(
    results: Path, reports: Path, suite: SuiteParams, available: bool, states: States | None = None
) -> list[str]:
    """Write summary.csv and summary.json into `results`, README.md, figures/ and examples/ into `reports`.

    Returns what is missing, a sentence for runs and one for profiles.

    Raises:
        UserError: as `collect`; a reference table is damaged; nothing at all is there, so that a report of nothing
            would take the place of an earlier one. Then nothing was written or deleted.
    """
    frame = collect(results, suite, available, states)
    if not (frame["status"].eq("ok") | frame["profile_status"].isin(("ok", "oom"))).any():
        raise UserError(
            f"{results} holds neither scores nor profile of any declared run, so the report stays as it is; run "
            "`dvc repro` first"
        )
    lines = summarise(frame)
    reference = reference_section(results / "reference")
    write_text(results / "summary.csv", frame.to_csv(index=False, lineterminator="\n"))
    write_json(results / "summary.json", metrics_file(lines))
    drawn: set[Path] = set()
    figures = _figures(frame, lines, reports, drawn)
    examples = _examples(results, frame, reports, drawn)
    probe = _probe(results, frame, lines, reports, drawn)
    timelines = _timelines(results, frame, lines, reports, drawn)
    page = render(frame, lines, figures, examples, reference, probe, timelines)
    write_text(reports / "README.md", page)
    for folder in (reports / "figures", reports / "examples"):
        # Pictures of benchmarks that have left the suite would pass for current ones.
        for old in {*folder.glob("*.png"), *folder.glob("*.svg")} - drawn:
            old.unlink()
    return missing(frame)


def missing(frame: pd.DataFrame) -> list[str]:
    """How many of the declared runs have no scores and how many workloads no memory, with the reasons."""
    profiles = frame.drop_duplicates(["benchmark", "method"])
    parts = (
        ("runs", frame, frame["status"].ne("ok"), "reason"),
        ("profiles", profiles, profiles["profile_status"].ne("ok"), "profile_reason"),
    )
    found = []
    for what, rows, gone, reason in parts:
        counts = Counter(str(text) for text in rows.loc[gone, reason])
        if counts:
            why = "; ".join(f"{many} × {text}" for text, many in counts.items())
            found.append(f"{gone.sum()} of {len(rows)} {what} without a result: {why}")
    return found


def metrics_file(lines: list[Line]) -> dict[str, dict[str, dict[str, float | None]]]:
    """What `dvc exp show` compares: mean over seeds of the mean IoU (share 0..1), headline memory in MiB."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for line in lines:
        miou = None if line.mean_iou.mean is None else round(line.mean_iou.mean, 4)
        memory = None if line.memory is None else round(line.memory, 1)
        found.setdefault(line.benchmark, {})[line.method] = {"miou": miou, "memory_mib": memory}
    return found


def _figures(frame: pd.DataFrame, lines: list[Line], reports: Path, drawn: set[Path]) -> dict[str, str]:
    """Draw one figure per benchmark and one of all; name -> path as seen from the page, without its ending."""
    figures = {}
    benchmarks = list(dict.fromkeys(line.benchmark for line in lines))
    synthetic = {name: _synthetic(frame, name) for name in benchmarks}
    for name in [*benchmarks, "overview"]:
        mine = [line for line in lines if name in (line.benchmark, "overview")]
        paths = draw_tradeoff(mine, synthetic, reports / "figures", name)
        if paths:
            drawn.update(paths)
            figures[name] = f"figures/{name}"
    return figures


def _examples(results: Path, frame: pd.DataFrame, reports: Path, drawn: set[Path]) -> dict[str, tuple[str, str]]:
    """Draw labels side by side; benchmark -> (path as seen from the page, caption)."""
    examples = {}
    for name, rows in frame.groupby("benchmark", sort=False):
        benchmark = str(name)
        pictures: dict[str, Path] = {}
        seeds: dict[str, Any] = {}
        for method, mine in rows.groupby("method", sort=False):
            run = mine.loc[mine["status"] == "ok", "seed"]
            seed = run.iloc[0] if len(run) else mine["seed"].iloc[0]
            pictures[str(method)] = results / "metrics" / benchmark / str(method) / str(seed) / "pictures"
            if len(run):
                seeds[title_of(str(method))] = seed
        invented = _synthetic(frame, benchmark)
        place = f"figures/{benchmark}-examples.png" if invented else f"examples/{benchmark}.png"
        ids = draw_examples(pictures, get_benchmark(benchmark), reports / place)
        if not ids:
            continue
        drawn.add(reports / place)
        used = sorted(set(seeds.values()))
        caption = f"Image{'s' if len(ids) > 1 else ''} {', '.join(ids)}; seed {', '.join(map(str, used))}."
        if not invented:
            caption += (
                " This picture is not part of the repository, since the benchmark's terms forbid passing its images "
                "on; `make report` draws it from your own copy."
            )
        examples[benchmark] = (place, caption)
    return examples


def _probe(results: Path, frame: pd.DataFrame, lines: list[Line], reports: Path, drawn: set[Path]) -> str:
    """The page's part about the probe with its picture drawn; empty where no run of it is finished."""
    answers = read_answers(results, frame)
    found = curves(answers, frame, lines)
    if not found:
        return ""
    drawn.update(draw_probe(found, answers, results, reports / "figures"))
    return section(found, answers["image"].nunique(), "figures/probe-distance")


def _timelines(results: Path, frame: pd.DataFrame, lines: list[Line], reports: Path, drawn: set[Path]) -> str:
    """The page's part about memory over time with its picture drawn; empty where nothing was sampled."""
    traces = read_traces(results, frame)
    paths = draw_timelines(traces, list(dict.fromkeys(line.method for line in lines)), reports / "figures")
    drawn.update(paths)
    return timeline_section(traces, "figures/timelines") if paths else ""


def _synthetic(frame: pd.DataFrame, benchmark: str) -> bool:
    """Whether all runs of a benchmark used procedural scenes."""
    found = frame.loc[(frame["benchmark"] == benchmark) & (frame["status"] == "ok"), "synthetic"]
    return len(found) > 0 and bool(found.astype(bool).all())
