"""From what `data.source` names to verified files on this machine, and the manifest of them.

Archives stay packed: stage prepare unpacks and decodes in one go.
"""

from __future__ import annotations

from pathlib import Path

from scpseg.benchmarks.base import Benchmark
from scpseg.data.acquire.manifest import Manifest, hash_files, verify_archives
from scpseg.data.acquire.sources import MIRROR, expect_both, find, from_network, source_folder
from scpseg.errors import UserError
from scpseg.params import DataParams, UpstreamParams


def fetch(spec: Benchmark, variant: str, data: DataParams, upstream: UpstreamParams) -> Manifest:
    """Bring or find the files of a benchmark and check them; `variant` is the kind of label files.

    Archives are opened and their members listed, those of a zip inside a 7z excepted, which only unpacking tells.

    Raises:
        UserError: nothing usable is there, an archive is missing, damaged or unsafe, or a download fails.
    """
    folder = _folder(spec, variant, data, upstream)
    found = find(spec, variant, data, folder)
    listings = found.groups.values()
    if not any(listing.hidden for listing in listings):
        expect_both(spec, variant, [*found.loose, *(path for listing in listings for path in listing.files)], data)
    parts = [part for group in found.groups for part in group.parts]
    archives = hash_files(folder, parts, f"{spec.name}: hashing archives")
    files = hash_files(folder, found.loose, f"{spec.name}: hashing files")
    return Manifest(spec.name, _kind(data), variant, archives, tuple(sorted(files, key=lambda record: record.path)))


def locate(spec: Benchmark, manifest: Manifest, data: DataParams, upstream: UpstreamParams) -> Path:
    """The folder that holds the files of the manifest, the archives verified; what the cache lacks is fetched again.

    Raises:
        UserError: a file is gone or has another size, an archive is not the manifest's, or a download fails.
    """
    again = f"run `dvc repro -f download@{spec.name}`"
    if _kind(data) != manifest.source:
        raise UserError(
            f"the manifest of {spec.name} was made from source {manifest.source}, "
            f"data.source is {data.source!r}; {again}"
        )
    folder = _folder(spec, manifest.labels, data, upstream)
    for record in manifest.files:
        size = _size(folder / record.path)
        if size != record.size:
            now = "is gone" if size is None else f"has {size} bytes, {record.size} when it was downloaded"
            raise UserError(f"{record.path} {now}; {again}")
    verify_archives(folder, manifest.archives, f"restore it, or take what is there now: {again}")
    return folder


def _folder(spec: Benchmark, variant: str, data: DataParams, upstream: UpstreamParams) -> Path:
    """Where the files lie, fetched where they come from the network and the cache has not all of them."""
    if not from_network(data):
        return source_folder(spec.name, data)
    from scpseg.data.acquire.acquire import acquire  # brings in HTTP clients, which local files do not need

    return acquire(spec, variant, data, upstream)


def _kind(data: DataParams) -> str:
    if from_network(data):
        return "upstream"
    return "mirror" if data.source == MIRROR else "folder"


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
