"""Memory of a method computed from its graph: the real method on `meta` tensors, with the lifetime of every storage.

Inference is `scpseg.evaluation.streaming.segment` and training `scpseg.profiling.workload.TrainingStep`, so what is
computed is what is run. `scpseg.profiling.ledger` says what is not counted, and which methods cannot be computed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from scpseg.contract import Method, drop_training_parts
from scpseg.evaluation.streaming import TestImage, segment
from scpseg.params import TrainParams
from scpseg.profiling.ledger import Ledger, Peak, cuda_rules
from scpseg.profiling.records import WELL
from scpseg.profiling.workload import TrainingStep, Workload

META = torch.device("meta")
LARGEST, NAMES = 12, ("dtype", "operation", "module", "kind")
"""Number of blocks at the peak in a record, and what it has of each besides bytes and shape."""
FEWEST = 3  # windows that are run at least
WEIGHTS, STATE, GRADIENTS, OPTIMIZER = "weights", "state", "gradients", "optimizer"
HALVES = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}


class _Repeating(Exception):
    """Stops inference early: every further window would repeat the last."""


class _Undrawn(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Skips the initialisation of weights: only their sizes count."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten: Any = torch.ops.aten
        drawing = func in (aten.normal_.default, aten.uniform_.default, aten.erfinv_.default)
        return args[0] if drawing else func(*args, **(kwargs or {}))


def inference(make: Callable[[], Method], workload: Workload, precision: str = "fp32") -> dict[str, Any]:
    """Figures of whole-image inference for a record.

    Windows are run until two in a row have the same peak and leave the same bytes: the others repeat them.

    Returns:
        `memory` by channel; `parts` of the peak (weights, state, activations) and the `state_bytes` kept per image;
        `alive`, the largest tensors at the peak; `parameters`, `windows` and `multiply_adds` of one image; `model`.
    """
    with _Undrawn():  # type: ignore[no-untyped-call]
        method = drop_training_parts(make())
    image = np.zeros((workload.height, workload.width, 3), dtype=np.uint8)  # its pages are never touched
    ledger = Ledger()
    marks: list[tuple[int, int, int]] = []  # at the start of each window: peak since the last, live bytes, operations
    facts: dict[str, int] = {}
    begin_image = method.begin_image

    def begin(views: Any) -> Any:
        facts["windows"] = len(views.corners())
        weights = ledger.live
        state = begin_image(views)
        facts["state_bytes"] = ledger.live - weights
        ledger.label_live(STATE)
        return state

    def mark(module: nn.Module, inputs: Any) -> None:
        marks.append((ledger.high, ledger.live, ledger.flops))
        ledger.high = ledger.live
        if len(marks) >= FEWEST and marks[-1][:2] == marks[-2][:2]:
            raise _Repeating

    def overview(image: TestImage, side: int) -> Tensor:  # already on the device, because it is reduced on the host
        return torch.empty((1, 3, side, side), dtype=torch.uint8, device=META)

    method.begin_image = begin  # type: ignore[method-assign, assignment]
    overviews = mock.patch.object(TestImage, "overview", overview)
    with overviews, cuda_rules() as rules, ledger, ledger.naming(method):
        method.to(META)
        ledger.label([*method.named_parameters(), *method.named_buffers()], WEIGHTS)
        method.register_forward_pre_hook(mark)
        try:
            # Without inference mode, in which every composite operation would be decomposed in Python.
            with torch.no_grad(), rules.autocast(HALVES[precision]):
                inspect.unwrap(segment)(method, image, workload.classes, META, workload.overlap, workload.batch)
            flops = ledger.flops
        except _Repeating:
            flops = marks[0][2] + (marks[-1][2] - marks[-2][2]) * facts["windows"] // workload.batch
        peak = ledger.peak()
    return _figures(method, peak, (WEIGHTS, STATE), precision=precision, multiply_adds=flops // 2, **facts)


def training_step(make: Callable[[], Method], workload: Workload, train: TrainParams) -> dict[str, Any]:
    """Figures of the second training step of the phase with the highest peak; `workload.phase` is ignored.

    Returns:
        The keys of `inference`, with `parts` weights, gradients, optimizer and activations; `phase` by name, `phases`
        of the method, `unit` and `optimizer` of this one, `peak_by_phase` in bytes. `windows` and `multiply_adds` are
        those of a step.
    """
    with _Undrawn():  # type: ignore[no-untyped-call]
        method = make()
    ledger = Ledger()
    found: list[tuple[Peak, dict[str, Any]]] = []
    with cuda_rules(), ledger, ledger.naming(method):
        method.to(META)
        ledger.label([*method.named_parameters(), *method.named_buffers()], WEIGHTS)
        phases = method.phases()
        for phase in phases:
            step = TrainingStep(method, phase, workload, train, META)
            optimizer = step.stepper.optimizer
            assert optimizer is not None
            for group in optimizer.param_groups:
                group["foreach"] = True  # the default on CUDA
            step()
            for state in optimizer.state.values():
                ledger.label(((name, value) for name, value in state.items() if isinstance(value, Tensor)), OPTIMIZER)
            first, flops = len(ledger.events), ledger.flops
            step()
            ledger.label(((name, parameter.grad) for name, parameter in method.named_parameters()), GRADIENTS)
            facts = step.facts() | {"multiply_adds": (ledger.flops - flops) // 2}
            found.append((ledger.peak(first), facts))
            del step, optimizer, group, state
    peak, facts = max(found, key=lambda one: one[0].size)
    facts |= {"peak_by_phase": {one["phase"]: of.size for of, one in found}, "phases": [phase.name for phase in phases]}
    return _figures(method, peak, (WEIGHTS, GRADIENTS, OPTIMIZER), precision=train.precision, state_bytes=None, **facts)


def _figures(method: Method, peak: Peak, kinds: tuple[str, ...], **more: Any) -> dict[str, Any]:
    sums = peak.by_kind()
    return {
        **WELL,
        "backend": "computed",
        "memory": {"computed": peak.size},
        "parts": {kind: sums.pop(kind, 0) for kind in kinds} | {"activations": sum(sums.values())},
        "alive": [
            {"bytes": block.size, "shape": list(block.shape), **{name: getattr(block, name) for name in NAMES}}
            for block in peak.blocks[:LARGEST]
        ],
        "parameters": sum(parameter.numel() for parameter in method.parameters()),
        "model": method.describe(),
        **more,
    }
