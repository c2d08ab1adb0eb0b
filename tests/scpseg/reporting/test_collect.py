from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scpseg.errors import UserError
from scpseg.reporting.collect import _segmenter, collect


def test_a_method_with_an_encoder_of_its_own_does_not_claim_the_segmenter() -> None:
    asked = {"name": "fcn8s", "encoder": "resnet18", "output_stride": 8, "weights": "imagenet"}
    assert _segmenter(asked, {"patch": 64}) == asked
    own = _segmenter(asked, {"encoder": "resnet50"})
    assert own == {"name": "own", "encoder": "resnet50", "output_stride": None, "weights": "imagenet"}


def test_rows_are_the_declared_matrix_and_stale_folders_are_ignored(tmp_path: Path, invented: Any, suite: Any) -> None:
    invented.fill(tmp_path, suite(("potsdam", "blu", "inria"), ("patch", "glnet"), (0, 1, 7)))
    frame = collect(tmp_path, suite(("blu", "potsdam"), ("glnet",), (1, 0)), available=False)
    assert list(zip(frame["benchmark"], frame["method"], frame["seed"], strict=True)) == [
        (benchmark, method, seed)
        for benchmark in ("blu", "potsdam")
        for method in ("scpseg", "glnet")
        for seed in (1, 0)
    ]


def test_row_holds_scores_memory_and_every_setting(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite())
    row = collect(tmp_path, chosen, available=False).to_dict("records")[0]
    record, profile = invented.metrics("potsdam", "scpseg", 0), invented.profile("potsdam", "scpseg")
    assert row["mean_iou"] == record["metrics"]["mean_iou"]
    assert row["iou:low vegetation"] == record["metrics"]["iou"]["low vegetation"]
    assert row["memory:rss"] == profile["memory"]["rss"] == 214 * 2**20
    assert (row["memory_mib"], row["memory_backend"], row["memory:nvml_process"]) == (214.0, "rss", None)
    assert (row["model:squeezed"], row["training:iterations"], row["revision"]) == (48, 300, "0123abc")
    assert row["environment:device"] == row["profile_environment:device"] == "Invented CPU"
    assert row["inference:overlap"] == 0.0 and row["profile:repeats"] == 3


def test_gpu_headline_is_the_process_by_nvml(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite())
    memory = {"rss": None, "nvml_process": 1818 * 2**20, "nvml_device": 9 * 2**30}
    invented.put(tmp_path, invented.profile("potsdam", "scpseg", backend="nvml", memory=memory))
    row = collect(tmp_path, chosen, available=False).to_dict("records")[0]
    assert (row["memory_mib"], row["memory_backend"]) == (1818.0, "nvml")


def test_headline_that_could_not_be_measured_is_empty_with_its_reason(
    tmp_path: Path, invented: Any, suite: Any
) -> None:
    chosen = invented.fill(tmp_path, suite())
    memory = {"nvml_process": None, "torch_reserved": 2**30}
    profile = invented.profile("potsdam", "patch", backend="nvml", memory=memory)
    profile["unavailable"] = {"nvml_process": "the driver shows no processes here"}
    invented.put(tmp_path, profile)
    row = collect(tmp_path, chosen, available=False).to_dict("records")[1]
    assert row["memory_mib"] is None
    assert row["profile_reason"] == "nvml_process is unavailable: the driver shows no processes here"


def test_workload_that_did_not_fit_is_a_row(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite())
    invented.put(tmp_path, invented.out_of_memory("potsdam", "patch"))
    row = collect(tmp_path, chosen, available=False).to_dict("records")[1]
    assert (row["status"], row["profile_status"], row["memory_mib"]) == ("ok", "oom", None)
    assert row["profile_reason"] == "it does not fit into 24564 MiB"
    assert row["model:patch"] == 64


def test_missing_run_is_a_row_with_its_reason(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite(seeds=(0, 1)))
    (tmp_path / "metrics/potsdam/patch/1/metrics.json").unlink()
    row = collect(tmp_path, chosen, available=True).to_dict("records")[3]
    assert (row["method"], row["seed"], row["status"], row["mean_iou"]) == ("patch", 1, "missing", None)
    assert "no metrics" in row["reason"]
    assert row["memory_mib"] is not None and row["segmenter:name"] == "deeplabv3plus"


@pytest.mark.parametrize("name", ["metrics/potsdam/patch/0/metrics.json", "profile/potsdam/patch.json"])
def test_missing_file_is_rejected_unless_allowed(tmp_path: Path, invented: Any, suite: Any, name: str) -> None:
    chosen = invented.fill(tmp_path, suite())
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"patch.*is missing.*make report"):
        collect(tmp_path, chosen, available=False)
    assert len(collect(tmp_path, chosen, available=True)) == 2


def test_damaged_foreign_and_outdated_files_are_rejected(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite())
    path = tmp_path / "metrics/potsdam/patch/0/metrics.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not valid JSON"):
        collect(tmp_path, chosen, available=True)
    path.write_text(whole.replace('"seed": 0', '"seed": 3'))
    with pytest.raises(UserError, match="does not belong to seed 0"):
        collect(tmp_path, chosen, available=True)
    path.write_text(whole.replace('"accuracy"', '"exactness"'))
    with pytest.raises(UserError, match=r"lacks metrics\.accuracy"):
        collect(tmp_path, chosen, available=True)


def test_table_survives_a_way_through_csv(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite(("deepglobe", "potsdam")))
    invented.put(tmp_path, invented.metrics("potsdam", "patch", 0, warnings=["one, with a comma", 'two "quoted"']))
    (tmp_path / "metrics/deepglobe/patch/0/metrics.json").unlink()
    text = collect(tmp_path, chosen, available=True).to_csv(index=False, lineterminator="\n")
    rows = list(csv.DictReader(text.splitlines()))
    # Integers stay integers beside missing cells.
    assert [row["images"] for row in rows] == ["4", "", "4", "4"]
    assert rows[0]["iou:car"] == "" and rows[2]["iou:urban"] == ""
    assert rows[3]["warnings"] == 'one, with a comma | two "quoted"'
    assert rows[0]["synthetic"] == "True"


def test_reporting_needs_no_torch() -> None:
    code = "import sys, scpseg.reporting.build; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
