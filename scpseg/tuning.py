"""Optimiser and learning rate of each method, chosen from the same three candidates for all of them.

`python -m pipelines.sweep tuning` scores them on the validation split; section `tuned` of params.yaml has the result.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, cast, get_args

Optimizer = Literal["sgd", "adam"]
GRID = ("sgd 0.01", "sgd 0.05", "adam 0.001")
"""The candidates: values of `tuned` that the sweep tries."""


class Tuned(NamedTuple):
    """A value of section `tuned`: the optimiser and its initial learning rate."""

    optimizer: Optimizer
    learning_rate: float


def parse(text: object) -> Tuned | None:
    """Parse a text such as 'sgd 0.05'; None if it is not valid."""
    name, _, rate = str(text).partition(" ")
    try:
        number = float(rate)
    except ValueError:
        return None
    return Tuned(cast(Optimizer, name), number) if name in get_args(Optimizer) and 0 < number < 1e3 else None


def at_edge(optimizer: str, learning_rate: float, grid: tuple[str, ...] = GRID) -> bool:
    """Whether a choice has the lowest or highest learning rate that the grid has for its optimiser.

    A better one may be outside the grid. A learning rate outside the grid counts as well.
    """
    rates = [tuned.learning_rate for tuned in map(parse, grid) if tuned and tuned.optimizer == optimizer]
    return not rates or not min(rates) < learning_rate < max(rates)
