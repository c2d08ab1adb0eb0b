import csv
import io
from collections.abc import Callable
from typing import Any

import pytest

from scpseg.errors import UserError
from scpseg.profiling.fresh import ChildTooSlow
from scpseg.profiling.meter import CHANNELS, out_of_memory
from scpseg.profiling.reference import COLUMNS, NOT_MEASURED, Cell, Table, identity, largest, ordered, slug

FACTS = {"gpu": "Invented GPU", "driver": "1", "torch": "2.15", "cuda": "13", "cudnn": 9}
Record = dict[str, Any]


def request(cell: Cell, side: int = 100, batch: int = 1) -> Record:
    sizes = {"height": side, "width": side, "classes": 2, "repeats": 3, "batch": batch}
    return {
        "kind": cell.workload,
        "method": cell.method,
        "benchmark": cell.benchmark,
        "params": {cell.benchmark: {"patch": 64}},
        "workload": sizes,
    }


def record(peak: int = 1000, **changes: Any) -> Record:
    memory = {**dict.fromkeys(CHANNELS), "nvml_process": peak, "torch_allocated": peak // 2}
    return {"status": "ok", "reason": None, "memory": memory, "unavailable": {"rss": "GPU"}, "phase": "all"} | changes


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def filled(
    requests: dict[Cell, Record], ask: Callable[[Record, float], Record], left: Callable[[], float] = lambda: 100.0
) -> tuple[Table, list[str]]:
    table, saved = Table(requests, FACTS), []
    table.fill(ask, left, lambda: saved.append(table.text()))
    return table, saved


def test_the_most_important_come_first() -> None:
    cells = ordered(("i", "t"), ("scpseg", "new", "downscale", "glnet", "patch"), ("a", "b"))
    assert [(cell.method, cell.benchmark) for cell in cells[:10]] == [
        ("scpseg", "a"),
        ("patch", "a"),
        ("scpseg", "b"),
        ("patch", "b"),
        ("glnet", "a"),
        ("glnet", "b"),
        ("downscale", "a"),
        ("downscale", "b"),
        ("new", "a"),
        ("new", "b"),
    ]
    assert [cell.workload for cell in cells] == ["i"] * 10 + ["t"] * 10
    assert len(set(cells)) == 20


def test_every_cell_is_saved_as_soon_as_it_is_known() -> None:
    cells = [Cell("inference", "patch", name) for name in ("a", "b")]
    requests = {cell: request(cell, side) for cell, side in zip(cells, (100, 200), strict=True)}
    _, saved = filled(requests, lambda request, seconds: record(request["workload"]["height"]))
    assert [[row["status"] for row in rows(text)] for text in saved] == [
        [NOT_MEASURED] * 2,
        ["ok", NOT_MEASURED],
        ["ok", "ok"],
    ]
    assert [row["nvml_process"] for row in rows(saved[-1])] == ["100", "200"]
    assert rows(saved[-1])[0].keys() == set(COLUMNS) and "\r" not in saved[-1]
    assert {row["gpu"] for row in rows(saved[0])} == {"Invented GPU"}
    assert rows(saved[0])[1]["reason"] == "the run ended before it"


def test_a_failure_keeps_what_was_there_and_goes_on() -> None:
    cells = [Cell("inference", "patch", name) for name in "abcd"]
    requests = {cell: request(cell, 100 + number) for number, cell in enumerate(cells)}

    def ask(request: Record, seconds: float) -> Record:
        if request["benchmark"] == "b":
            return record(status="failed", reason="ValueError: no", memory=dict.fromkeys(CHANNELS))
        if request["benchmark"] == "c":
            raise UserError("so and so")
        return record()

    table, saved = filled(requests, ask)
    assert [(row["status"], row["reason"]) for row in rows(saved[-1])] == [
        ("ok", ""),
        ("failed", "ValueError: no"),
        ("failed", "so and so"),
        ("ok", ""),
    ]
    assert table.failed() == cells[1:3]


def test_an_error_of_our_own_leaves_the_partial_table() -> None:
    cells = [Cell("inference", "patch", name) for name in "ab"]
    table, saved = (
        Table({cell: request(cell, len(saved_)) for cell, saved_ in zip(cells, ("1", "22"), strict=True)}, FACTS),
        [],
    )

    def ask(request: Record, seconds: float) -> Record:
        if request["benchmark"] == "b":
            raise KeyboardInterrupt
        return record()

    with pytest.raises(KeyboardInterrupt):
        table.fill(ask, lambda: 1.0, lambda: saved.append(table.text()))
    assert [row["status"] for row in rows(saved[-1])] == ["ok", NOT_MEASURED]


def test_out_of_memory_is_a_row() -> None:
    cell = Cell("inference", "glnet", "a")
    table, saved = filled(
        {cell: request(cell)}, lambda request, seconds: out_of_memory("nvml", 2**30) | {"phase": None}
    )
    (row,) = rows(saved[-1])
    assert (row["status"], row["limit"], row["nvml_process"]) == ("oom", str(2**30), "")
    assert "1024 MiB" in row["reason"] and not table.failed()


def test_the_time_budget() -> None:
    cells = [Cell("inference", "patch", name) for name in "abcd"]
    requests = {cell: request(cell, 100 + number) for number, cell in enumerate(cells)}
    clock, given = iter([9.0, 4.0, -1.0, -2.0]), []

    def ask(request: Record, seconds: float) -> Record:
        given.append(seconds)
        if request["benchmark"] == "b":
            raise ChildTooSlow("it did not end")
        return record()

    _, saved = filled(requests, ask, lambda: next(clock))
    assert given == [9.0, 4.0]
    found = [(row["status"], row["reason"]) for row in rows(saved[-1])]
    assert found == [("ok", ""), *[(NOT_MEASURED, "time budget")] * 3]


def test_a_training_step_on_windows_is_measured_once_for_all_image_sizes() -> None:
    cells = [Cell("training step", "patch", name) for name in ("potsdam", "blu")]
    cells += [Cell("inference", "patch", name) for name in ("potsdam", "blu")]
    requests = {cell: request(cell, {"potsdam": 6000, "blu": 2048}[cell.benchmark]) for cell in cells}
    asked = []

    def ask(request: Record, seconds: float) -> Record:
        asked.append((request["kind"], request["benchmark"]))
        return record(units=["window"]) if request["kind"] == "training step" else record()

    _, saved = filled(requests, ask)
    assert asked == [("training step", "potsdam"), ("inference", "potsdam"), ("inference", "blu")]
    second = rows(saved[-1])[1]
    assert (second["same_as"], second["height"], second["nvml_process"]) == ("potsdam", "2048", "1000")
    assert [row["same_as"] for row in rows(saved[-1])] == ["", "potsdam", "", ""]


@pytest.mark.parametrize("status", ["failed", "ok"])
def test_what_is_not_reused(status: str) -> None:
    """A failure is tried again; a phase on whole images depends on their size."""
    cells = [Cell("training step", "glnet", name) for name in ("potsdam", "blu")]
    requests = {cell: request(cell, 100 if status == "failed" else len(cell.benchmark)) for cell in cells}
    asked = []

    def ask(request: Record, seconds: float) -> Record:
        asked.append(request["benchmark"])
        return record(units=["image", "window"], status=status)

    filled(requests, ask)
    assert asked == ["potsdam", "blu"]


def test_identity_sees_everything_that_matters() -> None:
    cell = Cell("inference", "patch", "a")
    one = request(cell)
    assert identity(one, True) == identity(request(Cell("inference", "patch", "b")), True)
    other = request(cell)
    other["params"]["a"]["patch"] = 32
    different = [other, request(cell, batch=2), request(Cell("inference", "glnet", "a")), request(cell, side=101)]
    different.append(request(Cell("training step", "patch", "a")))
    assert len({identity(each, True) for each in [one, *different]}) == 6


def test_the_phase_with_the_highest_peak_stands_for_the_step() -> None:
    found = largest(
        [record(5, phase="one", unit="window"), record(9, phase="two", unit="window"), record(7, phase="three")]
    )
    assert (found["phase"], found["memory"]["nvml_process"]) == ("two", 9)
    assert found["peak_by_phase"] == {"one": 5, "two": 9, "three": 7} and found["peak_of"] == "nvml_process"
    cell = Cell("training step", "glnet", "a")
    _, saved = filled({cell: request(cell)}, lambda request, seconds: found)
    assert rows(saved[-1])[0]["peak_by_phase"] == "nvml_process: one=5 two=9 three=7"


def test_phases_are_compared_by_a_channel_that_all_have() -> None:
    blind = {**dict.fromkeys(CHANNELS), "torch_reserved": 8, "torch_allocated": 6}
    seeing = {**dict.fromkeys(CHANNELS), "nvml_process": 900, "torch_reserved": 7, "torch_allocated": 7}
    found = largest([record(phase="one", memory=blind), record(phase="two", memory=seeing)])
    assert (found["phase"], found["peak_of"]) == ("one", "torch_reserved")


def test_a_phase_that_does_not_fit_is_the_result() -> None:
    oom = out_of_memory("nvml", 2**30) | {"phase": "two"}
    found = largest([record(phase="one"), oom])
    assert found["status"] == "oom" and found["reason"].startswith("phase two: it does not fit into 1024 MiB")


def test_slug() -> None:
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
