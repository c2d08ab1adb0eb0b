"""Stage `report`: write results/summary.csv, results/summary.json and reports/ from the results of all runs."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import experiments
from pipelines.freshness import states
from pipelines.stage import run_stage
from scpseg.errors import UserError
from scpseg.files import write_text
from scpseg.params import Params, SuiteParams
from scpseg.reporting import BASE

if TYPE_CHECKING:
    from scpseg.reporting import compare

PAGE = Path("reports/README.md")
RESULTS = Path("results")
COLUMNS = Path("docs/columns.md")
COMPARISON = Path("reports/compare.md")
WORKSPACE = "workspace"
"""Name of the present results, next to revisions and experiments."""


def build(suite: SuiteParams, available: bool, reference: str = BASE) -> None:
    """Build the report and print what is missing.

    Args:
        suite: the declared runs.
        available: use the results that are current; otherwise all must exist, as after every stage of DVC.
        reference: method to which differences are computed.

    Raises:
        UserError: a result is missing (with `available`, all are), a file is damaged, or a name is not valid.
    """
    from scpseg.reporting.build import build_report  # imports matplotlib and pandas, for which --help need not wait

    lacking = states(suite) if available else {}
    tell(build_report(RESULTS, PAGE.parent, suite, available, lacking, reference), PAGE.parent)


def tell(missing: list[str], folder: Path) -> None:
    """Print what is missing, and where the report is."""
    for sentence in missing:
        print(f"missing: {sentence}")
    print(f"report: {folder}/index.html, {folder}/README.md, {folder}/tables")


def study(name: str, again: bool, reference: str) -> None:
    """Publish the present results, or write a published page again from its archive.

    Raises:
        UserError: the name is not valid, or see `studies`.
    """
    from pipelines import studies

    if not all(part.isalnum() for part in name.split("-")):
        flag = "--render" if again else "--publish"
        raise UserError(f"{flag} {name}: use letters, digits and hyphens, such as {flag} sample")
    missing = studies.render(name, reference) if again else studies.publish(name, Params.load(), reference)
    tell(missing, studies.PUBLISHED / name)


def side(name: str) -> compare.Side:
    """Parameters and results of a revision, an experiment or the workspace.

    Raises:
        UserError: the run does not exist, its results are not in the cache, or those of the workspace are not current.
    """
    from scpseg.reporting import compare

    table, metrics = RESULTS / "summary.csv", RESULTS / "summary.json"
    if name == WORKSPACE:
        if not table.is_file() or not metrics.is_file():
            raise UserError(f"{table} is missing; run `make repro`, or compare two other runs")
        with table.open(encoding="utf-8", newline="") as stream:
            rows = [{key: value or None for key, value in row.items()} for row in csv.DictReader(stream)]
        params = Params.load()
        lacking = states(params.suite)
        for row in (row for row in rows if row["status"] == "ok"):
            run = (str(row["benchmark"]), str(row["method"]), int(row["seed"] or 0))
            if state := lacking.get(run):
                why = f"the score of {run[0]} {run[1]} seed {run[2]} in {table} is {state[0]} ({state[1]})"
                raise UserError(f"--compare {name}: {why}; run `dvc repro`, or `make report` to leave it out")
        summary = json.loads(metrics.read_text(encoding="utf-8"))
        return compare.Side(name, compare.flat(params.values), rows, summary)
    values, found = experiments.params_of(name), experiments.summary_of(name)
    if values is None:
        raise UserError(f"--compare {name}: unknown revision or experiment; `dvc exp show` lists them")
    if found is None:
        raise UserError(f"--compare {name}: its {table} is not in the cache; run it again with `dvc repro`")
    import dvc.api

    summary = dvc.api.metrics_show(metrics.as_posix(), rev=name)
    return compare.Side(name, compare.flat(values), found, summary)


def main() -> None:
    """Parse the command line and build the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--available", action="store_true", help="use the existing results; list what is missing")
    parser.add_argument("--reference", default=BASE, metavar="METHOD", help="method to which differences are computed")
    parser.add_argument("--publish", metavar="NAME", help="add the current results to the study reports/published/NAME")
    parser.add_argument("--render", metavar="NAME", help="write the page of a study again from its archive")
    parser.add_argument(
        "--compare", nargs="+", metavar="RUN", help=f"compare runs side by side: revisions, experiments, or {WORKSPACE}"
    )
    parser.add_argument("--columns", action="store_true", help=f"only write {COLUMNS}, the meaning of every column")
    asked = parser.parse_args()
    if asked.columns:
        from scpseg.reporting.build import columns_page

        write_text(COLUMNS, columns_page())
    elif asked.compare:
        from scpseg.reporting import compare

        names = asked.compare if len(asked.compare) > 1 else [asked.compare[0], WORKSPACE]
        text = compare.page([side(name) for name in dict.fromkeys(names)])
        write_text(COMPARISON, text)
        print(text)
    elif name := asked.publish or asked.render:
        study(name, not asked.publish, asked.reference)
    else:
        build(Params.load().suite, asked.available, asked.reference)


if __name__ == "__main__":
    run_stage(main)
