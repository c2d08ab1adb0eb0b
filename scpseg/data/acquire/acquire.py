"""A benchmark's archives or files from upstream into the cache: one source after another until one has them all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from scpseg.benchmarks import BENCHMARKS
from scpseg.benchmarks.base import Benchmark, How, Source
from scpseg.data.acquire import addresses, clients, seafile
from scpseg.data.acquire.choice import listed
from scpseg.data.acquire.connection import Connection
from scpseg.data.acquire.sources import unusable_cache, upstream_folder
from scpseg.data.acquire.space import size_text
from scpseg.errors import UserError
from scpseg.files import read_json, write_json
from scpseg.params import DataParams, UpstreamParams
from scpseg.progress import say

BY_HAND = "by-hand"
"""Folder beside those of the sources, for archives or files that a person brought; it goes before every source."""
CLIENTS = ("kaggle", "huggingface")
"""Ways of which it shows only afterwards which files there are."""
UNFINISHED = (".part", ".part.json")
TAKE: dict[How, Callable[[Source, str, Path, Connection], dict[str, str]]] = {
    "files": addresses.files,
    "archive": addresses.files,
    "mirror": addresses.mirror,
    "share": seafile.share,
    "members": seafile.members,
    "kaggle": clients.kaggle,
    "huggingface": clients.huggingface,
    "drive": clients.drive,
}
"""Each fetches what an offer has for a kind of labels into a folder, verified, and returns facts to keep."""


def acquire(spec: Benchmark, variant: str, data: DataParams, upstream: UpstreamParams) -> Path:
    """The folder of the cache that holds a benchmark's archives or files, fetched where they are not there yet.

    What a person put into the folder by-hand is taken first, then a source that is complete in the cache, both without
    any request; then the sources are tried in their order.

    Args:
        spec: the benchmark.
        variant: the kind of label files that is needed.
        data: `source` is 'upstream' or an address.
        upstream: the sources of each benchmark.

    Raises:
        UserError: the cache cannot be made; no source has it all (the sentence names each with its reason, and what a
            person can do).
    """
    base = upstream_folder(spec.name, data)
    if brought(base):
        say(f"{spec.name}: taking what lies in {base / BY_HAND}")
        return base / BY_HAND
    offers = listed(spec.name, data, upstream)
    for offer in offers:
        if complete(base, offer, variant):
            say(f"{spec.name}: {offer.name} is complete in {base / offer.folder}")
            return base / offer.folder
    if offers:
        say(f"{spec.name}: terms: {spec.terms}\n{spec.name}: please cite: {spec.citation}")
        try:
            base.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unusable_cache(data, f"{base} cannot be made ({error.strerror})") from error
    connection = Connection(upstream.unverified_hosts)
    failed = []
    for number, offer in enumerate(offers, 1):
        about = "" if offer.download is None else f", {rough(offer.download, offer)} to fetch"
        say(f"{spec.name}: source {number} of {len(offers)}: {offer.name} ({offer.page}){about}")
        folder = base / offer.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            facts = TAKE[offer.how](offer, variant, folder, connection)
        except UserError as error:
            say(f"{spec.name}: {offer.name} failed: {error}")
            failed.append(f"{offer.name}: {error}")
            continue
        _record(base, offer, facts)
        return folder
    why = f"({'; '.join(failed)})" if failed else f"(upstream.{spec.name} names no source)"
    raise UserError(f"{spec.name} cannot be fetched {why}; by hand: {by_hand(spec.name, base)}")


def brought(base: Path) -> bool:
    """Whether a person put something into the folder by-hand."""
    folder = base / BY_HAND
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def complete(base: Path, offer: Source, variant: str) -> bool:
    """Whether everything that this kind of labels needs was fetched from an offer, verified, and still lies there."""
    record = base / f"{offer.folder}.json"
    if not record.is_file():
        return False
    values: dict[str, Any] = read_json(record, "facts", "files")
    files: dict[str, int] = values["files"]
    if any(_size(base / offer.folder / path) != size for path, size in files.items()):
        return False
    # archives.json lists whatever its mirror has.
    whole = offer.how in CLIENTS or "listed" in values["facts"]
    return whole or all(file.name in files for file in offer.wanted(variant))


def by_hand(benchmark: str, base: Path) -> str:
    """What a person can do, in words."""
    return (
        f"{BENCHMARKS[benchmark].by_hand}, and put the archives or the unpacked files into {base / BY_HAND}, "
        f"or into a folder that data.source names; or add an address that mirrors them to upstream.{benchmark}"
    )


def rough(size: int, offer: Source) -> str:
    """A size in words, with 'about' where it is an estimate."""
    return f"about {size_text(size)}" if offer.estimated else size_text(size)


def _record(base: Path, offer: Source, facts: dict[str, str]) -> None:
    """Note beside the folder what is complete in it."""
    folder = base / offer.folder
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    hidden = [name for name in sizes if any(part.startswith(".") for part in name.split("/"))]
    files = {name: size for name, size in sizes.items() if name not in hidden and not name.endswith(UNFINISHED)}
    write_json(base / f"{offer.folder}.json", {"facts": facts, "files": files})


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
