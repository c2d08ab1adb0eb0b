"""Reading what was measured or computed: every meter, on whatever machine, writes the same record. Needs no torch.

A record is a mapping: `benchmark`, `method`, `workload` (INFERENCE or TRAINING), `backend` ('nvml', 'rss' or
'computed'), `status` ('ok', 'oom', 'failed', 'not measured') with its `reason`, `memory` in bytes by channel,
`unavailable` (channel -> reason), sizes in pixels, costs, `model` and `segmenter`. Computed records also have `parts`
of the peak, `alive` (the largest tensors at the peak) and `precision`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scpseg.benchmarks import BENCHMARKS
from scpseg.errors import UserError
from scpseg.files import Shape, damaged, read_json

MIB = 2**20
INFERENCE, TRAINING = "inference", "training step"
MEASURED = ("ok", "oom")
STATUSES = (*MEASURED, "failed", "not measured")
HEADLINES = ("rss", "nvml_process", "torch_reserved")
"""Channels whose figure is shown: the first that was measured."""
REFERENCE = "memory.json"
"""Name of a GPU's records in results/reference/<gpu>/; fingerprint.json beside it says what they were measured on."""
COLUMNS = (
    "benchmark",
    "method",
    "segmenter",
    "encoder",
    "backend",
    "workload",
    "phase",
    "precision",
    "height",
    "width",
    "patch",
    "windows",
    "status",
    "channel",
    "mib",
)
"""Columns of a tidy row: `windows` at once, memory `channel` or 'computed:PART', `mib` with two digits or None."""
_COUNT, _NUMBER, _TEXT = (int, None), (float, None), (str, None)
_RECORD: Shape = {
    "benchmark": str,
    "method": str,
    "workload": str,
    "backend": _TEXT,
    "status": str,
    "memory": {str: _NUMBER},
    "reason?": _TEXT,
    "phase?": _TEXT,
    "precision?": str,
    "parameters?": _COUNT,
    "parts?": ({str: float}, None),
    "model?": (dict, None),
    "height?": _COUNT,
    "seconds_per_image?": _NUMBER,
    "seconds_per_step?": _NUMBER,
    "segmenter?": dict,
}
PROFILE: Shape = {
    **_RECORD,
    "reason": _TEXT,
    "unavailable": {str: str},
    "height": int,
    "width": int,
    "real_size": bool,
    "windows": _COUNT,
    "windows_per_batch": int,
    "repeats": int,
    "seconds_per_image": _NUMBER,
    "megapixels_per_second": _NUMBER,
    "parameters": _COUNT,
    "multiply_adds": _COUNT,
    "samples": int,
    "period_ms": _NUMBER,
    "timeline": [[float, float]],
    "model": ({"patch": int, str: object}, None),
    "segmenter": dict,
    "environment?": {"device": str, str: object},
}
"""What stage profile writes of one method."""
_FACTS: Shape = {"gpu": str, "driver": _TEXT, "torch": str, "cuda": _TEXT}
Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """The records in a file, which contains one record or a list.

    Raises:
        UserError: the file is damaged.
        FileNotFoundError: the file does not exist.
    """
    found = read_json(path, ([_RECORD], _RECORD))
    records = found if isinstance(found, list) else [found]
    for record in records:
        problem = _problem(record)
        if problem:
            raise damaged(path, problem)
    return records


def read_references(folder: Path) -> list[tuple[dict[str, Any], list[Record]]]:
    """(fingerprint, records) of every GPU in `folder` (results/reference), in the order of the folders' names.

    Raises:
        UserError: a file is damaged or missing.
    """
    return [_reference(path) for path in sorted(folder.glob(f"*/{REFERENCE}"))]


def _reference(path: Path) -> tuple[dict[str, Any], list[Record]]:
    try:
        facts = read_json(path.with_name("fingerprint.json"), _FACTS)
        records = read_records(path)
        cells = [tuple(str(record[key]) for key in ("workload", "method", "benchmark")) for record in records]
        twice = sorted({cell for cell in cells if cells.count(cell) > 1})
        if twice:
            raise damaged(path, f"has {', '.join(twice[0])} twice")
    except (UserError, OSError) as error:
        why = f"{error.filename} cannot be read" if isinstance(error, OSError) else str(error).partition("; ")[0]
        raise UserError(f"{why}; restore it with git, or measure again with `make gpu`") from None
    return facts, records


def _problem(record: Record) -> str | None:
    """What is wrong with a record of the right shape, None if nothing."""
    for key, known in (("workload", (INFERENCE, TRAINING)), ("status", STATUSES), ("benchmark", BENCHMARKS)):
        if record[key] not in known:
            return f"has the unknown {key} {record[key]!r}"
    less = [f"memory.{name} {size}" for name, size in record["memory"].items() if size is not None and size < 0]
    return f"has {less[0]}, which is less than nothing" if less else None


def largest(records: Sequence[Record]) -> Record:
    """Of the phases of one training step the one with the highest peak, with every phase's under `peak_by_phase`.

    A phase that did not end well stands for all: the step cannot be trained.
    """
    units = sorted({str(record.get("unit")) for record in records})
    bad = [record for record in records if record["status"] != "ok"]
    if bad:
        named = f"phase {bad[0]['phase']}: " if bad[0].get("phase") and len(records) > 1 else ""
        return {**bad[0], "reason": f"{named}{bad[0]['reason']}", "units": units}
    # Compared by a channel that every phase has.
    channel = next(
        (name for name in HEADLINES if all(record["memory"][name] is not None for record in records)), "torch_allocated"
    )
    peaks = {record["phase"]: record["memory"][channel] for record in records}
    most = max(records, key=lambda record: record["memory"][channel] or 0)
    return {**most, "peak_by_phase": peaks, "peak_of": channel, "units": units}


def tidy(records: Iterable[Record]) -> list[dict[str, Any]]:
    """One row per channel of each record, with keys as in `COLUMNS`; a record without figures has one row."""
    rows = []
    for record in records:
        model, common = record.get("model") or {}, record.get("segmenter") or {}
        own = "encoder" in model  # a method that reports an encoder does not use the common segmenter
        row = {
            "benchmark": record["benchmark"],
            "method": record["method"],
            "segmenter": "own" if own else common.get("name"),
            "encoder": model["encoder"] if own else common.get("encoder"),
            "backend": record["backend"],
            "workload": record["workload"],
            "phase": record.get("phase"),
            "precision": record.get("precision", "fp32"),
            "height": record.get("height"),
            "width": record.get("width"),
            "patch": record.get("patch", model.get("patch")),
            "windows": record.get("windows_per_batch"),
            "status": record["status"],
        }
        memory = {name: size for name, size in record["memory"].items() if size is not None}
        memory |= {f"computed:{name}": size for name, size in (record.get("parts") or {}).items()}
        rows += [row | {"channel": name, "mib": round(size / MIB, 2)} for name, size in memory.items()]
        if not memory:
            rows.append(row | {"channel": None, "mib": None})
    return rows


def table(records: Iterable[Record]) -> str:
    """The tidy rows as CSV, with LF line ends."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(tidy(records))
    return stream.getvalue()
