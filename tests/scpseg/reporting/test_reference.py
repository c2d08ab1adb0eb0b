import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scpseg.errors import UserError
from scpseg.profiling.meter import CHANNELS, out_of_memory
from scpseg.profiling.reference import COLUMNS, Table, ordered
from scpseg.reporting.build import build_report
from scpseg.reporting.memory import read_peaks
from scpseg.reporting.reference import reference_tables
from scpseg.reporting.tables import csv_text

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


def shown(folder: Path) -> list[dict[str, str]]:
    (table,) = reference_tables(folder)
    return list(csv.DictReader(csv_text(table).splitlines()))


def test_without_a_table_there_is_none(tmp_path: Path) -> None:
    assert reference_tables(tmp_path / "nowhere") == [] and read_peaks(tmp_path) == ({}, {})


def test_the_table_is_shown_with_what_is_missing(tmp_path: Path) -> None:
    put(tmp_path)
    (table,) = reference_tables(tmp_path)
    assert table.caption == "Invented GPU (torch 2.15.0, CUDA 13.2, driver 580.1)"
    rows = shown(tmp_path)
    names = [(row["benchmark"], row["method"]) for row in rows]
    assert names == [(b, m) for b in ("ISPRS Potsdam", "BLU") for m in ("SCPSeg", "GLNet")]
    assert (rows[0]["inference MiB (NVML)"], rows[0]["inference MiB (allocated)"]) == ("2678", "1411")
    assert (rows[0]["inference s"], rows[0]["training step s"]) == ("1.2", "0.25")
    assert rows[1]["inference MiB (NVML)"] == "OOM" and "inference MiB (reserved)" not in rows[0]
    assert "the same workload as on ISPRS Potsdam, measured once" in rows[2]["notes"]
    assert "of the phase with the highest peak (local)" in rows[3]["notes"] and "not the benchmark's" not in str(rows)


def test_what_was_not_measured_has_its_reason(tmp_path: Path) -> None:
    path = put(tmp_path)
    rewrite(path, lambda rows: rows[-1].update({"status": "not measured", "reason": "time budget"}))
    last = shown(tmp_path)[-1]
    assert last["training step MiB (NVML)"] == "–" and "time budget" in last["notes"]


def test_blind_channels_company_and_other_sizes_are_named(tmp_path: Path) -> None:
    def change(rows: Rows) -> None:
        rows[0] |= {"nvml_process": "", "unavailable": "nvml_process: NVML lists no process on the device"}
        rows[0] |= {"exclusive": "False", "height": "384"}

    rewrite(put(tmp_path), change)
    notes = shown(tmp_path)[0]["notes"]
    assert "NVML lists no process on the device" in notes and "other processes used the GPU too" in notes
    assert "image of 384 × 384 pixels" in notes


def test_headline_memory_is_of_real_sizes_that_ended_well(tmp_path: Path) -> None:
    path = put(tmp_path / "reference")
    found, _ = read_peaks(tmp_path)
    assert set(found) == {("potsdam", "scpseg"), ("blu", "scpseg"), ("blu", "glnet")}
    assert (found["blu", "glnet"].mib, found["blu", "glnet"].source) == (2678.0, "nvml")
    rewrite(path, lambda rows: rows[0].update({"height": "384"}))
    assert ("potsdam", "scpseg") not in read_peaks(tmp_path)[0]


def test_several_gpus_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("Zeta", "Alpha"):
        put(tmp_path, name)
    assert [table.caption.split()[0] for table in reference_tables(tmp_path)] == ["Alpha", "Zeta"]


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
def test_a_table_with_damaged_rows_is_rejected(
    tmp_path: Path, change: Callable[[Rows], Rows | None], words: str
) -> None:
    path = put(tmp_path)
    rewrite(path, lambda rows: None)
    assert len(reference_tables(tmp_path)) == 1
    rewrite(path, change)
    with pytest.raises(UserError, match=rf"invented-gpu/profile\.csv {words}.*; restore it with git"):
        reference_tables(tmp_path)


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
def test_a_damaged_file_is_rejected(tmp_path: Path, change: Callable[[bytes], bytes], words: str) -> None:
    path = put(tmp_path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=rf"invented-gpu/profile\.csv {words}"):
        reference_tables(tmp_path)


def test_a_folder_in_the_place_of_a_table_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "gpu/profile.csv").mkdir(parents=True)
    with pytest.raises(UserError, match=r"gpu/profile\.csv is no readable text file"):
        reference_tables(tmp_path)


def test_a_damaged_table_leaves_all_files_as_they_are(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path / "results", suite(("potsdam",)))
    page = tmp_path / "reports/README.md"
    build_report(tmp_path / "results", tmp_path / "reports", chosen, False)
    assert "nothing is claimed about measured GPU memory" in page.read_text()
    path = put(tmp_path / "results/reference")
    build_report(tmp_path / "results", tmp_path / "reports", chosen, False)
    assert "Invented GPU" in page.read_text()
    path.write_text("")
    invented.put(tmp_path / "results", invented.metrics("potsdam", "scpseg", 0, labels="other"))
    before = (tmp_path / "results/summary.csv").read_bytes()
    with pytest.raises(UserError, match="the reference table"):
        build_report(tmp_path / "results", tmp_path / "reports", chosen, False)
    assert (tmp_path / "results/summary.csv").read_bytes() == before


def computed(method: str, benchmark: str = "blu", workload: str = "inference", mib: float = 100.0, **more: Any) -> Any:
    parts = {"weights": 40 * MIB, "activations": 60 * MIB}
    record = {"benchmark": benchmark, "method": method, "workload": workload, "backend": "computed", "status": "ok"}
    return record | {"memory": {"computed": mib * MIB}, "parts": parts, "patch": 256, "parameters": None} | more


def test_computed_memory_is_the_headline_unless_a_reference_has_every_method(tmp_path: Path) -> None:
    failed = computed("fctl", status="failed", reason="sizes depend on values", memory={"computed": None})
    steps = [computed("scpseg", workload="training step", mib=mib, phase=str(mib)) for mib in (700.0, 900.0)]
    both = [computed("scpseg"), computed("glnet", mib=300.0)]
    (tmp_path / "memory.json").write_text(json.dumps([*both, *steps, failed]))
    peaks, reasons = read_peaks(tmp_path)
    assert peaks["blu", "scpseg"].mib == 100.0 and peaks["blu", "scpseg"].training == 900.0
    assert peaks["blu", "scpseg"].parts == (("weights", 40.0), ("activations", 60.0))
    assert reasons == {("blu", "fctl"): "memory not computed: sizes depend on values"}
    put(tmp_path / "reference")
    assert {peak.source for peak in read_peaks(tmp_path)[0].values()} == {"computed"}  # FCtL was not measured
    (tmp_path / "memory.json").write_text(json.dumps([*both, *steps]))
    peaks, _ = read_peaks(tmp_path)
    assert {(peak.source, peak.mib) for peak in peaks.values()} == {("nvml", 2678.0)}
    assert peaks["blu", "scpseg"].training == 900.0 and peaks["blu", "scpseg"].parts == ()
    # Measured networks of another patch are not these.
    (tmp_path / "memory.json").write_text(json.dumps([one | {"patch": 64} for one in both]))
    assert {peak.source for peak in read_peaks(tmp_path)[0].values()} == {"computed"}
