import csv
from pathlib import Path
from typing import Any

import pytest

from scpseg.errors import UserError
from scpseg.profiling.meter import CHANNELS, out_of_memory
from scpseg.profiling.reference import Table, ordered
from scpseg.reporting.collect import collect
from scpseg.reporting.page import render
from scpseg.reporting.reference import NONE, reference_section
from scpseg.reporting.summary import summarise

MIB = 2**20
SIDES = {"potsdam": 6000, "blu": 2048}


def put(folder: Path, gpu: str = "Invented GPU", side: int | None = None) -> Path:
    """A table as `make gpu` writes it: GLNet does not fit on Potsdam, nothing of BLU's steps but SCPSeg's is there."""
    facts = {"gpu": gpu, "driver": "580.1", "torch": "2.15.0", "cuda": "13.2", "cudnn": 9}
    cells = ordered(("inference", "training step"), ("scpseg", "glnet"), tuple(SIDES))
    requests = {}
    for cell in cells:
        size = side or SIDES[cell.benchmark]
        workload = {"height": size, "width": size, "classes": 6, "repeats": 3, "batch": 1}
        params = {cell.benchmark: {"patch": 256}}
        base = {"kind": cell.workload, "method": cell.method, "benchmark": cell.benchmark}
        requests[cell] = {**base, "params": params, "workload": workload}
    table = Table(requests, facts)

    def ask(request: dict[str, Any], seconds: float) -> dict[str, Any]:
        if (request["method"], request["benchmark"], request["kind"]) == ("glnet", "potsdam", "inference"):
            return out_of_memory("nvml", 2**30)
        memory = {**dict.fromkeys(CHANNELS), "nvml_process": 2678 * MIB, "torch_allocated": 1411 * MIB}
        done = {"status": "ok", "reason": None, "memory": memory, "unavailable": {}}
        if request["kind"] == "inference":
            return done | {"seconds_per_image": 1.234}
        phase = "local" if request["method"] == "glnet" else "all"
        return done | {"seconds_per_step": 0.25, "units": ["window"], "phase": phase}

    left = iter([1.0] * 5 + [1.0, 0.0] + [0.0] * 10)
    table.fill(ask, lambda: next(left), lambda: None)
    place = folder / gpu.lower().replace(" ", "-") / "profile.csv"
    place.parent.mkdir(parents=True)
    place.write_text(table.text())
    return place


def test_without_a_table_it_says_so(tmp_path: Path) -> None:
    assert reference_section(tmp_path / "nowhere") == f"## Reference measurements\n\n{NONE}\n"
    assert "nothing is claimed" in NONE


def test_the_table_is_shown_with_what_is_missing(tmp_path: Path) -> None:
    put(tmp_path)
    text = reference_section(tmp_path)
    assert NONE not in text
    assert "**Invented GPU** (torch 2.15.0, CUDA 13.2, driver 580.1):" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row.strip("| ").split("|")] for row in rows]
    assert cells[2:] == [
        ["ISPRS Potsdam", "SCPSeg", "2678 / – / 1411", "1.23", "2678 / – / 1411", "0.250"],
        ["ISPRS Potsdam", "GLNet", "OOM", "–", "2678 / – / 1411", "0.250"],
        ["BLU", "SCPSeg", "2678 / – / 1411", "1.23", "2678 / – / 1411", "0.250"],
        ["BLU", "GLNet", "2678 / – / 1411", "1.23", "2678 / – / 1411", "0.250"],
    ]
    assert "- Training step on BLU: the same workload as on ISPRS Potsdam, measured once (SCPSeg, GLNet)." in text
    assert "Not seen" not in text and "other processes" not in text
    assert "- Training step of GLNet: of the phase with the highest peak (local)." in text
    assert "pixels, not" not in text


def test_what_was_not_measured_is_counted(tmp_path: Path) -> None:
    path = put(tmp_path)
    text = path.read_text()
    # The last cell as one that did not fit into the budget.
    lines = text.splitlines()
    header = lines[0].split(",")
    last = dict(zip(header, lines[-1].split(","), strict=True)) | {"status": "not measured", "reason": "time budget"}
    path.write_text("\n".join([*lines[:-1], ",".join(last.values())]) + "\n")
    shown = reference_section(tmp_path)
    assert "- 1 of 8 workloads without a figure: time budget." in shown
    assert "| BLU | GLNet | 2678 / – / 1411 | 1.23 | – | – |" in shown


def test_blind_channels_and_company_on_the_gpu_are_named(tmp_path: Path) -> None:
    path = put(tmp_path)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    for row in rows[:3]:
        row |= {"nvml_process": "", "unavailable": "nvml_process: NVML lists no process on the device"}
    for row, alone in zip(rows[:4], ("True", "False", "False", ""), strict=True):
        row["exclusive"] = alone
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    text = reference_section(tmp_path)
    assert "- Not seen in 3 of 8 workloads: nvml_process: NVML lists no process on the device." in text
    assert "- In 2 of 8 workloads other processes used the GPU too." in text


def test_miniatures_are_named(tmp_path: Path) -> None:
    put(tmp_path, side=384)
    assert "- BLU: images of 384 × 384 pixels, not the benchmark's 2048 × 2048." in reference_section(tmp_path)


def test_several_gpus_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("Zeta", "Alpha"):
        put(tmp_path, name)
    text = reference_section(tmp_path)
    assert text.index("**Alpha**") < text.index("**Zeta**")
    assert text == reference_section(tmp_path)


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path)
    path.write_text(path.read_text().replace("nvml_process", "something", 1))
    with pytest.raises(UserError, match=r"invented-gpu/profile\.csv has no column nvml_process"):
        reference_section(tmp_path)
    path.write_text(path.read_text().replace("something", "nvml_process", 1).replace("1.234", "1.2.34", 1))
    with pytest.raises(UserError, match=r"invented-gpu/profile\.csv has '1\.2\.34' where a number belongs; restore"):
        reference_section(tmp_path)
    path.write_text("")
    with pytest.raises(UserError, match="has no"):
        reference_section(tmp_path)


def test_the_page_has_the_section(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path / "results", suite(("potsdam",)))
    frame = collect(tmp_path / "results", chosen, available=False)
    lines = summarise(frame)
    without = render(frame, lines, {}, {}, reference=tmp_path / "reference")
    assert NONE in without
    put(tmp_path / "reference")
    assert "**Invented GPU**" in render(frame, lines, {}, {}, reference=tmp_path / "reference")
