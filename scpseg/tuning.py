"""Optimiser and learning rate of each method: the same three choices are tried for all of them.

`python -m pipelines.sweep tuning` scores them on the validation split; section `tuned` of params.yaml has the choice.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, cast, get_args

Optimizer = Literal["sgd", "adam"]
GRID = ("sgd 0.01", "sgd 0.05", "adam 0.001")
"""Every value of `tuned` that the sweep tries."""


class Tuned(NamedTuple):
    """A value of section `tuned`: the optimiser and its rate at the start."""

    optimizer: Optimizer
    learning_rate: float


def parse(text: object) -> Tuned | None:
    """'sgd 0.05' taken apart; None where the text is something else."""
    name, _, rate = str(text).partition(" ")
    try:
        number = float(rate)
    except ValueError:
        return None
    return Tuned(cast(Optimizer, name), number) if name in get_args(Optimizer) and 0 < number < 1e3 else None


def at_edge(optimizer: str, learning_rate: float, grid: tuple[str, ...] = GRID) -> bool:
    """Whether a choice has the lowest or highest rate that the grid tries for its optimiser.

    A better one may lie beyond. A rate that the grid does not try lies outside of it, which counts as well.
    """
    rates = [tuned.learning_rate for tuned in map(parse, grid) if tuned and tuned.optimizer == optimizer]
    return not rates or not min(rates) < learning_rate < max(rates)
