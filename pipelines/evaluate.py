"""Stage `evaluate`: segment whole images with a trained method; write the confusion matrix and some pictures."""

from __future__ import annotations

import argparse

from pipelines.runs import add_arguments
from pipelines.stage import run_stage


def main() -> None:
    """Parse BENCHMARK METHOD SEED, and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    given = parser.parse_args()
    # Imported once the arguments are known: a mistake in them, and --help, are answered without torch.
    from pipelines.stages.evaluate import work
    from scpseg.environment import keep_freed_memory

    keep_freed_memory()
    run_stage(
        lambda: work(given.benchmark, given.method, given.seed),
        f"lower inference.batch, or train with a lower {given.benchmark}.patch",
    )


if __name__ == "__main__":
    main()
