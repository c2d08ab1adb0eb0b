"""The table of `make bench` in the report."""

import csv
from pathlib import Path
from typing import Any

import pytest

from pipelines.bench.rows import Peer, alone, compared, merged, text
from scpseg.errors import UserError
from scpseg.reporting.build import build_report
from scpseg.reporting.report_tables import bench_table
from scpseg.reporting.tables import csv_text

FIRST, SECOND = {"ours": [1.0], "theirs": [3.0]}, {"ours": [1.0], "theirs": [1.5]}
PEERS = [Peer("pytest, plain", "pytest", "theirs", 2.5), Peer("no package", "no-such-package", "theirs", 1.0)]


def put(path: Path) -> Path:
    runs = [compared("windows", "crops", "ms", 1000, took, PEERS, "half of it is a copy") for took in (FIRST, SECOND)]
    rows = merged(merged([], runs[0]), [*runs[1], alone("stages", "--help", "s", [2.0], at_most=1.0)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text(rows), encoding="utf-8")
    return path


def test_rows_have_ratio_runs_target_and_limit(tmp_path: Path) -> None:
    table = bench_table(put(tmp_path / "bench.csv"))
    assert table is not None
    crops, lacking, started = csv.DictReader(csv_text(table).splitlines())
    assert crops["the other is"].startswith("pytest, plain ") and (crops["the suite"], crops["the other"]) == (
        "1000",
        "3000",
    )
    assert (crops["ratio"], crops["target"], crops["ratios"]) == ("2.25", "at least 2.5", "3 1.5")
    assert crops["limit"] == "half of it is a copy"
    assert lacking["ratio"] == lacking["the other"] == "–" and "no-such-package" in lacking["note"]
    assert (started["the suite"], started["target"]) == ("2", "at most 1 s")
    missed = {
        (row[0].text, column.title)
        for row in table.rows
        for column, cell in zip(table.columns, row, strict=True)
        if cell.flags
    }
    assert missed == {("crops", "ratio"), ("--help", "the suite")} and table.notes == ("the target is missed",)


def test_the_report_has_it_if_it_exists(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path / "results", suite())
    pages = []
    for there in (False, True):
        if there:
            put(tmp_path / "results/bench.csv")
        build_report(tmp_path / "results", tmp_path / "reports", chosen, False)
        pages.append((tmp_path / "reports/index.html").read_text(encoding="utf-8"))
        assert (tmp_path / "reports/tables/bench.csv").is_file() == there
    assert 'id="speed"' not in pages[0] and 'id="speed"' in pages[1]


@pytest.mark.parametrize("content", ["topic,name\na,b\n", "a,name,ours\n1,2,many\n"])
def test_another_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "bench.csv").write_text(content)
    with pytest.raises(UserError, match=r"bench\.csv is not a table of `make bench`"):
        bench_table(tmp_path / "bench.csv")


def test_without_the_file_there_is_none(tmp_path: Path) -> None:
    assert bench_table(tmp_path / "bench.csv") is None
