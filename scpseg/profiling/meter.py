"""What every memory meter answers: channels in bytes, or why a channel is not to be had."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

from scpseg.profiling.records import MIB
from scpseg.profiling.sampling import gaps
from scpseg.profiling.sources import Sample

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
"""What a workload that ended well adds to its reading."""
CHANNELS = ("rss", "nvml_process", "nvml_above_context", "nvml_device", "torch_allocated", "torch_reserved")
TIMELINE_POINTS = 200
TimedSamples = list[tuple[float, Sample]]


@dataclass
class Reading:
    """The peaks of one measured stretch.

    Attributes:
        backend: 'rss' or 'nvml'; figures of the two are never compared.
        memory: peak bytes by channel; a channel that is not there has its reason in `unavailable`.
        unavailable: channel -> why it was not measured.
        details: how it was measured, flat.
        timeline: (seconds since the stretch began, bytes), at most TIMELINE_POINTS.
        samples: samples in the stretch; `period_ms` and `longest_gap_ms` are the times between them.
    """

    backend: str
    memory: dict[str, int] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    timeline: list[tuple[float, int]] = field(default_factory=list)
    samples: int = 0
    period_ms: float = 0.0
    longest_gap_ms: float = 0.0

    def sampled(self, stretch: TimedSamples) -> None:
        """Note how densely the stretch was sampled."""
        self.samples = len(stretch)
        self.period_ms, self.longest_gap_ms = gaps(stretch)

    def described(self) -> dict[str, Any]:
        """The record of a result file: every channel named, `None` with its reason or its bytes."""
        missing = [name for name in CHANNELS if name not in self.memory and name not in self.unavailable]
        other = {"rss": "not measured on a CPU", "nvml": "measured on a GPU"}[self.backend]
        return {
            "backend": self.backend,
            "memory": {name: self.memory.get(name) for name in CHANNELS},
            "unavailable": {**self.unavailable, **dict.fromkeys(missing, other)},
            "samples": self.samples,
            "period_ms": round(self.period_ms, 3),
            "longest_gap_ms": round(self.longest_gap_ms, 3),
            "timeline": [[round(at, 4), used] for at, used in self.timeline],
            **self.details,
        }


def without_figures(status: str, reason: str, backend: str | None, limit: int | None = None) -> dict[str, Any]:
    """The record of a workload that did not end well: every key, no figure. `limit` in bytes where memory ran out."""
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
    """The record of a workload that did not fit into `limit` bytes: a result like any other."""
    size = "the memory there is" if limit is None else f"{limit / MIB:.0f} MiB"
    return without_figures("oom", f"it does not fit into {size}", backend, limit)


class Meter(Protocol):
    """A meter is asked in this order: prepare, rest, begin, finish; `close` at any time."""

    backend: str

    def prepare(self) -> None:
        """Before the model is built: check the channels and note the idle state."""

    def rest(self) -> None:
        """After a warm-up, the model's tensors away from the device: note what is there without them."""

    def begin(self) -> None:
        """The measured stretch begins: peaks are forgotten."""

    def finish(self) -> Reading:
        """The measured stretch ends; its results are still in memory."""

    def limit(self) -> int | None:
        """Bytes that there are in all, for a workload that did not fit; None where nothing says so."""

    def close(self) -> None:
        """End whatever the meter started."""


def thinned(points: list[tuple[float, int]], most: int = TIMELINE_POINTS) -> list[tuple[float, int]]:
    """At most `most` points; each keeps the largest of those it stands for, so that no peak is lost."""
    if len(points) <= most:
        return points
    edges = [round(index * len(points) / most) for index in range(most + 1)]
    return [max(points[low:high], key=lambda point: point[1]) for low, high in pairwise(edges)]


def timeline(samples: TimedSamples, key: str, since: float, below: int = 0) -> list[tuple[float, int]]:
    """The samples of one key as (seconds after `since`, bytes above `below`), thinned."""
    found = [(at - since, value - below) for at, sample in samples if (value := sample.get(key)) is not None]
    return thinned(found)
