"""Phases of training: trained parameters, lengths, optimisers and learning rates."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from scpseg.contract import Method, Phase, Recipe
from scpseg.errors import UserError
from scpseg.params import TrainParams


def lengths(phases: tuple[Phase, ...], iterations: int, batch: int, images: int, windows: int) -> list[int]:
    """Number of iterations of each phase.

    Args:
        phases: phases of a method.
        iterations: `train.iterations`, for every phase without a lower limit and without its own length.
        batch: batch size of the benchmark.
        images: number of training images.
        windows: number of windows that cover them.

    Raises:
        ValueError: every phase has a limit, so none is trained for all iterations.
    """
    if all(phase.epochs for phase in phases):
        raise ValueError("every phase has a limit; at least one must train for all iterations")
    return [_length(phase, iterations, batch, images, windows) for phase in phases]


def _length(phase: Phase, iterations: int, batch: int, images: int, windows: int) -> int:
    recipe = phase.recipe
    if recipe and recipe.own_length:
        full = images // recipe.batch
        each = max(full, 1) if recipe.drop_last else math.ceil(images / recipe.batch)
        return recipe.steps or (recipe.epochs or 0) * each
    if phase.epochs is None:
        return iterations
    single = phase.unit == "window"
    samples = windows if single and "window" in phase.sees else images
    return min(iterations, math.ceil(phase.epochs * samples / (batch if single else 1)))


def check_devices(phase: Phase, batch: int, devices: int) -> None:
    """Check that processes with one device each can share the batches of a phase; images are not shared.

    Raises:
        UserError: `devices` does not divide `batch`, the windows of a training step.
    """
    if phase.unit == "window" and batch % devices:
        raise UserError(
            f"params.yaml: machine.devices is {devices}, which does not divide the {batch} windows of a training step "
            f"(phase {phase.name}); set it to a divisor of {batch}"
        )


def checked(length: int, checks: int) -> set[int]:
    """Steps of a phase of `length` after which the validation split is scored: `checks` of them, including the last."""
    return {math.ceil(length * number / checks) for number in range(1, checks + 1)}


def learns(phase: Phase, name: str) -> bool:
    """Whether the parameter or module `name` is trained in the phase."""
    return phase.learns is None or any(name == part or name.startswith(part + ".") for part in phase.learns)


def enter(method: Method, phase: Phase, fresh: bool = True) -> list[nn.Parameter]:
    """Enter a phase: notify the method, freeze what is not trained (also batch norm and dropout), return the rest.

    `fresh` is False if a run resumes within the phase.
    """
    method.begin_phase(phase.name, fresh)
    for name, module in method.named_modules():
        module.training = learns(phase, name)
    method.training = True
    moving = []
    for name, parameter in method.named_parameters():
        parameter.requires_grad_(learns(phase, name))
        if parameter.requires_grad:
            moving.append(parameter)
        else:
            parameter.grad = None  # from an earlier phase, and no longer used
    return moving


def shared(params: TrainParams, batch: int) -> Recipe:
    """The recipe of a method: the shared settings, with its tuned optimiser and learning rate."""
    return Recipe(params.optimizer, params.learning_rate, params.weight_decay, batch, momentum=params.momentum)


def described(recipes: list[Recipe]) -> dict[str, Any]:
    """The optimisation, for the result row; values that differ between phases are joined by colons."""
    rows = [asdict(recipe) | ({} if recipe.optimizer == "sgd" else {"momentum": None}) for recipe in recipes]
    names = ("optimizer", "learning_rate", "momentum", "weight_decay", "power", "batch")
    found = {name: list(dict.fromkeys(row[name] for row in rows)) for name in names}
    return {
        name: values[0] if len(values) == 1 else ":".join(str(row[name]) for row in rows)
        for name, values in found.items()
    }


def optimizer(recipe: Recipe, moving: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Build the optimiser of a recipe."""
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adam":
        return torch.optim.Adam(moving, lr=rate, weight_decay=decay)
    return torch.optim.SGD(moving, lr=rate, weight_decay=decay, momentum=recipe.momentum, nesterov=recipe.nesterov)


def factor(recipe: Recipe, step: int, steps: int) -> float:
    """Factor of the learning rate at `step` of `steps`: 1 at the start, `recipe.end` or 0 at the end."""
    if recipe.drops:
        # Computed in whole steps, so that a drop at 10 of 50 epochs does not depend on rounding.
        return float(0.1 ** sum(step >= round(drop * steps) for drop in recipe.drops))
    if recipe.power is None:
        return cosine(step, steps)
    last = recipe.end / recipe.learning_rate
    return last + (1 - last) * float((1 - step / steps) ** recipe.power)


def cosine(step: int, steps: int) -> float:
    """Factor of the learning rate at `step` of `steps`: 1 at the start, 0 at the end (paper: cosine decay)."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))
