import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scpseg.errors import UserError
from scpseg.profiling.records import CHANNELS, without_figures
from scpseg.reporting.build import build_report
from scpseg.reporting.memory import read_peaks
from scpseg.reporting.report_tables import reference_tables
from scpseg.reporting.tables import csv_text

MIB = 2**20
SETTINGS: dict[str, Any] = {"windows_per_batch": 1, "model": {"overview": 512, "srd_weight": 1}}
SIDES = {"potsdam": 6000, "blu": 2048}
Records = list[dict[str, Any]]


def put(folder: Path, gpu: str = "Invented GPU") -> Path:
    """Records as `make gpu` writes them: GLNet does not fit on Potsdam, its step is measured once for both sizes."""
    facts = {"gpu": gpu, "driver": "580.1", "torch": "2.15.0", "cuda": "13.2", "cudnn": 9}
    records = []
    for workload in ("inference", "training step"):
        for method, benchmark in (("scpseg", "potsdam"), ("scpseg", "blu"), ("glnet", "potsdam"), ("glnet", "blu")):
            memory = {**dict.fromkeys(CHANNELS), "nvml_process": 2678 * MIB, "torch_allocated": 1411 * MIB}
            figures = {"status": "ok", "reason": None, "memory": memory, "unavailable": {}, "backend": "nvml"}
            if (workload, method, benchmark) == ("inference", "glnet", "potsdam"):
                figures = without_figures("oom", "it does not fit into 1024 MiB", "nvml", 2**30)
            elif workload == "inference":
                figures["seconds_per_image"] = 1.234
            else:
                figures |= {"seconds_per_step": 0.25, "phase": "local" if method == "glnet" else "all"}
                figures |= {"same_as": "potsdam"} if benchmark == "blu" else {}
            cell = {"benchmark": benchmark, "method": method, "workload": workload, "height": SIDES[benchmark]}
            records.append({**figures, **cell, "patch": 256})
    place = folder / gpu.lower().replace(" ", "-") / "memory.json"
    place.parent.mkdir(parents=True)
    place.with_name("fingerprint.json").write_text(json.dumps(facts))
    place.write_text(json.dumps(records))
    return place


def shown(folder: Path) -> list[dict[str, str]]:
    (table,) = reference_tables(folder)
    return list(csv.DictReader(csv_text(table).splitlines()))


def test_without_a_table_there_is_none(tmp_path: Path) -> None:
    assert reference_tables(tmp_path / "nowhere") == [] and read_peaks(tmp_path) == ({}, {})


def test_the_table_is_shown_with_what_is_missing(tmp_path: Path) -> None:
    put(tmp_path)
    (table,) = reference_tables(tmp_path)
    assert table.caption == "Invented GPU (torch 2.15.0, CUDA 13.2, driver 580.1), 8 of 8 workloads"
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
    rewrite(path, lambda records: records[-1].update({"status": "not measured", "reason": "time budget"}))
    last = shown(tmp_path)[-1]
    assert last["training step MiB (NVML)"] == "–" and "time budget" in last["notes"]
    # A method with nothing at all has no row.
    rewrite(path, lambda records: records[3].update({"status": "not measured", "reason": "time budget"}))
    assert len(shown(tmp_path)) == 3
    assert reference_tables(tmp_path)[0].caption.endswith("6 of 8 workloads")


def test_blind_channels_company_and_other_sizes_are_named(tmp_path: Path) -> None:
    def change(records: Records) -> None:
        records[0]["memory"]["nvml_process"] = None
        records[0] |= {"unavailable": {"nvml_process": "NVML lists no process on the device", "rss": "on a GPU"}}
        records[0] |= {"exclusive": False, "height": 384}

    rewrite(put(tmp_path), change)
    notes = shown(tmp_path)[0]["notes"]
    assert "NVML lists no process on the device" in notes and "other processes used the GPU too" in notes
    assert "image of 384 × 384 pixels" in notes and "rss" not in notes


def test_headline_memory_is_of_real_sizes_that_ended_well(tmp_path: Path) -> None:
    path = put(tmp_path / "reference")
    found, _ = read_peaks(tmp_path)
    assert set(found) == {("potsdam", "scpseg"), ("blu", "scpseg"), ("blu", "glnet")}
    assert (found["blu", "glnet"].mib, found["blu", "glnet"].source) == (2678.0, "nvml")
    rewrite(path, lambda records: records[0].update({"height": 384}))
    assert ("potsdam", "scpseg") not in read_peaks(tmp_path)[0]
    rewrite(path, lambda records: records[0].update({"height": 6000, "outdated": "of earlier code"}))
    assert ("potsdam", "scpseg") not in read_peaks(tmp_path)[0]
    assert "of earlier code" in shown(tmp_path / "reference")[0]["notes"]


def test_several_gpus_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("Zeta", "Alpha"):
        put(tmp_path, name)
    assert [table.caption.split()[0] for table in reference_tables(tmp_path)] == ["Alpha", "Zeta"]


def rewrite(path: Path, change: Callable[[Records], None]) -> None:
    """The file with its records changed."""
    records = json.loads(path.read_text())
    change(records)
    path.write_text(json.dumps(records))


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
    with pytest.raises(UserError, match="restore it with git"):
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
    # Measured networks of other sizes are not these.
    rewrite(tmp_path / "reference/invented-gpu/memory.json", lambda found: [one.update(SETTINGS) for one in found])
    for other in ({}, {"patch": 64}, {"windows_per_batch": 8}, {"model": {"overview": 64, "srd_weight": 0}}):
        (tmp_path / "memory.json").write_text(json.dumps([one | SETTINGS | other for one in both]))
        source = "computed" if other else "nvml"
        assert {peak.source for peak in read_peaks(tmp_path)[0].values()} == {source}, other


def test_figures_of_two_gpus_are_never_on_one_axis(tmp_path: Path) -> None:
    (tmp_path / "memory.json").write_text(json.dumps([computed("scpseg"), computed("glnet", mib=300.0)]))
    for gpu, method, mib in (("Alpha", "glnet", 1000), ("Beta", "scpseg", 2000)):

        def lose(records: Records, method: str = method, mib: int = mib) -> None:
            for one in records:
                one["memory"]["nvml_process"] = None if one["method"] == method else mib * MIB

        rewrite(put(tmp_path / "reference", gpu), lose)
    assert {peak.source for peak in read_peaks(tmp_path)[0].values()} == {"computed"}
    put(tmp_path / "reference", "Gamma")
    assert {peak.mib for peak in read_peaks(tmp_path)[0].values()} == {2678.0}
