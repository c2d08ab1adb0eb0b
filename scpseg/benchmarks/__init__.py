"""The benchmarks by name. A new one is a file of this folder, its name here, and its section in the profiles."""

from __future__ import annotations

from importlib import import_module

from scpseg.benchmarks.base import Benchmark
from scpseg.errors import UserError

NAMES = (
    "deepglobe",
    "inria",
    "potsdam",
    "blu",
    "probe",
)
BENCHMARKS: dict[str, Benchmark] = {name: import_module(f"{__name__}.{name}").BENCHMARK for name in NAMES}
REAL = tuple(name for name, spec in BENCHMARKS.items() if not spec.invented)
"""The published benchmarks: all but the probe."""


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of this name.

    Raises:
        UserError: unknown benchmark.
    """
    if name not in BENCHMARKS:
        raise UserError(f"unknown benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
