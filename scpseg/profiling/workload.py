"""The measured workload: whole images of random pixels through a method, then its peak memory and its speed.

Order: idle state, model, one image to warm up, the state without the model, peaks reset, `repeats` images measured,
as many timed without a sampler beside them, costs computed. Image and scores live in host memory; the image
is anonymous memory, since pages of a mapped file would count as resident or not as the kernel pleases.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scpseg.contract import Method, drop_training_parts
from scpseg.data.windows import Bytes
from scpseg.evaluation.streaming import segment
from scpseg.profiling.cuda import CudaMeter
from scpseg.profiling.fresh import usual_allocator
from scpseg.profiling.gpu import Gpu
from scpseg.profiling.meter import Meter, out_of_memory
from scpseg.profiling.rss import RssMeter

OOM_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED", "ALLOCATION_FAILED")
"""How allocators other than torch's own CUDA allocator say it."""


@dataclass(frozen=True)
class Workload:
    """Whole-image inference: size of the image in pixels, number of outputs, overlap and batch of its windows.

    No image is begun after `seconds` of repeats, if given; one is always measured.
    """

    height: int
    width: int
    classes: int
    overlap: float
    batch: int
    repeats: int
    seconds: float | None = None


def meter_for(device: torch.device) -> Meter:
    """NVML and torch for a GPU, resident memory for the CPU.

    Raises:
        UserError: memory cannot be measured on this system.
    """
    return CudaMeter(Gpu(device)) if device.type == "cuda" else RssMeter()


def measure(make: Callable[[], Method], workload: Workload, device: torch.device, meter: Meter) -> dict[str, Any]:
    """Measure a method in this process, which should be a fresh one (`scpseg.profiling.fresh`).

    Args:
        make: builds the method; weights do not matter.
        workload: what it does.
        device: where it computes.
        meter: how memory is read, `meter_for(device)`.

    Returns:
        The figures of a result file: `status` 'ok' or, with `limit` bytes, 'oom'; `memory` in bytes by channel,
        `unavailable` reasons, `repeats` made, `seconds_per_image` (median), `megapixels_per_second`, `parameters`,
        `windows` and `multiply_adds` of one image, timeline and sampling facts.
    """
    return guarded(meter, lambda: _measure(make, workload, device, meter))


def guarded(meter: Meter, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figures of `work`, or those of a workload that did not fit; the meter is closed."""
    try:
        return {"status": "ok", "reason": None, "limit": None, **work()}
    except (RuntimeError, MemoryError) as error:
        if not is_oom(error):
            raise
    finally:
        meter.close()
    return out_of_memory(meter.backend, meter.limit())


def _measure(make: Callable[[], Method], workload: Workload, device: torch.device, meter: Meter) -> dict[str, Any]:
    meter.prepare()
    image = random_image(workload.height, workload.width)
    method = drop_training_parts(make()).to(device)

    def once() -> None:
        segment(method, image, workload.classes, device, workload.overlap, workload.batch)

    once()
    method.to("cpu")
    meter.rest()
    method.to(device)
    meter.begin()
    repeats = repeated(once, workload.repeats, workload.seconds)
    reading = meter.finish()
    # The allocator that gives everything back costs time: the clock runs with the one that programs usually have.
    usual = usual_allocator()
    seconds = timed(once, repeats)
    # Here, not above: that module takes its workload from this one.
    from scpseg.profiling.computed import inference

    costs = inference(make, workload)
    return {
        **reading.described(),
        "repeats": repeats,
        "image_bytes": image.nbytes,
        "seconds_per_image": round(seconds, 6),
        "megapixels_per_second": round(workload.height * workload.width / 1e6 / seconds, 6),
        "timed_with_usual_allocator": usual,
        **{name: costs[name] for name in ("parameters", "windows", "multiply_adds")},
        "model": method.describe(),
    }


def repeated(once: Callable[[], object], repeats: int, seconds: float | None) -> int:
    """Do it up to `repeats` times, beginning none but the first after `seconds`; how often it was done."""
    began = time.monotonic()
    for done in range(1, repeats + 1):
        once()
        if seconds is not None and time.monotonic() - began >= seconds:
            return done
    return repeats


def timed(once: Callable[[], object], repeats: int) -> float:
    """Median seconds of `repeats` runs; every run ends with its labels in host memory, so nothing is pending."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def random_image(height: int, width: int) -> Bytes:
    """(H, W, 3) uint8 of random pixels, always the same."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def is_oom(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(words in str(error) for words in OOM_WORDS)
