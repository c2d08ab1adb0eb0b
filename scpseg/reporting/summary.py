"""From rows to one line per benchmark and method: means over seeds with their interval, and what was measured once."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy.special import stdtrit

from scpseg.benchmarks import get_benchmark


@dataclass(frozen=True)
class Estimate:
    """Mean over n seeds; `half` is half the 95 % t-interval, None for n < 2."""

    mean: float | None
    half: float | None
    n: int


@dataclass(frozen=True)
class Line:
    """One benchmark and method. Scores are shares 0..1, sizes pixels, memory MiB of `backend`."""

    benchmark: str
    method: str
    declared: int
    mean_iou: Estimate
    mean_f1: Estimate
    accuracy: Estimate
    iou: dict[str, Estimate]
    memory: float | None
    profile_status: str
    backend: str | None
    seconds: float | None
    megapixels: float | None
    parameters: int | None
    segmenter: str
    encoder: str
    sizes: tuple[int | None, ...]
    split: str | None
    trained_elsewhere: bool
    profiled_elsewhere: bool
    problems: tuple[str, ...]


def estimate(values: Iterable[float | None]) -> Estimate:
    """Mean and half width of the 95 % t-interval of the values that are there."""
    present = [float(value) for value in values if value is not None]
    n = len(present)
    if n == 0:
        return Estimate(None, None, 0)
    if n == 1:
        return Estimate(present[0], None, 1)
    half = float(stdtrit(n - 1, 0.975)) * statistics.stdev(present) / math.sqrt(n)
    return Estimate(statistics.fmean(present), half, n)


def summarise(frame: pd.DataFrame) -> list[Line]:
    """One line per benchmark and method, in the frame's order; missing runs leave empty estimates, never no line."""
    usual_training = usual(_training_device(row) for row in records(frame))
    usual_profile = usual(profile_device(row) for row in records(frame))
    lines = []
    for benchmark, method in dict.fromkeys(zip(frame["benchmark"], frame["method"], strict=True)):
        rows = records(frame[(frame["benchmark"] == benchmark) & (frame["method"] == method)])
        first = next((row for row in rows if row["status"] == "ok"), rows[0])
        lines.append(
            Line(
                benchmark=benchmark,
                method=method,
                declared=len(rows),
                mean_iou=estimate(row["mean_iou"] for row in rows),
                mean_f1=estimate(row["mean_f1"] for row in rows),
                accuracy=estimate(row["accuracy"] for row in rows),
                iou={
                    cls.name: estimate(row[f"iou:{cls.name}"] for row in rows)
                    for cls in get_benchmark(benchmark).classes
                },
                memory=first["memory_mib"],
                profile_status=first["profile_status"],
                backend=first["memory_backend"],
                seconds=first["seconds_per_image"],
                megapixels=first["megapixels_per_second"],
                parameters=first["parameters"],
                segmenter=first.get("segmenter:name") or "",
                encoder=first.get("segmenter:encoder") or "",
                sizes=tuple(first.get(f"model:{name}") for name in ("patch", "context", "squeezed", "overview")),
                split=first.get("split"),
                trained_elsewhere=any(_training_device(row) not in (None, usual_training) for row in rows),
                profiled_elsewhere=profile_device(first) not in (None, usual_profile),
                problems=tuple(_problems(rows)),
            )
        )
    return lines


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The frame's rows as plain mappings."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def profile_device(row: dict[str, Any]) -> str | None:
    """What memory and speed were measured on; the number of threads counts, since speed depends on it."""
    name, threads = row.get("profile_environment:device"), row.get("profile_environment:threads")
    return f"{name}, {threads} threads" if name and threads else name


def _training_device(row: dict[str, Any]) -> str | None:
    return row.get("environment:device")


def usual(devices: Iterable[str | None]) -> str | None:
    """The device of most rows; of equals the one that comes first."""
    counts = Counter(device for device in devices if device is not None)
    return counts.most_common(1)[0][0] if counts else None


def _problems(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What a reader must know before trusting the line, without the method's name."""
    by_text: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] != "ok":
            by_text.setdefault(row["reason"], []).append(str(row["seed"]))
        if row["absent"]:
            text = f"in neither truth nor prediction, so left out of the mean: {row['absent']}"
            by_text.setdefault(text, []).append(str(row["seed"]))
    found = [f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}: {text}" for text, seeds in by_text.items()]
    first = rows[0]
    if first["profile_status"] != "ok" or first["profile_reason"]:
        what = {"ok": "memory", "oom": "out of memory (OOM)"} | dict.fromkeys(("missing", "stale"), "memory and speed")
        found.append(f"{what.get(first['profile_status'], 'profile failed')}: {first['profile_reason']}")
    run = [row for row in rows if row["status"] == "ok"]
    same = [key for key in first if (key.startswith(_SETTINGS) and key not in NOT_SETTINGS) or key in _DATA]
    for key in same:
        values = list(dict.fromkeys(row[key] for row in run))
        if len(values) > 1:
            found.append(f"seeds differ in {key.replace(':', ' ')}: {', '.join(map(str, values))}")
    # Memory does not depend on weights, but on everything else that shapes the network and its windows.
    profiled_as = {key: f"profile_{key}" for key in first if key.startswith("model:")}
    profiled_as |= {key: f"profile_{key}" for key in _SEGMENTER}
    profiled_as |= {"inference:overlap": "profile:overlap", "inference:batch": "windows_per_batch"}
    for key, of_profile in profiled_as.items():
        profiled = first.get(of_profile)
        if run and profiled is not None and profiled != run[0].get(key):
            name = key.removeprefix("model:").replace(":", " ")
            found.append(f"profile of other settings: {name} {profiled} against {run[0].get(key)}")
    return found


NOT_SETTINGS = (
    "training:seconds",
    "training:steps",
    "training:samples",
    "training:megapixels",
    "training:weights_hash",
    "training:parameters_training",
    "training:log_every",
)
"""Of a training's record, what it found or how it told it."""
_SETTINGS = ("model:", "segmenter:", "inference:", "training:")
_SEGMENTER = ("segmenter:name", "segmenter:encoder", "segmenter:output_stride")
_DATA = ("split", "split_list", "labels", "images")
