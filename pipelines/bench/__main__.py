"""Speed of the suite's machinery beside what a user would pick instead; writes results/bench.csv.

Each run measures every row once more and keeps the ratios of earlier runs on the same machine. Peers come with
`pip install '.[bench]'`; rows of peers that are not installed say so. One thread; about ten minutes on a quiet machine.
"""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
from pathlib import Path

TOPICS = ("windows", "scores", "inference", "method", "stages", "growth")
"""Modules of this folder, in the order of the table."""
ONE = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "GDAL_NUM_THREADS": "1",
    "GDAL_CACHEMAX": "16",
}
"""Environment of the measurements, set before any library is imported."""


def main() -> None:
    """Measure the topics; print each row and write it to the table."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.bench", description=__doc__)
    parser.add_argument("topics", nargs="*", help=f"any of {', '.join(TOPICS)} (default: all)")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds of each row, 1 to 100 (default 5)")
    given = parser.parse_args()
    from scpseg.errors import UserError
    from scpseg.validation import Range, nearest

    for name in given.topics:
        if name not in TOPICS:
            raise UserError(f"{name!r} is not a topic of the bench; {nearest(name, TOPICS)}")
    if problem := Range(1, 100).problem(given.repeats):
        raise UserError(f"--repeats is {given.repeats}, but {problem}")
    os.environ.update(ONE)
    import torch

    from pipelines.bench import rows
    from scpseg.environment import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()  # as trainings and evaluations do; for both sides
    with tempfile.TemporaryDirectory(prefix="scpseg-bench-") as folder:
        for name in given.topics or TOPICS:
            module = importlib.import_module(f"pipelines.bench.{name}")
            for row in module.rows(Path(folder), given.repeats):
                print(rows.line(row), end="", flush=True)
                rows.write([row])
    print(f"bench: {rows.TABLE.as_posix()}")


if __name__ == "__main__":
    from pipelines.stage import run_stage

    run_stage(main)
