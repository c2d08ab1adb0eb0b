"""Stage `download`: fetch or find a benchmark's files, verify them, and write their manifest.

`--check` shows what is there, what is missing and how large it is, and fetches nothing. `--source` fetches a benchmark
from one source into the cache and stops; the stage then finds it there.
"""

from __future__ import annotations

import argparse

from pipelines import paths
from pipelines.stage import run_stage
from scpseg.benchmarks import BENCHMARKS, get_benchmark
from scpseg.data.acquire.manifest import fetch, from_network
from scpseg.data.acquire.sources import address, check_upstream, source_of, source_problem
from scpseg.data.acquire.space import size_text
from scpseg.errors import UserError
from scpseg.params import DataParams, Params


def download(params: Params, benchmark: str) -> None:
    """Write data/manifests/<benchmark>.json; the files themselves stay outside the repository.

    Raises:
        UserError: see `check_upstream` and `fetch` of `scpseg.data.acquire`.
    """
    check_upstream(params)
    spec, data = get_benchmark(benchmark), params.section("data", DataParams)
    manifest = fetch(spec, params.benchmark(benchmark).labels, data, params.upstream)
    manifest.write(paths.manifest(benchmark))
    total = sum(record.size for record in (*manifest.archives, *manifest.files))
    counts = f"{len(manifest.archives)} archives verified, {len(manifest.files)} loose files"
    print(f"{benchmark}: {counts}, {size_text(total)}")
    if not manifest.synthetic and not from_network(data):
        print(f"Terms: {spec.terms}\nPlease cite: {spec.citation}")


def check(params: Params, benchmarks: tuple[str, ...]) -> None:
    """Print the state of each benchmark.

    Raises:
        UserError: a parameter is not valid. Missing files and unavailable servers are part of the printed text.
    """
    from pipelines.plan import store_bytes
    from scpseg.data.acquire.upstream import survey

    check_upstream(params)
    data, upstream = params.section("data", DataParams), params.upstream
    print(f"data.source is {data.source}; nothing is fetched or written; 'about' marks estimates")
    for benchmark in benchmarks:
        labels = params.benchmark(benchmark).labels
        store, needed = paths.store(benchmark), store_bytes(params, benchmark)
        print("\n".join(["", *survey(get_benchmark(benchmark), labels, data, upstream, store, needed)]), flush=True)


def bring(params: Params, benchmark: str, source: str) -> None:
    """Fetch a benchmark from one source, a known name or an address, into the cache.

    Raises:
        UserError: the source is unknown, or the download fails.
    """
    from scpseg.data.acquire.transfer import Connection
    from scpseg.data.acquire.upstream import acquire

    spec, data = get_benchmark(benchmark), params.section("data", DataParams)
    if why := source_problem(spec, source):
        raise UserError(f"--source {source if '://' not in source else address(source)}: {why}")
    check_upstream(params)
    connection = Connection(params.upstream.unverified_hosts)
    print(acquire(spec, params.benchmark(benchmark).labels, data, [source_of(spec, source)], connection))


def main() -> None:
    """Parse the command line and run the stage, or one of its helpers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark", choices=list(BENCHMARKS), nargs="?")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--check", action="store_true", help="show what is there and what is missing; fetch nothing")
    only.add_argument("--source", help="fetch the benchmark from this source (a name or an address) into the cache")
    given = parser.parse_args()
    params = Params.load()
    if given.check:
        check(params, (given.benchmark,) if given.benchmark else params.suite.benchmarks)
    elif given.benchmark is None:
        parser.error("name a benchmark, or --check")
    elif given.source:
        bring(params, given.benchmark, given.source)
    else:
        download(params, given.benchmark)


if __name__ == "__main__":
    run_stage(main)
