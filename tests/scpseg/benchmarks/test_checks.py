import dataclasses
import re
import subprocess
import sys
from typing import Any

import pytest

from scpseg.benchmarks import BENCHMARKS
from scpseg.benchmarks.base import Benchmark, Class, Layout
from scpseg.benchmarks.checks import check_benchmark
from scpseg.errors import UserError

BLU, PROBE, POTSDAM, DEEPGLOBE = (BENCHMARKS[name] for name in ("blu", "probe", "potsdam", "deepglobe"))
IMAGE, LABEL = BLU.layout.image, BLU.layout.labels["label"]
SEA, SAND = Class("sea", (0, 0, 255)), Class("sand", (255, 255, 0))


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_the_benchmarks_of_the_suite_have_no_mistake(name: str) -> None:
    check_benchmark(name, BENCHMARKS[name])


@pytest.mark.parametrize(
    ("spec", "field", "value", "parts"),
    [
        (BLU, "name", "bleu", ["name is 'bleu'", "'blu'"]),
        (BLU, "classes", (), ["classes has 0 entries"]),
        (BLU, "classes", (SEA, Class("sand", (0, 0, 255))), ["class 'sea' and class 'sand'", "(0, 0, 255)"]),
        (BLU, "classes", (SEA, Class("sea", (1, 2, 3))), ["'sea'", "rename"]),
        (BLU, "classes", (SEA, Class("sand", (0, 0, 256))), ["'sand' is (0, 0, 256)", "0 to 255"]),
        (BLU, "classes", (SEA, Class("sand", (0, 0, 0))), ["class 'sand' and ignored"]),
        (BLU, "classes", (dataclasses.replace(SEA, scored=False),), ["no class is scored"]),
        (POTSDAM, "classes", (SEA, Class("sky", (90, 90, 255))), ["'sea' and class 'sky'", "thresholded at 128"]),
        (BLU, "layout", Layout(IMAGE, {"label": LABEL.replace("?P<id>", "")}), ["layout.labels['label']", "?P<id>"]),
        (BLU, "layout", Layout(IMAGE.replace("?P<id>", ""), {"label": LABEL}), ["layout.image", "?P<id>"]),
        (BLU, "layout", Layout(IMAGE.replace("?P<split>", ""), {"label": LABEL}), ["layout.image", "?P<split>"]),
        (BLU, "layout", Layout(IMAGE, {"label": LABEL + "("}), ["layout.labels['label']", "not a valid pattern"]),
        (BLU, "layout", Layout(IMAGE, {}), ["layout.labels is empty"]),
        (BLU, "splits", {}, ["splits is empty"]),
        (POTSDAM, "splits", {"mine": "nowhere"}, ["splits['mine']", "splits/nowhere", "not a directory"]),
        (POTSDAM, "splits", {"mine": "alternates"}, ["splits['mine']", "train.txt is missing or empty"]),
        (POTSDAM, "counts", (18, 6, 15), ["counts is (18, 6, 15)", "(18, 6, 14)"]),
        (DEEPGLOBE, "masking", "unknown", ["masking is 'unknown'", "unknown-ignored"]),
        (POTSDAM, "sources", POTSDAM.sources[:1] * 2, ["two sources", "'isprs'"]),
        (PROBE, "miniature", None, ["invented is True", "miniature"]),
    ],
)
def test_a_mistake_is_one_sentence_that_names_file_and_field(
    spec: Benchmark, field: str, value: Any, parts: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        check_benchmark(spec.name, dataclasses.replace(spec, **{field: value}))
    message = str(caught.value)
    assert re.match(rf"scpseg/benchmarks/{spec.name}\.py: ", message) and "\n" not in message
    for part in parts:
        assert part in message


def test_benchmarks_are_imported_without_what_draws_them() -> None:
    code = "import sys, scpseg.benchmarks; sys.exit(not {'numpy', 'scipy', 'PIL', 'py7zr'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
