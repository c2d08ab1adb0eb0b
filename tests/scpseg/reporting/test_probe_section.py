from __future__ import annotations

import csv
import io
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scpseg.errors import UserError
from scpseg.evaluation.probe_answers import Answer
from scpseg.reporting.build import build_report
from scpseg.reporting.collect import collect
from scpseg.reporting.pages import listed, texts
from scpseg.reporting.probe_section import Curve, curves, read_answers, table, verdict
from scpseg.reporting.summary import summarise

pytestmark = pytest.mark.usefixtures("undrawn")
DISTANCES = (24, 40, 56, 72, 88)
MIOU = {"patch": 0.40, "scpseg": 0.60, "glnet": 0.85, "downscale": 0.8}
REACH = {"patch": 32, "scpseg": 64, "glnet": 1000, "downscale": 1000}


def objects(reach: float, wrong: int = 0, silent: int = 0, scenes: int = 4) -> str:
    """Four scenes of one group, two discs at each distance: right within reach, guessed beyond; `wrong` answers turned
    round. Textures of four pixels are right, finer ones are guessed.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["image", *(field.name for field in fields(Answer))])
    for scene in range(scenes):
        kind, texture = scene % 2, scene // 2 % 2
        for number, distance in enumerate(one for one in DISTANCES for _ in range(2)):
            predicted: int | str = kind if distance < reach else 0
            if scene == 1 and number < wrong:
                predicted = 1 - kind
            if scene == 1 and wrong <= number < wrong + silent:
                predicted = ""
            detail = 4 if number % 2 else 1
            texture_seen = texture if detail == 4 else 0
            seen = distance < reach - 16
            place = 96 + 3 * number
            row = [f"s{scene}", place, place, kind, texture, detail, distance, 16]
            writer.writerow([*row, predicted, kind if seen else 0, texture_seen, texture_seen, float(seen)])
    return stream.getvalue()


@pytest.fixture
def fill(tmp_path: Path, invented: Any, suite: Any) -> Any:
    """Write invented results of the probe; (suite, curves) as the report has them."""

    def make(
        methods: tuple[str, ...] = ("patch", "glnet"),
        seeds: tuple[int, ...] = (0, 1, 2),
        answers: dict[str, str] | None = None,
        gains: tuple[float, ...] = (0.01, -0.01, 0.0),
        side: int = 192,
    ) -> tuple[Any, list[Curve]]:
        chosen = suite(("probe",), methods, seeds)
        results = tmp_path / "results"
        for method in ("scpseg", *methods):
            invented.put(results, invented.profile("probe", method))
            for k, seed in enumerate(seeds):
                record = invented.metrics("probe", method, seed)
                record["metrics"]["mean_iou"] = MIOU[method] + (gains[k] if method == "scpseg" else 0.0)
                invented.put(results, record)
                folder = results / "metrics/probe" / method / str(seed)
                (folder / "objects.csv").write_text((answers or {}).get(method) or objects(REACH[method]))
                (folder / "pictures").mkdir(exist_ok=True)
                for kind in ("image", "truth", "prediction"):
                    Image.fromarray(np.full((side, side, 3), 90, np.uint8)).save(folder / f"pictures/s0.{kind}.png")
        frame = collect(results, chosen, True)
        return chosen, curves(read_answers(results, frame), summarise(frame))

    return make


def test_accuracies_are_those_of_the_file(fill: Any) -> None:
    scpseg, patch, glnet = fill(answers={"scpseg": objects(64, wrong=1, silent=1)})[1]
    # Of 8 discs at distance 24 one was turned round and one got no kind.
    assert scpseg.centred[24].mean == pytest.approx(6 / 8)
    assert [scpseg.centred[distance].mean for distance in DISTANCES[1:]] == [1, 1, 0.5, 0.5]
    assert scpseg.missed == pytest.approx(1 / 40)
    assert scpseg.within.mean == pytest.approx(22 / 24) and scpseg.beyond.mean == 0.5
    assert [patch.centred[distance].mean for distance in DISTANCES] == [1, 0.5, 0.5, 0.5, 0.5]
    assert (patch.reach, scpseg.reach, glnet.reach) == (32, 64, float("inf"))
    assert glnet.beyond.mean is None and glnet.within.mean == 1
    # 16 pixels less are visible in the invented grid.
    assert [patch.allowed[distance] for distance in DISTANCES] == [0.5] * 5
    assert [scpseg.allowed[distance] for distance in DISTANCES] == [1, 1, 0.5, 0.5, 0.5]
    assert scpseg.visible == 0.4 and scpseg.all_allowed == pytest.approx(scpseg.all_grid.mean) == 0.7


def test_the_gain_is_paired_by_seed(fill: Any) -> None:
    scpseg, patch, glnet = fill()[1]
    assert scpseg.gain.mean == pytest.approx(0.2) and scpseg.gain.n == 3
    # t(0.975, 2) times the standard error of 0.21, 0.19, 0.20.
    assert scpseg.gain.half == pytest.approx(4.302653 * 0.01 / 3**0.5)
    assert patch.gain.mean is None and glnet.gain.half == pytest.approx(0)


def sentences(found: list[Curve]) -> list[tuple[str, str]]:
    return listed(texts().probe(found, 4, verdict))


def sentence_of(found: list[Curve], title: str) -> str:
    (text,) = [text for name, text in sentences(found) if name == title]
    return text


def test_sentences_follow_from_the_numbers(fill: Any) -> None:
    found = fill()[1]
    assert len(sentences(found)) == 11
    patch = sentence_of(found, "Patch")
    assert "above chance at 24 pixels (100.0 %); at chance at 40 to 88 pixels (50.0 %); just as far as its win" in patch
    assert "at 24 to 56 pixels (100.0 %); at chance at 72 and 88 pixels" in sentence_of(found, "SCPSeg")
    assert "at every distance tried, as it looks at the whole image" in sentence_of(found, "GLNet")
    gain = sentence_of(found, "Whole images,")
    assert gain.startswith("over all discs, against Patch, paired by seed, with the 95 % t interval over seeds alone")
    assert "SCPSeg +20.0 ± 2.5 points of mIoU (3 seeds)" in gain and "GLNet +45.0 ± " in gain


def test_other_numbers_make_other_sentences(fill: Any) -> None:
    answers = {"scpseg": objects(40), "patch": objects(60)}
    found = fill(answers=answers, gains=(-0.5, 0.3, 0.0))[1]
    assert "less far than it looks" in sentence_of(found, "SCPSeg")
    assert "not what its window suggests" in sentence_of(found, "Patch")


def test_one_seed_claims_no_interval(fill: Any) -> None:
    found = fill(seeds=(4,))[1]
    text = " ".join(sentence for _, sentence in sentences(found))
    assert "one seed: no interval" in text and "t interval" not in text


def test_without_plain_patches_there_is_no_gain(fill: Any) -> None:
    found = fill(methods=("glnet",))[1]
    assert "Whole images," not in dict(sentences(found))
    assert "mIoU minus Patch, points" not in [column.title for column in table("probe-results", found).columns]


def test_the_page_has_the_part_and_no_columns_of_the_paper(fill: Any, tmp_path: Path) -> None:
    chosen, _ = fill(methods=("patch", "glnet", "downscale"))
    outputs = []
    for _ in range(2):
        build_report(tmp_path / "results", tmp_path / "reports", chosen, False)
        page = (tmp_path / "reports/README.md").read_text()
        figures = sorted((tmp_path / "reports/figures").iterdir())
        outputs.append((page, [path.read_bytes() for path in figures]))
    assert outputs[0] == outputs[1]
    assert {"probe-distance.png", "probe-distance.svg"} <= {path.name for path in figures}
    assert "### How far each method sees" in page and "](figures/probe-distance.png)" in page
    assert "paper mIoU" not in page
    tables = [line.count("|") for line in page.splitlines() if line.startswith("|")]
    assert tables and 0 not in tables


def test_pictures_are_not_needed(fill: Any, tmp_path: Path) -> None:
    chosen, _ = fill()
    for path in tmp_path.rglob("*.image.png"):
        path.unlink()
    build_report(tmp_path / "results", tmp_path / "reports", chosen, False)
    assert (tmp_path / "reports/figures/probe-distance.png").is_file()


def test_a_run_without_answers_is_a_sentence(fill: Any, tmp_path: Path) -> None:
    chosen, _ = fill()
    (tmp_path / "results/metrics/probe/patch/1/objects.csv").unlink()
    with pytest.raises(UserError, match=r"patch/1/objects\.csv is missing; run `dvc repro -f"):
        build_report(tmp_path / "results", tmp_path / "reports", chosen, False)


def test_missing_runs_are_left_out_and_no_run_is_no_part(fill: Any, tmp_path: Path) -> None:
    chosen, _ = fill()
    for path in (tmp_path / "results/metrics/probe/glnet").rglob("metrics.json"):
        path.unlink()
    (tmp_path / "results/metrics/probe/patch/1/metrics.json").unlink()
    build_report(tmp_path / "results", tmp_path / "reports", chosen, True)
    page = (tmp_path / "reports/README.md").read_text()
    part = page[page.index("### How far") : page.index("**Reach, accuracy and memory**")]
    assert "**GLNet**" not in part and "2 seeds" in part and "t interval over seeds alone" in part
    shutil.rmtree(tmp_path / "results/metrics")
    build_report(tmp_path / "results", tmp_path / "other", chosen, True)
    assert "How far" not in (tmp_path / "other/README.md").read_text()
