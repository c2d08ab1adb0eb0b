"""Stage `mirror`: a procedural miniature of a benchmark as its upstream's archives; empty where real data are used."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.stage import run_stage
from scpseg.benchmarks import BENCHMARKS
from scpseg.files import naming
from scpseg.params import DataParams, MirrorParams, Params
from scpseg.synthetic.miniatures import write_miniature, write_nothing


def mirror(benchmark: str, params: Params, folder: Path) -> str:
    """Write the archives and archives.json of `benchmark` to `folder` and return a line that says so.

    Raises:
        UserError: section data or mirror of the parameters is not valid.
    """
    source, settings = params.section("data", DataParams).source, params.section("mirror", MirrorParams)
    if source != "mirror":
        write_nothing(benchmark, folder)
        return f"mirror {benchmark}: nothing to write, because data.source is {source}"
    with naming(folder):
        archives = write_miniature(benchmark, folder, settings)
    size = sum(archive["size"] for archive in archives) / 2**20
    return f"mirror {benchmark}: {len(archives)} files, {size:.1f} MiB of synthetic scenes in {folder}"


def main() -> None:
    """Read the command line and write the miniature."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark", choices=list(BENCHMARKS))
    benchmark = parser.parse_args().benchmark
    print(mirror(benchmark, Params.load(), Path("data/mirror") / benchmark))


if __name__ == "__main__":
    run_stage(main, "lower mirror.side")
