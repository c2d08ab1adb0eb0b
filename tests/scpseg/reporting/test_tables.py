from __future__ import annotations

from pathlib import Path
from typing import Any

from scpseg.reporting.collect import collect
from scpseg.reporting.sections import settings
from scpseg.reporting.summary import Estimate, records, summarise
from scpseg.reporting.tables import (
    DASH,
    class_table,
    main_table,
    markdown,
    network_table,
    overview_table,
    percent,
    published_table,
    seconds,
)


def cells(table: str) -> list[dict[str, str]]:
    """Rows of a Markdown table by column name."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_numbers_for_people() -> None:
    assert percent(Estimate(0.71234, 0.01266, 3)) == "71.2 ± 1.3"
    assert percent(Estimate(0.71234, None, 1)) == "71.2"
    assert percent(Estimate(None, None, 0)) == DASH
    assert [seconds(value) for value in (None, 0.041234, 2.0, 9.96, 43.21, 123.4)] == [
        *(DASH, "0.041", "2.0", "10", "43", "120"),
    ]


def test_a_bar_in_a_cell_does_not_make_a_column() -> None:
    assert markdown(["a", "b"], [["1|2", "x\ny"]]).splitlines()[2] == r"| 1\|2 | x y |"


def test_what_is_measured_and_what_is_published_stand_in_tables_of_their_own(
    tmp_path: Path, invented: Any, suite: Any
) -> None:
    chosen = invented.fill(tmp_path, suite(baselines=("patch", "glnet")))
    lines = summarise(collect(tmp_path, chosen, available=False))
    scpseg, *_ = cells(main_table(lines))
    score = invented.metrics("potsdam", "scpseg", 0)["metrics"]["mean_iou"]
    assert scpseg["mIoU %"] == f"{100 * score:.1f}"
    assert (scpseg["peak memory MiB (rss)"], scpseg["seeds"]) == ("214", "1")
    assert (scpseg["s / image"], scpseg["MPx / s"]) == ("0.41", "0.36")
    scpseg, patch, glnet = cells(network_table(lines))
    assert scpseg["patch / context / squeezed / overview"] == "64 / 128 / 48 / –"
    assert (glnet["patch / context / squeezed / overview"], patch["parameters M"]) == ("64 / 64 / – / 128", "2.35")
    scpseg, patch, glnet = cells(published_table(lines))
    assert (scpseg["paper: mIoU %"], scpseg["paper: memory MB"]) == ("87.6", "1834")
    assert (glnet["paper: mIoU %"], glnet["paper: segmenter"]) == ("84.0", "not stated")
    assert {patch[name] for name in patch if name.startswith("paper: ")} == {DASH}
    # As wide as a page of GitHub shows without a scroll bar.
    assert all(len(row) <= 9 for table in (main_table, network_table, published_table) for row in cells(table(lines)))


def test_published_test_figures_do_not_stand_beside_other_images(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite(baselines=()))
    invented.put(tmp_path, invented.metrics("potsdam", "scpseg", 0, split="val"))
    (scpseg,) = cells(published_table(summarise(collect(tmp_path, chosen, available=False))))
    assert {scpseg[name] for name in scpseg if name.startswith("paper: ")} == {DASH}


def test_settings_have_a_line_each_and_equal_benchmarks_a_table(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite(("potsdam", "blu", "inria"), ("patch",)))
    record = invented.metrics("inria", "patch", 0)
    invented.put(tmp_path, record | {"training": record["training"] | {"batch": 4, "warm": 9}})
    text = settings(records(collect(tmp_path, chosen, available=False)))
    first, second = [part for part in text.split("\n\n") if part.startswith("| ")]
    assert text.index("ISPRS Potsdam, BLU:\n") < text.index(first) < text.index("Inria Aerial:\n")
    of = {row["setting"]: (row["SCPSeg"], row["Patch"]) for row in cells(first)}
    assert of == {
        **{"context": ("128", "64"), "csm_ratio": ("0.75", DASH), "squeezed": ("48", DASH)},
        **{"batch": ("8", "8"), "revision": ("0123abc", "0123abc")},
    }
    of_inria = {row["setting"]: (row["SCPSeg"], row["Patch"]) for row in cells(second)}
    assert of_inria == of | {"batch": ("8", "4"), "warm": (DASH, "9")}
    assert "iterations `300`" in text


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
    assert (patch["building IoU %"], patch["seeds"], patch["peak memory MiB (rss)"]) == (DASH, "0 of 2", "213")
    assert glnet["seeds"] == "1 of 2" and "±" not in glnet["building IoU %"]
    assert glnet["peak memory MiB (rss)"].endswith("†") and glnet["s / image"].endswith("†")
    assert scpseg["building IoU %"].endswith("‡") and "±" in scpseg["building IoU %"]
    assert not scpseg["peak memory MiB (rss)"].endswith("†")
    assert (fctl["peak memory MiB (rss)"], fctl["s / image"]) == ("OOM", DASH)
    assert [row["building"] for row in cells(class_table(lines))][1] == DASH
    assert [row["method"] for row in cells(overview_table(lines))] == ["SCPSeg", "Patch", "GLNet", "FCtL"]


def test_overview_names_the_meter_where_meters_differ(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite())
    assert "MiB (rss)" in overview_table(summarise(collect(tmp_path, chosen, available=False)))
    invented.put(tmp_path, invented.profile("potsdam", "patch", backend="nvml"))
    lines = summarise(collect(tmp_path, chosen, available=False))
    assert "| 214 rss |" in overview_table(lines) and "| 1828 nvml |" in overview_table(lines)
    assert [(row["peak memory MiB"], row["meter"]) for row in cells(main_table(lines))] == [
        *(("214", "rss"), ("1828", "nvml")),
    ]
