"""What there is of a benchmark and what is missing, as lines of text; nothing is fetched or written."""

from __future__ import annotations

import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from scpseg.benchmarks.base import Benchmark, Source
from scpseg.data.acquire.http import Connection
from scpseg.data.acquire.manifest import cache_folder, find, from_network, source_folder, upstream_folder
from scpseg.data.acquire.sources import chosen
from scpseg.data.acquire.space import free_bytes, size_text
from scpseg.data.acquire.upstream import BY_HAND, CLIENTS, brought, by_hand, complete, rough
from scpseg.errors import UserError
from scpseg.params import DataParams, UpstreamParams

SECONDS = 5.0
"""How long a server may take to say that it is there."""
WIDTH = 118
COLUMNS = (18, 18, 30, 22, 22)
HEAD = ("source", "reachable", "in the cache", "to fetch", "disk in the cache")


def survey(
    spec: Benchmark, labels: str, data: DataParams, upstream: UpstreamParams, store: Path, needed: int
) -> list[str]:
    """The state of one benchmark: its store, its files here, its sources, and what a person must do.

    The store at `store` takes `needed` bytes when it is whole.

    Raises:
        UserError: the cache cannot be used, or what is noted in it is damaged.
    """
    state = "prepared" if (store / "index.json").is_file() else "not prepared"
    needs = f"needs about {size_text(needed)}, {size_text(free_bytes(store))} free"
    lines = [f"{spec.name}, labels {labels}", f"  store {store.as_posix()}: {state}; {needs}"]
    if from_network(data):
        return lines + _sources(spec, labels, data, upstream)
    return lines + _wrapped(f"source {data.source}: {_local(spec, labels, data)}")


def _sources(spec: Benchmark, labels: str, data: DataParams, upstream: UpstreamParams) -> list[str]:
    base = upstream_folder(spec.name, data)
    lines = [f"  cache {cache_folder(spec.name, data)}: {size_text(free_bytes(base))} free"]
    if brought(base):
        lines += _wrapped(f"what is in {base / BY_HAND} is used before every source")
    sources = chosen(spec, data, upstream)
    with ThreadPoolExecutor(max(len(sources), 1)) as pool:
        answers = list(pool.map(lambda source: reachable(source, upstream), sources))
    if sources:
        lines.append(_row(HEAD))
    notes = []
    for source, answer in zip(sources, answers, strict=True):
        lines.append(_row((source.name, answer, *_there(base, source, labels))))
        lacking = _lacking(base, source, labels)
        if 0 < len(lacking) < len(source.wanted(labels)):
            notes += _wrapped(f"missing of {source.name}: {', '.join(lacking)}")
        if source.notes:
            notes += _wrapped(f"{source.name}: {source.notes}")
    if not sources:
        lines += _wrapped(f"upstream.{spec.name} names no source")
    return [*lines, *notes, *_wrapped(f"without any source, by hand: {by_hand(spec, base)}")]


def reachable(source: Source, upstream: UpstreamParams) -> str:
    """Whether a source's server answers, in a word or two."""
    if source.how == "files":
        url = f"{source.address}/{source.files[0].name}"
    else:
        url = source.address if "://" in source.address else source.page
    connection = Connection(upstream.unverified_hosts, connect=SECONDS, read=SECONDS, tries=1)
    try:
        with connection.open(url, method="HEAD", allowed=range(400, 600)) as response:
            status = response.status_code
    except UserError as error:
        return "bad certificate" if isinstance(error.__context__, requests.exceptions.SSLError) else "no answer"
    return "yes" if status < 400 or status == 405 else f"answers {status}"


def _there(base: Path, source: Source, labels: str) -> tuple[str, str, str]:
    """In the cache, to fetch, disk."""
    disk = "unknown" if source.disk is None else rough(source.disk, source)
    if complete(base, source, labels):
        return "complete, verified", "nothing", disk
    have = _bytes_there(base, source, labels)
    # A file gets its name only when it is whole and verified.
    wanted, lacking = len(source.wanted(labels)), len(_lacking(base, source, labels))
    if not have:
        there = "nothing"
    elif source.how in CLIENTS or lacking == wanted:
        there = f"{size_text(have)} of a part"
    else:
        there = f"{wanted - lacking} of {wanted} files verified"
    return there, "unknown" if source.download is None else rough(max(source.download - have, 0), source), disk


def _bytes_there(base: Path, source: Source, labels: str) -> int:
    """Bytes that need not be fetched again."""
    folder = base / source.folder
    if source.how in CLIENTS:
        paths = list(folder.rglob("*"))
    else:
        paths = [folder / f"{file.name}{end}" for file in source.wanted(labels) for end in ("", ".part")]
    return sum(path.stat().st_size for path in paths if path.is_file())


def _lacking(base: Path, source: Source, labels: str) -> list[str]:
    if source.how in CLIENTS or complete(base, source, labels):
        return []
    return [file.name for file in source.wanted(labels) if not (base / source.folder / file.name).is_file()]


def _local(spec: Benchmark, labels: str, data: DataParams) -> str:
    """What the mirror or the user's folder holds."""
    try:
        folder = source_folder(spec.name, data)
        found = find(spec, labels, data)
    except UserError as error:
        return str(error)
    parts = [part for group in found.groups for part in group.parts]
    size = size_text(sum((folder / path).stat().st_size for path in (*found.loose, *parts)))
    kinds = [f"{len(found.loose)} loose images and labels"] if found.loose else []
    kinds += [f"archives {', '.join(group.name for group in found.groups)}"] if found.groups else []
    return f"{' and '.join(kinds)}, {size}" if kinds else f"nothing of {spec.name}"


def _row(cells: tuple[str, ...]) -> str:
    return "  " + "".join(f"{cell:{width - 2}}  " for cell, width in zip(cells, COLUMNS, strict=True)).rstrip()


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
