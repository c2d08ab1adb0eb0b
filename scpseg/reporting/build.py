"""Build all parts of the report in one pass over the result files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scpseg.benchmarks import get_benchmark
from scpseg.benchmarks.base import NOTE
from scpseg.errors import UserError
from scpseg.files import write_json, write_text
from scpseg.params import SuiteParams
from scpseg.profiling.records import PROFILE
from scpseg.reporting import views
from scpseg.reporting.collect import States, collect, read_result
from scpseg.reporting.computed import computed_table, draw_computed, read_computed
from scpseg.reporting.contributed import contributed_table
from scpseg.reporting.figures import Drawn, draw_curves, draw_pareto, draw_parts, draw_timelines
from scpseg.reporting.memory import read_peaks
from scpseg.reporting.pictures import album, draw_examples, examples
from scpseg.reporting.probe import PROBE, probe_part
from scpseg.reporting.published import PAPER
from scpseg.reporting.reference import reference_tables
from scpseg.reporting.summary import Line, records, summarise
from scpseg.reporting.sweeps import finished_sweeps
from scpseg.reporting.tables import Table, csv_text, latex, render
from scpseg.reporting.views import Part

BASE = "patch"
"""Default reference of differences, if the suite has it."""
PICTURE_BUDGET = 1_600_000
"""Maximum bytes of pictures in the page."""


def build_report(
    results: Path,
    reports: Path,
    suite: SuiteParams,
    available: bool,
    states: States | None = None,
    reference: str = BASE,
    public: bool = False,
) -> list[str]:
    """Write summary.csv and summary.json into `results`; index.html, README.md, tables/ and figures/ into `reports`.

    Args:
        results: folder of the result files.
        reports: folder of the report.
        suite: the declared runs.
        available: use the results that exist; otherwise a missing file is an error.
        states: states of runs that are not current.
        reference: method to which differences are computed; if it is not in the suite, the first method.
        public: omit pictures of real images, which the terms of the benchmarks do not allow to redistribute.

    Returns what is missing, as one sentence for runs and one for profiles.

    Raises:
        UserError: see `collect`; a reference table is damaged; or no result exists, so that an empty report would
            replace an earlier one. In this case nothing is written or deleted.
    """
    frame = collect(results, suite, available, states)
    if not (frame["status"].eq("ok") | frame["profile_status"].isin(("ok", "oom"))).any():
        raise UserError(
            f"{results} has neither scores nor profile of any declared run, so the report stays as it is; run "
            "`dvc repro` first"
        )
    lines = summarise(frame, *read_peaks(results))
    base = reference if reference in {line.method for line in lines} else lines[0].method
    benchmarks = list(dict.fromkeys(line.benchmark for line in lines))
    parts = [Part([line for line in lines if line.benchmark == name], results, base) for name in benchmarks]
    parts.sort(key=lambda part: not part.real)  # what was scored on real images comes first
    methods = list(dict.fromkeys(line.method for line in lines))
    context = _context(frame, lines, parts, methods, results, reports / "figures", public)
    context["sweeps"] = finished_sweeps(reports / "sweeps")
    page, readme = render("index.html.j2", **context), render("README.md.j2", **context)
    write_text(results / "summary.csv", frame.to_csv(index=False, lineterminator="\n"))
    write_json(results / "summary.json", metrics_file(lines))
    write_text(reports / "index.html", page)
    write_text(reports / "README.md", readme)
    written = {path for drawn in _drawn(context) for path in drawn.files} | _write_tables(context, reports / "tables")
    for folder in (reports / "figures", reports / "tables"):
        # Files of methods and benchmarks that are no longer in the suite would look current.
        for old in set(folder.glob("*.*")) - written:
            old.unlink()
    return missing(frame)


def _context(
    frame: pd.DataFrame,
    lines: Sequence[Line],
    parts: Sequence[Part],
    methods: Sequence[str],
    results: Path,
    folder: Path,
    public: bool,
) -> dict[str, Any]:
    """Variables of the templates; also writes the figures."""
    shown = [part for part in parts if part.synthetic or not public]
    chosen = {part.name: [(line, examples(line, results)) for line in part.lines] for part in shown}
    specs = {part.name: part.spec for part in parts}
    made, pictures = album(chosen, specs, PICTURE_BUDGET)
    rows = records(frame)
    common = views.common_settings(rows)
    benchmarks = []
    for part in parts:
        name = part.name
        benchmarks.append(
            {
                "name": name,
                "spec": part.spec,
                "facts": views.facts(part),
                "synthetic": part.synthetic,
                "hollow": part.hollow,
                "outside": any(not cls.scored for cls in part.spec.classes),
                "main": views.main_table(part),
                "pairs": views.pair_table(part),
                "classes": views.class_table(part),
                "networks": views.network_table(part),
                "published": views.published_table(part),
                "settings": views.settings_table(part, common),
                "pareto": draw_pareto([(part.lines, part.hollow)], methods, folder / name),
                "curves": draw_curves(part.lines, results, methods, folder / f"{name}-training"),
                "parts": draw_parts(part.lines, folder / f"{name}-memory"),
                "pictures": pictures.get(name),
                "examples": draw_examples(chosen.get(name, []), part.spec, folder / f"{name}-examples"),
                "probe": probe_part(results, frame, part.lines, methods, folder) if name == PROBE else None,
            }
        )
    several = [(part.lines, part.hollow) for part in parts]
    computed = read_computed(results)
    return {
        "benchmarks": benchmarks,
        "album": made.found,
        "notices": notices(rows),
        "overview": views.overview_table(parts),
        "headline": draw_pareto(several, methods, folder / "overview") if len(parts) > 1 else benchmarks[0]["pareto"],
        "timelines": draw_timelines(_profiles(lines, results), methods, folder / "timelines"),
        "reference": reference_tables(results / "reference"),
        "computed": None if computed is None else computed_table(computed),
        "computed_figure": None if computed is None else draw_computed(computed, folder / "memory-sweeps"),
        "contributed": contributed_table(results / "contributed"),
        "unverified": unverified(parts, rows),
        "common": [(views.plain(key), value) for key, value in common.items()],
        "environments": views.environments(rows),
        "specs": list(specs.values()),
        "paper": PAPER,
        "runs": views.command_table(lines),
    }


def _drawn(context: Any) -> list[Drawn]:
    """All figures in the context, at any depth."""
    if isinstance(context, Drawn):
        return [context]
    inside = context.values() if isinstance(context, dict) else context if isinstance(context, (list, tuple)) else ()
    return [drawn for one in inside for drawn in _drawn(one)]


def _write_tables(context: dict[str, Any], folder: Path) -> set[Path]:
    """Write every table as CSV, and tables of results also as LaTeX; return the files."""
    found = [context["overview"], context["runs"], *(context["reference"] or ())]
    found += [table for part in context["benchmarks"] for table in part.values() if isinstance(table, Table)]
    found += [table for part in context["benchmarks"] if part["probe"] for table in part["probe"]["tables"]]
    found += [context[name] for name in ("contributed", "computed") if context[name]]
    files = set()
    for table in found:
        if table.rows:
            for path, content in (
                (folder / f"{table.name}.csv", csv_text(table)),
                (folder / f"{table.name}.tex", latex(table)),
            ):
                write_text(path, content)
                files.add(path)
    return files


def _profiles(lines: Sequence[Line], results: Path) -> list[tuple[Line, dict[str, Any]]]:
    """Lines with the record of their profile, if it succeeded."""
    found = []
    for line in lines:
        if line.first["profile_status"] == "ok":
            path = results / "profile" / line.benchmark / f"{line.method}.json"
            record = read_result(path, PROFILE, {"benchmark": line.benchmark, "method": line.method}, True)
            if record is not None:
                found.append((line, record))
    return found


def notices(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Warnings that must be read before any number, as (title, sentence)."""
    done = [row for row in rows if row["status"] == "ok"]
    found = []
    invented = [row for row in done if row["synthetic"] in (True, "True")]
    if invented:
        names = ", ".join(dict.fromkeys(get_benchmark(row["benchmark"]).title for row in invented))
        whole = len(invented) == len(done)
        what = "The images behind this report" if whole else f"Images of {names}"
        sentence = f"{what} are procedural scenes; the numbers say nothing about the real benchmarks."
        if whole and _landscapes(invented):
            sentence += f" {NOTE}"
        found.append(("Synthetic scenes.", sentence))
    random = [row for row in done if str(row.get("segmenter:weights")).startswith("random")]
    if random:
        who = ", ".join(dict.fromkeys(f"{row['method']} on {row['benchmark']}" for row in random))
        who = "All networks" if len(random) == len(done) else f"Networks of {who}"
        found.append(("Random weights.", f"{who} started training from random weights, not from ImageNet."))
    gone = [row for row in rows if row["status"] != "ok"]
    if gone:
        many = ", ".join(f"{count} {status}" for status, count in Counter(str(row["status"]) for row in gone).items())
        found.append(("Incomplete.", f"{len(gone)} of {len(rows)} declared runs have no current result ({many})."))
    return found


def _landscapes(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether any row is of synthetic landscapes, for which `NOTE` holds; the probe is made differently."""
    return not all(get_benchmark(row["benchmark"]).discs for row in rows)


def unverified(parts: Sequence[Part], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Limitations of this report, as sentences."""
    found = []
    if not any(part.source == "nvml" for part in parts):
        found.append("No memory figure at real size was measured on an NVIDIA GPU.")
    if any(part.source == "computed" for part in parts):
        found.append("Computed memory leaves out the CUDA context, cuDNN workspaces and fragmentation.")
    few = [part.spec.title for part in parts if max((line.mean_iou.n for line in part.lines), default=0) < 2]
    if few:
        found.append(f"One seed per method on {', '.join(few)}: no difference there is a statement about methods.")
    partial = [row for row in rows if row["status"] == "ok" and row["images"] != row["images_of"]]
    if partial:
        names = ", ".join(dict.fromkeys(get_benchmark(row["benchmark"]).title for row in partial))
        found.append(f"Not all images of the split were scored on {names}.")
    unpaired = [part.spec.title for part in parts if len(part.ranked) > 1 and not part.pairs]
    if unpaired:
        found.append(f"No paired comparison on {', '.join(unpaired)}: matrices of the same single images are missing.")
    invented = [row for row in rows if row["status"] == "ok" and row["synthetic"] in (True, "True")]
    if any(part.real for part in parts) and _landscapes(invented):
        found.append(NOTE)
    if any(part.hollow for part in parts):
        found.append("Published figures are as printed; nobody measured them again here.")
    return found


def missing(frame: pd.DataFrame) -> list[str]:
    """Number of declared runs without scores and of workloads without memory, with the reasons."""
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


def metrics_file(lines: Sequence[Line]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Values that `dvc exp show` compares: mean IoU (share 0..1, mean over seeds), memory at real size in MiB."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for line in lines:
        miou = None if line.mean_iou.mean is None else round(line.mean_iou.mean, 4)
        memory = line.memory.mib if line.memory else line.first["memory_mib"]
        memory = None if memory is None else round(memory, 1)
        found.setdefault(line.benchmark, {})[line.method] = {"miou": miou, "memory_mib": memory}
    return found
