"""Renew the table of computed beside published memory in docs/memory.md, and the figures of published scores.

Computes nothing: reads results/reference/computed/memory.csv and the published numbers.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from pipelines.segmenters import with_table
from pipelines.stage import run_stage
from scpseg.errors import UserError
from scpseg.files import write_text

RESULTS, PAGE, FIGURES = Path("results"), Path("docs/memory.md"), Path("docs/figures")
BEGIN, END = "<!-- published -->\n", "<!-- /published -->\n"


def main() -> None:
    """Write the table between its markers, and a figure per benchmark.

    Raises:
        UserError: the table of computed memory is missing or damaged.
    """
    argparse.ArgumentParser(description=__doc__).parse_args()
    from scpseg.reporting.charts import draw_published
    from scpseg.reporting.memory import read_computed
    from scpseg.reporting.published import published
    from scpseg.reporting.report_tables import computed_table
    from scpseg.reporting.tables import Cell, markdown

    found = read_computed(RESULTS)
    if found is None:
        raise UserError("the table of computed memory is missing; run `make memory`")
    table = computed_table(found)
    table = replace(table, rows=tuple(row for row in table.rows if row[-1] != Cell()))
    write_text(PAGE, with_table(PAGE.read_text(encoding="utf-8"), markdown(table), BEGIN, END, PAGE))
    shown = [row for row in published() if row.miou and row.memory]
    for benchmark, rows in groupby(sorted(shown, key=lambda row: row.benchmark), lambda row: row.benchmark):
        draw_published(list(rows), FIGURES / f"published-{benchmark}")
    print(f"published: {PAGE}, {FIGURES}")


if __name__ == "__main__":
    run_stage(main)
