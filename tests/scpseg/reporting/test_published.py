from __future__ import annotations

import pytest

from scpseg.benchmarks import REAL
from scpseg.reporting.published import REMARKS, published, published_row, title_of


@pytest.mark.parametrize(
    ("benchmark", "method", "segmenter", "encoder", "expected"),
    [
        ("potsdam", "scpseg", "deeplabv3plus", "resnet18", ("87.6", "87.5", "91.7", "1834")),
        ("potsdam", "scpseg", "fcn8s", "resnet50", ("86.7", "92.7", "91.0", "1818")),
        # Another encoder of the same segmenter: the row of that segmenter, which the table names.
        ("blu", "scpseg", "deeplabv3plus", "tu-test_resnet.r160_in1k", ("71.9", "83.5", "87.9", "1834")),
        ("inria", "scpseg", "fcn8s", "resnet50", ("78.6", "88.0", "95.8", "1818")),
        ("deepglobe", "glnet", "deeplabv3plus", "resnet18", ("71.6", "83.2", "88.0", "1865")),
        ("inria", "glnet", "deeplabv3plus", "resnet18", ("71.2", None, None, "2663")),
    ],
)
def test_rows_match_method_and_segmenter(
    benchmark: str, method: str, segmenter: str, encoder: str, expected: tuple[str | None, ...]
) -> None:
    row = published_row(benchmark, method, segmenter, encoder)
    assert row is not None
    assert (row.miou, row.mf1, row.accuracy, row.memory) == expected


def test_no_row_for_our_own_baselines_or_for_another_segmenter() -> None:
    assert published_row("potsdam", "patch", "fcn8s", "resnet50") is None
    assert published_row("deepglobe", "scpseg", "fcn8s", "resnet50") is None


def test_every_row_is_of_a_known_benchmark_and_every_remark_of_a_row() -> None:
    assert {row.benchmark for row in published()} == set(REAL)
    assert {(row.benchmark, row.method, row.segmenter) for row in published()} >= set(REMARKS)


def test_names_are_spelt_as_the_papers_do() -> None:
    assert [title_of(name) for name in ("scpseg", "glnet", "patch")] == ["SCPSeg", "GLNet", "Patch"]
