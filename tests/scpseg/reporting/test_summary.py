from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scpseg.errors import UserError
from scpseg.reporting.collect import collect
from scpseg.reporting.memory import Peak
from scpseg.reporting.summary import Line, read_matrices, summarise


def texts(line: Line, column: str | None = None) -> list[str]:
    return [text for where, text in line.flags if column in (None, where)]


def test_line_averages_the_seeds_of_its_own_method(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite(seeds=(0, 1, 2)))
    scpseg, patch = summarise(collect(tmp_path, chosen, available=False))
    for line in (scpseg, patch):
        records = [invented.metrics("potsdam", line.method, seed)["metrics"] for seed in (0, 1, 2)]
        assert line.mean_iou.mean == pytest.approx(sum(record["mean_iou"] for record in records) / 3)
        assert line.estimate("iou:tree").mean == pytest.approx(sum(record["iou"]["tree"] for record in records) / 3)


def test_other_hardware_is_noticed_where_it_differs(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite(baselines=("patch", "glnet")))
    invented.put(tmp_path, invented.profile("potsdam", "glnet", environment=invented.environment("Another CPU")))
    invented.put(tmp_path, invented.metrics("potsdam", "patch", 0, environment=invented.environment("Another CPU")))
    lines = summarise(collect(tmp_path, chosen, available=False))
    assert [any("other hardware" in text for text in texts(line, "seconds")) for line in lines] == [False, False, True]
    assert [any("other hardware" in text for text in texts(line, "mean_iou")) for line in lines] == [False, True, False]


def test_profiled_memory_stands_in_only_where_nothing_else_is_known(tmp_path: Path, invented: Any, suite: Any) -> None:
    frame = collect(tmp_path, invented.fill(tmp_path, suite()), available=False)
    assert [line.peak for line in summarise(frame)] == [line["memory_mib"] for line in summarise(frame)]
    scpseg, patch = summarise(frame, {("potsdam", "scpseg"): Peak(5.0, "computed")})
    assert (scpseg.peak, patch.peak) == (5.0, None) and patch["memory_mib"] is not None


def test_settings_that_differ_are_told(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite(seeds=(0, 1)))
    changed = invented.metrics("potsdam", "scpseg", 1)
    changed["model"]["squeezed"] = 32
    invented.put(tmp_path, changed)
    profile = invented.profile("potsdam", "patch")
    profile["model"]["patch"] = 512
    invented.put(tmp_path, profile)
    scpseg, patch = summarise(collect(tmp_path, chosen, available=False))
    assert texts(scpseg) == ["seeds differ in model squeezed: 48, 32"]
    assert texts(patch) == ["profile of other settings: patch 512 against 64"]


def test_settings_of_dropped_parts_do_not_concern_the_profile(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite())
    run, profile = invented.metrics("potsdam", "scpseg", 0), invented.profile("potsdam", "scpseg")
    run["model"] |= {"srd_weight": 0.0, "csm_kernel": "bilinear"}
    profile["model"] |= {"srd_weight": 0.1, "csm_kernel": "antialias"}
    invented.put(tmp_path, run)
    invented.put(tmp_path, profile)
    scpseg, _ = summarise(collect(tmp_path, chosen, available=False))
    assert texts(scpseg) == ["profile of other settings: csm_kernel antialias against bilinear"]


def test_memory_of_another_network_is_told(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite())
    other = invented.profile("potsdam", "patch", overlap=0.5, windows_per_batch=8)
    other["segmenter"] = other["segmenter"] | {"name": "fcn8s", "encoder": "resnet50", "weights": "none"}
    invented.put(tmp_path, other)
    scpseg, patch = summarise(collect(tmp_path, chosen, available=False))
    assert texts(scpseg) == []
    assert texts(patch) == [
        "profile of other settings: segmenter name fcn8s against deeplabv3plus",
        "profile of other settings: segmenter encoder resnet50 against resnet18",
        "profile of other settings: inference overlap 0.5 against 0.0",
        "profile of other settings: inference batch 8 against 1",
    ]


def test_seeds_of_different_recipes_are_told(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite(seeds=(0, 1)))
    changed = invented.metrics("potsdam", "scpseg", 1)
    changed["training"] |= {"precision": "bf16", "seconds": 7.0, "weights_hash": "aa"}
    invented.put(tmp_path, changed)
    scpseg, _ = summarise(collect(tmp_path, chosen, available=False))
    assert texts(scpseg) == ["seeds differ in training precision: fp32, bf16"]


def test_gaps_name_seeds_and_reasons(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite(seeds=(0, 1, 2)))
    (tmp_path / "metrics/potsdam/patch/1/metrics.json").unlink()
    record = invented.metrics("potsdam", "patch", 2)
    record["metrics"] |= {"absent": ["car"], "mean_iou": None, "mean_f1": None}
    invented.put(tmp_path, record)
    invented.put(tmp_path, invented.out_of_memory("potsdam", "scpseg"))
    states = {
        ("potsdam", "scpseg", 2): ("failed", "the loss is not finite"),
        ("potsdam", "scpseg", 1): ("stale", "old"),
    }
    scpseg, patch = summarise(collect(tmp_path, chosen, True, states))
    assert "seed 2: failed: the loss is not finite" in texts(scpseg, "mean_iou")
    assert "seed 1: stale: old" in texts(scpseg, "mean_iou") and scpseg.mean_iou.n == 1
    assert any("out of memory" in text and "24564 MiB" in text for text in texts(scpseg, "seconds"))
    assert any(text.startswith("seed 1: missing: no metrics") for text in texts(patch))
    assert any(text.startswith("seed 2: ") and text.endswith("left out of the mean: car") for text in texts(patch))
    assert any("no scored class" in text for text in texts(patch)) and patch.mean_iou.n == 1


def test_doubts_are_beside_the_number_that_they_are_about(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill_whole(tmp_path, suite(("deepglobe",), ("patch", "glnet"), (0, 1)))
    assert [texts(line, "mean_iou") for line in summarise(collect(tmp_path, chosen, False))] == [[], [], []]
    record = invented.metrics("deepglobe", "glnet", 1)
    record["metrics"]["mean_iou"] = 0.1
    record["model"] |= {"direction": "to_local", "recipe": "author"}
    invented.put(tmp_path, record | {"branches": {"overview": 0.6, "local": 0.05}})
    glnet = summarise(collect(tmp_path, chosen, False))[2]
    assert any("below its own overview branch alone" in text for text in texts(glnet, "mean_iou"))
    assert not any("local branch" in text for text in texts(glnet, "mean_iou"))


def test_published_figures_of_another_mode_and_recipe_are_told(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite(baselines=("glnet",)))
    record = invented.metrics("potsdam", "glnet", 0)
    record["model"] |= {"direction": "to_local", "recipe": "author"}
    invented.put(tmp_path, record)
    _, glnet = summarise(collect(tmp_path, chosen, False))
    assert "to_local" in texts(glnet, "published")[0] and "author" in texts(glnet, "method")[0]


def test_damaged_matrices_are_a_sentence_and_missing_ones_none(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill_whole(tmp_path, suite(("blu",), (), (0,)))
    (line,) = summarise(collect(tmp_path, chosen, False))
    path = tmp_path / "metrics/blu/scpseg/0/confusion.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"confusion\.npz is damaged"):
        read_matrices(tmp_path, line.rows[0])
    np.savez(path, ids=np.array(["a"]), matrices=np.zeros((1, 2, 2), np.int64))
    with pytest.raises(UserError, match="6 x 6 matrix"):
        read_matrices(tmp_path, line.rows[0])
    path.unlink()
    assert read_matrices(tmp_path, line.rows[0]) is None
    assert replace(line, rows=()).done == []
