"""The memory meters: resident memory on a CPU; NVML and torch's allocator on an NVIDIA GPU; the facts of that GPU."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from scpseg.environment import environment
from scpseg.errors import UserError
from scpseg.profiling.fresh import allocator, memory_limit
from scpseg.profiling.records import CHANNELS
from scpseg.profiling.sampling import Device, Sample, Sampler, SourceError, TimedSamples, gaps

PROC = Path("/proc/self")
CHECK_BYTES, CHECK_TOLERANCE = 256 * 2**20, 0.1  # the known allocation in the self-check; relative
POINTS = 200  # at most in a timeline
SETTLE = 1.0  # seconds until a known allocation must be visible
DRIFT = 2**25  # changes outside this process below this number of bytes are the driver's own
SWITCHES = ("CUBLAS_WORKSPACE_CONFIG", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING", "NVIDIA_TF32_OVERRIDE")
PACKAGES = ("numpy", "nvidia-ml-py", "segmentation-models-pytorch", "timm", "torchvision")
"""Environment variables and packages in the facts of a GPU."""
NVML_CHANNELS = {"nvml_device": "memory", "nvml_process": "processes"}
"""Channel -> the fact of `Device` that says why NVML does not show it."""


class _Meter:
    """What both meters share: the sampler and the record.

    Order of calls: `prepare` before the model is built; `begin` after a warm-up, with the model's tensors away from the
    device; `finish` while the results are still in memory; `close` at any time. `limit` gives all bytes that there are,
    for a workload that did not fit.

    `memory` has the peak bytes by channel, `unavailable` the reasons of missing channels; `details` say how it was
    measured; `timeline` has (seconds since the start, bytes), `stretch` the samples.
    """

    backend: str
    missing: str

    def __init__(self) -> None:
        self.sampler = Sampler()
        self.close = self.sampler.close
        self.memory: dict[str, int] = {}
        self.unavailable: dict[str, str] = {}
        self.details: dict[str, Any] = {}
        self.timeline: list[tuple[float, int]] = []
        self.stretch: TimedSamples = []

    def described(self) -> dict[str, Any]:
        """The record for a result file: all channels, with their bytes or None and the reason."""
        period, longest = gaps(self.stretch)
        return {
            "backend": self.backend,
            "memory": {name: self.memory.get(name) for name in CHANNELS},
            "unavailable": dict.fromkeys(set(CHANNELS) - self.memory.keys(), self.missing) | self.unavailable,
            "samples": len(self.stretch),
            "period_ms": round(period, 3),
            "longest_gap_ms": round(longest, 3),
            "timeline": [[round(at, 4), used] for at, used in self.timeline],
            **self.details,
        }


def timeline(samples: TimedSamples, key: str, since: float, below: int = 0) -> list[tuple[float, int]]:
    """The samples of one key as (seconds after `since`, bytes above `below`), at most `POINTS` of them.

    Each keeps the maximum of those it replaces, so that no peak is lost.
    """
    points = [(at - since, value - below) for at, sample in samples if (value := sample.get(key)) is not None]
    if len(points) <= POINTS:
        return points
    edges = [round(index * len(points) / POINTS) for index in range(POINTS + 1)]
    return [max(points[low:high], key=lambda point: point[1]) for low, high in pairwise(edges)]


class RssMeter(_Meter):
    """Peak resident memory of this process above its idle state, from Linux's /proc; a sampler records the timeline.

    Counts anonymous pages: tensors, weights, the image. File pages (the code of libraries, loaded on first use) belong
    to the idle state, whenever they are loaded, and are subtracted from the peak. The figure depends on the allocator:
    `scpseg.profiling.fresh` makes it return freed tensors at once.
    """

    backend, missing = "rss", "not measured on a CPU"

    def prepare(self) -> None:
        """Start the sampler, and record the idle state; raises UserError if the system is not Linux."""
        if not sys.platform.startswith("linux"):
            raise UserError(
                f"memory cannot be measured on {sys.platform} without an NVIDIA GPU, because resident peaks are read "
                "from Linux's /proc; run the profile stage on Linux, or set machine.device to cuda"
            )
        self.sampler.start("rss", os.getpid())
        # Start the threads of convolutions, products and resizes, and load their code.
        with torch.inference_mode():
            functional.conv2d(torch.zeros(1, 8, 64, 64), torch.zeros(8, 8, 3, 3), padding=1)
            functional.interpolate(torch.zeros(1, 8, 64, 64), scale_factor=2.0, mode="bilinear")
            torch.zeros(256, 256) @ torch.zeros(256, 256)
            torch.zeros(2**17).exp()
        gc.collect()
        status = read_status()
        self.idle = status["VmRSS"] - status["files"]

    def begin(self) -> None:
        """Reset the high-water mark of the kernel."""
        gc.collect()
        with suppress(OSError):
            (PROC / "clear_refs").write_text("5")
        status = read_status()
        # Some systems forbid the reset, ignore it, or have no mark.
        self.has_mark = "VmHWM" in status and status["VmHWM"] <= status["VmRSS"] + 2**24
        self.began = time.monotonic()
        self.sampler.mark()

    def finish(self) -> dict[str, Any]:
        """The record; the peak is from samples, with a note, if the kernel has no high-water mark."""
        self.sampler.mark()
        status = read_status()
        self.stretch = [(at, sample) for at, sample in self.sampler.stop() if at >= self.began]
        self.timeline = timeline(self.stretch, "rss", self.began, self.idle)
        self.details = {"idle_bytes": self.idle, "timeline_of": "rss"}
        self.details |= {"timeline_missing": self.sampler.lost} if self.sampler.lost else {}
        peaks = [used for _, used in self.timeline]
        if self.has_mark:
            # Both are at most the true peak: samples miss short peaks, the kernel's mark lags behind its counters,
            # because each processor holds back a batch of pages before adding them.
            peaks.append(status["VmHWM"] - status["files"] - self.idle)
            self.details["rss_source"] = "VmHWM after clear_refs, or a sample where that is higher"
            processors = os.cpu_count() or 1
            self.details["rss_resolution_bytes"] = max(32, 2 * processors) * processors * os.sysconf("SC_PAGE_SIZE")
        else:
            why = "writing to /proc/self/clear_refs does not reset VmHWM in /proc/self/status"
            self.details["rss_source"] = f"samples every {self.sampler.period * 1000:g} ms, because {why}"
            self.unavailable |= {} if peaks else {"rss": f"{why}, and {self.sampler.lost or 'no sample was taken'}"}
        self.memory |= {"rss": max(peaks)} if peaks else {}
        return self.described()

    limit = staticmethod(memory_limit)


def read_status() -> dict[str, int]:
    """The memory lines of /proc/self/status in bytes (VmHWM, VmRSS, ...); under 'files', of files and shared memory."""
    lines = (PROC / "status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
    return found | {"files": found.get("RssFile", 0) + found.get("RssShmem", 0)}


class CudaMeter(_Meter):
    """Figures of NVML for this process, and of torch's allocator.

    Allocated: live tensors, the need of the method. Reserved: also cached blocks. NVML process: also the CUDA context,
    kernels and library handles, as gpustat shows it; the headline figure. NVML device: also all other processes;
    published only if there are none. A channel of NVML is used only after it has shown a known allocation.
    """

    backend, missing = "nvml", "measured on a GPU"
    own, lag = "", 0.0  # key of this process in a sample, empty if unknown; seconds until NVML shows an allocation

    def __init__(self, device: torch.device) -> None:
        """Measure `device`."""
        super().__init__()
        self.device = device

    def prepare(self) -> None:
        """Start the sampler, and show it a known allocation; channels that do not see it are unavailable."""
        keep = allocate(2**20, self.device)  # creates the context
        self.sampler.start("nvml", str(torch.cuda.get_device_properties(self.device).uuid))
        self._self_check()
        del keep
        torch.cuda.empty_cache()

    def begin(self) -> None:
        """Record the context, which NVML counts in addition to torch's allocator, and reset the peaks."""
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        self.began = time.monotonic()
        sample = self._mark()
        self.context, self.outside = self._beyond(sample, self.own), self._beyond(sample, "device")

    def finish(self) -> dict[str, Any]:
        """The record, after a last sample before anything is freed; then the peaks are read."""
        # Reserved memory only grows, so this sample is close to the peak, however short the measurement was.
        last = self._mark()
        self.memory["torch_allocated"] = torch.cuda.max_memory_allocated(self.device)
        self.memory["torch_reserved"] = torch.cuda.max_memory_reserved(self.device)
        self.stretch = [(at, sample) for at, sample in self.sampler.stop() if at >= self.began]
        self.details |= {} if self.sampler.lost else {"driver_reserved_bytes": last["reserved"]}
        keys = {"nvml_device": "device", "nvml_process": self.own}
        for channel, key in keys.items():
            # Figures that ended before the measurement may have missed the peak.
            if self.sampler.lost is not None or last.get(key) is None:
                self._unavailable(channel, "NVML showed no figure at the end of the measurement")
        self._others(self._beyond(last, "device"))
        for channel in [name for name in keys if name not in self.unavailable]:
            self.timeline = timeline(self.stretch, keys[channel], self.began)
            self.memory[channel] = max(used for _, used in self.timeline)  # single samples may lack a figure
            self.details["timeline_of"] = channel
        if "nvml_process" in self.memory and self.context is not None:
            self.memory["nvml_above_context"] = self.memory["nvml_process"] - self.context
            self.details["context_bytes"] = self.context
        else:
            why = self.unavailable.get("nvml_process", "the context was not seen after the warm-up")
            self.unavailable["nvml_above_context"] = why
        return self.described()

    def limit(self) -> int:
        """Total memory of the device."""
        return int(torch.cuda.get_device_properties(self.device).total_memory)

    def _self_check(self) -> None:
        before = self._mark()
        known = allocate(CHECK_BYTES, self.device)
        during = self._settled(before)
        del known
        torch.cuda.empty_cache()
        after = self._settled(during)
        if self.sampler.lost is not None:  # `finish` says so
            return
        facts, size = self.sampler.facts, f"known allocation of {CHECK_BYTES >> 20} MiB"
        self.details |= {"driver": facts["driver"], "mig": facts["mig"], "lag_ms": round(self.lag * 1000, 1)}
        moved = [key for key in during if saw(before, during, key) and saw(after, during, key)]
        if "device" not in moved:
            low, high = before["device"], during["device"]
            why = "NVML shows no figure for the device's memory"
            if low is not None and high is not None:
                why = f"the device's memory moved by {(high - low) / 2**20:.0f} MiB at a {size}"
            self._unavailable("nvml_device", why)
        # The entry that changed is ours: in a container, the process ids are the host's and not known here.
        ours, shown, mine = processes(moved), processes(during), str(os.getpid())
        if mine in ours or len(ours) == 1:
            self.own = mine if mine in ours else ours[0]
            return
        if ours:
            why = f"{len(ours)} processes moved by the known allocation at once, so that ours cannot be identified"
        elif not shown:
            why = "NVML lists no process on the device, as in some containers"
        elif not any(during[key] for key in shown):
            why = "NVML shows no memory figure for any process, as in some containers and under WSL"
        else:
            why = f"no process moved by the {size}"
        self._unavailable("nvml_process", why)

    def _settled(self, earlier: Sample) -> Sample:
        """A sample in which all available figures show the known allocation, or its end; at most SETTLE later."""
        began, lag = time.monotonic(), 0.0  # changes visible at once have no lag, whatever the time to read
        while True:
            sample = self._mark()
            moved = {key for key in sample if saw(earlier, sample, key) or saw(sample, earlier, key)}
            shown = {key for key in processes(sample) if sample[key]}
            if (sample.get("device") is None or "device" in moved) and (not shown or shown & moved):
                self.lag = max(self.lag, lag)
                return sample
            lag = time.monotonic() - began
            if lag > SETTLE:
                return sample

    def _others(self, outside: int | None) -> None:
        """Record other users of the device; a device total that includes them is not published."""
        details = self.details
        details |= dict.fromkeys(("exclusive", "foreign_processes", "foreign_bytes"))
        foreign = [
            {key: sample[key] or 0 for key in processes(sample) if key != self.own}
            for _, sample in self.stretch
            if self.own in sample
        ]
        shared, why = False, ""
        if foreign:
            changed = details["foreign_changed"] = any(entries != foreign[0] for entries in foreign)
            details["exclusive"] = not any(foreign)
            details["foreign_processes"] = max(map(len, foreign))
            details["foreign_bytes"] = max(sum(entries.values()) for entries in foreign)
            why = f"other processes use the device too{', whose use changed meanwhile' if changed else ''}"
            shared = any(foreign)
        elif self.outside is not None and outside is not None:
            shared = details["foreign_changed"] = abs(outside - self.outside) > DRIFT
            why = "use of the device outside torch's allocator changed meanwhile"
        if shared:
            self.unavailable.setdefault("nvml_device", why)

    def _beyond(self, sample: Sample, key: str) -> int | None:
        """The figure of NVML under `key` minus the bytes of torch's allocator."""
        return None if (value := sample.get(key)) is None else value - torch.cuda.memory_reserved(self.device)

    def _mark(self) -> Sample:
        torch.cuda.synchronize(self.device)
        time.sleep(2 * self.lag)
        return self.sampler.mark()

    def _unavailable(self, channel: str, why: str) -> None:
        """Give a channel of NVML a reason unless it has one; without any of them, the sampler is not asked again."""
        reason = self.sampler.lost or self.sampler.facts[NVML_CHANNELS[channel]] or why
        self.unavailable.setdefault(channel, reason)
        if self.unavailable.keys() >= NVML_CHANNELS.keys():
            self.sampler.lost = reason


def processes(keys: Iterable[str]) -> list[str]:
    """Those keys of a sample of a GPU that are processes."""
    return [key for key in keys if key not in ("device", "reserved")]


def allocate(size: int, device: torch.device) -> Any:
    """A tensor of `size` bytes, written to."""
    return torch.zeros(size, dtype=torch.uint8, device=device)


def saw(low: Sample, high: Sample, key: str) -> bool:
    """Whether `key` changed by exactly the known allocation."""
    below, above = low.get(key), high.get(key)
    return below is not None and above is not None and abs(above - below - CHECK_BYTES) <= CHECK_TOLERANCE * CHECK_BYTES


def fingerprint(device: torch.device) -> dict[str, Any]:
    """Facts of an NVIDIA GPU and its software for a reference table, after `scpseg.environment.configure`.

    No host name, no UUID. `driver` is None if NVML cannot be read; `nvml` then has the reason.
    """
    properties = torch.cuda.get_device_properties(device)
    try:
        known = {**Device(str(properties.uuid)).facts, "nvml": None}
    except SourceError as error:
        known = {"driver": None, "mig": None, "nvml": str(error)}
    return {
        **environment(device),
        "gpu": properties.name,
        "total_bytes": int(properties.total_memory),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": int(properties.multi_processor_count),
        **known,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "allocator": {**allocator(), "backend": torch.cuda.get_allocator_backend()},
        "switches": {name: os.environ.get(name) for name in SWITCHES},
        "packages": {name: version(name) for name in PACKAGES},
    }
