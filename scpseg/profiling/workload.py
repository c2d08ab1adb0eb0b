"""The measured workload: inference on whole images or training steps of a method, with random pixels and labels.

Order: idle state; model; warm-up (one image, or one step of the phase and of every phase before it, whose memory
stays, as in training); peaks reset; `repeats` runs measured; as many timed without a sampler. Pixels and labels are in
host memory, which is anonymous: pages of a mapped file may or may not count as resident.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scpseg.contract import Labels, Method, Phase, Views, drop_training_parts
from scpseg.data.windows import Bytes, starts
from scpseg.environment import usual_allocator
from scpseg.evaluation.streaming import segment
from scpseg.params import TrainParams
from scpseg.profiling.meters import CudaMeter, RssMeter
from scpseg.profiling.records import MIB, WELL, without_figures
from scpseg.training.phases import shared
from scpseg.training.step import Portion, Stepper

OOM_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED", "ALLOCATION_FAILED")
"""Messages of allocators other than torch's own CUDA allocator."""
PHASE_FACTS = ("phase", "phases", "unit", "optimizer")
Meter = CudaMeter | RssMeter


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Sizes: the image in pixels, number of outputs, windows per forward pass or step.

    `overlap` of windows is used in inference. `phase` (from 0) is used in training; there the image's sides give the
    number of windows of a phase that trains on whole images. No repeat but the first starts after `seconds`.
    """

    height: int
    width: int
    classes: int
    batch: int
    repeats: int
    overlap: float = 0.0
    phase: int = 0
    seconds: float | None = None


def measure(
    make: Callable[[], Method], workload: Workload, device: torch.device, meter: Meter, train: TrainParams | None = None
) -> dict[str, Any]:
    """Measure a method in this process, which should be fresh (`scpseg.profiling.fresh`).

    `make` builds the method, whose weights do not matter. With `train`, a training step with these parameters is
    measured instead of inference, whose costs `scpseg.profiling.computed` counts.

    Returns:
        `status` 'ok' or, with `limit` bytes, 'oom'; `memory` in bytes by channel, `unavailable` reasons, `repeats`,
        `seconds_per_image` (median), `megapixels_per_second`, `image_bytes`, timeline and sampling. Of a training step:
        `seconds_per_step` instead; labelled pixels count; `windows` and `multiply_adds` of a step with its backward
        pass; `parameters` of all phases; and `phase` by name, the method's `phases`, `unit` and `optimizer` of this
        one.
    """
    facts: dict[str, Any] = {} if train is None else dict.fromkeys(("seconds_per_step", *PHASE_FACTS))
    once: Callable[[], object]
    try:
        meter.prepare()
        if train is None:
            image = random_image(workload.height, workload.width)
            method = drop_training_parts(make()).to(device)
            once = partial(segment, method, image, workload.classes, device, workload.overlap, workload.batch)
            once()
            method.to("cpu")
            meter.begin()
            method.to(device)
            size, pixels = image.nbytes, workload.height * workload.width
        else:
            method = make().to(device)
            phases = method.phases()
            facts["phases"] = [phase.name for phase in phases]
            for phase in phases[: workload.phase + 1]:
                facts |= {"phase": phase.name, "unit": phase.unit}
                once = step = TrainingStep(method, phase, workload, train, device)
                facts |= step.facts()
                step()
            meter.begin()
            size, pixels = step.nbytes(), facts["windows"] * method.needs.patch**2
        repeats = len(timed(once, workload.repeats, workload.seconds))
        figures = meter.finish() | WELL | {"repeats": repeats}
        # The allocator that returns everything is slow: time is taken with the one that programs usually have.
        figures["timed_with_usual_allocator"] = usual_allocator()
        seconds = statistics.median(timed(once, repeats))
        figures |= {
            "seconds_per_image": None,
            "seconds_per_image" if train is None else "seconds_per_step": round(seconds, 6),
            "megapixels_per_second": round(pixels / 1e6 / seconds, 6),
            "image_bytes": size,
            "model": method.describe(),
        }
        if train is not None:
            with FlopCounterMode(display=False) as counter:
                once()
            figures["parameters"] = sum(parameter.numel() for parameter in method.parameters())
            figures["multiply_adds"] = counter.get_total_flops() // 2
        return facts | figures
    except (RuntimeError, MemoryError) as error:
        if not is_oom(error):
            raise
        limit = meter.limit()
        return facts | without_figures("oom", f"it does not fit into {limit / MIB:.0f} MiB", meter.backend, limit)
    finally:
        meter.close()


class TrainingStep:
    """A step of one phase, by the same code as in training, always on the same windows.

    `stepper` takes it, by the phase's recipe or the one that all methods share; `portions` are the windows and labels,
    in host memory.
    """

    def __init__(
        self, method: Method, phase: Phase, workload: Workload, train: TrainParams, device: torch.device
    ) -> None:
        """Let `method` enter the phase; on `meta`, which has no values, one byte stands for those of all windows."""
        recipe = phase.recipe or shared(train, workload.batch if phase.unit == "window" else 1)
        self.stepper = Stepper(method, train, device)
        self.stepper.begin(phase, recipe)
        self.portions = _portions(method, phase, workload, recipe.batch, device.type != "meta")

    def __call__(self) -> Tensor:
        """Take one step and wait for the device; the mean loss, a scalar."""
        total = self.stepper(self.portions, 0.0)["total"]
        if self.stepper.device.type == "cuda":
            torch.cuda.synchronize(self.stepper.device)
        return total

    def facts(self) -> dict[str, Any]:
        """`phase` by name, its `unit`, the class of its `optimizer`, and the number of `windows` of a step."""
        windows = sum(len(views.place) for views, _, _ in self.portions)
        phase, optimizer = self.stepper.phase, type(self.stepper.optimizer).__name__
        return {"phase": phase.name, "unit": phase.unit, "optimizer": optimizer, "windows": windows}

    def nbytes(self) -> int:
        """Bytes of the windows and labels in host memory; the portions of an image share its overview."""
        tensors = [one for views, labels, _ in self.portions for one in (*vars(views).values(), *vars(labels).values())]
        return sum({id(tensor): tensor.nbytes for tensor in tensors if tensor is not None}.values())


def _portions(method: Method, phase: Phase, workload: Workload, batch: int, drawn: bool) -> list[Portion]:
    """One batch of windows, or all windows of `batch` images in portions of `phase.windows`."""
    generator = torch.Generator().manual_seed(0)
    needs = method.needs

    def pair(count: int, side: int) -> list[Tensor]:
        shapes = (256, (count, 3, side, side)), (workload.classes, (count, side, side))
        if not drawn:
            return [torch.zeros((), dtype=torch.uint8).expand(shape) for _, shape in shapes]
        return [torch.randint(0, high, shape, dtype=torch.uint8, generator=generator) for high, shape in shapes]

    extent = torch.tensor([needs.patch / workload.height, needs.patch / workload.width]).clamp(max=1.0)
    if phase.unit == "window":
        images, overviews, size = 1, batch, batch
        corners = torch.rand((batch, 2), generator=generator) * (1 - extent)
    else:
        tops, lefts = (starts(length, needs.patch, 0.0, needs.overlap) for length in (workload.height, workload.width))
        corners = torch.tensor([[top / workload.height, left / workload.width] for top in tops for left in lefts])
        images, overviews, size = batch, 1, phase.windows or len(corners)
    portions = []
    for _ in range(images):
        overview, overview_label = (None, None) if needs.overview is None else pair(overviews, needs.overview)
        for part in torch.split(corners, size):
            context, label = pair(len(part), needs.context)
            views = Views(context, torch.cat([part, extent.expand(len(part), 2)], dim=1), overview)
            portions.append((views, Labels(label, overview_label), len(part) / len(corners) / images))
    return portions


def timed(once: Callable[[], object], repeats: int, limit: float | None = None) -> list[float]:
    """Seconds of up to `repeats` runs, each of which ends with the device idle; no second one after `limit` seconds."""
    taken: list[float] = []
    while len(taken) < repeats and (not taken or limit is None or sum(taken) < limit):
        start = time.perf_counter()
        once()
        taken.append(time.perf_counter() - start)
    return taken


def random_image(height: int, width: int) -> Bytes:
    """(H, W, 3) uint8 of random pixels with a fixed seed."""
    rows = np.random.default_rng(0).integers(0, 256, (height, 3, width), dtype=np.uint8)
    return rows.transpose(0, 2, 1)  # in memory as in the store


def is_oom(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in OOM_WORDS)
