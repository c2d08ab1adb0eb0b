from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scpseg.reporting.collect import collect
from scpseg.reporting.summary import estimate, summarise


def test_interval_equals_a_hand_computed_one() -> None:
    # Mean 0.72; deviations -0.02, 0.00, 0.02, so s = 0.02; t(0.975, 2) = 4.30265; 4.30265 * 0.02 / sqrt(3) = 0.049683.
    found = estimate([0.70, 0.72, 0.74])
    assert found.n == 3
    assert found.mean == pytest.approx(0.72)
    assert found.half == pytest.approx(0.049683, abs=1e-6)


def test_interval_of_two_uses_one_degree_of_freedom() -> None:
    # s = 0.01 * sqrt(2); t(0.975, 1) = 12.7062; half = 12.7062 * 0.01 * sqrt(2) / sqrt(2).
    assert estimate([0.5, 0.52]).half == pytest.approx(0.127062, abs=1e-6)


def test_one_seed_has_no_interval_and_none_is_no_value() -> None:
    assert (estimate([0.4]).mean, estimate([0.4]).half, estimate([0.4]).n) == (0.4, None, 1)
    assert estimate([None, 0.4, None]) == estimate([0.4])
    assert (estimate([None]).mean, estimate([]).n) == (None, 0)


def test_line_averages_the_seeds_of_its_own_method(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite(seeds=(0, 1, 2)))
    scpseg, patch = summarise(collect(tmp_path, chosen, available=False))
    for line in (scpseg, patch):
        records = [invented.metrics("potsdam", line.method, seed)["metrics"] for seed in (0, 1, 2)]
        assert line.mean_iou.mean == pytest.approx(sum(record["mean_iou"] for record in records) / 3)
        assert line.iou["tree"].mean == pytest.approx(sum(record["iou"]["tree"] for record in records) / 3)
    assert scpseg.sizes == (64, 128, 48, None)


def test_other_hardware_is_noticed_where_it_differs(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite(baselines=("patch", "glnet")))
    invented.put(tmp_path, invented.profile("potsdam", "glnet", environment=invented.environment("Another CPU")))
    invented.put(tmp_path, invented.metrics("potsdam", "patch", 0, environment=invented.environment("Another CPU")))
    scpseg, patch, glnet = summarise(collect(tmp_path, chosen, available=False))
    assert (scpseg.profiled_elsewhere, patch.profiled_elsewhere, glnet.profiled_elsewhere) == (False, False, True)
    assert (scpseg.trained_elsewhere, patch.trained_elsewhere, glnet.trained_elsewhere) == (False, True, False)


def test_settings_that_differ_are_told(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite(seeds=(0, 1)))
    changed = invented.metrics("potsdam", "scpseg", 1)
    changed["model"]["squeezed"] = 32
    invented.put(tmp_path, changed)
    profile = invented.profile("potsdam", "patch")
    profile["model"]["patch"] = 512
    invented.put(tmp_path, profile)
    scpseg, patch = summarise(collect(tmp_path, chosen, available=False))
    assert scpseg.problems == ("seeds differ in model squeezed: 48, 32",)
    assert patch.problems == ("profile of other settings: patch 512 against 64",)


def test_memory_of_another_network_is_told(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite())
    other = invented.profile("potsdam", "patch", overlap=0.5, windows_per_batch=8)
    other["segmenter"] = other["segmenter"] | {"name": "fcn8s", "encoder": "resnet50", "weights": "none"}
    invented.put(tmp_path, other)
    scpseg, patch = summarise(collect(tmp_path, chosen, available=False))
    assert scpseg.problems == ()
    assert patch.problems == (
        "profile of other settings: segmenter name fcn8s against deeplabv3plus",
        "profile of other settings: segmenter encoder resnet50 against resnet18",
        "profile of other settings: inference overlap 0.5 against 0.0",
        "profile of other settings: inference batch 8 against 1",
    )


def test_seeds_of_different_recipes_are_told(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite(seeds=(0, 1)))
    changed = invented.metrics("potsdam", "scpseg", 1)
    changed["training"] |= {"precision": "bf16", "seconds": 7.0, "weights_hash": "aa"}
    invented.put(tmp_path, changed)
    scpseg, _ = summarise(collect(tmp_path, chosen, available=False))
    assert scpseg.problems == ("seeds differ in training precision: fp32, bf16",)
