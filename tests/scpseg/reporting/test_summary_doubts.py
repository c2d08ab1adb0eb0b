from typing import Any

import pytest

from scpseg.reporting.summary import doubts

GOOD: dict[str, Any] = {
    "method": "glnet",
    "status": "ok",
    "seed": 0,
    "mean_iou": 0.7,
    "chance": 0.1,
    "branch:overview": 0.6,
    "branch:local": 0.65,
    "trained:overview:loss_start": 1.0,
    "trained:overview:loss_end": 0.5,
    "trained:local:loss_start": 2.0,
    "trained:local:loss_end": 0.4,
    "training:optimizer": "rmsprop",
    "training:learning_rate": "1:2",
    "model:recipe": "suite",
    "model:direction": "both",
}


def found(*changes: dict[str, Any]) -> dict[str, str]:
    """Sentences by what they are about."""
    return dict(doubts([GOOD | {"seed": n} | change for n, change in enumerate(changes)]))


def test_a_sound_row_has_no_flag() -> None:
    assert found({}, {}) == {} and list(doubts([])) == []
    assert found({"status": "missing", "mean_iou": None}) == {}


def test_a_whole_below_its_part_is_told_by_the_means_over_seeds() -> None:
    low = {"branch:local": 0.4}
    text = found({"mean_iou": 0.5} | low, {"mean_iou": 0.62} | low, {"mean_iou": 0.55} | low)["mean_iou"]
    assert "55.7 %" in text and "overview branch alone with 60.0 %" in text and "2 of 3 seeds" in text
    assert "mean_iou" not in found({"mean_iou": 0.66}, {"mean_iou": 0.64})
    both = [text for _, text in doubts([GOOD | {"mean_iou": 0.2}])]
    assert len(both) == 2 and "overview branch" in both[0] and "local branch" in both[1]


def test_branches_that_other_methods_have_are_passed_over() -> None:
    assert found({"branch:overview": None, "branch:local": None, "trained:local:loss_end": None}) == {}


def test_a_loss_above_its_start_is_told_with_its_branch_and_seed() -> None:
    text = found({}, {"trained:local:loss_end": 2.5})["mean_iou"]
    assert "local" in text and "2 to 2.5" in text and "seed 1" in text


def test_a_method_at_chance_is_told() -> None:
    text = found({"chance": 0.7})["mean_iou"]
    assert "70.0 %; one class everywhere scores 70.0 %" in text
    assert "mean_iou" not in found({"chance": 0.69})


@pytest.mark.parametrize(
    ("optimizer", "rate", "edge"),
    [("sgd", 0.05, True), ("sgd", 0.01, True), ("sgd", 0.02, False), ("adam", 0.001, True)],
)
def test_a_rate_at_the_edge_is_told_with_what_was_tried(optimizer: str, rate: float, edge: bool) -> None:
    change = {"training:optimizer": optimizer, "training:learning_rate": rate}
    text = found(change).get("rate", "")
    assert (f"{optimizer} {rate:g} is at the edge" in text) is edge and ("sgd 0.01, sgd 0.05" in text) is (
        edge and optimizer == "sgd"
    )
    assert "rate" not in found(change | {"model:recipe": "author"})


def test_a_published_figure_of_another_mode_is_told() -> None:
    text = found({"model:direction": "to_local"})["published"]
    assert "'both'" in text and "'to_local'" in text
    assert found({"method": "patch", "model:direction": None}) == {}


@pytest.mark.parametrize(
    ("method", "setting", "same", "other"),
    [
        ("magnet", "fast", False, True),
        ("rue", "share", 1.0, 0.5),
        ("fctl", "head", 4096, 1024),
        ("fctl", "views", None, 1),  # which number gave the published figure is not known
    ],
)
def test_modes_of_the_rivals_are_told(method: str, setting: str, same: Any, other: Any) -> None:
    assert "published" not in found({"method": method, f"model:{setting}": same})
    text = found({"method": method, f"model:{setting}": other})["published"]
    assert f"of {setting} '" in text and f"'{other}'" in text
