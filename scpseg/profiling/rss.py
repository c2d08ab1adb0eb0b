"""Memory meter for the CPU: peak resident memory of this process above its idle state.

Counts anonymous pages: tensors, weights, the image. File pages (the code of libraries, loaded on first use) belong to
the idle state, whenever they are loaded, and are subtracted from the peak. The figure depends on the allocator:
`scpseg.profiling.fresh` makes it return freed tensors at once.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from scpseg.errors import UserError
from scpseg.profiling.fresh import memory_limit
from scpseg.profiling.meter import Reading, timeline
from scpseg.profiling.sampling import PERIOD, Sampler, SamplerLost, SourceError

PROC = Path("/proc/self")
HIGH_WATER = "VmHWM after clear_refs, or a sample where that is higher"


class RssMeter:
    """Reads /proc of this process; a sampler records the timeline."""

    backend = "rss"

    def __init__(self, proc: Path = PROC, period: float = PERIOD) -> None:
        """Use `proc` for status and clear_refs, and sample every `period` seconds.

        Raises:
            UserError: the system is not Linux.
        """
        if not sys.platform.startswith("linux"):
            raise UserError(
                f"memory cannot be measured on {sys.platform} without an NVIDIA GPU, because resident peaks are read "
                "from Linux's /proc; run the profile stage on Linux, or set machine.device to cuda"
            )
        self.proc, self.period = proc, period
        self.sampler: Sampler | None = None
        self.lost: str | None = None
        self.idle = 0
        self.began = 0.0
        self.no_high_water: str | None = None

    def prepare(self) -> None:
        """Start the sampler, warm up the thread pools, and record the idle state."""
        try:
            self.sampler = Sampler({"source": "rss", "pid": os.getpid()}, self.period)
        except (SourceError, SamplerLost) as error:
            self.lost = str(error)
        warm_pools()
        gc.collect()
        status = read_status(self.proc)
        self.idle = status["VmRSS"] - file_pages(status)

    def rest(self) -> None:
        """Does nothing: the idle state was recorded before the model was built."""

    def begin(self) -> None:
        """Reset the high-water mark of the kernel."""
        gc.collect()
        try:
            (self.proc / "clear_refs").write_text("5")
        except OSError as error:
            self.no_high_water = f"/proc/self/clear_refs cannot be written ({error.strerror})"
        status = read_status(self.proc)
        if "VmHWM" not in status:
            self.no_high_water = "/proc/self/status has no VmHWM"
        elif self.no_high_water is None and status["VmHWM"] > status["VmRSS"] + 2**24:
            self.no_high_water = "writing to /proc/self/clear_refs did not reset VmHWM"
        self.began = time.monotonic()
        self._try(Sampler.mark)

    def finish(self) -> Reading:
        """Peak above idle; from samples, with a note, if the kernel has no high-water mark."""
        self._try(Sampler.mark)
        status = read_status(self.proc)
        stretch = [(at, sample) for at, sample in self._try(Sampler.stop) or [] if at >= self.began]
        details = {"idle_bytes": self.idle, "rss_source": HIGH_WATER, "timeline_of": "rss"}
        points = timeline(stretch, "rss", self.began, self.idle)
        reading = Reading(self.backend, details=details, timeline=points, stretch=stretch)
        if self.lost:
            reading.details["timeline_missing"] = self.lost
        seen = max((used for _, used in reading.timeline), default=0)
        if self.no_high_water is None:
            # Both are at most the true peak: samples miss short peaks, the kernel's mark lags behind its counters.
            reading.memory["rss"] = max(seen, status["VmHWM"] - file_pages(status) - self.idle)
            reading.details["rss_resolution_bytes"] = resolution()
            return reading
        reading.details["rss_source"] = f"samples every {self.period * 1000:g} ms, because {self.no_high_water}"
        if reading.timeline:
            reading.memory["rss"] = seen
        else:
            reading.unavailable["rss"] = f"{self.no_high_water}, and {self.lost or 'there was no sample'}"
        return reading

    def limit(self) -> int | None:
        """Memory of the machine or of the control group, whichever is less."""
        return memory_limit()

    def close(self) -> None:
        """Stop the sampler."""
        if self.sampler:
            self.sampler.close()

    def _try(self, ask: Callable[[Sampler], Any]) -> Any:
        """The sampler's answer; None once it is lost, which `lost` then explains."""
        try:
            return ask(self.sampler) if self.sampler and self.lost is None else None
        except SamplerLost as error:
            self.lost = str(error)
            return None


def read_status(proc: Path = PROC) -> dict[str, int]:
    """The memory lines of /proc/self/status in bytes (VmHWM, VmRSS, RssAnon, RssFile, RssShmem, ...)."""
    lines = (proc / "status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}


def file_pages(status: dict[str, int]) -> int:
    """Resident bytes of files and shared memory."""
    return status.get("RssFile", 0) + status.get("RssShmem", 0)


def resolution() -> int:
    """Bytes by which VmHWM may lag: each processor holds back a batch of pages before adding them to the count."""
    processors = os.cpu_count() or 1
    return max(32, 2 * processors) * processors * os.sysconf("SC_PAGE_SIZE")


def warm_pools() -> None:
    """Start the threads of convolutions, products and resizes, and load their code."""
    image, kernel = torch.zeros(1, 8, 64, 64), torch.zeros(8, 8, 3, 3)
    with torch.inference_mode():
        functional.conv2d(image, kernel, padding=1)
        functional.interpolate(image, scale_factor=2.0, mode="bilinear")
        torch.zeros(256, 256) @ torch.zeros(256, 256)
        torch.zeros(2**17).exp()
