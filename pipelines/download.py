"""Stage `download`: a benchmark's files, verified and unpacked, and the manifest of them."""

from __future__ import annotations

import argparse

from pipelines import places
from pipelines.stage import run_stage
from scpseg.data.specs import SPECS, spec_of
from scpseg.data.upstream.fetch import fetch
from scpseg.data.upstream.space import size_text
from scpseg.params import DataParams, Params


def download(params: Params, benchmark: str) -> None:
    """Write data/manifests/<benchmark>.json; the files themselves stay outside the repository.

    Raises:
        UserError: see `scpseg.data.upstream.fetch.fetch`.
    """
    spec = spec_of(benchmark)
    manifest = fetch(spec, params.benchmark(benchmark).labels, params.section("data", DataParams))
    manifest.write(places.manifest(benchmark))
    total = sum(record.size for record in manifest.files)
    print(f"{benchmark}: {len(manifest.files)} files, {size_text(total)}, {len(manifest.archives)} archives verified")
    if not manifest.synthetic:
        print(f"Terms: {spec.terms}\nPlease cite: {spec.citation}")


def main() -> None:
    """Read the command line and run the stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark", choices=list(SPECS))
    download(Params.load(), parser.parse_args().benchmark)


if __name__ == "__main__":
    run_stage(main)
