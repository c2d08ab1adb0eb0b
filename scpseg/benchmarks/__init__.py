"""The benchmarks by name. A new one is a file in this folder, its name here, and its section in the profiles."""

from __future__ import annotations

from importlib import import_module

from scpseg.benchmarks import custom
from scpseg.benchmarks.base import Benchmark
from scpseg.errors import UserError

NAMES = (
    "deepglobe",
    "inria",
    "potsdam",
    "blu",
    "dubai",
    "probe",
)


def _load(name: str) -> Benchmark:
    file = f"scpseg/benchmarks/{name}.py"
    try:
        found = getattr(import_module(f"{__name__}.{name}"), "BENCHMARK", None)
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise UserError(
            f"NAMES in scpseg/benchmarks/__init__.py has {name!r}, but {file} does not exist; add it"
        ) from None
    except TypeError as error:  # a missing or unknown field
        raise UserError(f"{file}: {error}; see scpseg/benchmarks/base.py") from error
    if not isinstance(found, Benchmark):
        raise UserError(f"{file} does not define BENCHMARK; assign a Benchmark to it")
    return found


BENCHMARKS: dict[str, Benchmark] = {name: _load(name) for name in NAMES}
if folder := custom.custom_folder():
    BENCHMARKS[custom.NAME] = custom.read_benchmark(folder)
REAL = tuple(name for name, spec in BENCHMARKS.items() if not spec.invented)
"""The published benchmarks: all except the probe."""


def get_benchmark(name: str) -> Benchmark:
    """Return the benchmark with this name.

    Raises:
        UserError: unknown benchmark.
    """
    if name not in BENCHMARKS:
        raise UserError(f"unknown benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
