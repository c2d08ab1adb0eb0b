"""Memory meter for NVIDIA GPUs: figures of NVML for this process, and of torch's allocator.

Four channels. Allocated: live tensors, the need of the method. Reserved: also cached blocks. NVML process: also the
CUDA context, kernels and library handles, as gpustat shows it; the headline figure. NVML device: also all other
processes; published only if there are none. A channel is used only after it has shown a known allocation.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch

from scpseg.profiling.meter import Reading, timeline
from scpseg.profiling.sampling import PERIOD, Sample, Sampler, SamplerLost, SourceError, TimedSamples

CHECK_BYTES = 256 * 2**20
"""Bytes of the known allocation in the self-check."""
CHECK_TOLERANCE = 0.1
SETTLE = 1.0
"""Seconds until a known allocation must be visible."""
DRIFT = 2**25
"""Changes outside this process below this number of bytes are the driver's own."""
OF_DEVICE = ("device", "reserved")
"""Keys of a sample that are not processes."""
NVML_CHANNELS = ("nvml_process", "nvml_above_context", "nvml_device")


class Gpu:
    """torch.cuda for one device, with its allocator's counters."""

    def __init__(self, device: torch.device) -> None:
        """Use `device`."""
        self.device = device

    def uuid(self) -> str:
        """UUID of the device."""
        return str(torch.cuda.get_device_properties(self.device).uuid)

    def total(self) -> int:
        """Bytes of the device."""
        return int(torch.cuda.get_device_properties(self.device).total_memory)

    def allocate(self, size: int) -> Any:
        """A tensor of `size` bytes, written to."""
        return torch.zeros(size, dtype=torch.uint8, device=self.device)

    def synchronize(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize(self.device)

    def release(self) -> None:
        """Return cached blocks to the driver."""
        torch.cuda.empty_cache()

    def reset(self) -> None:
        """Reset the allocator's peaks."""
        torch.cuda.reset_peak_memory_stats(self.device)

    def reserved(self) -> int:
        """Bytes that the allocator holds now."""
        return torch.cuda.memory_reserved(self.device)

    def peaks(self) -> tuple[int, int]:
        """Largest allocated and reserved bytes since the last reset."""
        return torch.cuda.max_memory_allocated(self.device), torch.cuda.max_memory_reserved(self.device)


class CudaMeter:
    """Combines sampler, self-check and torch's counters."""

    backend = "nvml"

    def __init__(self, gpu: Gpu, period: float = PERIOD) -> None:
        """Measure `gpu`, sampled every `period` seconds."""
        self.gpu, self.period = gpu, period
        self.sampler: Sampler | None = None
        self.reading = Reading(self.backend)
        self.own: str | None = None
        self.context: int | None = None
        self.outside: int | None = None
        self.lag = 0.0
        self.began = 0.0

    def prepare(self) -> None:
        """Start the sampler, and show it a known allocation; channels that do not see it are unavailable."""
        keep = self.gpu.allocate(2**20)  # creates the context
        try:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            self.sampler = Sampler({"source": "nvml", "uuid": self.gpu.uuid(), "visible": visible}, self.period)
            self.reading.details |= {name: self.sampler.facts[name] for name in ("driver", "mig")}
            before = self._mark(self.sampler)
            known = self.gpu.allocate(CHECK_BYTES)
            during = self._settled(self.sampler, before)
            del known
            self.gpu.release()
            after = self._settled(self.sampler, during)
            self._check(self.sampler.facts, before, during, after)
            self.reading.details["lag_ms"] = round(self.lag * 1000, 1)
        except (SourceError, SamplerLost) as error:
            self._unavailable(NVML_CHANNELS, str(error))
        del keep
        self.gpu.release()
        self.gpu.reset()

    def rest(self) -> None:
        """Record the context: the bytes that NVML counts for this process in addition to torch's allocator."""
        self.gpu.synchronize()
        self.gpu.release()
        sample = self._try(self._mark)
        self.context = self._beyond(sample, self.own)
        self.outside = self._beyond(sample, "device")

    def begin(self) -> None:
        """Reset the peaks; the measurement starts here."""
        self.gpu.synchronize()
        self.gpu.reset()
        self.began = time.monotonic()
        self._try(self._mark)

    def finish(self) -> Reading:
        """Take a last sample after synchronising, before anything is freed; then read the peaks."""
        self.gpu.synchronize()
        # Reserved memory only grows, so this sample is close to the peak, however short the measurement was.
        last = self._try(self._mark)
        if last is not None:
            self._still_there(last)
        reading = self.reading
        reading.memory["torch_allocated"], reading.memory["torch_reserved"] = self.gpu.peaks()
        now_outside = self._beyond(last, "device")
        if last is not None:
            reading.details["driver_reserved_bytes"] = last.get("reserved")
        samples = self._try(Sampler.stop) or []
        reading.stretch = stretch = [(at, sample) for at, sample in samples if at >= self.began]
        self._others(stretch, now_outside)
        if "nvml_process" not in reading.unavailable:
            self._process(stretch)
        if "nvml_device" not in reading.unavailable:
            reading.memory["nvml_device"] = highest(stretch, "device")
        of = "nvml_process" if "nvml_process" in reading.memory else "nvml_device"
        key = self.own if of == "nvml_process" else "device"
        if of in reading.memory and key is not None:
            reading.timeline = timeline(stretch, key, self.began)
            reading.details["timeline_of"] = of
        return reading

    def limit(self) -> int | None:
        """Total memory of the device."""
        return self.gpu.total()

    def close(self) -> None:
        """Stop the sampler."""
        if self.sampler:
            self.sampler.close()

    def _settled(self, sampler: Sampler, earlier: Sample) -> Sample:
        """A sample in which all available figures show the known allocation, or its end; at most SETTLE later."""
        began, lag = time.monotonic(), 0.0  # changes visible at once have no lag, whatever the time to read
        while True:
            sample = self._mark(sampler)
            moved = {key for key in sample if saw(earlier, sample, key) or saw(sample, earlier, key)}
            shown = {key for key, value in sample.items() if value and key not in OF_DEVICE}
            if (sample["device"] is None or "device" in moved) and (not shown or shown & moved):
                self.lag = max(self.lag, lag)
                return sample
            lag = time.monotonic() - began
            if lag > SETTLE:
                return sample

    def _check(self, facts: dict[str, Any], before: Sample, during: Sample, after: Sample) -> None:
        moved = [key for key in during if saw(before, during, key) and saw(after, during, key)]
        if "device" not in moved:
            why = facts["memory"] or unmoved("the device's memory", before.get("device"), during.get("device"))
            self._unavailable(("nvml_device",), why)
        # The entry that changed is ours: in a container, the process ids are the host's and not known here.
        ours = [key for key in moved if key not in OF_DEVICE]
        if len(ours) > 1:
            ours = [key for key in ours if key == str(os.getpid())] or ours
        processes = [key for key in during if key not in OF_DEVICE]
        if len(ours) == 1:
            self.own = ours[0]
            return
        if len(ours) > 1:
            why = f"{len(ours)} processes moved by the known allocation at once, so that ours cannot be identified"
        elif facts["processes"] or not processes:
            why = facts["processes"] or "NVML lists no process on the device, as in some containers"
        elif {during[key] for key in processes} <= {None, 0}:
            why = "NVML shows no memory figure for any process, as in some containers and under WSL"
        else:
            why = f"no process moved by the known allocation of {CHECK_BYTES >> 20} MiB"
        self._unavailable(("nvml_process", "nvml_above_context"), why)

    def _still_there(self, last: Sample) -> None:
        """Remove figures that ended before the measurement: they may have missed the peak."""
        assert self.sampler is not None
        why, facts = "NVML showed no figure at the end of the measurement", self.sampler.facts
        if last["device"] is None:
            self._unavailable(("nvml_device",), facts["memory"] or why)
        if self.own is not None and last.get(self.own) is None:
            self._unavailable(("nvml_process", "nvml_above_context"), facts["processes"] or why)

    def _process(self, stretch: TimedSamples) -> None:
        assert self.own is not None
        peak = highest(stretch, self.own)
        self.reading.memory["nvml_process"] = peak
        if self.context is None:
            self._unavailable(("nvml_above_context",), "the context was not seen after the warm-up")
        else:
            self.reading.memory["nvml_above_context"] = peak - self.context
            self.reading.details["context_bytes"] = self.context

    def _others(self, stretch: TimedSamples, now_outside: int | None) -> None:
        """Record other users of the device; a device total that includes them is not published."""
        details = self.reading.details
        details["exclusive"] = details["foreign_processes"] = details["foreign_bytes"] = None
        listed = [sample for _, sample in stretch if self.own in sample]
        if listed:
            foreign = [
                {key: value or 0 for key, value in sample.items() if key not in (*OF_DEVICE, self.own)}
                for sample in listed
            ]
            most = max(foreign, key=lambda entries: sum(entries.values()), default={})
            details["exclusive"] = not any(foreign)
            details["foreign_processes"] = max(map(len, foreign), default=0)
            details["foreign_bytes"] = sum(most.values())
            details["foreign_changed"] = any(entries != foreign[0] for entries in foreign)
            if any(foreign):
                changed = ", whose use changed meanwhile" if details["foreign_changed"] else ""
                self._unavailable(("nvml_device",), f"other processes use the device too{changed}")
        elif self.outside is not None and now_outside is not None:
            details["foreign_changed"] = abs(now_outside - self.outside) > DRIFT
            if details["foreign_changed"]:
                self._unavailable(("nvml_device",), "use of the device outside torch's allocator changed meanwhile")

    def _beyond(self, sample: Sample | None, key: str | None) -> int | None:
        """The figure of NVML under `key` minus the bytes of torch's allocator."""
        value = None if sample is None or key is None else sample.get(key)
        return None if value is None else value - self.gpu.reserved()

    def _mark(self, sampler: Sampler) -> Sample:
        self.gpu.synchronize()
        time.sleep(2 * self.lag)
        return sampler.mark()

    def _try(self, ask: Callable[[Sampler], Any]) -> Any:
        """The sampler's answer; None once it is lost or nothing of NVML is available."""
        if self.sampler is None or set(NVML_CHANNELS) <= set(self.reading.unavailable):
            return None
        try:
            return ask(self.sampler)
        except SamplerLost as error:
            self.own = None
            self._unavailable(NVML_CHANNELS, str(error))
            return None

    def _unavailable(self, channels: tuple[str, ...], why: str) -> None:
        for channel in channels:
            self.reading.unavailable.setdefault(channel, why)


def highest(stretch: TimedSamples, key: str) -> int:
    """The largest figure of a key; single samples may not have it, but the last must."""
    return max(value for _, sample in stretch if (value := sample.get(key)) is not None)


def saw(low: Sample, high: Sample, key: str) -> bool:
    """Whether `key` changed by exactly the known allocation."""
    below, above = low.get(key), high.get(key)
    if below is None or above is None:
        return False
    return abs(above - below - CHECK_BYTES) <= CHECK_TOLERANCE * CHECK_BYTES


def unmoved(what: str, before: int | None, during: int | None) -> str:
    """The reason why a channel failed the self-check."""
    if before is None or during is None:
        return f"NVML shows no figure for {what}"
    return f"{what} moved by {(during - before) / 2**20:.0f} MiB at a known allocation of {CHECK_BYTES >> 20} MiB"
