import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scpseg.errors import UserError
from scpseg.profiling.meter import CHANNELS, out_of_memory
from scpseg.profiling.reference import COLUMNS, Table, ordered
from scpseg.reporting.build import build_report
from scpseg.reporting.reference import NONE, reference_section

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
        ["ISPRS Potsdam", "SCPSeg", "2678 / – / 1411", "1.2", "2678 / – / 1411", "0.25"],
        ["ISPRS Potsdam", "GLNet", "OOM", "–", "2678 / – / 1411", "0.25"],
        ["BLU", "SCPSeg", "2678 / – / 1411", "1.2", "2678 / – / 1411", "0.25"],
        ["BLU", "GLNet", "2678 / – / 1411", "1.2", "2678 / – / 1411", "0.25"],
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
    # A remark on a row that has its figures does not count.
    first = dict(zip(header, lines[1].split(","), strict=True)) | {"reason": "time budget"}
    path.write_text("\n".join([lines[0], ",".join(first.values()), *lines[2:-1], ",".join(last.values())]) + "\n")
    shown = reference_section(tmp_path)
    assert "- 1 of 8 workloads without a figure: time budget." in shown
    assert "| BLU | GLNet | 2678 / – / 1411 | 1.2 | – | – |" in shown


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


Rows = list[dict[str, str]]


def rewrite(path: Path, change: Callable[[Rows], Rows | None]) -> None:
    """The table with its rows changed."""
    rows = list(csv.DictReader(path.read_text().splitlines()))
    rows = change(rows) or rows
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def setting(name: str, value: str, place: int = 0) -> Callable[[Rows], None]:
    return lambda rows: rows[place].update({name: value})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (setting("seconds_per_image", "1.2.34"), r"has '1\.2\.34' where a number belongs \(seconds_per_image\)"),
        (setting("nvml_process", "nan", 3), r"has 'nan' where a number belongs \(nvml_process\)"),
        (setting("torch_reserved", "-5", 1), r"has '-5' where a number belongs \(torch_reserved\)"),
        (setting("torch_allocated", "1e999"), "has '1e999' where a number"),
        (setting("height", ""), r"has '' where a number belongs \(height\)"),
        (setting("status", "weird", 2), "has the unknown status 'weird'"),
        (setting("benchmark", "mars"), "has the unknown benchmark 'mars'"),
        (setting("same_as", "mars"), "has the unknown benchmark 'mars'"),
        (setting("workload", "sleep"), "has the unknown workload 'sleep'"),
        (setting("gpu", "Other GPU", 5), r"has several values of gpu \(Invented GPU, Other GPU\)"),
        (lambda rows: [*rows, rows[1]], "has inference, scpseg, blu twice"),
        (lambda rows: rows[:-1], "lacks a row for training step, glnet, blu"),
        (lambda rows: rows[:4], "lacks a row for training step, scpseg, potsdam"),
    ],
)
def test_a_table_with_damaged_rows_is_refused(
    tmp_path: Path, change: Callable[[Rows], Rows | None], words: str
) -> None:
    path = put(tmp_path)
    rewrite(path, lambda rows: None)
    assert "**Invented GPU**" in reference_section(tmp_path)
    rewrite(path, change)
    with pytest.raises(UserError, match=rf"invented-gpu/profile\.csv {words}.*; restore it with git"):
        reference_section(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace(b"nvml_process", b"something", 1), "has no column nvml_process"),
        (lambda text: b"", "has no column workload"),
        (lambda text: text.splitlines(keepends=True)[0], "has no rows"),
        (lambda text: text[:900], "has too few or too many cells in row"),
        (lambda text: text[:-2], "is cut off at its end"),
        (
            lambda text: text.replace(b"\n", b",1\n").replace(b",1\n", b"\n", 1),
            "has too few or too many cells in row 1",
        ),
        (lambda text: text.replace(b"Invented", b"Inv\xffnted"), "is no readable text file"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: Callable[[bytes], bytes], words: str) -> None:
    path = put(tmp_path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=rf"invented-gpu/profile\.csv {words}"):
        reference_section(tmp_path)


def test_a_folder_in_the_place_of_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gpu/profile.csv").mkdir(parents=True)
    with pytest.raises(UserError, match=r"gpu/profile\.csv is no readable text file"):
        reference_section(tmp_path)


def test_the_page_has_the_section(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path / "results", suite(("potsdam",)))
    page = tmp_path / "reports/README.md"
    build_report(tmp_path / "results", tmp_path / "reports", chosen, False)
    assert NONE in page.read_text()
    path = put(tmp_path / "results/reference")
    build_report(tmp_path / "results", tmp_path / "reports", chosen, False)
    assert "**Invented GPU**" in page.read_text()
    # A damaged table leaves all files as they are.
    path.write_text("")
    invented.put(tmp_path / "results", invented.metrics("potsdam", "scpseg", 0, labels="other"))
    before = (tmp_path / "results/summary.csv").read_bytes()
    with pytest.raises(UserError, match="the reference table"):
        build_report(tmp_path / "results", tmp_path / "reports", chosen, False)
    assert (tmp_path / "results/summary.csv").read_bytes() == before
