from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from scpseg.benchmarks import BENCHMARKS, REAL
from scpseg.errors import UserError
from scpseg.reporting.build import build_report

ALL = REAL


def build(root: Path, chosen: Any, available: bool = False) -> str:
    build_report(root / "results", root / "reports", chosen, available)
    return (root / "reports/README.md").read_text(encoding="utf-8")


def written(root: Path) -> dict[str, bytes]:
    files = [*(root / "reports").rglob("*.*"), *(root / "results").glob("summary.*")]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_first_line_says_that_scenes_are_synthetic(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path / "results", suite())
    first, *rest = build(tmp_path, chosen).splitlines()
    assert re.search("synthetic.*no statement about the real benchmarks", first, re.IGNORECASE)
    assert any("random weights" in line for line in rest[:4])


def test_real_scenes_and_trained_weights_have_no_such_line(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path / "results", suite(baselines=()), with_pictures=True)
    record = invented.metrics("potsdam", "scpseg", 0, synthetic=False)
    record["segmenter"] = record["segmenter"] | {"weights": "imagenet, torchvision"}
    invented.put(tmp_path / "results", record)
    page = build(tmp_path, chosen)
    assert page.startswith("# Accuracy against peak memory\n")
    assert "Images of 6000 × 6000 pixels of 0.05 m, scored on 4 of 14 test images, trained on 8 of 18 (" in page
    # The benchmark's terms: its images do not enter the repository.
    assert (tmp_path / "reports/examples/potsdam.png").is_file()
    assert not list((tmp_path / "reports/figures").glob("*-examples.png"))
    assert "](examples/potsdam.png)" in page and "not part of the repository" in page


def test_two_builds_are_the_same_bytes(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = suite(("potsdam", "inria"), ("patch", "glnet"), (0, 1, 2))
    outputs = []
    for name in ("a", "b"):
        invented.fill(tmp_path / name / "results", chosen, with_pictures=True)
        build(tmp_path / name, chosen)
        outputs.append(written(tmp_path / name))
    assert outputs[0] == outputs[1]
    assert {Path(name).suffix for name in outputs[0]} == {".png", ".svg", ".csv", ".json", ".md"}
    build(tmp_path / "a", chosen)
    assert written(tmp_path / "a") == outputs[0]


def test_tables_are_well_formed_and_links_lead_somewhere(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path / "results", suite(ALL, ("patch", "glnet"), (0, 1)), with_pictures=True)
    (tmp_path / "results/metrics/blu/glnet/1/metrics.json").unlink()
    (tmp_path / "results/profile/inria/patch.json").unlink()
    page = build(tmp_path, chosen, available=True)
    tables = [block for block in page.split("\n\n") if block.startswith("| ")]
    assert len(tables) == 1 + 4 * len(ALL) + 1
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
        assert re.fullmatch(r"(\| (:--|--:) )+\|", table.splitlines()[1])
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert len(links) == 2 + 3 * len(ALL)
    assert all((tmp_path / "reports" / link).is_file() for link in links)
    assert "1 of 24 declared runs are missing" in page
    assert "GLNet: seed 1: no metrics" in page
    assert "Patch: memory and speed: no profile" in page


def test_page_tells_images_warnings_terms_and_environment(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path / "results", suite(("deepglobe",)))
    for method in ("scpseg", "patch"):
        invented.put(tmp_path / "results", invented.metrics("deepglobe", method, 0, warnings=["a warning of the data"]))
    page = build(tmp_path, chosen)
    assert "Scored on 4 of 142 test images, trained on 8 of 454 (split `glnet`)." in page
    assert "images of 384 × 384 pixels, not the benchmark's 2448 × 2448" in page
    assert "- a warning of the data\n" in page
    assert BENCHMARKS["deepglobe"].citation in page and BENCHMARKS["deepglobe"].terms in page
    assert "Invented CPU" in page and "iterations `300`" in page and "``" not in page and "0123abc" in page


def test_mixed_hardware_and_meters_are_explained(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path / "results", suite(baselines=("patch", "glnet")))
    gpu = invented.environment("Invented GPU")
    invented.put(tmp_path / "results", invented.profile("potsdam", "glnet", backend="nvml", environment=gpu))
    page = build(tmp_path, chosen)
    assert "- † memory and speed measured on other hardware" in page
    assert "different meters (nvml and rss)" in page
    assert "2678 †" in page


def test_metrics_file_is_small_and_nested_by_benchmark_and_method(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path / "results", suite(("potsdam", "blu"), ("patch",), (0, 1)))
    (tmp_path / "results/profile/blu/patch.json").unlink()
    build(tmp_path, chosen, available=True)
    found = json.loads((tmp_path / "results/summary.json").read_text())
    assert {name: sorted(methods) for name, methods in found.items()} == {
        "potsdam": ["patch", "scpseg"],
        "blu": ["patch", "scpseg"],
    }
    scores = [invented.metrics("potsdam", "scpseg", seed)["metrics"]["mean_iou"] for seed in (0, 1)]
    assert found["potsdam"]["scpseg"] == {"miou": pytest.approx(sum(scores) / 2, abs=5e-5), "memory_mib": 214.0}
    assert found["blu"]["patch"]["memory_mib"] is None


def test_pictures_of_benchmarks_that_left_the_suite_go(tmp_path: Path, invented: Any, suite: Any) -> None:
    invented.fill(tmp_path / "results", suite(("potsdam", "blu")), with_pictures=True)
    build(tmp_path, suite(("potsdam", "blu")))
    build(tmp_path, suite(("potsdam",)))
    names = {path.name for path in (tmp_path / "reports/figures").iterdir()}
    assert names == {"potsdam.png", "potsdam.svg", "potsdam-examples.png", "overview.png", "overview.svg"}


def test_no_result_at_all_leaves_the_report_that_is_there(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path / "results", suite(("potsdam", "blu")), with_pictures=True)
    build(tmp_path, chosen)
    for name in ("metrics", "profile"):
        shutil.rmtree(tmp_path / "results" / name)
    before = written(tmp_path)
    with pytest.raises(UserError, match="neither scores nor profile of any declared run"):
        build(tmp_path, chosen, available=True)
    assert written(tmp_path) == before and len(before) > 8
    # A profile alone is a result, were it only that it did not fit.
    invented.put(tmp_path / "results", invented.out_of_memory("blu", "patch"))
    page = build(tmp_path, chosen, available=True)
    assert "4 of 4 declared runs are missing" in page.splitlines()[0]
    assert page.count("Nothing of this benchmark is there yet.") == 1


def test_what_is_missing_is_counted_by_reason(tmp_path: Path, invented: Any, suite: Any) -> None:
    results, chosen = (
        tmp_path / "results",
        invented.fill(tmp_path / "results", suite(("potsdam", "blu"), ("patch",), (0, 1))),
    )
    assert build_report(results, tmp_path / "reports", chosen, True) == []
    for seed in (0, 1):
        (results / f"metrics/blu/patch/{seed}/metrics.json").unlink()
    (results / "profile/potsdam/patch.json").unlink()
    invented.put(results, invented.out_of_memory("blu", "patch"))
    assert build_report(results, tmp_path / "reports", chosen, True) == [
        "2 of 8 runs without a result: 2 × no metrics: the run was not trained and evaluated",
        "2 of 4 profiles without a result: 1 × no profile: it was not measured; 1 × it does not fit into 24564 MiB",
    ]
