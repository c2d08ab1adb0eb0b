"""Build all parts of the report in one pass over the result files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scpseg.benchmarks import get_benchmark
from scpseg.benchmarks.base import NOTE
from scpseg.errors import UserError
from scpseg.files import write_json, write_text
from scpseg.params import SuiteParams
from scpseg.profiling.records import PROFILE
from scpseg.reporting import BASE, charts, figures, report_tables, tables
from scpseg.reporting.collect import FAMILIES, FIRST, LAST, SCHEMA, States, collect, read_result
from scpseg.reporting.contributed import contributed_table
from scpseg.reporting.memory import read_computed, read_peaks
from scpseg.reporting.pictures import album, draw_examples, examples
from scpseg.reporting.probe import PROBE, probe_part
from scpseg.reporting.published import PAPER
from scpseg.reporting.summary import Line, Part, Row, invented, read_remarks, records, summarise
from scpseg.reporting.sweeps import finished_sweeps

PICTURE_BUDGET = 1_600_000
"""Maximum bytes of pictures in the page."""


def columns_page() -> str:
    """The page that describes the columns of results/summary.csv, in Markdown."""
    return tables.render("columns.md.j2", schema=SCHEMA, fixed=FIRST | LAST, families=FAMILIES)


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

    With `available`, the results that exist are used; otherwise a missing file is an error. `states` are those of runs
    that are not current. Differences are to `reference`, or to the first method if the suite does not have it. `public`
    omits pictures of real images that the terms of the benchmark do not allow to redistribute. Remarks on scores come
    from remarks.csv in `reports`, if it exists.

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
    lines = summarise(frame, *read_peaks(results), read_remarks(reports / "remarks.csv"))
    base = reference if reference in {line.method for line in lines} else lines[0].method
    benchmarks = dict.fromkeys(line.benchmark for line in lines)
    parts = [Part([line for line in lines if line.benchmark == name], results, base) for name in benchmarks]
    parts.sort(key=lambda part: not part.real)  # what was scored on real images comes first
    context = _context(frame, lines, parts, results, reports / "figures", public)
    made = [table for table in _found(context, tables.Table) if table.rows]
    context["sweeps"] = finished_sweeps(reports / "sweeps")
    page, readme = tables.render("index.html.j2", **context), tables.render("README.md.j2", **context)
    write_text(results / "summary.csv", frame.to_csv(index=False, lineterminator="\n"))
    write_json(results / "summary.json", metrics_file(lines))
    write_text(reports / "index.html", page)
    write_text(reports / "README.md", readme)
    written = {path for drawn in _found(context, figures.Drawn) for path in drawn.files}
    for table in made:
        for ending, content in ((".csv", tables.csv_text(table)), (".tex", tables.latex(table))):
            path = reports / "tables" / f"{table.name}{ending}"
            write_text(path, content)
            written.add(path)
    for folder in (reports / "figures", reports / "tables"):
        # Files of methods and benchmarks that are no longer in the suite would look current.
        for old in set(folder.glob("*.*")) - written:
            old.unlink()
    return missing(frame)


def _found(context: Any, kind: type) -> list[Any]:
    """All values of a type in the context, at any depth."""
    if isinstance(context, kind):
        return [context]
    inside = context.values() if isinstance(context, dict) else context if isinstance(context, (list, tuple)) else ()
    return [found for one in inside for found in _found(one, kind)]


def _context(
    frame: pd.DataFrame, lines: Sequence[Line], parts: Sequence[Part], results: Path, folder: Path, public: bool
) -> dict[str, Any]:
    """Variables of the templates; also writes the figures."""
    methods = list(dict.fromkeys(line.method for line in lines))
    shown = [part for part in parts if part.synthetic or not public or part.spec.public_domain]
    chosen = {part.name: [(line, examples(line, results)) for line in part.lines] for part in shown}
    specs = {part.name: part.spec for part in parts}
    addresses, pictures = album(chosen, specs, PICTURE_BUDGET)
    rows, computed = records(frame), read_computed(results)
    common = report_tables.common_settings(rows)
    benchmarks = [
        {
            "part": part,
            "main": report_tables.main_table(part),
            "pairs": report_tables.pair_table(part),
            "classes": report_tables.class_table(part),
            "folds": report_tables.fold_table(part),
            "branches": report_tables.branch_table(part),
            "networks": report_tables.network_table(part),
            "published": report_tables.published_table(part),
            "settings": report_tables.settings_table(part, common),
            "pareto": charts.draw_pareto([(part.lines, part.hollow)], methods, folder / part.name),
            "curves": charts.draw_curves(part.lines, results, methods, folder / f"{part.name}-training"),
            "parts": charts.draw_parts(part.lines, folder / f"{part.name}-memory"),
            "pictures": pictures.get(part.name),
            "examples": draw_examples(chosen.get(part.name, []), part.spec, folder / f"{part.name}-examples"),
            "probe": probe_part(results, frame, part.lines, methods, folder) if part.name == PROBE else None,
        }
        for part in parts
    ]
    several = [(part.lines, part.hollow) for part in parts]
    whole = charts.draw_pareto(several, methods, folder / "overview") if len(parts) > 1 else benchmarks[0]["pareto"]
    return {
        "benchmarks": benchmarks,
        "album": addresses,
        "notices": notices(rows),
        "overview": report_tables.overview_table(parts),
        "headline": whole,
        "timelines": charts.draw_timelines(_profiles(lines, results), methods, folder / "timelines"),
        "reference": report_tables.reference_tables(results / "reference"),
        "computed": None if computed is None else report_tables.computed_table(computed),
        "computed_figure": None if computed is None else charts.draw_computed(computed, folder / "memory-sweeps"),
        "bench": report_tables.bench_table(results / "bench.csv"),
        "contributed": contributed_table(results / "contributed"),
        "unverified": unverified(parts, rows),
        "common": [(report_tables.plain(key), value) for key, value in common.items()],
        "environments": report_tables.environments(rows),
        "specs": list(specs.values()),
        "paper": PAPER,
        "runs": report_tables.command_table([row for line in lines for row in line.rows]),
    }


def _profiles(lines: Sequence[Line], results: Path) -> list[tuple[Line, dict[str, Any]]]:
    """Lines with the record of their profile, if it succeeded."""
    found = []
    for line in (line for line in lines if line["profile_status"] == "ok"):
        path = results / "profile" / line.benchmark / f"{line.method}.json"
        record = read_result(path, PROFILE, {"benchmark": line.benchmark, "method": line.method}, True)
        found += [] if record is None else [(line, record)]
    return found


def _titles(rows: Iterable[Row]) -> str:
    return ", ".join(dict.fromkeys(get_benchmark(row["benchmark"]).title for row in rows))


def notices(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Warnings that must be read before any number, as (title, sentence)."""
    done, found = [row for row in rows if row["status"] == "ok"], []
    drawn = [row for row in done if invented(row)]
    if drawn:
        what = "The images behind this report" if drawn == done else f"Images of {_titles(drawn)}"
        sentence = f"{what} are procedural scenes; the numbers say nothing about the real benchmarks."
        found.append(("Synthetic scenes.", f"{sentence} {NOTE}" if drawn == done and _landscapes(drawn) else sentence))
    random = [row for row in done if str(row.get("segmenter:weights")).startswith("random")]
    if random:
        who = ", ".join(dict.fromkeys(f"{row['method']} on {row['benchmark']}" for row in random))
        who = "All networks" if random == done else f"Networks of {who}"
        found.append(("Random weights.", f"{who} started training from random weights, not from ImageNet."))
    counts = Counter(str(row["status"]) for row in rows if row["status"] != "ok")
    if counts:
        many = ", ".join(f"{count} {status}" for status, count in counts.items())
        sentence = f"{counts.total()} of {len(rows)} declared runs have no current result ({many})."
        found.append(("Incomplete.", sentence))
    return found


def _landscapes(rows: Sequence[Row]) -> bool:
    """Whether any row is of synthetic landscapes, for which `NOTE` holds; the probe is made differently."""
    return not all(get_benchmark(row["benchmark"]).discs for row in rows)


def unverified(parts: Sequence[Part], rows: Sequence[Row]) -> list[str]:
    """Limitations of this report, as sentences."""
    sources, done = {part.source for part in parts}, [row for row in rows if row["status"] == "ok"]
    few = [part.spec.title for part in parts if max((line.mean_iou.n for line in part.lines), default=0) < 2]
    partial = _titles(row for row in done if row["images"] != row["images_of"])
    unpaired = [part.spec.title for part in parts if len(part.ranked) > 1 and not part.pairs]
    found = {
        "The memory on the axis is computed, not measured on a GPU.": "nvml" not in sources,
        "Computed memory leaves out the CUDA context, cuDNN workspaces and fragmentation.": "computed" in sources,
        f"One seed per method on {', '.join(few)}: differences there are not conclusions about methods.": few,
        f"Not all images of the split were scored on {partial}.": partial,
        f"No paired comparison on {', '.join(unpaired)}: matrices of the same single images are missing.": unpaired,
        NOTE: any(part.real for part in parts) and _landscapes([row for row in done if invented(row)]),
        "Published figures are as printed; they were not measured again here.": any(part.hollow for part in parts),
    }
    return [sentence for sentence, holds in found.items() if holds]


def missing(frame: pd.DataFrame) -> list[str]:
    """Number of declared runs without scores and of workloads without memory, with the reasons."""
    profiles, found = frame.drop_duplicates(["benchmark", "method"]), []
    for what, rows, prefix in (("runs", frame, ""), ("profiles", profiles, "profile_")):
        gone = rows[rows[f"{prefix}status"].ne("ok")]
        if len(gone):
            counts = Counter(map(str, gone[f"{prefix}reason"]))
            why = "; ".join(f"{many} × {text}" for text, many in counts.items())
            found.append(f"{len(gone)} of {len(rows)} {what} without a result: {why}")
    return found


def metrics_file(lines: Sequence[Line]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Values that `dvc exp show` compares: mean IoU (share 0..1, mean over seeds), memory at real size in MiB."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for line in lines:
        memory = line.memory.mib if line.memory else line["memory_mib"]
        values = {"miou": line.score and round(line.score, 4), "memory_mib": memory and round(memory, 1)}
        found.setdefault(line.benchmark, {})[line.method] = values
    return found
