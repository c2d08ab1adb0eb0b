"""Find or download the files of a benchmark, verify them, and record them in a manifest.

Archives stay packed: stage prepare unpacks and decodes in one pass.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from scpseg.benchmarks import custom
from scpseg.benchmarks.base import Benchmark
from scpseg.data.acquire.archives import Group, group_archives, inner_zips, list_members
from scpseg.data.acquire.layout import KINDS, role_of
from scpseg.data.acquire.sources import chosen, is_address
from scpseg.data.acquire.unpacker import is_hidden
from scpseg.errors import CONTROL, UserError
from scpseg.files import file_size, read_json, root, sha256, write_json
from scpseg.params import DataParams, UpstreamParams
from scpseg.progress import progress

Archives = dict[Group, dict[str, int]]
"""Archives, with the declared bytes of their members, as `list_members` returns them."""
MIRROR, UPSTREAM = "mirror", "upstream"
MIRROR_LIST = "archives.json"
_FILE, _ARCHIVE = ({key: str, "size": int, "sha256": str} for key in ("path", "name"))
_MANIFEST = {"benchmark": str, "source": str, "labels": str, "archives": [_ARCHIVE], "files": [_FILE]}


class FileRecord(NamedTuple):
    """A file: relative posix path, size in bytes, hex SHA-256."""

    path: str
    size: int
    sha256: str


class Manifest(NamedTuple):
    """The files of a benchmark."""

    benchmark: str
    source: str  # 'mirror' (synthetic miniatures), 'folder' (the user's files) or 'upstream' (downloaded)
    labels: str  # kind of labels
    archives: tuple[FileRecord, ...]  # with images and labels, every part of split ones; path is `name` in JSON
    files: tuple[FileRecord, ...]  # images and labels outside archives; the table of classes of benchmark custom

    @property
    def synthetic(self) -> bool:
        """Whether the images are synthetic."""
        return self.source == MIRROR

    def write(self, path: Path) -> None:
        """Write the manifest as JSON."""
        archives = [dict(zip(_ARCHIVE, record, strict=True)) for record in self.archives]
        files = [record._asdict() for record in self.files]
        write_json(path, {**self._asdict(), "synthetic": self.synthetic, "archives": archives, "files": files})

    @classmethod
    def read(cls, path: Path, benchmark: str) -> Manifest:
        """Read a manifest that `write` wrote; UserError if it is missing or damaged."""
        if not path.is_file():
            raise UserError(f"{path.as_posix()} is missing; run `dvc repro download@{benchmark}` first")
        values: dict[str, Any] = read_json(path, _MANIFEST)
        words = (values["benchmark"], values["source"], values["labels"])
        return cls(*words, _records(values["archives"], "name"), _records(values["files"], "path"))


def _records(entries: Sequence[dict[str, Any]], name: str) -> tuple[FileRecord, ...]:
    return tuple(FileRecord(entry[name], entry["size"], entry["sha256"]) for entry in entries)


def fetch(spec: Benchmark, variant: str, data: DataParams, upstream: UpstreamParams) -> Manifest:
    """Download or find a benchmark's files, labels of kind `variant`, and check them; UserError if one is wrong."""
    folder = _folder(spec, variant, data, upstream)
    loose, groups = find(spec, variant, data, folder)
    if not any(map(inner_zips, groups.values())):  # their members are known only after unpacking
        _expect_both(spec, variant, [*loose, *(path for listing in groups.values() for path in listing)], data)
    archives = hash_files(folder, [p for group in groups for p in group.parts], f"{spec.name}: hashing archives")
    table = [custom.FILE] if spec.name == custom.NAME else []
    files = hash_files(folder, [*loose, *table], f"{spec.name}: hashing files")
    return Manifest(spec.name, _kind(data), variant, archives, files)


def locate(spec: Benchmark, manifest: Manifest, data: DataParams, upstream: UpstreamParams) -> Path:
    """The folder with the manifest's files, verified; downloads what the cache lost; UserError where one differs."""
    again = f"run `dvc repro -f download@{spec.name}`"
    if _kind(data) != manifest.source:
        why = f"the manifest of {spec.name} was made from source {manifest.source}, data.source is {data.source!r}"
        raise UserError(f"{why}; {again}")
    folder, remedy = _folder(spec, manifest.labels, data, upstream), f"restore it, or use what is there now: {again}"
    verify(folder, manifest.files, remedy, sizes_only=True)  # stage prepare hashes each when it decodes it
    verify(folder, [*manifest.archives, *(file for file in manifest.files if file.path == custom.FILE)], remedy)
    return folder


def find(spec: Benchmark, variant: str, data: DataParams, folder: Path | None = None) -> tuple[list[str], Archives]:
    """Images and labels of kind `variant` in `folder`, or in that of `data.source`: relative posix paths, and archives.

    Archives of the mirror are verified; those next to loose images and labels are ignored. UserError if one is wrong.
    """
    folder = folder or source_folder(spec.name, data)
    if data.source == MIRROR:
        listed = _records(read_json(folder / MIRROR_LIST, {"archives": [_ARCHIVE]})["archives"], "name")
        verify(folder, listed, f"write it again with `dvc repro -f mirror@{spec.name}`")
        paths = [record.path for record in listed]
    else:
        paths = sorted(walk(folder))
    wanted = partial(role_of, spec, variant)
    roles = {path: role for path in paths if (role := wanted(path))}
    groups = [] if len({role.kind for role in roles.values()}) == len(KINDS) else group_archives(paths)
    for path in (*roles, *(part for group in groups for part in group.parts)):
        if CONTROL.search(path):
            raise UserError(f"{path!a} in {folder} has a name that is not valid text; rename it")
        if not (folder / path).is_file():
            raise UserError(f"{folder / path} is not a file that can be read, but a broken link or a pipe; remove it")
    listings = {group: list_members(group, folder) for group in groups}
    return list(roles), {group: one for group, one in listings.items() if inner_zips(one) or any(map(wanted, one))}


def walk(folder: Path) -> Iterator[str]:
    """Relative posix paths of all files, also through links, but none hidden; each real directory is visited once."""

    def unreadable(error: OSError) -> NoReturn:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}); change its permissions") from error

    seen = set()
    for here, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        if (real := os.path.realpath(here)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from ((Path(here) / name).relative_to(folder).as_posix() for name in files if not is_hidden(name))


def _expect_both(spec: Benchmark, variant: str, paths: Iterable[str], data: DataParams) -> None:
    """Raise a UserError if images or labels are missing; the message describes the expected files."""
    kinds = {role.kind for path in paths if (role := role_of(spec, variant, path))}
    if lacking := " and ".join(f"no {kind}" for kind in KINDS if kind not in kinds):
        where = "expected is" if from_network(data) else f"expected there, or in its folder {spec.name}/, is"
        ends = f"{spec.layout.image} and {spec.layout.labels[variant]}"
        for old, new in ((r"\(\?P<id>[^)]*\)", "<id>"), (r"\?P<split>", ""), (r"\(\^\|/\)|\$|\\", ""), (r"s\?/", "/")):
            ends = re.sub(old, new, ends)  # a readable layout pattern: train/images/<id>.tif
        expected = f"{where} an archive (.zip, .7z, .7z.001, ...) or files with paths that end like {ends}"
        raise UserError(f"data.source {data.source!r} has {lacking} of {spec.name}; {expected}")


def cache_folder(benchmark: str, data: DataParams) -> Path:
    """Folder of a benchmark in the cache, SCPSEG_CACHE or data.cache; UserError where a file is in its place."""
    variable = os.environ.get("SCPSEG_CACHE")
    folder = root() / Path(variable or data.cache).expanduser() / benchmark
    there = next(part for part in (folder / UPSTREAM, folder, *folder.parents) if part.exists())
    if not there.is_dir():
        named = f"SCPSEG_CACHE is {variable!r}" if variable else f"data.cache is {data.cache!r}"
        raise UserError(f"{named}, but {there} is not a directory; use another folder")
    return folder


def from_network(data: DataParams) -> bool:
    """Whether the files are downloaded into the cache (`scpseg.data.acquire.upstream`) before they are read."""
    return data.source == UPSTREAM or is_address(data.source)


def source_folder(benchmark: str, data: DataParams) -> Path:
    """The folder of `data.source` for a benchmark; UserError if it does not exist."""
    if data.source == MIRROR:
        folder = Path("data") / MIRROR / benchmark
        if not (folder / MIRROR_LIST).is_file():
            raise UserError(f"{folder.as_posix()}/{MIRROR_LIST} is missing; run `dvc repro -f mirror@{benchmark}`")
        return folder
    folder = root() / os.path.expanduser(data.source)
    if not os.path.isdir(folder):
        todo = f"use an existing one (a relative path starts at the repository), or set it to {UPSTREAM} or {MIRROR}"
        raise UserError(f"data.source is {data.source!r}, which is not a directory; {todo}")
    return folder / benchmark if (folder / benchmark).is_dir() else folder


def hash_files(folder: Path, paths: Sequence[str], what: str) -> tuple[FileRecord, ...]:
    """Records of files, given as relative posix paths; UserError if a file cannot be read."""
    return tuple(file_record(folder / path, path) for path in progress(paths, len(paths), what)) if paths else ()


def file_record(place: Path, path: str) -> FileRecord:
    """The record, under the name `path`, of the file at `place`; UserError if it cannot be read."""
    try:
        return FileRecord(path, place.stat().st_size, sha256(place))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions and the disk") from error


def verify(folder: Path, records: Sequence[FileRecord], remedy: str, sizes_only: bool = False) -> None:
    """Check the sizes, then the SHA-256 of files; `remedy` ends the message of the UserError."""
    for record in records:
        if (size := file_size(folder / record.path)) != record.size:
            why = "is missing" if size is None else f"has {size} bytes instead of {record.size}"
            raise UserError(f"{record.path} {why}; {remedy}")
    if sizes_only:
        return
    for record, found in zip(records, hash_files(folder, [r.path for r in records], "checking archives"), strict=True):
        if found.sha256 != record.sha256:
            why = f"SHA-256 {found.sha256} instead of {record.sha256}"
            raise UserError(f"{record.path} has the wrong checksum: {why}; {remedy}")


def _folder(spec: Benchmark, variant: str, data: DataParams, upstream: UpstreamParams) -> Path:
    """The folder of the files; downloads what comes from the network and is not in the cache."""
    if not from_network(data):
        return source_folder(spec.name, data)
    from scpseg.data.acquire.transfer import Connection  # HTTP clients, which local files do not need
    from scpseg.data.acquire.upstream import acquire

    return acquire(spec, variant, data, chosen(spec, data, upstream), Connection(upstream.unverified_hosts))


def _kind(data: DataParams) -> str:
    return UPSTREAM if from_network(data) else MIRROR if data.source == MIRROR else "folder"
