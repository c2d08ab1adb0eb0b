from __future__ import annotations

from pathlib import Path
from typing import Any

from scpseg.reporting.collect import collect
from scpseg.reporting.summary import Estimate, summarise
from scpseg.reporting.tables import DASH, class_table, main_table, markdown, overview_table, percent, seconds


def cells(table: str) -> list[dict[str, str]]:
    """Rows of a Markdown table by column name."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_numbers_for_people() -> None:
    assert percent(Estimate(0.71234, 0.01266, 3)) == "71.2 ± 1.3"
    assert percent(Estimate(0.71234, None, 1)) == "71.2"
    assert percent(Estimate(None, None, 0)) == DASH
    assert [seconds(value) for value in (None, 0.041234, 2.5, 43.21, 123.4)] == [DASH, "0.0412", "2.50", "43.2", "123"]


def test_a_bar_in_a_cell_does_not_make_a_column() -> None:
    assert markdown(["a", "b"], [["1|2", "x\ny"]]).splitlines()[2] == r"| 1\|2 | x y |"


def test_main_table_has_measured_and_published_columns(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite(baselines=("patch", "glnet")))
    scpseg, patch, glnet = cells(main_table(summarise(collect(tmp_path, chosen, available=False))))
    score = invented.metrics("potsdam", "scpseg", 0)["metrics"]["mean_iou"]
    assert scpseg["mIoU %"] == f"{100 * score:.1f}"
    assert scpseg["patch / context / squeezed / overview"] == "64 / 128 / 48 / –"
    assert (scpseg["peak memory MiB"], scpseg["meter"], scpseg["seeds"]) == ("214", "rss", "1")
    assert (scpseg["s / image"], scpseg["MPx / s"], scpseg["parameters M"]) == ("0.412", "0.358", "2.35")
    assert (scpseg["paper: mIoU %"], scpseg["paper: memory MB"]) == ("87.6", "1834")
    assert (glnet["paper: mIoU %"], glnet["paper: segmenter"]) == ("84.0", "not stated")
    assert {patch[name] for name in patch if name.startswith("paper: ")} == {DASH}


def test_published_test_figures_do_not_stand_beside_other_images(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite(baselines=()))
    invented.put(tmp_path, invented.metrics("potsdam", "scpseg", 0, split="val"))
    (scpseg,) = cells(main_table(summarise(collect(tmp_path, chosen, available=False))))
    assert {scpseg[name] for name in scpseg if name.startswith("paper: ")} == {DASH}


def test_missing_cells_are_dashes_and_other_hardware_is_marked(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite(("inria",), ("patch", "glnet", "fctl"), (0, 1)))
    for seed in (0, 1):
        (tmp_path / f"metrics/inria/patch/{seed}/metrics.json").unlink()
    (tmp_path / "metrics/inria/glnet/1/metrics.json").unlink()
    invented.put(tmp_path, invented.out_of_memory("inria", "fctl"))
    invented.put(tmp_path, invented.profile("inria", "glnet", environment=invented.environment("Another CPU")))
    invented.put(tmp_path, invented.metrics("inria", "scpseg", 0, environment=invented.environment("Another CPU")))
    lines = summarise(collect(tmp_path, chosen, available=True))
    scpseg, patch, glnet, fctl = cells(main_table(lines))
    assert (patch["building IoU %"], patch["seeds"], patch["peak memory MiB"]) == (DASH, "0 of 2", "213")
    assert glnet["seeds"] == "1 of 2" and "±" not in glnet["building IoU %"]
    assert glnet["peak memory MiB"].endswith("†") and glnet["s / image"].endswith("†")
    assert scpseg["building IoU %"].endswith("‡") and "±" in scpseg["building IoU %"]
    assert not scpseg["peak memory MiB"].endswith("†")
    assert (fctl["peak memory MiB"], fctl["s / image"]) == ("OOM", DASH)
    assert [row["building"] for row in cells(class_table(lines))][1] == DASH
    assert [row["method"] for row in cells(overview_table(lines))] == ["SCPSeg", "Patch", "GLNet", "FCtL"]


def test_overview_names_the_meter_where_meters_differ(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite())
    assert "MiB (rss)" in overview_table(summarise(collect(tmp_path, chosen, available=False)))
    invented.put(tmp_path, invented.profile("potsdam", "patch", backend="nvml"))
    table = overview_table(summarise(collect(tmp_path, chosen, available=False)))
    assert "| 214 rss |" in table and "| 1828 nvml |" in table
