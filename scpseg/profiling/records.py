"""Reading what was measured or computed: every meter, on whatever machine, leaves the same record. Needs no torch.

A record is a mapping: `benchmark`, `method`, `workload` ('inference' or 'training step'), `backend` ('nvml', 'rss' or
'computed'), `status` ('ok', 'oom', 'failed', 'not measured') with its `reason`, `memory` in bytes by channel,
`unavailable` (channel -> why), sizes in pixels, costs, `model` and `segmenter`. Of backend 'computed' also `parts` of
the peak, `alive` (the largest tensors then) and `precision`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scpseg.files import damaged, read_json

MIB = 2**20
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
"""Of a tidy row: `windows` at once, `channel` of the memory or 'computed:PART', `mib` with two digits or None."""
NEEDED = ("benchmark", "method", "workload", "backend", "status", "memory")
NEEDED = ("benchmark", "method", "workload", "backend", "status", "memory")
Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """The records of a file, which holds one or a list of them.

    Raises:
        UserError: the file is damaged.
        FileNotFoundError: there is none.
    """
    found = read_json(path)
    records = found if isinstance(found, list) else [found]
    for record in records:
        lacking = [key for key in NEEDED if not isinstance(record, dict) or key not in record]
        if lacking:
            raise damaged(path, f"lacks {', '.join(lacking)} in a record")
    return records


def tidy(records: Iterable[Record]) -> list[dict[str, Any]]:
    """A row for each channel of each record, keys as in `COLUMNS`; a record without a figure keeps one row."""
    rows = []
    for record in records:
        model, asked = record.get("model") or {}, record.get("segmenter") or {}
        own = "encoder" in model  # a method that names an encoder of its own does not use the common segmenter
        row = {
            "benchmark": record["benchmark"],
            "method": record["method"],
            "segmenter": "own" if own else asked.get("name"),
            "encoder": model["encoder"] if own else asked.get("encoder"),
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
    """The tidy rows as CSV, LF line ends."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(tidy(records))
    return stream.getvalue()
