"""Build all parts of the report in one pass over the result files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from scpseg.benchmarks.base import NOTE
from scpseg.errors import UserError
from scpseg.files import write_json, write_text
from scpseg.params import SuiteParams
from scpseg.reporting import BASE, MEMORY, charts, pages, report_tables, summary, tables
from scpseg.reporting.collect import FAMILIES, SCHEMA, States, collect
from scpseg.reporting.contributed import contributed_table
from scpseg.reporting.figures import Drawn
from scpseg.reporting.memory import read_computed, read_peaks
from scpseg.reporting.pages import Block, Gallery, Markup, Section, texts
from scpseg.reporting.pictures import album, draw_examples, examples
from scpseg.reporting.probe_section import PROBE, probe_section
from scpseg.reporting.published import PAPER, read_table
from scpseg.reporting.summary import Line, Part, Row, landscapes, titles
from scpseg.reporting.sweeps import finished_sweeps
from scpseg.reporting.tables import Table
from scpseg.tuning import GRID

PICTURE_BUDGET = 1_600_000
"""Maximum bytes of pictures in the page."""


def columns_page() -> str:
    """The page that describes the columns of results/summary.csv, in Markdown."""
    rows = read_table("columns.csv")
    fixed, families = (tables.made("columns", [row for row in rows if (row["name"] in FAMILIES) == some])
                       for some in (False, True))  # fmt: skip
    groups = Section("Groups of columns, named by what follows the colon", [families])
    page = Section("Columns of results/summary.csv", [Markup(texts().columns(SCHEMA)), fixed, groups])
    return pages.markdown(page, Path())


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
        UserError: see `collect`; a reference table is damaged; `reference` is not in the suite; or no result exists, so
            that an empty report would replace an earlier one. In these cases nothing is written or deleted.
    """
    if reference not in ("scpseg", *suite.baselines, BASE):
        known = ", ".join(("scpseg", *suite.baselines))
        raise UserError(f"--reference {reference}: not in this suite; choose one of {known}")
    frame = collect(results, suite, available, states)
    if not (frame["status"].eq("ok") | frame["profile_status"].isin(("ok", "oom"))).any():
        why = f"{results} has neither scores nor profile of any declared run"
        raise UserError(f"{why}, so the report stays as it is; run `dvc repro` first")
    _, problem = (states or {}).get(MEMORY, ("", None))
    lines = summary.summarise(frame, *read_peaks(results, problem), summary.read_remarks(reports / "remarks.csv"))
    base = reference if reference in {line.method for line in lines} else lines[0].method
    benchmarks = dict.fromkeys(line.benchmark for line in lines)
    parts = [Part([line for line in lines if line.benchmark == name], results, base) for name in benchmarks]
    parts.sort(key=lambda part: not part.real)  # what was scored on real images comes first
    sections, addresses = _sections(frame, lines, parts, results, reports, public)
    page = Section("Accuracy against peak memory", [texts().lead, Markup(texts().more), *sections])
    warnings = summary.notices(summary.records(frame))
    files = {reports / "index.html": pages.html(page, warnings, addresses)}
    files[reports / "README.md"] = pages.markdown(page, reports, warnings)
    for table in page.all(Table):
        files[reports / f"tables/{table.name}.csv"] = tables.csv_text(table)
        files[reports / f"tables/{table.name}.tex"] = tables.latex(table)
    write_text(results / "summary.csv", frame.to_csv(index=False, lineterminator="\n"))
    # What `dvc exp show` compares: mean IoU (share 0..1, mean over seeds), memory at real size in MiB.
    found = {part.name: {line.method: {"miou": line.score and round(line.score, 4),
                                       "memory_mib": line.peak and round(line.peak, 1)} for line in part.lines}
             for part in parts}  # fmt: skip
    write_json(results / "summary.json", found)
    for path, text in files.items():
        write_text(path, text)
    written = {*files, *(path for drawn in page.all(Drawn) for path in drawn.files)}
    for old in {*reports.glob("figures/*.*"), *reports.glob("tables/*.*")} - written:
        old.unlink()  # it shows a method or benchmark that has left the suite
    return missing(frame)


def _sections(
    frame: pd.DataFrame, lines: Sequence[Line], parts: Sequence[Part], results: Path, reports: Path, public: bool
) -> tuple[list[Section], dict[str, str]]:
    """All sections, and the addresses of pictures with their names; also writes the figures."""
    rows, folder, computed, said = summary.records(frame), reports / "figures", read_computed(results), texts()
    common, methods = report_tables.common_settings(rows), list(dict.fromkeys(line.method for line in lines))
    shown = [part for part in parts if part.synthetic or not public or part.spec.public_domain]
    chosen = {part.name: [(line, examples(line, results)) for line in part.lines] for part in shown}
    addresses, pictures = album(chosen, {part.name: part.spec for part in parts}, PICTURE_BUDGET)

    def section(part: Part) -> Section:
        name, spec, first = part.name, part.spec, "open" if part is parts[0] else "closed"
        found = report_tables.part_tables(part, common)
        pareto = charts.draw_pareto([part], methods, folder / name)
        curves = charts.draw_curves(part, results, methods, folder / f"{name}-training")
        gallery = Gallery({cls.name: cls.colour for cls in spec.classes}, pictures.get(name, []))
        left = [pareto, said.up([part]) if pareto else said.no_figure, said.hollow(part)]
        right = [found["main"], said.evidence(part, GRID)]
        folded = [
            Section("Paired differences of all methods", [found["pairs"]], "", "closed", True),
            Section("IoU of every class", [found["classes"], said.brackets(spec)], "", "open"),
            Section("Scores of branches", [found["branches"]], "", "closed"),
            Section("Scores of each fold", [found["folds"]], "", "closed"),
            Section(said.pictures, [said.strips(spec), gallery] if gallery.methods else [], "", first, True),
            Section("Training curves", [curves, said.curves] if curves else [], "", first, True),
            Section(said.parts, [charts.draw_parts(part, folder / f"{name}-memory")], "", first, True),
            Section("What is compared", [found["networks"], Section("", [found["settings"]], page=True)], "", "closed"),
            Section("Training of each branch", [found["training"]], "", "closed"),
            Section("Published figures", [found["published"]], "", "closed", True),
        ]
        beside = Section("", [Section("", left), Section("", right)], "", "beside")
        probe = probe_section(results, frame, part.lines, methods, folder) if name == PROBE else None
        example = draw_examples(chosen.get(name, []), spec, folder / f"{name}-examples")
        notes = [("", note) for note in part.notes]
        return Section(spec.title, [said.about(part), beside, notes, probe, example, *folded], name)

    whole = charts.draw_pareto(parts, methods, folder / "overview") if len(parts) > 1 else None
    overview = [whole, said.up(parts) if whole else "", report_tables.overview_table(parts)] if len(parts) > 1 else []
    timelines = charts.draw_timelines(lines, results, methods, folder / "timelines")
    memory: list[Block] = []
    if computed is not None:
        drawn = charts.draw_computed(computed, folder / "memory-sweeps")
        memory = [said.computed, report_tables.computed_table(computed), drawn]
    reference: list[Block] = [*report_tables.reference_tables(results / "reference")]
    bench, handed = report_tables.bench_table(results / "bench.csv"), contributed_table(results / "contributed")
    settings = ", ".join(f"{report_tables.plain(key)} {value}" for key, value in common.items())
    citations = [(f"{part.spec.title}:", f"{part.spec.citation} Terms: {part.spec.terms}") for part in parts]
    protocol: list[Block] = [
        [(f"{row['term']}:", row["meaning"]) for row in read_table("definitions.csv")],
        Section("What is not verified", [[("", sentence) for sentence in unverified(parts, rows)]]),
        Section("Settings of all runs", [settings]),
        Section("Environment", [report_tables.environments(rows)]),
        Section("Licences and citations", [[*citations, ("SCPSeg:", PAPER)]]),
    ]
    commands = report_tables.command_table([row for line in lines for row in line.rows])
    return [
        Section("All benchmarks", overview, "overview-all"),
        *map(section, parts),
        Section("Sweeps", finished_sweeps(reports / "sweeps"), "sweeps", page=True),
        Section("Memory over time", [timelines, said.timelines] if timelines else [], "time"),
        Section("Memory at the paper's sizes", memory, "computed-all"),
        Section("GPU reference measurements", reference or [Markup(said.no_gpu)], "reference-all"),
        Section("Speed of the suite", [said.bench, bench] if bench else [], "speed"),
        Section("Contributed results", [said.contributed, handed] if handed else [], "contributed-all"),
        Section("Definitions", protocol, "protocol"),
        Section("Runs and commands", [said.commands, commands], "runs-all", page=True),
    ], addresses


def unverified(parts: Sequence[Part], rows: Sequence[Row]) -> list[str]:
    """Limitations of this report, as sentences."""
    sources, done = {part.source for part in parts}, [row for row in rows if row["status"] == "ok"]
    few = [part.spec.title for part in parts if part.n < 2]
    partial = titles(row for row in done if row["images"] != row["images_of"])
    unpaired = [part.spec.title for part in parts if len(part.ranked) > 1 and not part.pairs]
    found = {
        "The memory on the axis is computed, not measured on a GPU.": "nvml" not in sources,
        "Computed memory leaves out the CUDA context, cuDNN workspaces and fragmentation.": "computed" in sources,
        f"One seed per method on {', '.join(few)}: differences there are not conclusions about methods.": few,
        f"Not all images of the split were scored on {partial}.": partial,
        f"No paired comparison on {', '.join(unpaired)}: matrices of the same single images are missing.": unpaired,
        NOTE: any(part.real for part in parts) and landscapes(done),
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
