"""What there is of a benchmark and what is missing, as lines of text; nothing is fetched or written."""

from __future__ import annotations

import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from scpseg.benchmarks.base import Benchmark, Source
from scpseg.data.acquire.acquire import BY_HAND, CLIENTS, brought, by_hand, complete, rough
from scpseg.data.acquire.choice import listed
from scpseg.data.acquire.connection import Connection
from scpseg.data.acquire.sources import cache_folder, find, from_network, source_folder, upstream_folder
from scpseg.data.acquire.space import free_bytes, size_text
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
        lines += _wrapped(f"what lies in {base / BY_HAND} goes before every source")
    offers = listed(spec.name, data, upstream)
    with ThreadPoolExecutor(max(len(offers), 1)) as pool:
        answers = list(pool.map(lambda offer: reachable(offer, upstream), offers))
    if offers:
        lines.append(_row(HEAD))
    notes = []
    for offer, answer in zip(offers, answers, strict=True):
        lines.append(_row((offer.name, answer, *_there(base, offer, labels))))
        lacking = _lacking(base, offer, labels)
        if 0 < len(lacking) < len(offer.wanted(labels)):
            notes += _wrapped(f"missing of {offer.name}: {', '.join(lacking)}")
        if offer.notes:
            notes += _wrapped(f"{offer.name}: {offer.notes}")
    if not offers:
        lines += _wrapped(f"upstream.{spec.name} names no source")
    return [*lines, *notes, *_wrapped(f"without any source, by hand: {by_hand(spec.name, base)}")]


def reachable(offer: Source, upstream: UpstreamParams) -> str:
    """Whether an offer's server answers, in a word or two."""
    if offer.how == "files":
        url = f"{offer.address}/{offer.files[0].name}"
    else:
        url = offer.address if "://" in offer.address else offer.page
    connection = Connection(upstream.unverified_hosts, connect=SECONDS, read=SECONDS, tries=1)
    try:
        status = connection.head(url, allowed=range(400, 600)).status_code
    except UserError as error:
        return "bad certificate" if isinstance(error.__context__, requests.exceptions.SSLError) else "no answer"
    return "yes" if status < 400 or status == 405 else f"answers {status}"


def _there(base: Path, offer: Source, labels: str) -> tuple[str, str, str]:
    """In the cache, to fetch, disk."""
    disk = "unknown" if offer.disk is None else rough(offer.disk, offer)
    if complete(base, offer, labels):
        return "complete, verified", "nothing", disk
    have = _bytes_there(base, offer, labels)
    # A file gets its name only when it is whole and verified.
    wanted, lacking = len(offer.wanted(labels)), len(_lacking(base, offer, labels))
    if not have:
        there = "nothing"
    elif offer.how in CLIENTS or lacking == wanted:
        there = f"{size_text(have)} of a part"
    else:
        there = f"{wanted - lacking} of {wanted} files verified"
    return there, "unknown" if offer.download is None else rough(max(offer.download - have, 0), offer), disk


def _bytes_there(base: Path, offer: Source, labels: str) -> int:
    """Bytes that need not be fetched again."""
    folder = base / offer.folder
    if offer.how in CLIENTS:
        paths = list(folder.rglob("*"))
    else:
        paths = [folder / f"{file.name}{end}" for file in offer.wanted(labels) for end in ("", ".part")]
    return sum(path.stat().st_size for path in paths if path.is_file())


def _lacking(base: Path, offer: Source, labels: str) -> list[str]:
    if offer.how in CLIENTS or complete(base, offer, labels):
        return []
    return [file.name for file in offer.wanted(labels) if not (base / offer.folder / file.name).is_file()]


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
