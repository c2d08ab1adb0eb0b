"""Data-parallel training: one batch split over several processes, with the numbers of one process.

Process r of n gets the contiguous slice r of every batch. Mean gradients of n processes equal those of the whole batch
only if nothing else sees the split. So, while it is split: losses divide by the number of valid pixels of the whole
batch (`denominator`), batch norm uses the statistics of the whole batch, and dropout draws the masks of the whole batch
and uses its own slice (`join_modules`). In a single process, nothing here changes any operation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

_DRAWING = ("Dropout", "Dropout2d", "DropPath")
"""Modules that draw random numbers for each sample of a batch, by the name of their class."""
_parts = 1


def world() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def parts() -> int:
    """Number of slices into which a batch is split at the moment; 1 if every process computes the whole batch."""
    return _parts


@contextmanager
def split(count: int) -> Iterator[None]:
    """Within the block, every batch is one of `count` slices: 1 or `world()`."""
    global _parts
    before, _parts = _parts, count
    try:
        yield
    finally:
        _parts = before


def slice_of(whole: int) -> range:
    """Positions of this process in a batch of `whole` samples, which `parts()` divides."""
    size = whole // parts()
    first = size * rank() if parts() > 1 else 0
    return range(first, first + size)


def total(value: Tensor) -> Tensor:
    """The sum over all processes, without gradient."""
    if world() > 1:
        value = value.detach().clone()
        distributed.all_reduce(value)
    return value


def summed(value: Tensor) -> Tensor:
    """The sum over the slices of the batch, without gradient."""
    return value if parts() == 1 else total(value)


def wait() -> None:
    """Wait until every process is here."""
    any_of([True])


def any_of(flags: list[bool]) -> list[bool]:
    """Whether each flag is set in any process; exchanged in host memory, so that no GPU is waited for."""
    if world() == 1:
        return flags
    values = torch.tensor(flags, dtype=torch.uint8)
    distributed.all_reduce(values, distributed.ReduceOp.MAX)
    return [bool(value) for value in values]


def denominator(count: Tensor) -> Tensor:
    """At least 1: a sum of `count` over the whole batch, divided by the number of slices.

    A loss that divides the sum over a slice by it is, in the mean over the processes, the loss of the whole batch.
    """
    if parts() == 1:
        return count.clamp(min=1)
    return summed(count).clamp(min=1) / parts()


def whole_of(values: Tensor) -> Tensor:
    """The values (N, ...) of all slices, concatenated in order, without gradient."""
    if parts() == 1:
        return values
    found = [torch.empty_like(values) for _ in range(parts())]
    distributed.all_gather(found, values.detach().contiguous())
    return torch.cat(found)


def join_modules(method: nn.Module, device: torch.device) -> None:
    """Make batch norm and dropout of `method` treat a slice as part of the whole batch, in place.

    On CUDA, batch norm becomes torch's SyncBatchNorm (through timm, whose own batch norms include an activation), which
    supports no CPU; there, it is computed here. Names of parameters and buffers stay.
    """
    if device.type == "cuda":
        from timm.layers.norm_act import convert_sync_batchnorm

        convert_sync_batchnorm(method)  # type: ignore[no-untyped-call]
    for module in method.modules():
        if type(module).__name__ in _DRAWING:
            module.forward = _Drawing(module)
        elif isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
            module.forward = _Norm(module)  # type: ignore[method-assign, assignment]


def keep_norms_alone(method: nn.Module, alone: bool) -> None:
    """Let SyncBatchNorm use the statistics of this process alone, which computes the whole batch, or of all of them."""
    for module in method.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.process_group = _own_group() if alone else None


@cache
def _own_group() -> Any:
    """The group of this process alone."""
    groups = [distributed.new_group([member]) for member in range(world())]
    return groups[rank()]


class _Drawing:
    """`forward` of a dropout layer: the mask of the whole batch is drawn, and its own slice used."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.alone = module, module.forward

    def __call__(self, x: Tensor) -> Tensor:
        if parts() == 1 or not self.module.training:
            result: Tensor = self.alone(x)
            return result
        whole = len(x) * parts()
        mask: Tensor = self.alone(torch.ones((whole, *x.shape[1:]), dtype=x.dtype, device=x.device))
        own = slice_of(whole)
        return x * mask[own.start : own.stop]


class _Norm:
    """`forward` of a batch norm layer on a CPU, with the statistics of the whole batch while it trains."""

    def __init__(self, module: Any) -> None:
        assert module.momentum is not None and module.track_running_stats
        self.module, self.alone = module, module.forward

    def __call__(self, x: Tensor) -> Tensor:
        module = self.module
        if parts() == 1 or not module.training:
            result: Tensor = self.alone(x)
            return result
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        count = x.numel() // x.shape[1] * parts()
        mean = _sum(x.sum(axes)) / count
        centred = x - mean.view(shape)
        variance = _sum(centred.square().sum(axes)) / count
        with torch.no_grad():
            module.num_batches_tracked.add_(1)
            module.running_mean.lerp_(mean, module.momentum)
            module.running_var.lerp_(variance * (count / (count - 1)), module.momentum)
        x = centred * (variance + module.eps).rsqrt().view(shape)
        if module.affine:
            x = x * module.weight.view(shape) + module.bias.view(shape)
        for name in ("drop", "act"):  # of timm's batch norms
            if (after := getattr(module, name, None)) is not None:
                x = after(x)
        return x


class _AllSum(torch.autograd.Function):
    """Sum over all processes, whose gradient is the sum of their gradients."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return total(x)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return total(gradients[0])


def _sum(x: Tensor) -> Tensor:
    result: Tensor = _AllSum.apply(x)
    return result
