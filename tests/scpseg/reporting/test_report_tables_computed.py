from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from scpseg.errors import UserError
from scpseg.files import csv_rows
from scpseg.profiling.records import COLUMNS, MIB, tidy
from scpseg.reporting.charts import draw_computed
from scpseg.reporting.memory import read_computed
from scpseg.reporting.report_tables import computed_table
from scpseg.reporting.tables import csv_text


def record(method: str, mib: float, workload: str = "inference", **more: Any) -> dict[str, Any]:
    found = {"benchmark": "deepglobe", "method": method, "workload": workload, "backend": "computed", "status": "ok"}
    found |= {"memory": {"computed": mib * MIB}, "parts": {"weights": 40 * MIB}, "patch": 512, "windows_per_batch": 1}
    return found | {"segmenter": {"name": "deeplabv3plus", "encoder": "resnet18"}} | more


def put(results: Path) -> None:
    rows = [record("scpseg", 160), record("patch", 158), record("glnet", 0, status="failed", memory={})]
    rows += [record("scpseg", mib, "training step", phase=phase) for phase, mib in (("a", 900.0), ("b", 700.0))]
    rows += [record("scpseg", 160 * many, windows_per_batch=many) for many in (2, 4)]
    rows += [record("scpseg", side / 4, patch=side) for side in (256, 1024)]
    rows += [record("scpseg", 999, segmenter={"name": "fcn8s", "encoder": "resnet50"})]
    path = results / "reference/computed/memory.csv"
    path.parent.mkdir(parents=True)
    path.write_text(csv_rows(COLUMNS, tidy(rows)))


def test_the_paper_row_comes_first_and_sweeps_are_lines(tmp_path: Path) -> None:
    put(tmp_path)
    found = read_computed(tmp_path)
    assert found is not None
    rows = {row["method"]: row for row in csv.DictReader(csv_text(computed_table(found)).splitlines())}
    assert list(rows) == ["SCPSeg", "Patch"]
    scpseg = rows["SCPSeg"]
    assert (scpseg["inference MiB"], scpseg["of it weights"], scpseg["training step MiB"]) == ("160", "40.0", "900")
    drawn = draw_computed(found, tmp_path / "figure")
    assert (
        drawn
        and drawn.svg.count("windows in one forward pass")
        and "side of the patch" in drawn.svg
        and "mathdefault" not in drawn.svg
    )
    assert draw_computed(found[found["method"] == "patch"], tmp_path / "none") is None


def test_no_table_is_none_and_a_damaged_one_a_sentence(tmp_path: Path) -> None:
    assert read_computed(tmp_path) is None
    put(tmp_path)
    (tmp_path / "reference/computed/memory.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"memory\.csv is not a table"):
        read_computed(tmp_path)
