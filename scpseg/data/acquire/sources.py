"""Which sources of a benchmark are tried: names and addresses in the parameters, checked without a request."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from urllib.parse import quote, urlsplit

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
    """An address for messages: without user, password and query, which may contain secrets; other text as it is."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if "://" in url else url
    except ValueError:
        return "an invalid address"


def below(folder: str, name: str) -> str:
    """The address of `name` in the folder at an address, whose query it keeps."""
    parts = urlsplit(folder)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}").geturl()


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
    # Without the query, so that an address that is signed anew finds what was fetched before.
    folder = f"{parts.hostname}-{hashlib.sha256(name.partition('?')[0].encode()).hexdigest()[:8]}"
    file = PurePosixPath(parts.path).name
    if file.lower().endswith((".zip", ".7z")):
        return Source(address(name), folder, "archive", name, address(name), None, None, files=(File(file),))
    own = below(name, spec.name)
    return Source(address(name), folder, "mirror", own, address(own), None, None, files=spec.archives)


def check_upstream(params: Params) -> None:
    """Check section `upstream`, and data.source if it is an address; UserError where a name or host is not valid."""
    source = params.section("data", DataParams).source
    if why := _address_problem(source):
        raise params.invalid("data.source", address(source), why)
    for spec in (spec for spec in BENCHMARKS.values() if not spec.invented):
        for name in params.upstream.of(spec.name):
            if why := source_problem(spec, name) or _address_problem(name):
                raise params.invalid(f"upstream.{spec.name}", address(name), why)
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
    """Why text with :// is not an address that may be written down, or None."""
    if "://" not in url:
        return None
    if not is_address(url):
        return "an address must start with http:// or https:// and contain a host"
    if "@" in urlsplit(url).netloc or urlsplit(url).query:
        todo = "put the password into ~/.netrc, or download the files yourself and set data.source to their folder"
        return f"an address with a password or a query would be written to dvc.lock; {todo}"
    return None
