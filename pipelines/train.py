"""Stage `train`: one method on one benchmark with one seed."""

from __future__ import annotations

import argparse

from pipelines.runs import add_arguments
from pipelines.stage import run_stage


def main() -> None:
    """Parse BENCHMARK METHOD SEED [--fold N], and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--fold", type=int, help="train only this fold of a rotation; the stage finds it later")
    given = parser.parse_args()
    # Imported once the arguments are known: a mistake in them, and --help, are answered without torch.
    from pipelines.stages.train import work
    from scpseg.environment import keep_freed_memory

    keep_freed_memory()
    run_stage(
        lambda: work(given.benchmark, given.method, given.seed, given.fold),
        f"lower {given.benchmark}.batch or {given.benchmark}.patch, or the method's own sizes (csm.context, "
        "downscale.side, glnet.overview, glnet.windows, isdnet.crop, magnet.side, rue.crop)",
    )


if __name__ == "__main__":
    main()
