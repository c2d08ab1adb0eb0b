from __future__ import annotations

import pytest

from scpseg.benchmarks import REAL
from scpseg.reporting.published import PAPER, Published, published, published_row, title_of

PAPERS = [row for row in published() if row.source == PAPER]
ELSEWHERE = [row for row in published() if row.source != PAPER]


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
        # A network of its own, though the paper names the encoder.
        ("potsdam", "wiconet", "own", "resnet50", ("84.1", "91.2", "89.8", "2014")),
        ("blu", "wiconet", "own", "resnet50", ("71.0", "82.5", "87.0", "2014")),
        # Two values circulate: the paper's comes first.
        ("deepglobe", "fctl", "own", "vgg16", ("73.5", "83.8", "88.3", "3167")),
        ("deepglobe", "magnet", "own", "resnet50", ("72.9", None, None, "1559")),
        # Not in the paper.
        ("deepglobe", "rue", "own", "tu-resnet18d", ("75.1", None, None, None)),
        ("inria", "rue", "own", "tu-resnet18d", ("79.0", None, None, None)),
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
    assert published_row("potsdam", "rue", "own", "tu-resnet18d") is None


def test_every_row_is_of_a_known_benchmark_and_the_papers_own_rows_have_remarks() -> None:
    assert {row.benchmark for row in PAPERS} == set(REAL) - {"dubai"}
    assert [(row.benchmark, row.method) for row in PAPERS if row.remark] == [
        *(("potsdam", "SCPSeg"), ("deepglobe", "SCPSeg"), ("inria", "SCPSeg")),
    ]


def test_names_are_spelt_as_the_papers_do() -> None:
    assert [title_of(name) for name in ("scpseg", "glnet", "patch")] == ["SCPSeg", "GLNet", "Patch"]
    names = ("fctl", "isdnet", "wiconet", "magnet", "rue", "caswit_like")
    assert [title_of(name) for name in names] == ["FCtL", "ISDNet", "WiCoNet", "MagNet", "RUE", "CASWiT-like"]


def test_rows_from_elsewhere_name_their_source_and_repeat_none_of_the_paper() -> None:
    assert {row.benchmark for row in ELSEWHERE} <= set(REAL) and {row.mode for row in ELSEWHERE} == {"uhr"}
    assert all(row.source for row in ELSEWHERE)
    paper = {(row.benchmark, row.method, row.miou, row.memory) for row in PAPERS}
    keys = [(row.benchmark, row.method, row.miou, row.memory) for row in ELSEWHERE]
    assert not paper & set(keys) and len(keys) == len(set(keys))
    known = {row.method for row in published()}
    assert known >= {"CascadePSP", "PPN", "PointRend", "TCNet", "WSDNet", "GPWFormer", "GINet", "GeoAgent", "BPT"}
    assert known >= {"SGNet", "SGHRQ", "F2Net", "RUE", "MagNet", "MagNet-Fast", "ISDNet", "FCtL", "WiCoNet", "GLNet"}


def row(benchmark: str, miou: str | None, mf1: str | None) -> Published:
    return Published(benchmark, "m", "", "uhr", miou, mf1, None, None)


def test_mean_f1_that_no_confusion_matrix_gives_is_flagged() -> None:
    # One scored class: equal to 2 IoU / (1 + IoU), but for rounding.
    assert row("inria", "69.1", "81.7").f1_problem is None and row("inria", "78.6", "88.0").f1_problem is None
    for miou, mf1 in (("74.2", "84.9"), ("75.2", "86.0"), ("83.39", "91.19")):
        problem = row("inria", miou, mf1).f1_problem
        assert problem and mf1 in problem and miou in problem
    assert "at most" in (row("inria", "83.39", "91.19").f1_problem or "")
    assert "at least" in (row("inria", "73.7", "84.1").f1_problem or "")
    # Several: between mean IoU and that value.
    assert row("deepglobe", "74.0", "84.0").f1_problem is None
    assert "at least" in (row("potsdam", "87.6", "87.4").f1_problem or "")
    assert "at most" in (row("deepglobe", "50.0", "66.9").f1_problem or "")
    assert row("deepglobe", None, "84.0").f1_problem is None and row("inria", "74.0", None).f1_problem is None


def test_flagged_rows_are_those_known_to_break_the_identity() -> None:
    flagged = {(row.benchmark, row.method) for row in published() if row.f1_problem}
    names = {"CascadePSP", "ISDNet", "FCtL", "GeoAgent", "GPWFormer", "BPT", "WSDNet", "F2Net"}
    assert {name for benchmark, name in flagged if benchmark == "inria"} == names
