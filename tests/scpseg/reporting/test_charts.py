from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes
from PIL import Image

from scpseg.reporting.charts import draw_curves, draw_pareto, draw_parts, draw_timelines
from scpseg.reporting.collect import collect
from scpseg.reporting.figures import DPI, METHODS
from scpseg.reporting.memory import Peak
from scpseg.reporting.published import published
from scpseg.reporting.summary import Part, summarise

RIVALS = ("patch", "downscale", "glnet")
NAMES = ("scpseg", *RIVALS)
PEAKS = {"scpseg": 160.0, "patch": 158.0, "downscale": 157.0, "glnet": 534.0}


@pytest.fixture
def parts(tmp_path: Path, invented: Any, suite: Any) -> list[Part]:
    chosen = invented.fill(tmp_path / "results", suite(("potsdam", "blu"), RIVALS, (0, 1, 2)))
    peaks = {
        (benchmark, method): Peak(mib, "computed", parts=(("weights", mib / 2), ("activations", mib / 2)))
        for benchmark in ("potsdam", "blu")
        for method, mib in PEAKS.items()
    }
    lines = summarise(collect(tmp_path / "results", chosen, available=False), peaks=peaks)
    return [Part(some, tmp_path / "results", "patch") for some in (lines[:4], lines[4:])]


def test_figures_are_the_same_bytes_twice_whatever_the_user_prefers(tmp_path: Path, parts: list[Part]) -> None:
    parts[0].hollow = [row for row in published() if row.benchmark == "potsdam" and row.memory]
    first = draw_pareto(parts, NAMES, tmp_path / "a/overview")
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "pink", "svg.hashsalt": "other", "savefig.dpi": 30}):
        second = draw_pareto(parts, NAMES, tmp_path / "b/overview")
    assert first and second and [path.name for path in first.files] == [f"overview.{k}" for k in ("png", "svg", "pdf")]
    assert [path.read_bytes() for path in first.files] == [path.read_bytes() for path in second.files]
    assert first.svg == second.svg


def test_files_say_neither_date_nor_software(tmp_path: Path, parts: list[Part]) -> None:
    drawn = draw_pareto(parts[:1], NAMES, tmp_path / "potsdam")
    assert drawn
    png, svg, pdf = drawn.files
    with Image.open(png) as image:
        assert round(image.info["dpi"][0]) == DPI and not {"Software", "Creation Time"} & set(image.info)
    assert "<dc:date" not in svg.read_text() and b"CreationDate" not in pdf.read_bytes()


def test_svg_of_the_page_names_itself_follows_its_colours_and_shares_no_id(tmp_path: Path, parts: list[Part]) -> None:
    drawn = [draw_pareto([part], NAMES, tmp_path / name) for name, part in zip(("one", "two"), parts, strict=True)]
    one, two = (found.svg for found in drawn if found)
    assert 'role="img" aria-label="ISPRS Potsdam: ' in one and "var(--ink)" in one and "#1d2733" not in one
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', one)) <= ids[0]
    assert not re.search(r"(?:src|href)=.(?!#)", one.replace("xmlns:xlink", "")) and "<style" not in one
    assert "<title>SCPSeg: " in one and "MiB</title>" in one


def test_hostile_names_are_escaped_in_the_svg(tmp_path: Path, parts: list[Part], monkeypatch: Any) -> None:
    monkeypatch.setattr("scpseg.reporting.summary.title_of", lambda method: f"<script>{method}</script>$x$&")
    drawn = draw_pareto(parts[:1], NAMES, tmp_path / "p")
    assert drawn and "<script" not in drawn.svg and "&lt;script&gt;" in drawn.svg


def test_memory_of_two_sources_never_shares_an_axis(tmp_path: Path, parts: list[Part]) -> None:
    first, *others = parts[0].lines
    mixed = Part([replace(first, memory=Peak(1818.0, "nvml")), *others], tmp_path, "patch")
    assert draw_pareto([mixed], NAMES, tmp_path / "potsdam") is None
    found = draw_pareto([mixed, parts[1]], NAMES, tmp_path / "overview")
    assert found and "BLU" in found.svg and "Potsdam" not in found.svg and "computed" in found.svg


def test_the_frontier_is_of_methods_with_several_seeds(
    tmp_path: Path, parts: list[Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = list[tuple[Any, dict[str, Any]]]()
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda axes, *at, **how: drawn.append((at, how)) or plot(axes, *at, **how))
    rows = {line.method: line.rows for line in parts[0].lines}
    rows["glnet"] = tuple({**row, "mean_iou": 0.99 if row["seed"] == 0 else None} for row in rows["glnet"])
    for single, seeds in ((True, slice(None)), (False, slice(1))):
        drawn.clear()
        lines = [replace(line, rows=rows[line.method][seeds]) for line in parts[0].lines]
        part = Part(lines, tmp_path, "patch")
        assert part.singles == ({"glnet"} if single else set())
        assert draw_pareto([part], NAMES, tmp_path / "potsdam")
        (top,) = (max(at[1]) for at, how in drawn if how.get("drawstyle"))
        faded = {how["label"] for _, how in drawn if how.get("alpha")}
        best = max(100 * (line.score or 0) for line in lines if line.method not in part.singles)
        assert (top, faded) == (pytest.approx(best), {"GLNet"} if single else set())


def test_nothing_to_draw_draws_nothing(tmp_path: Path, invented: Any, suite: Any) -> None:
    missing = Part(summarise(collect(tmp_path, suite(), available=True)), tmp_path, "patch")
    assert draw_pareto([missing], NAMES, tmp_path / "out/potsdam") is None
    assert draw_curves(missing, tmp_path, NAMES, tmp_path / "out/potsdam") is None
    assert draw_parts(missing, tmp_path / "out/potsdam") is None
    assert draw_timelines(missing.lines, tmp_path, NAMES, tmp_path / "out/time") is None
    assert not (tmp_path / "out").exists()


def test_curves_parts_and_timelines_name_every_method(tmp_path: Path, parts: list[Part], invented: Any) -> None:
    lines, results = parts[0].lines, tmp_path / "results"
    for line in lines:
        for row in line.rows:
            path = tmp_path / f"results/runs/potsdam/{line.method}/{row['seed']}/history.csv"
            path.parent.mkdir(parents=True)
            path.write_text(invented.history())
    for drawn in (
        draw_curves(parts[0], results, NAMES, tmp_path / "curves"),
        draw_parts(parts[0], tmp_path / "parts"),
        draw_timelines(lines, results, NAMES, tmp_path / "time"),
    ):
        assert drawn and all(line.title in drawn.svg for line in lines)


def test_meters_and_sizes_of_images_have_panels_of_their_own(tmp_path: Path, parts: list[Part], invented: Any) -> None:
    lines, results = parts[0].lines, tmp_path / "results"
    invented.put(results, invented.profile("potsdam", lines[0].method, timeline_of="nvml_process"))
    drawn = draw_timelines(lines, results, NAMES, tmp_path / "time")
    assert drawn and "(nvml_process, " in drawn.svg and drawn.svg.count(" pixels)") == 2


def test_phases_with_losses_of_their_own_are_not_joined(tmp_path: Path, parts: list[Part], invented: Any) -> None:
    def drawn(phases: tuple[str, ...]) -> int:
        path = tmp_path / "results/runs/potsdam/scpseg/0/history.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(invented.history(phases))
        found = draw_curves(parts[0], tmp_path / "results", NAMES, tmp_path / "curves")
        assert found
        return found.svg.count(f"stroke: {METHODS['scpseg'].colour.lower()}")

    assert drawn(("a", "b")) == drawn(("a",)) + 1
