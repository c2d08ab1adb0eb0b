"""Reading what was measured or computed: every meter, on whatever machine, writes the same record. Needs no torch.

A record is a mapping: `benchmark`, `method`, `workload` (INFERENCE or TRAINING), `backend` ('nvml', 'rss' or
'computed'), `status` ('ok', 'oom', 'failed', 'not measured') with its `reason`, `memory` in bytes by channel,
`unavailable` (channel -> reason), sizes in pixels, costs, `model` and `segmenter`. Computed records also have `parts`
of the peak, `alive` (the largest tensors at the peak) and `precision`. `outdated` says why a figure is not used.
"""

from __future__ import annotations

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
HEADLINES = ("rss", "nvml_process", "torch_reserved")  # channels whose figure is shown: the first that was measured
REFERENCE = "memory.json"
"""Name of a GPU's records in results/reference/<gpu>/; fingerprint.json beside it says what they were measured on."""
CHANNELS = ("rss", "nvml_process", "nvml_above_context", "nvml_device", "torch_allocated", "torch_reserved")
COSTS = ("parameters", "windows", "multiply_adds")
SPEED = ("image_bytes", "seconds_per_image", "megapixels_per_second", "timed_with_usual_allocator")
FIGURES = (*SPEED, *COSTS, "model")  # keys that a workload which ended well adds to what a meter read
WELL = {"status": "ok", "reason": None, "limit": None}
COLUMNS = (
    *("benchmark", "method", "segmenter", "encoder", "backend", "workload", "phase", "precision"),
    *("height", "width", "patch", "windows", "status", "channel", "mib"),
)
"""Columns of a tidy row: `windows` at once, memory `channel` or 'computed:PART', `mib` with two digits or None."""
_COUNT, _NUMBER, _TEXT = (int, None), (float, None), (str, None)
_RECORD: Shape = {
    **dict.fromkeys(("benchmark", "method", "workload", "status"), str),
    "backend": _TEXT,
    "memory": {str: _NUMBER},
    "precision?": str,
    "parts?": ({str: float}, None),
    "model?": (dict, None),
    "segmenter?": dict,
    **dict.fromkeys(("reason?", "phase?"), _TEXT),
    **dict.fromkeys(("parameters?", "height?"), _COUNT),
    **dict.fromkeys(("seconds_per_image?", "seconds_per_step?"), _NUMBER),
}
PROFILE: Shape = {
    **_RECORD,
    "reason": _TEXT,
    "unavailable": {str: str},
    "real_size": bool,
    "timeline": [[float, float]],
    **dict.fromkeys(("height", "width", "windows_per_batch", "repeats", "samples"), int),
    **dict.fromkeys(("windows", "parameters", "multiply_adds"), _COUNT),
    **dict.fromkeys(("seconds_per_image", "megapixels_per_second", "period_ms"), _NUMBER),
    "model": ({"patch": int, str: object}, None),
    "segmenter": dict,
    "environment?": {"device": str, str: object},
}
"""What stage profile writes of one method."""
_FACTS: Shape = {"gpu": str, "driver": _TEXT, "torch": str, "cuda": _TEXT}
Record = dict[str, Any]


def without_figures(status: str, reason: str, backend: str | None, limit: int | None = None) -> Record:
    """The record of a workload that failed: all keys, no figures. `limit` in bytes if memory ran out."""
    return {
        "status": status,
        "reason": reason,
        "limit": limit,
        "backend": backend,
        "memory": dict.fromkeys(CHANNELS),
        "unavailable": dict.fromkeys(CHANNELS, reason),
        "samples": 0,
        "timeline": [],
        **dict.fromkeys(("period_ms", "longest_gap_ms", *FIGURES)),
    }


def read_records(path: Path) -> list[Record]:
    """The records in a file, which contains one record or a list.

    Raises:
        UserError: the file is damaged.
        FileNotFoundError: the file does not exist.
    """
    found = read_json(path, ([_RECORD], _RECORD))
    records = found if isinstance(found, list) else [found]
    for record in records:
        for key, known in (("workload", (INFERENCE, TRAINING)), ("status", STATUSES), ("benchmark", BENCHMARKS)):
            if record[key] not in known:
                raise damaged(path, f"has the unknown {key} {record[key]!r}")
        for name, size in record["memory"].items():
            if size is not None and size < 0:
                raise damaged(path, f"has memory.{name} {size}, which is less than nothing")
    return records


def read_references(folder: Path) -> list[tuple[dict[str, Any], list[Record]]]:
    """(fingerprint, records) of every GPU in `folder` (results/reference), in the order of the folders' names.

    Raises:
        UserError: a file is damaged or missing.
    """
    found = []
    for path in sorted(folder.glob(f"*/{REFERENCE}")):
        try:
            found.append((read_json(path.with_name("fingerprint.json"), _FACTS), read_records(path)))
            cells = [tuple(str(one[key]) for key in ("workload", "method", "benchmark")) for one in found[-1][1]]
            twice = sorted({cell for cell in cells if cells.count(cell) > 1})
            if twice:
                raise damaged(path, f"has {', '.join(twice[0])} twice")
        except (UserError, OSError) as error:
            why = f"{error.filename} cannot be read" if isinstance(error, OSError) else str(error).partition("; ")[0]
            raise UserError(f"{why}; restore it with git, or measure again with `make gpu`") from None
    return found


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
    common = (name for name in HEADLINES if all(record["memory"][name] is not None for record in records))
    channel = next(common, "torch_allocated")
    peaks = {record["phase"]: record["memory"][channel] for record in records}
    most = max(records, key=lambda record: record["memory"][channel] or 0)
    return {**most, "peak_by_phase": peaks, "peak_of": channel, "units": units}


def tidy(records: Iterable[Record]) -> list[dict[str, Any]]:
    """One row per channel of each record, with keys as in `COLUMNS`; a record without figures has one row."""
    rows = []
    for record in records:
        model, common = record.get("model") or {}, record.get("segmenter") or {}
        own = "encoder" in model  # a method that reports an encoder does not use the common segmenter
        row = {name: record.get(name) for name in COLUMNS} | {
            "segmenter": "own" if own else common.get("name"),
            "encoder": model["encoder"] if own else common.get("encoder"),
            "precision": record.get("precision", "fp32"),
            "patch": record.get("patch", model.get("patch")),
            "windows": record.get("windows_per_batch"),
        }
        memory = {name: size for name, size in record["memory"].items() if size is not None}
        memory |= {f"computed:{name}": size for name, size in (record.get("parts") or {}).items()}
        rows += [row | {"channel": name, "mib": round(size / MIB, 2)} for name, size in memory.items()] or [row]
    return rows
