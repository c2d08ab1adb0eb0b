"""One optimiser step: forward pass, losses, backward pass and update, for training and for memory measurement."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scpseg import parallel
from scpseg.contract import Labels, Method, Phase, Recipe, Views
from scpseg.params import TrainParams
from scpseg.training.phases import enter, optimizer

Portion = tuple[Views, Labels, float]
"""The input of one call of `losses`, in host memory, and its weight in the mean."""


class Stepper:
    """Runs the steps of one phase after another.

    Attributes:
        scaler: gradient scaler for half precision; used in all phases.
        optimizer: of the current phase.
        moving: the parameters that are trained in it.
        parts: number of slices of a batch in the current phase, see `parallel.split`.
    """

    optimizer: torch.optim.Optimizer | None = None
    joined: DistributedDataParallel | None = None
    parts = 1

    def __init__(self, method: Method, params: TrainParams, device: torch.device) -> None:
        """Prepare steps of `method`, which is on `device`."""
        self.method, self.device = method, device
        self.kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(params.precision)
        self.scaler = torch.amp.GradScaler(device.type, enabled=params.precision == "fp16")
        self.moving: list[torch.nn.Parameter] = []

    def begin(self, phase: Phase, recipe: Recipe, fresh: bool = True) -> None:
        """Enter a phase with a new optimiser; `fresh` is False if a run resumes within it."""
        self.phase = phase
        self.moving = enter(self.method, phase, fresh)
        self.optimizer = optimizer(recipe, self.moving)
        if parallel.world() > 1:
            self._join(phase)

    def _join(self, phase: Phase) -> None:
        """Average the gradients of the phase's parameters over all processes.

        A step on whole images is one call per image, which cannot be split: every process computes all of it.
        """
        self.parts = parallel.world() if phase.unit == "window" else 1
        parallel.keep_norms_alone(self.method, self.parts == 1)
        self.joined = None
        gc.collect()  # ends the hooks on the parameters of the phase before
        self.joined = DistributedDataParallel(
            _Losses(self.method),
            find_unused_parameters=True,
            gradient_as_bucket_view=True,
        )

    def __call__(self, portions: Iterable[Portion], progress: float) -> dict[str, Tensor]:
        """Run one step at `progress` 0..1 of the phase; return weighted means of the losses and their 'total'."""
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        means: dict[str, Tensor] = {}
        with parallel.split(self.parts):
            for (views, labels, weight), last in ending(portions):
                with self._averaging(last):
                    with torch.autocast(self.device.type, dtype=self.kind, enabled=self.kind is not None):
                        losses = (self.joined or self.method.losses)(
                            views.to(self.device), labels.to(self.device), progress
                        )
                    total = torch.stack([loss.float() for loss in losses.values()]).sum()
                    self.scaler.scale(total * weight).backward()  # type: ignore[no-untyped-call]
                for key, value in {"total": total, **losses}.items():
                    share = weight * value.detach().float()
                    means[key] = means[key] + share if key in means else share
        if self.phase.clip:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.moving, self.phase.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return means

    def _averaging(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are added up in each process, and averaged over the processes with the last portion."""
        return nullcontext() if self.joined is None or last else self.joined.no_sync()


class _Losses(nn.Module):
    """The losses of a method as the `forward` of a module, which DistributedDataParallel needs."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, views: Views, labels: Labels, progress: float) -> dict[str, Tensor]:
        return self.method.losses(views, labels, progress)


def ending(portions: Iterable[Portion]) -> Iterator[tuple[Portion, bool]]:
    """Each portion, and whether it is the last."""
    following = iter(portions)
    current = next(following, None)
    while current is not None:
        after = next(following, None)
        yield current, after is None
        current = after
