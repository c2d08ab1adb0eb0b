from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scpseg.reporting.pages import listed
from scpseg.reporting.pages import texts as templates
from scpseg.reporting.probe_section import Accuracy, Sight, between, draw_detail, seen, sights, table, verdict
from scpseg.reporting.tables import Table

CUES, DETAILS, WHERE = (16, 8, 4), (4, 2, 1), (40, 56)
MEMORY = {"scpseg": 8.5, "patch": 8.0, "resize": None}


def invented(
    method: str, cue: int, detail: int, groups: int = 4, seeds: int = 2, ways: int = 4
) -> list[dict[str, Any]]:
    """A method that reads cues of `cue` pixels and more, and textures of `detail` pixels and more."""
    rows = []
    for seed in range(seeds):
        for group in range(groups * len(CUES)):
            for member in range(ways):
                kind, texture = member % 2, member // 2
                for number, (distance, size) in enumerate((d, s) for d in (24, *WHERE, 72) for s in DETAILS):
                    side = CUES[group % len(CUES)]
                    rows.append(
                        {
                            "method": method,
                            "seed": seed,
                            "image": f"s{4 * group + member}",
                            "pair": group,
                            "row": 20 * number + group,
                            "column": 7,
                            "kind": kind,
                            "texture": texture,
                            "detail": size,
                            "distance": distance,
                            "cue_side": side,
                            "centred": kind if side >= cue else 0,
                            "centred_texture": texture if size >= detail else 1,
                        }
                    )
    return rows


def detail_table(found: list[Sight]) -> Table:
    """As on the page."""
    return table("probe-detail", found, kinds="kind, cue {} px %", textures="texture {} px %")


def sentences(found: list[Sight]) -> dict[str, str]:
    return dict(listed(templates().detail(found, "40 and 56", verdict)))


@pytest.fixture
def found() -> list[Sight]:
    parts = (invented("scpseg", 8, 1), invented("patch", 99, 1), invented("resize", 4, 2))
    answers = pd.DataFrame([row for part in parts for row in part])
    return sights(MEMORY, between(answers, 32, 64))


def test_only_discs_count_whose_cue_is_outside_the_patch_and_inside_the_window() -> None:
    answers = pd.DataFrame(invented("scpseg", 8, 1))
    assert set(between(answers, 32, 64)["distance"]) == {40, 56}
    assert set(between(answers, 24, 60)["distance"]) == {40}
    assert between(answers, 96, 64).empty


def test_figures_equal_a_count_in_a_loop(found: list[Sight]) -> None:
    by_method = {sight.method: sight for sight in found}
    assert list(by_method) == list(MEMORY)
    for method, cue, detail in (("scpseg", 8, 1), ("patch", 99, 1), ("resize", 4, 2)):
        sight = by_method[method]
        rows = [row for row in invented(method, cue, detail) if row["distance"] in WHERE]
        for side in CUES:
            mine = [row["centred"] == row["kind"] for row in rows if row["cue_side"] == side]
            assert sight.kinds[side].mean == np.mean(mine)
            assert sight.kinds[side].identity == (side < cue)
        for size in DETAILS:
            mine = [row["centred_texture"] == row["texture"] for row in rows if row["detail"] == size]
            assert sight.textures[size].mean == np.mean(mine)
            assert sight.textures[size].identity == (size < detail)
        right = [row["centred"] == row["kind"] and row["centred_texture"] == row["texture"] for row in rows]
        assert sight.both.mean == pytest.approx(np.mean(right))
        # Blind to one factor: half of the discs; to both: a quarter, as an identity.
        assert sight.classes[4, 1].mean == {"scpseg": 0.5, "patch": 0.5, "resize": 0.5}[method]
    assert by_method["resize"].classes[16, 1].mean == 0.5 and by_method["scpseg"].classes[16, 1].mean == 1.0


def test_what_is_blind_to_both_is_right_in_a_quarter() -> None:
    answers = pd.DataFrame(invented("scpseg", 99, 99))
    (sight,) = sights({"scpseg": 1.0}, between(answers, 32, 64))
    assert (sight.both.mean, sight.both.identity) == (0.25, True)
    assert seen(sight.kinds) == [] and seen(sight.textures) == []
    text = sentences([sight])["SCPSeg"]
    assert "has both right for 25.0 %" in text
    assert "Cues: at chance at 16 to 4 pixels (50.0 %). Textures: at chance at 4 to 1 pixels (50.0 %)." in text


def test_what_is_wrong_more_often_than_a_guess_is_below_chance() -> None:
    values = {
        side: Accuracy(mean, 0.02, 5, mean - 0.02, mean + 0.02) for side, mean in ((16, 0.9), (8, 0.49), (4, 0.1))
    }
    found = "above chance at 16 pixels (90.0 %); at chance at 8 pixels (49.0 %); below chance at 4 pixels (10.0 %)"
    assert verdict(values) == found


def test_sentences_follow_from_the_numbers(found: list[Sight]) -> None:
    texts = sentences(found)
    assert "at 40 and 56 pixels" in texts["Detail and reach."]
    seen, blind = "above chance at {} pixels (100.0 %)", "at chance at {} pixels (50.0 %)"
    assert f"Cues: {seen.format('16 and 8')}; {blind.format(4)}. Textures: {seen.format('4 to 1')}." in texts["SCPSeg"]
    assert f"Cues: {blind.format('16 to 4')}. Textures: {seen.format('4 to 1')}." in texts["Patch"]
    assert f"Cues: {seen.format('16 to 4')}. Textures: {seen.format('4 and 2')}; {blind.format(1)}." in texts["Resize"]
    # 5/6 against 1/2, and 5/6 against 5/6.
    assert "+33.3 points" in texts["SCPSeg against Patch,"] and "in favour of SCPSeg" in texts["SCPSeg against Patch,"]
    # Blind to the cue and always right in the texture: half by design, without an interval.
    assert texts["Patch"].startswith("has both right for 50.0 %.")
    assert "+0.0 points" in texts["SCPSeg against Resize,"] and "a tie" in texts["SCPSeg against Resize,"]


def test_a_result_against_scpseg_is_said() -> None:
    parts = (invented("scpseg", 99, 1), invented("resize", 4, 1))
    answers = pd.DataFrame([row for part in parts for row in part])
    texts = sentences(sights({"scpseg": 1.0, "resize": 1.0}, between(answers, 32, 64)))
    assert "−50.0 points" in texts["SCPSeg against Resize,"]
    assert "significant, against SCPSeg" in texts["SCPSeg against Resize,"]


def test_one_seed_claims_no_interval_and_no_separation() -> None:
    parts = (invented("scpseg", 4, 1, seeds=1), invented("resize", 99, 1, seeds=1))
    answers = pd.DataFrame([row for part in parts for row in part])
    one = sights({"scpseg": 1.0, "resize": 1.0}, between(answers, 32, 64))
    texts = sentences(one)["SCPSeg against Resize,"]
    assert "one seed: no interval" in texts and "significant" not in texts
    assert not any("±" in cell.text for row in detail_table(one).rows for cell in row)


def test_the_table_has_identities_without_intervals(found: list[Sight]) -> None:
    made = detail_table(found)
    titles = [column.title for column in made.columns]
    assert titles[1:7] == [*(f"kind, cue {s} px %" for s in CUES), *(f"texture {s} px %" for s in DETAILS)]
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in made.rows}
    assert rows["SCPSeg"][:6] == ["100.0 ± 0.0", "100.0 ± 0.0", "50.0", "100.0 ± 0.0", "100.0 ± 0.0", "100.0 ± 0.0"]
    assert rows["Resize"][3:6] == ["100.0 ± 0.0", "100.0 ± 0.0", "50.0"]
    assert rows["SCPSeg"][-2:] == ["–", "8.5"] and rows["Resize"][-1] == "–"


def test_the_figure_has_the_same_bytes_twice(found: list[Sight], tmp_path: Path) -> None:
    drawn = [draw_detail(found, tmp_path / name) for name in ("a", "b")]
    assert [path.read_bytes() for path in drawn[0].files] == [path.read_bytes() for path in drawn[1].files]
