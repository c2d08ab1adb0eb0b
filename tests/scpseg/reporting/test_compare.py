from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from scpseg.reporting.collect import collect
from scpseg.reporting.compare import Side, changed, flat, page, results
from scpseg.reporting.tables import csv_text


def side(name: str, folder: Path, chosen: Any, invented: Any, gain: float = 0.0, **params: Any) -> Side:
    for seed in chosen.seeds:
        record = invented.metrics("blu", "scpseg", seed)
        record["metrics"]["mean_iou"] = 0.6 + 0.01 * seed + gain
        invented.put(folder, record)
    text = collect(folder, chosen, True).to_csv(index=False)
    rows = [{key: value or None for key, value in row.items()} for row in csv.DictReader(io.StringIO(text))]
    summary = {"blu": {"scpseg": {"miou": 0.6, "memory_mib": 158.0 if gain else 161.0}}}
    return Side(
        name, flat({"csm": {"ratio": 0.75, "context": 2.0} | params, "suite": {"seeds": [0, 1]}}), rows, summary
    )


def test_changed_parameters_come_first_and_differences_are_seed_by_seed(
    tmp_path: Path, invented: Any, suite: Any
) -> None:
    chosen = invented.fill(tmp_path / "a", suite(("blu",), ("patch",), (0, 1)))
    invented.fill(tmp_path / "b", chosen)
    (tmp_path / "b/metrics/blu/patch/1/metrics.json").unlink()
    sides = [
        side("HEAD", tmp_path / "a", chosen, invented),
        side("x|y", tmp_path / "b", chosen, invented, 0.02, ratio=0.5),
    ]
    assert csv_text(changed(sides)) == "parameter,HEAD,x|y\ncsm.ratio,0.75,0.5\n"
    rows = {row["method"]: row for row in csv.DictReader(csv_text(results(sides)).splitlines())}
    assert rows["SCPSeg"]["x|y − HEAD"] == "+2.0 ± 0.0" and rows["SCPSeg"]["HEAD: mean IoU %"].startswith("60.5")
    assert "missing: no metrics" in rows["Patch"]["notes"] and "±" not in rows["Patch"]["x|y: mean IoU %"]
    assert rows["SCPSeg"]["HEAD: profiled MiB"] == "214"
    assert (rows["SCPSeg"]["HEAD: MiB"], rows["SCPSeg"]["x|y: MiB"], rows["Patch"]["HEAD: MiB"]) == ("161", "158", "–")
    text = page(sides)
    assert text.index("csm.ratio") < text.index("SCPSeg") and "# HEAD against x\\|y" in text
    assert "t interval over seeds" in text and "may be chance" not in text
    assert "The parameters and the code are the same." in page([sides[0], replace(sides[0], name="again")])


def test_other_code_and_single_seeds_are_told(tmp_path: Path, invented: Any, suite: Any) -> None:
    chosen = invented.fill(tmp_path, suite(("blu",), ("patch",), (0,)))
    first = side("a", tmp_path, chosen, invented)
    second = replace(first, name="b", rows=[{**row, "revision": "beef"} for row in first.rows])
    assert csv_text(changed([first, second])).splitlines()[1].endswith(",0123abc,beef")
    assert "With one seed" in page([first, second]) and "±" not in page([first, second])
