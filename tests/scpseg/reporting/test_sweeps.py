"""Sweeps from made-up results: differences, tables, pictures, pages."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from PIL import Image

from scpseg.params import SuiteParams
from scpseg.reporting.collect import collect
from scpseg.reporting.figures import METHODS, OTHERS, score_limits
from scpseg.reporting.sweeps import (
    Row,
    Sweep,
    _looks,
    csv_text,
    difference,
    draw_sweep,
    finished_sweeps,
    measured_elsewhere,
    published,
    short,
    sweep_page,
    sweep_table,
    tidy,
    write_sweep,
)
from scpseg.reporting.tables import csv_text as table_csv
from tests.scpseg.reporting import conftest as invented

STEPS = Sweep("components", "What each part adds", "steps", ("parts", "segmenter"), "table 6")
PAIRS = Sweep("segmenters", "Without and with SCPSeg", "pairs", ("segmenter", "method"), "table 5")
GRID = Sweep("sizes", "Sizes", "grid", ("csm.context = G / L", "csm.ratio = D / L"), "figure 5")
DOTS = Sweep("mine", "lfa.window × csm.ratio × srd.weight", "dots", ("settings", "method"), None)
Make = Callable[..., Row]


@cache
def summary(*seeds: int) -> list[dict[str, str]]:
    """Rows of results/summary.csv."""
    with TemporaryDirectory() as folder:
        suite = invented.fill(Path(folder), SuiteParams(("potsdam",), ("patch",), seeds))
        frame = collect(Path(folder), suite, available=False)
    return list(csv.DictReader(io.StringIO(frame.to_csv(index=False))))


@pytest.fixture
def make() -> Make:
    """A row whose runs score `scores` (0..1, by seed), in the very format of results/summary.csv."""

    def row(x: str, series: str, scores: dict[int, float], method: str = "scpseg", **changes: Any) -> Row:
        runs: list[dict[str, Any]] = []
        for run in summary(*scores) if scores else ():
            if run["method"] == method:
                runs.append({key: value or None for key, value in run.items()} | {"mean_iou": scores[int(run["seed"])]})
        values = {
            "settings": (f"csm.ratio={x}",),
            "status": "ok" if runs else "missing",
            "reason": "",
            "notes": (),
            "reference": (series, "plain"),
            "experiment": f"e-{series}-{x}",
            "command": f"dvc exp run --temp --name '{series}-{x}'",
        }
        return Row(x=x, series=series, method=method, runs=tuple(runs), **(values | changes))

    return row


@pytest.fixture
def steps(make: Make) -> list[Row]:
    rows = []
    for number, segmenter in enumerate(("FCN-8s", "DeepLabv3+")):
        for place, step in enumerate(("plain", "+ CSM", "+ SRD", "+ LFA")):
            scores = {seed: 0.6 + 0.03 * number + 0.01 * place + 0.002 * seed * (place + 1) for seed in (0, 1, 2)}
            rows.append(make(step, segmenter, scores))
    return rows


def test_difference_is_taken_seed_by_seed(make: Make) -> None:
    base = make("plain", "a", {0: 0.50, 1: 0.60, 2: 0.70})
    other = make("+ CSM", "a", {0: 0.52, 1: 0.61, 2: 0.73})
    found = difference(other, [base, other])
    assert found is not None and found.mean == pytest.approx(0.02) and found.n == 3
    # t(2, 0.975) = 4.3027: the differences 0.02, 0.01, 0.03 vary less than the scores.
    assert found.half == pytest.approx(4.3027 * statistics.stdev((0.02, 0.01, 0.03)) / 3**0.5, rel=1e-4)
    assert found.half < (other.miou.half or 0)
    assert difference(base, [base, other]) is None
    elsewhere = make("+ CSM", "a", {5: 0.9})
    assert difference(elsewhere, [base, elsewhere]) == difference(other, [other])  # nothing to compare with
    assert difference(elsewhere, [base, elsewhere]).n == 0  # type: ignore[union-attr]


def test_the_papers_tables_stand_under_the_keys_of_the_sweeps() -> None:
    assert published("components")["FCN-8s", "plain"] == "84.5"
    assert published("components")["DeepLabv3+", "+ LFA"] == "87.8"
    assert published("segmenters")["Patch", "PIDNet"] == "86.1"
    assert published("segmenters")["SCPSeg", "PIDNet"] == "87.6"
    assert published("sizes")["0.75", "2"] == "86.2"
    assert {x for _, x in published("sizes")} == {short(342 / 256), "2", "3"}
    assert [len(published(name)) for name in ("components", "segmenters", "sizes", "mine")] == [8, 16, 15, 0]


def test_values_as_people_write_them() -> None:
    assert [tidy(value) for value in (2.0, 0.625, True, 7, "k", 5e-4)] == ["2", "0.625", "true", "7", "k", "0.0005"]


def cells(sweep: Sweep, rows: list[Row]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table_csv(sweep_table(sweep, rows)))))


def page(sweep: Sweep, rows: list[Row]) -> str:
    return sweep_page(sweep, rows, None)


def test_table_has_a_line_per_row_with_effective_sizes_and_the_papers_figure(steps: list[Row]) -> None:
    lines = cells(STEPS, steps)
    assert len(lines) == 8
    assert (lines[1]["segmenter"], lines[1]["parts"], lines[1]["settings"]) == ("FCN-8s", "'+ CSM", "csm.ratio=+ CSM")
    assert lines[1]["patch / context / squeezed"] == "64 / 128 / 48"
    assert (lines[1]["difference"], lines[1]["paper: mIoU %"]) == ("+1.2 ± 0.5", "85.6")
    assert (lines[0]["difference"], lines[0]["profiled MiB"], lines[0]["meter"]) == ("reference", "214", "rss")


def test_rows_without_a_result_keep_their_place_and_say_why(make: Make, tmp_path: Path) -> None:
    rows = [
        make("plain", "FCN-8s", {0: 0.5}),
        make("+ CSM", "FCN-8s", {}, status="failed", reason="it ran out of memory"),
        make("+ SRD", "FCN-8s", {}, status="invalid", reason="csm.ratio is 2", experiment="", command=""),
        make("+ LFA", "FCN-8s", {}),
    ]
    write_sweep(STEPS, rows, tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    assert "| failed <sup>a</sup> |" in text and "- a: failed: it ran out of memory\n" in text
    assert "- b: not valid: csm.ratio is 2\n" in text
    assert "not run yet" in text and "**Incomplete.** 3 of 4 rows" in text
    assert text.startswith("> **Synthetic scenes.** ")
    (found,) = finished_sweeps(tmp_path)
    drawn, table = found.blocks
    assert found.title == STEPS.title and table.rows[1][0].text == "+ CSM" and "<svg" in drawn.svg
    place = next(n for n, column in enumerate(table.columns) if "mIoU" in column.title)
    assert table.rows[0][place].value == 50.0  # sorted as a number
    written = list(csv.DictReader(io.StringIO((tmp_path / "out/runs.csv").read_text())))
    assert [row["status"] for row in written] == ["ok", "failed", "invalid", "missing"]
    assert written[0]["paper_miou"] == "84.5" and written[0]["model:squeezed"] == "48"


def test_page_names_noise_meter_and_commands(steps: list[Row]) -> None:
    text = page(STEPS, steps)
    assert "0.6 mIoU" in text and "resident memory" in text and "table 6" in text
    assert all(row.command in text for row in steps)
    assert "\n- Differences are computed before rounding" in text and "[runs.csv](runs.csv)" in text
    assert "paper" not in page(DOTS, [row for row in steps if row.series == "FCN-8s"])


def test_one_seed_has_no_interval(make: Make) -> None:
    rows = [make("plain", "a", {0: 0.5}), make("+ CSM", "a", {0: 0.52})]
    text = page(DOTS, rows)
    assert "±" not in text and "differences may be chance" in text and "| +2.0 |" in text


def test_csv_has_a_line_per_seed(steps: list[Row]) -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(STEPS, steps))))
    assert len(lines) == 8 * 3
    assert [line["seed"] for line in lines[:3]] == ["0", "1", "2"]
    assert float(lines[4]["mean_iou"]) == pytest.approx(0.614)


def grid_rows(make: Make, without: int = 0) -> list[Row]:
    places = [(short(ratio), short(context)) for ratio in (0.5, 0.75, 1.0) for context in (342 / 256, 2.0, 3.0)]
    return [
        make(context, ratio, {} if number < without else {0: 0.5 + 0.01 * number}, reference=("1", context))
        for number, (ratio, context) in enumerate(places)
    ]


def pair_rows(make: Make) -> list[Row]:
    return [
        make(title, series, {0: 0.5 + 0.02 * number, 1: 0.51 + gain}, method, reference=("Patch", title))
        for number, title in enumerate(("FCN-8s", "DeepLabv3+", "SegFormer"))
        for method, series, gain in (("patch", "Patch", 0.0), ("scpseg", "SCPSeg", 0.02))
    ]


@pytest.mark.soak
def test_every_kind_of_picture_is_the_same_bytes_twice(make: Make, steps: list[Row], tmp_path: Path) -> None:
    kinds = [(STEPS, steps), (PAIRS, pair_rows(make)), (GRID, grid_rows(make, without=2)), (DOTS, steps[:4])]
    for sweep, rows in kinds:
        first, second = (draw_sweep(sweep, rows, tmp_path / folder) for folder in "ab")
        assert first and second and [path.suffix for path in first.files] == [".png", ".svg", ".pdf"]
        assert [path.read_bytes() for path in first.files] == [path.read_bytes() for path in second.files]
        with Image.open(first.files[0]) as picture:
            # The paper's figure has a panel of its own.
            assert (picture.width > 1200) == (sweep is not DOTS), (sweep.name, picture.width)


def test_without_a_result_nothing_is_drawn_and_an_old_picture_goes(make: Make, tmp_path: Path) -> None:
    write_sweep(GRID, grid_rows(make), tmp_path)
    assert (tmp_path / "sizes.png").exists()
    write_sweep(GRID, grid_rows(make, without=9), tmp_path)
    assert not list(tmp_path.glob("*.png")) and "No run is finished yet" in (tmp_path / "README.md").read_text()


def test_methods_keep_their_looks_and_segmenters_have_others(make: Make, steps: list[Row]) -> None:
    assert _looks(pair_rows(make)) == {"Patch": METHODS["patch"], "SCPSeg": METHODS["scpseg"]}
    assert _looks(steps) == {"FCN-8s": OTHERS[0], "DeepLabv3+": OTHERS[1]}


def test_both_panels_span_equally_many_points() -> None:
    assert score_limits(50.0, 61.0, 12.0) == pytest.approx((48.3, 62.7))
    assert score_limits(85.0, 86.0, 12.0) == pytest.approx((78.3, 92.7))
    # Nothing is above 100 %; a marker there is not cut.
    assert score_limits(85.0, 86.0, 40.0) == pytest.approx((52.0, 100.0))
    assert score_limits(85.0, 100.0, 30.0) == pytest.approx((67.0, 103.0))


def test_memory_of_other_threads_or_hardware_is_marked(make: Make) -> None:
    rows = [make(str(number), "a", {0: 0.5}) for number in range(4)]
    assert measured_elsewhere(rows) == [] and "other hardware" not in page(DOTS, rows)
    rows[1].runs[0]["profile_environment:threads"] = "1"
    rows[3].runs[0]["profile_environment:device"] = "Another CPU"
    # Without a figure there is nothing to mark; equal counts go to what comes first.
    rows.append(make("5", "a", {0: 0.5}))
    rows[4].runs[0].update({"memory_mib": None, "profile_environment:threads": "9"})
    assert measured_elsewhere(rows) == [rows[1], rows[3]]
    assert ["other hardware" in line["notes"] for line in cells(DOTS, rows)] == [False, True, False, True, False]
