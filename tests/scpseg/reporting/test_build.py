from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from scpseg.benchmarks import BENCHMARKS
from scpseg.benchmarks.base import NOTE
from scpseg.errors import UserError
from scpseg.reporting import build as module
from scpseg.reporting.build import build_report
from scpseg.reporting.memory import Peak

pytestmark = pytest.mark.usefixtures("undrawn")
TWO = ("deepglobe", "inria")


@pytest.fixture(autouse=True)
def peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed memory of every method."""
    names = ("scpseg", "patch", "downscale", "glnet")
    found = {(b, m): Peak(100.0 + 50 * n, "computed", training=999.0) for b in BENCHMARKS for n, m in enumerate(names)}
    monkeypatch.setattr(module, "read_peaks", lambda results, problem: (found, {}))


def build(root: Path, chosen: Any, available: bool = False, **more: Any) -> str:
    build_report(root / "results", root / "reports", chosen, available, **more)
    return (root / "reports/README.md").read_text(encoding="utf-8")


def page(root: Path) -> str:
    return (root / "reports/index.html").read_text(encoding="utf-8")


def table(root: Path, name: str) -> dict[str, dict[str, str]]:
    """Rows of a table's file by their first cell."""
    with (root / f"reports/tables/{name}.csv").open(encoding="utf-8", newline="") as stream:
        return {next(iter(row.values())): row for row in csv.DictReader(stream)}


def written(root: Path) -> dict[str, bytes]:
    files = [*(root / "reports").rglob("*.*"), *(root / "results").glob("summary.*")]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


class Page(HTMLParser):
    """Collects what a page would fetch, its anchors and their targets, and that tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.fetched += [found[name] or "" for name in ("src", "srcset", "data", "poster", "action") if name in found]
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found["href"] or ""] if tag == "a" else []
        if tag in ("link", "use", "image"):
            self.fetched.append(found.get("href") or found.get("xlink:href") or "")
        if tag not in ("meta", "link", "br", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_first_line_says_that_scenes_are_synthetic(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path / "results", suite())
    first, *rest = build(tmp_path, chosen).splitlines()
    assert re.search("synthetic.*say nothing about the real benchmarks", first, re.IGNORECASE)
    assert any("random weights" in line.lower() for line in rest[:4])
    assert (
        "Synthetic scenes." in page(tmp_path)
        and NOTE in page(tmp_path)
        and "not drawn beside scores of procedural scenes" in page(tmp_path)
    )


def test_real_images_are_shown_at_home_and_left_out_of_what_is_published(
    tmp_path: Path, invented: Any, suite: Any
) -> None:
    chosen = invented.fill_whole(tmp_path / "results", suite(("potsdam", "blu"), (), (0,)), synthetic=False)
    record = invented.metrics("potsdam", "scpseg", 0, synthetic=False)
    record["segmenter"] = record["segmenter"] | {"weights": "imagenet, torchvision"}
    invented.put(tmp_path / "results", record)
    readme = build(tmp_path, chosen)
    assert "Synthetic" not in readme and "Networks of scpseg on blu started" in readme
    assert "Images of 6000 × 6000 pixels of 0.05 m, scored on 4 of 14 test images, trained on 8 of 18 (" in readme
    assert "](figures/potsdam-examples.png)" in readme and "data:image/webp" in page(tmp_path)
    assert "data:image/webp" not in page(tmp_path).partition("</style>")[2]
    readme = build(tmp_path, chosen, public=True)
    assert "data:image/webp" not in page(tmp_path) and "examples.png" not in readme
    assert not list((tmp_path / "reports/figures").glob("*-examples.png"))
    chosen = invented.fill_whole(tmp_path / "results", suite(("dubai",), (), (0,)), synthetic=False)
    assert "examples.png" in build(tmp_path, chosen, public=True)  # in the public domain


def test_real_benchmarks_come_before_synthetic_ones(tmp_path: Path, invented: Any, suite: Any) -> None:
    invented.fill_whole(tmp_path / "results", suite(("blu",), ("patch",), (0,)))
    invented.fill_whole(tmp_path / "results", suite(("dubai",), ("patch",), (0,)), synthetic=False)
    readme = build(tmp_path, suite(("deepglobe", "blu", "dubai"), ("patch",), (0,)), available=True)
    assert re.findall(r'<section id="(\w+)">', page(tmp_path))[:3] == ["dubai", "deepglobe", "blu"]
    assert readme.index("## Dubai") < readme.index("## BLU") and "Images of BLU are procedural scenes" in readme
    assert NOTE in readme.partition("## What is not verified")[2]


def test_one_seed_detects_nothing(tmp_path: Path, invented: Any, suite: Any) -> None:
    said = [build(tmp_path, invented.fill_whole(tmp_path / "results", suite(seeds=seeds))) for seeds in ((0,), (0, 1))]
    assert ["seeds detect differences" in text for text in said] == [False, True]


def test_branches_are_scored_beside_the_output(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path / "results", suite(("potsdam",), ("patch", "glnet"), (0, 1)))
    readme = build(tmp_path, chosen)
    rows = table(tmp_path, "branches-potsdam")
    assert list(rows) == ["GLNet"] and list(rows["GLNet"]) == ["method", "output", "overview alone"]
    output, alone = (float(rows["GLNet"][name].split()[0]) for name in ("output", "overview alone"))
    assert output - alone == pytest.approx(5, abs=0.11) and f"| {rows['GLNet']['overview alone']} |" in readme
    build(tmp_path, suite(("potsdam",), ("patch",), (0, 1)))
    assert not (tmp_path / "reports/tables/branches-potsdam.csv").exists()


def test_training_is_shown_by_branch(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = suite(("potsdam",), ("glnet",), (0,))
    invented.fill(tmp_path / "results", chosen)
    record = invented.metrics("potsdam", "glnet", 0)
    record["training"]["branches"]["overview"] = {"steps": 75, "samples": 600, "megapixels": 2.4576}
    invented.put(tmp_path / "results", record)
    seconds = tmp_path / "results/provenance/potsdam/glnet/0/training.json"
    seconds.write_text(json.dumps(json.loads(seconds.read_text()) | {"branch_seconds": {"all": 50.0, "overview": 9.8}}))
    readme = build(tmp_path, chosen)
    assert "| GLNet | all | 300 | 2400 | 157.3 | 50 |\n| GLNet | overview | 75 | 600 | 2.5 | 10 |\n" in readme


def test_dominated_is_tested_and_not_a_comparison_of_points(tmp_path: Path, invented: Any, suite: Any) -> None:
    def dominated(seeds: tuple[int, ...]) -> dict[str, str]:
        chosen = suite(("deepglobe",), ("patch", "glnet"), seeds)
        invented.fill_whole(tmp_path / "results", chosen)
        build(tmp_path, chosen)
        return {name: row.get("dominated by", "–") for name, row in table(tmp_path, "main-deepglobe").items()}

    found, memory = dominated((0, 1, 2)), table(tmp_path, "main-deepglobe")
    assert found["GLNet"] == "SCPSeg" and found["SCPSeg"] == "–"
    with (tmp_path / "reports/tables/pairs-deepglobe.csv").open(encoding="utf-8") as stream:
        verdicts = {frozenset((row["method"], row["compared with"])): row["verdict"] for row in csv.DictReader(stream)}
    size = "memory MiB (computed)"
    for one, other in itertools.permutations(found, 2):
        less = float(memory[one][size]) <= float(memory[other][size])
        won = less and verdicts[frozenset((one, other))] == f"{one} better"
        assert (one in found[other]) == won
    assert set(dominated((0,)).values()) == {"–"}


def test_what_was_found_about_a_score_is_beside_it(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen, path = invented.fill(tmp_path / "results", suite()), tmp_path / "reports/remarks.csv"
    path.parent.mkdir()
    path.write_text('benchmark,method,remark\npotsdam,patch,"too few steps, | seen"\nblu,patch,elsewhere\n')
    readme = build(tmp_path, chosen)
    assert "too few steps, \\| seen" in readme and "elsewhere" not in readme and path.is_file()
    path.write_text("benchmark,text\npotsdam,late\n")
    with pytest.raises(UserError, match=r"reports/remarks\.csv must be CSV with the columns benchmark, method, remark"):
        build(tmp_path, chosen)


def test_scores_of_a_rotation_are_shown_by_fold(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path / "results", suite(("dubai", "blu"), ("patch",), (0, 1)))
    for seed in (0, 1):
        folds = [{"test": ["1", "2"], "mean_iou": 0.5 + fold / 10 + seed / 100} for fold in range(3)]
        folds.append({"test": ["3"], "mean_iou": None})
        record = invented.metrics("dubai", "scpseg", seed, synthetic=False, folds=folds)
        invented.put(tmp_path / "results", record)
        invented.put(tmp_path / "results", invented.metrics("dubai", "patch", seed, synthetic=False))
    readme = build(tmp_path, chosen)
    rows = table(tmp_path, "folds-dubai")
    assert rows["SCPSeg"]["fold 1"].startswith("60.5 ± ") and "fold 3" not in rows["SCPSeg"]
    assert rows["Patch"]["fold 1"] == "–" and not (tmp_path / "reports/tables/folds-blu.csv").exists()
    assert "by rotation (3 networks" in readme and readme.count("by rotation") == 1


def test_rates_at_the_edge_of_the_grid_are_said_once_if_all_are(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill_whole(tmp_path / "results", suite(("blu",), ("patch",), (0,)))
    for method in (None, "scpseg", "patch"):
        if method:
            record = invented.metrics("blu", method, 0)
            record["training"] |= {"optimizer": "sgd", "learning_rate": 0.05}
            invented.put(tmp_path / "results", record)
        readme = build(tmp_path, chosen)
        rows = table(tmp_path, "main-blu")
        assert ("edge of its candidates" in rows["SCPSeg"].get("notes", "")) == (method == "scpseg")
        assert readme.count("Every learning rate is the lowest or highest") == (method == "patch")


def test_published_points_are_hollow_beside_real_test_images_only(tmp_path: Path, invented: Any, suite: Any) -> None:
    for changes, shown in (({}, False), ({"synthetic": False}, True), ({"synthetic": False, "split": "val"}, False)):
        chosen = invented.fill_whole(tmp_path / "results", suite(("potsdam",), ("patch",), (0,)), **changes)
        build(tmp_path, chosen)
        assert ("PSPNet, published: 82.3 %, 6289 MB" in page(tmp_path)) == shown
        paper = table(tmp_path, "main-potsdam")["SCPSeg"].get("paper mIoU %")
        assert paper == (None if changes.get("split") == "val" else "87.6")
    assert "PSPNet" in table(tmp_path, "published-potsdam")


def test_rivals_have_their_published_figures_and_parameters(tmp_path: Path, invented: Any, suite: Any) -> None:
    rivals = {"rue": {"share": 0.5}, "fctl": {}, "wiconet": {"patch": 256}, "glnet": {"direction": "both"}}
    chosen = invented.fill_whole(tmp_path / "results", suite(("deepglobe",), tuple(rivals), (0,)))
    for method, settings in rivals.items():
        record = invented.metrics("deepglobe", method, 0)
        record["model"] |= {"encoder": "resnet50", **settings}
        invented.put(tmp_path / "results", record)
    build(tmp_path, chosen)
    rows = table(tmp_path, "main-deepglobe")
    assert (rows["RUE"]["paper mIoU %"], rows["FCtL"]["paper MB"]) == ("75.1", "3167")
    assert "of share '1.0', this row of '0.5'" in rows["RUE"]["notes"] and "from RUE, CVPR 2025" in rows["RUE"]["notes"]
    rows = table(tmp_path, "networks-deepglobe")
    authors = [rows[name]["authors' M"] for name in ("SCPSeg", "RUE", "FCtL", "WiCoNet", "GLNet")]
    assert authors == ["–", "13.70", "170.04", "39.07", "102.74"] and rows["RUE"]["parameters M"] == "2.35"
    assert "Qinrong-NKU/RUE" in rows["RUE"]["notes"] and "patch 256" not in rows["WiCoNet"]["notes"]
    record = invented.metrics("deepglobe", "wiconet", 0)
    record["model"] |= {"encoder": "resnet50", "patch": 64}
    invented.put(tmp_path / "results", record)
    build(tmp_path, chosen)
    row = table(tmp_path, "networks-deepglobe")["WiCoNet"]
    assert row["authors' M"] == "39.07" and "with patch 256" in row["notes"]


@pytest.mark.drawn
def test_two_builds_are_the_same_bytes(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = suite(("inria",), ("patch",), (0, 1))
    outputs = []
    for name in ("a", "b"):
        invented.fill_whole(tmp_path / name / "results", chosen, images=3)
        build(tmp_path / name, chosen)
        outputs.append(written(tmp_path / name))
    assert outputs[0] == outputs[1]
    assert {Path(name).suffix for name in outputs[0]} == {
        *(".png", ".svg", ".pdf", ".csv", ".tex", ".json", ".md", ".html")
    }
    build(tmp_path / "a", chosen)
    assert written(tmp_path / "a") == outputs[0]
    assert not any(str(tmp_path).encode() in content for content in outputs[0].values())


@pytest.mark.drawn
def test_page_is_one_file_that_fetches_nothing_and_its_links_lead_somewhere(
    tmp_path: Path, invented: Any, suite: Any
) -> None:
    chosen = invented.fill_whole(tmp_path / "results", suite(TWO, ("patch", "glnet"), (0, 1)), images=4)
    readme = build(tmp_path, chosen)
    text = page(tmp_path)
    found = Page(re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL))
    assert all(not address or address.startswith(("#", "data:")) for address in found.fetched)
    assert len(found.ids) == len(set(found.ids))
    assert all(link.startswith("#") and link[1:] in found.ids for link in found.links)
    assert all(address.startswith("data:") for address in re.findall(r"url\((?!#)([^)]+)", text))
    assert "default-src 'none'" in text and len(text) < 3_000_000
    for name in ("Patch", "GLNet", "SCPSeg"):
        assert text.count(f'<th scope="row" class="l" data-v="{name}">') >= 3 * len(TWO)
    links = re.findall(r"\]\(([^)]+)\)", readme)
    assert len(links) >= 2 * len(TWO) + 2 and all((tmp_path / "reports" / link).is_file() for link in links)
    for block in (block for block in readme.split("\n\n") if block.startswith("| ")):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1
        assert re.fullmatch(r"\|( (:--|--:) \|)+", rows[1])


def test_tables_hold_the_numbers(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill_whole(tmp_path / "results", suite(("deepglobe", "inria"), ("patch", "glnet"), (0, 1, 2)))
    build(tmp_path, chosen)
    rows = table(tmp_path, "main-deepglobe")
    scpseg, glnet = rows["SCPSeg"], rows["GLNet"]
    scores = [
        json.loads((tmp_path / f"results/metrics/deepglobe/scpseg/{seed}/metrics.json").read_text())["metrics"][
            "mean_iou"
        ]
        for seed in (0, 1, 2)
    ]
    assert scpseg["mIoU %"].startswith(f"{100 * sum(scores) / 3:.1f} ± ")
    assert (scpseg["memory MiB (computed)"], scpseg["paper mIoU %"], scpseg["paper MB"]) == ("100", "74.0", "2124")
    assert (scpseg["s / image"], scpseg["MPx / s"], scpseg["seeds"]) == ("0.41", "0.36", "3")
    assert (scpseg["training step MiB"], scpseg["profiled MiB"], scpseg["meter"]) == ("999", "214", "rss")
    assert rows["Patch"]["to Patch"] == "reference" and "±" in glnet["to Patch"]
    assert glnet["dominated by"].startswith("SCPSeg") and re.fullmatch(r"\d(–\d)?", glnet["place"])
    assert table(tmp_path, "main-inria")["SCPSeg"]["building IoU %"]
    pairs = table(tmp_path, "pairs-deepglobe")["SCPSeg"]
    assert set(pairs) >= {"compared with", "difference", "p", "p (Holm)", "verdict", "detectable"}
    overview = table(tmp_path, "overview")
    assert list(overview) == ["SCPSeg", "Patch", "GLNet"] and overview["GLNet"]["mean place"]
    assert not [column for column in overview["SCPSeg"] if "mean" in column and "place" not in column]
    assert table(tmp_path, "classes-deepglobe")["SCPSeg"]["(unknown)"]
    runs = list(csv.DictReader((tmp_path / "reports/tables/runs.csv").read_text().splitlines()))
    assert {run["command"] for run in runs} >= {
        *("dvc repro evaluate-scpseg@deepglobe-0", "dvc repro evaluate-baseline@inria-glnet-2"),
    }


def test_a_method_with_one_seed_leaves_the_ranking_of_the_others(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill_whole(tmp_path / "results", suite(("blu",), ("patch", "glnet"), (0, 1)), images=6)
    (tmp_path / "results/metrics/blu/glnet/1/metrics.json").unlink()
    build(tmp_path, chosen, available=True)
    rows = table(tmp_path, "main-blu")
    assert rows["GLNet"]["place"] == "–" and rows["SCPSeg"]["place"] != "–" != rows["Patch"]["place"]


def test_one_seed_ranks_nothing(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill_whole(tmp_path / "results", suite(("blu",), ("patch",), (0,)))
    readme = build(tmp_path, chosen)
    assert "nothing is ranked and nothing is bold" in readme
    assert "place" not in table(tmp_path, "main-blu")["SCPSeg"] and "**7" not in readme
    assert table(tmp_path, "pairs-blu")["SCPSeg"]["verdict"] == "one seed"
    assert "<b>" not in re.sub(r"<(p|li|nav)[ >].*?</\1>", "", page(tmp_path))


def test_gaps_are_rows_with_their_reason(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill_whole(tmp_path / "results", suite(("potsdam",), ("patch", "glnet"), (0, 1)))
    (tmp_path / "results/metrics/potsdam/glnet/1/metrics.json").unlink()
    invented.put(tmp_path / "results", invented.out_of_memory("potsdam", "patch"))
    record = invented.metrics("potsdam", "scpseg", 0)
    record["metrics"] |= {"mean_iou": None, "mean_f1": None, "accuracy": None}
    record["metrics"] |= {name: dict.fromkeys(record["metrics"][name]) for name in ("iou", "f1")}
    invented.put(tmp_path / "results", record)
    states = {
        ("potsdam", "patch", 0): ("failed", "the loss <b>is</b> not finite"),
        ("potsdam", "patch", 1): ("stale", "old"),
    }
    readme = build(tmp_path, chosen, available=True, states=states)
    rows = table(tmp_path, "main-potsdam")
    assert (rows["Patch"]["mIoU %"], rows["Patch"]["seeds"], rows["GLNet"]["seeds"]) == ("–", "0 of 2", "1 of 2")
    assert (
        "seed 0: failed: the loss <b>is</b> not finite" in rows["Patch"]["notes"] and "±" not in rows["GLNet"]["mIoU %"]
    )
    assert "it does not fit into 24564 MiB" in rows["Patch"]["notes"] and rows["Patch"]["profiled MiB"] == "OOM"
    assert "no scored class" in rows["SCPSeg"]["notes"]
    assert "<b>is</b>" not in readme and "<b>is</b>" not in page(tmp_path)
    assert "3 of 6 declared runs have no current result (1 failed, 1 stale, 1 missing)" in readme
    statuses = [
        row["status"] for row in csv.DictReader((tmp_path / "reports/tables/runs.csv").read_text().splitlines())
    ]
    assert statuses == ["ok", "ok", "failed", "stale", "ok", "missing"]


def test_metrics_file_is_small_and_nested_by_benchmark_and_method(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path / "results", suite(("potsdam", "blu"), ("patch",), (0, 1)))
    build(tmp_path, chosen, available=True)
    found = json.loads((tmp_path / "results/summary.json").read_text())
    assert sorted((name, sorted(methods)) for name, methods in found.items()) == [
        *(("blu", ["patch", "scpseg"]), ("potsdam", ["patch", "scpseg"])),
    ]
    scores = [invented.metrics("potsdam", "scpseg", seed)["metrics"]["mean_iou"] for seed in (0, 1)]
    assert found["potsdam"]["scpseg"] == {"miou": pytest.approx(sum(scores) / 2, abs=5e-5), "memory_mib": 100.0}


def test_a_reference_that_is_not_in_the_suite_is_rejected(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path / "results", suite())
    with pytest.raises(UserError, match=r"--reference glnet: .*scpseg, patch"):
        build(tmp_path, chosen, reference="glnet")
    assert not (tmp_path / "reports").exists()


def test_what_left_the_suite_leaves_nothing_behind(tmp_path: Path, invented: Any, suite: Any) -> None:
    invented.fill_whole(tmp_path / "results", suite(("potsdam", "blu"), ("patch", "glnet"), (0, 1)))
    build(tmp_path, suite(("potsdam", "blu"), ("patch", "glnet"), (0, 1)))
    build(tmp_path, suite(("potsdam",), ("patch",), (0, 1)))
    for path, content in written(tmp_path).items():
        assert "blu" not in Path(path).name
        # The split list of that name, and the published figures of GLNet, stay.
        if Path(path).name not in ("summary.csv", "published-potsdam.csv", "published-potsdam.tex", "index.html"):
            assert b"glnet" not in content.lower().replace(b"split glnet", b""), path
    assert (
        '"v=GLNet"' not in page(tmp_path)
        and 'data-v="GLNet">GLNet</th>' not in page(tmp_path).partition("Published")[0]
    )


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
    assert "4 of 4 declared runs have no current result" in build(tmp_path, chosen, available=True)


def test_what_is_missing_is_counted_by_reason(tmp_path: Path, invented: Any, suite: Any) -> None:
    results = tmp_path / "results"
    chosen = invented.fill(results, suite(("potsdam", "blu"), ("patch",), (0, 1)))
    assert build_report(results, tmp_path / "reports", chosen, True) == []
    for seed in (0, 1):
        (results / f"metrics/blu/patch/{seed}/metrics.json").unlink()
    (results / "profile/potsdam/patch.json").unlink()
    invented.put(results, invented.out_of_memory("blu", "patch"))
    assert build_report(results, tmp_path / "reports", chosen, True) == [
        "2 of 8 runs without a result: 2 × no metrics: the run was not trained and evaluated",
        "2 of 4 profiles without a result: 1 × no profile: it was not measured; 1 × it does not fit into 24564 MiB",
    ]


def test_texts_of_result_files_are_escaped(tmp_path: Path, invented: Any, suite: Any) -> None:
    """Names of split lists, sources, encoders, devices and whatever else comes from a file or a folder's name."""
    hostile, kept = "<img src=x onerror=alert(1)>|](javascript:alert(2)", ("benchmark", "method", "split", "status")

    def changed(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: changed(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [changed(one, key) for one in value]
        return value + hostile if isinstance(value, str) and key not in (*kept, "backend", "workload") else value

    chosen = invented.fill(tmp_path / "results", suite(("inria",), ("patch",), (0,)))
    for path in (tmp_path / "results").rglob("*.json"):
        path.write_text(json.dumps(changed(json.loads(path.read_text()))))
    markdown, html = build(tmp_path, chosen), page(tmp_path)
    assert "split glnet" in markdown and "split glnet" in html
    assert "<img src=x" not in markdown and "<img src=x" not in html
    assert not re.search(r"(?<!\\)\]\(javascript", markdown)
