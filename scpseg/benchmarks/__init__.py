"""The benchmarks by name. A new one is a file of this folder and a line here, and its section in the profiles."""

from __future__ import annotations

from scpseg.benchmarks import blu, deepglobe, inria, potsdam, probe
from scpseg.benchmarks.base import Benchmark
from scpseg.errors import UserError

BENCHMARKS: dict[str, Benchmark] = {
    "deepglobe": deepglobe.BENCHMARK,
    "inria": inria.BENCHMARK,
    "potsdam": potsdam.BENCHMARK,
    "blu": blu.BENCHMARK,
    "probe": probe.BENCHMARK,
}
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
