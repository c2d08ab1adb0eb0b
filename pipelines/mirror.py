"""Stage `mirror`: write a synthetic miniature of a benchmark, packed like its real archives."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.stage import run_stage
from scpseg.benchmarks import BENCHMARKS, get_benchmark
from scpseg.files import naming
from scpseg.params import DataParams, MirrorParams, Params
from scpseg.synthetic.miniatures import write_miniature


def mirror(benchmark: str, params: Params, folder: Path) -> str:
    """Write the archives and archives.json of `benchmark` to `folder`, and return a summary line.

    Raises:
        UserError: the benchmark is unknown or has no miniature, or section `data` or `mirror` is not valid.
    """
    spec, settings = get_benchmark(benchmark), params.section("mirror", MirrorParams)
    source = params.section("data", DataParams).source
    if source != "mirror":
        write_miniature(spec, folder, None)
        return f"mirror {benchmark}: nothing to write, because data.source is {source}"
    with naming(folder):
        archives = write_miniature(spec, folder, settings)
    size = sum(archive["size"] for archive in archives) / 2**20
    return f"mirror {benchmark}: {len(archives)} files, {size:.1f} MiB of synthetic scenes in {folder}"


def main() -> None:
    """Parse the command line and write the miniature."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark", choices=list(BENCHMARKS))
    benchmark = parser.parse_args().benchmark
    print(mirror(benchmark, Params.load(), Path("data/mirror") / benchmark))


if __name__ == "__main__":
    run_stage(main, "lower mirror.side")
