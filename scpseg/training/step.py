"""One optimiser step: forward pass, losses, backward pass and update, for training and for memory measurement."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

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
    """

    optimizer: torch.optim.Optimizer | None = None

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

    def __call__(self, portions: Iterable[Portion], progress: float) -> dict[str, Tensor]:
        """Run one step at `progress` 0..1 of the phase; return weighted means of the losses and their 'total'."""
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        means: dict[str, Tensor] = {}
        for views, labels, weight in portions:
            with torch.autocast(self.device.type, dtype=self.kind, enabled=self.kind is not None):
                losses = self.method.losses(views.to(self.device), labels.to(self.device), progress)
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
