"""From what `data.source` names to plain files on this machine, verified, and the manifest of them.

Loose files are used in place. Archives are unpacked once per machine into the cache, below a folder named by what
they hold, so that a changed archive never meets an old unpacked file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scpseg.data.specs import Spec
from scpseg.data.upstream.layout import role_of
from scpseg.data.upstream.manifest import FileRecord, Manifest, hash_files, verify_archives
from scpseg.data.upstream.sources import MIRROR, cache_folder, expect_both, find, source_folder
from scpseg.data.upstream.unpack import Group, group_archives, unpack
from scpseg.errors import UserError
from scpseg.params import DataParams


def fetch(spec: Spec, variant: str, data: DataParams) -> Manifest:
    """Find, check and unpack the files of a benchmark; `variant` is the kind of label files.

    Raises:
        UserError: nothing usable is there, an archive is missing, damaged or unsafe, or the disk is full.
    """
    folder = source_folder(spec.name, data)
    found = find(spec, variant, data)
    parts = [part for group in found.groups for part in group.parts]
    archives = hash_files(folder, parts, f"{spec.name}: hashing archives")
    manifest = Manifest(spec.name, _kind(data), variant, archives, ())
    files = [*hash_files(folder, found.loose, f"{spec.name}: hashing files")]
    files += _unpack(spec, manifest, folder, found.groups, data)
    expect_both(spec, variant, (record.path for record in files), data)
    return replace(manifest, files=tuple(sorted(files, key=lambda record: record.path)))


def locate(spec: Spec, manifest: Manifest, data: DataParams) -> dict[str, Path]:
    """Where each file of the manifest lies; archives are unpacked again where the cache lost them.

    Raises:
        UserError: a file is gone or has another size, or an archive is not the manifest's.
    """
    again = f"run `dvc repro -f download@{spec.name}`"
    if _kind(data) != manifest.source:
        raise UserError(
            f"the manifest of {spec.name} was made from a {manifest.source}, data.source is {data.source!r}; {again}"
        )
    folder = source_folder(spec.name, data)
    cache = cache_folder(spec.name, data) / manifest.fingerprint
    groups = group_archives(record.path for record in manifest.archives)
    prefixes = tuple(f"{group.name}/" for group in groups)
    packed = {record.path: record for record in manifest.files if prefixes and record.path.startswith(prefixes)}
    if any(_size(cache / path) != record.size for path, record in packed.items()):
        verify_archives(folder, manifest.archives, f"restore it, or take what is there now: {again}")
        _unpack(spec, manifest, folder, groups, data)
    places = {record.path: (cache if record.path in packed else folder) / record.path for record in manifest.files}
    for record in manifest.files:
        size = _size(places[record.path])
        if size != record.size:
            now = "is gone" if size is None else f"has {size} bytes, {record.size} when it was downloaded"
            raise UserError(f"{record.path} {now}; {again}")
    return places


def _unpack(
    spec: Spec, manifest: Manifest, folder: Path, groups: Sequence[Group], data: DataParams
) -> list[FileRecord]:
    if not groups:
        return []
    target = cache_folder(spec.name, data) / manifest.fingerprint
    records = unpack(groups, folder, lambda path: role_of(spec, manifest.labels, path) is not None, target)
    return [FileRecord(**record) for record in records]


def _kind(data: DataParams) -> str:
    return "mirror" if data.source == MIRROR else "folder"


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
