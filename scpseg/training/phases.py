"""Which parameters move in a phase, how long, and how fast."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from scpseg.contract import Method, Phase, Recipe
from scpseg.params import TrainParams


def lengths(phases: tuple[Phase, ...], iterations: int, batch: int, images: int, windows: int) -> list[int]:
    """Iterations of each phase.

    Args:
        phases: of a method.
        iterations: `train.iterations`, of every phase whose cap is not lower and whose recipe has no length of its own.
        batch: of the benchmark.
        images: for training.
        windows: that cover them.

    Raises:
        ValueError: every phase is capped, so that nothing is trained in full.
    """
    if all(phase.epochs for phase in phases):
        raise ValueError("every phase is capped; at least one must train for all iterations")
    return [_length(phase, iterations, batch, images, windows) for phase in phases]


def _length(phase: Phase, iterations: int, batch: int, images: int, windows: int) -> int:
    recipe = phase.recipe
    if recipe and recipe.own_length:
        return recipe.steps or math.ceil((recipe.epochs or 0) * images / recipe.batch)
    if phase.epochs is None:
        return iterations
    single = phase.unit == "window"
    samples = windows if single and "window" in phase.sees else images
    return min(iterations, math.ceil(phase.epochs * samples / (batch if single else 1)))


def checked(length: int, checks: int) -> set[int]:
    """After which steps of a phase of `length` the validation split is scored: `checks` times, at its end at last."""
    return {math.ceil(length * number / checks) for number in range(1, checks + 1)}


def learns(phase: Phase, name: str) -> bool:
    """Whether the parameter or module `name` moves in the phase."""
    return phase.learns is None or any(name == part or name.startswith(part + ".") for part in phase.learns)


def enter(method: Method, phase: Phase, fresh: bool = True) -> list[nn.Parameter]:
    """Tell the method, freeze what does not learn (batch-norm statistics and dropout included), return what does.

    `fresh` is False when a run resumes within the phase.
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
            parameter.grad = None  # of an earlier phase: nothing reads it again
    return moving


def shared(params: TrainParams, batch: int) -> Recipe:
    """The recipe of a method: what all share, with the optimiser and the rate that were tuned for it."""
    return Recipe(params.optimizer, params.learning_rate, params.weight_decay, batch, momentum=params.momentum)


def told(recipes: list[Recipe]) -> dict[str, Any]:
    """What optimised, for the result row; where phases differ, their values joined by colons."""
    rows = [asdict(recipe) | ({} if recipe.optimizer == "sgd" else {"momentum": None}) for recipe in recipes]
    names = ("optimizer", "learning_rate", "momentum", "weight_decay", "power", "batch")
    found = {name: list(dict.fromkeys(row[name] for row in rows)) for name in names}
    return {
        name: values[0] if len(values) == 1 else ":".join(str(row[name]) for row in rows)
        for name, values in found.items()
    }


def optimizer(recipe: Recipe, moving: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of a recipe."""
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adam":
        return torch.optim.Adam(moving, lr=rate, weight_decay=decay)
    return torch.optim.SGD(moving, lr=rate, weight_decay=decay, momentum=recipe.momentum, nesterov=recipe.nesterov)


def factor(recipe: Recipe, step: int, steps: int) -> float:
    """Factor of the learning rate at `step` of `steps`: from 1 at the start to `recipe.end` or 0 after the end."""
    if recipe.drops:
        # In whole steps, so that a drop at 10 of 50 epochs does not depend on how a fraction is rounded.
        return float(0.1 ** sum(step >= round(drop * steps) for drop in recipe.drops))
    if recipe.power is None:
        return cosine(step, steps)
    last = recipe.end / recipe.learning_rate
    return last + (1 - last) * float((1 - step / steps) ** recipe.power)


def cosine(step: int, steps: int) -> float:
    """Factor of the learning rate at `step` of `steps`: 1 at the start, 0 after the end (paper: cosine decay)."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))
