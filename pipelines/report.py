"""Stage report: results/summary.csv, results/summary.json and reports/ from the result files of the declared matrix."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.freshness import states
from pipelines.stage import run_stage
from scpseg.params import Params, SuiteParams
from scpseg.reporting.build import build_report

PAGE = Path("reports/README.md")


def build(suite: SuiteParams, available: bool) -> None:
    """Build the report and print what is missing in it.

    Args:
        suite: what is declared.
        available: build from the results that are current; else all must be there, as after every stage of DVC.

    Raises:
        UserError: a result is missing, or with `available` every one; a file is damaged.
    """
    lacking = states(suite) if available else {}
    for sentence in build_report(Path("results"), PAGE.parent, suite, available, lacking):
        print(f"missing: {sentence}")
    print(f"report: {PAGE}, results/summary.csv")


def main() -> None:
    """Read the command line and build the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--available", action="store_true", help="build from what is there; name what is missing")
    build(Params.load().suite, parser.parse_args().available)


if __name__ == "__main__":
    run_stage(main)
