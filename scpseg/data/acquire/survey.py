"""Describe what exists of a benchmark and what is missing, as lines of text; fetches and writes nothing."""

from __future__ import annotations

import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from scpseg.benchmarks.base import Benchmark, Source
from scpseg.data.acquire.manifest import UPSTREAM, cache_folder, file_size, find, from_network, source_folder
from scpseg.data.acquire.sources import chosen
from scpseg.data.acquire.space import free_bytes, size_text
from scpseg.data.acquire.transfer import Connection
from scpseg.data.acquire.upstream import BY_HAND, WHOLE, brought, by_hand, complete, rough
from scpseg.errors import UserError
from scpseg.params import DataParams, UpstreamParams

SECONDS = 5.0  # that a server may take to say that it is there
WRAPPER = textwrap.TextWrapper(
    118, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
)
"""Keeps addresses and paths whole."""
COLUMNS = (18, 18, 30, 22, 22)
HEAD = ("source", "reachable", "in the cache", "to fetch", "disk in the cache")


def survey(
    spec: Benchmark, labels: str, data: DataParams, upstream: UpstreamParams, store: Path, needed: int
) -> list[str]:
    """The state of one benchmark: its store (of `needed` bytes when it is whole), its sources, what a person must do.

    Raises:
        UserError: the cache cannot be used, or its records are damaged.
    """
    state = "prepared" if (store / "index.json").is_file() else "not prepared"
    needs = f"needs about {size_text(needed)}, {size_text(free_bytes(store))} free"
    lines = [f"{spec.name}, labels {labels}", f"  store {store.as_posix()}: {state}; {needs}"]
    if not from_network(data):
        return lines + WRAPPER.wrap(f"source {data.source}: {_local(spec, labels, data)}")
    base = cache_folder(spec.name, data) / UPSTREAM
    lines.append(f"  cache {base.parent}: {size_text(free_bytes(base))} free")
    if brought(base):
        lines += WRAPPER.wrap(f"files in {base / BY_HAND} are used before every source")
    sources, notes = chosen(spec, data, upstream), []
    with ThreadPoolExecutor(max(len(sources), 1)) as pool:
        answers = list(pool.map(lambda source: reachable(source, upstream), sources))
    lines += [_row(HEAD)] if sources else WRAPPER.wrap(f"upstream.{spec.name} names no source")
    for source, answer in zip(sources, answers, strict=True):
        there, fetch, lacking = _there(base, source, labels)
        disk = "unknown" if source.disk is None else rough(source.disk, source)
        lines.append(_row((source.name, answer, there, fetch, disk)))
        notes += WRAPPER.wrap(f"missing of {source.name}: {', '.join(lacking)}") if lacking else []
        notes += WRAPPER.wrap(f"{source.name}: {source.notes}") if source.notes else []
    return [*lines, *notes, *WRAPPER.wrap(f"without any source, by hand: {by_hand(spec, base)}")]


def reachable(source: Source, upstream: UpstreamParams) -> str:
    """Whether the server of a source answers, in a word or two."""
    url = source.address if "://" in source.address else source.page
    url += f"/{source.files[0].name}" if source.how == "files" else ""
    connection = Connection(upstream.unverified_hosts, connect=SECONDS, read=SECONDS, tries=1)
    try:
        with connection.open(url, method="HEAD", allowed=range(400, 600)) as response:
            status = response.status_code
    except UserError as error:
        return "bad certificate" if isinstance(error.__context__, requests.exceptions.SSLError) else "no answer"
    return "yes" if status < 400 or status == 405 else f"answers {status}"


def _there(base: Path, source: Source, labels: str) -> tuple[str, str, list[str]]:
    """What is in the cache, what is to be fetched, and where some files are there, the names of the others."""
    if complete(base, source, labels):
        return "complete, verified", "nothing", []
    folder, client = base / source.folder, source.how in WHOLE
    names = [file.name for file in source.wanted(labels)]
    paths = folder.rglob("*") if client else (folder / f"{name}{end}" for name in names for end in ("", ".part"))
    have = sum(file_size(path) or 0 for path in paths)
    fetch = "unknown" if source.download is None else rough(max(source.download - have, 0), source)
    # A file is renamed only after it is complete and verified.
    lacking = [name for name in names if not (folder / name).is_file()]
    if client or len(lacking) == len(names):
        return f"{size_text(have)} of a part" if have else "nothing", fetch, []
    return f"{len(names) - len(lacking)} of {len(names)} files verified", fetch, lacking


def _local(spec: Benchmark, labels: str, data: DataParams) -> str:
    """Contents of the mirror or the user's folder."""
    try:
        folder = source_folder(spec.name, data)
        found = find(spec, labels, data)
    except UserError as error:
        return str(error)
    parts = [part for group in found.groups for part in group.parts]
    size = size_text(sum(file_size(folder / path) or 0 for path in (*found.loose, *parts)))
    kinds = [f"{len(found.loose)} loose images and labels"] if found.loose else []
    kinds += [f"archives {', '.join(group.name for group in found.groups)}"] if found.groups else []
    return f"{' and '.join(kinds)}, {size}" if kinds else f"nothing of {spec.name}"


def _row(cells: tuple[str, ...]) -> str:
    return "  " + "".join(f"{cell:{width - 2}}  " for cell, width in zip(cells, COLUMNS, strict=True)).rstrip()
