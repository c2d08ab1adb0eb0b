"""Colour and marker of a method, the same in every figure whatever stands beside it; another set for anything else."""

from __future__ import annotations

import zlib
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """Of the marks of a method, or of another series."""

    colour: str
    marker: str


# Colours from Okabe and Ito's palette and near it, told apart by all common kinds of colour vision.
METHODS = {
    "scpseg": Look("#D55E00", "D"),
    "patch": Look("#0072B2", "o"),
    "downscale": Look("#009E73", "s"),
    "glnet": Look("#B0578D", "^"),
}
"""Of this suite."""
FURTHER = tuple(Look(colour, marker) for marker in "vPX" for colour in ("#3A9BD0", "#6A4C93", "#7F4F24", "#4F7302"))
"""Of methods that someone adds."""
OTHERS = tuple(
    Look(colour, marker) for colour, marker in zip(("#333333", "#B87F00", "#7A8CA3", "#A34A4A"), "ph<>", strict=True)
)
"""Of series that are no methods, such as segmenters."""


def looks_of(methods: Collection[str]) -> dict[str, Look]:
    """Look by method. One that is not of this suite has its own by its name, another only where two would share it."""
    found = {method: METHODS[method] for method in methods if method in METHODS}
    for method in sorted(set(methods) - METHODS.keys()):
        first = zlib.crc32(method.encode())
        mine = [FURTHER[(first + step) % len(FURTHER)] for step in range(len(FURTHER))]
        found[method] = next((look for look in mine if look not in found.values()), mine[0])
    return found


def other_look(index: int) -> Look:
    """Of the series with this number."""
    return OTHERS[index % len(OTHERS)]
