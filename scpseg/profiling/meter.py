"""The result of every memory meter: bytes by channel, or why a channel is not available.

A meter is called in this order: `prepare` before the model is built; `rest` after a warm-up, with the model's tensors
away from the device; `begin`; `finish` while the results are still in memory. `limit` gives all bytes that there are,
for a workload that did not fit; `close` ends what the meter started, at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from scpseg.profiling.records import MIB
from scpseg.profiling.sampling import TimedSamples, gaps

FIGURES = (
    "image_bytes",
    "seconds_per_image",
    "megapixels_per_second",
    "timed_with_usual_allocator",
    "parameters",
    "windows",
    "multiply_adds",
    "model",
)
"""Keys that a workload which ended well adds to its reading."""
CHANNELS = ("rss", "nvml_process", "nvml_above_context", "nvml_device", "torch_allocated", "torch_reserved")
TIMELINE_POINTS = 200


@dataclass
class Reading:
    """The peaks of one measurement.

    Attributes:
        backend: 'rss' or 'nvml'; figures of the two are never compared.
        memory: peak bytes by channel; a missing channel has its reason in `unavailable`.
        unavailable: channel -> reason why it was not measured.
        details: how it was measured.
        timeline: (seconds since the start, bytes), at most TIMELINE_POINTS.
        stretch: the samples.
    """

    backend: str
    memory: dict[str, int] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    timeline: list[tuple[float, int]] = field(default_factory=list)
    stretch: TimedSamples = field(default_factory=list)

    def described(self) -> dict[str, Any]:
        """The record for a result file: all channels, with their bytes or None and the reason."""
        missing = [name for name in CHANNELS if name not in self.memory and name not in self.unavailable]
        period, longest = gaps(self.stretch)
        other = {"rss": "not measured on a CPU", "nvml": "measured on a GPU"}[self.backend]
        return {
            "backend": self.backend,
            "memory": {name: self.memory.get(name) for name in CHANNELS},
            "unavailable": {**self.unavailable, **dict.fromkeys(missing, other)},
            "samples": len(self.stretch),
            "period_ms": round(period, 3),
            "longest_gap_ms": round(longest, 3),
            "timeline": [[round(at, 4), used] for at, used in self.timeline],
            **self.details,
        }


def without_figures(status: str, reason: str, backend: str | None, limit: int | None = None) -> dict[str, Any]:
    """The record of a workload that failed: all keys, no figures. `limit` in bytes if memory ran out."""
    return {
        "status": status,
        "reason": reason,
        "limit": limit,
        "backend": backend,
        "memory": dict.fromkeys(CHANNELS),
        "unavailable": dict.fromkeys(CHANNELS, reason),
        "samples": 0,
        "period_ms": None,
        "longest_gap_ms": None,
        "timeline": [],
        **dict.fromkeys(FIGURES),
    }


def out_of_memory(backend: str | None, limit: int | None) -> dict[str, Any]:
    """The record of a workload that did not fit into `limit` bytes, which is a result."""
    size = "the memory there is" if limit is None else f"{limit / MIB:.0f} MiB"
    return without_figures("oom", f"it does not fit into {size}", backend, limit)


def thinned(points: list[tuple[float, int]], most: int = TIMELINE_POINTS) -> list[tuple[float, int]]:
    """Reduce to at most `most` points; each keeps the maximum of those it replaces, so that no peak is lost."""
    if len(points) <= most:
        return points
    edges = [round(index * len(points) / most) for index in range(most + 1)]
    return [max(points[low:high], key=lambda point: point[1]) for low, high in pairwise(edges)]


def timeline(samples: TimedSamples, key: str, since: float, below: int = 0) -> list[tuple[float, int]]:
    """The samples of one key as (seconds after `since`, bytes above `below`), reduced in number."""
    found = [(at - since, value - below) for at, sample in samples if (value := sample.get(key)) is not None]
    return thinned(found)
