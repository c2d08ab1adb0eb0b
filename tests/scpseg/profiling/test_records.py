import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scpseg.errors import UserError
from scpseg.files import csv_rows
from scpseg.profiling.records import (
    CHANNELS,
    COLUMNS,
    largest,
    read_records,
    read_references,
    tidy,
    without_figures,
)

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
    text = csv_rows(COLUMNS, tidy([record()]))
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


DAMAGED = [
    ({"seconds_per_image": "1.2.34"}, r'seconds_per_image "1\.2\.34" where a number belongs'),
    ({"memory": {"nvml_process": "3"}}, 'memory.nvml_process "3" where a number belongs'),
    ({"memory": {"torch_reserved": -5}}, "memory.torch_reserved -5, which is less"),
    ({"memory": {"torch_allocated": [1]}}, r"memory\.torch_allocated \[1\] where a number belongs"),
    ({"memory": 3}, "memory 3 where a mapping belongs"),
    ({"height": "x"}, 'height "x" where an integer belongs'),
    ({"status": "weird"}, "unknown status 'weird'"),
    ({"benchmark": "mars"}, "unknown benchmark 'mars'"),
    ({"workload": "sleep"}, "unknown workload 'sleep'"),
]


@pytest.mark.parametrize(("change", "words"), DAMAGED)
def test_damaged_records_are_rejected(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "memory.json"
    path.write_text(json.dumps([record(), record(workload="training step") | change]))
    with pytest.raises(UserError, match=rf"memory\.json has .*{words}"):
        read_records(path)


def reference(folder: Path, gpu: str, text: str) -> Path:
    (folder / gpu).mkdir(parents=True)
    facts = {"gpu": gpu, "driver": "580.1", "torch": "2.15.0", "cuda": "13.2"}
    (folder / gpu / "fingerprint.json").write_text(json.dumps(facts))
    path = folder / gpu / "memory.json"
    path.write_text(text)
    return path


def test_references_are_in_the_order_of_their_folders(tmp_path: Path) -> None:
    assert read_references(tmp_path / "nowhere") == []
    for gpu in ("zeta", "alpha"):
        reference(tmp_path, gpu, json.dumps([record(backend="nvml")]))
    assert [facts["gpu"] for facts, _ in read_references(tmp_path)] == ["alpha", "zeta"]
    assert read_references(tmp_path)[0][1] == [record(backend="nvml")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "valid JSON"),
        (json.dumps([record()])[:-2], "valid JSON"),
        (json.dumps([record(status="weird")]), "has the unknown status 'weird'"),
        (json.dumps([record(), record()]), "has inference, patch, inria twice"),
    ],
)
def test_a_damaged_reference_is_restored_or_measured_again(tmp_path: Path, text: str, words: str) -> None:
    path = reference(tmp_path, "some-gpu", text)
    with pytest.raises(UserError, match=rf"some-gpu/memory\.json .*{words}; restore it with git.*make gpu") as caught:
        read_references(tmp_path)
    assert "dvc repro" not in str(caught.value)
    path.write_text(json.dumps([record()]))
    path.with_name("fingerprint.json").unlink()
    with pytest.raises(UserError, match=r"some-gpu/fingerprint\.json cannot be read; restore"):
        read_references(tmp_path)


def phase(peak: int = 1000, **changes: Any) -> dict[str, Any]:
    memory = {**dict.fromkeys(CHANNELS), "nvml_process": peak, "torch_allocated": peak // 2}
    return {"status": "ok", "reason": None, "memory": memory, "phase": "all"} | changes


def test_the_phase_with_the_highest_peak_stands_for_the_step() -> None:
    found = largest(
        [phase(5, phase="one", unit="window"), phase(9, phase="two", unit="window"), phase(7, phase="three")]
    )
    assert (found["phase"], found["memory"]["nvml_process"]) == ("two", 9)
    assert found["peak_by_phase"] == {"one": 5, "two": 9, "three": 7} and found["peak_of"] == "nvml_process"


def test_phases_are_compared_by_a_channel_that_all_have() -> None:
    blind = {**dict.fromkeys(CHANNELS), "torch_reserved": 8, "torch_allocated": 6}
    seeing = {**dict.fromkeys(CHANNELS), "nvml_process": 900, "torch_reserved": 7, "torch_allocated": 7}
    found = largest([phase(phase="one", memory=blind), phase(phase="two", memory=seeing)])
    assert (found["phase"], found["peak_of"]) == ("one", "torch_reserved")


def test_a_phase_that_does_not_fit_is_the_result() -> None:
    oom = without_figures("oom", "it does not fit into 1024 MiB", "nvml", 2**30) | {"phase": "two"}
    found = largest([phase(phase="one"), oom])
    assert found["status"] == "oom" and found["reason"].startswith("phase two: it does not fit into 1024 MiB")


def test_reading_needs_no_torch() -> None:
    code = "import sys, scpseg.profiling.records; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
