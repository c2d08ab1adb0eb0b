"""Stage `prepare`: decode a benchmark once into the memory-mapped store."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines import paths
from pipelines.stage import run_stage
from scpseg.benchmarks import BENCHMARKS, custom, get_benchmark
from scpseg.data.acquire.manifest import Manifest, locate
from scpseg.data.prepare.fill import Choice, fill, image_ids, summary
from scpseg.data.splits import read_folds
from scpseg.errors import UserError
from scpseg.files import root
from scpseg.params import DataParams, Params


def prepare(params: Params, benchmark: str, workers: int = 0) -> None:
    """Write data/<benchmark>/.

    Raises:
        UserError: the manifest is missing, the benchmark is incomplete but data.partial is false, a file is damaged or
            does not fit, or there is too little disk space.
    """
    spec, own = get_benchmark(benchmark), params.benchmark(benchmark)
    data = params.section("data", DataParams)
    manifest = Manifest.read(paths.manifest(benchmark), benchmark)
    if manifest.labels != own.labels:
        raise UserError(
            f"the manifest of {benchmark} is of labels {manifest.labels!r}, {benchmark}.labels is {own.labels!r}; "
            f"run `dvc repro download@{benchmark}` first"
        )
    # A folder with the user's own lists is recorded by name only, because its path belongs to this machine.
    split = own.split if own.split in spec.splits else Path(own.split).name
    folder = locate(spec, manifest, data, params.upstream)
    folds = read_folds(spec, own.split)
    lists = folds[0]
    if benchmark == custom.NAME:
        spec = custom.with_values(spec, own.labels)
        lists = lists or custom.draw_split(own.split, image_ids(spec, manifest, folder))
    rotation = folds if len(folds) > 1 else ()
    choice = Choice(split, lists, data.partial, own.labels == spec.masking, rotation)
    index = fill(spec, manifest, folder, choice, paths.store(benchmark), root() / "data", workers)
    for line in summary(spec, index):
        print(line)
    for warning in index["warnings"]:
        print(f"warning: {warning}")


def main() -> None:
    """Parse the command line and run the stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark", choices=list(BENCHMARKS))
    prepare(Params.load(), parser.parse_args().benchmark)


if __name__ == "__main__":
    run_stage(main)
