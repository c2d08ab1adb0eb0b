import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scpseg.errors import UserError
from scpseg.profiling.records import COLUMNS, read_records, table, tidy

MIB = 2**20


def record(**changes: Any) -> dict[str, Any]:
    found = {
        "benchmark": "inria",
        "method": "patch",
        "workload": "inference",
        "backend": "computed",
        "status": "ok",
        "memory": {"computed": 3 * MIB, "rss": None},
        "parts": {"weights": 2 * MIB, "activations": MIB},
        "precision": "fp32",
        "height": 5000,
        "width": 5000,
        "windows_per_batch": 1,
        "model": {"patch": 256},
        "segmenter": {"name": "fcn8s", "encoder": "resnet50"},
    }
    return found | changes


def test_a_row_for_each_channel_and_part() -> None:
    rows = tidy([record()])
    assert [(row["channel"], row["mib"]) for row in rows] == [
        ("computed", 3.0),
        ("computed:weights", 2.0),
        ("computed:activations", 1.0),
    ]
    assert all(tuple(row) == COLUMNS for row in rows)
    first = rows[0]
    assert (first["segmenter"], first["encoder"], first["patch"], first["windows"]) == ("fcn8s", "resnet50", 256, 1)


def test_a_method_with_an_encoder_of_its_own() -> None:
    (row, *_) = tidy([record(model={"patch": 256, "encoder": "resnet18"})])
    assert (row["segmenter"], row["encoder"]) == ("own", "resnet18")


def test_measured_channels_and_records_without_a_figure() -> None:
    measured = record(backend="nvml", memory={"nvml_process": MIB, "torch_allocated": MIB // 2}, parts=None)
    failed = record(status="oom", memory={"rss": None}, parts=None, model=None)
    rows = tidy([measured, failed])
    assert [(row["channel"], row["mib"]) for row in rows] == [
        ("nvml_process", 1.0),
        ("torch_allocated", 0.5),
        (None, None),
    ]
    assert rows[-1]["status"] == "oom"


def test_the_table_is_the_same_rows() -> None:
    text = table([record()])
    assert "\r" not in text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["mib"] for row in rows] == ["3.0", "2.0", "1.0"] and tuple(rows[0]) == COLUMNS


def test_one_record_or_a_list(tmp_path: Path) -> None:
    for name, value in (("one", record()), ("list", [record()])):
        (tmp_path / name).write_text(json.dumps(value))
        assert read_records(tmp_path / name) == [record()]


@pytest.mark.parametrize("value", ["{", '{"benchmark": "inria"}', "3", "[[]]"])
def test_a_damaged_file_is_named(tmp_path: Path, value: str) -> None:
    (tmp_path / "memory.json").write_text(value)
    with pytest.raises(UserError, match=r"memory\.json"):
        read_records(tmp_path / "memory.json")


def test_reading_needs_no_torch() -> None:
    code = "import sys, scpseg.profiling.records; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
