"""The other measured workload: one training step of one phase, on random windows and labels.

Order: idle state, model, one step of every phase before (what they leave in memory stays, as in training), one step to
warm up, which also makes the optimiser's state; peaks reset, `repeats` steps measured, as many timed without a sampler
beside them, one step counted. Windows lie in host memory and travel to the device in every step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scpseg.contract import Labels, Method, Phase, Views
from scpseg.data.windows import starts
from scpseg.params import TrainParams
from scpseg.profiling.fresh import usual_allocator
from scpseg.profiling.meter import Meter
from scpseg.profiling.workload import guarded, repeated, timed
from scpseg.training.phases import shared
from scpseg.training.step import Portion, Stepper

Draw = Callable[..., Tensor]
PHASE_FACTS = ("phase", "phases", "unit", "optimizer")


@dataclass(frozen=True)
class StepWorkload:
    """One training step: windows per step, number of outputs, and which of the method's phases (from 0).

    Sides of the image in pixels say how many windows a phase takes that trains on whole images. No step is begun after
    `seconds` of repeats, if given; one is always measured.
    """

    batch: int
    classes: int
    height: int
    width: int
    repeats: int
    phase: int
    seconds: float | None = None


def measure_step(
    make: Callable[[], Method], workload: StepWorkload, train: TrainParams, device: torch.device, meter: Meter
) -> dict[str, Any]:
    """Measure a training step in this process, which should be a fresh one.

    Returns:
        The keys of `scpseg.profiling.workload.measure`, and more: `phase` by name, `phases` of the method, `unit` and
        `optimizer` of this one, `seconds_per_step`. `seconds_per_image` is None; `megapixels_per_second` counts
        labelled pixels of the windows, `windows` and `multiply_adds` those of a step with its backward pass,
        `parameters` all that the method learns in any phase, `image_bytes` the windows and labels in host memory.
    """
    facts: dict[str, Any] = dict.fromkeys(PHASE_FACTS)
    figures = guarded(meter, lambda: _measure(make, workload, train, device, meter, facts))
    return {"seconds_per_step": None, **figures, **facts}


def _measure(
    make: Callable[[], Method],
    workload: StepWorkload,
    train: TrainParams,
    device: torch.device,
    meter: Meter,
    facts: dict[str, Any],
) -> dict[str, Any]:
    meter.prepare()
    method = make().to(device)
    phases = method.phases()
    facts["phases"] = [phase.name for phase in phases]
    for phase in phases[: workload.phase + 1]:
        facts |= {"phase": phase.name, "unit": phase.unit}
        step = TrainingStep(method, phase, workload, train, device)
        facts["optimizer"] = type(step.stepper.optimizer).__name__
        step()
    meter.rest()
    meter.begin()
    repeats = repeated(step, workload.repeats, workload.seconds)
    reading = meter.finish()
    usual = usual_allocator()
    seconds = timed(step, repeats)
    with FlopCounterMode(display=False) as counter:
        step()
    windows = sum(len(views.place) for views, _, _ in step.portions)
    return {
        **reading.described(),
        "repeats": repeats,
        "image_bytes": step.nbytes(),
        "seconds_per_image": None,
        "seconds_per_step": round(seconds, 6),
        "megapixels_per_second": round(windows * method.needs.patch**2 / 1e6 / seconds, 6),
        "timed_with_usual_allocator": usual,
        "parameters": sum(parameter.numel() for parameter in method.parameters()),
        "windows": windows,
        "multiply_adds": counter.get_total_flops() // 2,
        "model": method.describe(),
    }


class TrainingStep:
    """A step of one phase, by the same code as in training, always on the same windows.

    Attributes:
        stepper: takes the step, by the phase's recipe or the one that all methods share.
        portions: what a step trains on, in host memory.
    """

    def __init__(
        self,
        method: Method,
        phase: Phase,
        workload: StepWorkload,
        train: TrainParams,
        device: torch.device,
        draw: Draw | None = None,
    ) -> None:
        """Let `method` enter the phase; `draw(high, *shape)` makes the bytes of windows, at random by default."""
        recipe = phase.recipe or shared(train, workload.batch if phase.unit == "window" else 1)
        self.device = device
        self.stepper = Stepper(method, train, device)
        self.stepper.begin(phase, recipe)
        self.portions = _portions(method, phase, workload, recipe.batch, draw)

    def __call__(self) -> Tensor:
        """One step, ended on the device too; its mean loss, a scalar."""
        total = self.stepper(self.portions, 0.0)["total"]
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return total

    def nbytes(self) -> int:
        """Bytes of the windows and labels in host memory."""
        # Portions of an image share its overview.
        tensors = {
            id(tensor): tensor
            for views, labels, _ in self.portions
            for tensor in (views.context, views.place, views.overview, labels.context, labels.overview)
            if tensor is not None
        }
        return sum(tensor.nbytes for tensor in tensors.values())


def _portions(method: Method, phase: Phase, workload: StepWorkload, batch: int, draw: Draw | None) -> list[Portion]:
    """Random windows: one batch of them, or all windows of `batch` images, each in portions of `phase.windows`."""
    generator = torch.Generator().manual_seed(0)
    needs = method.needs

    def at_random(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, dtype=torch.uint8, generator=generator)

    random = draw or at_random

    def wholes(count: int) -> tuple[Tensor | None, Tensor | None]:
        side = needs.overview
        return (
            (None, None)
            if side is None
            else (random(256, count, 3, side, side), random(workload.classes, count, side, side))
        )

    def windows(count: int) -> tuple[Tensor, Tensor]:
        side = needs.context
        return random(256, count, 3, side, side), random(workload.classes, count, side, side)

    extent = torch.tensor([needs.patch / workload.height, needs.patch / workload.width]).clamp(max=1.0)
    if phase.unit == "window":
        corners = torch.rand((batch, 2), generator=generator) * (1 - extent)
        (context, label), (overview, overview_label) = windows(batch), wholes(batch)
        place = torch.cat([corners, extent.expand(batch, 2)], dim=1)
        return [(Views(context, place, overview), Labels(label, overview_label), 1.0)]
    rows, columns = (starts(length, needs.patch, 0.0, needs.overlap) for length in (workload.height, workload.width))
    corners = torch.tensor([[top / workload.height, left / workload.width] for top in rows for left in columns])
    size = phase.windows or len(corners)
    portions = []
    for _ in range(batch):
        overview, overview_label = wholes(1)
        for part in torch.split(corners, size):
            context, label = windows(len(part))
            views = Views(context, torch.cat([part, extent.expand(len(part), 2)], dim=1), overview)
            portions.append((views, Labels(label, overview_label), len(part) / len(corners) / batch))
    return portions
