"""Which sources of a benchmark are tried: names and addresses in the parameters, checked without a request."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from scpseg.benchmarks import BENCHMARKS
from scpseg.benchmarks.base import Benchmark, File, Source
from scpseg.errors import UserError
from scpseg.params import DataParams, Params, UpstreamParams
from scpseg.validation import nearest


def is_address(source: str) -> bool:
    """Whether a source is an http or https address with a host."""
    try:
        parts = urlsplit(source)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and source.isprintable()
    except ValueError:
        return False


def address(url: str) -> str:
    """An address for messages: without user, password and query, which may contain secrets."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
    except ValueError:
        return "an invalid address"


def without_secrets(text: str) -> str:
    """A message of a library, with addresses without user, password and query."""
    return re.sub(r"https?://[^\s'\"<>]+", lambda match: address(match[0]), text)


def chosen(spec: Benchmark, data: DataParams, upstream: UpstreamParams) -> tuple[Source, ...]:
    """The sources to try, in order: those of section `upstream`, or the address that data.source is."""
    if spec.invented:
        raise UserError(f"{spec.name} exists only as synthetic scenes; set data.source: mirror")
    names = (data.source,) if is_address(data.source) else upstream.of(spec.name)
    return tuple(source_of(spec, name) for name in names)


def source_of(spec: Benchmark, name: str) -> Source:
    """The source with this name or address (an archive, or a folder with one folder per benchmark)."""
    known = {source.name: source for source in spec.sources}
    if name in known:
        return known[name]
    parts = urlsplit(name)
    folder = f"{parts.hostname}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    file = PurePosixPath(parts.path).name
    shown = address(name)
    if file.lower().endswith((".zip", ".7z")):
        return Source(shown, folder, "archive", name, shown, None, None, files=(File(file),))
    below = f"{name.rstrip('/')}/{spec.name}"
    return Source(shown, folder, "mirror", below, address(below), None, None, files=spec.archives)


def check_upstream(params: Params) -> None:
    """Check section `upstream`, and data.source if it is an address.

    UserError where a name is neither a source of its benchmark nor an address, an address would write a secret to
    dvc.lock, or a host name is not valid.
    """
    source = params.section("data", DataParams).source
    if "://" in source and (why := _address_problem(source)):
        raise params.invalid("data.source", address(source), why)
    for spec in (spec for spec in BENCHMARKS.values() if not spec.invented):
        for name in params.upstream.of(spec.name):
            if why := source_problem(spec, name) or ("://" in name and _address_problem(name)) or None:
                raise params.invalid(f"upstream.{spec.name}", address(name) if "://" in name else name, why)
    for host in params.upstream.unverified_hosts:
        if not host or urlsplit(f"//{host}").hostname != host:
            why = "it is not a host name in lower case, like files.inria.fr"
            raise params.invalid("upstream.unverified_hosts", host, why)


def source_problem(spec: Benchmark, name: str) -> str | None:
    """Why nothing can be downloaded for a benchmark from this source, or None."""
    known = [source.name for source in spec.sources]
    if name in known or is_address(name):
        return None
    close = nearest(name, known) if known else f"{spec.name} has no known source"
    return f"it is not a source of {spec.name} and not an address (http://..., https://...); {close}"


def _address_problem(url: str) -> str | None:
    if not is_address(url):
        return "an address must start with http:// or https:// and contain a host"
    parts = urlsplit(url)
    if parts.password or parts.username or parts.query:
        return (
            "an address with a password or a query would be written to dvc.lock; put the password into ~/.netrc, or "
            "download the files yourself and set data.source to their folder"
        )
    return None
