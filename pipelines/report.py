"""Stage report: results/summary.csv, results/summary.json and reports/ from the result files of the declared matrix."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.stage import run_stage
from scpseg.params import Params
from scpseg.reporting.build import build_report


def main() -> None:
    """Read the command line and build the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--available", action="store_true", help="build from what is there; name what is missing")
    arguments = parser.parse_args()
    suite = Params.load().suite
    for sentence in build_report(Path("results"), Path("reports"), suite, arguments.available):
        print(f"missing: {sentence}")
    print("report: reports/README.md, results/summary.csv")


if __name__ == "__main__":
    run_stage(main)
