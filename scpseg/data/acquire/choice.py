"""Which offers of a benchmark are tried: names and addresses of the parameters, checked."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from scpseg.benchmarks import BENCHMARKS, REAL, get_benchmark
from scpseg.benchmarks.base import File, Source
from scpseg.data.acquire.answers import address
from scpseg.data.acquire.sources import is_address
from scpseg.errors import UserError
from scpseg.params import DataParams, Params, UpstreamParams
from scpseg.validation import nearest


def listed(benchmark: str, data: DataParams, upstream: UpstreamParams) -> tuple[Source, ...]:
    """The offers to try, in order: those of section `upstream`, or the address that data.source is.

    Raises:
        UserError: the benchmark is none that anybody offers.
    """
    if get_benchmark(benchmark).invented:
        raise UserError(f"the scenes of {benchmark} come from the mirror alone; set data.source: mirror")
    names = (data.source,) if is_address(data.source) else upstream.of(benchmark)
    known = {offer.name: offer for offer in BENCHMARKS[benchmark].sources}
    return tuple(known.get(name) or _at_address(benchmark, name) for name in names)


def check_upstream(params: Params) -> None:
    """Check section `upstream`, and data.source where it is an address.

    Raises:
        UserError: a name that is no source of its benchmark and no address, or a host that is none.
    """
    upstream = params.section("upstream", UpstreamParams)
    source = params.section("data", DataParams).source
    if "://" in source and not is_address(source):
        raise params.refuse("data.source", source, "an address must begin with http:// or https:// and name a host")
    for benchmark in REAL:
        for name in upstream.of(benchmark):
            why = source_problem(benchmark, name)
            if why:
                raise params.refuse(f"upstream.{benchmark}", name, why)
    for host in upstream.unverified_hosts:
        if not host or urlsplit(f"//{host}").hostname != host:
            why = "that is no plain host name in lower case, like files.inria.fr"
            raise params.refuse("upstream.unverified_hosts", host, why)


def source_problem(benchmark: str, name: str) -> str | None:
    """Why nothing can be fetched for a benchmark under this name, or None."""
    known = [offer.name for offer in get_benchmark(benchmark).sources]
    if name in known or is_address(name):
        return None
    close = nearest(name, known) if known else f"{benchmark} has no known source"
    return f"that is no source of {benchmark} and no address (http://..., https://...); {close}"


def _at_address(benchmark: str, url: str) -> Source:
    """One archive, or a folder with one folder per benchmark; its name keeps passwords in the address to itself."""
    parts = urlsplit(url)
    folder = f"{parts.hostname}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    name = PurePosixPath(parts.path).name
    if name.lower().endswith((".zip", ".7z")):
        return Source(address(url), folder, "archive", url, address(url), None, None, files=(File(name),))
    below = f"{url.rstrip('/')}/{benchmark}"
    return Source(
        address(url), folder, "mirror", below, address(below), None, None, files=BENCHMARKS[benchmark].archives
    )
