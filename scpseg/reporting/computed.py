"""Show computed memory at the paper's sizes: results/reference/computed/memory.csv as a table and a figure."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from scpseg.benchmarks import BENCHMARKS
from scpseg.files import damaged
from scpseg.profiling.records import COLUMNS, INFERENCE, TRAINING
from scpseg.reporting.figures import COLUMN, Drawn, legend, log_ticks, looks_of, panels, save, style
from scpseg.reporting.published import title_of
from scpseg.reporting.tables import Cell, Field, Table, mebibytes, table_of, words

TOTAL = "computed"
PARTS = ("weights", "state", "activations")
KEY = ["benchmark", "method", "workload", "phase", "channel"]


def read_computed(results: Path) -> pd.DataFrame | None:
    """The rows of successful records; None if the table does not exist.

    Raises:
        UserError: the file is damaged.
    """
    path = results / "reference/computed/memory.csv"
    if not path.is_file():
        return None
    try:
        found = pd.read_csv(path)[list(COLUMNS)]
    except (ValueError, KeyError) as error:
        raise damaged(path, f"is not a table of computed memory ({error})") from None
    return found[(found["status"] == "ok") & found["benchmark"].isin(BENCHMARKS)]


def computed_table(found: pd.DataFrame) -> Table:
    """Inference and one training step of every method on every benchmark, with the parts of the peak."""
    # The first row of each cell has the paper's segmenter and sizes; the sweeps follow.
    first = found.drop_duplicates(KEY)
    largest = first.groupby(["benchmark", "method", "workload", "channel"])["mib"].max().to_dict()

    def of(workload: str, channel: str) -> Field[tuple[str, str]]:
        title = f"{workload} MiB" if channel == TOTAL else f"of it {channel.removeprefix(f'{TOTAL}:')}"

        def cell(item: tuple[str, str]) -> Cell:
            return mebibytes(largest.get((*item, workload, channel)))

        return Field(title, cell, "largest phase" if workload == TRAINING else "one window at once, fp32")

    fields: list[Field[tuple[str, str]]] = [
        words("benchmark", lambda item: BENCHMARKS[item[0]].title),
        words("method", lambda item: title_of(item[1])),
        of(INFERENCE, TOTAL),
        *(of(INFERENCE, f"{TOTAL}:{part}") for part in PARTS),
        of(TRAINING, TOTAL),
    ]
    items = dict.fromkeys(zip(first["benchmark"], first["method"], strict=True))
    order = sorted(items, key=lambda item: list(BENCHMARKS).index(item[0]))
    return table_of("computed", "Computed memory at the paper's sizes", fields, order)


def draw_computed(found: pd.DataFrame, path: Path) -> Drawn | None:
    """Plot memory against the number of windows and against the patch side, for methods with the paper's segmenter."""
    totals = found[(found["workload"] == INFERENCE) & (found["channel"] == TOTAL)]
    names = ["segmenter", "encoder", "patch", "windows"]
    first = totals.groupby(["benchmark", "method"])[names].transform("first")
    same = {name: totals[name] == first[name] for name in names}
    network = same["segmenter"] & same["encoder"]
    shown = (totals[network & same["patch"]], "windows"), (totals[network & same["windows"]], "patch")
    swept = [(table, x) for table, x in shown if table.groupby(["benchmark", "method"])[x].nunique().max() > 1]
    if not swept:
        return None
    looks = looks_of(list(dict.fromkeys(totals["method"])))
    with style():
        figure, grid = panels(1.05 * COLUMN * len(swept), 0.85 * COLUMN, len(swept))
        for axes, (table, x) in zip(grid, swept, strict=True):
            benchmark = table.groupby("benchmark")[x].nunique().idxmax()
            for method, rows in table[table["benchmark"] == benchmark].groupby("method", sort=False):
                rows = rows.drop_duplicates(x).sort_values(x)
                if len(rows) > 1:
                    look, label = looks[str(method)], title_of(str(method))
                    axes.plot(rows[x], rows["mib"], color=look.colour, marker=look.marker, ms=4, lw=1, label=label)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            log_ticks(axes.yaxis, *axes.get_ylim())
            axes.set_title(BENCHMARKS[str(benchmark)].title)
            axes.set_xlabel("windows in one forward pass" if x == "windows" else "side of the patch (pixels)")
            axes.set_ylabel("computed peak at inference (MiB)")
        legend(figure, grid, "outside lower center", 6)
        return save(
            figure, path, "Computed memory against windows in one forward pass, and against the side of the patch"
        )
