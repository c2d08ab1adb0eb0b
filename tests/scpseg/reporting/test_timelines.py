from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scpseg.errors import UserError
from scpseg.params import SuiteParams
from scpseg.reporting.collect import collect
from scpseg.reporting.timelines import Trace, draw_timelines, read_traces, section

MIB = 2**20


@pytest.fixture
def chosen(tmp_path: Path, invented: Any, suite: Any) -> SuiteParams:
    """SCPSeg by NVML and sampled, patch by NVML whose process was not seen, GLNet out of memory, downscale missing."""
    chosen = suite(("potsdam",), ("patch", "glnet", "downscale"))
    timeline = [[0.0, 5 * MIB], [0.2, 7 * MIB], [0.6, 6 * MIB]]
    of = {"backend": "nvml", "timeline_of": "nvml_process", "timeline": timeline, "repeats": 3}
    invented.put(tmp_path, invented.profile("potsdam", "scpseg", **of))
    invented.put(tmp_path, invented.profile("potsdam", "patch", **of | {"timeline_of": "nvml_device"}))
    invented.put(tmp_path, invented.out_of_memory("potsdam", "glnet"))
    return chosen


def test_time_becomes_images_and_bytes_become_mebibytes(tmp_path: Path, chosen: SuiteParams) -> None:
    (trace,) = read_traces(tmp_path, collect(tmp_path, chosen, available=True))
    assert (trace.benchmark, trace.method, trace.backend, trace.images) == ("potsdam", "scpseg", "nvml", 3)
    assert [at for at, _ in trace.points] == pytest.approx([0.0, 1.0, 3.0])
    assert [used for _, used in trace.points] == [5, 7, 6]
    assert trace.peak == 1834  # the table's figure, not the highest point


def test_pictures_are_the_same_bytes_twice_and_tell_no_date(tmp_path: Path, chosen: SuiteParams) -> None:
    traces = read_traces(tmp_path, collect(tmp_path, chosen, available=True))
    first, second = (draw_timelines(traces, ["scpseg"], tmp_path / name) for name in ("a", "b"))
    assert [path.name for path in first] == ["timelines.png", "timelines.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert "dc:date" not in first[1].read_text(encoding="utf-8")


def test_meters_never_share_a_panel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    panels: list[set[str]] = []
    monkeypatch.setattr(
        "scpseg.reporting.timelines._panel", lambda axes, traces, methods: panels.append({t.backend for t in traces})
    )
    traces = [Trace("blu", name, meter, 1, ((0, 1), (1, 2)), 2) for name, meter in (("a", "rss"), ("b", "nvml"))]
    draw_timelines(traces, ["a", "b"], tmp_path)
    assert panels == [{"rss"}, {"nvml"}]


def test_nothing_sampled_draws_nothing(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path / "results", suite())  # its timelines do not say what they are of
    traces = read_traces(tmp_path / "results", collect(tmp_path / "results", chosen, available=False))
    assert traces == [] and draw_timelines(traces, ["scpseg"], tmp_path / "out") == []
    assert not (tmp_path / "out").exists()


def test_the_text_names_how_many_images() -> None:
    def text(*images: int) -> str:
        return section([Trace("blu", "scpseg", "rss", many, ((0, 1),), 1) for many in images], "figures/timelines")

    assert "each method: one image, after" in text(1, 1)
    assert "each method: 1 or 3 images one after another" in text(3, 1)
    assert "](figures/timelines.png)" in text(1)


def test_a_damaged_timeline_is_refused(tmp_path: Path, chosen: SuiteParams) -> None:
    path = tmp_path / "profile/potsdam/scpseg.json"
    whole = json.loads(path.read_text())
    for broken in ([[0.1]], ["x"], [[0.1, None]], 7):
        path.write_text(json.dumps(whole | {"timeline": broken}))
        with pytest.raises(UserError, match=r"scpseg\.json has a damaged timeline; delete it and run `dvc repro`"):
            read_traces(tmp_path, collect(tmp_path, chosen, available=True))
